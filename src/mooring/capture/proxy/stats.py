"""What a proxy process counts, apart from the ledger, in a form that adds up over workers."""

from __future__ import annotations

import msgspec

from mooring.exchange import Ledger

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds, in seconds, of the histogram of how long answers took."""


class Stats(msgspec.Struct):
    """The counts of one proxy process, or of several: gauges and counters alike add up.

    >>> stats = Stats(statuses={200: 1}); (stats + stats).statuses
    {200: 2}
    """

    ledger: Ledger = msgspec.field(default_factory=Ledger)
    statuses: dict[int, int] = {}
    durations: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    duration_ns: int = 0
    clients: int = 0
    upstreams: int = 0
    workers: int = 1
    ready: int = 0
    up: int = 0
    waiting: int = 0
    answers: dict[str, int] = {}
    """Answers by "VARIANT STATUS VERSION"."""
    ended: dict[str, Ledger] = {}
    """The accounts of workers that have ended, by their names as writers of the spool."""
    unauthorized: int = 0
    """Requests without a key, which went no further."""

    @property
    def since_start(self) -> Ledger:
        """The account of all processes, those too that have ended."""
        return sum(self.ended.values(), self.ledger)

    def __add__(self, other: Stats) -> Stats:
        """Return the counts of both."""
        statuses = {
            key: self.statuses.get(key, 0) + other.statuses.get(key, 0) for key in self.statuses | other.statuses
        }
        answers = {
            key: self.answers.get(key, 0) + other.answers.get(key, 0) for key in self.answers | other.answers
        }
        return Stats(
            self.ledger + other.ledger,
            statuses,
            [a + b for a, b in zip(self.durations, other.durations, strict=True)],
            self.duration_ns + other.duration_ns,
            self.clients + other.clients,
            self.upstreams + other.upstreams,
            self.workers + other.workers,
            self.ready + other.ready,
            self.up + other.up,
            self.waiting + other.waiting,
            answers,
            self.ended | other.ended,
            self.unauthorized + other.unauthorized,
        )
