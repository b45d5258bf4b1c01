"""Incidents of performance: what assessments of windows amount to, in whatever order labels come."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from mooring.monitor.window_incidents import incidents_after
from mooring.state.assessments import Assessment, Measured, Segment
from mooring.state.incidents import Incident
from mooring.state.windows import Window
from mooring.status import ALARMING, JUDGED, Status, rank

START = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
STATUSES: tuple[Status, ...] = (*JUDGED, "too_few")


def assessed(statuses: Sequence[Status], first: int = 0, segments: tuple[Segment, ...] = ()) -> list[Assessment]:
    return [
        Assessment(
            window=Window(model="wine", version="1", start=START + hour * HOUR, end=START + (hour + 1) * HOUR),
            look=1,
            status=status,
            rows=100,
            labelled=100,
            chance=0.5 if status == "ok" else 1e-6,
            budget=0.001,
            message=f"hour {hour}",
            created=START,
            measures={"rmse": Measured(1.0)},
            segments=segments,
        )
        for hour, status in enumerate(statuses, start=first)
    ]


def spans(found: Sequence[Incident]) -> list[tuple[int, int | None]]:
    return [
        ((one.start - START) // HOUR, None if one.closed is None else (one.closed - START) // HOUR)
        for one in found
    ]


def test_one_lasts_until_four_windows_in_a_row_are_well():
    assert spans(incidents_after(assessed(["ok", "ok", "ok"]), [])) == []
    assert spans(incidents_after(assessed(["ok", "warning", "ok", "ok", "ok"]), [])) == [(1, None)]
    assert spans(incidents_after(assessed(["ok", "warning", *["ok"] * 4]), [])) == [(1, 6)]
    assert spans(incidents_after(assessed(["warning", *["ok"] * 3, "warning", *["ok"] * 4]), [])) == [(0, 9)]
    two = ["warning", *["ok"] * 4, "critical", "too_few"]
    assert spans(incidents_after(assessed(two), [])) == [(0, 5), (5, None)]


def test_a_window_that_chance_hardly_explains_is_not_well_yet():
    after = assessed(["critical", "ok", "ok", "ok", "ok"])
    doubtful = msgspec.structs.replace(after[3], chance=0.01)
    assert spans(incidents_after([*after[:3], doubtful, after[4]], [])) == [(0, None)]


def test_it_is_as_bad_as_it_has_been_and_names_measure_and_segments():
    part = Segment(column="colour", value="red", rows=50, labelled=50, status="critical", chance=1e-9)
    [one] = incidents_after(assessed(["warning", "critical", "warning", "ok"], segments=(part,)), [])
    assert (one.severity, one.features, one.windows) == ("critical", ("rmse", "colour=red"), 4)
    assert (one.message, one.opened, one.updated) == ("hour 2", START + HOUR, START + 4 * HOUR)


def test_labels_that_make_an_earlier_window_worse_move_its_start_and_it_stays_the_same():
    [first] = incidents_after(assessed(["ok", "ok", "critical"]), [])
    [later] = incidents_after(assessed(["ok", "critical", "critical"]), [first])
    assert (later.id, spans([later])) == (first.id, [(1, None)])


def test_more_labels_that_tell_otherwise_close_it():
    [first] = incidents_after(assessed(["ok", "ok", "critical"]), [])
    assert spans(incidents_after(assessed(["ok", "ok", "ok"]), [first])) == [(2, 3)]


def test_one_that_began_before_the_windows_of_late_goes_on_until_four_are_well():
    [first] = incidents_after(assessed(["ok", "critical"]), [])
    assert incidents_after(assessed(["too_few"] * 5, first=50), [first]) == []
    [still] = incidents_after(assessed(["ok"] * 3, first=50), [first])
    assert (still.id, spans([still])) == (first.id, [(1, None)])
    [ended] = incidents_after(assessed(["ok"] * 4, first=50), [first])
    assert (ended.id, spans([ended])) == (first.id, [(1, 54)])


@given(st.lists(st.sampled_from(STATUSES), max_size=30), st.permutations(range(30)))
def test_in_whatever_order_labels_come_each_bad_window_is_in_one_incident(statuses, order):
    """Windows get their labels one by one; what is found at the end is what would have been found at once."""
    stored: dict[str, Incident] = {}
    shown: list[Status] = ["too_few"] * len(statuses)
    for place in order:
        if place < len(statuses):
            shown[place] = statuses[place]
            for incident in incidents_after(assessed(shown), list(stored.values())):
                stored[incident.id] = incident
    assert incidents_after(assessed(shown), list(stored.values())) == []
    for one in assessed(statuses):
        if one.status in ALARMING:
            around = [
                incident
                for incident in stored.values()
                if incident.start <= one.window.start
                and (incident.closed is None or one.window.end <= incident.closed)
            ]
            assert around
            assert max(rank(incident.severity) for incident in around) >= rank(one.status)
    at_once = incidents_after(assessed(statuses), [])
    assert sum(one.closed is None for one in stored.values()) == sum(one.closed is None for one in at_once)
