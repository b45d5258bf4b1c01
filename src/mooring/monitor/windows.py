"""Windows: which rows are checked together.

A window ends when it has enough rows, or when the hour (or whatever its length) is over. Rows that come late go to
the window of their time, which is opened again for them, so the windows of a stream never overlap.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec
import numpy as np

from mooring.drift.grid import Integers
from mooring.settings import JudgeSettings
from mooring.state.windows import Window

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LONGEST = 1000 * 365 * 86_400.0
"""Seconds that any time in the settings may take."""
_NEVER = 2**62
_BATCH_SHARE = 0.5
FOREVER = datetime(9999, 1, 1, tzinfo=UTC)


class WindowPart(NamedTuple):
    """Rows `first` to before `last`, and the window that they go to; `too_late` ones are only counted there."""

    window: Window
    first: int
    last: int
    too_late: bool = False


class Lengths(NamedTuple):
    """When windows end, in microseconds and rows, and until when late rows open them again.

    At least `batch` rows that came at one time, such as those of a nightly job, are a window of their own.
    """

    length: int
    rows: int
    grace: int
    batch: int = _NEVER


def lengths_of(settings: JudgeSettings, grace: float = 0.0) -> Lengths:
    """Return when windows end, `grace` in seconds. Raises ValueError for an invalid time."""
    if not 1.0 <= settings.window <= LONGEST:
        raise ValueError(
            f"--window {settings.window:g}s: a window takes a second at least, and 1000 years at most"
        )
    batch = max(math.ceil(settings.window_rows * _BATCH_SHARE), math.ceil(settings.min_rows), 2)
    return Lengths(int(settings.window * 1e6), settings.window_rows, int(grace * 1e6), batch)


def micros(moment: datetime) -> int:
    """Return a moment as microseconds since 1970.

    >>> micros(datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC))
    1000000
    """
    return (moment - _EPOCH) // timedelta(microseconds=1)


def moment(value: int) -> datetime:
    """Return microseconds since 1970 as a moment."""
    return _EPOCH + timedelta(microseconds=value)


def cut(
    times: Integers,
    known: Sequence[Window],
    blank: Window,
    lengths: Lengths,
    now: int = _NEVER,
    rows: Callable[[], int] | None = None,
) -> Iterator[WindowPart]:
    """Divide rows among windows; yield each with the rows that go to it.

    Parameters
    ----------
    times
        When the rows were received, ascending, in microseconds since 1970.
    known
        The stream's windows from the first row's time on, the last before it too, in their order.
    blank
        A window with the model, version and variant of new ones.
    lengths
        When windows end.
    now
        The time: windows beyond it are of a host whose clock is wrong, and make nothing else late.
    rows
        Gives with how many rows a window ends, by what is known of those that were yielded before it. By default
        that is as `lengths` says.

    Of a window that is still open, `end` lies right behind its newest row.
    """
    windows = sorted(known, key=_start)
    newest = max([micros(window.end) for window in windows], default=0)
    batches = _batches(times, lengths.batch)
    at = 0
    while at < len(times):
        place = bisect_right(windows, int(times[at]), key=_start)
        before = windows[place - 1] if place else None
        after = windows[place] if place < len(windows) else None
        if before is not None and before.status == "closed" and times[at] < micros(before.end):
            part = _late(before, times, at, min(newest, now) - lengths.grace)
        elif before is not None and _gives_way(before, int(times[at]), batches, lengths):
            end = moment(int(times[at]))
            part = WindowPart(msgspec.structs.replace(before, status="closed", end=end), at, at)
        else:
            wanted = lengths if rows is None else lengths._replace(rows=rows())
            part = _on_time(before, after, times, at, blank, wanted, now, batches)
        if before is not None and part.window.start == before.start:
            windows[place - 1] = part.window
        else:
            insort(windows, part.window, key=_start)
        newest = max(newest, micros(part.window.end))
        yield part
        at = part.last


def _batches(times: Integers, rows: int) -> Integers:
    """Return the times that at least so many rows came at."""
    if rows > len(times):
        return times[:0]
    first = times[: len(times) - rows + 1]
    return np.unique(first[first == times[rows - 1 :]])


def _gives_way(window: Window, time: int, batches: Integers, lengths: Lengths) -> bool:
    """Whether a window would go on, but that a batch comes."""
    return window.status == "open" and micros(window.end) <= time < _limit(window, lengths) and time in batches


def close(window: Window, lengths: Lengths, before: int, after: Window | None = None) -> Window | None:
    """Return an open window closed, if its time was over `before` a moment, or `after` follows it; else None."""
    end = _limit(window, lengths)
    if after is not None:
        end = min(end, micros(after.start))
    if window.status != "open" or (after is None and end > before):
        return None
    return msgspec.structs.replace(window, status="closed", end=moment(end))


def _late(window: Window, times: Integers, first: int, too_late: int) -> WindowPart:
    last = int(times.searchsorted(micros(window.end)))
    late = window.late + last - first
    if micros(window.end) <= too_late:
        return WindowPart(msgspec.structs.replace(window, late=late), first, last, too_late=True)
    reopened = msgspec.structs.replace(
        window, late=late, rows=window.rows + last - first, revision=window.revision + 1
    )
    return WindowPart(reopened, first, last)


def _on_time(
    before: Window | None,
    after: Window | None,
    times: Integers,
    first: int,
    blank: Window,
    lengths: Lengths,
    now: int,
    batches: Integers,
) -> WindowPart:
    time = int(times[first])
    if before is not None and before.status == "open" and time < _limit(before, lengths):
        window = before
    else:
        start = time - time % lengths.length
        if before is not None:
            start = max(start, micros(before.end))
        window = msgspec.structs.replace(blank, start=moment(start), end=moment(time + 1))
    limit = _limit(window, lengths)
    if after is not None:
        limit = min(limit, micros(after.start))
    if time in batches and window is not before:
        last = int(times.searchsorted(time, "right"))
        whole = msgspec.structs.replace(window, status="closed", start=moment(time), rows=last - first)
        return WindowPart(whole, first, last)
    batch = batches[batches > time]
    gives_way = len(batch) > 0 and batch[0] < limit
    if gives_way:
        limit = int(batch[0])
    last = int(times.searchsorted(limit))
    wanted = max(lengths.rows - window.rows, 1)
    if last - first >= wanted:
        # A request's rows have one time, and stay together.
        end = max(int(times[first + wanted - 1]) + 1, micros(window.end))
        last = int(times.searchsorted(end))
        closed = msgspec.structs.replace(window, status="closed", end=moment(end), rows=window.rows + last - first)
        return WindowPart(closed, first, last)
    end = max(int(times[last - 1]) + 1, micros(window.end))
    status = window.status
    if gives_way or (after is not None and micros(after.start) <= now):
        status, end = "closed", limit
    return WindowPart(
        msgspec.structs.replace(window, status=status, end=moment(end), rows=window.rows + last - first),
        first,
        last,
    )


def name_of(window: Window) -> str:
    """Return whose window it is, as people read it.

    >>> start = moment(0)
    >>> name_of(Window(model="wine", version="3", variant="canary", start=start, end=start))
    'wine version 3 (canary)'
    """
    version = f" version {window.version}" if window.version else ""
    variant = "" if window.variant == "champion" else f" ({window.variant})"
    return f"{window.model}{version}{variant}"


def span_of(window: Window) -> str:
    """Return whose window it is and of which time, as people read it."""
    return f"{name_of(window)} {window.start:%Y-%m-%d %H:%M:%S} to {window.end:%H:%M:%S}"


def _limit(window: Window, lengths: Lengths) -> int:
    """Return when a window's time is over; not before its newest row, whatever the length was when that came."""
    start = micros(window.start)
    return max(start - start % lengths.length + lengths.length, micros(window.end))


def _start(window: Window) -> int:
    return micros(window.start)
