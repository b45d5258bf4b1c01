"""Who is told of alerts: webhooks and commands."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import shlex
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from mooring.settings import MonitorSettings

_LONGEST_WAIT = 24 * 3600.0
_AGAIN_LATER = (408, 425, 429)


def channels_of(settings: MonitorSettings) -> list[Channel]:
    """Return who is told of drift. Raises ValueError for what is no URL or no program."""
    webhooks = [Webhook(url, settings.alert_secret) for url in settings.alert_webhook]
    return [*webhooks, *(CommandChannel(command) for command in settings.alert_command)]


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


class CommandChannel:
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


Channel = Webhook | CommandChannel


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
