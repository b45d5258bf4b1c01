"""What is captured: the account of every exchange, what waits in the spool, and how requests went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Meta

from mooring.exchange import BROKEN_OFF, Ledger
from mooring.label import FIRST, LAST
from mooring.log import listing, requests
from mooring.log.listing import LogError
from mooring.log.store import StoreError, is_local
from mooring.report.words import count
from mooring.spool import Look, look
from mooring.ui import paths
from mooring.ui.codes import in_words
from mooring.ui.routing import Moment, Page, WindowRange, address
from mooring.ui.sources import Sources

_LAGGING = timedelta(minutes=2)
_BARS = 48
_CODES_SHOWN = 6
_FILES_SHOWN = 20
_CSV_READ = 200
_COLOURS = ("--large", "--alarm", "--now", "--well", "--soft", "--high", "--train")
_PATTERNS = ("", "/", ".", "x", "-", "\\", "|")


class CaptureQuery(WindowRange, frozen=True, kw_only=True):
    """Which requests are meant."""

    start: Annotated[Moment | None, Meta(description="requests from then on; UTC without a zone")] = None
    end: Annotated[Moment | None, Meta(description="and before then")] = None
    newest: Annotated[int, Meta(ge=1, le=200, description="so many requests in each table at most")] = 20
    model: Annotated[str, Meta(description="of which model; may be left out where the log has one")] = ""
    status: Annotated[
        Annotated[int, Meta(ge=0, le=999)] | None, Meta(description="only those answered so; 0: not at all")
    ] = None
    sort: Annotated[Literal["newest", "slowest"], Meta(description="order of the failed requests")] = "newest"
    part: Annotated[Literal["", "log"], Meta(description="log: with what the log holds, which takes longer")] = ""


class Counted(msgspec.Struct, frozen=True):
    """How many exchanges there are of a kind, and what the kind is."""

    kind: str
    count: int
    text: str = ""


class SpoolAccount(msgspec.Struct, frozen=True):
    """The ledger of all that ever wrote to the spool; `seen` is counted apart from the parts that make it up."""

    seen: int
    stored: int
    in_flight: int
    sampled_out: int
    dropped: tuple[Counted, ...]
    unaccounted: int
    failed: int
    passed: int
    errors: tuple[Counted, ...]
    shadow: dict[str, int]

    @property
    def parts(self) -> list[Counted]:
        """What the exchanges seen consist of."""
        found = [Counted("stored", self.stored), Counted("in flight", self.in_flight)]
        found += [Counted("not in the sample", self.sampled_out)]
        found += [Counted(f"dropped: {one.kind}", one.count, one.text) for one in self.dropped]
        return [one for one in found if one.count or one.kind == "stored"]

    @property
    def lost(self) -> int:
        """How many were dropped."""
        return sum(one.count for one in self.dropped)

    @property
    def bar(self) -> list[tuple[float, float, str]]:
        """The parts as a bar of 1000: where each begins, how long it is, and its class."""
        found, at = [], 0.0
        for one in self.parts:
            width = 1000 * one.count / max(self.seen, 1)
            found.append((round(at, 2), round(width, 2), one.kind.partition(":")[0].replace(" ", "-")))
            at += width
        return found


class SpoolProcess(msgspec.Struct, frozen=True):
    """A process that writes to the spool, or has ended and left something in it."""

    writer: str
    lives: bool | None
    seen: int
    stored: int
    in_flight: int


class File(msgspec.Struct, frozen=True):
    """A file that the drain could not make a part of the log, why, and how many exchanges are in it."""

    name: str
    bytes: int
    exchanges: int
    reason: str


class SpoolNow(msgspec.Struct, frozen=True):
    """What the spool holds. `oldest` is when the oldest closed segment that waits was written to last.

    `drained` says whether a drain lives, None where that can't be told.
    """

    account: SpoolAccount
    processes: tuple[SpoolProcess, ...]
    bytes: int
    waiting: int
    open: int
    oldest: datetime | None
    drained: bool | None
    unreadable: tuple[File, ...]
    unreadable_files: int

    @property
    def capturing(self) -> int:
        """How many processes write to it."""
        return sum(one.lives is not False for one in self.processes)

    @property
    def live(self) -> bool:
        """Whether any of this changes by itself."""
        return bool(self.capturing or self.waiting or self.drained)

    @property
    def problem(self) -> str:
        """What is wrong with the drain, '' where nothing is."""
        if not self.waiting:
            return ""
        if self.drained is False and not self.capturing:
            return "Nothing drains this spool, and something waits in it. Run mooring drain once, with its log."
        late = self.oldest is not None and datetime.now(UTC) - self.oldest > _LAGGING
        if self.drained is False and late:
            return "No drain is running, and something waits. The proxy starts one: its stderr says why it can't."
        if late:
            return (
                "The drain does not keep up, or the log refuses: the proxy's stderr says which. Nothing is lost."
            )
        return ""


class Met(msgspec.Struct, frozen=True):
    """A request, without its bodies. `codes` are those of the capture, `reason` says why it has no rows."""

    request_id: str
    client_request_id: str | None
    time: datetime
    seconds: float | None
    status: int | None
    version: str | None
    variant: str
    codes: tuple[str, ...]
    reason: str
    see: str


class Bucket(msgspec.Struct, frozen=True):
    """A part of the time: how many requests came in it, and how many of them had which code."""

    start: datetime
    requests: int
    codes: dict[str, int]


class CapturedTraffic(msgspec.Struct, frozen=True, kw_only=True):
    """How the requests of a time went. `problem` says why that can't be told, `left_out` what was not read."""

    model: str | None = None
    models: tuple[str, ...] = ()
    start: datetime | None = None
    end: datetime | None = None
    requests: int = 0
    failed: int = 0
    median_seconds: float | None = None
    slow_seconds: float | None = None
    slowest: tuple[Met, ...] = ()
    failures: tuple[Met, ...] = ()
    over_time: tuple[Bucket, ...] = ()
    csv: bool = False
    problem: str = ""
    left_out: str = ""

    @property
    def codes(self) -> list[Counted]:
        """The codes by how often there are."""
        found: Counter[str] = Counter()
        for one in self.over_time:
            found.update(one.codes)
        return [Counted(code, number, in_words(code)) for code, number in found.most_common()]

    @property
    def figure(self) -> dict[str, Any]:
        """The codes over time, beside all requests."""
        names = [one.kind for one in self.codes]
        shown = names[:_CODES_SHOWN]
        times = [_z(one.start) for one in self.over_time]
        series = [(name, [one.codes.get(name, 0) for one in self.over_time]) for name in shown]
        if names[_CODES_SHOWN:]:
            rest = [sum(one.codes.get(name, 0) for name in names[_CODES_SHOWN:]) for one in self.over_time]
            series.append(("other", rest))
        return {
            "data": [
                {
                    "type": "bar",
                    "name": name,
                    "x": times,
                    "y": values,
                    "offset": 0,
                    "hovertemplate": f"%{{y:,d}} {_plain(name)}<br>from %{{x}}<extra></extra>",
                    "marker": {"color": colour, "pattern": {"shape": pattern}},
                }
                for (name, values), colour, pattern in zip(series, _COLOURS, _PATTERNS, strict=False)
            ],
            "layout": {
                "barmode": "stack",
                "bargap": 0.1,
                "height": 260,
                "showlegend": True,
                "legend": {"orientation": "h", "y": -0.2},
                "xaxis": {"type": "date", "range": [_z(self.start), _z(self.end)] if self.start else None},
                "yaxis": {"title": {"text": "requests"}, "rangemode": "tozero", "tickformat": ",d"},
            },
        }


