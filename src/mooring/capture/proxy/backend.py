"""A backend: the servers of one version of the model, and the requests that wait for one of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from mooring.capture.proxy.address import Address
from mooring.capture.proxy.interfaces import Carried, Target
from mooring.capture.proxy.pool import Pool, PoolOwner

if TYPE_CHECKING:
    from mooring.capture.proxy.context import Context

MOST_TIMEOUTS: Final = 3
"""A server that came back with nothing while so many requests in a row timed out hangs."""


class Waiting(NamedTuple):
    """What waits for a server, and until when."""

    carried: Carried
    deadline: float


class Backend(PoolOwner):
    """The servers of one version; a request goes to the one that has the fewest.

    Servers of others have as many requests as come. With `limit` each of them has so many at a time, since a
    model answers no faster for having more of them; `queue` requests for each may wait, for `patience` seconds,
    and those beyond are refused at once with 503 and Retry-After.

    The first comes first until a client gives up while it waits. From then on the newest comes first, until nobody
    waits any more: clients that give up after the same time would else all be begun with shortly before that, and
    while they ask again nobody would ever get an answer.
    """

    def __init__(
        self,
        context: Context,
        version: str | None,
        addresses: Sequence[Address] = (),
        *,
        limit: int | None = None,
        queue: int = 0,
        patience: float = float("inf"),
    ) -> None:
        prefix = addresses[0].prefix if addresses else b""
        super().__init__(version, limit, prefix, addresses[0].authority if addresses else b"localhost")
        self._context = context
        self._queue = queue
        self.patience = patience
        self._newest_first = False
        self._waiting: deque[Waiting] = deque()
        self._free = asyncio.Event()
        self._pools = [Pool(context, address, self) for address in addresses]

    @property
    def up(self) -> bool:
        """Whether there is a server that requests can go to."""
        return bool(self._pools)

    @property
    def has_room(self) -> bool:
        """Whether a server could begin with a request now."""
        return self._least() is not None

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    @property
    def live_waiting(self) -> bool:
        """Whether a client waits, and not a copy for the shadow alone."""
        return any(
            one.carried.capture is not None and one.carried.capture.variant != "shadow" for one in self._waiting
        )

    @property
    def addresses(self) -> list[Address]:
        """Where its servers are."""
        return [pool.address for pool in self._pools]

    @property
    def hanging(self) -> list[str]:
        """The sockets of servers that hang: see MOST_TIMEOUTS."""
        return [pool.address.socket for pool in self._pools if pool.timeouts >= MOST_TIMEOUTS]

    def acquire(self, carried: Carried) -> None:
        """Give it a connection, now or when it is its turn."""
        if self.limit is None:
            self._emptiest().acquire(carried)
            return
        if (
            carried.capture is None and self._pools
        ):  # is it well, say: such a question is no work, and doesn't wait
            self._emptiest().acquire(carried, counted=False)
            return
        pool = self._least()
        if pool is not None:
            pool.acquire(carried)
            return
        if len(self._waiting) < self._queue * max(len(self._pools), 1):
            carried.queued = True
            self._waiting.append(Waiting(carried, self._context.now + self.patience))
            return
        # In a turn of its own, since the answer to many in a row begins with the next.
        why = "All model servers are busy, and as many requests wait as may."
        self._context.loop.call_soon(self._turn_away, carried, why)

    def freed(self) -> None:
        """Go on with those that wait, now that a server may have room."""
        while self._waiting:
            pool = self._least()
            if pool is None:
                return
            carried = (self._waiting.pop() if self._newest_first else self._waiting.popleft()).carried
            carried.queued = False
            pool.acquire(carried, counted=carried.capture is not None)
        self._newest_first = False
        if not any(pool.outstanding for pool in self._pools):
            self._free.set()

    def lost(self, pool: Pool, carried: Carried) -> None:
        """Take out a server that nobody listens at, and give it another; nothing of it was sent yet."""
        if pool in self._pools:
            self._pools.remove(pool)
        if carried.gone:
            return
        champion = self._context.routes.champion
        if not self._pools and champion is not self:
            carried.move(champion)
        else:
            self.acquire(carried)

    def set_addresses(self, addresses: Iterable[Address]) -> None:
        """Have these servers from now on; those that are no longer there finish what they have."""
        known = {pool.address: pool for pool in self._pools}
        self._pools = [
            known.pop(address) if address in known else Pool(self._context, address, self) for address in addresses
        ]
        for pool in known.values():
            pool.close()
        self.freed()
        champion = self._context.routes.champion
        if not self._pools and self._waiting and champion is not self:
            self.hand_over(champion)

    def hand_over(self, other: Target) -> None:
        """Have another backend answer those that wait."""
        waiting, self._waiting = self._waiting, deque()
        for one in waiting:
            one.carried.queued = False
            one.carried.move(other)

    def sweep(self, now: float) -> None:
        """Turn those away that have waited for too long."""
        waiting = self._waiting
        while waiting and waiting[0].deadline < now:
            carried = waiting.popleft().carried
            carried.queued = False
            self._turn_away(carried, "No model server was free for it in time.")

    def leave(self, carried: Carried) -> None:
        """Forget one that waits, whose client has left."""
        carried.queued = False
        self._waiting = deque(one for one in self._waiting if one.carried is not carried)
        self._newest_first = True
        self.freed()

    def _turn_away(self, carried: Carried, why: str) -> None:
        """Have the champion answer what a canary has no room for; what the champion has none for is refused."""
        champion = self._context.routes.champion
        if carried.gone:
            return
        if champion is self:
            carried.refused(why)
            return
        if champion.has_room and carried.capture is not None and carried.capture.variant == "canary":
            self._context.journal.canary_lost(carried.capture)  # it alone has none, so that is a fault of its own
        carried.move(champion)

    async def drained(self) -> None:
        """Return once it has nothing to do any more."""
        while self._waiting or any(pool.outstanding for pool in self._pools):
            self._free.clear()
            await self._free.wait()

    def close(self) -> None:
        """Close the idle connections."""
        for pool in self._pools:
            pool.close()

    def _least(self) -> Pool | None:
        """Return the server that has the fewest requests, if it may have another."""
        if not self._pools:
            return None
        pool = self._emptiest()
        return pool if pool.outstanding < (self.limit or 0) else None

    def _emptiest(self) -> Pool:
        """Return the server that has the fewest requests."""
        emptiest = self._pools[0]
        for pool in self._pools:
            if pool.outstanding < emptiest.outstanding:
                emptiest = pool
        return emptiest
