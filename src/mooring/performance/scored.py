"""Labelled rows and what a model predicted of them, read from whatever form its output has."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mooring.drift.columns import is_number
from mooring.label import number_text
from mooring.performance.kinds import as_predicted

Task = Literal["regression", "classification"]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
_MOST_CLASSES = 20
_MOST_CELLS = 50_000_000
_PREDICTIONS = ("prediction", "predictions", "predicted", "predicted_label", "predicted_class", "label", "class")
_PROBABILITIES = ("probabilities", "probability", "predict_proba", "proba", "prob", "scores", "score")


class LabelledRows(NamedTuple):
    """Labelled rows and what a model predicted of them.

    Of a regression `labels` and `predictions` are the values themselves. Of a classification they are places in
    `classes`, the names of all classes in their order; `probabilities` (rows, classes) are there where the model
    gives them. `groups` says of each row which request it came in, counted from 0: rows of one request are not
    independent, so they are drawn together. `known` is how many of the classes, the first, the baseline has; None
    where no baseline says which it has. `places` says which of the rows that `scored_of` was given they are.
    """

    labels: Floats | Integers
    predictions: Floats | Integers
    groups: Integers
    probabilities: Floats | None = None
    classes: tuple[str, ...] | None = None
    known: int | None = None
    places: Integers | None = None

    @property
    def task(self) -> Task:
        """Whether it is a regression or a classification."""
        return "regression" if self.classes is None else "classification"

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.labels)

    @property
    def unknown(self) -> NDArray[np.bool_]:
        """Which rows are of a class that the baseline never had."""
        if self.known is None:
            return np.zeros(self.rows, np.bool_)
        return np.asarray(self.labels >= self.known)

    def only(self, chosen: NDArray[np.bool_] | Integers) -> LabelledRows:
        """Return some of the rows; their groups are counted anew."""
        groups = np.unique(self.groups[chosen], return_inverse=True)[1].astype(np.int64)
        return self._replace(
            labels=self.labels[chosen],
            predictions=self.predictions[chosen],
            groups=groups,
            probabilities=None if self.probabilities is None else self.probabilities[chosen],
            places=None if self.places is None else self.places[chosen],
        )


class UnscorableError(ValueError):
    """Labels and predictions that can't be compared; the message says why."""


def task_of(labels: Any, predictions: Any) -> Task:
    """Return what kind of model predicts such labels, each one column.

    Texts and booleans are classes, and so are integers, if both are and of at most 20 values.

    >>> task_of([5, 6], [5.2, 6.1]), task_of([5, 6], [5, 6]), task_of(["red"], ["white"])
    ('regression', 'classification', 'classification')
    """
    columns = [_column(one) for one in (labels, predictions)]
    if not all(is_number(one.type) for one in columns):
        return "classification"
    values = np.unique(np.concatenate([_floats(one) for one in columns]))
    values = values[np.isfinite(values)]
    few = len(values) <= _MOST_CLASSES and bool((values == np.floor(values)).all())
    return "classification" if few else "regression"


def scored_of(
    labels: Any,
    output: Any,
    groups: Integers | None = None,
    *,
    task: Task | None = None,
    classes: Sequence[str] | None = None,
    seen: Collection[str] = (),
) -> LabelledRows:
    """Return labelled rows as what measures are computed from; rows without a label or a prediction are left out.

    Parameters
    ----------
    labels
        The ground truth: numbers, booleans or texts; a column of Arrow, numpy or pandas, or a list. They take the
        kind of what the model predicts, as `as_predicted` says.
    output
        What the model said of the same rows: the struct `output` of the log, what a pyfunc model returned (a
        column, an array, a DataFrame), or columns by name. One column is the prediction, or where it holds lists,
        probabilities. Of several, the prediction is the one called `prediction`, `label` or `class`, probabilities
        are those called `probability` or by their class, and all of them where they add up to 1 in each row.
    groups
        Of each row a number that names its request; by default each row came in one of its own.
    task, classes
        What is known of the model, where that is not to be found out from these rows: classes in their order.
    seen
        Texts that the model predicted of other rows.

    Labels of 0 and 1 with predictions between are a classification whose predictions are probabilities of 1.
    Raises UnscorableError where labels and output can't be compared, as where they have no class in common.

    >>> scored_of([0, 1], {"0": [0.9, 0.2], "1": [0.1, 0.8]}).predictions.tolist()
    [0, 1]
    """
    truth = _column(labels)
    columns = _columns(output)
    if any(len(one) != len(truth) for one in columns.values()):
        raise UnscorableError(f"there are {len(truth)} labels, and the output has another number of rows")
    said = _said(columns)
    names = {*(classes or ()), *seen, *_named(said)}
    if classes is not None and said.prediction is not None and pa.types.is_boolean(said.prediction.type):
        said = said._replace(prediction=as_predicted(said.prediction, None, classes))
    truth = as_predicted(truth, said.prediction, names)
    codes = np.arange(len(truth)) if groups is None else np.asarray(groups)
    there = _present(truth)
    for one in [*([] if said.prediction is None else [said.prediction]), *said.probabilities.values()]:
        there &= _present(one)
    if not there.all():
        chosen = pa.array(there)
        truth, codes = truth.filter(chosen), codes[there]
        said = ModelOutput(
            None if said.prediction is None else said.prediction.filter(chosen),
            {name: one.filter(chosen) for name, one in said.probabilities.items()},
        )
    codes = np.unique(codes, return_inverse=True)[1].astype(np.int64)
    if task is None and classes is None:
        task = _task(truth, said)
    places = np.flatnonzero(there).astype(np.int64)
    if task == "regression":
        return _regression(truth, said, codes, places)
    return _classification(truth, said, codes, classes, names)._replace(places=places)


