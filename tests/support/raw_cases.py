r"""The corpus of tests/conformance: raw requests and answers, with what is right for them.

Each file is TOML, a table a case, its strings literal ('…') with escapes of our own: \r \n \t \0 \\ \xNN, and
\{1000 ab} for `ab` a thousand times.

A case of requests/ has

    send     the bytes of one write, or a list of several; a number waits for so many answers
    sees     the requests that reach the model server: 'METHOD target body'
    gets     the statuses that the client gets, in order; a list inside it allows any one of several
    then     what becomes of the connection: open (the next request on it is answered), closed, or waits
             (the proxy waits for more); left out, it is waits without answers, closed after an error, else open
    has      field lines that the last request has at the model server; lacks: names of fields that it has not
    split    whether it is sent in two writes too, split at each byte
    beside   why Mooring may see bounds here that neither nginx nor haproxy sees

and one of answers/

    answer   the bytes of one write, or a list of several
    end      what the model server does then: keep (the default), close, or reset
    ask      the request, without its framing: 'GET' (the default), 'HEAD', 'POST'
    gets     the statuses; [] for a connection that closes without an answer
    body     the body of the last answer, unless it is one of the proxy's own
    then     open (the default), or broken: the client's connection ends before the answer was whole
    reused   whether the connection to the model server is used again
    has, lacks   fields of the last answer
"""

from __future__ import annotations

import re
import socket
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from strict_http import AnswerReader, CutShort, Parsed

DIRECTORY = Path(__file__).parents[1] / "conformance"
PAUSE = 0.015
"""Seconds between two writes, so that they are two reads of the proxy's."""
QUIET = 0.06
"""Seconds in which nothing comes from a proxy that waits for more."""

_REPEAT = re.compile(r"\\\{(\d+) ([^}]*)\}")
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|(.))")
_SHORT = {"r": "\r", "n": "\n", "t": "\t", "0": "\0", "\\": "\\"}


def unescape(text: str) -> bytes:
    """Return the bytes that a string of the corpus stands for."""

    text = _REPEAT.sub(lambda match: match[2] * int(match[1]), text)
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)) if match[1] else _SHORT[match[2]], text).encode(
        "latin-1"
    )


@dataclass(frozen=True)
class Case:
    """A case of requests/."""

    name: str
    send: list[bytes | int]
    sees: list[bytes]
    gets: list[list[int]]
    then: str
    has: list[str] = field(default_factory=list)
    lacks: list[str] = field(default_factory=list)
    beside: str = ""
    split: bool = False

    @property
    def sent(self) -> bytes:
        return b"".join(piece for piece in self.send if isinstance(piece, bytes))

    @property
    def methods(self) -> list[str]:
        """The methods of the requests, as far as they reach the model server."""
        return [request.split(b" ")[0].decode() for request in self.sees]


@dataclass(frozen=True)
class AnswerCase:
    """A case of answers/."""

    name: str
    answer: list[bytes]
    end: str
    ask: str
    gets: list[list[int]]
    body: bytes | None
    then: str
    reused: bool | None
    has: list[str]
    lacks: list[str]


def _tables(folder: str) -> list[tuple[str, dict]]:
    found = []
    for path in sorted((DIRECTORY / folder).glob("*.toml")):
        for name, table in tomllib.loads(path.read_text()).items():
            found.append((f"{path.stem}/{name}", table))
    return found


def _list(value: str | list) -> list[bytes | int]:
    return [
        one if isinstance(one, int) else unescape(one) for one in ([value] if isinstance(value, str) else value)
    ]


def _statuses(value: list) -> list[list[int]]:
    return [[one] if isinstance(one, int) else one for one in value]


def request_cases() -> list[Case]:
    """Return the cases of requests/."""
    cases = []
    for name, table in _tables("requests"):
        gets = _statuses(table.pop("gets", []))
        then = "waits" if not gets else "closed" if gets[-1][0] >= 400 else "open"
        cases.append(
            Case(
                name,
                _list(table.pop("send")),
                [unescape(one) for one in table.pop("sees", [])],
                gets,
                table.pop("then", then),
                **{key: table.pop(key) for key in ("has", "lacks", "beside", "split") if key in table},
            )
        )
        assert not table, f"{name}: unknown keys {sorted(table)}"
    return cases


def answer_cases() -> list[AnswerCase]:
    """Return the cases of answers/."""
    cases = []
    for name, table in _tables("answers"):
        body = table.pop("body", None)
        cases.append(
            AnswerCase(
                name,
                [
                    unescape(one)
                    for one in ([table["answer"]] if isinstance(table["answer"], str) else table["answer"])
                ],
                table.pop("end", "keep"),
                table.pop("ask", "GET"),
                _statuses(table.pop("gets")),
                None if body is None else unescape(body),
                table.pop("then", "open"),
                table.pop("reused", None),
                table.pop("has", []),
                table.pop("lacks", []),
            )
        )
        del table["answer"]
        assert not table, f"{name}: unknown keys {sorted(table)}"
    return cases


class Client:
    """A client's connection; what it gets is read strictly. `methods` are those of its requests: HEAD matters."""

    def __init__(self, port: int, *methods: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answers: list[Parsed] = []
        self.closed = self.broken = False
        self._reader = AnswerReader(*methods)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    @property
    def statuses(self) -> list[int]:
        return [answer.status for answer in self.answers]

    def send(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            self.closed = True  # it has refused what came before; its answer may be there to read

    def say(self, pieces: list[bytes | int]) -> None:
        """Send each piece as a write of its own; a number waits for so many answers."""
        for number, piece in enumerate(pieces):
            if isinstance(piece, int):
                self.read(piece)
                continue
            if number:
                time.sleep(PAUSE)
            self.send(piece)

    def read(self, count: int, seconds: float = 5) -> None:
        """Read until `count` answers have come in all, the connection ends, or the time is over."""
        end = time.monotonic() + seconds
        while len(self.answers) < count:
            left = end - time.monotonic()
            if left <= 0:
                return
            self.socket.settimeout(left)
            try:
                data = self.socket.recv(2**16)
            except TimeoutError:
                return
            except ConnectionResetError:
                data = b""
            if not data:
                self.closed = True
                try:
                    last = self._reader.end()
                except CutShort:
                    self.broken = True
                    return
                if last is not None:
                    self.answers.append(last)
                return
            self._reader.feed(data)
            while (answer := self._reader.next()) is not None:
                self.answers.append(answer)

    def ask(self, request: bytes) -> Parsed:
        """Send one request more, and return its answer."""
        expected = len(self.answers) + 1
        self.send(request)
        self.read(expected)
        assert len(self.answers) == expected, f"no answer to {request[:100]!r}, closed: {self.closed}"
        return self.answers[-1]


def fits(statuses: list[int], allowed: list[list[int]]) -> bool:
    return len(statuses) == len(allowed) and all(
        one in any_of for one, any_of in zip(statuses, allowed, strict=True)
    )
