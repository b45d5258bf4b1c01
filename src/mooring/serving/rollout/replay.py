"""A replay: requests that the champion has answered are put to another version, before it gets any of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from mooring.capture.proxy.backend import Backend
from mooring.capture.proxy.exchange_capture import ExchangeCapture, text
from mooring.capture.proxy.headers import Fields
from mooring.capture.proxy.interfaces import Target
from mooring.capture.proxy.server import Proxy
from mooring.capture.proxy.shadow import ShadowCopy
from mooring.serving.protocol import Replay, Replayed, ReplayedAnswer
from mooring.serving.rollout.outcomes import answer_of

_SHOWN_BYTES = 300
_MOST_BYTES = 4 * 2**20
"""So many bytes of requests and answers are told, to be compared."""


async def replay(proxy: Proxy, backend: Backend, asked: Replay) -> Replayed:
    """Put the last requests that were answered with success, else the example, to `backend`: how does that go?

    Nothing of it is logged or counted, and no client waits for it.
    """
    taps: Sequence[ExchangeCapture] = list(proxy.journal.recent or ())[-asked.requests :] if asked.requests else []
    if not taps and asked.example is not None:
        taps = [_example(proxy, asked.example)]
        champion = proxy.routes.champion
        before = await _put(proxy, champion, taps[0]) if champion.up and champion is not backend else None
        if before is not None and _failure(before) is None:
            taps = [before]
    failures, answers, room = [], [], _MOST_BYTES
    for live in taps:
        tap = await _put(proxy, backend, live)
        failure = _failure(tap)
        if failure is not None or tap is None:
            failures.append(failure or "")
            continue
        answer, before_it = answer_of(tap), answer_of(live) if live.status else None
        if answer is None:
            continue
        room -= len(live.request) + len(answer) + len(before_it or b"")
        if room >= 0:
            answers.append(
                ReplayedAnswer(
                    bytes(live.request), text(live.request_fields.read.get(b"content-type")), answer, before_it
                )
            )
    return Replayed(asked.version, len(taps), len(failures), failures[0] if failures else "", tuple(answers))


async def _put(proxy: Proxy, target: Target, live: ExchangeCapture) -> ExchangeCapture | None:
    """Put one request; return how it was answered, None where no server was free for it."""
    ended: asyncio.Future[bool] = proxy.loop.create_future()
    copy = ShadowCopy(proxy.context, target, live, lambda _, sent: ended.set_result(sent))
    target.acquire(copy)
    if not await ended:
        return None
    copy.own_capture.free()
    return copy.own_capture


def _failure(tap: ExchangeCapture | None) -> str | None:
    """Return what was wrong with an answer, None if nothing was."""
    if tap is None:
        return "no server of it was free"
    if 200 <= tap.status < 300 and not tap.errors:
        return None
    if not tap.status:
        return f"no answer came ({', '.join(tap.errors)})"
    return f"status {tap.status}: {bytes(tap.answer[:_SHOWN_BYTES]).decode(errors='replace')}"


def _example(proxy: Proxy, body: bytes) -> ExchangeCapture:
    fields = Fields(proxy.context.request_table)
    fields.add(b"Content-Type", b"application/json")
    return ExchangeCapture(proxy.context.captures, fields, b"/invocations", counts=False, body=body)
