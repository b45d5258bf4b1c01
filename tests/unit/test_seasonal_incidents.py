"""Incidents of streams that follow the clock: the rhythm opens none, what comes on top of it does."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from mooring.drift.stored import load
from mooring.monitor.parts import PartEvidence
from mooring.monitor.slots import StreamSlots, write_slots
from mooring.state.state import State
from seasonal import MONDAY, SeasonalStream, Watch, by_hour, never


def known(watch: Watch):
    return load(watch.state.data, dict[str, PartEvidence], "stream", 1)[""].season


def test_a_rhythm_opens_no_incident_which_it_does_where_it_is_not_known():
    pooled = Watch(SeasonalStream(by_hour(0.4), rows=500), seasonal=False)
    pooled.see(24)
    assert pooled.opened
    watch = Watch(SeasonalStream(by_hour(0.4), rows=500))
    watch.see(2 * 24 + 20)
    assert watch.opened == []
    assert known(watch).hourly == ["x0"]


def test_what_comes_on_top_of_a_rhythm_opens_one_which_closes_after_it():
    watch = Watch(SeasonalStream(by_hour(0.4), rows=500))
    watch.see(2 * 24 + 14)
    assert watch.opened == []
    first, *_ = watch.see(3, shift=1.0)
    assert first.severity == "critical"
    assert "x0" in watch.opened[0].features
    watch.see(16)  # the trough of the night among them
    assert len(watch.closed) == 1


@pytest.mark.parametrize("rows", [200, 1000])
def test_a_jump_opens_one_on_the_first_day(rows):
    watch = Watch(SeasonalStream(never, rows=rows))
    watch.see(5)
    [jumped] = watch.see(1, shift=1.2)
    assert jumped.incident is not None


def test_an_offset_from_the_beginning_opens_one_after_a_whole_day():
    watch = Watch(SeasonalStream(never, rows=500))
    watch.see(24, shift=0.25)
    assert [one.opened - MONDAY for one in watch.opened] == [timedelta(days=1)]
    assert watch.opened[0].features == ("x0",)


def test_a_special_day_is_no_evidence_and_does_not_become_usual():
    watch = Watch(SeasonalStream(never, rows=500))
    watch.see(6)
    before = watch.state
    [*seen] = watch.see(5, shift=0.5, special="a sale")
    assert {one.severity for one in seen} == {"ok"}
    assert [one.slots for one in seen] == [()] * 5
    old, new = (load(one.data, dict[str, PartEvidence], "stream", 1)[""] for one in (before, watch.state))
    assert old.evidence == new.evidence
    assert old.history.windows == new.history.windows
    assert watch.state.updated == watch.stream.at


def test_a_jump_on_a_special_day_opens_an_incident():
    watch = Watch(SeasonalStream(never, rows=500))
    watch.see(3)
    [jumped] = watch.see(1, shift=1.5, special="a sale")
    assert jumped.severity == "critical"
    assert watch.opened[0].features == ("x0",)


def test_an_incident_waits_for_the_end_of_a_special_day():
    watch = Watch(SeasonalStream(never, rows=500))
    watch.see(3)
    watch.see(2, shift=1.5)
    watch.see(6, special="a sale")
    assert watch.closed == []
    watch.see(4)
    assert len(watch.closed) == 1


def test_slots_that_were_written_and_read_again_change_nothing(tmp_path: Path):
    stream = SeasonalStream(by_hour(0.4), rows=200)
    at_once, bit_by_bit = Watch(stream), Watch(stream)
    with State(f"sqlite:///{tmp_path}/state.db") as state:
        for window, counted in stream.windows(28):
            one = at_once.take(window, counted)
            bit_by_bit.slots = StreamSlots(state)
            other = bit_by_bit.take(window, counted)
            with state.begin() as tx:
                write_slots(tx, other.slots)
            assert one.state == other.state
        assert sorted(StreamSlots(state).sums(one.slots[0].key)) == list(range(28))


def test_what_is_of_another_baseline_is_not_taken_for_usual(tmp_path: Path):
    with State(f"sqlite:///{tmp_path}/state.db") as state:
        watch = Watch(SeasonalStream(never))
        [seen] = watch.see(1)
        with state.begin() as tx:
            write_slots(tx, seen.slots)
        key = seen.slots[0].key
        assert StreamSlots(state).at(key, 0) is not None
        other = SeasonalStream(never, seed=1).baseline.digest
        assert StreamSlots(state).at(type(key)(key.model, key.version, key.variant, key.part, other), 0) is None
