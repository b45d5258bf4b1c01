"""A request's whole story: what was asked, who answered what, its rows, and what turned out to be true."""

from __future__ import annotations

import base64
import csv
import io
import itertools
import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mooring.log import listing, requests
from mooring.log.listing import LogError
from mooring.log.requests import LOOKBACK_DAYS, MOST_ROWS, Story
from mooring.report.words import listed, name
from mooring.state.windows import Windows
from mooring.ui import paths
from mooring.ui.bodies import ShownBody, as_body
from mooring.ui.codes import in_words
from mooring.ui.responses import NotFound
from mooring.ui.routing import Page, Query, address
from mooring.ui.sources import Sources

_LONGEST_ID = 500
_MOST_FIELDS = 300
_MOST_COLUMNS = 10
_LONGEST_VALUE = 200
_MODELS_SEARCHED = 100
_SECONDS = 4.0

Cell = float | bool | str | None


class RequestQuery(Query, frozen=True, kw_only=True):
    """In which model's log to look."""

    model: Annotated[str, Meta(description="of which model; else it is looked for in all")] = ""


class SearchQuery(RequestQuery, frozen=True, kw_only=True):
    """Which request is looked for."""

    id: Annotated[str, Meta(min_length=1, description="Mooring's id of a request, or the client's own")]


class RequestLabel(msgspec.Struct, frozen=True):
    """A label: the ground truth of a row, when it became known, and how many seconds after the request."""

    row: int
    label: Cell
    known: datetime
    delay: float


class ScoredRow(msgspec.Struct, frozen=True):
    """A row that was scored: its features and predictions by name. `odd` are those of another type than usual."""

    row: int
    inputs: dict[str, Cell]
    outputs: dict[str, Cell]
    odd: tuple[str, ...] = ()


class Lines(msgspec.Struct, frozen=True):
    """Rows as a table that has a line for each field: its name, its part, and its value in each row."""

    rows: tuple[int, ...]
    lines: tuple[tuple[str, str, tuple[Cell, ...]], ...]
    left_out: str


def lines(rows: Sequence[ScoredRow]) -> Lines:
    """Return the first rows as such a table: predictions before inputs, and of very many fields only the first."""
    shown = rows[:_MOST_COLUMNS]
    found: list[tuple[str, str, tuple[Cell, ...]]] = []
    for part in ("outputs", "inputs"):
        names = dict.fromkeys(field for one in shown for field in getattr(one, part))
        found += [(field, part[:-1], tuple(getattr(one, part).get(field) for one in shown)) for field in names]
    left = [f"{len(rows) - len(shown)} more rows"] if len(rows) > len(shown) else []
    left += [f"{len(found) - _MOST_FIELDS} more fields"] if len(found) > _MOST_FIELDS else []
    return Lines(tuple(one.row for one in shown), tuple(found[:_MOST_FIELDS]), listed(left))


class CodeMeaning(msgspec.Struct, frozen=True):
    """A code of the capture, and what it means."""

    code: str
    text: str


class RequestAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a version answered. `reason` says why it has no rows, `window` leads to where they were judged."""

    version: str | None
    variant: str
    time: datetime
    seconds: float | None
    status: int | None
    codes: tuple[CodeMeaning, ...] = ()
    reason: str = ""
    response: ShownBody | None = None
    rows: tuple[ScoredRow, ...] = ()
    all_rows: int = 0
    window: str | None = None
    window_number: int | None = None

    @property
    def table(self) -> Lines:
        """Its rows, a line for each field."""
        return lines(self.rows)


class Same(msgspec.Struct, frozen=True):
    """One of several requests that a client gave the same id."""

    request_id: str
    time: datetime
    status: int
    see: str


class Whole(msgspec.Struct, frozen=True, kw_only=True):
    """A request. The answer that the client got is the first of `answers`, behind it comes the shadow's.

    Where a client gave several the same id, they are `same`, and the rest is empty. `left_out` says what was not
    looked at.
    """

    request_id: str
    model: str
    client_request_id: str | None = None
    method: str = ""
    path: str = ""
    headers: dict[str, str] = {}
    sampling: float | None = None
    request: ShownBody | None = None
    answers: tuple[RequestAnswer, ...] = ()
    labels: tuple[RequestLabel, ...] = ()
    same: tuple[Same, ...] = ()
    left_out: str = ""
    csv: bool = False

    @property
    def model_page(self) -> str:
        """Where the page of its model is."""
        return address(paths.MODEL, {"model": self.model})

    @property
    def label_of(self) -> dict[int, RequestLabel]:
        """The labels by row."""
        return {one.row: one for one in self.labels}


def told(sources: Sources, query: RequestQuery, request_id: str) -> Whole:
    """Return what the log has of a request. Raises NotFound where that is nothing."""
    if not request_id.isprintable() or len(request_id) > _LONGEST_ID:
        raise NotFound("No request has such an id.")
    opened = listing.open_log(sources.log)
    there = listing.models(opened, sources.log)
    if query.model and query.model not in there and there:
        raise NotFound(f"The log has no model {name(query.model)}; it has: {listed(there, 20)}.")
    if not there and (records := requests.csv_records(sources.log, request_id)):
        return _of_csv(request_id, records)
    searched = [query.model] if query.model else there[:_MODELS_SEARCHED]
    whole, each = True, _SECONDS / max(len(searched), 1)
    for model in searched if there else ():
        try:
            story = requests.find_request(sources.log, model, request_id, seconds=max(each, 0.5))
        except LogError:
            continue  # it has gone since it was listed
        if story is not None and story.exchanges:
            return _whole(sources, story, request_id)
        whole = whole and story is None
    raise NotFound(_not_there(request_id, whole and len(there) <= _MODELS_SEARCHED))


def searched(sources: Sources, query: SearchQuery) -> Whole:
    """Return the request that is looked for."""
    return told(sources, query, query.id.strip())


def _not_there(request_id: str, whole: bool) -> str:
    days = f" in the newest {LOOKBACK_DAYS} days that it has" if requests.time_of(request_id) is None else ""
    text = f"The log has no request {name(request_id)}{days}"
    if not whole:
        return f"{text}, as far as there was time to look. Name the model, or take Mooring's own id."
    return f"{text}. A request gets there about a minute after it was answered, if it is in the sample."


def _whole(sources: Sources, story: Story, asked: str) -> Whole:
    first = story.exchanges[0]
    if len({one["request_id"] for one in story.exchanges}) > 1:
        live = [one for one in story.exchanges if one["variant"] != "shadow"]
        same = tuple(
            Same(
                one["request_id"],
                one["time"],
                one["status"],
                address(paths.REQUEST, {"request_id": one["request_id"], "model": story.model}),
            )
            for one in live
        )
        return Whole(request_id=asked, model=story.model, client_request_id=asked, same=same)
    return Whole(
        request_id=first["request_id"],
        model=story.model,
        client_request_id=first["client_request_id"],
        method=first["method"],
        path=first["path"],
        headers=_headers(first["headers"]),
        sampling=first["sampling"],
        request=as_body(first["request"], first["request_type"], first["request_encoding"], first["errors"]),
        answers=tuple(_answered(sources, story, one) for one in story.exchanges),
        labels=tuple(_truth(one, first["time"]) for one in story.labels),
        left_out="" if story.whole else "There was no time to look at all that may belong to it: labels may lack.",
    )


def _answered(sources: Sources, story: Story, one: dict[str, Any]) -> RequestAnswer:
    rows = [row for row in story.rows if (row["variant"], row["model_version"]) == _who(one)]
    version, variant = one["model_version"], one["variant"]
    windows = Windows(sources.state).overlapping(
        story.model, version, variant, one["time"], one["time"] + timedelta(microseconds=1)
    )
    window = windows[0] if windows else None
    link = {"model": story.model, "window": window.id, "variant": variant} if window else {}
    return RequestAnswer(
        version=version,
        variant=variant,
        time=one["time"],
        seconds=one["duration_ns"] / 1e9,
        status=one["status"],
        codes=tuple(CodeMeaning(code, in_words(code)) for code in one["errors"]),
        reason=(one["reason"] or "").partition(": ")[2],
        response=as_body(one["response"], one["response_type"], one["response_encoding"], one["errors"]),
        rows=tuple(map(_row, rows)),
        all_rows=rows[0]["request_rows"] if rows else 0,
        window=address(paths.MODEL, link) if window else None,
        window_number=window.number if window else None,
    )


def _who(one: dict[str, Any]) -> tuple[str, str | None]:
    return one["variant"], one["model_version"]


def _row(row: dict[str, Any]) -> ScoredRow:
    odd = _record(row["misfits"] or "{}")
    values: list[dict[str, Cell]] = []
    for part in ("input", "output"):
        fields = {field: _cell(value) for field, value in (row.get(part) or {}).items()}
        for field, value in odd.get(part, {}).items():
            # Where there is a value beside it, that is what the model was given, except for digits that it lacks.
            if fields.get(field) is None or (isinstance(value, int) and abs(value) > 2**53):
                fields[field] = _cell(value)
        values.append(fields)
    names = tuple(field for part in odd.values() for field in part)
    return ScoredRow(row["row"], values[0], values[1], names)


def _cell(value: Any) -> Cell:
    """Return a value as a cell of a table; what is nested as JSON, what is long without its end."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return float(value) if math.isfinite(value) and abs(value) < 2**53 else str(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


