"""How much of a log the monitor has not read yet, for whoever looks at its verdicts meanwhile."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from mooring.log import listing
from mooring.monitor.new_objects import NewObjects
from mooring.settings import MonitorSettings, duration_text
from mooring.state.objects import Objects
from mooring.state.state import State

_COUNTED = 500
"""Objects whose rows are counted; of more, it is said that they are only some."""


class Unread(NamedTuple):
    """Objects that the monitor has not read: how many, how many rows the first ones have, the oldest's time."""

    objects: int
    rows: int
    oldest: datetime | None


def unread(state: State, log: str, model: str, grace: float) -> Unread:
    """Return what of a model's log the monitor has not read. Raises LogError and StoreError."""
    opened = listing.open_log(log)
    new = sorted(NewObjects(log, model, grace, Objects(state)).new(opened), key=lambda one: one.written)
    if not new:
        return Unread(0, 0, None)
    from mooring.log.reader import found_in  # half a second, where mostly nothing is left to read

    found = found_in(opened, log, model, new[:_COUNTED])
    rows = sum(fragment.metadata.num_rows for fragment in found.fragments.values())
    return Unread(len(new), rows, new[0].written)


def unread_in_words(state: State, settings: MonitorSettings, model: str) -> str:
    """Say how much of the log is not read yet, and when it will be; '' where the log can't be asked."""
    try:
        waiting = unread(state, settings.log, model, settings.grace)
    except (OSError, listing.LogError):
        return ""
    holder = state.holder(f"monitor/{model}")
    if waiting.oldest is None:
        what = f"all rows of {model} in the log are read"
    else:
        rows = f"{'over ' * (waiting.objects > _COUNTED)}{waiting.rows:,}"
        age = max(0, round((datetime.now(UTC) - waiting.oldest).total_seconds()))
        what = f"{rows} rows of {model} in the log are not read yet, the first written {duration_text(age)} ago"
    if holder is not None:
        again = f", and looks every {holder.every}" if holder.every else ""
        return f"{what}; a monitor runs ({holder.in_words}){again}"
    if waiting.oldest is None:
        return what
    return f"{what}, and no monitor runs: start `mooring monitor`, or judge them now with `mooring monitor --once`"
