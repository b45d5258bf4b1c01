"""Label: the ground truth of one scored row, from wherever it comes, and how it waits in the spool."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_ROWS = 2**31
BOOLEANS = {"true": 1.0, "false": 0.0}
"""What a boolean reads as, in any case."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_DIGITS = 1e16
FIRST, LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
"""Between these a label becomes known: what says that it never ends, such as 9999-12-31, is no time."""


class Label(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The ground truth of a row. `request_id` is ours or the client's, `row` its place in the request, from 0.

    `value` is a number (a boolean is 1.0 or 0.0) or text; `time_us` is when it became known (UTC, microseconds
    since the epoch). `protected` are protected values of the row that came with it, as `protected_text` has them.
    """

    request_id: str
    row: int
    value: float | str
    time_us: int
    protected: str | None = None


class Labels(msgspec.Struct, array_like=True, kw_only=True, tag="labels"):
    """Labels of one model that were taken together, a frame of the spool. `model` is None where nobody named one.

    New fields go to the end and have a default, so that a spool written by an older version can be read.
    """

    model: str | None = None
    labels: list[Label] = []


def as_label(
    request_id: Any,
    label: Any,
    row: Any = None,
    time: Any = None,
    *,
    now_us: int,
    protected: Mapping[str, Any] | None = None,
) -> Label:
    """Return what somebody sent, as JSON has it, as a label: of row 0 and known now, unless it says.

    `protected` are values by column that stay beside it. Raises ValueError that says what is wrong with it.

    >>> as_label("a", True, time="2026-03-01", now_us=0).time_us
    1772323200000000
    >>> as_label("a", None, now_us=0)
    Traceback (most recent call last):
    ...
    ValueError: label is missing
    """
    if type(request_id) is int:
        request_id = str(request_id)
    if request_id is None or request_id == "":
        raise ValueError("request_id is missing")
    if not isinstance(request_id, str):
        raise ValueError(f"request_id is {_named(request_id)}, not text")
    if row is None:
        row = 0
    elif type(row) is not int or not 0 <= row < _ROWS:
        raise ValueError(f"row is {_named(row)}, not a whole number from 0")
    return Label(
        _unicode(request_id, "request_id"),
        row,
        _value(label),
        now_us if time is None else time_us(time),
        protected_text(protected or {}),
    )


def protected_text(values: Mapping[str, Any]) -> str | None:
    """Return protected values by column as JSON text, None where there are none.

    Each is a text, however it was given, so that equal ones are the same: an empty one, null and NaN are none.
    Raises ValueError for what is neither a number, nor text, nor a boolean.

    >>> protected_text({"sex": "f", "age": 5.0, "veteran": True, "region": None})
    '{"age":"5","sex":"f","veteran":"true"}'
    """
    texts = {}
    for name, value in values.items():
        if value is None or value == "" or value != value:
            continue
        if isinstance(value, bool):
            texts[name] = "true" if value else "false"
        elif isinstance(value, int | float):
            texts[name] = number_text(float(value))
        elif isinstance(value, str):
            texts[name] = _unicode(value, name)
        else:
            raise ValueError(f"{name} is {_named(value)}, not a number, text or boolean")
    return msgspec.json.encode(texts, order="sorted").decode() if texts else None


def _value(label: Any) -> float | str:
    if label is None or label == "":
        raise ValueError("label is missing")
    if isinstance(label, str):
        return _unicode(label, "label")
    if not isinstance(label, int | float):
        raise ValueError(f"label is {_named(label)}, not a number, text or boolean")
    try:
        number = float(label)
    except OverflowError:
        number = math.inf
    if math.isnan(number):
        raise ValueError("label is missing")
    if math.isinf(number):
        raise ValueError("label is infinite, or too large a number")
    return number


def time_us(time: Any) -> int:
    """Return a moment, ISO 8601 text, in microseconds since the epoch. Raises ValueError where it is none.

    >>> time_us("1970-01-02")
    86400000000
    """
    try:
        moment = datetime.fromisoformat(time)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        if not FIRST <= moment < LAST:
            raise ValueError(time)
        return (moment - _EPOCH) // _MICROSECOND
    except (TypeError, ValueError, OverflowError):
        why = "no time from 1970 to 2199: take 2026-03-01 or 2026-03-01T12:00Z, UTC where no zone is named"
        raise ValueError(f"time is {_named(time)}, {why}") from None


def number_of(text: str) -> float | None:
    """Return what a text reads as: a number, or a boolean as 1 or 0; None for another.

    >>> number_of("01"), number_of(" 2.50 "), number_of("TRUE"), number_of("1e999"), number_of("red")
    (1.0, 2.5, 1.0, None, None)
    """
    text = text.strip()
    if _NUMBER.fullmatch(text):
        number = float(text)
        return number if math.isfinite(number) else None
    return BOOLEANS.get(text.lower())


def number_text(number: float) -> str:
    """Return a number as the name of a class.

    >>> number_text(5.0), number_text(-0.0), number_text(0.1), number_text(1e300)
    ('5', '0', '0.1', '1e+300')
    """
    return str(int(number)) if number.is_integer() and abs(number) < _DIGITS else repr(number)


def _unicode(text: str, name: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{name} is not Unicode: {_named(text)}") from None
    return text


def _named(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