def _truth(one: dict[str, Any], asked: datetime) -> RequestLabel:
    value = one["label"] if one["label_text"] is None else one["label_text"]
    return RequestLabel(one["row"], _cell(value), one["time"], (one["time"] - asked).total_seconds())


def _headers(text: str) -> dict[str, str]:
    return {field: str(value)[:1000] for field, value in _record(text).items()}


def _of_csv(request_id: str, records: Sequence[tuple[str, str]]) -> Whole:
    """Return what a log of CSV files has: rows of a request that was answered, all of one that was not."""
    failed = [_record(text) for kind, text in records if not kind.endswith("csv")]
    about = next(filter(None, failed), {})
    bodies = (_body(one, "request", _errors(one)) for one in failed)
    client, sampling = about.get("client_request_id"), about.get("sampling")
    return Whole(
        request_id=request_id,
        model=str(about.get("model") or ""),
        client_request_id=client if isinstance(client, str) else None,
        method=str(about.get("method", "")),
        path=str(about.get("path", "")),
        headers=_headers(json.dumps(about.get("headers") or {})),
        sampling=sampling if isinstance(sampling, float) else None,
        request=next(filter(None, bodies), None),
        answers=tuple(_csv_answer(request_id, kind, text) for kind, text in records),
        csv=True,
    )


def _csv_answer(request_id: str, kind: str, text: str) -> RequestAnswer:
    """Return what one file of a request has: the rows of an answer, or the record of one that has none."""
    variant = "shadow" if kind.startswith("shadow/") else "champion"
    time = requests.time_of(request_id) or datetime.fromtimestamp(0, UTC)
    if kind.endswith("csv"):
        rows = _csv_rows(text)
        return RequestAnswer(
            version=None,
            variant=variant,
            time=time,
            seconds=None,
            status=None,
            reason="" if rows else "The file has no rows.",
            rows=rows,
            all_rows=len(rows),
        )
    record = _record(text)
    errors = _errors(record)
    duration, status, version = record.get("duration_ns"), record.get("status"), record.get("version")
    return RequestAnswer(
        version=version if isinstance(version, str) else None,
        variant=variant,
        time=time,
        seconds=duration / 1e9 if isinstance(duration, int) else None,
        status=status if isinstance(status, int) else None,
        codes=tuple(CodeMeaning(code, in_words(code)) for code in errors),
        reason=str(record.get("reason", "The file can't be read.")),
        response=_body(record, "response", errors),
    )


def _errors(record: dict[str, Any]) -> list[str]:
    return [str(one) for one in record.get("errors") or []]


def _csv_rows(text: str) -> tuple[ScoredRow, ...]:
    """Return the rows of a CSV file of the log: what begins with `prediction` is an output."""
    try:
        names, *rest = itertools.islice(csv.reader(io.StringIO(text, newline="")), MOST_ROWS + 1)
    except (csv.Error, ValueError):
        return ()
    count = len(_outputs(names))
    return tuple(
        ScoredRow(
            number,
            {field: _cell(value) for field, value in zip(names[count:], line[count:], strict=False)},
            {field: _cell(value) for field, value in zip(names[:count], line[:count], strict=False)},
        )
        for number, line in enumerate(rest)
    )


def _outputs(names: Sequence[str]) -> Sequence[str]:
    found = []
    for field in names:
        if field != "prediction" and not field.startswith("prediction."):
            break
        found.append(field)
    return found


def _record(text: str) -> dict[str, Any]:
    try:
        found = _unicode(json.loads(text))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _unicode(value: Any) -> Any:
    """Return what JSON holds without the lone surrogates that it may escape."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_unicode(one) for one in value]
    return {_unicode(field): _unicode(one) for field, one in value.items()} if isinstance(value, dict) else value


def _body(record: dict[str, Any], which: str, errors: list[str]) -> ShownBody:
    text, packed = record.get(which), record.get(f"{which}_base64")
    content = text.encode("utf-8", "replace") if isinstance(text, str) else b""
    if isinstance(packed, str):
        try:
            content = base64.b64decode(packed)
        except ValueError:
            content = b""
    return as_body(content, str(record.get(f"{which}_type", "")), str(record.get(f"{which}_encoding", "")), errors)


PAGE = Page("request", paths.REQUEST, "A request's whole story, by its id.", RequestQuery, Whole, told)
SEARCH = Page("requests", paths.REQUESTS, "The same, of an id in the query.", SearchQuery, Whole, searched)
