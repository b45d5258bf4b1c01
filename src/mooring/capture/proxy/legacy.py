"""Bodies of MLflow 1: `{"columns": …, "data": …}`, which servers since MLflow 2 answer with 400."""

from __future__ import annotations

import re

import msgspec

_MAYBE = re.compile(rb'[ \t\r\n]*\{[ \t\r\n]*"(columns|data|index)"')
_TOO_SHORT = re.compile(rb'[ \t\r\n]*(\{[ \t\r\n]*("[a-z]{0,7}"?)?)?')
_NOT_JSON = re.compile(rb"-?Infinity|NaN")
_TODAYS = (b'{"dataframe_', b'{"inp', b'{"ins', b'{"mess')
_SNIFF_BYTES = 1024


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


def rewrap(body: bytes) -> bytes | None:
    """Return a body of MLflow 1 as today's server wants it, or None if it is none.

    >>> rewrap(b'{"columns": ["a"], "data": [[1]]}')
    b'{"dataframe_split": {"columns": ["a"], "data": [[1]]}}'
    >>> rewrap(b'{"columns": ["a"], "messages": []}') is None
    True
    """
    try:
        _decoder.decode(_NOT_JSON.sub(b"0", body))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return b'{"dataframe_split": ' + body + b"}"


def plain_json(content_type: bytes) -> bytes:
    """Return `content_type` without MLflow 1's `format=pandas-split`, which today's server refuses with 415.

    >>> plain_json(b"application/json; format=pandas-split")
    b'application/json'
    """
    parts = [part.strip() for part in content_type.split(b";")]
    return b"; ".join(part for part in parts if part.lower() != b"format=pandas-split")
