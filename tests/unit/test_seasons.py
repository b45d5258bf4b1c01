"""Seasons: what follows the clock or the week is no drift; days that are not usual; what remains is found."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as some

from mooring.drift.baseline import Baseline, make
from mooring.drift.likes import BlockLikes, mixed, scaled
from mooring.drift.profile import Profile, profile
from mooring.drift.seasons import SLOTS, SlotSums, place_of, seasons_of
from mooring.monitor.special_days import read_holidays, span_of, zone_of

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)


def sums(days: int, pattern, *, scores: int = 3, noise: float = 0.05, seed: int = 0, per_hour: int = 1):
    """Return the sums of hours after so many days, of scores whose first follows a pattern of day and hour."""
    rng = np.random.default_rng(seed)
    found: dict[int, SlotSums] = {}
    for hour in range(days * 24):
        slot, day = hour % SLOTS, 1000 + hour // 24
        for _ in range(per_hour):
            means = rng.normal(0, noise, scores)
            means[0] += pattern(hour // 24 % 7, hour % 24)
            found[slot] = found.get(slot, SlotSums()).after(day, 500.0, means)
    return found


NAMES = ["x", "y", "z"]


def test_hours_of_the_day_are_found_after_two_days():
    found = seasons_of(NAMES, sums(2, lambda _, hour: 0.15 * np.sin(hour / 24 * 2 * np.pi)), 2)
    assert (found.hourly, found.by_kind, found.weekly) == ({"x"}, set(), set())


def test_weekends_are_found_after_eight_days_and_not_before():
    def weekend(day: int, _: int) -> float:
        return 0.1 * (day >= 5)

    assert not seasons_of(NAMES, sums(7, weekend), 7).by_kind
    found = seasons_of(NAMES, sums(8, weekend), 8)
    assert (found.hourly, found.by_kind) == (set(), {"x"})


def test_one_hour_of_the_week_is_found_after_sixteen_days():
    def friday_night(day: int, hour: int) -> float:
        return 0.3 * (day == 4 and hour >= 20)

    assert seasons_of(NAMES, sums(16, friday_night), 16).weekly == {"x"}


def test_weekends_with_other_hours_and_the_same_mean_are_found():
    def later(day: int, hour: int) -> float:
        return 0.15 * np.sin((hour + 6 * (day >= 5)) / 24 * 2 * np.pi)

    assert seasons_of(NAMES, sums(8, later), 8).by_kind == {"x"}


def test_what_varies_from_day_to_day_by_itself_is_no_season():
    rng = np.random.default_rng(5)
    days = rng.normal(0, 0.2, 60)
    found = [seasons_of(NAMES, sums(8, lambda day, _, at=at: days[at + day], seed=at), 8) for at in range(40)]
    assert sum(bool(one.hourly or one.by_kind) for one in found) <= 2


def test_a_step_is_no_season():
    found = seasons_of(NAMES, sums(16, lambda day, _: 0.3 * (day >= 3)), 4)
    assert not found.hourly


def test_unseasonal_features_are_rarely_taken_for_seasonal():
    names = [f"x{at}" for at in range(12)]
    wrong = 0
    for seed in range(100):
        found = seasons_of(names, sums(16, lambda *_: 0.0, scores=12, seed=seed), 16)
        wrong += bool(found.hourly or found.by_kind or found.weekly)
    # 0.01 for each of three tests, and 0.99 quantile of that
    assert wrong <= 9


def test_many_windows_an_hour_count_as_one_visit():
    found = sums(3, lambda *_: 0.0, per_hour=5)
    assert {one.settled(3).visits for one in found.values()} == {1}
    assert {round(one.settled(3).rows) for one in found.values()} == {2500}
    assert found[0].visits_before(1000) == 0
    assert found[0].visits_before(1007) == 1


def test_a_place_goes_by_the_clocks_of_a_zone():
    start = datetime(2026, 7, 5, 22, tzinfo=UTC)
    berlin = place_of(start, start + timedelta(hours=1), ZoneInfo("Europe/Berlin"))
    assert (berlin.slot, berlin.weekend) == (0, False)
    utc = place_of(start, start + timedelta(hours=1), UTC)
    assert (utc.slot, utc.weekend, utc.day) == (6 * 24 + 22, True, berlin.day - 1)


@given(some.integers(0, 10**7), some.integers(60, 3600))
def test_shares_of_neighbouring_hours_add_up(seconds, length):
    start = MONDAY + timedelta(seconds=seconds)
    place = place_of(start, start + timedelta(seconds=length), UTC)
    assert 0 <= place.share <= 0.5
    assert (place.neighbour - place.slot) % SLOTS in (0, 1, SLOTS - 1)


def numbers(rows: int, mean: float, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table({"x": rng.normal(mean, 1, rows), "c": rng.choice(["a", "b"], rows)})


@pytest.fixture(scope="module")
def baseline() -> Baseline:
    table = numbers(5000, 0.0)
    return make({name: table[name].combine_chunks() for name in table.column_names})


def counted(baseline: Baseline, rows: int, mean: float) -> Profile:
    return profile([numbers(rows, mean, seed=rows)], baseline.grids)


def test_a_block_is_compared_with_as_much_of_each_hour_as_it_has(baseline):
    night, day = counted(baseline, 9000, -1.0), counted(baseline, 300, 1.0)
    block = BlockLikes()
    for slot, part in enumerate((night, day)):
        like = mixed([(1.0, part)], "x", 1000)
        block = block.after({"x": like}, slot, 1000)
    found = block.likes["x"]
    assert abs(found.profile.values.offset()) < 0.06
    assert found.effective_rows == pytest.approx(2000**2 / (1000**2 / 9000 + 1000**2 / 300))


def test_windows_of_the_same_hour_share_their_reference(baseline):
    like = mixed([(1.0, counted(baseline, 5000, 0.0))], "x", 1000)
    block = BlockLikes()
    for _ in range(4):
        block = block.after({"x": like}, 7, 1000)
    assert block.likes["x"].effective_rows == pytest.approx(5000)


def test_a_feature_without_a_reference_in_one_window_has_none_in_the_block(baseline):
    like = mixed([(1.0, counted(baseline, 5000, 0.0))], "x", 1000)
    assert BlockLikes().after({"x": like}, 1, 10).after({}, 2, 10).likes == {}
    assert mixed([], "x", 10) is None
    assert mixed([(1.0, counted(baseline, 0, 0.0))], "x", 10) is None


@given(some.floats(0.01, 300))
def test_scaling_keeps_means_and_shares(factor):
    table = numbers(3000, 0.5)
    own = make({name: table[name].combine_chunks() for name in table.column_names})
    for name, feature in own.features.items():
        found = scaled(feature.profile, factor)
        assert found.values.values == pytest.approx(3000 * factor, rel=0.02, abs=1500 if name == "x" else 2)
    before = own.features["x"].profile.values
    assert scaled(own.features["x"].profile, factor).values.total == pytest.approx(before.total * factor)


def test_a_file_of_holidays_is_read(tmp_path: Path):
    path = tmp_path / "days.txt"
    path.write_text("# ours\n2026-12-25/2026-12-26  Christmas  Day\n\n2027-01-01 # new year\n")
    first, second = read_holidays(path, zone_of("Europe/Berlin"))
    assert (first.start, first.end, first.name) == (
        datetime(2026, 12, 24, 23, tzinfo=UTC),
        datetime(2026, 12, 26, 23, tzinfo=UTC),
        "Christmas  Day",
    )
    assert (second.end - second.start, second.name) == (timedelta(days=1), "")


@pytest.mark.parametrize("line", ["25.12.2026", "2026-12-32", "2026-12-26/2026-12-25 late", "2026-12-25/", "x"])
def test_a_line_that_is_no_date_is_said_with_its_number(tmp_path: Path, line: str):
    path = tmp_path / "days.txt"
    path.write_text(f"2026-12-25\n\n{line}\n")
    with pytest.raises(ValueError, match=r"days\.txt, line 3: "):
        read_holidays(path, UTC)


def test_a_day_of_summer_time_has_its_own_length():
    changed = span_of("2026-03-29", ZoneInfo("Europe/Berlin"))
    assert changed.end.astimezone(UTC) - changed.start.astimezone(UTC) == timedelta(hours=23)
    assert msgspec.json.encode(changed.start.astimezone(UTC)) == b'"2026-03-28T23:00:00Z"'
