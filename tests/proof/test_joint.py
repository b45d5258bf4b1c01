"""Features together: no more is found than chance allows where nothing changed, and what changed is found."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.special import ndtr

from mooring.drift.columns import Column
from mooring.drift.joint import JointShift, joint_shift

pytestmark = pytest.mark.proof

Rows = tuple[dict[str, Column], NDArray[np.int64]]
Population = Callable[[np.random.Generator, int], Rows]
SIZES = ((2000, 1000), (200, 200), (2000, 200), (400, 2000), (1000, 500))
REPETITIONS = 300
CASES = 40
FAR = 1e-3 / CASES


def columns(values: np.ndarray) -> dict[str, Column]:
    return {f"x{at}": pa.array(values[:, at], from_pandas=True) for at in range(values.shape[1])}


def alike(rng: np.random.Generator, rows: int, features: int, correlation: float) -> np.ndarray:
    own = rng.normal(size=(rows, features))
    return np.sqrt(correlation) * rng.normal(size=(rows, 1)) + np.sqrt(1 - correlation) * own


def transformed(features: int, change: Callable[[np.random.Generator, np.ndarray], np.ndarray]) -> Population:
    def population(rng: np.random.Generator, rows: int) -> Rows:
        return columns(change(rng, alike(rng, rows, features, 0.5))), np.arange(rows)

    return population


def normal(features: int, correlation: float = 0.5) -> Population:
    return lambda rng, rows: (columns(alike(rng, rows, features, correlation)), np.arange(rows))


def independent(features: int) -> Population:
    return normal(features, 0.0)


def heavy_tails(features: int) -> Population:
    return transformed(features, lambda rng, x: x / np.sqrt(rng.chisquare(2, size=(len(x), 1)) / 2))


def ties(features: int) -> Population:
    return transformed(features, lambda _, x: np.round(2 * x))


def rounded(features: int) -> Population:
    return transformed(features, lambda _, x: np.round(x, 2))


def many_zeros(features: int) -> Population:
    return transformed(features, lambda _, x: np.where(x < 0.3, 0.0, np.exp(x)))


def missing(features: int) -> Population:
    """Return values that lack at random, and all but the first where that is high."""

    def lacking(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
        lacks = rng.random(x.shape) < 0.2
        lacks[:, 1:] |= x[:, :1] > 1
        return np.where(lacks, np.nan, x)

    return transformed(features, lacking)


def categories(features: int) -> Population:
    def population(rng: np.random.Generator, rows: int) -> Rows:
        places = ndtr(alike(rng, rows, features, 0.5)) ** 2
        counts = [(2, 3, 8, 40)[at % 4] for at in range(features)]
        codes = np.floor(places * counts).astype(int)
        return {f"x{at}": pa.array([f"v{code}" for code in codes[:, at]]) for at in range(features)}, np.arange(
            rows
        )

    return population


def mixed(features: int) -> Population:
    def population(rng: np.random.Generator, rows: int) -> Rows:
        values = alike(rng, rows, features, 0.4)
        found = columns(values)
        for at in range(0, features, 3):
            found[f"x{at}"] = pa.array(np.select([values[:, at] < -0.5, values[:, at] < 1.2], ["a", "b"], "c"))
        for at in range(1, features, 6):
            lacks = rng.random(rows) < 0.15
            found[f"x{at}"] = pa.array(np.where(lacks, np.nan, np.round(values[:, at], 1)), from_pandas=True)
        return found, np.arange(rows)

    return population


def requests(features: int) -> Population:
    """Return rows in requests of five on the average, rows of one of which are alike."""

    def population(rng: np.random.Generator, rows: int) -> Rows:
        groups = np.repeat(np.arange(rows), rng.geometric(0.2, rows))[:rows]
        shared = alike(rng, groups[-1] + 1, features, 0.4)[groups]
        return columns(np.sqrt(0.6) * shared + np.sqrt(0.4) * alike(rng, rows, features, 0.4)), groups

    return population


def tested(
    rng: np.random.Generator, before: Population, after: Population, sizes: tuple[int, int], seed: int
) -> JointShift:
    reference, reference_groups = before(rng, sizes[0])
    current, current_groups = after(rng, sizes[1])
    return joint_shift(
        reference, current, reference_groups=reference_groups, current_groups=current_groups, seed=seed
    )


def p_values(before: Population, after: Population, repetitions: int) -> np.ndarray:
    found = []
    for seed in range(repetitions):
        sizes = SIZES[seed % len(SIZES)]
        if before.__qualname__.startswith("requests"):
            sizes = max(sizes[0], 600), max(sizes[1], 600)
        one = tested(np.random.default_rng([seed, repetitions]), before, after, sizes, seed)
        assert one.p_value is not None, one.reason
        found.append(one.p_value)
    return np.array(found)


def assert_no_more_than_chance(found: np.ndarray) -> None:
    for level in (0.05, 0.01, 0.001):
        as_small = int(np.count_nonzero(found <= level))
        # a half more than asked for is allowed: it can't be told apart from a fit of the tail that is a little off
        assert stats.binom.sf(as_small - 1, len(found), 1.5 * level) > FAR, (level, as_small, len(found))


@pytest.mark.parametrize("features", [2, 12])
@pytest.mark.parametrize(
    "population",
    [normal, independent, heavy_tails, ties, rounded, many_zeros, missing, categories, mixed, requests],
)
def test_what_did_not_change_is_found_as_often_as_chance_allows(
    population: Callable[[int], Population], features: int
) -> None:
    one = population(features)
    assert_no_more_than_chance(p_values(one, one, REPETITIONS))


@pytest.mark.parametrize("population", [normal, categories, mixed])
def test_of_a_hundred_features_too(population: Callable[[int], Population]) -> None:
    one = population(100)
    assert_no_more_than_chance(p_values(one, one, 60))


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_what_moves_by_itself_is_not_found(correlation: float, shift: float) -> None:
    def moved(rng: np.random.Generator, rows: int) -> Rows:
        return columns(np.exp(alike(rng, rows, 12, correlation) + shift)), np.arange(rows)

    assert_no_more_than_chance(p_values(normal(12, correlation), moved, 200))


def turned(features: int, correlation: float) -> Population:
    def population(rng: np.random.Generator, rows: int) -> Rows:
        values = rng.normal(size=(rows, features))
        values[:, 1] = correlation * values[:, 0] + np.sqrt(1 - correlation**2) * values[:, 1]
        return columns(values), np.arange(rows)

    return population


def curved(features: int, sign: float) -> Population:
    def population(rng: np.random.Generator, rows: int) -> Rows:
        values = rng.normal(size=(rows, features))
        values[:, 1] = sign * (values[:, 0] ** 2 + 0.5 * values[:, 1])
        return columns(values), np.arange(rows)

    return population


def exclusive(features: int, share: float) -> Population:
    def population(rng: np.random.Generator, rows: int) -> Rows:
        found = columns(rng.normal(size=(rows, features)))
        a = rng.random(rows) < 0.5
        found["x0"] = pa.array(np.where(a, "a", "b"))
        found["x1"] = pa.array(np.where(a ^ (rng.random(rows) < share), "c", "d"))
        return found, np.arange(rows)

    return population


@pytest.mark.parametrize(("features", "repetitions"), [(2, 60), (12, 60), (100, 20)])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (lambda f: turned(f, 0.6), lambda f: turned(f, -0.6)),
        (lambda f: curved(f, 1), lambda f: curved(f, -1)),
        (lambda f: exclusive(f, 0.35), lambda f: exclusive(f, 0.65)),
    ],
    ids=["correlation", "square", "exclusive or"],
)
def test_two_features_that_go_together_otherwise_are_found_among_others(
    before: Callable[[int], Population], after: Callable[[int], Population], features: int, repetitions: int
) -> None:
    right = 0
    for seed in range(repetitions):
        one = tested(np.random.default_rng(seed), before(features), after(features), (2000, 1000), seed)
        assert one.p_value is not None
        right += one.p_value <= 0.001 and set(one.pairs[0].features) == {"x0", "x1"}
    assert right >= 0.9 * repetitions


@pytest.mark.parametrize("lacks", [0.0, 0.1])
def test_a_window_of_a_hundred_features_takes_at_most_a_hundred_megabytes(lacks: float) -> None:
    def sparse(correlation: float) -> Population:
        def population(rng: np.random.Generator, rows: int) -> Rows:
            found, groups = turned(100, correlation)(rng, rows)
            there = {name: np.where(rng.random(rows) < lacks, np.nan, one) for name, one in found.items()}
            return {name: pa.array(one, from_pandas=True) for name, one in there.items()}, groups

        return population

    rng = np.random.default_rng(1)
    tracemalloc.start()
    tested(rng, sparse(0.6), sparse(-0.6), (2000, 2000), 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 100e6
