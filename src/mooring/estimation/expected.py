"""What is expected of rows without labels: the probability of each class, or the moments of the error."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mooring.estimation.boosting import FOLDS, BoostedTrees, Learning
from mooring.estimation.calibration import PredictionCalibration, ScoreCalibration
from mooring.performance.scored import Floats, Integers, LabelledRows

_LEAST = 1e-6
_MOST_KEPT = 2000


class ExpectedClasses:
    """The probability of each class of each row, given what the model said and the features.

    `losses` are the probability of an error of each held-out row, by the models that have not seen it.

    By what the model said it is calibrated (`ScoreCalibration`, without probabilities `PredictionCalibration`).
    How much more or less often a row is of the second class (of more than two: of the predicted one) than that,
    given the features, is what trees add: where rows that they have not seen bear it out, else nothing.

    References
    ----------
    Lipton et al. (2018), arXiv 1802.03916, for what is assumed: that labels given the inputs stay as they were.
    Białek et al. (2024), arXiv 2401.08348, for calibration where inputs move; theirs is by weights of a density
    ratio, which needs a fit for each window. Regression on the features needs one for all, and does not suffer
    from large weights.

    """

    def __init__(self, learning: Learning) -> None:
        scored, folds = learning.scored, learning.folds
        labels, predictions = scored.labels.astype(np.int64), scored.predictions.astype(np.int64)
        self.classes = len(scored.classes or ())
        moved = self._moved_class(scored)
        self._bases: list[ScoreCalibration | PredictionCalibration] = []
        rows = np.arange(scored.rows)
        of_it = (labels == moved).astype(np.float64)
        unseen, target = np.empty((scored.rows, self.classes)), np.empty((FOLDS, scored.rows))
        for fold in range(FOLDS):
            others = folds != fold
            base = self._base_of(scored.only(others))
            shares = self._of_base(base, scored)
            unseen[~others] = shares[~others]
            target[fold] = of_it - shares[rows, moved]
            self._bases.append(base)

        def losses(more: Floats) -> Floats:
            return -np.log(np.maximum(_moved(unseen, moved, more)[rows, labels], _LEAST))

        self._trees = BoostedTrees(learning, target, losses)
        right = _moved(unseen, moved, self._trees.unseen)[rows, predictions]
        self.losses = 1 - right
        self.residuals = (labels == predictions) - right

    @property
    def by_features(self) -> bool:
        """Whether the features say more than the model's own probabilities or predictions do."""
        return self._trees.stage > 0

    def _moved_class(self, scored: LabelledRows) -> Integers:
        """Return the class whose probability trees change: of two the second, of more that which is predicted."""
        if self.classes == 2:
            return np.ones(scored.rows, np.int64)
        return scored.predictions.astype(np.int64)

    def _base_of(self, scored: LabelledRows) -> ScoreCalibration | PredictionCalibration:
        labels = scored.labels.astype(np.int64)
        if scored.probabilities is not None:
            return ScoreCalibration(scored.probabilities, labels)
        return PredictionCalibration(scored.predictions.astype(np.int64), labels, self.classes)

    @staticmethod
    def _of_base(base: ScoreCalibration | PredictionCalibration, scored: LabelledRows) -> Floats:
        if isinstance(base, PredictionCalibration):
            return base(scored.predictions.astype(np.int64))
        assert scored.probabilities is not None
        return base(scored.probabilities)

    def losses_of(self, scored: LabelledRows, features: Floats) -> Floats:
        """Return how probable an error is in each row."""
        found = self.of(scored, features).mean(axis=0)
        return np.asarray(1 - found[np.arange(scored.rows), scored.predictions.astype(np.int64)], np.float64)

    def of(self, scored: LabelledRows, features: Floats) -> Floats:
        """Return the probabilities by each fold's model: an array (folds, rows, classes)."""
        moved = self._moved_class(scored)
        more = self._trees.predict(features)
        return np.stack(
            [
                _moved(self._of_base(base, scored), moved, of_fold)
                for base, of_fold in zip(self._bases, more, strict=True)
            ]
        )


def _moved(shares: Floats, classes: Integers, more: Floats) -> Floats:
    """Return probabilities of which that of one class is more in each row; the others keep their proportions."""
    if not more.any():
        return shares
    rows = np.arange(len(shares))
    before = shares[rows, classes]
    after = np.clip(before + more, _LEAST, 1 - _LEAST)
    rest = (1 - after) / np.maximum(1 - before, _LEAST)
    found = shares * rest[:, None]
    found[rows, classes] = after
    return np.asarray(found / found.sum(axis=1, keepdims=True), np.float64)


class Moments(NamedTuple):
    """What is expected of each row's error: itself, its size, its square; by each fold, arrays (folds, rows)."""

    error: Floats
    absolute: Floats
    squared: Floats


class ExpectedErrors:
    """The mean of each row's error, of its size and of its square, given the prediction and the features.

    `losses` are the sizes that are expected of the held-out rows, by the models that have not seen them.

    Trees for each of the three (NannyML calls it direct loss estimation). `pool` has how held-out rows differ from
    what is expected of them: error minus its mean, in units of its root mean square; size and square as multiples
    of theirs. So an interval has tails as heavy as those of the errors.
    """

    def __init__(self, learning: Learning) -> None:
        scored = learning.scored
        errors = scored.predictions - scored.labels
        self._scale = float(np.abs(errors).mean())
        errors = errors / self._scale
        kinds = (errors, np.abs(errors), errors**2)
        models, found = [], []
        for values in kinds:
            signed = values is errors
            target = np.repeat(values[None, :], FOLDS, axis=0)

            def losses(mean: Floats, values: Floats = values, signed: bool = signed) -> Floats:
                return (values - mean) ** 2 if signed else mean - values * np.log(np.maximum(mean, _LEAST))

            trees = BoostedTrees(learning, target, losses, "squared_error" if signed else "poisson")
            found.append(trees.unseen)
            models.append(trees)
        self._models = models
        mean, size, square = found[0], np.maximum(found[1], _LEAST), np.maximum(found[2], _LEAST)
        pool = np.stack([(errors - mean) / np.sqrt(square), kinds[1] / size, kinds[2] / square])
        self.losses = size * self._scale
        self.residuals = pool[1] - 1
        kept = np.random.default_rng(learning.seed).permutation(len(errors))[:_MOST_KEPT]
        pool = pool[:, kept]
        self.pool = np.stack([pool[0] - pool[0].mean(), pool[1] / pool[1].mean(), pool[2] / pool[2].mean()])

    @property
    def by_features(self) -> bool:
        """Whether the size of errors can be told from the prediction and the features."""
        return self._models[1].stage > 0

    def losses_of(self, scored: LabelledRows, features: Floats) -> Floats:
        """Return the size of the error that is expected of each row."""
        return np.asarray(self.of(features).absolute.mean(axis=0), np.float64)

    def of(self, features: Floats) -> Moments:
        """Return what is expected of rows."""
        error, absolute, squared = (model.predict(features) for model in self._models)
        scale = self._scale
        return Moments(error * scale, np.maximum(absolute, _LEAST) * scale, np.maximum(squared, _LEAST) * scale**2)
