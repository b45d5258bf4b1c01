"""Any two samples compared: alarms only on what is more than chance, and results that people and programs read."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner

from mooring.cli import main
from mooring.comparison import Comparison, baseline, compare
from mooring.drift.measure_table import MEASURES

SHOWN = ["feature", "measure", "value", "p_value", "threshold", "alarm"]


def sample(rows: int, seed: int, moved: float = 0.0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "alcohol": random.normal(10 + moved, 1, rows),
            "sugar": np.round(random.gamma(2, 3, rows), 1),
            "store": random.choice(["north", "south", "west"], rows),
            "bottled": pd.Timestamp("2026-01-01", tz="UTC")
            + pd.to_timedelta(random.integers(0, 10**6, rows), "s"),
            "note": [f"{number} bottles of this one" for number in random.integers(0, 10**9, rows)],
            "prediction": random.normal(6 + moved / 2, 0.8, rows),
        }
    )


@pytest.fixture(scope="module")
def moved() -> Comparison:
    return compare(sample(5000, 0), sample(800, 1, moved=1.0), predictions="prediction")


def test_what_is_the_same_does_not_alarm_and_what_moved_does(moved):
    same = compare(sample(5000, 0), sample(800, 1))
    assert (same.drifted, same.severity, same.features) == (False, "ok", [])
    assert (moved.drifted, moved.severity) == (True, "critical")
    assert moved.features == ["alcohol", "prediction"]


def test_the_table_has_a_row_for_each_feature_and_measure(moved):
    table = moved.to_pandas()
    assert list(table) == SHOWN
    assert not table.duplicated(["feature", "measure"]).any()
    measures = table.groupby("feature")["measure"].agg(set).to_dict()
    numeric = {"ks", "js", "psi", "hellinger", "wasserstein", "total_variation", "l_infinity", "chi_square",
               "mean_shift", "out_of_range_rate", "null_rate"}  # fmt: skip
    assert measures["alcohol"] == measures["sugar"] == measures["note"] == numeric
    assert measures["store"] == numeric - {"ks", "wasserstein", "mean_shift", "out_of_range_rate"} | {
        "new_category_rate"
    }
    assert {"hour_js", "weekday_js", "null_rate"} <= measures["bottled"]
    assert table["alarm"].dtype == bool
    assert set(table.loc[table["alarm"], "measure"]) <= {
        name for name, one in MEASURES.items() if one.test is not None
    }
    alarmed = table[table["alarm"]]
    assert (alarmed["value"] >= alarmed["threshold"]).all()
    assert (alarmed["p_value"] < 0.001).all()


def test_what_does_not_alarm_by_default_alarms_from_a_threshold_of_its_own():
    frames = sample(3000, 0), sample(500, 1, moved=1.0)
    others = {"ks": 2.0, "js": 2.0, "mean_shift": 9.0, "out_of_range_rate": 2.0}
    quiet = compare(*frames, thresholds=others | {"alcohol.psi": 0.2})
    alarmed = quiet.to_pandas().query("alarm")
    assert alarmed[["feature", "measure", "threshold"]].to_numpy().tolist() == [["alcohol", "psi", 0.2]]


def test_small_differences_are_passed_over_unless_floors_are_off():
    random = np.random.default_rng(0)
    a, b = {"x": random.normal(size=60_000)}, {"x": random.normal(0.05, 1, size=60_000)}
    assert not compare(a, b).drifted
    assert compare(a, b, floors=False).drifted


def test_the_same_seed_gives_the_same_result():
    frames = sample(2000, 0), sample(300, 1, moved=0.2)
    one, again = (compare(*frames, floors=False, seed=5).to_dict() for _ in range(2))
    assert one == again


@pytest.mark.parametrize("given", ["pandas", "polars", "pyarrow", "parquet", "csv", "baseline", "baseline file"])
def test_a_reference_may_be_anything(given, tmp_path):
    frame = sample(2000, 0)[["alcohol", "store"]]
    current = sample(400, 1, moved=1.0)[["alcohol", "store"]]
    match given:
        case "polars":
            reference, current = pl.from_pandas(frame), pl.from_pandas(current)
        case "pyarrow":
            reference, current = pa.Table.from_pandas(frame), pa.Table.from_pandas(current)
        case "parquet":
            reference = tmp_path / "frame.parquet"
            frame.to_parquet(reference)
        case "csv":
            reference = str(tmp_path / "frame.csv")
            frame.to_csv(reference, index=False)
        case "baseline":
            reference = baseline(frame)
        case "baseline file":
            reference = tmp_path / "baseline.mooring"
            reference.write_bytes(baseline(frame).to_bytes())
        case _:
            reference = frame
    found = compare(reference, current)
    expected = compare(frame, sample(400, 1, moved=1.0)[["alcohol", "store"]])
    assert found.features == ["alcohol"]
    pd.testing.assert_frame_equal(found.to_pandas(), expected.to_pandas())


def test_only_the_columns_that_are_asked_for_are_compared():
    frames = sample(2000, 0), sample(400, 1, moved=1.0)
    for reference in (frames[0], baseline(frames[0])):
        found = compare(reference, frames[1], columns=["sugar", "store"])
        assert set(found.to_pandas()["feature"]) == {"sugar", "store"}
        assert not found.drifted
        assert found.judgement.unknown == []


def test_columns_that_are_missing_or_new_are_told():
    found = compare(sample(1000, 0)[["alcohol", "sugar"]], sample(300, 1)[["alcohol", "store"]])
    assert found.judgement.missing == ["sugar"]
    assert found.judgement.unknown == ["store"]
    assert "Not in the current sample: sugar" in repr(found)
    assert "Not in the reference: store" in found._repr_html_()


def test_a_column_that_one_side_lacks_is_no_drift_by_itself():
    frames = sample(1000, 0)[["alcohol", "sugar"]], sample(300, 1)[["alcohol", "store"]]
    for reference in (frames[0], baseline(frames[0])):
        found = compare(reference, frames[1])
        assert (found.drifted, found.severity, found.judgement.missing) == (False, "ok", ["sugar"])
        assert set(found.to_pandas()["feature"]) == {"alcohol"}
        assert repr(found).startswith("No drift in 1 feature (300 rows against 1,000).")
    moved = compare(frames[0], sample(300, 1, moved=1.0)[["alcohol"]])
    assert (moved.features, moved.judgement.missing) == (["alcohol"], ["sugar"])


def test_a_column_of_nulls_is_not_missing_but_drift():
    frame = sample(1000, 0)[["alcohol", "sugar"]]
    found = compare(frame, frame.assign(sugar=None))
    assert (found.features, found.judgement.missing) == (["sugar"], [])
    assert found.to_pandas().query("alarm")["measure"].tolist() == ["null_rate"]


def test_the_ground_truth_is_neither_compared_nor_missed():
    frames = sample(1000, 0)[["alcohol", "sugar"]], sample(300, 1, moved=2.0)[["alcohol", "sugar"]]
    for a, b in (frames, (frames[0], frames[1][["sugar"]]), (frames[0][["sugar"]], frames[1])):
        found = compare(a, b, label="alcohol")
        assert set(found.to_pandas()["feature"]) == {"sugar"}
        assert (found.drifted, found.judgement.missing, found.judgement.unknown) == (False, [], [])
    made = baseline(frames[0][["sugar"]], labels=frames[0]["alcohol"])
    assert compare(made, frames[1][["sugar"]]).judgement.missing == []
    with pytest.raises(ValueError, match="neither sample has a column quality; the reference has: alcohol, sugar"):
        compare(*frames, label="quality")
    with pytest.raises(ValueError, match="label go with data: this baseline has its own"):
        compare(made, frames[1], label="alcohol")


def test_a_column_whose_type_changed_is_told_as_that():
    frame = sample(1000, 0)[["alcohol", "sugar"]]
    words = frame.head(400).assign(sugar=[f"{number} g" for number in range(400)])
    found = compare(frame, words)
    [alarm] = found.to_pandas().query("alarm").to_dict("records")
    assert (alarm["feature"], alarm["measure"], alarm["value"]) == ("sugar", "type_change_rate", 1.0)
    assert alarm["p_value"] < 0.001 < alarm["threshold"] < 1
    assert (found.severity, found.features) == ("critical", ["sugar"])
    for told in (repr(found), found._repr_html_()):
        assert "Of another type than in the reference: sugar" in told
    assert "null_rate" not in repr(found)
    assert (
        "<b>sugar</b> of another type 1</figcaption></figure>" in found._repr_html_()
    )  # there is nothing to draw
    fixed = compare(frame, words, thresholds={"null_rate": 0.5}).to_pandas().query("alarm")
    assert fixed["measure"].tolist() == ["null_rate"]


def test_few_rows_have_values_but_no_alarms():
    frames = sample(2000, 0), sample(5, 1, moved=5.0)
    for few in (compare(*frames), compare(frames[1], frames[0]), compare(*frames, thresholds={"ks": 0.1})):
        assert few.too_few
        assert (few.drifted, few.severity, few.features) == (False, "ok", [])
        table = few.to_pandas().set_index(["feature", "measure"])
        assert not table["alarm"].any()
        assert table.loc[("alcohol", "ks"), "value"] > 0.9
        assert repr(few).startswith("Too few rows to judge 6 features: ")
    lowered = compare(*frames, min_rows=5)
    assert not lowered.too_few
    assert lowered.drifted


def test_chances_that_are_next_to_nothing_are_not_told_to_the_last_digit(moved):
    chances = moved.to_pandas().query("alarm")["p_value"]
    assert chances.min() < 1e-12
    for told in (repr(moved), moved._repr_html_().replace("&lt;", "<")):
        assert "<1e-12" in told
        assert f"{chances.min():.3g}" not in told


def test_a_baseline_has_the_names_of_the_log():
    frame = sample(100, 0)[["alcohol", "prediction"]]
    made = baseline(
        frame, predictions=np.zeros(100), labels=pd.Series(np.arange(100)), importance={"alcohol": 2.0}
    )
    roles = {name: feature.role for name, feature in made.features.items()}
    assert roles == {"alcohol": "input", "input.prediction": "input", "prediction": "output", "label": "label"}
    assert made.features["alcohol"].importance == 2.0
    both = baseline(frame[["alcohol"]], predictions=pd.DataFrame({"class": ["a"] * 100, "score": [0.5] * 100}))
    assert list(both.features) == ["alcohol", "prediction.class", "prediction.score"]
    single = baseline(frame[["alcohol"]], predictions=pd.DataFrame({"quality": np.arange(100.0)}))
    assert list(single.features) == ["alcohol", "prediction"]


def test_the_most_important_feature_comes_first():
    frames = sample(3000, 0)[["alcohol", "prediction"]], sample(500, 1, moved=1.0)[["alcohol", "prediction"]]
    assert compare(*frames).features == ["alcohol", "prediction"]
    weighed = baseline(frames[0], importance={"alcohol": 0.1, "prediction": 1.0})
    assert compare(weighed, frames[1]).features == ["prediction", "alcohol"]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: compare({"x": []}, {"x": [1]}), "the reference has no rows"),
        (lambda: compare({"x": [1.5]}, {"x": []}), "the current sample has no rows"),
        (lambda: compare({"x": [1.5]}, {"y": [1.5]}), "no column in common: the reference has x; .* y"),
        (lambda: compare({"x": [1.5]}, {"x": [1.5]}, predictions="p"), "no column p; it has: x"),
        (lambda: compare({"x": [1.5]}, {"x": [1.5]}, kinds={"y": "text"}), "no column y; it has: x"),
        (lambda: compare({"x": ["a"]}, {"x": ["a"]}, kinds={"x": "numeric"}), "x can't be numeric"),
        (lambda: compare(baseline({"x": [1.5]}), {"x": [1.5]}, kinds={"x": "numeric"}), "has its own"),
        (lambda: baseline({"x": [1.5]}, predictions=[1, 2]), "not of one length: x: 1, prediction: 2"),
        (lambda: baseline({"label": [1.5]}, labels=[1]), "a column label already"),
        (lambda: baseline({"x": [1.5]}, importance={"y": 1}), "there is no column y; there is: x"),
    ],
)
def test_what_is_amiss_is_said(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_the_dictionary_is_plain_json_even_where_values_are_not_finite():
    found = compare({"x": [1e300, -1e300] * 50, "y": [1.0] * 100}, {"x": [np.inf, 1e308] * 20, "y": [None] * 40})
    again = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert again["format"] == 1
    assert again["rows"] == {"reference": 100, "current": 40}
    assert again["too_few"] is False
    assert set(again) >= {"drifted", "severity", "features", "results", "budget", "seed", "missing", "unknown"}
    assert set(again["results"][0]) >= {*SHOWN, "role", "kind", "severity", "reference"}


def test_the_command_line_says_what_drifted_and_ends_with_2(tmp_path):
    a, b = str(tmp_path / "a.parquet"), str(tmp_path / "b.csv")
    sample(2000, 0).to_parquet(a)
    sample(400, 1, moved=1.0).to_csv(b, index=False)
    moved = CliRunner().invoke(main, ["compare", a, b])
    assert moved.exit_code == 2
    assert moved.output.startswith("Drift (critical) in 2 of 6 features (400 rows against 2,000)")
    told = CliRunner().invoke(main, ["compare", a, b, "--json"])
    assert (told.exit_code, json.loads(told.output)["features"]) == (2, ["alcohol", "prediction"])
    same = CliRunner().invoke(main, ["compare", a, a])
    assert (same.exit_code, same.output) == (0, "No drift in 6 features (2,000 rows against 2,000).\n")
    lost = CliRunner().invoke(main, ["compare", a, str(tmp_path / "lost.csv")])
    assert lost.exit_code != 0
    assert "there is no file" in lost.output


def test_the_command_line_takes_labels_and_says_when_there_are_too_few_rows(tmp_path):
    a, b, c = (str(tmp_path / name) for name in ("a.parquet", "b.parquet", "c.parquet"))
    sample(2000, 0)[["sugar", "alcohol"]].to_parquet(a)
    sample(400, 1)[["sugar"]].to_parquet(b)
    sample(5, 1, moved=5.0)[["sugar", "alcohol"]].to_parquet(c)
    unlabelled = CliRunner().invoke(main, ["compare", a, b])
    assert unlabelled.exit_code == 0
    assert "Not in the current sample: alcohol" in unlabelled.stdout
    labelled = CliRunner().invoke(main, ["compare", a, b, "--label", "alcohol"])
    assert (labelled.exit_code, labelled.output) == (0, "No drift in 1 feature (400 rows against 2,000).\n")
    few = CliRunner().invoke(main, ["compare", a, c])
    assert few.exit_code == 0
    assert "Too few rows to judge 2 features: 5 rows against 2,000, and 30 are wanted." in few.stdout
    assert "fewer than 30 rows: --min-rows" in few.stderr
    told = CliRunner().invoke(main, ["compare", a, c, "--json"])
    assert json.loads(told.stdout)["too_few"] is True
    assert CliRunner().invoke(main, ["compare", a, c, "--min-rows", "5"]).exit_code == 2


def test_an_inference_log_is_told_from_a_table(tmp_path):
    a, log = tmp_path / "a.parquet", tmp_path / "my log"
    day = log / "inferences" / "model=wine" / "date=2026-03-01"
    day.mkdir(parents=True)
    sample(50, 0).to_parquet(a)
    sample(50, 0).to_parquet(day / "w-1.parquet")
    for given in (log, log / "inferences", day, day / "w-1.parquet"):
        for pair in ((a, given), (given, a)):
            found = CliRunner().invoke(main, ["compare", *map(str, pair)])
            assert found.exit_code == 1
            assert f"Error: {given} is an inference log" in found.output
            assert f"mooring log export --log '{log}' today.parquet" in found.output


class Page(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def test_the_page_of_a_notebook_is_self_contained_and_escaped():
    random = np.random.default_rng(0)
    bad = '<script>alert("1")</script>'
    before = {bad: random.normal(size=500), "b": [bad, "x"] * 250, "c": [1.0] * 500, "d": [None] * 500,
              "t": pd.date_range("2026-01-01", periods=500, freq="h"), "e": random.random(500)}  # fmt: skip
    after = {bad: random.normal(3, size=100), "b": ["<img src=x>", "y"] * 50, "c": [2.0] * 100, "d": [1.5] * 100,
             "t": pd.date_range("2026-01-01", periods=100, freq="D"), "e": [None] * 100}  # fmt: skip
    page = compare(before, after)._repr_html_()
    found = Page(page)
    assert {"script", "img", "link", "iframe"}.isdisjoint(found.tags)
    assert not [name for name, _ in found.attributes if name.startswith("on") or name in ("src", "href")]
    assert bad in found.text
    assert "prefers-color-scheme:dark" in page
    assert found.tags.count("svg") >= 4
    assert "nan" not in page.lower().replace("nannyml", "")
    assert len(page) < 200_000
    whole = compare(before, after).to_html()
    assert whole.startswith('<!doctype html><html lang="en"><meta charset="utf-8">')
    assert page in whole


def test_hundreds_of_columns_make_a_page_that_can_be_read():
    random = np.random.default_rng(0)
    columns = {f"x{number}": random.normal(size=50) for number in range(300)}
    page = compare(columns, columns)._repr_html_()
    assert page.count("<svg") == 8


def test_a_baseline_is_shown_in_a_line_and_its_names_are_text() -> None:
    made = baseline({f"<b>{at}\n" if at == 1 else f"f{at}": np.arange(50.0) for at in range(30)})
    assert repr(made) == "Baseline(50 rows, 30 features: f0, <b>1, f2, f3, f4, …)"
    shown = made._repr_html_()
    assert "&lt;b&gt;1" in shown
    assert "<b>" not in shown
    assert shown.count("<tr>") == 31
