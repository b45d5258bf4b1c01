"""Performance without labels: learnt once from held-out rows, estimated for any later ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mooring.drift.columns import MOST_CATEGORIES, Column
from mooring.estimation.boosting import FOLDS, Learning, folds_of
from mooring.estimation.calibration import PredictionCalibration, ScoreCalibration
from mooring.estimation.estimates import Estimate, Estimates
from mooring.estimation.expected import ExpectedClasses, ExpectedErrors
from mooring.estimation.features import FeatureEncoder
from mooring.estimation.intervals import EstimatedInterval, Metric, class_values, of_classes, of_errors
from mooring.estimation.rows import CompleteRows, EstimationError, labelled_rows, unlabelled_rows
from mooring.estimation.support import MOST_ROWS, support_of
from mooring.performance.measures import evaluate
from mooring.performance.permutation import p_value_of
from mooring.performance.scored import Floats, Integers, LabelledRows, Task

LEAST_HELD_OUT, MOST_HELD_OUT = 100, 100_000
"""It takes so many held-out rows; of more than the second some are drawn."""
LEAST_ROWS = 30
MOST_OUTSIDE = 0.2
"""With a greater share of rows out of support it can't be told."""
LEAST_EFFECTIVE = 30
"""With fewer held-out rows like the others it can't be told."""
MOST_FEATURES = 100


class HarmTest(NamedTuple):
    """Whether the inputs have moved to where the model errs: the p-value, and the mean loss now and before.

    The loss is an error, or the size of it.
    """

    p_value: float
    value: float
    reference: float

    @property
    def change(self) -> float:
        """By what share of what it was the loss is larger."""
        return (self.value - self.reference) / self.reference if self.reference > 0 else float("inf")


