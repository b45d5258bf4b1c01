"""The report: what it says, and that it stands by itself."""

from __future__ import annotations

import re
from datetime import timedelta

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from markupsafe import escape
from plotly.offline import get_plotlyjs

from mooring.drift import distributions
from mooring.drift.baseline import PastStatistics, make
from mooring.drift.distributions import Bars, histogram
from mooring.drift.grid import numeric_grid
from mooring.drift.judge import judge
from mooring.drift.judgement import Judgement
from mooring.drift.measure_table import MEASURES
from mooring.drift.profile import numeric_profile, profile
from mooring.monitor.drift_check import findings
from mooring.report import page, words
from mooring.report.model import Report, ReportWindow
from mooring.report.reading import read
from mooring.state.incidents import Incident, StreamState
from reports import EVIL, HOUR, START, Sample, drifted_report, judged_sample, profile_of, report, window, wines


def sentence(text: str) -> str:
    """Return a page's verdict as plain text, its spaces plain, too."""
    found = text.split("<h1>")[1].split("</h1>")[0]
    while "<time" in found:
        before, _, rest = found.partition("<time")
        found = before + rest.partition(">")[2].replace("</time>", "", 1)
    return found.replace("\u00a0", " ")


@pytest.fixture(scope="module")
def sample() -> Sample:
    return judged_sample()


@pytest.fixture(scope="module")
def drifted(sample: Sample) -> Report:
    return drifted_report(sample)


def test_says_first_what_drifted_and_since_when(drifted: Report) -> None:
    for text in (page.html(drifted), page.svg(drifted)):
        said = sentence(text)
        assert said.startswith("wine is drifting: ")
        assert said.endswith("since 2026-05-04 10:00 UTC, for 2 windows.")
        assert "alcohol" in said
        assert "Provisional: the newest window is still open." in text
        assert "The canary, version 4, is well." in text


def test_only_what_is_critical_is_said_to_be_far(sample: Sample) -> None:
    def with_severity(severity: str, *features: str) -> ReportWindow:
        found = sample.judgements[1]
        results = [
            msgspec.structs.replace(one, severity=severity if one.feature in features else "critical")
            if one.alarm
            else one
            for one in found.results
        ]
        worst = max((one.severity for one in results if one.alarm), key=["ok", "warning", "critical"].index)
        changed = msgspec.structs.replace(found, results=results, severity=worst)
        return window(0, judgement=changed, found=sample.profiles[1])

    features = sample.judgements[1].features
    said = sentence(page.svg(report(sample.baseline, with_severity("warning", *features))))
    assert "have moved away from the training data, since" in said
    assert "far" not in said
    said = sentence(page.svg(report(sample.baseline, with_severity("warning", *features[1:]))))
    assert f"{features[0]} has moved far from the training data, and less so {features[1]}" in said


def test_the_alarm_that_it_names_of_a_feature_is_that_of_the_verdict(sample: Sample) -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        results = [
            msgspec.structs.replace(
                one,
                scale=int(random.choice([1, 4, 16])),
                strength=float(random.uniform(1, 9)),
                severity=str(random.choice(["warning", "critical"])),
            )
            if one.alarm
            else one
            for one in sample.judgements[1].results
        ]
        judged = msgspec.structs.replace(sample.judgements[1], results=results)
        shown = read(report(sample.baseline, window(0, judgement=judged, found=sample.profiles[1])), 100)
        named = {one.name: one.top and (one.top.result.measure, one.top.result.scale) for one in shown.drifted}
        assert named == {one.feature: (one.measure, one.scale) for one in findings(judged)}


def test_a_threshold_that_is_the_floor_is_said_to_be(sample: Sample) -> None:
    text = page.html(report(sample.baseline, sample.window(0, 0)))
    assert "threshold 0.05, the minimum effect" in text
    assert "or the minimum effect of the measure where that is larger" in text


def test_a_baseline_of_rows_of_the_log_is_not_said_to_be_training_data(sample: Sample) -> None:
    baseline = msgspec.structs.replace(sample.baseline, about={"log": "./mooring-log"})
    for which, said in ((0, "looks like its baseline."), (1, "far from its baseline")):
        text = page.html(report(baseline, sample.window(0, which)))
        assert said in sentence(text)
        assert "raining" not in text.replace(get_plotlyjs(), "")


