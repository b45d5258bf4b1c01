"""The process that compares two versions: it loads both, asks both for predictions, and writes what it found."""

from __future__ import annotations

import hashlib
from argparse import Namespace
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mooring.drift.baseline import Baseline, make
from mooring.drift.segments import segments_of
from mooring.drift.stored import FormatError
from mooring.engine.sources import SourceError, batches
from mooring.files import replace
from mooring.log.store import StoreError
from mooring.performance.measures import MEASURES, evaluate, primary
from mooring.performance.scored import LabelledRows, Task, UnscorableError, scored_of
from mooring.registry import baselines, versions
from mooring.registry.client import PermanentError, TrackingError
from mooring.retrain.dataset.gather import KEYS, LOGGED, PROTECTED
from mooring.retrain.dataset.logged import LabelRange, label_range, traffic
from mooring.retrain.evaluation.difference import Difference, difference
from mooring.retrain.evaluation.mlflow_log import log_to_mlflow
from mooring.retrain.evaluation.records import Evaluation, EvaluationError, Sample, reason_of
from mooring.retrain.evaluation.signatures import as_frame, differences
from mooring.retrain.evaluation.versions import LoadedModel, finite, latencies, size
from mooring.state.baselines import StoredBaselines
from mooring.state.database import StateError
from mooring.state.state import State

_MOST_ROWS = 100_000
_SAMPLE_ROWS = 2000


def evaluate_versions(given: Namespace, scratch: Path) -> None:
    """Write what is known of both versions. Raises EvaluationError where it is not the candidate's fault."""
    holdout = _holdout(Path(given.holdout), given.digest, given.label, given.segment, given.protected)
    paths = {
        who: _download(given.model, version, scratch / who)
        for who, version in (("champion", given.champion), ("candidate", given.candidate))
        if version
    }
    outputs: dict[str, pa.Table] = {}
    models: dict[str, LoadedModel] = {}
    if "champion" in paths:
        try:
            models["champion"] = LoadedModel(paths["champion"])
            output = models["champion"].predict(_frame(holdout, given.label))
        except Exception as error:  # whatever a model raises
            raise EvaluationError(
                f"the champion, version {given.champion}, can't predict the holdout here: {reason_of(error)}"
            ) from error
        there = pa.array(finite(output))
        holdout, outputs["champion"] = holdout.filter(there), output.filter(there)
    found = Evaluation(
        model=given.model,
        champion=given.champion or None,
        candidate=given.candidate,
        created=datetime.now(UTC),
        rows=holdout.num_rows,
        size={who: size(path) for who, path in paths.items()},
    )
    frame = _frame(holdout, given.label)
    try:
        models["candidate"] = LoadedModel(paths["candidate"])
        if "champion" in models:
            found = msgspec.structs.replace(found, schema=_differences(models))
        outputs["candidate"] = models["candidate"].predict(frame)
        found = _with_measures(found, given, holdout, outputs)
        measured = latencies(models, frame)
    except EvaluationError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a model raises is told as the reason
        _write(msgspec.structs.replace(found, failure=reason_of(error)), given.output)
        return
    found = msgspec.structs.replace(
        found,
        latency=measured,
        difference=_difference(found, holdout, outputs),
        sample=_sampled(found, given, holdout[given.label], outputs, models),
    )
    found = log_to_mlflow(
        found, holdout[given.label], outputs, {who: one.model_id for who, one in models.items()}, given.better_by
    )
    columns: dict[str, Any] = {"label": holdout[given.label], "group": pa.array(_groups(holdout))}
    columns |= {who: output.to_struct_array() for who, output in outputs.items()}
    columns |= {f"segment.{name}": names for name, names in _segments(given, holdout).items()}
    columns |= {PROTECTED + name: values for name, values in _protected(given, holdout).items()}
    pq.write_table(pa.table(columns), _made(given.output).with_suffix(".parquet"))
    _write(found, given.output)


def _write(found: Evaluation, output: str) -> None:
    replace(_made(output), msgspec.json.format(msgspec.json.encode(found), indent=1), private=False)


