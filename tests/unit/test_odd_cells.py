"""A column's kind is that of most of its cells in the reference; the others are counted one by one."""

from __future__ import annotations

import math
import warnings
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from mooring.capture.in_process import as_request, as_response
from mooring.cli import main
from mooring.comparison import Comparison, baseline, compare
from mooring.drift.baseline import Baseline, make, profile_from_bytes
from mooring.drift.columns import Column
from mooring.drift.judge import values_of
from mooring.drift.loose import loosened
from mooring.drift.profile import profile
from mooring.engine.files import SourceWarning
from mooring.engine.local import profile_of
from mooring.engine.sources import columns

DATA = Path(__file__).parents[1] / "data"
ROWS = 600


def value(found: Comparison, measure: str, feature: str = "x") -> float:
    return next((one.value for one in found.results if (one.feature, one.measure) == (feature, measure)), 0.0)


def numbers(mean: float, odd: str | None = None, seed: int = 0, rows: int = ROWS) -> list[str]:
    cells = [f"{one:.2f}" for one in np.random.default_rng(seed).normal(mean, 5, rows)]
    return cells if odd is None else [*cells[: rows // 2], odd, *cells[rows // 2 + 1 :]]


def csv(directory: Path, name: str, cells: list[str], encoding: str = "utf-8") -> Path:
    path = directory / f"{name}.csv"
    path.write_bytes("\n".join(["x,y", *(f"{cell},1.5" for cell in cells)]).encode(encoding) + b"\n")
    return path


def as_object(cells: list[str]) -> pd.DataFrame:
    def cell(text: str) -> object:
        try:
            return float(text)
        except ValueError:
            return text

    return pd.DataFrame({"x": pd.Series([cell(one) for one in cells], dtype=object)})


GIVEN = {
    "csv": csv,
    "pandas of texts": lambda directory, name, cells: pd.read_csv(csv(directory, name, cells))[["x"]],
    "pandas of objects": lambda directory, name, cells: as_object(cells),
    "list": lambda directory, name, cells: {"x": as_object(cells)["x"].tolist()},
    "polars": lambda directory, name, cells: pl.DataFrame({"x": cells}, schema={"x": pl.String}),
}


@pytest.mark.parametrize("odd", ["?", "N.N.", "3a", "-", "x", "1.5.2", "true", "2024-01-01"])
@pytest.mark.parametrize("given", GIVEN)
def test_one_odd_cell_among_numbers_is_one(given, odd, tmp_path) -> None:
    reference = pa.table({"x": [float(one) for one in numbers(30, seed=1, rows=3000)]})
    same = compare(reference, GIVEN[given](tmp_path, "same", numbers(30, odd)))
    assert value(same, "type_change_rate") == pytest.approx(1 / ROWS)
    assert value(same, "ks") < 0.1
    assert not same.drifted
    moved = compare(reference, GIVEN[given](tmp_path, "moved", numbers(70, odd)))
    assert moved.features == ["x"]
    assert value(moved, "ks") > 0.9


@pytest.mark.parametrize("given", ["csv", "pandas of texts", "pandas of objects", "list"])
def test_with_one_odd_cell_on_both_sides_or_in_the_reference_numbers_stay_numbers(given, tmp_path) -> None:
    make_one = GIVEN[given]
    reference = make_one(tmp_path, "a", numbers(30, "?", seed=1, rows=3000))
    for odd in ("?", None):
        moved = compare(reference, make_one(tmp_path, "b", numbers(70, odd)))
        assert (moved.features, value(moved, "ks") > 0.9) == (["x"], True)
        same = compare(reference, make_one(tmp_path, "c", numbers(30, odd)))
        assert not same.drifted
        assert value(same, "type_change_rate") == (pytest.approx(1 / ROWS) if odd else 0)


def test_integers_of_which_the_reference_has_one_that_is_none(tmp_path) -> None:
    cells = [str(one) for one in np.random.default_rng(0).integers(1, 6, 3000)]
    reference = csv(tmp_path, "a", [*cells, "3a"])
    for rows in (cells[:500], [*cells[:499], "?"]):
        assert not compare(reference, csv(tmp_path, "b", rows)).drifted
    assert compare(reference, csv(tmp_path, "b", ["7"] * 500)).drifted
    made = make(columns(reference))
    assert made.features["x"].kind == "categorical"
    assert made.features["x"].profile.misfits == 1


@pytest.mark.parametrize("odd", [str(2**70), "-1e300"])
def test_a_number_that_is_too_large_for_an_integer_is_a_number(odd, tmp_path) -> None:
    cells = [str(one) for one in np.random.default_rng(0).integers(0, 10_000, ROWS)]
    reference = pa.table({"x": [int(one) for one in cells]})
    large = {"x": [*map(int, cells[1:]), int(float(odd))]}
    for current in (csv(tmp_path, "b", [*cells[1:], odd]), large, pd.DataFrame(large)):
        found = compare(reference, current)
        assert value(found, "type_change_rate") == 0
        assert value(found, "out_of_range_rate") == pytest.approx(1 / ROWS)
        assert not found.drifted


def test_a_header_repeated_in_the_middle_is_one_odd_row(tmp_path) -> None:
    reference = csv(tmp_path, "a", numbers(30, seed=1, rows=3000))
    found = compare(reference, csv(tmp_path, "b", numbers(30, "x")))
    assert (found.drifted, value(found, "type_change_rate")) == (False, pytest.approx(1 / ROWS))


def test_a_byte_that_is_no_utf_8_is_one_odd_cell_and_told(tmp_path) -> None:
    reference = csv(tmp_path, "a", numbers(30, seed=1, rows=3000))
    other = csv(tmp_path, "b", numbers(30, "caf\u00e9"), encoding="latin-1")
    with pytest.warns(SourceWarning, match=r"b\.csv is not all in UTF-8: cells of x .*iconv"):
        found = compare(reference, other)
    assert (found.drifted, value(found, "type_change_rate")) == (False, pytest.approx(1 / ROWS))
    names = ["Lyon", "Nantes", "Brest"] * 200
    with pytest.warns(SourceWarning, match="UTF-8"):
        texts = compare(
            csv(tmp_path, "c", names), csv(tmp_path, "d", [*names[1:], "Orl\u00e9ans"], encoding="latin-1")
        )
    assert (texts.drifted, value(texts, "type_change_rate")) == (False, pytest.approx(1 / ROWS))


def test_the_dialect_of_a_csv_is_told_where_it_is_the_reason(tmp_path) -> None:
    path = tmp_path / "comma.csv"
    path.write_text("x;y\n" + "".join(f"{one};1\n" for one in ["1,5", "2,25"] * 50))
    with pytest.warns(SourceWarning, match=r"x of .*comma\.csv has decimal commas"):
        dict(columns(path))
    wide = tmp_path / "wide.csv"
    wide.write_bytes("x\n1\n".encode("utf-16"))
    with pytest.raises(ValueError, match="is in UTF-16: write it anew in UTF-8"):
        dict(columns(wide))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dict(columns(csv(tmp_path, "good", numbers(30, "?"))))


def test_moments_and_truths_with_an_odd_cell_stay_these(tmp_path) -> None:
    start = datetime(2024, 1, 1)
    moments = [str(start + timedelta(hours=7 * one)) for one in range(ROWS)]
    truths = ["true", "false", "False", "TRUE"] * 150
    for cells, kind in ((moments, "timestamp"), (truths, "categorical")):
        clean = csv(tmp_path, "a", cells)
        odd = csv(tmp_path, "b", [*cells[1:], "unknown"])
        for reference in (clean, odd):
            found = compare(reference, odd)
            assert found.baseline.features["x"].kind == kind
            assert value(found, "type_change_rate") == pytest.approx(1 / ROWS)
            assert not found.drifted


def test_texts_of_a_column_that_says_so_are_no_numbers(tmp_path) -> None:
    texts = pa.table({"x": [f"{one}" for one in range(ROWS)]})
    path = tmp_path / "texts.parquet"
    pq.write_table(texts, path)
    reference = pa.table({"x": np.arange(ROWS) * 1.0})
    for current in (texts, path):
        found = compare(reference, current)
        assert (found.drifted, value(found, "type_change_rate")) == (True, 1.0)


cells = st.sampled_from(["1", "2.5", "?", "x", "inf", "-inf", "1e400", "nan", "true", "2024-02-29", "2024-02-30",
                         "\ufffd", " 7 ", "+3", "9007199254740993", str(2**70)]) | st.none()  # fmt: skip


@given(st.lists(cells, min_size=1, max_size=30), st.lists(cells, max_size=40), st.integers(0, 40), st.randoms())
def test_odd_cells_are_counted_alike_however_rows_are_split(trained, seen, cut, random) -> None:
    def column(values: list[str | None]) -> Column:
        return loosened(pa.array(values, pa.string()))

    made = make({"x": column(trained)})
    shuffled = random.sample(seen, len(seen))
    whole = profile([pa.table({"x": column(seen)})], made.grids)
    parts = [profile([pa.table({"x": column(part)})], made.grids) for part in (shuffled[:cut], shuffled[cut:])]
    added = parts[1] + parts[0]
    a, b = whole.features["x"], added.features["x"]
    assert (a.nulls, a.misfits) == (b.nulls, b.misfits)
    assert a.nulls == seen.count(None)
    counts = getattr(a.values, "counts", None)
    if counts is not None:
        assert counts.tolist() == b.values.counts.tolist()
        assert getattr(a.values, "minus", 0) == getattr(b.values, "minus", 0)


FEW = [0.1, 0.2, 0.3, 0.7]


def test_single_precision_is_compared_as_such_on_both_sides() -> None:
    random = np.random.default_rng(0)
    before, after = random.choice(FEW, 5000), random.choice(FEW, 2000)
    exact = compare({"x": before}, {"x": after})
    made = make({"x": pa.array(before)}, singles=["x"])
    for reference in (pa.table({"x": before.astype("f4")}), made, pd.DataFrame({"x": before.astype("f4")})):
        for current in ({"x": after}, {"x": after.astype("f4")}):
            found = compare(reference, current)
            assert not found.drifted
            for measure in ("ks", "js", "psi", "wasserstein"):
                assert value(found, measure) == pytest.approx(value(exact, measure), abs=1e-6)
    categories = compare({"x": before.astype("f4")}, {"x": after}, kinds={"x": "categorical"})
    assert value(categories, "new_category_rate") == 0
    assert categories.baseline.grids["x"].categories == ["0.1", "0.2", "0.3", "0.7"]
    again = Baseline.from_bytes(made.to_bytes())
    assert profile_of({"x": after}, again).features["x"].values.counts.tolist() == (
        profile_of({"x": after}, made).features["x"].values.counts.tolist()
    )


def test_dictionaries_of_any_values_are_decoded() -> None:
    names = ["a", "b", "c"] * 100
    plain = compare({"x": names}, {"x": names}).to_dict()["results"]
    frame = pl.DataFrame({"x": names})
    kinds = {
        "enum": frame.with_columns(pl.col("x").cast(pl.Enum(["a", "b", "c"]))),
        "categorical": frame.with_columns(pl.col("x").cast(pl.Categorical)),
        "large": pa.table({"x": pa.array(names, pa.large_string()).dictionary_encode()}),
        "view": pa.table({"x": pa.DictionaryArray.from_arrays(
            pa.array([0, 1, 2] * 100), pa.array(["a", "b", "c"], pa.string_view()))}),
        "codes of 64 bits": pa.table({"x": pa.DictionaryArray.from_arrays(
            pa.array([0, 1, 2] * 100, pa.uint64()), pa.array(["a", "b", "c"]))}),
        "pandas": pd.DataFrame({"x": pd.Categorical(names)}),
    }  # fmt: skip
    for kind, data in kinds.items():
        assert compare({"x": names}, data).to_dict()["results"] == plain, kind
        assert compare(data, {"x": names}).to_dict()["results"] == plain, kind
    others = [
        pd.Categorical(pd.cut(np.arange(300.0), 3)),
        pd.Categorical.from_codes([0, 1] * 150, pd.Index([("a", 1), ("b", 2)], tupleize_cols=False)),
        pd.Categorical([datetime(2024, 1, 1), datetime(2024, 1, 2)] * 150),
        pd.Categorical([1.5, 2.5] * 150),
        pd.Categorical([True, False] * 150),
    ]
    for categories in others:
        assert not compare(pd.DataFrame({"x": categories}), pd.DataFrame({"x": categories[:90]})).drifted
    for values in (pa.array([timedelta(1), timedelta(2)]), pa.array([b"a", b"b"]), pa.array([[1], [2]])):
        table = pa.table({"x": pa.DictionaryArray.from_arrays(pa.array([0, 1] * 50), values)})
        assert not compare(table, table).drifted


def test_a_single_column_is_taken_where_one_is_asked_for() -> None:
    inputs = {"a": np.arange(100.0)}
    for one in (pl.Series("p", np.arange(100.0)), pl.Series(np.arange(100.0)), pd.Series(np.arange(100.0)),
                pa.array(np.arange(100.0)), pa.chunked_array([np.arange(100.0)]), pd.Index(np.arange(100.0)),
                np.arange(100.0), list(np.arange(100.0))):  # fmt: skip
        made = baseline(inputs, predictions=one, labels=one)
        assert list(made.features) == ["a", "prediction", "label"]
        assert not compare(one, one).drifted


def test_names_that_are_the_same_are_refused_by_the_same_message(tmp_path) -> None:
    arrays = [pa.array([1.0]), pa.array([2.0])]
    table = pa.Table.from_arrays(arrays, ["a", "a"])
    path = tmp_path / "doubled.csv"
    path.write_text("a,a\n1,2\n")
    pq.write_table(table, tmp_path / "doubled.parquet")
    given = (
        pd.DataFrame([[1.0, 2.0]], columns=["a", "a"]), table, table.to_batches()[0], {"a": [1], Name("a"): [2]},
        path, tmp_path / "doubled.parquet",
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for data in given:
            for call in (lambda data=data: baseline(data), lambda data=data: compare({"a": [1.0]}, data)):
                with pytest.raises(ValueError, match=r"^columns have the same name: a; rename all but one$"):
                    call()


class Name:
    def __init__(self, name: str) -> None:
        self._name = name

    def __str__(self) -> str:
        return self._name


@pytest.mark.parametrize("values", [[1.5, 2.5], ["a", "b"], [True, False], [datetime(2024, 1, 1)] * 2, [[1], [2]]])
@pytest.mark.parametrize("kind", [pa.null(), pa.float64(), pa.string()])
def test_nulls_that_get_values_alarm(kind, values) -> None:
    nothing = pa.table({"x": pa.nulls(300, kind)})
    found = compare(nothing, {"x": values * 100})
    assert found.features == ["x"]
    assert not compare(nothing, nothing).drifted
    assert value(found, "null_rate") == 0
    assert all(
        math.isnan(one.value) for one in found.results if one.measure not in ("null_rate", "type_change_rate")
    )


def test_values_that_are_lost_are_no_distance_but_nulls() -> None:
    random = np.random.default_rng(0)
    before = pa.table(
        {
            "n": random.normal(size=300),
            "c": random.choice(["a", "b"], 300),
            "t": pa.array([datetime(2024, 1, 1)] * 300),
            "l": [f"a text of {one}" for one in range(300)],
        }
    )
    after = pa.table({field.name: pa.nulls(100, field.type) for field in before.schema})
    found = compare(before, after, thresholds={"psi": 0.2, "wasserstein": 0.1, "mean_shift": 0.1})
    assert set(found.features) == {"n", "c", "t", "l"}
    assert {one.measure for one in found.judgement.alarms} == {"null_rate"}
    for one in found.results:
        assert one.value == 1 if one.measure == "null_rate" else math.isnan(one.value)
    assert {one["value"] for one in found.to_dict()["results"]} == {1.0, None}
    assert "<td class=number>–</td>" in found.to_html()
    assert "nan" not in found.to_html().lower()


@pytest.mark.parametrize("kind", ["numeric", "timestamp", "text"])
def test_a_kind_that_a_column_cant_be_raises(kind) -> None:
    for values in (["a", "b"], [True, False], [[1], [2]], [datetime(2024, 1, 1)], [1.5, 2.5], [b"a"]):
        could = {"numeric": (float, bool), "timestamp": (datetime,), "text": (str,)}[kind]
        if isinstance(values[0], could):
            make({"x": pa.array(values)}, kinds={"x": kind})
        else:
            with pytest.raises(ValueError, match=f"x can't be {kind}: it is"):
                make({"x": pa.array(values)}, kinds={"x": kind})


def test_what_an_earlier_version_wrote_is_read_and_goes_on() -> None:
    made = Baseline.from_bytes((DATA / "baseline-format-1.mooring").read_bytes())
    kept = profile_from_bytes((DATA / "profile-format-1.mooring").read_bytes())
    random = np.random.default_rng(0)
    rows = {"number": [1.0, -math.inf], "infinite": [0.5, math.inf], "count": [1, 7], "store": ["s1", "s9"],
            "time": [datetime(2026, 1, 5)] * 2, "note": ["note 1", "note"]}  # fmt: skip
    added = kept + profile_of(rows, made)
    assert (added.rows, added.digest) == (202, made.digest)
    found = {(name, one.measure): one.value for name, feature in made.features.items()
             for one in values_of(name, feature, added.features[name])}  # fmt: skip
    assert found["number", "mean_shift"] == pytest.approx(1, abs=0.3)
    assert found["infinite", "ks"] < 0.2
    moved = {**rows, "number": random.normal(5, 1, 2)}
    assert profile_of(moved, Baseline.from_bytes(made.to_bytes())).digest == made.digest


def test_the_command_line_says_what_a_csv_is_not(tmp_path) -> None:
    reference = csv(tmp_path, "a", numbers(30, seed=1, rows=3000))
    other = csv(tmp_path, "b", numbers(30, "caf\u00e9"), encoding="latin-1")
    found = CliRunner().invoke(main, ["compare", str(reference), str(other)])
    assert found.exit_code == 0
    assert found.stderr.startswith(f"Warning: {other} is not all in UTF-8")


def test_segments_are_of_the_precision_of_the_whole() -> None:
    values = np.random.default_rng(0).choice(FEW, 400)
    made = baseline({"x": values, "c": ["a", "b"] * 200}, singles=["x"], segments=["c"])
    for part in made.segments["c"].values():
        assert part.grids["x"].edges.dtype == np.float32
        assert profile_of({"x": values, "c": ["a"] * 400}, part).features["x"].values.counts.sum() == 400


def test_predictions_of_the_same_name_are_logged_as_the_server_answers_them_without_a_warning() -> None:
    frame = pd.DataFrame([[1, 2.5, "a"], [3, None, "b"]], columns=["p", "p", "q"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answered = frame.to_dict(orient="records")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert repr(as_response(frame)) == repr({"predictions": answered})
        assert as_request(frame)["dataframe_split"] == {
            "columns": ["p", "p", "q"],
            "data": [[1, 2.5, "a"], [3, None, "b"]],
        }


def test_nulls_are_counted_in_any_encoding() -> None:
    made = make({"x": pa.array([1.5, 2.5, 3.5])})
    ends = pa.RunEndEncodedArray.from_arrays(pa.array([3, 5], pa.int32()), pa.array([1.5, None]))
    words = pa.array([1.5, None, 1.5]).dictionary_encode()
    for column, nulls in ((ends, 2), (words, 1)):
        found = profile([pa.table({"x": column})], made.grids).features["x"]
        assert (found.nulls, found.misfits, found.values.values) == (nulls, 0, len(column) - nulls)


def test_a_segment_may_have_nothing_but_odd_cells() -> None:
    rows = [("a", 1.5), ("a", 2.5), ("b", "?")] * 120
    made = baseline(pd.DataFrame({"c": [one for one, _ in rows], "x": [two for _, two in rows]}), segments=["c"])
    assert {value: one.features["x"].kind for value, one in made.segments["c"].items()} == {
        "a": "numeric",
        "b": "numeric",
    }
    assert made.features["x"].profile.misfits == 120
