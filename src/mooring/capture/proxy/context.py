"""What all connections of one proxy process share: settings, the clock, tables of fields, where requests go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from mooring.capture.proxy.exchange_capture import Budget, CaptureDefaults, ExchangeCapture, text
from mooring.capture.proxy.headers import (
    ANSWER_READ,
    ANSWER_REWRITTEN,
    HOP_BY_HOP,
    READ,
    REQUEST_REWRITTEN,
    REWRITTEN,
    Fields,
    FieldTable,
    date_line,
)
from mooring.capture.proxy.interfaces import Client, Connection, Target
from mooring.capture.proxy.journal import Journal
from mooring.capture.proxy.limits import limits
from mooring.capture.proxy.redactions import Redactions
from mooring.capture.proxy.states import deadlines
from mooring.capture.recorder import Recorder
from mooring.exchange import fraction_of

if TYPE_CHECKING:
    from mooring.capture.proxy.security import Security
    from mooring.settings import FrontSettings


class Routes:
    """Where requests go. A share is taken by a hash of the id, or of a header: one value, one version."""

    def __init__(self, champion: Target) -> None:
        self.champion = champion
        self.canaries: tuple[tuple[float, Target], ...] = ()
        self.shadow: Target | None = None
        self.shadow_share = 0.0

    def set(
        self,
        champion: Target,
        canaries: Sequence[tuple[float, Target]] = (),
        shadow: tuple[float, Target] | None = None,
    ) -> None:
        """Send requests there from now on, each canary its share of them."""
        self.champion = champion
        champion.variant = "champion"
        bounds, upper = [], 0.0
        for share, target in canaries:
            target.variant = "canary"
            upper += share
            bounds.append((upper, target))
        self.canaries = tuple(bounds)
        self.shadow_share, self.shadow = shadow or (0.0, None)

    @property
    def several(self) -> bool:
        """Whether more than one version has requests to answer."""
        return bool(self.canaries) or self.shadow is not None

    @property
    def targets(self) -> list[Target]:
        """All that requests go to, the champion first."""
        found = [self.champion, *(target for _, target in self.canaries)]
        if self.shadow is not None and self.shadow not in found:
            found.append(self.shadow)
        return found

    def choose(self, key: str) -> Target:
        """Return who answers the request with this id, or this value of the sticky header."""
        if self.canaries:
            place = fraction_of(key, "canary")
            for upper, target in self.canaries:
                if place < upper:
                    return target if target.up else self.champion
        return self.champion

    def copies(self, target: Target, request_id: str) -> bool:
        """Whether the shadow gets a copy of a request that `target` answers: it is compared with the champion."""
        if self.shadow is None or target is not self.champion or not self.shadow.up:
            return False
        return fraction_of(request_id, "shadow") < self.shadow_share


class Context:
    """The settings, the clock and the tables of one proxy process, what is open in it, and where requests go.

    `now` is the loop's clock in seconds and `date` the line of a Date field, both as of the last sweep. `held` is
    the budget of the bodies that all connections hold together. `routes` are set once there is a target.
    """

    routes: Routes

    def __init__(
        self, settings: FrontSettings, recorder: Recorder, loop: asyncio.AbstractEventLoop, security: Security
    ) -> None:
        self.settings = settings
        self.recorder = recorder
        self.loop = loop
        self.redactions = Redactions(settings, loop)
        self.journal = Journal(recorder, self.redactions, settings.durability, loop)
        self.held = Budget(settings.max_held)
        self.aside = ThreadPoolExecutor(1)
        """The thread that looks at long bodies: one, since each needs as much memory again."""
        self.clients: set[Client] = set()
        self.upstreams: set[Connection] = set()
        """The connections to model servers, also those that are about to be open."""
        self.max_connections, self.max_upstream_connections, _ = limits(settings)
        # Read once: each costs many times as much where the settings' class is not compiled.
        self.max_head, self.max_body, self.max_target = settings.max_head, settings.max_body, settings.max_target
        self.response_timeout, self.connect_timeout = settings.response_timeout, settings.connect_timeout
        self.upstream_idle_timeout = settings.upstream_idle_timeout
        self.legacy_split, self.legacy_max_bytes = settings.legacy_split, settings.legacy_max_bytes
        self.trust_forwarded = settings.trust_forwarded
        self.deadlines = deadlines(settings)
        self.draining = False
        self._no_clients = asyncio.Event()
        logged = [(name.lower().encode(), name) for name in settings.header]
        self.captures = CaptureDefaults(
            recorder, self.held, settings.max_payload, settings.sample, settings.model, logged
        )
        self._sticky = settings.sticky.lower().encode() if settings.sticky else None
        self.scheme = security.scheme.encode()
        self.unauthorized = 0
        """How many requests had no key, and went no further."""
        self._keys = security.keys
        # A key is for Mooring: the model server, and its logs, never see it.
        credentials = (b"authorization",) if security.keys is not None else ()
        kept_back = (*HOP_BY_HOP, *REWRITTEN, *REQUEST_REWRITTEN, *credentials)
        sticky = [self._sticky] if self._sticky and self._sticky not in kept_back else []
        self.request_table = FieldTable(kept_back, (*READ, *(name for name, _ in logged), *sticky))
        self.answer_table = FieldTable((*HOP_BY_HOP, *REWRITTEN, *ANSWER_REWRITTEN), ANSWER_READ)
        self.tick()

    def tick(self) -> None:
        """Read the clocks."""
        self.now = self.loop.time()
        self.date = date_line(time.time())

    def admits(self, fields: Fields) -> bool:
        """Whether a request with these fields shows a key, where one is needed; count it if it does not."""
        if self._keys is None or self._keys.known(fields.read.get(b"authorization")):
            return True
        self.unauthorized += 1
        return False

    def closed(self, client: Client) -> None:
        """Forget a client's connection that is closed."""
        self.clients.discard(client)
        if not self.clients:
            self._no_clients.set()

    async def clients_gone(self) -> None:
        """Return once no client is connected."""
        self._no_clients.clear()
        if self.clients:
            await self._no_clients.wait()

    def choose(self, capture: ExchangeCapture, fields: Fields) -> Target:
        """Return who answers a scoring request, and note it: who that is, and whether it is copied."""
        routes = self.routes
        if not routes.several:
            target = routes.champion
            capture.version, capture.variant = target.version, target.variant
            return target
        value = fields.read.get(self._sticky) if self._sticky else None
        target = routes.choose(text(value) or capture.request_id)
        capture.version, capture.variant = target.version, target.variant
        # What the shadow gets, or a rollout looks at, is kept though it is not logged.
        capture.copied = routes.copies(target, capture.request_id)
        capture.kept = capture.sampled or capture.copied or capture.variant == "canary"
        return target
