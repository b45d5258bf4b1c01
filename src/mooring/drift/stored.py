"""How baselines and profiles are written: MessagePack, compressed, behind a name and a version number."""

from __future__ import annotations

import zlib
from typing import Any, TypeVar, get_origin

import msgspec
import numpy as np

FORMAT, SINCE = 2, 1
"""The format that is written, and the earliest one that is read. 1 knew neither signs of infinities nor units."""

Stored = TypeVar("Stored")


class FormatError(ValueError):
    """Bytes that are no such thing, or of a version that this code can't read."""


def dump(value: object, kind: str, version: int) -> bytes:
    """Return a value as bytes that `load` reads.

    >>> load(dump([1, 2], "numbers", 1), list[int], "numbers", 1)
    [1, 2]
    """
    return f"mooring-{kind} {version}\n".encode() + zlib.compress(encode(value), 1)


def load(data: bytes, wanted: type[Stored], kind: str, version: int, since: int | None = None) -> Stored:
    """Return what was dumped. Raises FormatError for bytes of another kind, another version, or cut short.

    With `since` earlier versions are read too, from that one on.

    >>> load(b"mooring-x 2\\n", list[int], "x", 1)
    Traceback (most recent call last):
    mooring.drift.stored.FormatError: this x is of format 2 and this Mooring reads 1: upgrade it, or make it anew
    """
    since = version if since is None else since
    head, _, body = data.partition(b"\n")
    name, _, number = head.decode("latin-1").partition(" ")
    if name != f"mooring-{kind}":
        raise FormatError(f"this is no {kind} of Mooring's: it begins with {data[:24]!r}")
    if not number.isdecimal() or not since <= int(number) <= version:
        what = "upgrade it, or make it anew" if number > str(version) else "make it anew"
        raise FormatError(f"this {kind} is of format {number} and this Mooring reads {version}: {what}")
    try:
        return msgspec.msgpack.decode(zlib.decompress(body), type=wanted, dec_hook=_array)
    except (zlib.error, msgspec.MsgspecError, ValueError) as error:
        raise FormatError(f"this {kind} is damaged: {error}") from None


def part(raw: msgspec.Raw, wanted: type[Stored], kind: str) -> Stored:
    """Return a part that was left as it was written. Raises FormatError where it is damaged.

    >>> numbers = load(dump({"a": [1], "b": [2]}, "x", 1), dict[str, msgspec.Raw], "x", 1)
    >>> part(numbers["b"], list[int], "x")
    [2]
    """
    try:
        return msgspec.msgpack.decode(raw, type=wanted, dec_hook=_array)
    except (msgspec.MsgspecError, ValueError) as error:
        raise FormatError(f"this {kind} is damaged: {error}") from None


def encode(value: object) -> bytes:
    """Return a value as MessagePack; arrays as their type, shape and bytes."""
    return msgspec.msgpack.encode(value, enc_hook=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [value.dtype.str, value.shape, np.ascontiguousarray(value).tobytes()]
    if isinstance(value, np.generic):
        return value.item()
    raise NotImplementedError(f"{type(value)} can't be stored")


def _array(wanted: type, value: Any) -> Any:
    if (get_origin(wanted) or wanted) is np.ndarray:
        kind, shape, data = value
        return np.frombuffer(data, np.dtype(kind)).reshape(shape)
    raise NotImplementedError(f"{wanted} can't be read")
