"""Baselines in memory, and any two samples compared by the same measures and alarms as the monitor's."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa

from mooring.comparison.evaluation import (
    evaluated_segment,
    held_out_of,
    of_training_data,
    with_outputs,
    without_outputs,
)
from mooring.comparison.importance import permutation_importance
from mooring.comparison.page import as_html, as_page, as_text
from mooring.drift.baseline import Baseline, make
from mooring.drift.columns import Column, plain
from mooring.drift.judge import DEFAULT_BUDGET, AlarmRules, judge
from mooring.drift.judgement import Judgement, Result
from mooring.drift.kinds import Kind, Role
from mooring.drift.profile import Profile, grids_digest
from mooring.drift.reference_rows import HELD_OUT_ROWS, TRAINING_ROWS, ReferenceRows, drawn
from mooring.drift.segments import baselines_of, segments_of
from mooring.engine import local, sources
from mooring.performance.scored import scored_of
from mooring.status import Severity

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
MIN_ROWS = 30
"""Fewer rows of either sample are too few to say anything of."""
_BASELINE_FILE = b"mooring-baseline "


class Comparison:
    """What differs between a reference and a current sample, and what of it is more than chance.

    `baseline` is the reference, `profile` the current sample on its grids, `judgement` what was found. With fewer
    than `min_rows` rows in either, nothing alarms.
    """

    def __init__(
        self, baseline: Baseline, profile: Profile, judgement: Judgement, min_rows: int = MIN_ROWS
    ) -> None:
        self.baseline = baseline
        self.profile = profile
        self.judgement = judgement
        self.min_rows = min_rows

    @property
    def drifted(self) -> bool:
        """Whether anything alarms."""
        return bool(self.judgement.alarms)

    @property
    def too_few(self) -> bool:
        """Whether either sample has too few rows to be judged."""
        return min(self.baseline.rows, self.profile.rows) < self.min_rows

    @property
    def severity(self) -> Severity:
        """How bad it is: ok, warning or critical."""
        return self.judgement.severity

    @property
    def features(self) -> list[str]:
        """The features that alarm, the most drifted first."""
        return self.judgement.features

    @property
    def results(self) -> list[Result]:
        """Every measure of every feature."""
        return self.judgement.results

    def to_pandas(self) -> pd.DataFrame:
        """Return a row for each feature and measure: feature, measure, value, p_value, threshold, alarm.

        Each measure that suits the feature is there. Only those that alarm by default, or have a threshold of
        their own, have a threshold, and p_value only where the effect is not below the minimum.
        """
        import pandas as pd

        names = ("feature", "measure", "value", "p_value", "threshold", "alarm")
        columns = {name: [getattr(result, name) for result in self.results] for name in names}
        table = pd.DataFrame(columns, columns=list(names))
        return table.astype({"value": float, "p_value": float, "threshold": float, "alarm": bool})

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data that JSON can hold; what is not finite is None. Names stay as they are."""
        return {
            "format": FORMAT,
            "drifted": self.drifted,
            "too_few": self.too_few,
            "severity": self.severity,
            "features": list(self.features),
            "rows": {"reference": self.baseline.rows, "current": self.profile.rows},
            "budget": self.judgement.budget,
            "seed": self.judgement.seed,
            "missing": list(self.judgement.missing),
            "unknown": list(self.judgement.unknown),
            "results": [_plain(result) for result in self.results],
        }

    def __repr__(self) -> str:
        return as_text(self.baseline, self.profile, self.judgement, self.min_rows)

    def to_html(self) -> str:
        """Return it as a page of its own, self-contained."""
        return as_page(self.baseline, self.profile, self.judgement, self.min_rows)

    def _repr_html_(self) -> str:
        return as_html(self.baseline, self.profile, self.judgement, self.min_rows)


Evaluation = tuple[Any, Any] | tuple[Any, Any, Any]
"""Labels of held-out rows, a model's predictions of them and, for segments, their inputs."""


