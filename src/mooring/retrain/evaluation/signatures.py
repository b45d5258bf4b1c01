"""Whether a signature takes what another takes, and answers as it does; and rows as a signature wants them.

Nothing here imports MLflow: signatures are handed in.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from mooring.drift.tensors import is_tensor
from mooring.log.schema import ARROW, as_lists

_WIDER = {("integer", "long"), ("integer", "double"), ("float", "double")}
"""What MLflow takes for another type without a loss: (what was sent, what is declared)."""
_WHOLE = {"integer": np.int32, "long": np.int64}


def differences(champion: Any, candidate: Any) -> list[str]:
    """Return what the champion's signature takes or answers and the candidate's does not, each as a clause.

    Both are MLflow's ModelSignature or None. A model without one takes everything: then there is nothing to say.

    >>> from mlflow.models import ModelSignature
    >>> from mlflow.types import ColSpec, Schema
    >>> old = ModelSignature(Schema([ColSpec("double", "alcohol")]))
    >>> new = ModelSignature(Schema([ColSpec("double", "alcohol"), ColSpec("string", "colour")]))
    >>> differences(old, new), differences(new, old)
    (['it needs a new column colour'], [])
    """
    if champion is None or candidate is None:
        return []
    found = _inputs(champion.inputs, candidate.inputs)
    return found + _outputs(champion.outputs, candidate.outputs)


def _inputs(old: Any, new: Any) -> list[str]:
    if old is None or new is None:
        return []
    if old.is_tensor_spec() != new.is_tensor_spec():
        return [f"it takes {_kind(new)} where the champion takes {_kind(old)}"]
    before, after = _by_name(old), _by_name(new)
    if not old.has_input_names() and not new.has_input_names() and len(before) != len(after):
        return [f"it takes {len(after)} columns where the champion takes {len(before)}"]
    found = []
    for name, spec in after.items():
        known = before.get(name)
        if known is None:
            if _required(spec):
                found.append(f"it needs a new column {name}")
        elif not _takes(known, spec):
            found.append(f"the column {name} is {_type(spec)}, and the champion's is {_type(known)}")
        elif _required(spec) and not _required(known):
            found.append(f"it needs the column {name}, which the champion can do without")
    return found


def _outputs(old: Any, new: Any) -> list[str]:
    if old is None or new is None:
        return []
    before = [(name, _type(spec)) for name, spec in _by_name(old).items()]
    after = [(name, _type(spec)) for name, spec in _by_name(new).items()]
    if before == after:
        return []
    return [f"it answers {_told(after)} where the champion answers {_told(before)}"]


def _by_name(schema: Any) -> dict[str, Any]:
    return {str(at) if spec.name is None else str(spec.name): spec for at, spec in enumerate(schema.inputs)}


def _required(spec: Any) -> bool:
    return bool(getattr(spec, "required", True))


def _takes(known: Any, spec: Any) -> bool:
    before, after = _type(known), _type(spec)
    return before == after or (before, after) in _WIDER


def _type(spec: Any) -> str:
    if hasattr(spec, "shape"):
        return f"{np.dtype(spec.type)} {tuple(spec.shape)}"
    name = getattr(spec.type, "name", None)
    return str(name if name is not None else spec.type)


def _kind(schema: Any) -> str:
    return "tensors" if schema.is_tensor_spec() else "columns"


def _told(outputs: list[tuple[str, str]]) -> str:
    return ", ".join(kind if name == "0" else f"{name} ({kind})" for name, kind in outputs) or "nothing"


def as_frame(table: pa.Table) -> pd.DataFrame:
    """Return rows as pandas has them, but tensors as lists in lists, as clients send them.

    >>> as_frame(pa.table({"v": pa.array([{"values": [1.0, 2.0], "shape": [1, 2]}], ARROW["tensor"])}))["v"][0]
    [[1.0, 2.0]]
    """
    frame: pd.DataFrame = table.to_pandas()
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.type == ARROW["tensor"]:
            frame[name] = pd.Series(as_lists(column), dtype=object)
        elif is_tensor(column.type):
            frame[name] = pd.Series(column.to_pylist(), dtype=object)
    return frame


def as_input(frame: pd.DataFrame, schema: Any) -> Any:
    """Return rows in the types that a model's input schema declares, as its server would make them of JSON.

    The log has all numbers as doubles, and MLflow does not take a double for an integer or a float. What does not
    fit, such as 0.5 for an integer, stays as it is, so that MLflow says so.
    """
    if schema is None:
        return frame
    if schema.is_tensor_spec():
        return _as_tensors(frame, schema)
    if not schema.has_input_names():
        return frame
    there = [spec for spec in schema.inputs if spec.name in frame.columns]
    chosen = frame[[spec.name for spec in there]].copy()
    for spec in there:
        if hasattr(spec.type, "dtype"):
            chosen[spec.name] = pd.Series([_as_array(one, spec.type) for one in chosen[spec.name]], chosen.index)
        else:
            chosen[spec.name] = _as_type(chosen[spec.name], _type(spec))
    return chosen


def _as_type(values: pd.Series[Any], kind: str) -> pd.Series[Any]:
    if kind in _WHOLE and values.dtype.kind == "f":
        whole = bool((values == values.round()).all())
        return values.astype(_WHOLE[kind]) if whole else values
    if kind in ("float", "double") and values.dtype.kind in "fiu":
        return values.astype(np.float32 if kind == "float" else np.float64)
    if kind == "boolean" and values.dtype.kind == "f" and bool(values.isin([0.0, 1.0]).all()):
        return values.astype(bool)
    if kind == "datetime" and isinstance(values.dtype, pd.DatetimeTZDtype):
        naive: pd.Series[Any] = values.dt.tz_convert("UTC").dt.tz_localize(None)
        return naive
    if kind == "string" and values.isna().any():
        return values.astype(object).where(values.notna(), None)
    return values


def _as_array(value: Any, kind: Any) -> Any:
    """Return numbers, or lists of them, as an array of MLflow's type has them."""
    if isinstance(value, list) and hasattr(kind, "dtype"):
        return [_as_array(one, kind.dtype) for one in value]
    if isinstance(value, float) and getattr(kind, "name", "") in _WHOLE and value.is_integer():
        return int(value)
    return value


def _as_tensors(frame: pd.DataFrame, schema: Any) -> Any:
    if schema.has_input_names():
        return {
            spec.name: np.stack([np.asarray(one, spec.type) for one in frame[spec.name]]) for spec in schema.inputs
        }
    [spec] = schema.inputs
    if len(frame.columns) == 1 and len(spec.shape) > 2:
        return np.stack([np.asarray(one, spec.type) for one in frame.iloc[:, 0]])
    return frame.to_numpy(dtype=spec.type).reshape(-1, *spec.shape[1:])
