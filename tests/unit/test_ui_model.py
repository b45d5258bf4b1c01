"""The dashboard's pages of a model and of a feature: how it is, what drifted when, baseline against window."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

import numpy as np
import pytest

from dashboard import ask, pages
from judged import HOSTILE, HOUR, START, Made
from model_pages import charts, nine_hours, shown, told
from mooring.ui.pages.feature import FeaturePage


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    return nine_hours(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module")
def address(made) -> Iterator[str]:
    with pages(made.state.name, token=None) as found:
        yield found


def text_of(page: str) -> str:
    """Return a page as it is read: no markup, single spaces."""
    page = re.sub(r"<script.*?</script>|<svg.*?</svg>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", page)).replace("\u00a0", " ").split())


def test_it_says_first_how_the_model_is_since_when_and_why(address):
    text = text_of(shown(address, "/models/wine"))
    assert re.search("wine is drifting: .* have moved far from the training data, since", text)
    assert "Provisional: the newest window is still open." in text
    assert "no monitor is running for it" in text
    assert "retraining 1" in text
    assert "rollout of version 2 stands still" in text


def test_windows_versions_alerts_retrainings_and_rollouts_stand_on_one_axis_of_time(address, made):
    found = told(address, "/models/wine")
    statuses = [one.status for one in found.windows]
    assert statuses == ["ok"] * 3 + ["critical"] * 2 + ["too_few", "ok"] + ["critical"] * 2
    assert [one.version for one in found.windows] == ["1"] * 6 + ["2"] * 3
    assert (len(found.alerts), len(found.retrainings), len(found.rollouts)) == (1, 1, 1)
    timeline = charts(shown(address, "/models/wine"))[0]
    assert timeline["layout"]["yaxis"]["ticktext"] == ["rollouts", "retrainings", "alerts", "versions", "windows"]
    leads = {one for trace in timeline["data"] for one in trace["customdata"]}
    assert {"/models/wine/retrainings/1", "/models/wine/rollouts/1"} <= leads
    assert {one.see for one in found.windows} <= leads
    for where in leads:
        assert ask(address, where).status == 200


def test_a_warning_or_worse_is_told_by_shape_too(address):
    timeline = charts(shown(address, "/models/wine"))[0]
    shapes = {
        trace["marker"]["symbol"] for trace in timeline["data"] if trace.get("text", [""])[0].startswith("crit")
    }
    assert shapes == {"square"}


def test_the_heat_map_has_a_cell_for_each_feature_and_window(address, made):
    found = told(address, "/models/wine")
    assert [row.feature for row in found.heat] == ["prediction", "alcohol", "sugar", "colour"]
    alcohol = found.heat[1]
    assert [one is not None and one != "ok" for one in alcohol.severities] == [
        one.status == "critical" for one in found.windows
    ]
    assert (alcohol.severities[5], alcohol.ratios[5]) == (None, None), "it was not judged"
    assert all(ratio is not None and ratio > 1 for ratio in (alcohol.ratios[3], alcohol.ratios[8]))
    figure = charts(shown(address, "/models/wine"))[1]
    heat, *marks = figure["data"]
    assert np.array(heat["z"], dtype=float).shape == (4, 9)
    assert [len(one["x"]) for one in marks if one["marker"]["symbol"] == "square"] == [8]
    assert figure["to"]["x"] == made.ids
    assert figure["to"]["y"][1] == "alcohol"


@pytest.mark.parametrize(
    ("sort", "first"), [("name", "alcohol"), ("importance", "colour"), ("alarms", "alcohol"), ("drift", "alcohol")]
)
def test_features_come_in_the_order_that_is_asked(address, sort, first):
    inputs = [row.feature for row in told(address, f"/models/wine?sort={sort}").heat if row.role == "input"]
    assert inputs[0] == first


def test_drift_times_importance_is_what_they_are_ordered_by(address):
    found = told(address, "/models/wine?sort=importance")
    inputs = [row for row in found.heat if row.role == "input"]
    weighted = [row.weighted for row in inputs]
    assert weighted == sorted(weighted, reverse=True)
    assert all(row.weighted == pytest.approx((row.ratios[found.place] or 0.0) * row.importance) for row in inputs)
    assert "Drift × importance" in text_of(shown(address, "/models/wine?sort=importance"))


def test_of_many_features_so_many_are_shown_as_are_asked_and_the_others_are_said(address):
    found = told(address, "/models/wine?features=1")
    assert [row.feature for row in found.heat] == ["prediction", "alcohol"]
    assert found.more_features == 2
    assert "1 of 3 features" in text_of(shown(address, "/models/wine?features=1"))


def test_a_cell_shows_baseline_against_window_in_words_as_a_figure_and_by_every_measure(address, made):
    path = f"/models/wine?window={made.ids[3]}&feature=alcohol"
    page = shown(address, path)
    text = text_of(page[page.index('id="detail"') :])
    assert "alcohol in this window" in text
    assert "mean" in text
    assert "sd)" in text
    assert 'aria-label="Distribution in the baseline (filled) and in the window (line)"' in page
    cell = told(address, path).cell
    assert cell.severity == "critical"
    assert cell.strongest.alarm
    assert cell.shares.kind == "histogram"
    assert sum(cell.shares.reference) + sum((cell.shares.below[0], cell.shares.above[0])) == pytest.approx(
        1, abs=1e-3
    )
    ks = next(one for one in cell.measures if one.measure == "ks")
    assert ks.value > ks.threshold
    assert ks.alarm
    assert ks.p_value < 0.001
    assert {one.measure for one in cell.measures} >= {"ks", "js", "psi", "null_rate", "out_of_range_rate"}


def test_of_a_category_the_shares_of_its_values_are_shown(address, made):
    cell = told(address, f"/models/wine?window={made.ids[3]}&feature=colour").cell
    assert cell.shares.kind == "categories"
    assert set(cell.shares.names) == {"red", "white", "rosé"}


def test_without_a_choice_the_newest_judged_window_and_what_drifted_most_in_it_are_shown(address, made):
    found = told(address, "/models/wine")
    assert found.looked_at.window.id == made.ids[-1]
    assert found.cell.feature in ("alcohol", "prediction")
    assert {one.feature for one in found.looked_at.drifted} == {"alcohol", "prediction"}
    for one in found.looked_at.drifted:
        assert told(address, one.see).cell.feature == one.feature
        assert ask(address, one.page).status == 200


def test_from_a_window_one_gets_to_those_beside_it(address, made):
    found = told(address, f"/models/wine?window={made.ids[3]}&feature=sugar")
    before, after = (told(address, see) for see in (found.looked_at.earlier, found.looked_at.later))
    assert [before.looked_at.window.id, after.looked_at.window.id] == [made.ids[2], made.ids[4]]
    assert before.cell.feature == after.cell.feature == "sugar"
    assert told(address, f"/models/wine?window={made.ids[0]}").looked_at.earlier is None


def test_segments_are_told_of_the_window(address, made):
    found = told(address, f"/models/wine?window={made.ids[3]}").looked_at.segments
    assert [one.segment for one in found] == ["colour=red"]
    assert "alcohol" in found[0].features
    assert "colour=red" in text_of(shown(address, f"/models/wine?window={made.ids[3]}"))


def test_a_window_of_too_few_rows_is_shown_as_such_with_its_values(address, made):
    path = f"/models/wine?window={made.ids[5]}&feature=alcohol"
    text = text_of(shown(address, path))
    assert "Not judged (too few rows)" in text
    assert "fewer than the 30 wanted" in text
    assert "none alarms, as the window was not judged" in text
    found = told(address, path)
    assert found.cell.measures
    assert not any(one.alarm for one in found.cell.measures)
    assert found.cell.severity is None
    assert not found.looked_at.drifted


def test_a_distribution_that_is_no_longer_kept_is_said_and_the_measures_stay(address, made):
    path = f"/models/wine?window={made.ids[0]}&feature=alcohol"
    assert "no longer kept (mooring monitor --keep); its measures are" in text_of(shown(address, path))
    found = told(address, path).cell
    assert found.shares is None
    assert found.measures


def test_a_model_without_a_baseline_says_what_to_do(address):
    text = text_of(shown(address, "/models/bare"))
    assert "Nobody can tell whether version 1 of bare drifts: it has no baseline" in text
    assert "None of these windows was judged" in text
    assert "run mooring baseline build" in text
    assert told(address, "/models/bare").cell is None


def test_a_model_that_is_known_and_has_no_windows_says_what_to_do(address):
    text = text_of(shown(address, "/models/fresh"))
    assert "Nothing is said of fresh yet" in text
    assert "mooring monitor" in text


def test_a_window_that_another_mooring_wrote_is_told_as_far_as_it_can_be(address):
    text = text_of(shown(address, "/models/foreign?feature=alcohol"))
    assert "Another version of Mooring wrote what was measured in this window" in text
    assert told(address, "/models/foreign").status == "critical"
    assert [row.feature for row in told(address, "/models/foreign").heat], "cells are read still"
    assert "Another version of Mooring wrote" in text_of(shown(address, "/models/foreign/features/alcohol"))


@pytest.mark.parametrize(
    "path",
    [
        "/models/nobody",
        "/models/a%00b",
        "/models/wine?window=x",
        "/models/wine?window=%00",
        "/models/nobody/features/alcohol",
        "/models/wine/features/nothing",
        "/models/wine/features/a%00b",
        "/models/fresh/features/alcohol",
    ],
)
def test_what_is_not_there_is_said_not_to_be(address, path):
    assert "There is nothing here" in shown(address, path, 404)
    assert ask(address, f"/api{path}").status == 404


@pytest.mark.parametrize("path", ["/models/wine?newest=0", "/models/wine?start=x", "/models/wine?sort=x"])
def test_what_cannot_be_meant_is_said(address, path):
    shown(address, path, 400)


@pytest.mark.parametrize(
    "end", ["0001-01-01T00:00:00%2B23:59", "9999-12-31T23:59:59-23:59", "2030-01-01T00:00:00"]
)
def test_any_time_can_be_asked_for(address, end):
    for path in ("/models/wine", "/models/wine/features/alcohol"):
        assert ask(address, f"{path}?start=0001-01-01T00:00:00%2B23:59&end={end}").status == 200


def test_a_range_without_windows_leads_back(address):
    text = text_of(shown(address, "/models/wine?end=2020-01-01T00:00:00Z"))
    assert "begins in this time" in text
    assert "The newest windows" in text
    text = text_of(shown(address, "/models/wine/features/alcohol?end=2020-01-01T00:00:00Z"))
    assert "No window begins in this time." in text


def test_a_range_is_asked_by_address_and_kept_on_the_way(address, made):
    start = (START + 3 * HOUR).isoformat().replace("+00:00", "Z")
    found = told(address, f"/models/wine?start={start}&newest=3&version=1")
    assert [one.id for one in found.windows] == made.ids[3:6]
    assert all("version=1" in one.see and "newest=3" in one.see and "start=" in one.see for one in found.windows)
    assert "newest=3" in found.heat[1].see


def test_a_link_to_a_window_outside_of_the_range_shows_it(address, made):
    found = told(address, f"/models/wine?newest=2&window={made.ids[3]}&feature=alcohol")
    assert found.looked_at.window.id == made.ids[3]
    assert found.cell.severity == "critical"
    around = told(address, found.looked_at.outside)
    assert around.windows[-1].id == made.ids[3]


def test_a_shadow_is_shown_by_choice_only(address):
    found = told(address, "/models/wine")
    assert {one.variant for one in found.windows} == {"champion"}
    assert [one.name for one in found.variants] == ["champion", "shadow"]
    shadow = told(address, found.variants[1].see)
    assert [one.version for one in shadow.windows] == ["3"]
    assert "wine (shadow) is drifting" in shadow.sentence


def test_performance_has_intervals_what_it_was_before_coverage_and_segments(address):
    found = told(address, "/models/wine").performance
    assert found.measure == "rmse"
    assert [one.name for one in found.measures] == ["rmse", "mae"]
    assert "rmse is 1.2 (95 %: 1.1 to 1.3); it was 0.69 on the baseline's held-out rows" in found.sentence
    assert {one.coverage for one in found.windows} == {0.25}
    assert found.segments[0].value == HOSTILE
    assert found.segments[0].status == "warning"
    figure = charts(shown(address, "/models/wine"))[2]
    before, *lines, bars = figure["data"]
    assert before["y"] == [0.69] * 9
    assert before["line"]["dash"] == "dash"
    assert bars["type"] == "bar"
    assert bars["y"] == [0.25] * 9
    square = next(one for one in lines if one.get("marker", {}).get("symbol") == "square")
    assert square["error_y"]["array"] == pytest.approx([0.1] * 6)
    assert told(address, "/models/wine?measure=mae").performance.measure == "mae"


def test_without_labels_it_is_said_how_to_add_them(address):
    assert "none of these windows has labels" in text_of(shown(address, "/models/bare"))


def test_a_feature_over_time_and_in_a_window(address, made):
    found = told(address, f"/models/wine/features/alcohol?window={made.ids[4]}", FeaturePage)
    assert [one.window for one in found.windows] == made.ids
    assert (found.alarms, found.judged) == (4, 8)
    assert found.windows[5].ratio is None
    assert found.windows[4].measure in ("ks", "js", "out_of_range_rate")
    assert found.cell.feature == "alcohol"
    assert found.cell.shares is not None
    assert [one.segment for one in found.segments] == ["colour=red"]
    assert found.rows_command.startswith("mooring log query")
    assert "--model wine" in found.rows_command
    text = text_of(shown(address, "/models/wine/features/alcohol"))
    assert "alcohol alarms in 4 of 8 windows" in text


def test_features_lead_to_each_other_and_back(address, made):
    first = told(address, f"/models/wine/features/alcohol?window={made.ids[4]}", FeaturePage)
    assert first.after is not None
    second = told(address, first.after.see, FeaturePage)
    assert second.before.see == f"/models/wine/features/alcohol?window={made.ids[4]}"
    assert told(address, second.model_page).looked_at.window.id == made.ids[4]
