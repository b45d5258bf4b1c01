"""The windows of a stream while rows are added to them, each with the profile of its rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
import numpy as np

from mooring.drift.baseline import Baseline, profile_from_bytes, profile_to_bytes
from mooring.drift.judge import SCALES
from mooring.drift.measure_table import min_effect
from mooring.drift.profile import Profile
from mooring.drift.stored import FormatError
from mooring.monitor import windows
from mooring.monitor.ingest import Stream, StreamRows
from mooring.monitor.windows import FOREVER, Lengths
from mooring.state.verdicts import Verdict
from mooring.state.windows import Window, Windows

MERGED = SCALES[-1] - 1
"""How many windows before one are merged with it, at most."""

ProfileOf = Callable[[int, int, Baseline], Profile]
"""Gives the profile of the rows `first` to before `last` on a baseline's grids."""

logger = logging.getLogger(__name__)


class GrownWindow(NamedTuple):
    """A window that rows were added to, its profile as bytes, and whether it has ended and can be checked."""

    window: Window
    profile: bytes
    ended: bool


class _Held(NamedTuple):
    """A window, its profile, and the verdict on it, where that is not in the state yet."""

    window: Window
    profile: Profile | None
    verdict: Verdict | None = None


class OpenWindows:
    """The windows of one stream as they are with rows and verdicts that the state does not have yet.

    Profiles are large: only those that were asked for last are held, as many as are merged.
    """

    def __init__(self, stored: Windows, model: str, stream: Stream) -> None:
        self._stored = stored
        self._model = model
        self._stream = stream
        self._held: dict[str, _Held] = {}

    def add(
        self,
        rows: StreamRows,
        baseline: Baseline | None,
        lengths: Lengths,
        profile_of: ProfileOf,
        window_rows: Callable[[Window], int],
    ) -> Iterator[GrownWindow]:
        """Divide rows among windows, and yield each window with its part of them, in the order of their time.

        `window_rows` gives with how many rows a window of the stream ends, once those before it are checked.

        Open windows that were counted on the grids of another baseline come first: they have ended.
        """
        first = windows.moment(int(rows.times[0]) - int(rows.times[0]) % lengths.length - 1)
        known = self._stored.overlapping(self._model, *self._stream, first, FOREVER)
        for place, window in enumerate(known):
            if window.status == "open" and _digest(self.profile(window)) != _digest(baseline):
                known[place] = msgspec.structs.replace(window, status="closed")
                yield self.put(known[place], self.profile(window))
        blank = Window(
            model=self._model,
            version=self._stream.version,
            variant=self._stream.variant,
            start=FOREVER,
            end=FOREVER,
        )
        too_late = 0
        now = windows.micros(datetime.now(UTC))
        for part in windows.cut(rows.times, known, blank, lengths, now, lambda: window_rows(blank)):
            if part.too_late:
                too_late += part.last - part.first
                yield self.put(part.window, self.profile(part.window))._replace(ended=False)
                continue
            counts = rows.request_rows[part.first : part.last]
            window = msgspec.structs.replace(
                part.window,
                requests=part.window.requests + round(float(np.sum(1.0 / np.maximum(counts, 1)))),
                weight=part.window.weight + int(counts.sum(dtype=np.int64)),
            )
            new = part.window.rows == part.last - part.first
            counted = None if new else self.profile(part.window)
            if baseline is not None and part.first < part.last and (new or _digest(counted) == baseline.digest):
                found = profile_of(part.first, part.last, baseline)
                counted = found if counted is None else counted + found
            yield self.put(window, counted)
        if too_late:
            logger.warning(
                "%d rows came later than --grace after their window, and are counted but not checked", too_late
            )

    def profile(self, window: Window) -> Profile | None:
        """Return the profile of a window's rows, None where it is not kept, or can't be read."""
        held = self._held.pop(window.id, None) or _Held(window, self._stored_profile(window))
        self._hold(held)
        return held.profile

    def put(self, window: Window, profile: Profile | None) -> GrownWindow:
        """Hold a window as it is now, and return it as it is to be written."""
        self._hold(_Held(window, profile))
        return GrownWindow(
            window, b"" if profile is None else profile_to_bytes(profile), window.status == "closed"
        )

    def conclude(self, window: Window, verdict: Verdict) -> None:
        """Hold the verdict on a window."""
        self._hold(_Held(window, self.profile(window), verdict))

    def before(self, window: Window, baseline: Baseline) -> list[Profile]:
        """Return the profiles of the windows before one, newest first, as many as are merged with it.

        Merging looks for what no window shows alone, so it stops at one that showed much: else a drift that
        is over would be found again in the windows after it.
        """
        past = self._stored.history(
            self._model,
            version=self._stream.version,
            variant=self._stream.variant,
            end=window.start,
            newest=MERGED,
        )
        there = {one.window.id: one.window for one in past}
        verdicts = {one.window.id: one.verdict for one in past}
        for name, held in self._held.items():
            if held.window.start < window.start:
                there[name] = held.window
                verdicts[name] = held.verdict or verdicts.get(name)
        found = []
        for earlier in sorted(there.values(), key=lambda one: one.start, reverse=True)[:MERGED]:
            counted = self.profile(earlier)
            if counted is None or counted.digest != baseline.digest or _echoes(verdicts[earlier.id]):
                break
            found.append(counted)
        return found

    def _hold(self, held: _Held) -> None:
        self._held.pop(held.window.id, None)
        self._held[held.window.id] = held
        if len(self._held) > MERGED + 2:
            del self._held[next(iter(self._held))]

    def _stored_profile(self, window: Window) -> Profile | None:
        data = self._stored.profiles([window.id]).get(window.id)
        if not data:
            return None
        try:
            return profile_from_bytes(data)
        except FormatError as error:
            logger.warning(
                "the window from %s is not merged: %s",
                f"{window.start:%Y-%m-%d %H:%M}",
                error,
                extra={"every": 3600.0, "about": window.id},
            )
            return None


def _digest(found: Profile | Baseline | None) -> str:
    return "" if found is None else found.digest


def _echoes(verdict: Verdict | None) -> bool:
    """Whether a window drifted by so much that it shows still when it is merged with three that did not."""
    return verdict is not None and any(
        one.scale == 1 and abs(one.value or 0.0) >= SCALES[1] * min_effect(one.measure) for one in verdict.summary
    )
