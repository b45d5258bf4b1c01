"""Exchange: one captured request and its answer, the record that everything starts from."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from mooring.label import Labels

BROKEN_OFF = frozenset({"client_gone", "upstream_failed", "upstream_timeout"})
"""Codes of exchanges whose answer is not whole, whatever its status."""


class Exchange(msgspec.Struct, array_like=True, kw_only=True, tag="exchange"):
    """One scoring request and its answer, a failed one too.

    `time_ns` is when the request was received (UTC, nanoseconds since the epoch) and `duration_ns` how long
    its answer took. Bodies are the raw bytes as the client sent and got them. `status` is 0 where no answer
    came. `errors` holds the codes of what went wrong in the capture itself or between client and server.

    New fields go to the end and have a default, so that a spool written by an older version can be read.

    >>> exchange = Exchange(request_id="0198", time_ns=1_785_542_400_000_000_000, request=b"{}", response=b"[]")
    >>> decode(encode(exchange)) == exchange
    True
    """

    request_id: str
    time_ns: int
    duration_ns: int = 0
    method: str = "POST"
    path: str = "/invocations"
    status: int = 200
    request_type: str = "application/json"
    request_encoding: str = ""
    response_type: str = "application/json"
    response_encoding: str = ""
    request: bytes = b""
    response: bytes = b""
    client_request_id: str | None = None
    headers: dict[str, str] = {}
    model: str | None = None
    version: str | None = None
    variant: str = "champion"
    sampling: float = 1.0
    errors: list[str] = []

    @property
    def succeeded(self) -> bool:
        """Whether the model server answered this request with a prediction."""
        return 200 <= self.status < 300 and not (self.errors and BROKEN_OFF.intersection(self.errors))


class Ledger(msgspec.Struct, array_like=True, tag="ledger"):
    """The account of every exchange: `seen = stored + in_flight + sampled_out + sum(dropped)`.

    `seen` is counted when a request is parsed, not as that sum. `failed` are those of all that got no prediction,
    `errors` counts the codes of exchanges that were captured in part or went wrong, `passed` the requests for
    other paths, which are not exchanges. `shadow` stands apart from all that: how many copies of requests were
    meant for a shadow ("copied"), how many of those were stored with its answer, and how many dropped. A ledger
    goes into the spool with every append: it outlives its process.

    >>> a = Ledger(seen=3, stored=2, dropped={"disk_full": 1}); b = Ledger(seen=1, in_flight=1)
    >>> (a + b).seen, (a + b).balance, b.ended().dropped
    (4, 0, {'killed': 1})
    """

    seen: int = 0
    stored: int = 0
    in_flight: int = 0
    sampled_out: int = 0
    failed: int = 0
    passed: int = 0
    dropped: dict[str, int] = {}
    errors: dict[str, int] = {}
    shadow: dict[str, int] = {}

    def __add__(self, other: Ledger) -> Ledger:
        """Return the account of both."""
        return Ledger(
            self.seen + other.seen,
            self.stored + other.stored,
            self.in_flight + other.in_flight,
            self.sampled_out + other.sampled_out,
            self.failed + other.failed,
            self.passed + other.passed,
            _sum(self.dropped, other.dropped),
            _sum(self.errors, other.errors),
            _sum(self.shadow, other.shadow),
        )

    @property
    def balance(self) -> int:
        """What is unaccounted for: always 0."""
        return self.seen - self.stored - self.in_flight - self.sampled_out - sum(self.dropped.values())

    def ended(self) -> Ledger:
        """Return the account after its process has ended: what was in flight then is lost, and counted so."""
        killed = {"killed": self.in_flight} if self.in_flight else {}
        return msgspec.structs.replace(self, in_flight=0, dropped=_sum(self.dropped, killed))

    def __str__(self) -> str:
        """Say it in a line."""
        dropped = ", ".join(f"{count} dropped ({reason})" for reason, count in self.dropped.items())
        sampled = f"{self.sampled_out} not in the sample, " if self.sampled_out else ""
        return (
            f"{self.seen} exchanges seen, {self.stored} stored, {sampled}{self.failed} of them failed, "
            f"{dropped or '0 dropped'}; {self.passed} other requests passed"
        )


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Exchange | Ledger | Labels).decode
_LONG = 2**16


def encoded(exchange: Exchange) -> bytes | list[bytes]:
    """Return what `encode` does, in pieces where a body is long, so that it is not copied.

    >>> exchange = Exchange(request_id="0198", time_ns=1, request=bytes(70_000), response=b"[]")
    >>> b"".join(encoded(exchange)) == encode(exchange)
    True
    """
    if len(exchange.request) < _LONG and len(exchange.response) < _LONG:
        return encode(exchange)
    values = msgspec.structs.astuple(exchange)
    pieces: list[Any] = [b"\xdc" + (len(values) + 1).to_bytes(2), encode("exchange")]
    for value in values:
        if isinstance(value, bytes | bytearray) and len(value) >= _LONG:
            pieces += (b"\xc6" + len(value).to_bytes(4), value)
        else:
            pieces.append(encode(value))
    return pieces


def in_sample(request_id: str, fraction: float, salt: str) -> bool:
    """Whether a request is in a sample of this size: always the same answer for the same id and salt.

    Each use has a salt of its own, else all would pick the same requests.

    >>> sum(in_sample(f"{number}", 0.1, "sample") for number in range(10_000))
    982
    """
    return fraction_of(request_id, salt) < fraction


def fraction_of(key: str, salt: str) -> float:
    """Return where a key lies between 0 and 1: always in the same place for the same salt.

    >>> round(fraction_of("a", "canary"), 4), fraction_of("a", "canary") == fraction_of("a", "shadow")
    (0.6768, False)
    """
    digest = hashlib.blake2b(key.encode(), key=salt.encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def _sum(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
    return {key: a.get(key, 0) + b.get(key, 0) for key in (*a, *(key for key in b if key not in a))}
