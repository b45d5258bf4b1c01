"""`mooring.log`: capture for those who score in batch jobs or in servers of their own."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from time import monotonic, time_ns
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from mooring.capture.in_process import Captures, as_request, as_response, as_text, body_of, check, close_all, label
from mooring.config import SettingError, load
from mooring.exchange import Exchange
from mooring.ids import new_request_id
from mooring.settings import CaptureSettings

ROWS = 1000
"""The rows of an exchange, at most, unless they share an id of the caller's."""

_captures = Captures()


def log(
    inputs: Any,
    predictions: Any,
    *,
    model: str,
    version: str | int | None = None,
    log: str | os.PathLike[str] | None = None,
    request_ids: str | Sequence[Any] | None = None,
    time: Any = None,
    variant: str = "champion",
) -> list[str]:
    """Log what a model was asked and answered, row by row; return the ids under which the log has it.

    It is in the log after `--segment-seconds`, or when the process ends; `mooring.flush()` waits for it. A disk
    that is full, or a log that can't be reached, is said on stderr and raises nothing.

    Parameters
    ----------
    inputs, predictions
        A DataFrame of pandas or Polars, a table or an array of Arrow, an array of NumPy, a list of records or of
        values, or a dict of columns. As many predictions as inputs.
    model, version
        The model's name, and its version, for the log.
    log
        The log: a directory, or s3://, gs:// or az:// and a bucket. Default: `$MOORING_LOG`, `log` in
        mooring.yaml, `./mooring-log`. All other settings come from there, too.
    request_ids
        An id of the caller's for each row, or one for all; labels may name it. Neighbours with the same id make a
        request together.
    time
        When it was asked, for all or for each row: datetimes or ISO 8601, UTC if no zone is given. Default: now.
    variant
        Which part the model had: champion, canary, shadow. `mooring.read_log`, labels and the monitor leave out
        what is of a shadow; read_log(variant="shadow") has it. Give the same `request_ids` to compare by them.

    Raises ValueError where rows, ids or settings are invalid, TypeError for values that have no form in JSON.
    """
    asked, answered = _table(inputs, "inputs"), _table(predictions, "predictions")
    rows = len(asked)
    if len(answered) != rows:
        raise ValueError(f"inputs has {rows} rows, and predictions {len(answered)}")
    ids = [None] * rows if request_ids is None else _each(request_ids, rows, "request_ids", as_text)
    times = [time_ns()] * rows if time is None else _each(time, rows, "time", _nanoseconds)
    settings = _settings(model, log)
    logged: list[str] = []
    for block in _blocks(_spans(ids, times)):
        first, last = block[0].start, block[-1].stop
        request, response = _request(asked, first, last), _response(answered, first, last)
        exchanges = [
            Exchange(
                request_id=new_request_id(span.time),
                time_ns=span.time,
                request=body,
                response=answer,
                client_request_id=span.id,
                errors=["truncated"] if cut else [],
                model=model,
                version=None if version is None else str(version),
                variant=variant,
                sampling=settings.sample,
            )
            for one in block
            for span, body, answer, cut in _bodies(request, response, one, first, settings.max_payload)
        ]
        while not _captures.get(settings, lambda: settings).put(exchanges):
            pass  # closed by a flush in another thread, and so made anew
        if any(exchange.errors for exchange in exchanges):
            warnings.warn("a request is cut to --max-payload, and makes no rows in the log", stacklevel=3)
        logged += [exchange.request_id for exchange in exchanges]
    return logged


def flush(timeout: float = 30.0) -> bool:
    """Wait until all that was captured in this process is in the log; return whether it is.

    That is what `mooring.log` was given, and what models that `mooring.log_model` wrapped were asked here.
    """
    end, captures = monotonic() + timeout, close_all()
    return sum(capture.finish(max(0.0, end - monotonic())) for capture in captures) == len(captures)


class Span(NamedTuple):
    """Rows that make an exchange: those from `start` on and before `stop`."""

    start: int
    stop: int
    id: str | None
    time: int


def _spans(ids: Sequence[str | None], times: Sequence[int]) -> Iterator[Span]:
    start = 0
    for (name, time), group in groupby(zip(ids, times, strict=True)):
        stop = start + sum(1 for _ in group)
        step = ROWS if name is None else stop - start
        for at in range(start, stop, step):
            yield Span(at, min(at + step, stop), name, time)
        start = stop


def _blocks(spans: Iterator[Span]) -> Iterator[list[Span]]:
    """Gather spans, so that what is costly is done for many rows at once."""
    block: list[Span] = []
    for span in spans:
        if block and span.stop - block[0].start > ROWS:
            yield block
            block = []
        block.append(span)
    if block:
        yield block


