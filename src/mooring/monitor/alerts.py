"""Alerts: what is worth telling, to whom, and telling it at least once."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import random
import re
import shlex
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.client import HTTPException
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import msgspec

from mooring.state.alerts import About, Alert, AlertKind, Alerts, Kind, alert_id
from mooring.state.assessments import Assessment, Measured
from mooring.state.leases import Lease
from mooring.state.repository import Transaction
from mooring.state.state import State
from mooring.state.verdicts import Finding, Verdict
from mooring.state.windows import Judged, Window, Windows
from mooring.status import ALARMING, STATUSES, Severity, Status, rank, worst

FEATURES = 10
"""How many features an alert names, at most."""
_BACKOFF_SECONDS = 5.0, 3600.0
_LONGEST_WAIT = 24 * 3600.0
_GIVE_UP = timedelta(hours=24)
_LEAST_ATTEMPTS = 10
_AGAIN_LATER = (408, 425, 429)


# What is worth telling


def level(statuses: Sequence[Status], n: int = 1, m: int = 1) -> Severity | None:
    """Return how bad the drift is: what at least `n` of the last `m` windows are, or worse. None: nobody knows.

    `statuses` are those of the last windows, the newest at the end; more of them than `m`, since those that could
    not be judged do not count. Raises ValueError unless 1 <= n <= m.

    >>> level(["ok", "warning", "critical"]), level(["critical", "warning", "ok"], n=2, m=3)
    ('critical', 'warning')
    >>> level(["warning", "too_few"]), level(["too_few"])
    ('warning', None)
    """
    if not 1 <= n <= m:
        raise ValueError(f"an alert asks for n of the last m windows, with 1 <= n <= m; got {n} of {m}")
    known = [found for status in statuses if (found := STATUSES[status].rank) is not None][-m:]
    if not known:
        return None
    return worst(one for one in ALARMING if sum(each >= rank(one) for each in known) >= n)


def transition(standing: Severity, now: Severity | None) -> tuple[Kind | None, Severity]:
    """Return what is to be told of a drift, if anything, and how bad it is known to be from then on.

    `standing` is the worst that was told of a drift that lasts, so it is told once that it got worse, however
    often it does.

    >>> transition("ok", "warning"), transition("warning", "critical"), transition("critical", "ok")
    (('new', 'warning'), ('worsened', 'critical'), ('ended', 'ok'))
    >>> transition("critical", "warning")
    (None, 'critical')
    """
    if now is None or now == standing:
        return None, standing
    if now == "ok":
        return "ended", now
    if standing == "ok":
        return "new", now
    return ("worsened", now) if rank(now) > rank(standing) else (None, standing)


def standing_of(statuses: Sequence[Status], n: int = 1, m: int = 1) -> Severity:
    """Return how bad it is known to be after windows of these statuses, the newest at the end.

    >>> standing_of(["ok", "critical", "warning"]), standing_of(["critical", "ok", "too_few"])
    ('critical', 'ok')
    """
    standing: Severity = "ok"
    for at in range(len(statuses)):
        last = statuses[max(0, at - 2 * m - 9) : at + 1]
        _, standing = transition(standing, level(last, n, m))
    return standing


class Period(msgspec.Struct, frozen=True):
    """The window that an alert is about."""

    id: str
    number: int
    start: datetime
    end: datetime
    rows: int


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """What an alert says, as JSON. `text` says it in a line; chat programs show that.

    `about` is drift or performance; `measures` are those of the labelled rows where it is the latter.
    """

    id: str
    kind: Kind
    text: str
    model: str
    version: str | None
    variant: str
    severity: Status
    window: Period
    verdict: str
    alarms: int
    message: str
    features: tuple[Finding, ...]
    report: str | None
    created: datetime
    about: About = "drift"
    measures: dict[str, Measured] = {}


def payload(
    kind: Kind, window: Window, verdict: Verdict, *, channel: str, report: str | None = None, now: datetime
) -> Payload:
    """Return what the alert of this kind tells a channel about a verdict; `report` is the report's path or URL."""
    period = Period(window.id, window.number, window.start, window.end, verdict.rows)
    return Payload(
        id=alert_id(verdict.id, kind, channel),
        kind=kind,
        text=_text(kind, window, verdict, report),
        model=window.model,
        version=window.version,
        variant=window.variant,
        severity=verdict.status,
        window=period,
        verdict=verdict.id,
        alarms=verdict.alarms,
        message=verdict.message,
        features=verdict.summary[:FEATURES],
        report=report,
        created=now,
    )