class CapturePage(msgspec.Struct, frozen=True):
    """What is captured: `spool` None where it is not on this host, `traffic` None unless part=log asks for it."""

    place: str
    log: str
    spool: SpoolNow | None
    problem: str
    traffic: CapturedTraffic | None


def told(sources: Sources, query: CaptureQuery) -> CapturePage:
    """Return the account, and where it is asked for what the log says of a time."""
    problem, found = "", None
    try:
        found = look(sources.spool)
    except OSError as error:
        problem = f"The spool {sources.spool} can't be read here: {error.strerror or error}."
    traffic = _traffic(sources, query) if query.part == "log" else None
    return CapturePage(str(sources.spool), sources.log, _spool(found) if found else None, problem, traffic)


def _spool(found: Look) -> SpoolNow:
    closed = [written for segment, _, written in found.waiting if segment.closed]
    return SpoolNow(
        account=_account(found.ledger),
        processes=tuple(
            SpoolProcess(one.name, one.lives, one.ledger.seen, one.ledger.stored, one.ledger.in_flight)
            for one in found.writers
        ),
        bytes=sum(size for _, size, _ in found.waiting),
        waiting=len(closed),
        open=len(found.waiting) - len(closed),
        oldest=datetime.fromtimestamp(min(closed), UTC) if closed else None,
        drained=found.drained,
        unreadable=tuple(
            File(path.name, size, why.exchanges if why else 0, why.reason if why else "")
            for path, size, why in found.unreadable[:_FILES_SHOWN]
        ),
        unreadable_files=len(found.unreadable),
    )


