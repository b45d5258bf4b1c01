"""How well a model does on rows with labels, as a baseline keeps it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec
import pyarrow as pa

from mooring.drift.baseline import Baseline, Feature, HeldOut, make
from mooring.drift.columns import Column, plain
from mooring.drift.grid import is_single
from mooring.drift.kinds import Kind
from mooring.drift.profile import empty, grids_digest
from mooring.performance.judge import LEAST_ROWS, held_out
from mooring.performance.measures import scored_of
from mooring.performance.scored import UnscorableError

HELD_OUT = "held-out rows"
IN_SAMPLE = "in-sample: the training data's own rows, which the model has seen"


def held_out_of(labels: pa.ChunkedArray, outputs: Mapping[str, pa.ChunkedArray], about: str = HELD_OUT) -> HeldOut:
    """Return how well predictions fit labels. Raises ValueError where they can't be compared, or are too few."""
    scored = scored_of(plain(labels), {name: plain(column) for name, column in outputs.items()})
    if scored.rows < LEAST_ROWS:
        raise UnscorableError(f"{scored.rows} rows with label and prediction are too few: it takes {LEAST_ROWS}")
    return held_out(scored, about)


def of_training_data(
    labels: pa.ChunkedArray, outputs: Mapping[str, pa.ChunkedArray], *, held_out: bool
) -> tuple[HeldOut | None, str]:
    """Return how well predictions of the training data fit their labels, or None and why that can't be told.

    `held_out` says that those are of models that had not seen the row, as in cross-validation.
    """
    try:
        return held_out_of(labels, outputs, HELD_OUT if held_out else IN_SAMPLE), ""
    except UnscorableError as error:
        return None, f"not kept: {error}"


def evaluated_segment(
    one: Baseline, whole: Baseline, labels: pa.ChunkedArray, outputs: Mapping[str, pa.ChunkedArray]
) -> Baseline:
    """Return a segment's baseline with the outputs of its held-out rows, and how well the model does on these.

    Of too few rows neither is kept: the outputs are in-sample then.
    """
    if len(labels) < LEAST_ROWS:
        return without_outputs(one, whole)
    made = with_outputs(one, outputs, whole)
    try:
        return msgspec.structs.replace(made, performance=held_out_of(labels, outputs))
    except UnscorableError:
        return made


def with_outputs(
    made: Baseline,
    outputs: Mapping[str, Column],
    like: Baseline | None = None,
    *,
    kinds: Mapping[str, Kind] | None = None,
    integers: Collection[str] = (),
    singles: Collection[str] = (),
    importance: Mapping[str, float] | None = None,
) -> Baseline:
    """Return a baseline whose outputs are of held-out rows; those that are held out already stay.

    What kind they are of is known from `like`, without it from the baseline, or is given as `make` takes it.
    Raises ValueError where an input has the name of an output.
    """
    known = {name: one for name, one in (like or made).features.items() if one.role == "output"}
    if taken := [name for name in outputs if name in made.features and name not in known]:
        raise ValueError(f"the data have a column {taken[0]} already, as the predictions are called: rename it")
    stay = {name for name, one in made.features.items() if one.held_out}
    outputs = {name: column for name, column in outputs.items() if name not in stay}
    found = make(
        outputs,
        roles=dict.fromkeys(outputs, "output"),
        kinds={name: known[name].kind for name in outputs if name in known} | dict(kinds or {}),
        integers=integers,
        singles=[name for name in outputs if name in known and is_single(known[name].grid)] + [*singles],
        importance=importance,
    ).features
    for name, feature in found.items():
        if name in known:
            feature.importance = known[name].importance
    return _with_features(made, {name: one for name, one in found.items() if name not in stay})


def without_outputs(one: Baseline, whole: Baseline) -> Baseline:
    """Return a segment's baseline with the outputs of the whole, in-sample; those that it lacks have no rows."""
    theirs = {name: feature for name, feature in whole.features.items() if feature.role == "output"}
    blank = empty({name: feature.grid for name, feature in theirs.items()}).features
    lacking = {
        name: msgspec.structs.replace(feature, profile=blank[name], held_out=False)
        for name, feature in theirs.items()
        if name not in one.features
    }
    return _with_features(one, lacking)


def _with_features(made: Baseline, outputs: Mapping[str, Feature]) -> Baseline:
    """Return a baseline with these outputs, which take the place of those of their names: inputs come first."""
    labels = {name: feature for name, feature in made.features.items() if feature.role == "label"}
    others = {name: feature for name, feature in made.features.items() if feature.role != "label"}
    features = {**others, **outputs, **labels}
    digest = grids_digest({name: feature.grid for name, feature in features.items()})
    return msgspec.structs.replace(made, features=features, digest=digest)
