"""Columns that are text only because some of their cells are odd: each cell is looked at for itself.

A CSV file says nothing of types, and one `?` among its numbers makes a reader take the whole column for text; so
it is with Python's lists and the columns of pandas. Such columns are marked as `Loose`, and each of their cells is
brought to the kind that the baseline has, if it can be.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mooring.drift.columns import Column, is_text, plain

Cells = Literal["numbers", "booleans", "moments", "texts"]

UNDECODABLE = "\ufffd"
"""What stands for bytes that are no UTF-8; a cell with it is no text."""
_NUMBER = r"^\s*[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|(?i:inf|infinity|nan))\s*$"
_INTEGER = r"^\s*[+-]?\d{1,18}\s*$"
_BOOLEAN = r"^\s*(?i:true|false)\s*$"
_MONTH_DAY = r"(0[1-9]|1[0-2])-(0[1-9]|1\d|2[0-8])"  # later days are not in every month
_MOMENT = rf"^\d{{4}}-{_MONTH_DAY}([ T]([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{{1,6}})?)?Z?)?$"
_DAY_OF_ANY = r"^\d{4}-\d\d-\d\d([ T][0-9:.]*Z?)?$"


class Loose(pa.ExtensionType):  # type: ignore[misc]  # pyarrow has no types
    """Texts of which the type of the column says nothing."""

    def __init__(self) -> None:
        super().__init__(pa.string(), "mooring.loose")

    def __arrow_ext_serialize__(self) -> bytes:
        """Return nothing: there are no parameters."""
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> Loose:
        """Return the type."""
        return cls()


def loosened(column: Column) -> Column:
    """Return a column of text, or of bytes that are mostly text, as one whose cells are looked at one by one.

    >>> loosened(pa.array(["1", "?"])).to_pylist()
    ['1', '?']
    """
    if isinstance(column, pa.ChunkedArray):
        return pa.chunked_array([loosened(chunk) for chunk in column.chunks], Loose())
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        decoded = [None if one is None else one.decode("utf-8", "replace") for one in column.to_pylist()]
        return pa.ExtensionArray.from_storage(Loose(), pa.array(decoded, pa.string()))
    return pa.ExtensionArray.from_storage(Loose(), plain(column).cast(pa.string()))


def is_loose(column: Column) -> bool:
    """Whether the cells of a column are to be looked at one by one."""
    return isinstance(column.type, Loose)


def is_mixed(column: Column) -> bool:
    """Whether some, but not all, of a column's texts are numbers, truths or moments."""
    if not is_text(column.type):
        return False
    there = _texts(column).drop_null()
    return any(0 < pc.sum(_match(there, cells)).as_py() < len(there) for cells in _PARTS) if len(there) else False


def majority(column: Column) -> tuple[Cells, bool]:
    """Return what more than half of a column's cells are, and whether all of the numbers are integers.

    >>> majority(pa.array(["1", "2", "?"])), majority(pa.array(["1.5", "2", "?"])), majority(pa.array(["a", "1"]))
    (('numbers', True), ('numbers', False), ('texts', False))
    """
    there = _texts(column).drop_null()
    for cells in _PARTS:
        fit = _match(there, cells)
        count = int(pc.sum(fit).as_py() or 0)
        if 2 * count > len(there):
            whole = pc.sum(pc.match_substring_regex(there, _INTEGER)).as_py() or 0
            return cells, cells == "numbers" and whole == count
    return "texts", False


def fitted(column: Column, cells: Cells) -> tuple[Column, int]:
    """Return those cells of a column that are what they should be, or null, and how many others there are.

    >>> fitted(pa.array(["1.5", "?", None]), "numbers")[0].to_pylist(), fitted(pa.array(["1", "?"]), "numbers")[1]
    ([1.5, None], 1)
    """
    texts = _texts(column)
    fit = pc.invert(pc.match_substring(texts, UNDECODABLE)) if cells == "texts" else _match(texts, cells)
    odd = int(pc.sum(pc.invert(fit)).as_py() or 0)
    kept = texts.filter(pc.fill_null(fit, True)) if odd else texts
    if cells == "texts":
        return kept, odd
    trimmed = pc.utf8_trim_whitespace(kept)
    if cells == "booleans":
        return pc.utf8_lower(trimmed), odd
    if cells == "moments":
        return pc.cast(pc.replace_substring(trimmed, "Z", ""), pa.timestamp("us")), odd
    trimmed = pc.utf8_lower(pc.utf8_ltrim(trimmed, "+"))
    if pc.all(pc.match_substring_regex(trimmed, _INTEGER)).as_py():
        return trimmed.cast(pa.int64()), odd
    return trimmed.cast(pa.float64()), odd


_PARTS: tuple[Cells, ...] = ("numbers", "booleans", "moments")


def _texts(column: Column) -> Column:
    texts = plain(column)
    return texts.cast(texts.type.value_type) if pa.types.is_dictionary(texts.type) else texts


def _match(texts: Column, cells: Cells) -> Column:
    pattern = {"numbers": _NUMBER, "booleans": _BOOLEAN, "moments": _MOMENT}[cells]
    fit = pc.match_substring_regex(texts, pattern)
    if cells != "moments":
        return fit
    # The last days of months, which the pattern leaves out.
    late = pc.and_(pc.invert(fit), pc.match_substring_regex(texts, _DAY_OF_ANY))
    places = np.flatnonzero(np.asarray(pc.fill_null(late, False)))
    if not len(places):
        return fit
    found: NDArray[np.bool_] = np.zeros(len(texts), bool)
    found[[at for at in places.tolist() if _is_moment(texts[at].as_py())]] = True
    return pc.or_(fit, pa.array(found))


def _is_moment(text: str) -> bool:
    try:
        pa.array([text.replace("Z", "")]).cast(pa.timestamp("us"))
    except pa.ArrowException:
        return False
    return True