def test_what_is_usual_is_said_to_be_from_past_windows_where_it_is(sample: Sample) -> None:
    past = {"alcohol": PastStatistics([("ks", 1)], np.ones((40, 1)))}
    about = {**sample.baseline.about, "usual": "./mooring-log 2026-03-01..2026-03-29"}
    calibrated = msgspec.structs.replace(sample.baseline, past=past, about=about)
    text = page.html(report(calibrated, sample.window(0, 1)))
    assert "What is usual was taken from past windows (./mooring-log 2026-03-01..2026-03-29)" in text
    assert "drawing windows of the same size" not in text
    assert "drawing windows of the same size" in page.html(report(sample.baseline, sample.window(0, 1)))


def test_several_versions_in_one_heat_map_are_told_apart(sample: Sample, drifted: Report) -> None:
    for text in (page.html(drifted), page.svg(drifted)):
        plain = re.sub("<[^>]+>", "", text).replace("\u00a0", " ")
        assert "Several versions are shown together, each compared with its own baseline" in plain
        assert "version 2 from 2026-05-04 06:00 UTC, version 3 from 2026-05-04 07:00 UTC." in plain
        assert text.count('class="version"') >= 2
    one = page.html(report(sample.baseline, sample.window(0, 0), sample.window(1, 0)))
    assert "Several versions" not in one


def test_times_of_short_windows_are_told_to_the_second(sample: Sample) -> None:
    windows = [sample.window(0, 0), sample.window(0, 0), sample.window(0, 1)]
    for place, one in enumerate(windows):
        one.start = START + timedelta(seconds=20 * place)
        one.end = one.start + timedelta(seconds=20)
    text = page.html(report(sample.baseline, *windows))
    assert sentence(text).endswith("since 2026-05-04 06:00:40 UTC, the newest window.")
    assert '<time datetime="2026-05-04T06:00:40Z">' in text


def test_a_report_on_a_shadow_alone_says_so(sample: Sample) -> None:
    assert sentence(page.svg(report(sample.baseline, sample.window(0, 0, variant="shadow")))).startswith(
        "wine (shadow) is well"
    )


def test_severities_are_called_as_everywhere_else(drifted: Report) -> None:
    text = page.html(drifted)
    assert "<strong>critical</strong>" in text
    assert "warning: a dot" in text
    assert "critical: a square" in text
    assert "arge drift" not in text


def test_ranks_features_as_the_judgement_does(sample: Sample, drifted: Report) -> None:
    reading = read(drifted, 100)
    assert [one.name for one in reading.drifted] == sample.judgements[1].features
    assert {"alcohol", "style", "pH"} <= {one.name for one in reading.drifted}
    strengths = [one.top.ratio for one in reading.steady if one.top]
    assert strengths == sorted(strengths, reverse=True)


def test_what_a_feature_means_to_the_model_is_shown_beside_its_drift(drifted: Report) -> None:
    assert "drift × importance" not in page.html(drifted)
    assert drifted.baseline is not None
    features = dict(drifted.baseline.features)
    features["alcohol"] = msgspec.structs.replace(features["alcohol"], importance=0.25)
    weighed = msgspec.structs.replace(drifted.baseline, features=features)
    reading = read(drifted, 100)
    [top] = (one.top for one in reading.features if one.name == "alcohol")
    assert top is not None
    shown = page.html(msgspec.structs.replace(drifted, baseline=weighed))
    assert f"importance 0.25, drift × importance {words.number(top.ratio * 0.25)}" in shown


def test_tells_in_words_what_changed(drifted: Report) -> None:
    said = {one.name: words.changes(one).replace("\u00a0", " ") for one in read(drifted, 100).features}
    assert said["alcohol"].startswith("mean 10.")
    assert "sd)" in said["alcohol"]
    assert "10 % in new categories: “rosé”" in said["style"]
    assert said["pH"] == "missing 0 % → 6.7 %"


def test_the_order_of_windows_does_not_matter(drifted: Report) -> None:
    turned = msgspec.structs.replace(drifted, windows=drifted.windows[::-1])
    assert page.svg(turned) == page.svg(drifted)


def test_well_again_after_a_drift(sample: Sample) -> None:
    text = page.svg(report(sample.baseline, sample.window(0, 1), sample.window(1, 0), sample.window(2, 0)))
    assert sentence(text) == "wine is well: its last 2 windows look like the data it was trained on."
    assert "Its last drift was from" in text


def test_nothing_logged_too_few_rows_no_baseline(sample: Sample) -> None:
    few = window(0, message="100 rows are needed: wait for more.")
    bare = window(1, "no_baseline", message="Make one: mooring baseline build --model wine.")
    for found, said, advice in (
        (report(sample.baseline), "Nothing has been logged for wine yet.", "./mooring-log"),
        (report(sample.baseline, few), "There is too little traffic to judge wine", "wait for more"),
        (
            report(None, bare),
            "Nobody can tell whether version 3 of wine drifts: it has no baseline.",
            "baseline build",
        ),
    ):
        for text in (page.html(found), page.svg(found)):
            assert sentence(text).startswith(said)
            assert advice in text