def _named(said: ModelOutput) -> set[str]:
    """Return the classes that probabilities name, if they do not just count them."""
    names = tuple(name for name in said.probabilities if name)
    return set() if _are_places(names) else set(names)


class ModelOutput(NamedTuple):
    """A model's prediction of each row, and its probabilities by class; `""` is the class that counts."""

    prediction: pa.Array | None
    probabilities: dict[str, pa.Array]


def output_of(output: Any) -> dict[str, pa.Array]:
    """Return the prediction and the probabilities of a model's output, each a column; lists are taken apart.

    Raises UnscorableError where it is not known which is the prediction.

    >>> sorted(output_of({"label": ["a"], "proba_a": [0.9], "note": ["x"]}))
    ['prediction', 'probability of a']
    """
    said = _said(_columns(output))
    found = {} if said.prediction is None else {"prediction": said.prediction}
    return found | {
        f"probability of {name}" if name else "probability": one for name, one in said.probabilities.items()
    }


def _task(labels: pa.Array, said: ModelOutput) -> Task:
    if said.probabilities or said.prediction is None:
        return "classification"
    if _is_share(labels, said.prediction):
        return "classification"
    return task_of(labels, said.prediction)


def _is_share(labels: pa.Array, predictions: pa.Array) -> bool:
    """Return whether labels are 0 or 1, and predictions the probability of 1."""
    if not (is_number(predictions.type) and (is_number(labels.type) or pa.types.is_boolean(labels.type))):
        return False
    truth, values = _floats(labels), _floats(predictions)
    whole = bool((values == np.floor(values)).all())
    return bool(len(truth)) and set(truth) <= {0.0, 1.0} and not whole and values.min() >= 0 and values.max() <= 1


def _regression(labels: pa.Array, said: ModelOutput, groups: Integers, places: Integers) -> LabelledRows:
    if said.prediction is None:
        raise UnscorableError(
            f"the output has several columns of numbers ({', '.join(said.probabilities)}), and it is not known "
            "which is the prediction: call that one prediction"
        )
    for name, column in (("labels", labels), ("predictions", said.prediction)):
        if not is_number(column.type) and not pa.types.is_boolean(column.type):
            raise UnscorableError(f"the model predicts numbers, and its {name} are {column.type}")
    truth, values = _floats(labels), _floats(said.prediction)
    fine = np.isfinite(truth) & np.isfinite(values)
    scored = LabelledRows(truth, values, groups, places=places)
    return scored if fine.all() else scored.only(fine)


def _classification(
    labels: pa.Array, said: ModelOutput, groups: Integers, classes: Sequence[str] | None, known: Collection[str]
) -> LabelledRows:
    truth = _texts(labels)
    probabilities = {name: _floats(one) for name, one in said.probabilities.items()}
    predicted = None
    if said.prediction is not None:
        shares = _floats(said.prediction) if is_number(said.prediction.type) else np.empty(0)
        if not probabilities and _two(truth, classes) and _is_share_of(shares):
            probabilities[""] = shares
        else:
            predicted = _texts(said.prediction)
    known = {*known, *(predicted or ())}
    alike = said.prediction is not None and any(
        kind(labels.type) and kind(said.prediction.type) for kind in (is_number, pa.types.is_boolean)
    )
    if truth and known and not known & set(truth) and (classes is not None or not alike):
        raise UnscorableError(
            f"labels and predictions have no class in common: labels are {_shown(set(truth))}, the classes of the "
            f"model {_shown(known)}; add labels as the model names its classes"
        )
    found = set(truth) | (set(predicted) if predicted is not None else set())
    names = _class_names(found, tuple(probabilities), classes)
    if len(names) * (int(groups.max(initial=0)) + 1) > _MOST_CELLS:
        raise UnscorableError(f"labels and predictions have {len(names)} different values: too many for classes")
    place = {name: at for at, name in enumerate(names)}
    by_class = _by_class(probabilities, names, predicted is None, len(truth))
    codes = np.array([place[one] for one in truth], np.int64)
    if predicted is not None:
        guesses = np.array([place[one] for one in predicted], np.int64)
    else:
        assert by_class is not None
        guesses = by_class.argmax(axis=1)
    return LabelledRows(codes, guesses, groups, by_class, names)


