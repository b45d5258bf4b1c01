"""Capture in the process that scores: what a PythonModel and `mooring.log` share."""

from __future__ import annotations

import atexit
import base64
import json
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mooring import messages
from mooring.capture.drainer import Drainer
from mooring.capture.recorder import Recorder
from mooring.exchange import Exchange
from mooring.settings import REMOTE, CaptureSettings

JSON = "application/json"
TEXT = "text/plain"
_TICK_SECONDS = 1.0


def check(settings: CaptureSettings) -> None:
    """Raise ValueError for invalid settings."""
    scheme = settings.log.partition("://")[0] if "://" in settings.log else "file"
    if scheme not in ("file", *REMOTE):
        raise ValueError(
            f"{settings.log} is no place for a log: it is a directory, or begins with s3://, gs:// or az://"
        )
    if settings.format == "csv" and scheme != "file":
        raise ValueError(f"CSV files go into a directory only, and the log is {settings.log}: take Parquet")
    Recorder.check(settings)


class Capture:
    """A recorder and the drain behind it, for all threads of this process.

    A thread of its own looks after them: it closes a segment that is old enough, so that the drain gets it though
    nothing more is recorded, and starts the drain anew if somebody has ended it.
    """

    def __init__(self, settings: CaptureSettings) -> None:
        check(settings)
        messages.last_resort()
        self.settings = settings
        self.closed = False
        self._recorder = Recorder(settings)
        self._drainer = Drainer(settings)
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._ended = threading.Event()
        self._drainer.ensure()
        atexit.register(self.close)
        threading.Thread(target=self._look_after, name="mooring", daemon=True).start()

    def close(self) -> None:
        """Close the spool, so that the drain takes all of it."""
        if os.getpid() != self._process:
            return  # a child after a fork: the spool is its parent's, who still writes to it
        atexit.unregister(self.close)
        self._ended.set()
        with self._lock:
            self.closed = True
            self._recorder.close()

    def finish(self, timeout: float) -> bool:
        """Wait until all of a spool that is closed is in the log; return whether it is."""
        end = time.monotonic() + timeout
        while True:
            # Again and again: a drain that was about to end has not seen the last of it.
            self._drainer.ensure(now=True)
            left = end - time.monotonic()
            if self._drainer.finish(min(max(left, 0.0), _TICK_SECONDS)):
                return True
            if left <= 0:
                return False

    def begin(self, request_id: str) -> bool:
        """Count an exchange that begins, and say whether it is in the sample."""
        with self._lock:
            return self._recorder.begin(request_id)

    def record(self, exchange: Exchange) -> None:
        """Put `exchange` into the spool, and see that a drain runs."""
        with self._lock:
            self._recorder.record([exchange])
            self._drainer.ensure()

    def put(self, exchanges: Sequence[Exchange]) -> bool:
        """Put those of `exchanges` that are in the sample into the spool; return False if it is closed."""
        with self._lock:
            if self.closed:
                return False
            self._recorder.record([one for one in exchanges if self._recorder.begin(one.request_id)])
            self._drainer.ensure()
            return True

    def _look_after(self) -> None:
        while not self._ended.wait(min(_TICK_SECONDS, self.settings.segment_seconds / 2)):
            with self._lock:
                if not self.closed:
                    self._recorder.tick()
                    self._drainer.ensure()


_all: list[Captures] = []


class Captures:
    """The captures of this process by a key of the caller's. Those inherited over a fork belong to the parent."""

    def __init__(self) -> None:
        self._forget()
        _all.append(self)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._captures: dict[Hashable, Capture] = {}

    def get(self, key: Hashable, settings: Callable[[], CaptureSettings]) -> Capture:
        """Return the capture of `key`, made where there is none. Raises ValueError for impossible settings."""
        with self._lock:
            if key not in self._captures:
                self._captures[key] = Capture(settings())
            return self._captures[key]

    def close(self) -> list[Capture]:
        """Close all captures, so that the drain takes all of them, and return them."""
        with self._lock:
            captures, self._captures = list(self._captures.values()), {}
        for capture in captures:
            capture.close()
        return captures


def close_all() -> list[Capture]:
    """Close the captures of this process, those of wrapped models too, and return them."""
    return [capture for captures in _all for capture in captures.close()]


class Body(NamedTuple):
    """A body and its type: JSON, or text that says why it is not."""

    content: bytes
    type: str