def test_a_newer_window_with_too_few_rows_does_not_hide_the_verdict(sample: Sample) -> None:
    text = page.svg(report(sample.baseline, sample.window(0, 1), window(1)))
    assert "is drifting" in sentence(text)
    assert "has too few rows to be judged" in text


def test_slow_drift_is_shown_with_the_windows_that_it_was_found_in(sample: Sample) -> None:
    def found_together(judgement: Judgement) -> Judgement:
        results = [
            msgspec.structs.replace(one, scale=4) if one.feature == "alcohol" and one.alarm else one
            for one in judgement.results
        ]
        return msgspec.structs.replace(judgement, results=results)

    windows = [sample.window(hour, 1) for hour in range(5)]
    windows[-1].judgement = found_together(sample.judgements[1])
    [alcohol] = [one for one in read(report(sample.baseline, *windows), 100).features if one.name == "alcohol"]
    assert alcohol.span == 4
    assert alcohol.current is not None
    assert alcohol.current.values.values == 4 * 600


def test_missing_and_unknown_columns_are_named(sample: Sample) -> None:
    gone = profile_of(wines(3).drop(columns="chlorides").assign(brand_new=1), sample.baseline)
    text = page.html(report(sample.baseline, window(0, judgement=judge(sample.baseline, [gone]), found=gone)))
    assert "Missing from the traffic: chlorides." in text
    assert "In the traffic but not in the baseline: <bdi>brand_new</bdi>." in text
    assert "no longer in the traffic" in text


def test_every_measure_has_a_definition(sample: Sample) -> None:
    given = {result.measure for judgement in sample.judgements for result in judgement.results}
    assert given <= MEASURES.keys()


def test_stands_by_itself_with_plotly_once(drifted: Report) -> None:
    text = page.html(drifted)
    assert text.count(get_plotlyjs()) == 1
    assert len(text.encode()) < 6_000_000
    ours = text.replace(get_plotlyjs(), "")
    assert "http://" not in ours
    assert "https://" not in ours
    assert EVIL not in ours


def test_the_small_report_is_small_and_has_no_script(drifted: Report) -> None:
    text = page.svg(drifted)
    assert len(text.encode()) < 300_000
    assert "<script" not in text
    assert text.count("<svg") > 20


def test_many_features_and_windows_stay_small(sample: Sample) -> None:
    """200 features × 120 windows, most of them alarming, all with names as long as they are shown."""
    random = np.random.default_rng(0)
    names = [f"{place} " + "a long name of a feature " * 8 for place in range(220)]
    values = {name: pa.array(random.lognormal(size=300)) for name in names}
    baseline = make(values)
    found = profile([pa.table(values)], baseline.grids)
    kinds = [one for one in sample.judgements[1].results if one.feature == "alcohol"]

    def judged() -> Judgement:
        noise = random.uniform(0.01, 1, (len(names), len(kinds)))
        results = [
            msgspec.structs.replace(one, feature=name, value=one.value * factor, alarm=factor > 0.3)
            for name, factors in zip(names, noise, strict=True)
            for one, factor in zip(kinds, factors, strict=True)
        ]
        return msgspec.structs.replace(sample.judgements[1], results=results, features=names)

    windows = [window(hour, judgement=judged(), found=found) for hour in range(120)]
    whole, small = page.html(report(baseline, *windows)), page.svg(report(baseline, *windows))
    assert len(whole.encode()) < 6_000_000
    assert len(small.encode()) < 300_000
    assert "20 earlier ones left out" in whole
    assert "are left out of this page to keep it small" in whole


def test_names_that_no_page_may_hold() -> None:
    text = page.svg(report(None, model="</title><script>alert(1)</script>\x00\ud800"))
    assert "<script" not in text
    assert "\x00" not in text
    text.encode()


def test_histograms_are_not_squashed_by_outliers() -> None:
    values = np.append(np.random.default_rng(0).normal(size=5000), 1e9)
    grid = numeric_grid(values)
    found = histogram(grid, numeric_profile(values, grid), numeric_profile(values, grid))
    assert found is not None
    assert found.width < 1
    assert 0.9 < found.reference.sum() <= 1
    for side in (0, 1):
        shares = (found.reference, found.current)[side]
        assert shares.sum() + found.below[side] + found.above[side] == pytest.approx(1)


