"""A tap: what the recorder gets of one exchange while it flows through."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mooring.exchange import Exchange, new_request_id

if TYPE_CHECKING:
    from mooring.capture.proxy.backend import Backend
    from mooring.capture.proxy.headers import Fields, Said
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
        "_proxy",
        "_started",
        "answer",
        "answer_fields",
        "client_request_id",
        "copied",
        "duration_ns",
        "errors",
        "kept",
        "request",
        "request_fields",
        "request_id",
        "sampled",
        "status",
        "target",
        "time_ns",
        "variant",
        "version",
    )

    def __init__(self, proxy: Proxy, fields: Fields, target: bytes) -> None:
        self._proxy = proxy
        self.target = target
        self.time_ns = time.time_ns()
        self._started = time.perf_counter_ns()
        self.duration_ns = 0
        self.request_id = new_request_id(self.time_ns)
        self.client_request_id = fields.read.get(b"x-request-id")
        self.sampled = self.kept = proxy.recorder.begin(self.request_id)
        self.copied = False
        self.version: str | None = None
        self.variant = "champion"
        self.request_fields = fields
        self.answer_fields: Fields | None = None
        self.status = 0
        self.errors: list[str] = []
        self.request: bytes | bytearray = b""
        self.answer: bytes | bytearray = b""

    def go_to(self, backend: Backend) -> None:
        """Note who answers; what the shadow gets, or a rollout looks at, is kept though it is not logged."""
        self.version, self.variant = backend.version, backend.variant
        routes = self._proxy.routes
        if routes.several:
            self.copied = routes.copies(backend, self.request_id)
            self.kept = self.sampled or self.copied or self.variant == "canary"

    @classmethod
    def of_example(cls, proxy: Proxy, fields: Fields, target: bytes, body: bytes) -> Tap:
        """Return the tap of a request that no client sent, so that it is not counted."""
        tap = object.__new__(cls)
        tap._proxy = proxy
        tap.target, tap.request_fields, tap.request = target, fields, body
        tap.restart(time.time_ns())
        tap.request_id, tap.client_request_id = new_request_id(tap.time_ns), None
        tap.sampled, tap.kept, tap.copied = False, True, False
        tap.version, tap.variant = None, "champion"
        tap.answer_fields, tap.answer, tap.status, tap.errors = None, b"", 0, []
        return tap

    def copy(self, backend: Backend) -> Tap:
        """Return the tap of a copy of this request, for the shadow: it has the same id."""
        tap = Tap.of_example(self._proxy, self.request_fields, self.target, bytes(self.request))
        tap.request_id, tap.client_request_id = self.request_id, self.client_request_id
        tap.sampled = self.sampled
        tap.version, tap.variant = backend.version, "shadow"
        return tap

    def restart(self, time_ns: int) -> None:
        """Begin to count the time that the answer takes."""
        self.time_ns = time_ns
        self._started = time.perf_counter_ns()
        self.duration_ns = 0

    @property
    def answer_id(self) -> bytes:
        """The id that the answer carries: the client's own if it sent one."""
        return self.client_request_id or self.request_id.encode()

    def request_body(self, data: bytes) -> None:
        """Keep a piece of the request's body."""
        if self.kept:
            self.request = self._kept(self.request, data)

    def answer_body(self, data: bytes) -> None:
        """Keep a piece of the answer's body."""
        if self.kept:
            self.answer = self._kept(self.answer, data)

    def _kept(self, body: bytes | bytearray, data: bytes) -> bytes | bytearray:
        room = self._proxy.settings.max_payload - len(body)
        if len(data) > room:
            if "truncated" not in self.errors:
                self.errors.append("truncated")
            data = data[:room]
        if not body:
            return data
        if type(body) is bytes:
            body = bytearray(body)
        body += data
        return body

    @property
    def whole(self) -> bool:
        """Whether it is a request that was answered with success, and all of both was kept."""
        return self.status == 200 and self.kept and not self.errors

    def elapsed(self) -> int:
        """Stop the clock, and return the nanoseconds since the request's head."""
        self.duration_ns = time.perf_counter_ns() - self._started
        return self.duration_ns

    def exchange(self) -> Exchange:
        """Return the record of the exchange, as complete as it will be."""
        path, request_type, request_encoding, headers = self.request_fields.said or self._said()
        answer_fields = self.answer_fields
        response_type, response_encoding = "", ""
        if answer_fields is not None:
            _, response_type, response_encoding, _ = answer_fields.said or _answer_said(answer_fields)
        return Exchange(
            request_id=self.request_id,
            time_ns=self.time_ns,
            duration_ns=self.duration_ns,
            path=path,
            status=self.status,
            request_type=request_type,
            request_encoding=request_encoding,
            response_type=response_type,
            response_encoding=response_encoding,
            request=bytes(self.request),
            response=bytes(self.answer),
            client_request_id=text(self.client_request_id) or None,
            headers=headers,
            model=self._proxy.model,
            version=self.version,
            variant=self.variant,
            sampling=self._proxy.settings.sample,
            errors=self.errors,
        )

    def _said(self) -> Said:
        """Return what the request's head says for the record; kept, since a known head comes again."""
        fields, read = self.request_fields, self.request_fields.read
        headers = {name: text(read[key]) for key, name in self._proxy.logged_headers if key in read}
        path = text(self.target.partition(b"?")[0])
        said = path, text(read.get(b"content-type")), text(read.get(b"content-encoding")), headers
        fields.said = said
        return said


def _answer_said(fields: Fields) -> Said:
    said: Said = "", text(fields.read.get(b"content-type")), text(fields.read.get(b"content-encoding")), {}
    fields.said = said
    return said