def _shown(names: Collection[str]) -> str:
    """Return some names for a message.

    >>> _shown(["1", "2", "3", "4"])
    '1, 2, 3, …'
    """
    shown = [one[:40] for one in sorted(names)[:3]]
    return ", ".join([*shown, *(["…"] if len(names) > len(shown) else [])])


def _two(truth: Sequence[str], classes: Sequence[str] | None) -> bool:
    return len(classes) == 2 if classes is not None else set(truth) <= {"0", "1"}


def _is_share_of(values: Floats) -> bool:
    return (
        bool(len(values)) and values.min() >= 0 and values.max() <= 1 and bool((values != np.floor(values)).any())
    )


def _class_names(found: set[str], given: tuple[str, ...], known: Sequence[str] | None) -> tuple[str, ...]:
    """Return all classes in their order: those that are known, else those found, which columns may name."""
    if known is not None:
        return (*known, *_in_order(found - set(known)))
    named = {name for name in given if name}
    if found <= named or not named:
        found |= named
    elif not _are_places(given) or len(found) != len(given):
        found |= set() if _are_places(given) else named
    return ("0", "1") if found <= {"0", "1"} else _in_order(found)


def _by_class(probabilities: dict[str, Floats], names: tuple[str, ...], needed: bool, rows: int) -> Floats | None:
    """Return probabilities (rows, classes); None where it can't be told which class each is of."""
    if not probabilities:
        return None
    if list(probabilities) == [""]:
        if len(names) == 2:
            share = probabilities[""]
            return np.stack([1 - share, share], axis=1)
    elif set(probabilities) <= set(names):
        return np.stack([probabilities.get(name, np.zeros(rows)) for name in names], axis=1)
    elif _are_places(tuple(probabilities)) and len(probabilities) <= len(names):
        # The classes that are known come first, in the order that the model has them.
        columns = [*probabilities.values(), *[np.zeros(rows)] * (len(names) - len(probabilities))]
        return np.stack(columns, axis=1)
    if not needed:
        return None
    raise UnscorableError(
        f"the output has probabilities called {', '.join(probabilities)}, and the classes are {', '.join(names)}: "
        "call each by its class, or give a column prediction too"
    )


def _are_places(names: tuple[str, ...]) -> bool:
    return list(names) == [str(at) for at in range(len(names))]


def _in_order(names: set[str]) -> tuple[str, ...]:
    try:
        return tuple(sorted(names, key=float))
    except ValueError:
        return tuple(sorted(names))


def _said(columns: dict[str, pa.Array]) -> ModelOutput:
    """Return which columns are the prediction and which are probabilities."""
    columns = _expanded(columns)
    if len(columns) == 1:
        return ModelOutput(next(iter(columns.values())), {})
    own = prediction_in(columns)
    others = {name: one for name, one in columns.items() if name != own and is_number(one.type)}
    named = {name: _class_of(name) for name in others}
    chosen = {name: text for name, text in named.items() if text is not None}
    if own is not None:
        if chosen:
            found = {text or "": others[name] for name, text in chosen.items()}
            if list(found) != [""]:  # `probability` beside others that name their classes is something else
                found.pop("", None)
            return ModelOutput(columns[own], found)
        return ModelOutput(columns[own], others if _add_up(others) else {})
    if (
        chosen
        and len(chosen) == len(columns)
        and _add_up({text or "": others[name] for name, text in chosen.items()})
    ):
        return ModelOutput(None, {text or "": others[name] for name, text in chosen.items()})
    if _add_up(others):
        return ModelOutput(None, others)
    raise UnscorableError(
        f"the output has the columns {', '.join(columns)}, and it is not known which is the prediction: call that "
        "one prediction"
    )


def prediction_in(names: Collection[str]) -> str | None:
    """Return which of a model's outputs is its prediction, by their names; None where these do not tell.

    >>> prediction_in(["prediction.label", "prediction.score"]), prediction_in(["a", "b"])
    ('prediction.label', None)
    """
    if len(names) == 1:
        return next(iter(names))
    by_name = {name.removeprefix("prediction.").lower(): name for name in names}
    return next((by_name[name] for name in _PREDICTIONS if name in by_name), None)


