"""Every row goes to exactly one window, windows do not overlap, and they end as they are meant to."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mooring.monitor.windows import Lengths, close, cut, micros, moment
from mooring.state.windows import Window

HOUR = 3_600_000_000
BASE = micros(datetime(2026, 3, 1, 12, tzinfo=UTC))
BLANK = Window(model="m", start=moment(0), end=moment(0))
LENGTHS = Lengths(HOUR, 1000, HOUR)


def times(*minutes: float) -> np.ndarray:
    return np.sort(BASE + (np.array(minutes) * 60e6).astype(np.int64))


def add(
    known: list[Window], rows: np.ndarray, lengths: Lengths = LENGTHS, now: int = BASE + 10_000 * HOUR
) -> list[Window]:
    """Return the windows after these rows, each as it is then."""
    found = {window.id: window for window in known}
    for piece in cut(rows, known, BLANK, lengths, now):
        found[piece.window.id] = piece.window
    return sorted(found.values(), key=lambda window: window.start)


def test_a_window_ends_with_its_thousandth_row_or_with_its_hour():
    rows = times(*np.linspace(0, 50, 2500), *np.linspace(61, 70, 10))
    windows = add([], rows)
    assert [(window.rows, window.status) for window in windows] == [
        (1000, "closed"),
        (1000, "closed"),
        (500, "open"),
        (10, "open"),
    ]
    assert windows[0].start == moment(BASE)
    assert windows[1].start == windows[0].end
    assert windows[3].start == moment(BASE + HOUR)
    assert close(windows[2], LENGTHS, BASE + HOUR).end == moment(BASE + HOUR)
    assert close(windows[3], LENGTHS, BASE + HOUR) is None


def test_an_open_window_goes_on():
    windows = add([], times(1, 2, 3))
    windows = add(windows, times(*np.linspace(4, 30, 1500)))
    assert [(window.rows, window.status) for window in windows] == [(1000, "closed"), (503, "open")]


def test_rows_of_one_request_stay_together():
    rows = np.sort(np.concatenate([times(*range(999 // 60 + 1)), np.full(1500, BASE + 20 * 60_000_000)]))
    [window] = add([], rows)
    assert (window.rows, window.status) == (len(rows), "closed")


def test_late_rows_open_their_window_again_until_the_grace_is_over():
    windows = add([], times(*np.linspace(0, 10, 1000), *np.linspace(11, 20, 1000)))
    again = add(windows, times(5))
    assert [(window.rows, window.revision, window.late) for window in again] == [(1001, 1, 1), (1000, 0, 0)]
    later = add(again, times(*np.linspace(100, 110, 1000)))
    pieces = [*cut(times(5), later, BLANK, LENGTHS)]
    assert [(piece.too_late, piece.window.rows, piece.window.late) for piece in pieces] == [(True, 1001, 2)]


def test_late_rows_of_an_hour_without_a_window_get_one():
    windows = add([], times(*np.linspace(130, 140, 1000)))
    windows = add(windows, times(65, 66))
    assert [(window.rows, window.status) for window in windows] == [(2, "closed"), (1000, "closed")]
    assert windows[0].end == moment(BASE + 2 * HOUR)


minutes = st.lists(st.integers(0, 300), min_size=1, max_size=60)


@given(st.lists(minutes, min_size=1, max_size=6), st.integers(1, 20))
def test_whatever_comes_when_each_row_is_in_one_window(chunks, wanted):
    lengths = Lengths(HOUR, wanted, 100 * HOUR)
    windows: list[Window] = []
    total = 0
    for chunk in chunks:
        rows = times(*chunk)
        known = [window for window in windows if micros(window.end) > rows[0] - rows[0] % HOUR - 1]
        pieces = [*cut(rows, known, BLANK, lengths)]
        assert [piece.first for piece in pieces] == [0, *(piece.last for piece in pieces[:-1])]
        assert pieces[-1].last == len(rows)
        for piece in pieces:
            inside = rows[piece.first : piece.last]
            assert micros(piece.window.start) <= inside[0]
            assert inside[-1] < micros(piece.window.end)
        found = {window.id: window for window in windows} | {piece.window.id: piece.window for piece in pieces}
        windows = sorted(found.values(), key=lambda window: window.start)
        total += len(rows)
        assert sum(window.rows for window in windows) == total
        for one, two in pairwise(windows):
            assert one.end <= two.start
        closing = [close(window, lengths, micros(two.start)) or window for window, two in pairwise(windows)]
        windows = [*closing, windows[-1]]
        for one, two in pairwise(windows):
            assert one.end <= two.start
            assert one.status == "closed"
        assert all(micros(window.end) - micros(window.start) <= HOUR for window in windows)


def test_the_same_rows_give_the_same_windows_however_they_are_read():
    rng = np.random.default_rng(0)
    rows = np.sort(BASE + rng.integers(0, 3 * HOUR, 5000))
    at_once = add([], rows)
    apart: list[Window] = []
    for part in np.array_split(rows, 17):
        apart = add(apart, part)
    same = [msgspec.structs.replace(window, revision=0) for window in apart]
    assert [(w.start, w.rows) for w in same] == [(w.start, w.rows) for w in at_once]


def test_a_window_of_the_future_makes_nothing_else_late_and_ends_nothing():
    now = BASE + 30 * 60_000_000
    windows = add([], times(100 * 24 * 60))
    windows = add(windows, times(*np.linspace(0, 20, 1200)), now=now)
    windows = add(windows, times(5, 21), now=now)
    assert [(window.rows, window.late, window.status) for window in windows] == [
        (1001, 1, "closed"),
        (201, 0, "open"),
        (1, 0, "open"),
    ]


def test_windows_of_another_length_than_before_do_not_overlap():
    windows = add([], times(1, 90), Lengths(24 * HOUR, 1000, HOUR))
    shorter = add(windows, times(80, 91, 130))
    assert [(window.rows, window.status) for window in shorter] == [(3, "open"), (1, "open"), (1, "open")]
    assert all(one.end <= two.start for one, two in pairwise(shorter))
    closed = close(shorter[0], LENGTHS, BASE + 100 * HOUR)
    assert closed.end == windows[0].end


def test_an_open_window_ends_where_the_next_begins_however_long_windows_are_now():
    first, second = add(add([], times(10)), times(70))
    longer = Lengths(24 * HOUR, 1000, HOUR)
    assert close(first, longer, 0) is None
    assert close(first, longer, 0, second).end == second.start


BATCHES = LENGTHS._replace(batch=500)


def test_a_batch_is_a_window_of_its_own_and_ends_the_one_before_it():
    rows = np.sort(np.concatenate([times(*range(10)), times(*[20] * 600), times(*range(21, 30))]))
    windows = add([], rows, BATCHES)
    assert [(one.rows, one.status) for one in windows] == [(10, "closed"), (600, "closed"), (9, "open")]
    assert [one.end - one.start for one in windows[1:2]] == [resolution := moment(1) - moment(0)]
    assert windows[0].end == windows[1].start
    assert windows[2].start == windows[1].start + resolution


def test_a_batch_ends_a_window_that_was_open_before_it_was_read():
    windows = add(add([], times(*range(10)), BATCHES), times(*[20] * 600), BATCHES)
    assert [(one.rows, one.status) for one in windows] == [(10, "closed"), (600, "closed")]


def test_rows_of_one_time_that_are_fewer_than_a_batch_go_with_the_others():
    rows = np.sort(np.concatenate([times(*range(10)), times(*[20] * 499)]))
    assert [one.rows for one in add([], rows, BATCHES)] == [509]


def test_a_window_ends_with_as_many_rows_as_are_known_to_be_needed_when_it_begins():
    asked: list[int] = []

    def rows() -> int:
        return 10 * (1 + len(asked))

    for part in cut(times(*np.linspace(0, 50, 60)), [], BLANK, LENGTHS, rows=rows):
        asked.append(part.window.rows)
    assert asked == [10, 20, 30]


@given(st.lists(minutes, min_size=1, max_size=6), st.integers(1, 20), st.integers(2, 6))
def test_with_batches_too_each_row_is_in_one_window(chunks, wanted, batch):
    lengths = Lengths(HOUR, wanted, 100 * HOUR, batch)
    windows: list[Window] = []
    total = 0
    for chunk in chunks:
        rows = times(*[one // 10 for one in chunk])
        known = [window for window in windows if micros(window.end) > rows[0] - rows[0] % HOUR - 1]
        windows = [one for one in windows if one not in known] + add(known, rows, lengths)
        total += len(rows)
        assert sum(window.rows for window in windows) == total
        for one, two in pairwise(sorted(windows, key=lambda window: window.start)):
            assert one.end <= two.start