def _bodies(
    request: dict[str, Any], response: dict[str, Any], span: Span, first: int, most: int
) -> Iterator[tuple[Span, bytes, bytes, bool]]:
    """Yield the bodies of a span of a block that begins with row `first`, in parts where they are too long."""
    start, stop = span.start - first, span.stop - first
    if "dataframe_split" in request:
        split = request["dataframe_split"]
        part = {"dataframe_split": {**split, "data": split["data"][start:stop]}}
    else:
        part = {key: rows[start:stop] for key, rows in request.items()}
    body = _encoded(part, "inputs")
    answer = _encoded({"predictions": response["predictions"][start:stop]}, "predictions")
    longest = max(len(body), len(answer))
    if longest > most and span.id is None and stop - start > 1:
        middle = (span.start + span.stop) // 2
        for half in (span._replace(stop=middle), span._replace(start=middle)):
            yield from _bodies(request, response, half, first, most)
        return
    yield span, body[:most], answer[:most], longest > most


def _encoded(part: dict[str, Any], name: str) -> bytes:
    try:
        return body_of(part)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None


def _settings(model: str, log: str | os.PathLike[str] | None) -> CaptureSettings:
    given = {"model": model, "log": None if log is None else os.fspath(log)}
    try:
        settings = load(CaptureSettings, given)
    except SettingError as error:
        raise ValueError(error.message) from None
    check(settings)
    return settings


def _table(value: Any, name: str) -> Any:
    """Return `value` as rows that can be counted and cut."""
    if isinstance(value, pd.Series):
        return value.to_frame()
    if isinstance(value, pd.DataFrame | pa.Table):
        return value
    if hasattr(value, "to_arrow"):  # Polars
        return _table(value.to_arrow(), name)
    if isinstance(value, pa.RecordBatch):
        return pa.Table.from_batches([value])
    if isinstance(value, pa.Array | pa.ChunkedArray):
        return value.to_pylist()
    if hasattr(value, "toarray"):  # a sparse matrix of SciPy
        value = value.toarray()
    if hasattr(value, "__array__"):  # NumPy, and what knows it
        value = np.asarray(value)
        return value if value.ndim else value.reshape(1)
    if isinstance(value, Mapping):
        return _columns(value, name)
    if isinstance(value, list | tuple):
        return [
            {label(key): one for key, one in row.items()} if isinstance(row, Mapping) else row for row in value
        ]
    if value is None or isinstance(value, str | bytes | bool | int | float | np.generic):
        return [value]
    raise TypeError(f"{name} is a {type(value).__name__}: give a DataFrame, a table, an array, a list or a dict")


def _columns(columns: Mapping[Any, Any], name: str) -> Any:
    """Return a dict of columns as a table; one of single values is a row."""
    if not any(_is_column(values) for values in columns.values()):
        return [{label(key): value for key, value in columns.items()}]
    lists = {key: _listed(values) if _is_column(values) else [values] for key, values in columns.items()}
    if len({len(values) for values in lists.values()}) > 1:
        lengths = ", ".join(f"{key}: {len(values)}" for key, values in lists.items())
        raise ValueError(f"the columns of {name} differ in their rows: {lengths}")
    return pd.DataFrame({key: pd.Series(values, dtype=object) for key, values in lists.items()})


def _listed(values: Any) -> list[Any]:
    return values.to_pylist() if isinstance(values, pa.Array | pa.ChunkedArray) else list(values)


def _is_column(values: Any) -> bool:
    return hasattr(values, "__len__") and not isinstance(values, str | bytes | Mapping)


def _request(table: Any, start: int, stop: int) -> dict[str, Any]:
    if isinstance(table, pa.Table):
        rows = _rows(table, start, stop)
        return {"dataframe_split": {"columns": table.column_names, "data": rows}}
    rows = _cut(table, start, stop)
    if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
        return {"dataframe_records": rows}  # of which MLflow's rules take None for what is missing
    asked: dict[str, Any] = as_request(rows)
    return asked


def _response(table: Any, start: int, stop: int) -> dict[str, Any]:
    if isinstance(table, pa.Table):
        rows = _rows(table, start, stop)
        return {"predictions": [dict(zip(table.column_names, row, strict=True)) for row in rows]}
    answered: dict[str, Any] = as_response(_cut(table, start, stop))
    return answered


def _cut(table: Any, start: int, stop: int) -> Any:
    return table.iloc[start:stop] if isinstance(table, pd.DataFrame) else table[start:stop]


def _rows(table: pa.Table, start: int, stop: int) -> list[tuple[Any, ...]]:
    columns = [column.to_pylist() for column in table.slice(start, stop - start).columns]
    return list(zip(*columns, strict=True)) if columns else [()] * (stop - start)


def _each(values: Any, rows: int, name: str, convert: Any) -> list[Any]:
    """Return a value for each row, of one for all or of as many."""
    if isinstance(values, str) or not hasattr(values, "__len__"):
        return [convert(values)] * rows
    if len(values) != rows:
        raise ValueError(f"{name} has {len(values)} values, and inputs {rows} rows")
    return [convert(value) for value in values]


def _nanoseconds(moment: Any) -> int:
    try:
        stamp = pd.Timestamp(moment)
        if pd.isna(stamp):
            raise ValueError("it is missing")
        stamp = stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp
        return int(stamp.as_unit("ns").value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"time has a value that is no time: {moment!r}") from error
