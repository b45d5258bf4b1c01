"""Tensors: stored with their shape, and watched by a few numbers of each."""

from __future__ import annotations

import csv
import json
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as of_numpy
from mlflow.models import Model as MlflowModel
from mlflow.models import ModelSignature
from mlflow.pyfunc import PyFuncModel
from mlflow.types import Schema
from sklearn.datasets import load_digits

import mooring
from labelled_logs import holdout, label
from monitoring import START, Monitoring, Traffic, settings
from mooring.drift.baseline import make
from mooring.drift.profile import profile
from mooring.drift.tensors import summaries
from mooring.engine.sources import columns
from mooring.exchange import Exchange
from mooring.ids import new_request_id
from mooring.log.queries import export
from mooring.log.schema import ARROW, as_nested
from mooring.retrain.dataset import gather
from mooring.retrain.evaluation.signatures import as_frame, as_input
from mooring.state.windows import Windows

DIGITS = np.random.default_rng(0).permutation(load_digits().images)
TRAINING, TODAY = DIGITS[:900], DIGITS[900:]


def blocks(tensor: np.ndarray) -> dict[str, np.ndarray]:
    """Return the parts of a tensor that have a mean each, as the plain way to cut it has them."""
    if tensor.ndim == 1:
        return {f"block {at}": part for at, part in enumerate(cut(tensor, 0, 16))}
    return {
        f"block {row},{column}": part
        for row, line in enumerate(cut(tensor, tensor.ndim - 2, 4))
        for column, part in enumerate(cut(line, tensor.ndim - 1, 4))
    }


