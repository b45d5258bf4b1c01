"""What loss held-out rows lead to expect of any row, by its features: a change is held against that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mooring.drift.columns import Column
from mooring.estimation.boosting import FOLDS, BoostedTrees, Learning, folds_of
from mooring.estimation.estimator import (
    LEAST_EFFECTIVE,
    LEAST_HELD_OUT,
    LEAST_ROWS,
    MOST_FEATURES,
    MOST_OUTSIDE,
)
from mooring.estimation.features import FeatureEncoder
from mooring.estimation.rows import EstimationError
from mooring.estimation.trend import Trend, balanced, regressed
from mooring.performance.scored import Floats, Integers, LabelledRows

MOST_ROWS = 20_000
"""Of more rows some requests are drawn."""
_LEAST = 1e-6
_BINS = 10


class LossRows(NamedTuple):
    """Rows with their features and the loss of each, as `mooring.performance.measures.losses` gives it.

    `losses` are None where they are not known, and nan in rows that have no label yet. `groups` says of each row
    in which request it came, as any integer; by default each came in one of its own.
    """

    features: Mapping[str, Column]
    losses: Floats | None = None
    groups: Integers | None = None

    @property
    def rows(self) -> int:
        """How many rows there are."""
        if self.losses is not None:
            return len(self.losses)
        return max((len(column) for column in self.features.values()), default=0)


def too_thin(outside: float, effective: float) -> str:
    """Return why held-out rows can't tell of a window, by `Support`'s figures; empty where they can.

    >>> too_thin(0.5, 1000), too_thin(0.1, 1000)
    ('50% of the rows are where held-out rows are too few to say what their loss was; at most 20% may be', '')
    """
    if outside > MOST_OUTSIDE:
        return (
            f"{outside:.0%} of the rows are where held-out rows are too few to say what their loss was; at most "
            f"{MOST_OUTSIDE:.0%} may be"
        )
    if effective < LEAST_EFFECTIVE:
        return f"only {effective:.0f} of the held-out rows are like these, and it takes {LEAST_EFFECTIVE}"
    return ""


class EncodedRows(NamedTuple):
    """Rows as arrays: features (rows, features), the loss of each, and its request, counted from 0."""

    matrix: Floats
    losses: Floats
    groups: Integers

    def only(self, chosen: NDArray[np.bool_]) -> EncodedRows:
        """Return some of the rows; their groups are counted anew."""
        groups = np.unique(self.groups[chosen], return_inverse=True)[1].astype(np.int64)
        return EncodedRows(self.matrix[chosen], self.losses[chosen], groups)


class Encoded(NamedTuple):
    """Held-out rows and a window in the same features, and what was left out of these, and why.

    `measured` says whether the window's losses are known; else they are nan.
    """

    held_out: EncodedRows
    window: EncodedRows
    encoder: FeatureEncoder
    measured: bool


def encode(held_out: LossRows, window: LossRows, *, named: bool = False, seed: int = 0) -> Encoded:
    """Return both as arrays; rows without a loss are left out where others have one.

    Of more than 20,000 rows of either some requests are drawn. Of more than 100 features those are taken whose
    deciles or values tell most of the held-out loss.

    Raises EstimationError where there is too little to go by.
    """
    _check_lengths(held_out, "held-out rows")
    _check_lengths(window, "rows of the window")
    losses = np.empty(0) if held_out.losses is None else np.asarray(held_out.losses, np.float64)
    if not np.isfinite(losses).any():
        raise EstimationError(
            "no held-out row has a loss: what a change is held against are rows with labels that the model was "
            "not trained on; give some hundreds of them"
        )
    old, of_old = _chosen(losses, held_out.groups, held_out.rows, [seed, 0])
    if min(len(old), int(of_old.max()) + 1) < LEAST_HELD_OUT:
        raise EstimationError(
            f"{len(old):,} held-out rows with labels, of {int(of_old.max()) + 1:,} requests, are too few: it "
            f"takes {LEAST_HELD_OUT} of each; label more"
        )
    losses = losses[old]
    if losses.max() - losses.min() <= 1e-12 * np.abs(losses).max():
        raise EstimationError(
            f"every held-out row has the same loss, {losses[0]:.4g}: nothing says where the model errs; check "
            "that labels are not the predictions, and that the model was not trained on these rows"
        )
    known = window.losses is not None and bool(np.isfinite(window.losses).any())
    now = np.asarray(window.losses, np.float64) if known else np.zeros(window.rows)
    new, of_new = _chosen(now, window.groups, window.rows, [seed, 1])
    if len(new) < LEAST_ROWS:
        kind = "rows with labels" if known else "rows"
        raise EstimationError(
            f"the window's {len(new)} {kind} are too few: it takes {LEAST_ROWS}; take a longer window"
        )
    encoder = FeatureEncoder({name: column.take(old) for name, column in held_out.features.items()}, named=named)
    encoder.require(window.features)
    if not encoder.names:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(encoder.left_out.items())[:5])
        raise EstimationError(f"there is no feature to go by{f' ({why})' if why else ''}: give the model's inputs")
    _screen(encoder, held_out.features, old, losses)
    return Encoded(
        EncodedRows(_matrix(encoder, held_out.features, old), losses, of_old),
        EncodedRows(
            _matrix(encoder, window.features, new), now[new] if known else np.full(len(new), np.nan), of_new
        ),
        encoder,
        known,
    )


class LossModel:
    """The loss that is expected of a row, by its features: small trees and a trend, cross-fit on held-out rows.

    How many trees, and whether a trend, is chosen by the rows that are `evidence`; by default by all.
    `unseen` is what is expected of each held-out row by a model that has not seen it, `by_features` whether the
    features say anything of the loss.
    """

    def __init__(
        self,
        rows: EncodedRows,
        categorical: list[bool],
        seed: int = 0,
        *,
        evidence: NDArray[np.bool_] | None = None,
    ) -> None:
        losses = rows.losses
        self._folds = folds_of(rows.groups, seed)
        of_others = losses.sum() - np.bincount(self._folds, losses, minlength=FOLDS)
        positive = bool(losses.min() >= 0 and of_others.min() > 0)
        chosen_by = np.ones(len(losses), np.bool_) if evidence is None else evidence
        self._scale = float(np.abs(losses).mean())
        scaled = losses / self._scale
        scored = LabelledRows(losses, np.zeros(len(losses)), rows.groups)
        learning = Learning(scored, rows.matrix, categorical, self._folds, chosen_by, seed)
        target = np.repeat(scaled[None, :], FOLDS, axis=0)

        def excess(mean: Floats) -> Floats:
            if positive:
                return mean - scaled * np.log(np.maximum(mean, _LEAST))
            return (scaled - mean) ** 2

        self._trees = BoostedTrees(learning, target, excess, "poisson" if positive else "squared_error")
        expected = self._trees.unseen
        self._trend = Trend(
            rows.matrix, categorical, self._folds, expected, scaled, evidence=chosen_by, times=positive
        )
        self.by_features = self._trees.stage > 0 or self._trend.found
        self.unseen = self._trend.unseen * self._scale

    def predict(self, matrix: Floats) -> Floats:
        """Return the loss that each fold's model expects of rows: an array (folds, rows)."""
        return self._trend.add(matrix, self._trees.predict(matrix)) * self._scale

    def weights_like(self, weights: Floats, matrix: Floats, other: Floats) -> Floats:
        """Return weights by which rows are like others: those given, changed so that terms of features balance."""
        return balanced(weights, self._trend.terms(matrix), self._trend.terms(other).mean(axis=0))

    def missed(self, weights: Floats, rows: EncodedRows, other: Floats) -> Floats:
        """Return what terms of features say, by weighted held-out rows, of what the model misses of others."""
        terms, others = self._trend.terms(rows.matrix), self._trend.terms(other)
        return regressed(terms, others, rows.losses - self.unseen, weights)

    def unseen_loss(self, matrix: Floats) -> Floats:
        """Return what is expected of the held-out rows with other features, by models that have not seen them."""
        return np.asarray(self.predict(matrix)[self._folds, np.arange(len(matrix))], np.float64)