def _account(ledger: Ledger) -> SpoolAccount:
    return SpoolAccount(
        seen=ledger.seen,
        stored=ledger.stored,
        in_flight=ledger.in_flight,
        sampled_out=ledger.sampled_out,
        dropped=_counted(ledger.dropped),
        unaccounted=ledger.balance,
        failed=ledger.failed,
        passed=ledger.passed,
        errors=_counted(ledger.errors),
        shadow=ledger.shadow,
    )


def _counted(counts: dict[str, int]) -> tuple[Counted, ...]:
    ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    return tuple(Counted(kind, number, in_words(kind)) for kind, number in ordered)


def _traffic(sources: Sources, query: CaptureQuery) -> CapturedTraffic:
    start, end = _span(query)
    try:
        opened = listing.open_log(sources.log)
        there = tuple(listing.models(opened, sources.log))
        if not there:
            return _csv_traffic(sources.log, query)
        if not query.model and len(there) > 1:
            return CapturedTraffic(models=there)
        model = query.model or there[0]
        if model not in there:
            return CapturedTraffic(models=there, problem=f"The log has no model {model[:200]}.")
        found = requests.newest_payloads(sources.log, model, start, end)
    except (LogError, StoreError) as error:
        return CapturedTraffic(problem=str(error))
    left = found.objects - found.read
    oldest = pc.min(found.table["time"]).as_py() if left and len(found.table) else None
    return _judged(
        found.table,
        query,
        CapturedTraffic(
            model=model,
            models=there,
            start=found.start or oldest or _first(found.table),
            end=found.end or _last(found.table),
            left_out=f"The oldest {count(left)} of {count(found.objects)} objects of the log were not looked at: "
            "choose a shorter time."
            if left
            else "",
        ),
    )


def _span(query: CaptureQuery) -> tuple[datetime | None, datetime | None]:
    """Return the two ends of the time, moved to where a log can have anything: others have no form in UTC."""
    start, end = (min(max(one, FIRST), LAST) if one is not None else None for one in query.span)
    return start, end


def _judged(table: pa.Table, query: CaptureQuery, about: CapturedTraffic) -> CapturedTraffic:
    """Return what is said of requests, without bodies."""
    everything = len(table)
    failed = _failed(table)
    seconds = np.asarray(table["duration_ns"], np.float64) / 1e9
    buckets = _over_time(table, failed, about) if everything else ()
    chosen = np.ones(everything, bool)
    if query.status is not None:
        chosen = np.asarray(pc.equal(table["status"], query.status))
    places = np.flatnonzero(chosen)
    slowest = places[np.argsort(-seconds[places], kind="stable")][: query.newest]
    wrong = np.flatnonzero(chosen & _odd(table, failed))
    by = -seconds[wrong] if query.sort == "slowest" else -np.asarray(pc.cast(table["time"], pa.int64()))[wrong]
    wrong = wrong[np.argsort(by, kind="stable")][: query.newest]
    return msgspec.structs.replace(
        about,
        requests=everything,
        failed=int(failed.sum()),
        median_seconds=float(np.median(seconds)) if everything else None,
        slow_seconds=float(np.quantile(seconds, 0.99)) if everything else None,
        slowest=_met(table, slowest, about.model),
        failures=_met(table, wrong, about.model),
        over_time=buckets,
    )


def _failed(table: pa.Table) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return which requests got no prediction, as an exchange says it."""
    status = np.asarray(table["status"], np.int64)
    failed = (status < 200) | (status >= 300)
    for at, errors in _with_errors(table):
        failed[at] |= not BROKEN_OFF.isdisjoint(errors)
    return failed


def _with_errors(table: pa.Table) -> Iterable[tuple[int, list[str]]]:
    places = np.flatnonzero(np.asarray(pc.greater(pc.list_value_length(table["errors"]), 0)))
    return zip(places.tolist(), table["errors"].take(pa.array(places)).to_pylist(), strict=True)


def _odd(table: pa.Table, failed: np.ndarray[Any, np.dtype[np.bool_]]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return which requests failed or have no rows."""
    odd: np.ndarray[Any, np.dtype[np.bool_]] = failed | np.asarray(pc.is_valid(table["reason"]))
    return odd