def cut(tensor: np.ndarray, axis: int, most: int) -> list[np.ndarray]:
    length = tensor.shape[axis]
    parts = min(most, length)
    return np.split(tensor, [length * at // parts for at in range(1, parts)], axis)


def expected(tensor: np.ndarray) -> dict[str, float]:
    values = tensor[~np.isnan(tensor)]
    if not values.size:
        return {}
    found = {
        "mean": values.mean(),
        "std": values.std(),
        "min": values.min(),
        "max": values.max(),
        "zeros": (values == 0).mean(),
    }
    means = {name: part[~np.isnan(part)] for name, part in blocks(tensor).items()}
    return found | {name: part.mean() for name, part in means.items() if part.size}


def beside_shapes(tensors: list[np.ndarray | None]) -> pa.Array:
    """Return tensors as the log has them."""
    rows = [None if one is None else {"values": one.ravel(), "shape": one.shape} for one in tensors]
    return pa.array(rows, ARROW["tensor"])


def nested(tensors: list[np.ndarray | None]) -> pa.Array:
    return pa.array([None if one is None else one.tolist() for one in tensors])


numbers = st.floats(-1e6, 1e6) | st.just(float("nan")) | st.just(0.0)
shapes = of_numpy.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=19).filter(
    lambda shape: np.prod(shape) < 1500
)
tensors = shapes.flatmap(lambda shape: of_numpy.arrays(np.float64, shape, elements=numbers, fill=numbers))


@given(st.lists(st.none() | tensors, min_size=1, max_size=4), st.integers(1, 3))
def test_summaries_are_numpys_whatever_the_shapes(found: list[np.ndarray | None], times: int) -> None:
    found = found * times
    forms = [beside_shapes(found)]
    if len({one.ndim for one in found if one is not None}) == 1:
        forms.append(nested(found))
        forms.append(pa.chunked_array([forms[1].slice(0, 1), forms[1].slice(1)]))
    for form in forms:
        summed = summaries("x", form)
        for row, tensor in enumerate(found):
            told = {name[2:-1]: values[row].as_py() for name, values in summed.items()}
            told = {name: value for name, value in told.items() if value is not None}
            assert told == pytest.approx({} if tensor is None else expected(tensor), rel=1e-9, abs=1e-6)


def test_what_is_no_tensor_is_missing() -> None:
    ragged = pa.array([[[1.0], [2.0, 3.0]], [[4.0, 5.0]], [], None])
    assert summaries("x", ragged)["x[mean]"].to_pylist() == [None, 4.5, None, None]
    odd = pa.array([{"values": [1.0, 2.0], "shape": [3]}, {"values": [1.0, 2.0], "shape": [2]}], ARROW["tensor"])
    assert summaries("x", odd)["x[mean]"].to_pylist() == [None, 1.5]


def test_profiles_of_tensors_add() -> None:
    [(_, column)] = columns(TODAY)
    made = make(columns(TRAINING))
    whole = profile([pa.table({"0": column})], made.grids)
    parts = [pa.table({"0": column.slice(first, 100)}) for first in range(0, len(column), 100)]
    added = profile(parts[:4], made.grids) + profile(parts[4:], made.grids)
    assert whole.rows == added.rows == len(TODAY)
    assert whole.unknown == added.unknown == {}
    for name, feature in whole.features.items():
        assert feature.nulls == 0
        assert list(feature.values.counts) == list(added.features[name].values.counts)


FORMS: dict[str, Any] = {
    "array": lambda images: images,
    "floats": lambda images: images.astype(np.float32),
    "mapping": lambda images: {"image": images},
    "pandas": lambda images: pd.DataFrame({"image": [image.tolist() for image in images]}),
    "polars": lambda images: pl.DataFrame({"image": images.tolist()}),
    "embedding": lambda images: pd.DataFrame({"image": list(images.reshape(len(images), -1))}),
}


@pytest.mark.parametrize("form", list(FORMS))
def test_digits_upside_down_alarm_and_unchanged_ones_do_not(form: str) -> None:
    of = FORMS[form]
    assert not mooring.compare(of(TRAINING), of(TODAY)).drifted
    assert mooring.compare(of(TRAINING), of(TODAY[:, ::-1])).drifted
    assert mooring.compare(of(TRAINING), of(TODAY[:, :, ::-1])).drifted  # mirrored


def asked(images: np.ndarray, per_request: int = 3, start: Any = START) -> list[Exchange]:
    """Return requests of pictures as clients send them, each with a number for an answer."""
    found = []
    for number, first in enumerate(range(0, len(images), per_request)):
        part = images[first : first + per_request]
        time_ns = round((start + timedelta(seconds=number)).timestamp() * 1e6) * 1000
        found.append(
            Exchange(
                request_id=new_request_id(time_ns),
                time_ns=time_ns,
                model="wine",
                request=json.dumps({"inputs": part.tolist()}).encode(),
                response=json.dumps({"predictions": part.mean(axis=(1, 2)).tolist()}).encode(),
            )
        )
    return found


def test_the_log_has_their_numbers_and_shape_and_the_monitor_sees_what_the_baseline_saw(tmp_path) -> None:
    traffic = Traffic(tmp_path / "log")
    traffic.write(asked(TODAY[:600]))
    traffic.write(asked(TODAY[:600, ::-1], start=START + timedelta(hours=1)))
    stored = mooring.read_log(traffic.log, flat=True)["0"]
    assert stored.type == ARROW["tensor"]
    assert stored[0].as_py() == {"values": TODAY[0].ravel().tolist(), "shape": [8, 8]}
    monitoring = Monitoring(
        settings(traffic.log, f"sqlite:///{tmp_path}/state.db", window_rows=600, seasonality="none")
    )
    monitoring.keep(make(columns(TRAINING)))
    monitoring.watch.look()
    found = Windows(monitoring.state).history("wine")
    verdicts = sorted((one.window.start, one.verdict.status) for one in found if one.verdict is not None)
    assert [status == "ok" for _, status in verdicts] == [True, False]


def test_in_csv_they_are_json(tmp_path) -> None:
    traffic = Traffic(tmp_path / "log")
    traffic.write(asked(TODAY[:6]))
    path = tmp_path / "rows.csv"
    assert export(str(traffic.log), {"model": "wine", "start": None, "end": None, "variant": ()}, path) == 6
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert json.loads(rows[4]["0"]) == TODAY[4].tolist()


def test_of_a_column_of_tensors_what_is_none_is_a_misfit(tmp_path) -> None:
    traffic = Traffic(tmp_path / "log")
    [template] = asked(TODAY[:1])
    bodies: list[Any] = [[[1, 2], [3, 4]], [[1], [2, 3]], "text", None, [["1", "2"]], 7, []]
    for body in bodies:
        template.request = json.dumps({"dataframe_split": {"columns": ["v"], "data": [[body]]}}).encode()
        template.request_id = new_request_id(template.time_ns)
        traffic.write([template])
    table = mooring.read_log(traffic.log)
    stored = {one["request_id"]: (one["input"]["v"], one["misfits"]) for one in table.to_pylist()}
    values = [stored[key] for key in sorted(stored)]
    kept = [value for value, _ in values if value is not None]
    assert sorted(kept, key=str) == [
        {"values": [1.0, 2.0, 3.0, 4.0], "shape": [2, 2]},
        {"values": [], "shape": [0]},
    ]
    misfits = [json.loads(misfit)["input"]["v"] for _, misfit in values if misfit is not None]
    assert sorted(map(str, misfits)) == sorted(map(str, [[[1], [2, 3]], "text", [["1", "2"]], 7]))


def test_a_list_without_numbers_is_a_tensor_beside_others(tmp_path) -> None:
    traffic = Traffic(tmp_path / "log")
    [template] = asked(TODAY[:1])
    body = {"dataframe_split": {"columns": ["v", "w"], "data": [[[], []], [[1, 2], []], [None, []]]}}
    template.request = json.dumps(body).encode()
    template.response = b'{"predictions": [1, 2, 3]}'
    traffic.write([template])
    table = mooring.read_log(traffic.log)
    assert [one["v"] for one in table["input"].to_pylist()] == [
        {"values": [], "shape": [0]},
        {"values": [1.0, 2.0], "shape": [2]},
        None,
    ]
    assert [one["w"] for one in table["input"].to_pylist()] == ["[]"] * 3  # lists of what, nobody knows yet
    assert table["misfits"].null_count == 3
    flat = mooring.read_log(traffic.log, flat=True)
    assert summaries("v", flat["v"])["v[mean]"].to_pylist() == [None, 1.5, None]
    assert as_nested(flat["v"], pa.list_(pa.float64())).to_pylist() == [[], [1.0, 2.0], None]


def retrained(tmp_path: Any, exchanges: list[Exchange], **settings: Any) -> Any:
    traffic = Traffic(tmp_path / "log")
    traffic.write(exchanges)
    rows = (
        (one.request_id, at) for one in exchanges for at in range(len(json.loads(one.response)["predictions"]))
    )
    label(traffic.log, [(request_id, row, 1.0) for request_id, row in rows])
    return gather.make(
        str(traffic.log), "wine", tmp_path / "data", ticket="t", end=START + timedelta(days=1), holdout=0.2,
        min_labels=1, label="digit", **settings,
    )  # fmt: skip


def test_a_training_function_gets_nested_lists_among_the_original_ones(tmp_path) -> None:
    original = pa.table({"0": TRAINING[:50].astype(np.float32).tolist(), "digit": [2] * 50})
    pq.write_table(original, tmp_path / "original.parquet")
    manifest = retrained(
        tmp_path, asked(TODAY[:30]), original=str(tmp_path / "original.parquet"), original_share=0.5
    )
    assert (manifest.rows, manifest.original_rows, manifest.holdout_rows, manifest.notes) == (48, 24, 6, [])
    table = pq.read_table(manifest.training)
    of_log = [row["0"] for row in table.to_pylist() if row["digit"] == 1]
    assert of_log == TODAY[:24].tolist()
    known = {str(image.tolist()) for image in TRAINING[:50]}
    assert {str(row["0"]) for row in table.to_pylist() if row["digit"] == 2} <= known
    assert holdout(manifest)["0"].to_pylist() == TODAY[24:30].tolist()


def test_tensors_of_other_ranks_stay_as_the_log_has_them_for_training(tmp_path) -> None:
    flat, square = asked(TODAY[:3], 1)[:2], asked(TODAY[3:9], 1, START + timedelta(minutes=1))
    for one in flat:
        body = {"dataframe_split": {"columns": ["0"], "data": [[TODAY[0].ravel().tolist()]]}}
        one.request = json.dumps(body).encode()
    manifest = retrained(tmp_path, flat + square)
    assert pq.read_table(manifest.training)["0"].type == ARROW["tensor"]
    assert manifest.notes == ["0 has tensors of 1 or 2 dimensions: they are structs of values and shape"]


@given(st.integers(1, 4), st.data())
def test_tensors_of_the_log_are_nested_as_they_were(rank: int, data: st.DataObject) -> None:
    of_rank = of_numpy.array_shapes(min_dims=rank, max_dims=rank, max_side=3)
    made = of_rank.flatmap(lambda shape: of_numpy.arrays(np.float64, shape, elements=st.floats(-9, 9)))
    found = data.draw(st.lists(st.none() | made, max_size=4))
    kind = pa.float64()
    for _ in range(rank):
        kind = pa.list_(kind)
    expected_lists = [None if one is None else one.tolist() for one in found]
    stored = beside_shapes(found)
    assert as_nested(stored, kind).to_pylist() == expected_lists
    assert as_nested(stored.slice(1), kind).to_pylist() == expected_lists[1:]
    assert as_nested(pa.chunked_array([stored, stored]), kind).to_pylist() == 2 * expected_lists


TENSOR = [{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 8, 8]}}]
ARRAYS = [{"name": "0", "type": "array", "items": {"type": "array", "items": {"type": "long"}}, "required": True}]


@pytest.mark.parametrize("form", ["struct", "lists"])
@pytest.mark.parametrize("inputs", [TENSOR, [{"name": "0", **TENSOR[0]}], ARRAYS, None])
def test_the_gate_hands_tensors_to_a_model_as_its_server_does(form: str, inputs: Any) -> None:
    column = beside_shapes(list(TODAY[:5])) if form == "struct" else pa.array(TODAY[:5].tolist())
    frame = as_frame(pa.table({"0": column}))
    schema = None if inputs is None else Schema.from_json(json.dumps(inputs))

    class Model:
        def predict(self, data: Any) -> Any:
            return data

    signature = None if schema is None else ModelSignature(schema)
    given_ = PyFuncModel(MlflowModel(signature=signature), Model()).predict(as_input(frame, schema))
    if isinstance(given_, dict | pd.DataFrame):
        given_ = given_["0"]
    assert np.array(list(given_)).shape == (5, 8, 8)
    assert (np.array(list(given_)) == TODAY[:5]).all()
