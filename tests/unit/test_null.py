"""Draws without replacement, scores and tails. Tests of chance fail by chance less than once in a million runs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from mooring.drift.null import (
    GammaScores,
    KolmogorovScores,
    RangeScores,
    RateScores,
    before_first,
    nested,
    split,
    tail_p_value,
    tail_value,
    thin,
)

FAR = 5.6  # standard errors: a normal value is farther out once in 45 million


def test_a_draw_takes_what_is_there_and_no_more() -> None:
    random = np.random.default_rng(1)
    pool = random.integers(0, 6, (200, 37))
    sizes = np.array([random.integers(0, row.sum() + 1) for row in pool])
    drawn = split(pool, sizes, random)
    assert (drawn.sum(axis=1) == sizes).all()
    assert (drawn >= 0).all()
    assert (drawn <= pool).all()


@pytest.mark.parametrize("cells", [1, 2, 3, 8, 9])
def test_any_number_of_cells_can_be_drawn_from(cells: int) -> None:
    pool = np.full((4, cells), 3)
    assert (split(pool, 3 * cells, np.random.default_rng(0)) == pool).all()
    assert (split(pool, 0, np.random.default_rng(0)) == 0).all()


def test_draws_have_the_mean_and_the_covariance_of_the_multivariate_hypergeometric_distribution() -> None:
    pool, size, count = np.array([40, 0, 7, 100, 1, 12, 60]), 50, 20_000
    drawn = split(np.tile(pool, (count, 1)), size, np.random.default_rng(2))
    total = pool.sum()
    share = pool / total
    wanted = size * (np.diag(share) - np.outer(share, share)) * (total - size) / (total - 1)
    centered = drawn - size * share
    error = np.sqrt(np.diag(wanted) / count)
    assert (np.abs(centered.mean(axis=0)) <= FAR * error + 1e-12).all()
    for one, other in itertools.combinations_with_replacement(range(len(pool)), 2):
        products = centered[:, one] * centered[:, other]
        assert abs(products.mean() - wanted[one, other]) <= FAR * products.std() / math.sqrt(count) + 1e-12


def test_every_outcome_is_as_likely_as_it_should_be() -> None:
    pool, size, count = np.array([2, 3, 1, 2]), 4, 40_000
    drawn = split(np.tile(pool, (count, 1)), size, np.random.default_rng(3))
    exact = stats.multivariate_hypergeom(pool, size)
    outcomes = [one for one in itertools.product(*(range(n + 1) for n in pool)) if sum(one) == size]
    seen = dict.fromkeys(outcomes, 0)
    for row in drawn.tolist():
        seen[tuple(row)] += 1
    expected = np.array([exact.pmf(one) for one in outcomes]) * count
    assert stats.chisquare(list(seen.values()), expected * (count / expected.sum())).pvalue > 1e-7


def test_draws_are_distributed_as_those_of_numpy() -> None:
    pool, size, count = np.array([30, 5, 65, 2, 18]), 25, 20_000
    random = np.random.default_rng(4)
    ours = split(np.tile(pool, (count, 1)), size, random)
    numpys = random.multivariate_hypergeometric(pool, size, count)
    for cell in range(len(pool)):
        values = np.arange(pool[cell] + 1)
        table = np.array([[np.count_nonzero(one[:, cell] == v) for v in values] for one in (ours, numpys)])
        table = table[:, table.sum(axis=0) >= 10]
        assert stats.chi2_contingency(table).pvalue > 1e-7


def test_nested_windows_lie_in_one_another() -> None:
    small, middle, large = nested(np.array([50, 20, 30, 1]), [5, 20, 60], 100, np.random.default_rng(5))
    assert [int(one.sum(axis=1).max()) for one in (small, middle, large)] == [5, 20, 60]
    assert (small <= middle).all()
    assert (middle <= large).all()


def test_what_numpy_could_not_draw_from_is_thinned_first() -> None:
    counts = np.array([4_000_000_000, 1_000_000_000])
    found = thin(counts, 1_000_000, np.random.default_rng(6))
    assert found.sum() == 1_000_000
    assert abs(found[0] - 800_000) < FAR * 400
    assert (thin(np.array([3, 4]), 10, np.random.default_rng(6)) == [3, 4]).all()


def test_as_many_come_before_the_first_of_the_others_as_should() -> None:
    count, others, own = 20_000, 3, 4
    found = before_first(np.full(count, others), np.full(count, own), np.random.default_rng(7))
    chances = [
        math.comb(others + own - k - 1, others - 1) / math.comb(others + own, others) for k in range(own + 1)
    ]
    seen = np.bincount(found, minlength=own + 1)
    assert stats.chisquare(seen, np.array(chances) * count).pvalue > 1e-7


def test_beyond_the_draws_chance_is_that_of_the_tail() -> None:
    # Of 4,000 draws of exponential scores the log of the fitted chance is off by 0.36 at most, 7 standard errors.
    drawn = np.random.default_rng(8).exponential(size=4000)
    for score in (7.0, 9.2, 11.5):
        assert abs(math.log(tail_p_value(drawn, score)) + score) < 0.1 * score + 0.4
    assert tail_p_value(drawn, 0.0) == 1.0
    assert tail_p_value(drawn, tail_value(drawn, 1e-5)) == pytest.approx(1e-5)
    assert tail_p_value(drawn, tail_value(drawn, 0.05)) == pytest.approx(0.05, rel=0.02)


def test_chance_falls_as_the_score_grows() -> None:
    drawn = np.random.default_rng(9).gamma(3.0, size=1600)
    chances = [tail_p_value(drawn, score) for score in np.linspace(0, 30, 400)]
    assert all(later <= earlier * 1.1 for earlier, later in itertools.pairwise(chances))


def test_where_all_draws_are_alike_the_score_is_trusted() -> None:
    assert tail_p_value(np.zeros(400), 12.0) == pytest.approx(math.exp(-12))
    assert tail_p_value(np.zeros(400), 0.0) == 1.0


@pytest.mark.parametrize(
    "scores",
    [
        GammaScores.fit(np.random.default_rng(1).rayleigh(size=4000)),
        KolmogorovScores.fit(stats.kstwobign.rvs(size=4000, random_state=1) / 30),
        RateScores(0.02, 500),
        RateScores(0.02, 500, 3000),
        RateScores.fit(np.random.default_rng(1).binomial(50, 0.1, 4000) / 50, 50),
        RangeScores(0.25, 1000),
    ],
)
def test_scores_grow_with_the_value_and_can_be_turned_back(scores: GammaScores) -> None:
    values = np.linspace(0, 0.8, 200)
    found = scores.of(values)
    assert (np.diff(found) >= -1e-9).all()
    assert np.isfinite(found).all()
    for score in (3.0, 10.0, 40.0):
        value = scores.value(score)
        if value < 1:
            assert float(scores.of(value)) >= score * (1 - 1e-6)


def test_scores_are_about_the_chance_that_they_stand_for() -> None:
    distances = stats.kstwobign.rvs(size=4000, random_state=2) / 30
    assert float(KolmogorovScores.fit(distances).of(2.0 / 30)) == pytest.approx(
        -stats.kstwobign.logsf(2.0), rel=0.1
    )
    rayleigh = np.random.default_rng(2).rayleigh(size=4000)
    assert float(GammaScores.fit(rayleigh).of(3.7)) == pytest.approx(3.7**2 / 2, rel=0.15)
    binomial = -stats.binom.logsf(24, 500, 0.02)
    assert float(RateScores(0.02, 500).of(25 / 500)) == pytest.approx(binomial, rel=0.1)


def test_a_share_that_was_never_drawn_is_not_impossible() -> None:
    scores = RateScores.fit(np.zeros(400), 1000)
    assert float(scores.of(0.0)) == 0.0
    assert 4 < float(scores.of(1 / 1000)) < 8
    assert float(scores.of(20 / 1000)) > 40


def test_the_score_of_values_out_of_range_is_their_exact_chance_without_ties() -> None:
    random, reference, size = np.random.default_rng(10), 30, 20
    ranks = random.random((20_000, reference + size))
    inside = ranks[:, :reference]
    window = ranks[:, reference:]
    beyond = ((window < inside.min(axis=1)[:, None]) | (window > inside.max(axis=1)[:, None])).sum(axis=1)
    scores = RangeScores(size / (reference + size), size)
    # The closed form takes the draws to be of endless samples: it is a little too large for such small ones.
    for k in (1, 2, 3):
        assert math.exp(-float(scores.of(k / size))) == pytest.approx(np.mean(beyond >= k), rel=0.1)