def _class_of(name: str) -> str | None:
    """Return of which class a column called like a probability is, '' where it does not say; None for another.

    >>> _class_of("probability"), _class_of("proba_red"), _class_of("alcohol")
    ('', 'red', None)
    """
    for word in _PROBABILITIES:
        if name.lower().startswith(word):
            rest = name[len(word) :]
            if not rest:
                return ""
            if rest[0] in "_. -":
                return rest[1:]
    return None


def _add_up(columns: Mapping[str, pa.Array]) -> bool:
    """Return whether columns are probabilities: between 0 and 1, together 1 in each row."""
    if len(columns) < 2 or not all(is_number(one.type) for one in columns.values()):
        return False
    values = np.stack([_floats(one) for one in columns.values()])
    values = values[:, np.isfinite(values).all(axis=0)]
    if not values.shape[1]:
        return False
    return bool(values.min() >= 0 and values.max() <= 1 and np.allclose(values.sum(axis=0), 1, atol=1e-3))


def _expanded(columns: dict[str, pa.Array]) -> dict[str, pa.Array]:
    """Return columns of lists, or of JSON lists as the log has them, as one column for each place in them."""
    found: dict[str, pa.Array] = {}
    for name, column in columns.items():
        lists = _lists(column)
        if lists is None:
            found[name] = column
            continue
        width = max((len(one) for one in lists if one is not None), default=0)
        rows = [list(one) if one is not None and len(one) == width else [None] * width for one in lists]
        prefix = "" if len(columns) == 1 else f"{name}."
        for at in range(width):
            key = name if width == 1 else f"{prefix}{at}"
            found[key] = pa.array([row[at] for row in rows])
    return found


def _lists(column: pa.Array) -> list[Any] | None:
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        values: list[Any] = column.to_pylist()
        return values
    if not pa.types.is_string(kind) and not pa.types.is_large_string(kind):
        return None
    first = next((one.as_py() for one in column if one.is_valid), "")
    if not first.startswith("["):
        return None
    try:
        values = [None if text is None else json.loads(text) for text in column.to_pylist()]
    except ValueError:
        return None
    return values if all(one is None or isinstance(one, list) for one in values) else None


def _columns(output: Any) -> dict[str, pa.Array]:
    """Return what a model returned as columns by name, without the log's `prediction.` before each."""
    if isinstance(output, pa.ChunkedArray):
        output = output.combine_chunks()
    if isinstance(output, pa.StructArray):
        columns = {field.name: output.field(at) for at, field in enumerate(output.type)}
        if output.null_count:
            columns = {name: pc.if_else(output.is_valid(), one, None) for name, one in columns.items()}
    elif isinstance(output, pa.Table):
        columns = {name: output[name] for name in output.column_names}
    elif isinstance(output, Mapping) or (hasattr(output, "columns") and hasattr(output, "items")):
        columns = dict(output.items())
    elif getattr(output, "ndim", 1) == 2:
        values = np.asarray(output)
        columns = {str(at): values[:, at] for at in range(values.shape[1])}
        if len(columns) == 1:
            columns = {"prediction": columns["0"]}
    else:
        columns = {"prediction": output}
    found = {str(name).removeprefix("prediction."): _column(one) for name, one in columns.items()}
    if not found:
        raise UnscorableError("the output has no columns")
    # What the schema has and none of these rows answered is of another version.
    return {name: one for name, one in found.items() if one.null_count < len(one)} or found


def _column(values: Any) -> pa.Array:
    if isinstance(values, pa.Array):
        column = values
    elif isinstance(values, pa.ChunkedArray):
        column = values.combine_chunks()
    elif hasattr(values, "to_numpy"):  # of pandas or polars
        column = pa.array(values.to_numpy(), from_pandas=True)
    else:
        values = np.asarray(values) if not isinstance(values, list) else values
        if isinstance(values, np.ndarray) and values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        if isinstance(values, np.ndarray) and values.ndim > 1:
            values = list(values)
        column = pa.array(values, from_pandas=True)
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column


def _present(column: pa.Array) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = pc.is_valid(column).to_numpy(zero_copy_only=False).copy()
    if pa.types.is_floating(column.type):
        found &= ~np.isnan(column.to_numpy(zero_copy_only=False))
    return found


def _floats(column: pa.Array) -> Floats:
    values: Floats = pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return values


def _texts(column: pa.Array) -> list[str]:
    """Return classes by their names: the log has integers and booleans as doubles.

    >>> _texts(pa.array([5.0, 0.5])), _texts(pa.array([True])), _texts(pa.array(["red"]))
    (['5', '0.5'], ['1'], ['red'])
    """
    if is_number(column.type) or pa.types.is_boolean(column.type):
        return [number_text(one) for one in _floats(column).tolist()]
    try:
        texts: list[str] = pc.cast(column, pa.string()).to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise UnscorableError(f"{column.type} is neither a number, nor text, nor a boolean") from None
    return texts