def baseline(
    data: Any,
    *,
    predictions: Any = None,
    labels: Any = None,
    kinds: Mapping[str, Kind] | None = None,
    importance: Mapping[str, float] | None = None,
    model: Any = None,
    columns: Sequence[str] | None = None,
    integers: Collection[str] = (),
    singles: Collection[str] = (),
    evaluation: Evaluation | None = None,
    held_out: bool = False,
    segments: Sequence[str] = (),
    keep_rows: int = TRAINING_ROWS,
) -> Baseline:
    """Return the baseline of data: what a model was trained on, which windows are compared with.

    Parameters
    ----------
    data
        The inputs: a table of pandas, polars or pyarrow, a mapping of arrays, or a path to a .parquet, .csv or
        .jsonl file or a directory of Parquet files.
    predictions
        What the model predicts of them: an array, a column, or a table. One column is named `prediction`, several
        `prediction.NAME`, as the log names them. Those of rows that it was trained on are surer than later ones,
        and are not what windows are compared with: give `evaluation` instead, or out-of-fold predictions with
        `held_out`.
    labels
        The ground truth, one column, named `label`.
    kinds
        What a column is (numeric, categorical, timestamp, text, other), where that is not to be found out. An
        integer with few values is taken for a category.
    importance
        How much the model heeds a feature, in any unit.
    model
        Without `importance`: the model, an object with `predict`, or a function that predicts. It is asked for
        predictions of `evaluation`, which needs the inputs then, with each of them shuffled, and importances are
        shares of what that adds to its loss.
    columns
        Only these of the inputs.
    integers
        Columns of floats that hold integers.
    singles
        Columns that the model gets as float32: they are compared at that precision, as are columns of that type.
    evaluation
        Labels of rows that the model did not see in training, and its predictions of them, as it gives them where
        it is served: what later predictions and performance are compared with. Without, performance is compared
        with the training data's own labels and predictions, where both are given, which flatters the model: it has
        seen them. The inputs of these rows as a third part have predictions and performance judged by the
        `segments`, too.
    held_out
        Whether `predictions` are of models that were not trained on the row, as those of cross-validation are.
    segments
        Inputs by whose values the monitor is to look, too: each of their values that has at least 100
        rows, at most 20 of them, of a number each quartile, gets a baseline of its own.
    keep_rows
        How many of the inputs' rows are kept as they are, in `sample`, and ten times as many of `evaluation`.

    Raises ValueError for data that can't be read, for names that are not there, and where the parts are not of one
    length.

    >>> made = baseline({"pH": [3.1, 3.3, 3.2]}, predictions=[5.5, 6.0, 6.5], labels=[5, 6, 7])
    >>> {name: feature.role for name, feature in made.features.items()}, made.in_sample
    ({'pH': 'input', 'prediction': 'output', 'label': 'label'}, ['prediction'])
    >>> baseline({"pH": [3.1, 3.3, 3.2]}, predictions=[5.5, 6.0, 6.5], held_out=True).in_sample
    []
    """
    outputs = dict(_parts(predictions, "prediction")) if predictions is not None else {}
    later = dict(_parts(_taken_apart(evaluation)[1], "prediction")) if evaluation is not None else {}
    truth = {"label": _one_column(labels)} if labels is not None else {}
    roles: dict[str, Role] = {**dict.fromkeys(outputs, "output"), **dict.fromkeys(truth, "label")}
    rows: dict[str, int] = {}
    sample: dict[str, Column] = {}

    def every(again: bool = False) -> Iterator[tuple[str, pa.ChunkedArray]]:
        if again:
            rows.clear()
        for name, column in sources.columns(data, columns):
            name = f"input.{name}" if name in outputs or name in later else name
            rows[name] = len(column)
            if keep_rows and not again:
                sample[name] = drawn(column, keep_rows)
            yield name, column
        for name, column in (*outputs.items(), *truth.items()):
            if name in rows:
                raise ValueError(f"the data have a column {name} already: give it as labels only, or rename it")
            rows[name] = len(column)
            yield name, column

    if importance is not None and model is not None:
        raise ValueError("give importance, or model to have it computed, and not both")
    if model is not None and (evaluation is None or len(evaluation) < 3):
        raise ValueError("model needs evaluation=(labels, predictions, inputs): importances are of held-out rows")
    made = make(
        every(),
        roles=roles,
        kinds=kinds,
        integers=integers,
        singles=singles,
        importance=importance,
        held_out=held_out,
    )
    if len(set(rows.values())) > 1:
        raise ValueError(f"the columns are not of one length: {', '.join(f'{n}: {c}' for n, c in rows.items())}")
    if sample:
        made.sample = ReferenceRows(sample, {}, {}, None).to_bytes()
    if segments:
        made.segments = baselines_of(dict(every(again=True)), made, segments)
    if evaluation is not None:
        made = evaluated(
            made,
            evaluation,
            kinds=kinds,
            integers=integers,
            singles=singles,
            importance=importance,
            keep_rows=keep_rows,
            model=model,
        )
    for name in [*(kinds or {}), *(importance or {})]:
        if name not in made.features:
            raise ValueError(f"there is no column {name}; there is: {', '.join(made.features)}")
    if truth and outputs and evaluation is None:
        made.performance, why_not = of_training_data(truth["label"], outputs, held_out=held_out)
        if why_not:
            made.about["performance"] = why_not
    return made