class Estimator:
    """Estimates the performance of rows without labels, by what it has learnt from held-out rows with labels.

    >>> random = np.random.default_rng(0)
    >>> x = random.uniform(-1, 1, size=4000)
    >>> labels = (random.random(4000) < np.where(x > 0, 0.95, 0.3)).astype(int)
    >>> output = {"prediction": (x > 0).astype(int), "probability": np.where(x > 0, 0.9, 0.1)}
    >>> estimator = Estimator.fit(labels, output)
    >>> high = {name: values[x > -0.2] for name, values in output.items()}
    >>> accuracy = estimator.estimate(high)["accuracy"]
    >>> round(accuracy.estimated, 2), round(accuracy.held_out, 2)
    (0.91, 0.82)
    """

    def __init__(
        self,
        expected: ExpectedClasses | ExpectedErrors,
        held_out: LabelledRows,
        encoder: FeatureEncoder,
        kept: Floats,
        seed: int,
    ) -> None:
        self.classes = held_out.classes
        self.rows = held_out.rows
        self.measures = evaluate(held_out)
        self.left_out = encoder.left_out
        self._expected = expected
        self._encoder = encoder
        self._probabilities = held_out.probabilities is not None
        self._kept = kept
        self._alike = _alike(expected.residuals, held_out.groups)
        self._seed = seed

    @classmethod
    def fit(
        cls,
        labels: Any,
        output: Any,
        features: Mapping[str, Column] | None = None,
        *,
        groups: Integers | None = None,
        named: bool = False,
        seed: int = 0,
    ) -> Estimator:
        """Learn from held-out rows: rows that the model was not trained on.

        Parameters
        ----------
        labels, output
            The ground truth and what the model said, as `mooring.performance.measures.scored_of` takes them.
        features
            Columns of Arrow by name: the model's inputs, or what else is known of each row. Of more than 100 those
            are taken that go most with errors.
        groups
            Of each row a number that names its request; by default each came in one of its own.
        named
            Whether somebody named the features: else integers that number the rows are none.
        seed
            The same seed gives the same estimator.

        Raises EstimationError where there is too little to learn from, and UnscorableError where labels and output
        can't be compared.
        """
        rows = _at_most(MOST_HELD_OUT, labelled_rows(labels, output, features, groups), seed)
        scored = rows.scored
        _check(scored)
        encoder = FeatureEncoder(rows.features, named=named)
        folds = folds_of(scored.groups, seed)
        evidence = np.ones(scored.rows, np.bool_)
        if len(encoder.names) > MOST_FEATURES:
            # What is chosen by some rows is judged by the others.
            _screen(encoder, rows, folds < FOLDS // 2)
            evidence = folds >= FOLDS // 2
        matrix, categorical = _matrix(encoder, rows)
        learning = Learning(scored, matrix, categorical, folds, evidence, seed)
        expected = ExpectedErrors(learning) if scored.classes is None else ExpectedClasses(learning)
        if not _varied(scored) and not expected.by_features:
            raise EstimationError(
                "all held-out rows have the same prediction, and no feature says where it is right: there is "
                "nothing to estimate by; give the model's probabilities, or more of its features"
            )
        kept = np.sort(np.random.default_rng(seed).permutation(scored.rows)[:MOST_ROWS])
        return cls(expected, scored, encoder, matrix[kept], seed)

    def estimate(
        self,
        output: Any,
        features: Mapping[str, Column] | None = None,
        *,
        labels: Any = None,
        groups: Integers | None = None,
        metrics: Mapping[str, Metric] | None = None,
    ) -> Estimates:
        """Estimate the performance of rows, and say between what labels of these rows would show it.

        Parameters
        ----------
        output, features, groups
            As in `fit`.
        labels
            Their labels, where they are known by now, of all rows or of some. What these show is told beside what
            was estimated, and does not change it.
        metrics
            Measures of one's own by name, functions of labels and predictions: they are taken of labels drawn as
            they are expected to be, and the estimate is their mean. What the calibration does not know is not in
            their interval.

        An interval has what labels vary by at random; what the calibration does not know (the delete-a-group
        jackknife over folds of requests: Kott 2001, Journal of Official Statistics 17); and, where held-out rows
        of one request are right or wrong together, the design effect of that (Kish 1965, Survey Sampling).

        Raises EstimationError for fewer than 30 rows, and where features or probabilities lack.
        """
        rows = unlabelled_rows(output, features, groups, self.classes)
        self._check_window(rows)
        known, new = self._known(rows)
        matrix, categorical = _matrix(self._encoder, known)
        outside, effective = float(new), 0.0
        if known.scored.rows:
            support = support_of(self._kept, matrix, categorical, self._seed)
            outside += float(support.outside.sum())
            effective = support.effective * self.rows
        share = outside / rows.scored.rows
        unknown = self._unknown(share, new, effective)
        found: dict[str, EstimatedInterval] = {}
        if not unknown:
            found = self._intervals(known.scored, matrix, dict(metrics or {}))
        realised, labelled = self._realised(labels, output, groups, metrics or {})
        estimates = []
        for name in found or dict.fromkeys([*self.measures, *(metrics or {})]):
            low, value, high = None, None, None
            if name in found:
                value, low, high = found[name]
            estimates.append(Estimate(name, value, low, high, self.measures.get(name), realised.get(name)))
        return Estimates(
            estimates,
            rows=rows.scored.rows,
            labelled=labelled,
            held_out_rows=self.rows,
            out_of_support=share,
            effective_rows=effective,
            by_features=self._expected.by_features,
            unknown=unknown,
            classes=self.classes,
            left_out=dict(self.left_out),
        )

    def harm(
        self,
        output: Any,
        features: Mapping[str, Column] | None = None,
        *,
        groups: Integers | None = None,
        budget: float = 0.0,
    ) -> HarmTest:
        """Return whether rows are such that the model errs more often, or further, than on held-out rows.

        By a one-sided permutation test (`mooring.performance.permutation`) of the losses that are expected of the
        rows, against those that were expected of the held-out ones by models that had not seen them. It needs no
        labels, and sees no change of what the inputs mean. Where nothing has moved, rows and held-out ones are
        exchangeable, however well losses are expected.

        `output`, `features` and `groups` are as in `fit`; `budget` is the p-value that matters. Raises
        EstimationError as `estimate` does.

        References
        ----------
        Amoukou et al. (2024). Sequential harmful shift detection without labels. arXiv 2412.12910: an error
        model in the place of labels.

        """
        rows = unlabelled_rows(output, features, groups, self.classes)
        self._check_window(rows)
        known, new = self._known(rows)
        matrix, _ = _matrix(self._encoder, known)
        # Of a class that no held-out row is of nothing is expected but an error.
        losses = np.concatenate([self._expected.losses_of(known.scored, matrix), np.ones(new)])
        own = np.concatenate([known.scored.groups, known.scored.rows + np.arange(new)])
        own = np.unique(own, return_inverse=True)[1].astype(np.int64)
        before = self._expected.losses
        p_value = p_value_of(before, losses, own, self._seed, enough=budget)
        return HarmTest(p_value, float(losses.mean()), float(before.mean()))

    def _intervals(
        self, scored: LabelledRows, matrix: Floats, metrics: Mapping[str, Metric]
    ) -> dict[str, EstimatedInterval]:
        sizes = np.bincount(scored.groups)
        design = 1 + self._alike * (float((sizes**2).sum()) / scored.rows - 1)
        if isinstance(self._expected, ExpectedClasses):
            return of_classes(scored, self._expected.of(scored, matrix), metrics, design, self._seed)
        moments = self._expected.of(matrix)
        return of_errors(scored, moments, self._expected.pool, metrics, design, self._seed)

    def _check_window(self, rows: CompleteRows) -> None:
        if rows.scored.rows < LEAST_ROWS:
            raise EstimationError(
                f"{rows.scored.rows} rows with what the model said are too few to estimate for: it takes "
                f"{LEAST_ROWS}; take a longer window"
            )
        self._encoder.require(rows.features)
        _check_probabilities(rows.scored)
        if self._probabilities and rows.scored.probabilities is None:
            raise EstimationError(
                "the held-out rows have probabilities, and these rows have none: log what predict_proba returns, "
                "or leave the probabilities of the held-out rows out, too"
            )

    def _known(self, rows: CompleteRows) -> tuple[CompleteRows, int]:
        """Return the rows of predictions that held-out rows have, and how many others there are."""
        scored = rows.scored
        if self.classes is None:
            return rows, 0
        known = np.asarray(scored.predictions < len(self.classes))
        probabilities = None
        if self._probabilities and scored.probabilities is not None:
            probabilities = scored.probabilities[:, : len(self.classes)]
        part = scored._replace(probabilities=probabilities, classes=self.classes).only(known)
        features = {name: column.filter(_mask(known)) for name, column in rows.features.items()}
        return CompleteRows(part, features), int((~known).sum())

    def _unknown(self, share: float, new: int, effective: float) -> str:
        if share > MOST_OUTSIDE:
            why = f", {new:,} of them predicted to be of a class that no held-out row is of" if new else ""
            return (
                f"{share:.0%} of the rows are where held-out rows are too few{why}; at most {MOST_OUTSIDE:.0%} "
                "may be. Label some of these rows and add them to the held-out ones"
            )
        if effective < LEAST_EFFECTIVE:
            return (
                f"only {effective:.0f} of the held-out rows are like these, and it takes {LEAST_EFFECTIVE}. Label "
                "some of these rows and add them to the held-out ones"
            )
        return ""

    def _realised(
        self, labels: Any, output: Any, groups: Integers | None, metrics: Mapping[str, Metric]
    ) -> tuple[dict[str, float], int]:
        if labels is None:
            return {}, 0
        task: Task = "regression" if self.classes is None else "classification"
        scored = labelled_rows(labels, output, None, groups, task=task, classes=self.classes).scored
        if not scored.rows:
            return {}, 0
        if not self._probabilities:
            scored = scored._replace(probabilities=None)
        found = evaluate(scored)
        values = None if scored.classes is None else class_values(scored.classes)
        pair = (scored.labels, scored.predictions)
        if values is not None:
            pair = values[scored.labels], values[scored.predictions]
        return found | {name: float(one(*pair)) for name, one in metrics.items()}, scored.rows


def _check(scored: LabelledRows) -> None:
    if not scored.rows:
        raise EstimationError(
            "no held-out row has both a label and what the model said: performance without labels is learnt from "
            "rows with labels that the model was not trained on; give some hundreds of them as the reference"
        )
    _check_probabilities(scored)
    if min(scored.rows, int(scored.groups.max()) + 1) < LEAST_HELD_OUT:
        raise EstimationError(
            f"{scored.rows} held-out rows with labels, of {int(scored.groups.max()) + 1} requests, are too few: "
            f"it takes {LEAST_HELD_OUT} of each; label more"
        )
    if scored.classes is None:
        if not (scored.labels != scored.predictions).any():
            raise EstimationError(
                "every held-out prediction equals its label: there is no error to learn from; check that the "
                "labels are not the predictions, and that the model was not trained on these rows"
            )
        return
    if len(np.unique(scored.labels)) == 1:
        raise EstimationError(
            f"all held-out rows are of one class, {scored.classes[int(scored.labels[0])]}: nothing says how often "
            "the model is wrong about others; add labelled rows of other classes"
        )


def _check_probabilities(scored: LabelledRows) -> None:
    found = scored.probabilities
    if found is None or not len(found):
        return
    low, high = float(found.min()), float(found.max())
    if low < 0 or high > 1:
        raise EstimationError(
            f"probabilities are between 0 and 1, and these between {low:.4g} and {high:.4g}: give what "
            "predict_proba returns, not scores or margins"
        )


def _at_most(most: int, rows: CompleteRows, seed: int) -> CompleteRows:
    if rows.scored.rows <= most:
        return rows
    chosen = np.random.default_rng(seed).permutation(rows.scored.rows) < most
    features = {name: column.filter(_mask(chosen)) for name, column in rows.features.items()}
    return CompleteRows(rows.scored.only(chosen), features)


def _varied(scored: LabelledRows) -> bool:
    """Return whether the model says different things of different rows."""
    said = scored.predictions if scored.probabilities is None else scored.probabilities
    return bool((said != said[0]).any())


def _matrix(encoder: FeatureEncoder, rows: CompleteRows) -> tuple[Floats, list[bool]]:
    """Return what is known of each row, what the model said first, and which columns are categories."""
    scored = rows.scored
    said = [scored.predictions.astype(np.float64)]
    if scored.probabilities is not None:
        at = scored.predictions.astype(np.int64)
        of_it = scored.probabilities[np.arange(scored.rows), at]
        said.append(scored.probabilities[:, 1] if scored.probabilities.shape[1] == 2 else of_it)
    classes = len(scored.classes or ())
    kinds = [2 < classes <= MOST_CATEGORIES, False][: len(said)]
    features = encoder.matrix(rows.features, scored.rows)
    return np.column_stack([*said, features]), [*kinds, *encoder.categorical]


def _screen(encoder: FeatureEncoder, rows: CompleteRows, chosen: NDArray[np.bool_]) -> None:
    """Keep the features that go most with what the model's own output does not say of errors, in some rows."""
    part = rows.scored.only(chosen)
    if part.classes is None:
        left = np.abs(part.predictions - part.labels)
    else:
        labels, at = part.labels.astype(np.int64), part.predictions.astype(np.int64)
        if part.probabilities is None:
            shares = PredictionCalibration(at, labels, len(part.classes))(at)
        else:
            shares = ScoreCalibration(part.probabilities, labels)(part.probabilities)
        left = (labels == at) - shares[np.arange(part.rows), at]
    left = left - left.mean()
    mask = _mask(chosen)
    strength = {}
    for name in encoder.names:
        values = encoder.column(name, rows.features[name].filter(mask))
        values = np.nan_to_num(values - np.nanmean(values)) if np.isfinite(values).any() else np.zeros(part.rows)
        size = float(np.sqrt((values**2).sum()))
        strength[name] = abs(float(values @ left)) / size if size > 0 else 0.0
    kept = sorted(strength, key=lambda name: strength[name], reverse=True)[:MOST_FEATURES]
    why = f"of {len(strength):,} features the {MOST_FEATURES} are taken that go most with errors"
    encoder.left_out |= dict.fromkeys([name for name in encoder.names if name not in set(kept)], why)
    encoder.keep(set(kept))


def _alike(residuals: Floats, groups: Integers) -> float:
    """Return how alike rows of one request are in what is not expected of them: their intraclass correlation.

    >>> _alike(np.array([1.0, 1.0, -1.0, -1.0]), np.array([0, 0, 1, 1]))
    1.0
    """
    sizes = np.bincount(groups)
    pairs = float((sizes * (sizes - 1)).sum())
    left = residuals - residuals.mean()
    variance = float((left**2).mean())
    if not pairs or not variance:
        return 0.0
    together = float((np.bincount(groups, left) ** 2).sum() - (left**2).sum())
    return min(max(together / pairs / variance, 0.0), 1.0)


def _mask(chosen: NDArray[np.bool_]) -> Any:
    import pyarrow as pa

    return pa.array(chosen)
