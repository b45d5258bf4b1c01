"""Streams whose features follow the clock, judged window by window as the monitor does, without a log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from mooring.drift.baseline import Baseline, make
from mooring.drift.judge import judge
from mooring.drift.profile import Profile, profile
from mooring.monitor.incidents import Advanced, advance
from mooring.monitor.parts import WHOLE, Part
from mooring.monitor.references import Calendar
from mooring.monitor.slots import StreamSlots
from mooring.state.incidents import Incident, StreamState
from mooring.state.windows import Window

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
WEEK = 7 * 24
Pattern = Callable[[datetime], float]


def by_hour(size: float, peak: float = 15.0) -> Pattern:
    """Return a pattern of the hour of the day, in standard deviations."""
    return lambda at: size * float(np.cos((at.hour + 0.5 - peak) / 24 * 2 * np.pi))


def by_weekend(size: float) -> Pattern:
    return lambda at: size * (at.weekday() >= 5)


def never(_: datetime) -> float:
    return 0.0


class SeasonalStream:
    """Windows of an hour, of numbers `x0`, `x1` …, the first of which follow a pattern, as `colours` do."""

    def __init__(
        self,
        pattern: Pattern,
        *,
        features: int = 1,
        seasonal: int = 1,
        colours: bool = False,
        rows: int = 300,
        baseline_rows: int = 5000,
        start: datetime = MONDAY,
        seed: int = 0,
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.pattern = pattern
        self.features = features
        self.seasonal = seasonal
        self.colours = colours
        self.rows = rows
        self.at = start
        hours = self.rng.integers(0, WEEK, baseline_rows)
        offsets = np.array([pattern(MONDAY + timedelta(hours=hour)) for hour in range(WEEK)])
        table = self._table(offsets[hours])
        self.baseline: Baseline = make({name: table[name].combine_chunks() for name in table.column_names})

    def _table(self, offsets: np.ndarray, shift: float = 0.0) -> pa.Table:
        rows = len(offsets)
        columns = {}
        for number in range(self.features):
            values = self.rng.normal(0, 1, rows) + (offsets if number < self.seasonal else 0.0)
            columns[f"x{number}"] = (values + (shift if number == 0 else 0.0)).round(1)
        if self.colours:
            share = np.clip(0.4 + 0.4 * offsets, 0.05, 0.95)
            columns["colour"] = np.where(self.rng.random(rows) < share, "red", "white")
        return pa.table(columns)

    def windows(self, count: int, shift: float = 0.0) -> Iterator[tuple[Window, Profile]]:
        """Yield so many windows from now on."""
        for _ in range(count):
            start, self.at = self.at, self.at + timedelta(hours=1)
            table = self._table(np.full(self.rows, self.pattern(start)), shift)
            window = Window(model="m", version="1", start=start, end=self.at, rows=self.rows)
            yield window, profile([table], self.baseline.grids)


class Watch:
    """How a stream stands after its windows, and the incidents that were opened."""

    def __init__(self, stream: SeasonalStream, *, seasonal: bool = True, slots: StreamSlots | None = None) -> None:
        self.stream = stream
        self.slots = (slots or StreamSlots()) if seasonal else None
        self.state: StreamState | None = None
        self.incident: Incident | None = None
        self.opened: list[Incident] = []
        self.closed: list[Incident] = []
        self.count = 0
        self._recent: list[Profile] = []

    def see(self, count: int, shift: float = 0.0, *, special: str | None = None) -> list[Advanced]:
        """Let so many windows come; return what came of each."""
        return [self.take(*one, special=special) for one in self.stream.windows(count, shift)]

    def take(self, window: Window, counted: Profile, *, special: str | None = None) -> Advanced:
        """Take a window."""
        self.count += 1
        self._recent = [counted, *self._recent[:3]]
        judgement = judge(self.stream.baseline, self._recent, scales=(1, 4), seed=self.count)
        advanced = advance(
            self.state,
            self.incident,
            window,
            {WHOLE: Part(self.stream.baseline, counted, judgement)},
            budget_seconds=90 * 86_400,
            seed=self.count,
            calendar=Calendar(self.slots, UTC, special),
        )
        if self.slots is not None:
            self.slots.put(advanced.slots)
        self.state = advanced.state
        still = advanced.incident if advanced.state.incident_id is not None else None
        if still is not None and self.incident is None:
            self.opened.append(still)
        if still is None and self.incident is not None and advanced.incident is not None:
            self.closed.append(advanced.incident)
        self.incident = still
        return advanced