def _made(output: str) -> Path:
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _holdout(path: Path, digest: str, label: str, segments: list[str], protected: list[str]) -> pa.Table:
    """Return the rows that have a label, the last ones of very many: a log's are in their order of time."""
    try:
        table = _read(path, digest)
    except (SourceError, OSError, pa.ArrowException) as error:
        raise EvaluationError(f"the holdout can't be read: {error}") from None
    for name, what in ((label, "of labels"), *((segment, "of segments") for segment in segments)):
        if name not in table.column_names:
            there = ", ".join(table.column_names) or "no rows"
            raise EvaluationError(f"the holdout has no column {name} {what}; it has {there}")
    for name in protected:
        if not {name, PROTECTED + name} & set(table.column_names):
            raise EvaluationError(
                f"the holdout has no protected column {name}, nor {PROTECTED}{name} where no model is to be given "
                f"it; it has {', '.join(table.column_names)}"
            )
    table = table.filter(pc.invert(pc.is_null(table[label], nan_is_null=True)))
    if not table.num_rows:
        raise EvaluationError(f"the holdout {path} has no rows with a label")
    return table.slice(max(0, table.num_rows - _MOST_ROWS)).unify_dictionaries().combine_chunks()


def _read(path: Path, digest: str) -> pa.Table:
    if not digest:
        parts = list(batches(path))
        return pa.Table.from_batches(parts) if parts else pa.table({})
    data = path.read_bytes()  # what is looked at is what is read, whoever may write the file
    if hashlib.sha256(data).hexdigest() != digest:
        raise EvaluationError(f"the holdout {path} was changed since it was gathered: its digest is another")
    return pq.read_table(pa.BufferReader(data))


def _segments(given: Namespace, holdout: pa.Table) -> dict[str, pa.Array]:
    """Return by column which segment each row is of: those of the champion's baseline, as the monitor has them.

    A column that the baseline lacks is cut as if the holdout were its baseline.
    """
    baseline = _baseline(given) if given.segment and given.champion else None
    return {name: pa.array(_parts_of(name, holdout, baseline), pa.string()) for name in given.segment}


def _parts_of(name: str, holdout: pa.Table, baseline: Baseline | None) -> np.ndarray:
    feature = baseline.features.get(name) if baseline is not None else None
    return segments_of(holdout[name], feature or make({name: holdout[name]}).features[name])


def _protected(given: Namespace, holdout: pa.Table) -> dict[str, pa.Array]:
    """Return by protected column the value of each row: of the column itself, else what came with labels."""
    baseline = _baseline(given) if given.protected and given.champion else None
    found = {}
    for name in given.protected:
        values = pa.nulls(holdout.num_rows, pa.string())
        if name in holdout.column_names:
            values = pa.array(_parts_of(name, holdout, baseline), pa.string())
        if PROTECTED + name in holdout.column_names:
            values = pc.coalesce(values, pa.array(segments_of(holdout[PROTECTED + name]), pa.string()))
        found[name] = values
    return found


def _baseline(given: Namespace) -> Baseline | None:
    """Return the champion's baseline: the state's, else what was logged with the version, if there is any."""
    data = None
    try:
        with State(given.state) as state:
            kept = StoredBaselines(state).newest(given.model, given.champion)
        data = kept.data if kept is not None else None
    except StateError:
        pass  # no monitor has run yet
    try:
        data = data or baselines.find(given.model, given.champion)
        return Baseline.from_bytes(data) if data is not None else None
    except TrackingError as error:
        raise EvaluationError(str(error), temporary=True) from error
    except FormatError as error:
        raise EvaluationError(f"the baseline of {given.model} {given.champion} can't be read: {error}") from error


def _frame(table: pa.Table, label: str) -> pd.DataFrame:
    """Return the features."""
    ours = {label, *_keys(table).values()}
    out = [name for name in table.column_names if name in ours or name.startswith((LOGGED, PROTECTED))]
    return as_frame(table.drop_columns(out))


def _keys(table: pa.Table) -> dict[str, str]:
    """Return which columns say where a row is from and are no features; `row` and `time` alone may be some."""
    there = {
        name: next((own for own in (f"mooring.{name}", name) if own in table.column_names), None) for name in KEYS
    }
    known = {name: own for name, own in there.items() if own is not None}
    return known if len(known) == len(KEYS) else {name: own for name, own in known.items() if name == KEYS[0]}


def _groups(table: pa.Table) -> np.ndarray:
    name = _keys(table).get(KEYS[0])
    if name is None:
        return np.arange(table.num_rows)
    return np.asarray(table[name].combine_chunks().dictionary_encode().indices)


def _download(model: str, version: str, directory: Path) -> Path:
    directory.mkdir()
    try:
        versions.get(model, version)
        return versions.download(model, version, directory)
    except TrackingError as error:
        raise EvaluationError(str(error), temporary=not isinstance(error, PermanentError)) from error
    except Exception as error:  # each store of artifacts has errors of its own
        raise EvaluationError(
            f"MLflow does not give models:/{model}/{version}: {reason_of(error)}", temporary=True
        ) from error