def _check_lengths(rows: LossRows, whose: str) -> None:
    for name, column in rows.features.items():
        if len(column) != rows.rows:
            raise EstimationError(
                f"the feature {name} has {len(column):,} values, and there are {rows.rows:,} {whose}"
            )
    if rows.groups is not None and len(rows.groups) != rows.rows:
        raise EstimationError(f"there are {len(rows.groups):,} groups, and {rows.rows:,} {whose}")


def _chosen(losses: Floats, groups: Integers | None, rows: int, seed: list[int]) -> tuple[Integers, Integers]:
    """Return the places of the rows that have a loss, or of those of some requests, and their requests."""
    places = np.flatnonzero(np.isfinite(losses))
    codes = np.arange(rows) if groups is None else np.asarray(groups)
    _, codes = np.unique(codes[places], return_inverse=True)
    if len(places) > MOST_ROWS:
        order = np.random.default_rng(seed).permutation(int(codes.max()) + 1)[codes]
        kept = order < np.sort(order)[MOST_ROWS]
        places, codes = places[kept], np.unique(codes[kept], return_inverse=True)[1]
    return places, codes.astype(np.int64)


def _matrix(encoder: FeatureEncoder, features: Mapping[str, Column], places: Integers) -> Floats:
    return np.stack([encoder.column(name, features[name].take(places)) for name in encoder.names], axis=1)


def _screen(encoder: FeatureEncoder, features: Mapping[str, Column], places: Integers, losses: Floats) -> None:
    """Keep the features whose deciles or frequent values tell most of the loss."""
    if len(encoder.names) <= MOST_FEATURES:
        return
    around = losses - losses.mean()
    told = {}
    for name in encoder.names:
        values = encoder.column(name, features[name].take(places))
        bins = binned(values, values, name in encoder.categories)
        counts = np.bincount(bins)
        told[name] = float((np.bincount(bins, around) ** 2 / np.maximum(counts, 1)).sum())
    kept = set(sorted(told, key=lambda name: told[name], reverse=True)[:MOST_FEATURES])
    why = f"of {len(told):,} features the {MOST_FEATURES} are taken that tell most of the held-out loss"
    encoder.left_out |= {name: why for name in encoder.names if name not in kept}
    encoder.keep(kept)


def binned(values: Floats, edges_of: Floats, category: bool) -> Integers:
    """Return the decile of each value among others, or which category it is; what is missing is the last.

    >>> binned(np.array([0.0, 99.0, np.nan]), np.arange(100.0), False).tolist()
    [0, 9, 10]
    """
    there = np.isfinite(values)
    if category:
        found = np.minimum(np.nan_to_num(values), 2 * _BINS)
        return np.where(there, found, 2 * _BINS + 1).astype(np.int64)
    edges = np.nanquantile(edges_of, np.arange(1, _BINS) / _BINS)
    return np.where(there, np.searchsorted(edges, values, side="right"), _BINS).astype(np.int64)
