"""Labels as the kind of what a model predicts, however whoever knew them wrote them down."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any

import pyarrow as pa

from mooring.drift.columns import is_number, is_text
from mooring.label import BOOLEANS, number_of, number_text

MOST_TEXTS = 1000
"""How many different texts a model may predict for them to be classes."""
_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")
_POINT = re.compile(r"-?(0|[1-9][0-9]*)\.0")
_FLAGS = {"1": 1.0, "1.0": 1.0, "0": 0.0, "0.0": 0.0}


def as_predicted(labels: pa.Array, prediction: pa.Array | None, names: Collection[str] = ()) -> pa.Array:
    """Return labels as the kind of what the model predicts: numbers, booleans, or texts in the model's spelling.

    Parameters
    ----------
    labels
        Numbers, booleans or texts.
    prediction
        What the model predicts, if that is one column.
    names
        Further classes that it can predict, such as those of its probabilities.

    Beside numbers a text counts as what it reads as, `01` as 1 and `true` too; beside booleans 1, `1` and `True`
    are all true. If most labels can be read so, the others are null, else all stay what they are. Beside texts a
    label is compared as text. Only a boolean takes the model's spelling of it (`True`, `true`, `1`), and a whole
    number (`1`, `1.0`) that of the model's whole numbers; `01` is a text of its own.

    >>> as_predicted(pa.array([True, False]), pa.array(["True", "True"])).to_pylist()
    ['True', 'False']
    >>> as_predicted(pa.array(["01", "2.0", "?"]), pa.array([1, 2, 3])).to_pylist()
    [1.0, 2.0, None]
    """
    if not (is_number(labels.type) or is_text(labels.type) or pa.types.is_boolean(labels.type)):
        return labels
    texts = any(number_of(one) is None or one.lower() in BOOLEANS for one in names)
    if prediction is not None and not texts:
        if is_number(prediction.type):
            return labels if is_number(labels.type) else _read(labels, pa.float64(), lambda number: True)
        if pa.types.is_boolean(prediction.type):
            if pa.types.is_boolean(labels.type):
                return labels
            return _read(labels, pa.bool_(), lambda number: number in (0.0, 1.0))
    if prediction is not None and is_text(prediction.type):
        names = {*names, *prediction.unique().drop_null().to_pylist()}
    return _mapped(labels, pa.string(), _Spelling(names).of) if names else labels


def _read(labels: pa.Array, kind: pa.DataType, fits: Callable[[float], bool]) -> pa.Array:
    """Return labels as numbers or booleans, null where they are none, if most of them are some."""

    def value(label: float | str) -> float | bool | None:
        number = number_of(label) if isinstance(label, str) else float(label)
        if number is None or not fits(number):
            return None
        return bool(number) if pa.types.is_boolean(kind) else number

    found = _mapped(labels, kind, value)
    there = len(labels) - labels.null_count
    return found if 2 * (len(found) - found.null_count) > there else labels


def _mapped(labels: pa.Array, kind: pa.DataType, value: Callable[[Any], Any]) -> pa.Array:
    encoded = labels.dictionary_encode()
    distinct = [None if one is None else value(one) for one in encoded.dictionary.to_pylist()]
    return pa.array(distinct, kind).take(encoded.indices)


class _Spelling:
    """How a model that predicts texts spells booleans and whole numbers."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)
        self._words = {
            BOOLEANS[one.lower()]: one for one in sorted(names, reverse=True) if one.lower() in BOOLEANS
        }
        self._points = any(map(_POINT.fullmatch, names)) and not any(map(_WHOLE.fullmatch, names))

    def of(self, label: float | str) -> str:
        """Return a label as the model would say it."""
        text = str(label) if isinstance(label, str | int) else number_text(float(label))
        if text in self._names:
            return text
        flag = BOOLEANS.get(text.lower(), _FLAGS.get(text))
        if flag is not None and self._words:
            return self._word(flag)
        if text.lower() in BOOLEANS:
            number = self._number(number_text(BOOLEANS[text.lower()]))
            return number if number in self._names else text
        return self._number(text)

    def _number(self, text: str) -> str:
        whole = text.removesuffix(".0")
        if not _WHOLE.fullmatch(whole):
            return text
        spelled = f"{whole}.0" if self._points else whole
        return spelled if spelled in self._names or not text.endswith(".0") else text

    def _word(self, flag: float) -> str:
        """Return a boolean in the spelling that the model has, or that of its other one."""
        if flag in self._words:
            return self._words[flag]
        other = next(iter(self._words.values()))
        word = "true" if flag else "false"
        return word.title() if other.istitle() else word.upper() if other.isupper() else word