def _differences(models: Mapping[str, LoadedModel]) -> tuple[str, ...]:
    return tuple(differences(models["champion"].signature, models["candidate"].signature))


def _difference(found: Evaluation, holdout: pa.Table, outputs: Mapping[str, pa.Table]) -> Difference | None:
    if "champion" not in outputs:
        return None
    classes = found.task == "classification"
    return difference(outputs["champion"], outputs["candidate"], _groups(holdout), classes=classes)


def _with_measures(
    found: Evaluation, given: Namespace, holdout: pa.Table, outputs: Mapping[str, pa.Table]
) -> Evaluation:
    """Add each version's measures, of the rows that it has predictions for."""
    labels, groups = holdout[given.label].combine_chunks(), _groups(holdout)
    task: Task | None = None
    if given.metric:
        task = MEASURES[given.metric].task if given.metric in MEASURES else "classification"
    classes: tuple[str, ...] | None = None
    scored: dict[str, LabelledRows] = {}
    for who in (*outputs, *outputs):  # twice, so that both have the classes of both
        try:
            scored[who] = scored_of(labels, outputs[who], groups, task=task, classes=classes)
        except UnscorableError as error:
            if who == "candidate":
                raise
            raise EvaluationError(f"the champion can't be compared with the labels: {error}") from error
        task, classes = scored[who].task, scored[who].classes
    measures = {who: evaluate(one) for who, one in scored.items()}
    metric = given.metric or primary(scored[next(iter(scored))])
    known = measures[next(iter(scored))]
    if known and metric not in known:
        raise EvaluationError(f"{metric} can't be measured here: set gate_metric to one of {', '.join(known)}")
    return msgspec.structs.replace(found, task=task, classes=classes, metric=metric, measures=measures)


def _sampled(
    found: Evaluation,
    given: Namespace,
    labels: pa.ChunkedArray,
    outputs: Mapping[str, pa.Table],
    models: Mapping[str, LoadedModel],
) -> Sample:
    """Look at the candidate's predictions of the holdout and of logged traffic."""

    try:
        seen = label_range(given.log, given.model, labels.combine_chunks())
        logged = traffic(given.log, given.model, _SAMPLE_ROWS) if given.log else None
    except StoreError as error:
        raise EvaluationError(str(error), temporary=True) from error
    said, expected, failure = [outputs["candidate"]], [np.ones(len(labels), bool)], None
    if logged is not None:
        frame = as_frame(logged)
        known, refused = _tried(models.get("champion"), frame)
        answered, failure = _tried(models["candidate"], frame)
        if refused:
            failure = None  # what the champion can't predict either is not held against it
        elif answered is not None:
            said.append(answered)
            expected.append(np.ones(len(frame), bool) if known is None else finite(known))
    fine = np.concatenate([finite(one) for one in said])
    sample = Sample(
        rows=len(fine),
        logged=len(fine) - len(labels),
        missing=int((np.concatenate(expected) & ~fine).sum()),
        failure=failure,
    )
    if found.task == "classification":
        return msgspec.structs.replace(sample, unknown=_unknown(found, said, outputs, seen))
    values = np.concatenate([np.asarray(one["prediction"].cast(pa.float64())) for one in map(_named, said)])[fine]
    return msgspec.structs.replace(
        sample,
        low=float(values.min()) if len(values) else None,
        high=float(values.max()) if len(values) else None,
        label_low=seen.low,
        label_high=seen.high,
    )


def _named(output: pa.Table) -> pa.Table:
    return output if "prediction" in output.column_names else output.select([0]).rename_columns(["prediction"])


def _tried(model: LoadedModel | None, frame: pd.DataFrame) -> tuple[pa.Table | None, str | None]:
    if model is None:
        return None, None
    try:
        return model.predict(frame), None
    except Exception as error:  # noqa: BLE001 - whatever a model raises is told as the reason
        return None, reason_of(error)


def _unknown(
    found: Evaluation, said: list[pa.Table], outputs: Mapping[str, pa.Table], seen: LabelRange
) -> tuple[str, ...]:
    known = set(seen.classes)
    if "champion" in outputs:
        known |= _classes(found, outputs["champion"])
    predicted = set().union(*(_classes(found, one) for one in said))
    return tuple(sorted(predicted - known))[:20]


def _classes(found: Evaluation, output: pa.Table) -> set[str]:
    """Return the classes that are predicted."""
    classes = found.classes or ("0",)
    scored = scored_of([classes[0]] * output.num_rows, output, task="classification", classes=classes)
    return {(scored.classes or classes)[at] for at in np.unique(scored.predictions).tolist()}
