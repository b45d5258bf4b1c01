"""A state with incidents of every sort, as the dashboard shows them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from judged import HOSTILE, HOUR, START, Made, assess, baseline_of, columns
from mooring.state.incidents import Incident, Incidents, StreamState, StreamStates
from mooring.state.state import State

MANY = (HOSTILE, *(f'feature {place}: "&' for place in range(63)))
"""The features of an incident, of names that whoever asks the model may choose."""


class Shown(NamedTuple):
    """The windows of the model wine, and its incidents by what they are."""

    wine: Made
    incidents: dict[str, Incident]

    @property
    def state(self) -> str:
        return self.wine.state.name

    def see(self, name: str) -> str:
        return f"/models/wine/incidents/{self.incidents[name].id}"


def incident(first: int, last: int, **changed: Any) -> Incident:
    """Return an incident that was opened with the window of the hour `first`, until that of the hour `last`."""
    given: dict[str, Any] = {
        "model": "wine",
        "version": "1",
        "variant": "champion",
        "kind": "drift",
        "severity": "critical",
        "features": ("alcohol", "prediction"),
        "level": 3.0,
        "windows": last - first + 1,
        "message": "alcohol: ks 0.8",
        "start": START + first * HOUR,
        "opened": START + (first + 1) * HOUR,
        "updated": START + (last + 1) * HOUR,
    }
    return Incident(**given | changed)


def stream(**changed: Any) -> StreamState:
    """Return how a stream of wine stands, whose newest window is that of the hour 8."""
    given: dict[str, Any] = {
        "model": "wine",
        "version": "1",
        "variant": "champion",
        "kind": "drift",
        "baseline": "grids",
        "windows": 9,
        "updated": START + 9 * HOUR,
    }
    return StreamState(**given | changed)


def with_incidents(directory: Path) -> Shown:
    """Nine hours of wine: one drift that has passed, and one that lasts; and incidents of its other streams."""
    state = State(f"sqlite:///{directory}/state.db")
    baseline = baseline_of(columns(3000))
    wine = Made(state, "wine", baseline)
    for at, shift in enumerate([0, 3, 3, 0, 0, 0, 0, 3, 3]):
        wine.put(at, shift=shift)
    assess(state, "wine")
    long_ago = START - timedelta(days=40)
    found = {
        "passed": incident(1, 5, closed=START + 6 * HOUR, severity="warning"),
        "lasting": incident(7, 8, features=("alcohol", "colour=red: alcohol")),
        "performance": incident(
            3, 8, kind="performance", severity="warning", features=("rmse", "mae"), message="rmse 1.2"
        ),
        "canary": incident(2, 4, variant="canary", version=None, features=MANY, message=HOSTILE),
        "gone": incident(0, 0, version="0", start=long_ago, opened=long_ago + HOUR, updated=long_ago + HOUR),
    }
    lasting = found["lasting"].id
    for one in (
        stream(level=4.0, since=START + 7 * HOUR, incident_id=lasting),
        stream(kind="performance", baseline="", windows=0),
        stream(variant="canary", version="2", level=0.36, since=START + 3 * HOUR),
        stream(version="0", level=2.0, incident_id=found["gone"].id, updated=found["gone"].updated),
        stream(model="cider", level=0.08),
        stream(model="perry", level=5.0, since=START + HOUR),
    ):
        StreamStates(state).put(one)
    for each in found.values():
        Incidents(state).put(each)
    for model in ("cider", "perry", "unwatched"):
        Made(state, model, baseline).put(8)
    return Shown(wine, found)