def evaluated(
    made: Baseline,
    evaluation: Evaluation,
    *,
    kinds: Mapping[str, Kind] | None = None,
    integers: Collection[str] = (),
    singles: Collection[str] = (),
    importance: Mapping[str, float] | None = None,
    model: Any = None,
    keep_rows: int = TRAINING_ROWS,
) -> Baseline:
    """Return a baseline with what the model predicts of held-out rows and how well, and on those of its segments.

    Outputs of the baseline that are held out already stay. The other arguments are as `baseline` takes them.
    Raises ValueError where labels and predictions can't be compared.
    """
    labels, predictions, *inputs = _taken_apart(evaluation)
    truth, outputs = _one_column(labels), dict(_parts(predictions, "prediction"))
    if any(len(column) != len(truth) for column in outputs.values()):
        raise ValueError("evaluation has other rows of predictions than of labels")
    made = with_outputs(
        msgspec.structs.replace(made, performance=held_out_of(truth, outputs)),
        outputs,
        kinds=kinds,
        integers=integers,
        singles=singles,
        importance=importance,
    )
    theirs = _inputs_of(inputs, outputs, len(truth))
    if keep_rows:
        training = ReferenceRows.from_bytes(made.sample).training if made.sample else {}
        most = keep_rows * (HELD_OUT_ROWS // TRAINING_ROWS)
        made.sample = ReferenceRows.drawn(training, theirs, outputs, truth, held_out_rows=most).to_bytes()
    if model is not None:
        if not inputs:
            raise ValueError("model needs evaluation=(labels, predictions, inputs)")
        like = scored_of(plain(truth), {name: plain(column) for name, column in outputs.items()})
        made = _weighed(made, permutation_importance(model, inputs[0], truth, like))
    if not inputs:
        segments = {
            feature: {value: without_outputs(one, made) for value, one in values.items()}
            for feature, values in made.segments.items()
        }
        return msgspec.structs.replace(made, segments=segments)
    if lacking := [name for name in made.segments if name not in theirs]:
        raise ValueError(f"the inputs of evaluation have no column {', '.join(lacking)}, which segments are by")
    segments = {}
    for feature, values in made.segments.items():
        names = segments_of(theirs[feature], made.features[feature])
        segments[feature] = {}
        for value, one in values.items():
            rows = pa.array(names == value)
            said = {name: column.filter(rows) for name, column in outputs.items()}
            segments[feature][value] = evaluated_segment(one, made, truth.filter(rows), said)
    return msgspec.structs.replace(made, segments=segments)


def _weighed(made: Baseline, importance: Mapping[str, float]) -> Baseline:
    """Return a baseline whose inputs have importances, and those of its segments; here `input.NAME` is NAME."""
    features = {}
    for name, feature in made.features.items():
        share = importance.get(name, importance.get(name.removeprefix("input.")))
        known = share is not None and feature.role == "input"
        features[name] = msgspec.structs.replace(feature, importance=share) if known else feature
    segments = {
        column: {value: _weighed(one, importance) for value, one in values.items()}
        for column, values in made.segments.items()
    }
    return msgspec.structs.replace(made, features=features, segments=segments)


def _inputs_of(inputs: Sequence[Any], outputs: Collection[str], rows: int) -> dict[str, pa.ChunkedArray]:
    """Return the inputs of held-out rows, where they are given, named as the log names them."""
    if not inputs:
        return {}
    found = {f"input.{name}" if name in outputs else name: column for name, column in sources.columns(inputs[0])}
    if any(len(column) != rows for column in found.values()):
        raise ValueError("evaluation has other rows of inputs than of labels")
    return found


def _taken_apart(evaluation: Evaluation) -> Sequence[Any]:
    parts: Any = evaluation  # an array of labels alone can be taken apart, too
    if not isinstance(parts, tuple | list) or len(parts) not in (2, 3):
        raise ValueError(
            "evaluation is a pair: labels of held-out rows, and the predictions of them; or inputs, too"
        )
    return parts


def compare(
    reference: Any,
    current: Any,
    *,
    budget: float = DEFAULT_BUDGET,
    floors: bool = True,
    kinds: Mapping[str, Kind] | None = None,
    columns: Sequence[str] | None = None,
    predictions: str | Sequence[str] = (),
    label: str | Sequence[str] = (),
    thresholds: Mapping[str, float] | None = None,
    min_rows: int = MIN_ROWS,
    seed: int = 0,
) -> Comparison:
    """Compare two samples, and say what of the difference is more than chance.

    Parameters
    ----------
    reference, current
        Each a table of pandas, polars or pyarrow, a mapping of arrays, or a path to a .parquet, .csv or .jsonl
        file or a directory of Parquet files. The reference may be a Baseline, or a file that one was written to;
        the current sample may be a Spark DataFrame.
    budget
        The chance that samples of the same distribution raise any alarm.
    floors
        Whether differences too small to matter are passed over.
    kinds
        What a column is, where that is not to be found out.
    columns
        Only these.
    predictions
        Columns that are a model's predictions, which reports tell from its inputs.
    label
        Columns of the ground truth, which are not compared; either sample may lack them. A Baseline has its own.
    thresholds
        Fixed thresholds by `measure` or `feature.measure`, which stand in the place of the calibrated ones.
    min_rows
        With fewer rows in either sample nothing alarms: the values are there, and `too_few` is true.
    seed
        The same seed gives the same result.

    A column that only one of the two has is told, as `missing` or `unknown`, and is not compared: it is no drift
    by itself. One whose values are of another type than in the reference alarms as `type_change_rate`.

    Raises ValueError for data that can't be read, that are empty, or that have no column in common.

    >>> import numpy as np
    >>> random = np.random.default_rng(0)
    >>> same = compare({"x": random.normal(size=5000)}, {"x": random.normal(size=500)})
    >>> moved = compare({"x": random.normal(size=5000)}, {"x": random.normal(1, size=500)})
    >>> same.drifted, moved.drifted, moved.severity, moved.features
    (False, True, 'critical', ['x'])
    """
    reference = _stored(reference)
    if isinstance(reference, Baseline):
        if kinds or predictions or label:
            raise ValueError("kinds, predictions and label go with data: this baseline has its own")
        made = reference if columns is None else _only(reference, columns)
    else:
        named = _names(predictions)
        roles: dict[str, Role] = {**dict.fromkeys(named, "output"), **dict.fromkeys(_names(label), "label")}
        made = make(sources.columns(reference, columns), roles=roles, kinds=kinds)
        for name in [*named, *(kinds or {})]:
            if name not in made.features:
                raise ValueError(f"the reference has no column {name}; it has: {', '.join(made.features)}")
    if not made.rows:
        raise ValueError("the reference has no rows: there is nothing to compare with")
    found = _profile(current, made, columns)
    if not found.rows:
        raise ValueError("the current sample has no rows: there is nothing to compare")
    for name in _names(label):
        if columns is None and name not in made.features and name not in found.unknown:
            raise ValueError(f"neither sample has a column {name}; the reference has: {', '.join(made.features)}")
    rules = AlarmRules(budget, floors, thresholds or {})
    judgement = _judged(made, found, rules, _names(label), seed)
    compared = Comparison(made, found, judgement, min_rows)
    if compared.too_few:
        compared.judgement = _unalarmed(judgement)
    return compared


def _judged(made: Baseline, found: Profile, rules: AlarmRules, labels: Collection[str], seed: int) -> Judgement:
    """Return the judgement of the columns that both have; those of one are only named."""
    missing = [name for name, feature in found.features.items() if feature.absent == found.rows]
    both = [name for name in made.features if name not in missing]
    if all(made.features[name].role == "label" for name in both):
        raise ValueError(
            f"the two have no column in common: the reference has {', '.join(made.features)}; "
            f"the current sample {', '.join([*both, *found.unknown]) or 'none with a value'}"
        )
    reference = _only(made, both) if missing else made
    current = msgspec.structs.replace(
        found, digest=reference.digest, features={name: found.features[name] for name in both}
    )
    judgement = judge(reference, [current], rules, seed=seed)
    for name in both:
        _tell_type(name, judgement, current, rules)
    return msgspec.structs.replace(
        judgement,
        missing=[name for name in missing if made.features[name].role != "label"],
        unknown=[name for name in judgement.unknown if name not in labels],
    )


def _tell_type(name: str, judgement: Judgement, current: Profile, rules: AlarmRules) -> None:
    """Let a feature whose values lack because they are of another type alarm as that, not as nulls.

    To a model both are missing values, and are judged together as `null_rate`.
    """
    feature = current.features[name]
    if feature.misfits * 2 <= feature.unusable or rules.fixed(name, "null_rate") is not None:
        return
    if rules.fixed(name, "type_change_rate") is not None:
        return
    of_it = {result.measure: result for result in judgement.results if result.feature == name}
    nulls, types = of_it["null_rate"], of_it["type_change_rate"]
    types.alarm, types.severity, types.p_value = nulls.alarm, nulls.severity, nulls.p_value
    types.strength = nulls.strength
    if nulls.threshold is not None:
        types.threshold = nulls.threshold - (nulls.reference or 0.0)
    nulls.alarm, nulls.severity = False, "ok"


def _unalarmed(judgement: Judgement) -> Judgement:
    results = [msgspec.structs.replace(one, alarm=False, severity="ok") for one in judgement.results]
    return msgspec.structs.replace(judgement, results=results, severity="ok", features=[])


def _names(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)


def _profile(current: Any, made: Baseline, columns: Sequence[str] | None) -> Profile:
    if not hasattr(current, "mapInArrow"):
        return local.profile_of(current, made, columns=columns)
    from mooring.engine import spark

    return spark.profile_of(current if columns is None else spark.select(current, columns), made)


def _stored(reference: Any) -> Any:
    """Return the baseline that a file holds; anything else as it is."""
    if not isinstance(reference, str | os.PathLike) or not Path(reference).is_file():
        return reference
    with Path(reference).open("rb") as file:
        head = file.read(len(_BASELINE_FILE))
        return Baseline.from_bytes(head + file.read()) if head == _BASELINE_FILE else reference


def _only(made: Baseline, columns: Sequence[str]) -> Baseline:
    if lacking := [name for name in columns if name not in made.features]:
        raise ValueError(f"the baseline has no {', '.join(lacking)}; it has: {', '.join(made.features)}")
    chosen = {name: made.features[name] for name in columns}
    digest = grids_digest({name: feature.grid for name, feature in chosen.items()})
    return Baseline(chosen, made.rows, made.about, digest=digest, weight=made.weight)


def _parts(values: Any, name: str) -> list[tuple[str, pa.ChunkedArray]]:
    """Return the columns of what is a column or a table, named as the log names them."""
    found = list(sources.columns(values))
    if len(found) == 1:
        return [(name, found[0][1])]
    return [(f"{name}.{part}", column) for part, column in found]


def _one_column(values: Any) -> pa.ChunkedArray:
    found = list(sources.columns(values))
    if len(found) != 1:
        raise ValueError(f"labels are one column, and these are {len(found)}")
    return found[0][1]


def _plain(result: Result) -> dict[str, Any]:
    names = (
        "feature",
        "role",
        "kind",
        "measure",
        "value",
        "reference",
        "p_value",
        "threshold",
        "alarm",
        "severity",
    )
    values = {name: getattr(result, name) for name in names}
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