def _text(kind: Kind, window: Window, verdict: Verdict, report: str | None) -> str:
    what = {
        "new": f"drift ({verdict.status})",
        "worsened": f"the drift has worsened ({verdict.status})",
        "ended": "the drift has ended",
    }[kind]
    lines = f"{_named(window)}: {what}, {window.start:%Y-%m-%d %H:%M} to {window.end:%H:%M} UTC"
    moved = ", ".join(
        f"{one.feature} {one.measure} {one.value:.3g}" for one in verdict.summary[:3] if one.value is not None
    )
    return ". ".join(filter(None, [lines, moved if kind != "ended" else "", report]))


def enqueue(
    tx: Transaction,
    window: Window,
    verdict: Verdict,
    statuses: Sequence[Status],
    channels: Sequence[Channel],
    *,
    n: int = 1,
    m: int = 1,
    report: str | None = None,
) -> Kind | None:
    """Put what is worth telling about a new verdict in the queue, in the verdict's own transaction.

    `statuses` are those of the model's last windows, this one's at the end; see `level`. Returns what is told,
    even where there is no channel to tell it.
    """
    standing = Windows(tx).standing(window.model, window.version, window.variant)
    kind, after = transition(standing, level(statuses, n, m))
    if after != standing:
        Windows(tx).set_standing(window.model, window.version, window.variant, after)
    if kind is None:
        return None
    now = datetime.now(UTC)
    for channel in channels:
        said = payload(kind, window, verdict, channel=channel.name, report=report, now=now)
        Alerts(tx).put(
            Alert(
                verdict_id=verdict.id,
                model=window.model,
                kind=kind,
                channel=channel.name,
                payload=msgspec.json.encode(said).decode(),
                created=now,
                next_attempt=now,
            )
        )
    return kind


def enqueue_performance(
    tx: Transaction,
    kind: Kind,
    assessment: Assessment,
    verdict: Judged,
    channels: Sequence[Channel],
    *,
    report: str | None = None,
) -> None:
    """Put it in the queue that the model does worse, does worse still, or no longer does.

    `assessment` says of which window, `verdict` is the one on it, whose drift may be none.
    """
    assert verdict.verdict is not None
    window, now = assessment.window, datetime.now(UTC)
    stored: AlertKind = f"performance_{kind}"  # type: ignore[assignment]  # the three kinds of it are there
    for channel in channels:
        said = Payload(
            id=alert_id(verdict.verdict.id, stored, channel.name),
            kind=kind,
            text=_performance_text(kind, assessment, report),
            model=window.model,
            version=window.version,
            variant=window.variant,
            severity=assessment.status,
            window=Period(window.id, window.number, window.start, window.end, assessment.rows),
            verdict=verdict.verdict.id,
            alarms=int(assessment.status in ALARMING),
            message=assessment.message,
            features=(),
            report=report,
            created=now,
            about="performance",
            measures=assessment.measures,
        )
        Alerts(tx).put(
            Alert(
                verdict_id=verdict.verdict.id,
                model=window.model,
                kind=stored,
                channel=channel.name,
                payload=msgspec.json.encode(said).decode(),
                created=now,
                next_attempt=now,
            )
        )


class RolledBack(msgspec.Struct, frozen=True, kw_only=True):
    """What an alert says of a version that was taken out of service again, as JSON. `previous` answers instead.

    `rollout` is the rollout's id, `number` counts the model's, `reason` is what was wrong.
    """

    id: str
    kind: Literal["rolled_back"] = "rolled_back"
    text: str
    model: str
    version: str
    previous: str | None
    rollout: str
    number: int
    reason: str
    created: datetime
    about: Literal["rollout"] = "rollout"


