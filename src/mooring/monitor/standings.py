"""How the streams of a model stand, as far as windows have been checked: more than is written yet."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from mooring.drift.baseline import Baseline
from mooring.drift.dependence import Dependence
from mooring.drift.profile import Profile
from mooring.monitor.incidents import Advanced, advance, feed, held_by
from mooring.monitor.parts import WHOLE, Part, PartEvidence
from mooring.monitor.references import Calendar
from mooring.monitor.slots import StreamSlots, write_slots
from mooring.monitor.special_days import SpecialDays
from mooring.state.incidents import Incident, Incidents, StreamKey, StreamState, StreamStates
from mooring.state.repository import Transaction
from mooring.state.state import State
from mooring.state.windows import Window


class Standings:
    """How the streams of a model stand, as far as windows have been checked: more than is written yet.

    Parameters
    ----------
    source
        The state that they were written to.
    budget_seconds
        In what time there may be one false alarm, over all streams.
    floors
        Whether an effect too small to matter opens no incident.
    weight
        Of the model, by which its streams share the false alarms with others.
    special_days
        The days that are not usual, and the clocks of which zone hours are by; without them there are no seasons.

    """

    def __init__(
        self,
        source: State,
        budget_seconds: float,
        *,
        floors: bool,
        weight: float = 1.0,
        special_days: SpecialDays | None = None,
    ) -> None:
        self._states = StreamStates(source)
        self._incidents = Incidents(source)
        self._budget = budget_seconds
        self._floors = floors
        self._weight = weight
        self._special_days = special_days
        self._slots = StreamSlots(source)
        self._held: dict[tuple[str | None, str], tuple[StreamState | None, Incident | None]] = {}

    def before(self, window: Window, baseline: Baseline) -> dict[str, Profile]:
        """Return the profile of all earlier windows of a window's stream, of the whole and of its segments."""
        state, _ = self._standing(window)
        if state is None or state.baseline != baseline.digest:
            return {}
        held = {name: one.history.whole for name, one in held_by(state).items()}
        return {name: whole for name, whole in held.items() if whole is not None}

    def dependence(self, window: Window, baseline: Baseline) -> Dependence:
        """Return what all earlier windows of a window's stream have shown of how its rows depend on each other."""
        state, _ = self._standing(window)
        if state is None or state.baseline != baseline.digest:
            return Dependence()
        return held_by(state).get(WHOLE, PartEvidence()).dependence

    def dependences(
        self, window: Window, baseline: Baseline, profiles: Mapping[str, Profile]
    ) -> dict[str, Dependence]:
        """Return the same of a window and all before it, by part; one that is judged again is among these."""
        state, _ = self._standing(window)
        known = state if state is not None and state.baseline == baseline.digest else None
        again = window.revision > 0 and known is not None and window.end <= known.updated
        held, found = held_by(known), {}
        for name, profile in profiles.items():
            before = held[name].dependence if name in held else Dependence()
            found[name] = before if again else before.after(profile.order, profile.weight)
        return found

    def feed(
        self, window: Window, baseline: Baseline, dependences: Mapping[str, Dependence], *, provisional: bool
    ) -> Advanced | None:
        """Return how a stream stands after a window of too few rows; None if an incident is open."""
        before, incident = self._standing(window)
        if incident is not None:
            return None
        state = msgspec.structs.replace(feed(before, window, baseline, dependences), weight=self._weight)
        if not provisional:
            self._held[window.version, window.variant] = state, None
        return Advanced(state, None, "ok")

    def advance(
        self,
        window: Window,
        parts: Mapping[str, Part],
        dependences: Mapping[str, Dependence],
        seed: int,
        *,
        provisional: bool,
    ) -> Advanced:
        """Return how a window's stream stands after it, and, unless that is `provisional`, have it stand so."""
        key = window.version, window.variant
        before, incident = self._standing(window)
        own = [StreamKey(window.model, *one, "drift") for one in {*self._held, key}]
        calendar = self._calendar(window)
        advanced = advance(
            before,
            incident,
            window,
            parts,
            budget_seconds=self._budget * self._states.sharing(window.end, own, self._weight),
            seed=seed,
            dependences=dependences,
            floors=self._floors,
            calendar=calendar,
        )
        advanced = advanced._replace(
            state=msgspec.structs.replace(advanced.state, weight=self._weight), special=calendar.special
        )
        if not provisional:
            self._slots.put(advanced.slots)
            still = advanced.incident if advanced.state.incident_id is not None else None
            self._held[key] = advanced.state, still
        return advanced

    def _calendar(self, window: Window) -> Calendar:
        days = self._special_days
        if days is None:
            return Calendar()
        special = days.name_of(window.start, window.end)
        return Calendar(self._slots if days.seasonal else None, days.zone, special)

    def _standing(self, window: Window) -> tuple[StreamState | None, Incident | None]:
        return self._held.get((window.version, window.variant)) or self._stored(window)

    def _stored(self, window: Window) -> tuple[StreamState | None, Incident | None]:
        state = self._states.of(window.model, window.version, window.variant, "drift")
        if state is None or state.incident_id is None:
            return state, None
        return state, self._incidents.named(state.incident_id)


def write(tx: Transaction, advanced: Advanced) -> None:
    """Write how a stream stands, and its incident, in the transaction of the verdict that goes with it."""
    StreamStates(tx).put(advanced.state)
    for incident in filter(None, (advanced.ended, advanced.incident)):
        Incidents(tx).put(incident)
    Incidents(tx).end_stale(advanced.state.model, "drift", advanced.state.updated)
    write_slots(tx, advanced.slots)
