"""What the recorder gets of one exchange, kept while it passes through."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any

from mooring.exchange import Exchange
from mooring.ids import new_request_id

if TYPE_CHECKING:
    from mooring.capture.proxy.headers import Fields
    from mooring.capture.recorder import Recorder


class Budget:
    """Bytes of bodies that all connections together may hold in memory.

    >>> budget = Budget(10)
    >>> budget.take(8), budget.take(8), budget.held
    (True, False, 8)
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def take(self, count: int) -> bool:
        """Claim so many bytes more; say whether there was room for them."""
        if self.held + count > self.limit:
            return False
        self.held += count
        return True

    def give(self, count: int) -> None:
        """Give bytes back that `take` claimed."""
        self.held -= count


class CaptureDefaults:
    """What all captures share. `logged_headers` pairs a header's lower-case name with how it is logged."""

    def __init__(
        self,
        recorder: Recorder,
        held: Budget,
        max_payload: int,
        sampling: float,
        model: str | None,
        logged_headers: Sequence[tuple[bytes, str]],
    ) -> None:
        self.recorder = recorder
        self.held = held
        self.max_payload = max_payload
        self.sampling = sampling
        self.model = model
        self.logged_headers = logged_headers


def text(value: bytes | None) -> str:
    """Return the value of a field as text.

    >>> text(b"text/csv"), text(None)
    ('text/csv', '')
    """
    return value.decode("latin-1") if value else ""


class ExchangeCapture:
    """Keeps the bodies of one exchange, each up to a limit, and what else belongs to the record.

    `sampled` says whether it is logged, `kept` whether its bodies are kept, be it for the log, the shadow or a
    rollout. A capture that `counts` is in the ledger; a copy for the shadow, or an example, is not.
    """

    def __init__(
        self, settings: CaptureDefaults, fields: Fields, target: bytes, *, counts: bool = True, body: bytes = b""
    ) -> None:
        self._settings = settings
        self.target = target
        self.time_ns = time_ns()
        self._started = self._sent = perf_counter_ns()
        self.duration_ns = 0
        self.served_ns = 0
        """How long the model server took, without what the request has waited for it."""
        self.request_id = new_request_id(self.time_ns)
        self.client_request_id = fields.read.get(b"x-request-id") if counts else None
        self.sampled = settings.recorder.begin(self.request_id) if counts else False
        self.kept = self.sampled or not counts
        self.copied = False
        self.rewrapped = False
        """Whether the model server got its body in another form, that of today."""
        self.version: str | None = None
        self.variant = "champion"
        self.request_fields = fields
        self.answer_fields: Fields | None = None
        self.status = 0
        self.errors: list[str] = []
        self.request: bytes | bytearray = body
        self.answer: bytes | bytearray = b""
        self._held = 0

    def copy(self, version: str | None) -> ExchangeCapture:
        """Return the capture of a copy of this request, for the shadow: it has the same id."""
        capture = ExchangeCapture(
            self._settings, self.request_fields, self.target, counts=False, body=bytes(self.request)
        )
        capture.request_id, capture.client_request_id = self.request_id, self.client_request_id
        capture.sampled = self.sampled
        capture.version, capture.variant = version, "shadow"
        return capture

    def restart(self) -> None:
        """Begin to count the time that the answer takes."""
        self.time_ns = time_ns()
        self._started = self._sent = perf_counter_ns()

    def sent(self) -> None:
        """The request goes to a model server now, after it may have waited for one."""
        self._sent = perf_counter_ns()

    @property
    def answer_id(self) -> bytes:
        """The id that the answer carries: the client's own if it sent one."""
        return self.client_request_id or self.request_id.encode()

    def request_body(self, data: bytes) -> bool:
        """Keep a piece of the request's body; say whether all of it is kept, and so counted in the budget."""
        if not self.kept:
            return False
        room = self._room(len(data), len(self.request))
        if room:
            self.request = _longer(self.request, data[:room])
        return room == len(data)

    def answer_body(self, data: bytes) -> None:
        """Keep a piece of the answer's body."""
        if self.kept:
            room = self._room(len(data), len(self.answer))
            if room:
                self.answer = _longer(self.answer, data[:room])

    def answer_starts(self, status: int, fields: Fields) -> None:
        """Take the head of the answer, in the place of any before it that came to nothing."""
        self.status, self.answer_fields = status, fields
        if self.answer:
            self.answer = b""

    def _room(self, count: int, kept: int) -> int:
        """Return how many of so many bytes more may be kept: what is left out is noted once."""
        settings = self._settings
        room = min(count, settings.max_payload - kept)
        if room > 0 and not settings.held.take(room):
            room = 0
        if room < count and "truncated" not in self.errors:
            self.errors.append("truncated")
        self._held += room
        return room

    @property
    def size(self) -> int:
        """How many bytes of bodies it keeps."""
        return len(self.request) + len(self.answer)

    def free(self) -> None:
        """Give back what it held of the budget, once it has been recorded."""
        self._settings.held.give(self._held)
        self._held = 0

    @property
    def whole(self) -> bool:
        """Whether it is a request that was answered with success, and all of both was kept."""
        return self.status == 200 and self.kept and not self.errors

    def elapsed(self) -> int:
        """Stop the clock, and return the nanoseconds since the request's head."""
        now = perf_counter_ns()
        self.served_ns = now - self._sent
        self.duration_ns = now - self._started
        return self.duration_ns

    def exchange(self) -> Exchange:
        """Return the record of the exchange, as complete as it will be."""
        settings, asked = self._settings, self.request_fields.read
        answered = self.answer_fields.read if self.answer_fields is not None else {}
        # A body that came in pieces is a bytearray, which is written as it is: to copy a long one takes its time.
        request: Any = self.request
        response: Any = self.answer
        return Exchange(
            request_id=self.request_id,
            time_ns=self.time_ns,
            duration_ns=self.duration_ns,
            path=text(self.target.partition(b"?")[0]),
            status=self.status,
            request_type=text(asked.get(b"content-type")),
            request_encoding=text(asked.get(b"content-encoding")),
            response_type=text(answered.get(b"content-type")),
            response_encoding=text(answered.get(b"content-encoding")),
            request=request,
            response=response,
            client_request_id=text(self.client_request_id) or None,
            headers={name: text(asked[key]) for key, name in settings.logged_headers if key in asked},
            model=settings.model,
            version=self.version,
            variant=self.variant,
            sampling=settings.sampling,
            errors=self.errors,
        )


def _longer(body: bytes | bytearray, data: bytes) -> bytes | bytearray:
    """Return a body with a piece added; most have one piece, which is not copied."""
    if not body:
        return data
    longer = body if isinstance(body, bytearray) else bytearray(body)
    longer += data
    return longer