def encoded(encode: Callable[[Any], Any], value: Any) -> Body:
    """Return `value` as JSON, or say which column has no such form."""
    try:
        return Body(body_of(encode(value)), JSON)
    except (TypeError, ValueError, RecursionError) as error:
        return Body(str(error).encode("utf-8", "replace"), TEXT)


def body_of(payload: dict[str, Any]) -> bytes:
    """Return a payload as JSON. Raises TypeError that names the column of a value without such a form.

    >>> body_of({"dataframe_split": {"columns": ["a", "b"], "data": [[1.5, timedelta(minutes=2)]]}})
    b'{"dataframe_split": {"columns": ["a", "b"], "data": [[1.5, 120.0]]}}'
    >>> body_of({"predictions": [{"a": 1, "z": 1j}]})
    Traceback (most recent call last):
    TypeError: column z: complex has no JSON form
    """
    try:
        return _as_json(payload)
    except (TypeError, ValueError, RecursionError) as error:
        for name, value in _cells(payload):
            try:
                _as_json(value)
            except (TypeError, ValueError, RecursionError) as its:
                raise TypeError(f"column {name}: {its}") from None
        raise TypeError(str(error)) from error


def _as_json(value: Any) -> bytes:
    return json.dumps(value, default=_plain).encode()


def _cells(payload: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Yield all values of a payload, each with the name of its column."""
    for key, table in payload.items():
        if key == "dataframe_split":
            names, rows = table["columns"], table["data"]
        else:
            names, rows = None, table.tolist() if hasattr(table, "tolist") else table
        for row in [rows] if isinstance(rows, dict) else rows if isinstance(rows, list) else [[rows]]:
            if isinstance(row, dict):
                yield from row.items()
            elif isinstance(row, list | tuple):
                yield from zip(names or range(len(row)), row, strict=False)
            else:
                yield 0, row


def as_text(value: Any) -> str | None:
    """Return a client's id as text that can be stored, whatever it sent."""
    return None if value is None else str(value).encode("utf-8", "replace").decode()


def as_request(model_input: Any) -> Any:
    """Return a model's input as a client would send it."""
    if isinstance(model_input, pd.Series):
        model_input = model_input.to_frame()
    if isinstance(model_input, pd.DataFrame):
        split = _named(model_input).to_dict(orient="tight")  # as "split", without a warning where names come twice
        # To pandas NaN is what is missing, and the server has made it of null.
        rows = [
            [None if isinstance(cell, float) and cell != cell else cell for cell in row] for row in split["data"]
        ]
        return {"dataframe_split": {"columns": split["columns"], "data": rows}}
    if hasattr(model_input, "toarray"):
        model_input = model_input.toarray()  # a sparse matrix of scipy
    return {"inputs": model_input}


def as_response(predictions: Any) -> Any:
    """Return a model's output as a server would answer it."""
    if isinstance(predictions, pd.Series):
        predictions = predictions.to_frame()
    if isinstance(predictions, pd.DataFrame):
        split = _named(predictions).to_dict(orient="tight")
        # Of names that are the same a record has the last; with orient="records" pandas would warn of it, too.
        return {"predictions": [dict(zip(split["columns"], row, strict=True)) for row in split["data"]]}
    return {"predictions": predictions}


def label(name: Any) -> Any:
    """Return a column's label as a payload has it: `mooring.baseline` names a column of such a label the same.

    >>> label("pH"), label(0), label(("pH", 0))
    ('pH', 0, "('pH', 0)")
    """
    return name if isinstance(name, str | int) and not isinstance(name, bool) else str(name)


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    names = [label(name) for name in frame.columns]
    return frame if names == list(frame.columns) else frame.set_axis(names, axis=1)


def _listed(array: Any) -> Any:
    """Return an array of NumPy, or a value of one, as lists: times as ISO 8601, durations in seconds."""
    if array.dtype.kind not in "mM":
        return array.tolist()
    values = np.datetime_as_string(array) if array.dtype.kind == "M" else array / np.timedelta64(1, "s")
    found: Any = np.where(np.isnat(array), None, values.astype(object))
    return found.tolist()


def _plain(value: Any) -> Any:
    """Return what JSON has for a value that it does not know."""
    if isinstance(value, np.ndarray | np.generic):
        return _listed(value)
    if value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, datetime | date | time_of_day):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
