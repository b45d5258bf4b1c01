"""Bodies of MLflow 1: `{"columns": …, "data": …}`, which servers since MLflow 2 answer with 400."""

from __future__ import annotations

import re
from typing import Final

import msgspec

_MAYBE: Final = re.compile(rb'[ \t\r\n]*\{[ \t\r\n]*"(columns|data|index)"')
_TOO_SHORT: Final = re.compile(rb'[ \t\r\n]*(\{[ \t\r\n]*("[a-z]{0,7}"?)?)?')
_TODAYS: Final = (b'{"dataframe_', b'{"inp', b'{"ins', b'{"mess')
_SNIFF_BYTES: Final = 1024
SPLIT_BEFORE: Final = b'{"dataframe_split": '
SPLIT_AFTER: Final = b"}"


class _Split(msgspec.Struct, forbid_unknown_fields=True):
    columns: msgspec.Raw
    data: msgspec.Raw
    index: msgspec.Raw = msgspec.Raw(b"null")


_decoder = msgspec.json.Decoder(_Split)


def maybe_split(beginning: bytes | bytearray) -> bool | None:
    """Say from its first bytes whether a body may be of MLflow 1; None where more bytes are needed.

    >>> maybe_split(b'{"columns": ["a"]'), maybe_split(b'{"dataframe_split"'), maybe_split(b'{ "col')
    (True, False, None)
    """
    if beginning.startswith(_TODAYS):
        return False
    if _MAYBE.match(beginning):
        return True
    if len(beginning) < _SNIFF_BYTES and _TOO_SHORT.fullmatch(beginning):
        return None
    return False


def is_split(body: bytes | bytearray) -> bool:
    """Whether a body is one of MLflow 1, all of it.

    >>> is_split(b'{"columns": ["a"], "data": [[NaN, -Infinity]]}')
    True
    >>> is_split(b'{"columns": ["a"], "messages": []}')
    False
    """
    # Numbers of the same length, in their place: to replace 8 MB of NaN by shorter ones takes a second.
    text = body.replace(b"NaN", b"0.0").replace(b"Infinity", b"0.000000")
    try:
        _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def plain_json(content_type: bytes) -> bytes:
    """Return `content_type` without MLflow 1's `format=pandas-split`, which today's server refuses with 415.

    >>> plain_json(b"application/json; format=pandas-split")
    b'application/json'
    """
    parts = [part.strip() for part in content_type.split(b";")]
    return b"; ".join(part for part in parts if part.lower() != b"format=pandas-split")
