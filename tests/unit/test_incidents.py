"""Incidents: one for each drift, opened by all windows together, closed when it has passed."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from monitoring import START, Monitoring, Traffic, settings, without_mlflow
from mooring.state.incidents import Incident, Incidents, StreamState, StreamStates
from mooring.state.state import State
from mooring.state.windows import Windows


@pytest.fixture
def traffic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Traffic:
    without_mlflow(tmp_path, monkeypatch)
    return Traffic(tmp_path / "log")


@pytest.fixture
def state(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/state.db"


def watched(traffic: Traffic, state: str, *shifts: float, first: int = 0, **changed) -> Monitoring:
    """Return a monitor after windows of an hour each, which are over, of these shifts of one feature."""
    for hour, shift in enumerate(shifts, start=first):
        begin = START + timedelta(hours=hour)
        sent = traffic.exchanges(1000, begin, 3.0, shift=shift, per_request=1)
        traffic.write(sent, f"w-{hour:08d}")
    monitoring = Monitoring(settings(traffic.log, state, window_rows=10**6, **changed))
    monitoring.keep(Traffic(traffic.log).baseline(3000))
    monitoring.watch.look()
    return monitoring


def incidents(monitoring: Monitoring) -> list[Incident]:
    return Incidents(monitoring.state).newest("wine")[::-1]


def statuses(monitoring: Monitoring) -> list[str]:
    return [one.verdict.status for one in Windows(monitoring.state).history("wine") if one.verdict]


def test_unchanged_traffic_opens_none(traffic, state):
    monitoring = watched(traffic, state, *[0.0] * 12)
    assert incidents(monitoring) == []
    assert set(statuses(monitoring)) == {"ok"}
    [stream] = StreamStates(monitoring.state).latest("wine")["wine"]
    assert 0 < stream.level < 1
    assert (stream.windows, stream.incident_id) == (12, None)


def test_a_large_jump_opens_one_with_its_first_window_and_it_closes_four_windows_after_the_end(traffic, state):
    monitoring = watched(traffic, state, 0.0, 0.0, 1.0, 1.0, *[0.0] * 6)
    [one] = incidents(monitoring)
    assert statuses(monitoring) == ["ok"] * 2 + ["critical"] * 2 + ["warning"] * 3 + ["ok"] * 3
    assert one.severity == "critical"
    assert "alcohol" in one.features
    assert "alcohol" in one.message
    assert one.opened == START.replace(hour=START.hour + 3, minute=0)
    assert one.closed is not None
    assert one.windows == 6


@pytest.mark.parametrize(("importance", "first"), [(0.1, "prediction"), (10.0, "alcohol")])
def test_what_an_incident_is_about_comes_by_drift_times_importance(traffic, state, importance, first):
    for hour, shift in enumerate([0.0, 0.0, 1.0]):
        sent = traffic.exchanges(1000, START + timedelta(hours=hour), 3.0, shift=shift, per_request=1)
        traffic.write(sent, f"w-{hour:08d}")
    monitoring = Monitoring(settings(traffic.log, state, window_rows=10**6))
    baseline = Traffic(traffic.log).baseline(3000)
    baseline.features["alcohol"].importance = importance
    monitoring.keep(baseline)
    monitoring.watch.look()
    [one] = incidents(monitoring)
    assert set(one.features) == {"alcohol", "prediction"}
    assert one.features[0] == first
    assert one.message.startswith(f"{first}:")
    assert (one.severity, one.opened) == ("critical", START + timedelta(hours=3))


def test_a_small_shift_opens_one_though_no_window_shows_it_alone(traffic, state):
    monitoring = watched(traffic, state, *[0.0] * 4, *[0.2] * 8, seasonality="none")
    [one] = incidents(monitoring)
    assert one.closed is None
    assert one.severity == "warning"
    assert set(one.features) <= {"alcohol", "prediction"}


def test_without_floors_a_difference_too_small_to_matter_opens_a_warning(traffic, state):
    monitoring = watched(traffic, state, 0.0, *[0.12] * 11, floors=False, seasonality="none")
    assert [one.severity for one in incidents(monitoring)] == ["warning"]


def test_with_more_that_is_watched_each_has_less_of_the_budget(traffic, state):
    with State(state) as opened:
        for number in range(40):
            StreamStates(opened).put(
                StreamState(
                    model=f"m{number}", version="1", variant="champion", kind="drift", baseline="", updated=START
                )
            )
    level = StreamStates(watched(traffic, state, *[0.0] * 3).state).latest("wine")["wine"][0].level
    alone = StreamStates(watched(traffic, state + "2", *[0.0] * 3).state).latest("wine")["wine"][0].level
    assert level == pytest.approx(alone / 41)


def test_a_restart_after_any_window_changes_nothing(traffic, state, tmp_path):
    shifts = [0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    other = Traffic(tmp_path / "other")
    for at, shift in enumerate(shifts):
        bit_by_bit = watched(other, state + "2", shift, first=at)
        if at + 1 < len(shifts):
            bit_by_bit.state.close()
    at_once = watched(traffic, state, *shifts)
    assert [(one.start, one.opened, one.closed) for one in incidents(at_once)] == [
        (one.start, one.opened, one.closed) for one in incidents(bit_by_bit)
    ]
    assert incidents(at_once)


def test_another_baseline_begins_anew(traffic, state):
    monitoring = watched(traffic, state, 0.0, 1.0)
    assert incidents(monitoring)[-1].closed is None
    monitoring.keep(traffic.baseline(2000))
    traffic.write(traffic.exchanges(1000, START + timedelta(hours=5), 3.0, per_request=1))
    monitoring.watch.look()
    [stream] = StreamStates(monitoring.state).latest("wine")["wine"]
    assert (stream.windows, stream.incident_id) == (1, None)
    assert all(one.closed is not None for one in incidents(monitoring))


def test_a_measure_with_a_threshold_of_its_own_opens_none_by_chance(traffic, state):
    own = ("mean_shift=9", *(f"{measure}=0.99" for measure in ("ks", "js", "out_of_range_rate", "null_rate")))
    monitoring = watched(traffic, state, 0.0, 0.0, 0.6, 0.6, threshold=own)
    assert incidents(monitoring) == []
    assert set(statuses(monitoring)) == {"ok"}
    [stream] = StreamStates(monitoring.state).latest("wine")["wine"]
    assert stream.level < 1


def test_a_budget_per_window_has_no_incidents(traffic, state):
    monitoring = watched(traffic, state, 0.0, 1.0, budget="0.001 per window")
    assert statuses(monitoring) == ["ok", "critical"]
    assert incidents(monitoring) == []


def test_a_state_tells_incidents_of_a_time(tmp_path):
    def one(day: int, closed: int | None) -> Incident:
        return Incident(
            model="wine",
            version="1",
            variant="champion",
            kind="drift",
            severity="warning",
            features=("pH",),
            start=START + timedelta(days=day),
            opened=START + timedelta(days=day, hours=1),
            updated=START + timedelta(days=day, hours=2),
            closed=None if closed is None else START + timedelta(days=closed),
        )

    def days(found: list[Incident]) -> list[datetime]:
        return [incident.start for incident in found]

    with State(f"{tmp_path}/state.db") as state:
        first, second = one(0, 2), one(5, None)
        for incident in (first, second):
            Incidents(state).put(incident)
        known = Incidents(state)
        assert known.newest("wine") == [second, first]
        assert known.named(first.id) == first
        assert days(known.newest("wine", is_open=True)) == [second.start]
        assert days(known.newest("wine", start=START + timedelta(days=3))) == [second.start]
        assert days(known.newest("wine", end=START + timedelta(days=3))) == [first.start]
        assert known.newest("beer") == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"false_alarms": "1.2.3 per 90d"}, "--false-alarms 1.2.3 per 90d"),
        ({"false_alarms": "1 per 9.0.0d"}, "--false-alarms 1 per 9.0.0d"),
        ({"false_alarms": "0 per 90d"}, "such as '1 per 90d'"),
    ],
)
def test_a_time_that_is_none_is_a_sentence(tmp_path, given, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        assert settings(tmp_path, "state.db", **given).false_alarm_seconds


@pytest.mark.parametrize("budget", ["e", "1.5", "0", "1e"])
def test_a_budget_that_is_no_probability_is_a_sentence(tmp_path, budget):
    with pytest.raises(ValueError, match="it is a probability"):
        assert settings(tmp_path, "state.db", budget=budget).window_budget
