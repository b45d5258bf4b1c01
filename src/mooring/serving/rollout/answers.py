"""What an answer of a new version lacks, compared with the champion's, or with what the request asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from mooring.payload import Frame, Undecodable, decode_inputs, decode_outputs
from mooring.serving.protocol import ReplayedAnswer

_MOST_COLUMNS = 200
"""So many columns of the champion's answers are known by name and kind."""


def predictions(answer: bytes) -> Frame | None:
    """Return the predictions of an answer, None if it can't be read as any."""
    try:
        return decode_outputs(answer)[0]
    except Undecodable:
        return None


def rows_asked(request: bytes, content_type: str) -> frozenset[int]:
    """Return how many rows a request has, in each way that it may be read; nothing where it can't be.

    >>> rows_asked(b'{"inputs": [1, 2, 3]}', "application/json"), rows_asked(b"?", "application/json")
    (frozenset({3}), frozenset())
    """
    try:
        asked = decode_inputs(request, content_type)
    except Undecodable:
        return frozenset()
    return frozenset() if asked.kind == "chat" else frozenset(len(frame.rows) for frame in asked.readings)


class Form(msgspec.Struct):
    """The fields that every answer of the champion had so far, and which kinds of values stood there.

    >>> form = Form()
    >>> form.learn(Frame(("prediction",), [(5.0,), (None,)]))
    >>> form.lacks(Frame(("prediction",), [("five",)]))
    "prediction is text where the champion's is number"
    """

    kinds: dict[str, list[str]] | None = None

    def learn(self, frame: Frame) -> None:
        """Take an answer of the champion."""
        if not frame.rows:
            return
        before = self.kinds
        self.kinds = {
            name: sorted({*(before or {}).get(name, ()), *found})
            for name, found in _kinds(frame).items()
            if before is None or name in before
        }

    def lacks(self, frame: Frame) -> str | None:
        """Return which field an answer has not, or has in another kind; None where it has all."""
        if self.kinds is None or not frame.rows:
            return None
        found = _kinds(frame, len(frame.columns))
        gone = sorted(self.kinds.keys() - found.keys())
        if gone:
            return f"it has no {', '.join(gone[:3])}"
        if len(found) > len(self.kinds) < _MOST_COLUMNS and all(_is_place(name) for name in found):
            return f"it has {len(found):,} values for each row where the champion's has {len(self.kinds):,}"
        for name, known in self.kinds.items():
            other = found[name] - set(known)
            if other and known:
                return f"{name} is {', '.join(sorted(other))} where the champion's is {' or '.join(known)}"
        return None


def unlike(own: Frame, other: Frame, form: Form) -> str | None:
    """Return what predictions lack in rows, fields or kinds that the champion's of the same request have."""
    if len(own.rows) != len(other.rows):
        return f"it has {len(own.rows):,} predictions where the champion's has {len(other.rows):,}"
    form.learn(other)
    return form.lacks(own)


def miscounted(own: Frame, asked: frozenset[int]) -> str | None:
    """Return that an answer has not a prediction for each row of its request; None where it has."""
    if not asked or len(own.rows) in asked:
        return None
    return f"it has {len(own.rows):,} predictions where the request has {min(asked):,} rows"


def missing(own: Frame, other: Frame | None = None) -> str | None:
    """Return which value is missing or not finite that the champion's answer does not lack, too; None if none."""
    found = lacking(own)
    if not found:
        return None
    known = lacking(other) if other is not None else {}
    return next((f"{name} is {what}" for name, what in found.items() if name not in known), None)


def lacking(frame: Frame) -> dict[str, str]:
    """Return which columns lack values, and what is there instead."""
    found = {}
    for name, column in zip(frame.columns, zip(*frame.rows, strict=True), strict=False):
        what = next((text for text in map(instead, column) if text), None)
        if what is not None:
            found[name] = what
    return found


def instead(value: Any) -> str | None:
    """Return what stands where a value should, None if that is one.

    >>> instead(None), instead([1.0, float("nan")]), instead(float("inf")), instead(0), instead("none")
    ('null', 'nan', 'inf', None, None)
    """
    kind = type(value)
    if kind is float:
        return None if math.isfinite(value) else str(value)
    if value is None:
        return "null"
    return next((text for text in map(instead, value) if text), None) if kind is list else None


def check(answered: Sequence[ReplayedAnswer]) -> list[str]:
    """Return what answers to requests that were put as a check lack; nothing of those that lack nothing.

    >>> asked, good = (b'{"inputs": [[1.0]]}', "application/json"), b'{"predictions": [5.0]}'
    >>> check([ReplayedAnswer(*asked, b'{"predictions": []}', good)])
    ["it has 0 predictions where the champion's has 1"]
    >>> check([ReplayedAnswer(*asked, b'{"predictions": [NaN]}'), ReplayedAnswer(*asked, good)])
    ['prediction is nan']
    """
    form, found = Form(), []
    others = [predictions(one.champion_answer) if one.champion_answer is not None else None for one in answered]
    for other in others:
        if other is not None:
            form.learn(other)
    for one, other in zip(answered, others, strict=True):
        if one.champion_answer is not None and other is None:
            continue  # in a form that is not known to hold predictions, such as a chat's
        own = predictions(one.answer)
        if own is not None and other is not None:
            found.append(unlike(own, other, form) or missing(own, other))
        elif own is not None:
            found.append(miscounted(own, rows_asked(one.request, one.request_type)) or missing(own))
        elif other is not None:
            found.append("it can't be read as predictions")
    return [lack for lack in found if lack is not None]


def _kinds(frame: Frame, most: int = _MOST_COLUMNS) -> dict[str, set[str]]:
    names = frame.columns[:most]
    columns = zip(*frame.rows, strict=True)
    return {name: set(map(_kind, column)) - {""} for name, column in zip(names, columns, strict=False)}


def _kind(value: Any) -> str:
    """Return what kind of a JSON value it is; nothing where it is missing.

    >>> [_kind(one) for one in (1, 1.5, True, "a", None, [1], [["a"]], {})]
    ['number', 'number', 'boolean', 'text', '', 'list of number', 'list of list of text', 'object']
    """
    kind = type(value)
    if kind is list:
        within = sorted({_kind(one) for one in value} - {""})
        return f"list of {' and '.join(within)}" if within else ""
    return {bool: "boolean", int: "number", float: "number", str: "text", dict: "object"}.get(kind, "")


def _is_place(name: str) -> bool:
    return name.rpartition(".")[2].isdecimal()
