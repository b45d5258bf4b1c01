"""A replay: requests that the champion has answered are put to another version, before it gets any of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from mooring.capture.proxy.backend import Backend
from mooring.capture.proxy.headers import Fields
from mooring.capture.proxy.server import Proxy
from mooring.capture.proxy.shadow import ShadowCopy
from mooring.capture.proxy.tap import Tap
from mooring.rollout.messages import Replay, Replayed

_SHOWN_BYTES = 300


async def replay(proxy: Proxy, backend: Backend, asked: Replay) -> Replayed:
    """Put the last requests that were answered with success, else the example, to `backend`: how does that go?

    Nothing of it is logged or counted, and no client waits for it.
    """
    taps: Sequence[Tap] = list(proxy.journal.recent or ())[-asked.requests :] if asked.requests else []
    if not taps and asked.example is not None:
        taps = [_example(proxy, asked.example)]
    failures = []
    for tap in taps:
        failure = await _put(proxy, backend, tap)
        if failure is not None:
            failures.append(failure)
    return Replayed(asked.version, len(taps), len(failures), failures[0] if failures else "")


async def _put(proxy: Proxy, backend: Backend, live: Tap) -> str | None:
    """Put one request; return what was wrong with the answer, or None."""
    ended: asyncio.Future[bool] = proxy.loop.create_future()
    copy = ShadowCopy(proxy.context, backend, live, lambda _, sent: ended.set_result(sent))
    backend.acquire(copy)
    if not await ended:
        return "no server of it was free"
    tap = copy.own_tap
    tap.free()
    if 200 <= tap.status < 300 and not tap.errors:
        return None
    if not tap.status:
        return f"no answer came ({', '.join(tap.errors)})"
    return f"status {tap.status}: {bytes(tap.answer[:_SHOWN_BYTES]).decode(errors='replace')}"


def _example(proxy: Proxy, body: bytes) -> Tap:
    fields = Fields(proxy.context.request_table)
    fields.add(b"Content-Type", b"application/json")
    return Tap(proxy.context.taps, fields, b"/invocations", counts=False, body=body)