def enqueue_rollback(
    tx: Transaction,
    rollout_id: str,
    model: str,
    version: str,
    previous: str | None,
    number: int,
    reason: str,
    channels: Sequence[Channel],
) -> None:
    """Put it in the queue that a new version was taken out of service again; idempotent."""
    now = datetime.now(UTC)
    instead = f"version {previous} answers" if previous is not None else "none answers"
    for channel in channels:
        said = RolledBack(
            id=alert_id(rollout_id, "rolled_back", channel.name),
            text=f"{model} version {version} was rolled back, {instead}: {reason}",
            model=model,
            version=version,
            previous=previous,
            rollout=rollout_id,
            number=number,
            reason=reason,
            created=now,
        )
        Alerts(tx).put(
            Alert(
                rollout_id=rollout_id,
                model=model,
                kind="rolled_back",
                channel=channel.name,
                payload=msgspec.json.encode(said).decode(),
                created=now,
                next_attempt=now,
            )
        )


def _performance_text(kind: Kind, assessment: Assessment, report: str | None) -> str:
    window = assessment.window
    what = {
        "new": f"it does worse than in training ({assessment.status})",
        "worsened": f"it does worse still ({assessment.status})",
        "ended": "it does as well as in training again",
    }[kind]
    line = f"{_named(window)}: {what}, {window.start:%Y-%m-%d %H:%M} to {window.end:%H:%M} UTC"
    return ". ".join(filter(None, [line, assessment.message, report]))


def _named(window: Window) -> str:
    version = f" version {window.version}" if window.version else ""
    return f"{window.model}{version}" + ("" if window.variant == "champion" else f" ({window.variant})")


def deliver(
    state: State,
    model: str,
    channels: Sequence[Channel],
    *,
    lease: Lease | None = None,
    now: datetime | None = None,
    rollouts: bool = False,
) -> list[Alert]:
    """Send a model's alerts that are due, and return them with what became of each.

    Those about verdicts, or, where asked for, those about rollouts: each kind has one process that sends it.
    What a channel does not take is tried again, later and later, for at least a day. A kill between sending and
    noting it down sends an alert again: receivers know it by its id. Raises StateError.
    """
    named = {channel.name: channel for channel in channels}
    tried: list[Alert] = []
    begun = now or datetime.now(UTC)
    while due := Alerts(state).due(model, begun, rollouts=rollouts):
        for alert in due:
            told = _tell(alert, named.get(alert.channel), now)
            with state.begin(lease) as tx:
                Alerts(tx).update(told)
            tried.append(told)
    return tried


def _tell(alert: Alert, channel: Channel | None, now: datetime | None) -> Alert:
    """Return the alert after one attempt to send it."""
    attempts = alert.attempts + 1
    try:
        if channel is None:
            raise NotSent("this channel is no longer configured", final=True)
        channel.send(alert.id, alert.payload.encode())
    except NotSent as error:
        at = now or datetime.now(UTC)
        given_up = at - alert.created > _GIVE_UP and attempts >= _LEAST_ATTEMPTS
        return msgspec.structs.replace(
            alert,
            attempts=attempts,
            status="failed" if error.final or given_up else "pending",
            last_error=str(error),
            next_attempt=at + timedelta(seconds=max(backoff(attempts), error.wait)),
        )
    return msgspec.structs.replace(
        alert, attempts=attempts, status="sent", sent=now or datetime.now(UTC), last_error=None
    )


def backoff(attempts: int) -> float:
    """Return how many seconds to wait after so many failed attempts: twice as long each time, up to an hour."""
    shortest, longest = _BACKOFF_SECONDS
    return float(min(shortest * 2.0 ** min(attempts - 1, 30), longest) * random.uniform(0.5, 1.0))


# To whom


class NotSent(Exception):
    """A channel that did not take an alert.

    `final`: another attempt would not help; `wait`: the receiver wants none for so many seconds.
    """

    def __init__(self, message: str, *, final: bool = False, wait: float = 0.0) -> None:
        super().__init__("".join(char if char.isprintable() else " " for char in message)[:500])
        self.final = final
        self.wait = min(wait, _LONGEST_WAIT)