def _over_time(
    table: pa.Table, failed: np.ndarray[Any, np.dtype[np.bool_]], about: CapturedTraffic
) -> tuple[Bucket, ...]:
    """Return parts of the time that are equally long, with the codes of each."""
    assert about.start is not None
    assert about.end is not None
    width = max((about.end - about.start) / _BARS, timedelta(milliseconds=1))
    times = np.asarray(pc.cast(table["time"], pa.int64()))
    begin = int(about.start.timestamp() * 1e6)
    place = np.clip((times - begin) // int(width.total_seconds() * 1e6), 0, _BARS - 1)
    found: list[Counter[str]] = [Counter() for _ in range(_BARS)]
    statuses = table["status"].to_pylist()
    for at in np.flatnonzero(failed).tolist():
        if not 200 <= statuses[at] < 300:  # what else can be wrong is in its errors
            found[place[at]][f"status {statuses[at]}" if statuses[at] else "no answer"] += 1
    for at, errors in _with_errors(table):
        found[place[at]].update(errors)
    reasons = table["reason"]
    for at in np.flatnonzero(np.asarray(pc.is_valid(reasons)) & ~failed).tolist():
        found[place[at]][str(reasons[at].as_py()).partition(":")[0]] += 1
    counts = np.bincount(place, minlength=_BARS)
    return tuple(
        Bucket(about.start + number * width, int(counts[number]), dict(found[number])) for number in range(_BARS)
    )


def _met(table: pa.Table, places: Sequence[int] | np.ndarray[Any, Any], model: str | None) -> tuple[Met, ...]:
    rows = table.take(pa.array(np.asarray(places, np.int64))).to_pylist()
    return tuple(
        Met(
            request_id=row["request_id"],
            client_request_id=row["client_request_id"],
            time=row["time"],
            seconds=row["duration_ns"] / 1e9,
            status=row["status"],
            version=row["model_version"],
            variant=row["variant"],
            codes=tuple(row["errors"]),
            reason=row["reason"] or "",
            see=address(paths.REQUEST, {"request_id": row["request_id"], "model": model}),
        )
        for row in rows
    )


def _csv_traffic(log: str, query: CaptureQuery) -> CapturedTraffic:
    """Return what can be said of a log of CSV files: their names tell when each request came."""
    start, end = _span(query)
    found = requests.csv_requests(log, start, end) if is_local(log) else None
    if found is None:
        return CapturedTraffic(
            problem=f"There is nothing in the log {log} yet: it comes a minute after it was captured."
        )
    times = [moment for one in found.ids if (moment := requests.time_of(one)) is not None]
    if start is None and times:
        start = max(times[-1], (end or times[0]) - timedelta(days=1))
    about = CapturedTraffic(
        csv=True,
        start=start,
        end=end or (times[0] + timedelta(milliseconds=1) if times else None),
    )
    ids = [one for one, moment in zip(found.ids, times, strict=True) if start is None or moment >= start]
    inside = set(ids)
    failures = [one for one in found.failed if one in inside]
    read = [(one, requests.csv_failure(log, one)) for one in failures[:_CSV_READ]]
    met = [_from_record(one, record) for one, record in read]
    met = [one for one in met if query.status in (None, one.status)]
    if query.sort == "slowest":
        met.sort(key=lambda one: -(one.seconds or 0.0))
    return msgspec.structs.replace(
        about,
        requests=len(ids),
        failed=len(failures),
        failures=tuple(met[: query.newest]),
        left_out=f"Of {count(len(failures))} failed requests the newest {_CSV_READ} were looked at."
        if len(failures) > _CSV_READ
        else "",
    )


def _from_record(request_id: str, record: dict[str, Any]) -> Met:
    duration, status, errors = (record.get(name) for name in ("duration_ns", "status", "errors"))
    version, variant = record.get("version"), record.get("variant")
    client = record.get("client_request_id")
    return Met(
        request_id=request_id,
        client_request_id=client if isinstance(client, str) else None,
        time=requests.time_of(request_id) or datetime.fromtimestamp(0, UTC),
        seconds=duration / 1e9 if isinstance(duration, int) else None,
        status=status if isinstance(status, int) else None,
        version=version if isinstance(version, str) else None,
        variant=variant if isinstance(variant, str) else "champion",
        codes=tuple(map(str, errors)) if isinstance(errors, list) else (),
        reason=str(record.get("reason", "it can't be read")),
        see=address(paths.REQUEST, {"request_id": request_id}),
    )


def _first(table: pa.Table) -> datetime | None:
    found: datetime | None = pc.min(table["time"]).as_py()
    return found


def _last(table: pa.Table) -> datetime | None:
    found = pc.max(table["time"]).as_py()
    return found + timedelta(microseconds=1) if found else None


def _z(time: datetime | None) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ") if time else ""


def _plain(text: str) -> str:
    # Plotly takes some tags for markup in what it shows, and braces for its own.
    return "".join(sign for sign in text if sign.isalnum() or sign in " _-.")[:60]


PAGE = Page("capture", paths.CAPTURE, "What is captured, and how requests went.", CaptureQuery, CapturePage, told)
