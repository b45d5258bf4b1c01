"""Of challengers that are no better few pass the gate."""

from __future__ import annotations

import numpy as np

from mooring.performance.scored import LabelledRows
from mooring.retrain.evaluation.proof import better


def test_of_challengers_that_are_worse_by_as_much_as_is_let_pass_few_pass():
    """At the margin, where it is hardest, the share that passes is what the confidence leaves."""
    random = np.random.default_rng(3)
    passed = 0
    for trial in range(400):
        labels = np.zeros(300)
        common = random.normal(0, 1, 300)
        old, new = common + random.normal(0, 0.5, 300), 0.9 * (common + random.normal(0, 0.5, 300))
        pair = [LabelledRows(labels, values, np.arange(300)) for values in (old, new)]
        passed += better(*pair, "rmse", 0.9, seed=trial).by(0.1)
    assert passed <= 60  # of 400 at 10 %: a chance of 1 in 1,000