class Webhook:
    """A URL that alerts are POSTed to as JSON.

    With a secret, `X-Mooring-Signature` is what `sign` returns, over `X-Mooring-Timestamp` (seconds since 1970)
    too: so a receiver can refuse what somebody recorded and sends again. `X-Mooring-Alert` is the alert's id.
    Proxies are taken from the environment. Raises ValueError for what is no http or https URL.
    """

    def __init__(self, url: str, secret: str | None = None, seconds: float = 10.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not re.fullmatch(r"[!-~]+", url):
            raise ValueError("a webhook is a URL in ASCII that begins with http:// or https:// and a host")
        _ = parts.port  # raises ValueError where it is none
        address = parts.netloc.rpartition("@")[2]
        # Chat programs put the secret into the path.
        self.name = f"{parts.scheme}://{address}#{_digest(url)}"
        self._url = parts._replace(netloc=address, fragment="").geturl()
        self._user = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}" if parts.username else None
        self._secret = secret
        self._seconds = seconds

    def send(self, id: str, body: bytes) -> None:
        """POST an alert. Raises NotSent unless the answer's status is 2xx."""
        headers = {"Content-Type": "application/json", "User-Agent": "mooring", "X-Mooring-Alert": id}
        if self._user is not None:
            headers["Authorization"] = f"Basic {base64.b64encode(self._user.encode()).decode()}"
        if self._secret is not None:
            headers["X-Mooring-Timestamp"] = timestamp = str(int(time.time()))
            headers["X-Mooring-Signature"] = sign(self._secret, timestamp, body)
        request = urllib.request.Request(self._url, body, headers, method="POST")  # noqa: S310  checked above
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=self._seconds):
                return
        except urllib.error.HTTPError as error:
            raise _refused(error) from None
        except TimeoutError:
            raise NotSent(f"no answer within {self._seconds:.0f} seconds") from None
        except (OSError, HTTPException) as error:
            raise NotSent(str(getattr(error, "reason", None) or error) or type(error).__name__) from None


class Command:
    """A program that is run for each alert, which it finds on stdin and in the variable MOORING_ALERT, as JSON.

    No shell is involved: give the program and its arguments. Raises ValueError where none is given.
    """

    def __init__(self, command: str | Sequence[str], seconds: float = 30.0) -> None:
        self._command = shlex.split(command) if isinstance(command, str) else list(command)
        if not self._command:
            raise ValueError("a command is a program and its arguments")
        self.name = f"command:{os.path.basename(self._command[0])}#{_digest(*self._command)}"
        self._seconds = seconds

    def send(self, id: str, body: bytes) -> None:
        """Run the command, and end it after its time. Raises NotSent unless its exit code is 0."""
        try:
            process = subprocess.Popen(
                self._command,
                env={**os.environ, "MOORING_ALERT": body.decode()},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise NotSent(f"{self._command[0]} can't be run: {error.strerror}") from None
        with process:
            try:
                _, said = process.communicate(body, self._seconds)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise NotSent(f"it took longer than {self._seconds:.0f} seconds, and was ended") from None
        if process.returncode != 0:
            last = said.decode(errors="replace").strip().rpartition("\n")[2]
            raise NotSent(f"exit code {process.returncode}{': ' if last else ''}{last}")


Channel = Webhook | Command


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """Return the signature of a webhook's body: HMAC-SHA256 over `TIMESTAMP.BODY`, as `sha256=HEX`.

    >>> sign("secret", "1772366400", b"{}")
    'sha256=b0c2c5e288833b007355aa343b97fd4bb8f9825725b0961e7aaa0f867a720061'
    """
    signed = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256)
    return f"sha256={signed.hexdigest()}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None  # as a GET, without the alert, is how urllib would follow


def _refused(error: urllib.error.HTTPError) -> NotSent:
    with error, suppress(OSError, HTTPException):
        said = error.read(200).decode(errors="replace").partition("\n")[0]
        message = f"answered {error.code}{': ' if said else ''}{said}"
        if error.code in _AGAIN_LATER or error.code >= 500:
            asked = error.headers.get("Retry-After", "")
            return NotSent(message, wait=float(asked) if asked.isdecimal() else 0.0)
        return NotSent(message, final=True)
    return NotSent(f"answered {error.code}")


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]