def test_histograms_of_numbers_with_one_decimal_have_no_gaps() -> None:
    values = np.round(np.random.default_rng(0).uniform(8, 14, 20_000), 1)
    grid = numeric_grid(values)
    found = histogram(grid, numeric_profile(values, grid), numeric_profile(values, grid))
    assert found is not None
    steps = found.width / 0.1
    assert steps == pytest.approx(round(steps))
    inner = found.reference[1:-1]
    assert inner.max() < 1.3 * inner.min()


def test_values_beyond_the_training_data_are_in_the_tail() -> None:
    values = np.random.default_rng(0).uniform(0, 1, 1000)
    grid = numeric_grid(values)
    found = histogram(grid, numeric_profile(values, grid), numeric_profile(values + 10, grid))
    assert found is not None
    assert found.above == (pytest.approx(0), pytest.approx(1))


@pytest.mark.parametrize(
    "values", [[5.0] * 50, [np.nan] * 50, [-1.7e308, 1.7e308] * 25, [0.0] * 45 + [1e-300] * 5]
)
def test_odd_numbers_are_drawn_or_left_out(values: list[float]) -> None:
    array = np.array(values)
    grid = numeric_grid(array)
    found = histogram(grid, numeric_profile(array, grid), numeric_profile(np.array([np.nan, np.inf]), grid))
    assert found is None or np.isfinite([found.start, found.end]).all()


def test_of_many_categories_the_largest_and_the_new_are_shown() -> None:
    before = pa.array([f"c{place}" for place in range(100) for _ in range(3)])
    baseline = make({"many": before}, kinds={"many": "categorical"})
    found = profile([pa.table({"many": ["c1"] * 50 + ["new one"] * 50})], baseline.grids)
    shown = distributions.distribution(
        baseline.features["many"].grid, baseline.features["many"].profile, found.features["many"]
    )
    assert isinstance(shown, Bars)
    assert {shown.names[0], shown.names[1]} == {"c1", "new one"}
    assert shown.new[shown.names.index("new one")]
    assert shown.rest == 101 - len(shown.names)
    assert shown.reference.sum() + shown.rest_shares[0] == pytest.approx(1)


def incident(**changed) -> Incident:
    given = {"model": "wine", "version": "3", "variant": "champion", "kind": "drift", "severity": "critical"}
    times = {"start": START, "opened": START + HOUR, "updated": START + 2 * HOUR}
    return Incident(**{**given, **times, **changed})


def test_incidents_stand_in_both_reports_each_once_and_their_names_are_text(sample: Sample) -> None:
    found = report(sample.baseline, sample.window(0, 0), sample.window(1, 1))
    found.incidents = [
        incident(features=("alcohol", EVIL, *"abcdef")),
        incident(kind="performance", severity="warning", features=("rmse",), closed=START + 3 * HOUR),
    ]
    for text in (page.html(found), page.svg(found)):
        section = text[text.index('<section id="incidents">') :].partition("</section>")[0]
        assert section.count("<tr>") == 3
        assert "open, newest window to" in section
        assert "loss of performance" in section
        assert "and 3 more" in section
        assert EVIL not in section
        assert escape(EVIL) in section
    assert '<section id="incidents">' not in page.html(report(sample.baseline, sample.window(0, 0)))


def test_the_evidence_says_how_far_the_next_incident_is(sample: Sample) -> None:
    found = report(sample.baseline, sample.window(0, 0))
    assert "Evidence of drift" not in page.svg(found), "of what no monitor has looked at nothing is known"
    for given, said in (
        ({"level": 0.08, "since": START}, "8.0 % of what opens an incident<"),
        ({"level": 0.4, "since": START}, "40 % of what opens an incident, growing since"),
        ({"level": 9.0}, "by too little to matter"),
        ({"level": 9.0, "incident_id": "x"}, "an incident is open"),
    ):
        found.stream = StreamState(
            model="wine", version="3", variant="champion", kind="drift", baseline="", updated=START, **given
        )
        for text in (page.html(found), page.svg(found)):
            assert said in text.replace("\u00a0", " ")


def test_predictions_that_are_in_sample_are_said_to_be(sample: Sample) -> None:
    assert "In-sample: prediction" not in page.html(report(sample.baseline, sample.window(0, 0)))
    features = {
        name: msgspec.structs.replace(one, held_out=False) for name, one in sample.baseline.features.items()
    }
    trained = msgspec.structs.replace(sample.baseline, features=features)
    text = page.html(report(trained, sample.window(0, 0)))
    assert "In-sample: prediction." in text
    assert "evaluation=(labels, predictions)" in text
