"""How far a candidate's predictions lie from the champion's on the holdout: what a rollout may expect to see.

A retrained model is meant to predict otherwise. How often it does so on rows that the gate has judged says what is
ordinary; predictions that differ far more often under traffic are of a model, or of features, that went wrong.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_LABELS = {f"prediction.{name}" for name in ("prediction", "label", "class", "predicted_label", "predicted_class")}
_SAME = 1e-4
"""What differs by less than this share of the predictions' spread is the same but for rounding."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """How predictions of two versions for the same rows differ.

    A "number" differs by the largest distance of any of `columns`: half of the rows by `d50` at most, 95 % by
    `d95` at most, with a little room for rounding; `share` is how many differ by more than `d95`. A "class"
    differs or does not: `share` is how many do. `columns` have the names that `payload.decode_outputs` gives them.
    Rows count by requests: one of a request of 10 rows counts a tenth. `rows` and `requests` are how many were
    compared.
    """

    kind: Literal["number", "class"]
    columns: tuple[str, ...]
    share: float
    rows: int
    requests: int
    d50: float | None = None
    d95: float | None = None


def difference(
    champion: pa.Table, candidate: pa.Table, groups: NDArray[np.integer], *, classes: bool
) -> Difference | None:
    """Return how two versions' outputs differ, or None where they have no columns that can be compared.

    `groups` names the request of each row; `classes` says that whole numbers are classes.

    >>> old, new = (pa.table({"prediction": [one, 2.0, 3.0, 4.0]}) for one in (1.0, 1.5))
    >>> found = difference(old, new, np.arange(4), classes=False)
    >>> found.kind, found.columns, found.d50, round(found.d95, 3), found.share
    ('number', ('prediction',), 0.0, 0.5, 0.0)
    >>> difference(old, old, np.arange(4), classes=True)
    Difference(kind='class', columns=('prediction',), share=0.0, rows=4, requests=4, d50=None, d95=None)
    """
    olds, news = _by_name(champion), _by_name(candidate)
    if not olds.keys() <= news.keys():
        return None
    labels = [name for name in olds if all(_is_class(one[name], classes) for one in (olds, news))]
    if labels:
        label = min(labels, key=lambda name: name.lower() not in _LABELS)
        before, after = (one[label].to_pylist() for one in (olds, news))
        differs = np.array([old != new for old, new in zip(before, after, strict=True)])
        there = _known(olds[label]) & _known(news[label])
        differs, shares, requests = differs[there], *_shares(groups[there])
        if not len(differs):
            return None
        share = float(shares[differs].sum())
        return Difference(kind="class", columns=(label,), share=share, rows=len(differs), requests=requests)
    names = tuple(name for name in olds if _is_number(olds[name].type) and _is_number(news[name].type))
    if not names:
        return None
    old, new = (np.stack([_floats(one[name]) for name in names]) for one in (olds, news))
    there = np.isfinite(np.concatenate([old, new])).all(axis=0)
    if not there.any():
        return None
    distances = np.abs(new - old).max(axis=0)[there]
    shares, requests = _shares(groups[there])
    d50, d95 = np.quantile(distances, [0.5, 0.95], weights=shares, method="inverted_cdf").tolist()
    d95 += _SAME * float(old[:, there].std(axis=1).max())
    return Difference(
        kind="number",
        columns=names,
        share=float(shares[distances > d95].sum()),
        rows=len(distances),
        requests=requests,
        d50=d50,
        d95=d95,
    )


def _by_name(output: pa.Table) -> dict[str, pa.Array]:
    """Return columns by the names that the answers' have: a single one is `prediction`, whatever it is called."""
    columns = [column.combine_chunks() for column in output.columns]
    columns = [one.dictionary_decode() if pa.types.is_dictionary(one.type) else one for one in columns]
    if len(columns) == 1:
        return {"prediction": columns[0]}
    return {f"prediction.{name}": one for name, one in zip(output.column_names, columns, strict=True)}


def _is_class(column: pa.Array, classes: bool) -> bool:
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_boolean(kind):
        return True
    if not classes or not _is_number(kind):
        return False
    values = _floats(column)
    values = values[np.isfinite(values)]
    return bool((values == np.floor(values)).all())


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _floats(column: pa.Array) -> NDArray[np.float64]:
    values: NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return values


def _known(column: pa.Array) -> NDArray[np.bool_]:
    return np.isfinite(_floats(column)) if _is_number(column.type) else np.asarray(column.is_valid())


def _shares(groups: NDArray[np.integer]) -> tuple[NDArray[np.float64], int]:
    """Return of each row which share of all it counts, so that requests count alike, and how many these are."""
    _, places, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return 1 / (sizes[places] * max(len(sizes), 1)), len(sizes)
