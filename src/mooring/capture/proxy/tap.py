"""A tap: what the recorder gets of one exchange while it flows through."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mooring.exchange import Exchange, new_request_id

if TYPE_CHECKING:
    from mooring.capture.proxy.headers import Fields
    from mooring.capture.proxy.server import Proxy

_texts: dict[bytes, str] = {}


def text(value: bytes | None) -> str:
    """Return the value of a field as text; what comes often is decoded once."""
    if not value:
        return ""
    known = _texts.get(value)
    if known is not None:
        return known
    decoded = value.decode("latin-1")
    if len(_texts) < 1024 and len(value) < 256:  # clients choose the values
        _texts[value] = decoded
    return decoded


class Tap:
    """Keeps the bodies of one exchange, each up to a limit, and what else belongs to the record."""

    __slots__ = (
        "_answer_size",
        "_proxy",
        "_request_size",
        "_started",
        "_target",
        "answer",
        "answer_fields",
        "client_request_id",
        "duration_ns",
        "errors",
        "request",
        "request_fields",
        "request_id",
        "sampled",
        "status",
        "time_ns",
    )

    def __init__(self, proxy: Proxy, fields: Fields, target: bytes) -> None:
        self._proxy = proxy
        self._target = target
        self.time_ns = time.time_ns()
        self._started = time.perf_counter_ns()
        self.duration_ns = 0
        self.request_id = new_request_id(self.time_ns)
        self.client_request_id = fields.read.get(b"x-request-id")
        self.sampled = proxy.recorder.begin(self.request_id)
        self.request_fields = fields
        self.answer_fields: Fields | None = None
        self.status = 0
        self.errors: list[str] = []
        self.request: list[bytes] = []
        self.answer: list[bytes] = []
        self._request_size = self._answer_size = 0

    @property
    def answer_id(self) -> bytes:
        """The id that the answer carries: the client's own if it sent one."""
        return self.client_request_id or self.request_id.encode()

    def request_body(self, data: bytes) -> None:
        """Keep a piece of the request's body."""
        if self.sampled:
            self._request_size = self._keep(self.request, self._request_size, data)

    def answer_body(self, data: bytes) -> None:
        """Keep a piece of the answer's body."""
        if self.sampled:
            self._answer_size = self._keep(self.answer, self._answer_size, data)

    def _keep(self, parts: list[bytes], size: int, data: bytes) -> int:
        room = self._proxy.settings.max_payload - size
        if len(data) > room:
            if "truncated" not in self.errors:
                self.errors.append("truncated")
            data = data[:room]
        parts.append(data)
        return size + len(data)

    def elapsed(self) -> int:
        """Stop the clock, and return the nanoseconds since the request's head."""
        self.duration_ns = time.perf_counter_ns() - self._started
        return self.duration_ns

    def exchange(self) -> Exchange:
        """Return the record of the exchange, as complete as it will be."""
        settings, asked = self._proxy.settings, self.request_fields.read
        answered = self.answer_fields.read if self.answer_fields is not None else {}
        return Exchange(
            request_id=self.request_id,
            time_ns=self.time_ns,
            duration_ns=self.duration_ns,
            path=text(self._target.partition(b"?")[0]),
            status=self.status,
            request_type=text(asked.get(b"content-type")),
            request_encoding=text(asked.get(b"content-encoding")),
            response_type=text(answered.get(b"content-type")),
            response_encoding=text(answered.get(b"content-encoding")),
            request=b"".join(self.request),
            response=b"".join(self.answer),
            client_request_id=text(self.client_request_id) or None,
            headers={name: text(asked[key]) for key, name in self._proxy.logged_headers if key in asked},
            model=self._proxy.model,
            version=self._proxy.version,
            sampling=settings.sample,
            errors=self.errors,
        )
