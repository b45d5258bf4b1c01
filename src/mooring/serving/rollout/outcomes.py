"""What the front tells the controller of how requests were answered, bounded in number and bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from mooring.capture.proxy.exchange_capture import ExchangeCapture, text
from mooring.exchange import BROKEN_OFF
from mooring.serving.protocol import Outcome, Outcomes

MOST = 2000
MOST_BYTES = 4 * 2**20
"""How many outcomes, and bytes of answers in them, are told at a time; further ones are left out and counted."""
_NOT_ASKED = frozenset(
    {"overloaded", "upstream_unreachable", "request_timeout", "body_too_large", "head_too_large", "bad_request"}
)
"""Codes of requests that their version has not seen: what the front or the client broke is no fault of it."""
_LOOKED_AT = 10
"""One in so many of the champion's answers is told whole, since it may lack what the canary's do."""


class OutcomeCollector:
    """Gathers outcomes while several versions answer; `tell` sends them on, and says whether there was room."""

    def __init__(self, tell: Callable[[Outcomes], bool]) -> None:
        self._tell = tell
        self._outcomes: list[Outcome] = []
        self._bytes = self._left_out = self._dropped = self._timed_out = self._champions = 0

    def answered(self, tap: ExchangeCapture) -> None:
        """Take how the champion or the canary answered."""
        if _NOT_ASKED.intersection(tap.errors):
            return
        answer = answer_of(tap)
        if tap.variant == "champion":
            self._champions += 1
            answer = answer if self._champions % _LOOKED_AT == 0 else None
        self._take(
            Outcome(
                tap.version or "",
                "canary" if tap.variant == "canary" else "champion",
                _ok(tap),
                tap.served_ns / 1e9,
                answer,
                **_request(tap, answer),
            )
        )

    def shadow(self, tap: ExchangeCapture, live: ExchangeCapture) -> None:
        """Take how the shadow answered what the champion has answered."""
        if _NOT_ASKED.intersection(tap.errors):
            return
        self._timed_out += "upstream_timeout" in tap.errors
        answer, champions = answer_of(tap), answer_of(live)
        self._take(
            Outcome(
                tap.version or "",
                "shadow",
                _ok(tap),
                tap.served_ns / 1e9,
                answer,
                _ok(live),
                live.served_ns / 1e9,
                champions,
                **(_request(live, answer) if champions is None else {}),
            )
        )

    def shadow_dropped(self) -> None:
        """Count a copy that there was no room for."""
        self._dropped += 1

    def flush(self) -> None:
        """Tell what was gathered."""
        if not (self._outcomes or self._left_out or self._dropped or self._timed_out):
            return
        told = Outcomes(tuple(self._outcomes), self._left_out, self._dropped, self._timed_out)
        count = len(self._outcomes)
        self._outcomes, self._bytes = [], 0
        if self._tell(told):
            self._left_out = self._dropped = self._timed_out = 0
        else:
            self._left_out += count

    def _take(self, outcome: Outcome) -> None:
        size = sum(len(one or b"") for one in (outcome.answer, outcome.champion_answer, outcome.request))
        if len(self._outcomes) >= MOST:
            self._left_out += 1
            return
        if self._bytes + size > MOST_BYTES:
            # Without what it says, but not left out: those that fail are small, and would be all that is told.
            outcome, size = msgspec.structs.replace(outcome, answer=None, champion_answer=None, request=None), 0
        self._bytes += size
        self._outcomes.append(outcome)


def _ok(tap: ExchangeCapture) -> bool:
    """Whether it did well; a client that gave up before its answer tells only how long it has waited."""
    if "client_gone" in tap.errors:
        return True
    return 200 <= tap.status < 300 and not BROKEN_OFF.intersection(tap.errors)


def _request(tap: ExchangeCapture, answer: bytes | None) -> dict[str, Any]:
    """Return what an answer is compared with where the champion's is not known: the request, if it can be read."""
    asked = tap.request_fields.read
    if answer is None or asked.get(b"content-encoding"):
        return {}
    return {"request": bytes(tap.request), "request_type": text(asked.get(b"content-type"))}


def answer_of(tap: ExchangeCapture) -> bytes | None:
    """Return the answer's body, where all of it is there to be read."""
    if tap.errors or not tap.kept:
        return None
    encoded = tap.answer_fields is not None and tap.answer_fields.read.get(b"content-encoding")
    return None if encoded else bytes(tap.answer)
