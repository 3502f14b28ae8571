"""Estimators by sampling, against exact values. Every statistical test says how often it errs.

All seeds are fixed, so that a test that passes keeps passing.
"""

import math

import jax
import numpy as np
import pytest
from brute_force import Game, by_definition
from games_for_tests import (
    ERROR_RATE,
    assert_covered,
    assert_unbiased,
    estimates,
    exact,
    smooth_game,
    table_game,
)
from scipy import stats

import shapjax as sj
from shapjax.coalitions.enumerate import all_masks, masks_of_size
from shapjax.estimators.distinct import allocate, distinct_of_size, draw_distinct
from shapjax.estimators.kernel_plans import border, by_leverage, with_complements
from shapjax.estimators.sampling import kernel, size_law
from shapjax.estimators.size_strata import moments, parts_by_pattern, size_law_of
from shapjax.estimators.subsets import parts_of_size
from shapjax.indices.rows import INDICES
from shapjax.indices.weights import index_and_order, weight_table
from shapjax.indices.worths import worth_weights

SHARES_EVERYTHING = ("shap-iq", "svarm-iq")


# Unbiased


@pytest.mark.parametrize(
    ("method", "index", "order", "budget"),
    [
        ("permutation", "STII", 2, 70),
        ("permutation", "STII", 3, 100),
        ("permutation", "SV", 1, 30),
        ("shap-iq", "STII", 2, 40),
        ("shap-iq", "STII", 2, 5),
        ("shap-iq", "SGV", 2, 60),
        ("shap-iq", "FSII", 3, 60),
        ("svarm-iq", "SV", 1, 60),
    ],
)
def test_unbiased(method, index, order, budget):
    """Student's test of the mean of 120 estimates for every coefficient, Bonferroni's correction:
    an unbiased estimator fails with probability 1e-6."""
    n, repetitions = 7, 120
    values, game = table_game(n, seed=1)
    found = estimates(game, n, index, order, budget, method, repetitions)
    assert_unbiased(found, exact(values, index, order))


@pytest.mark.parametrize(
    ("method", "index", "budget"),
    [
        ("permutation", "STII", 150),
        ("shap-iq", "STII", 60),
        ("svarm-iq", "STII", 100),
        ("svarm-iq", "SII", 100),
    ],
)
def test_standard_errors_are_honest(method, index, budget):
    """Their mean square against that of the errors, over 200 estimates and 28 pairs.

    The error of each side is below 10% of it (one standard deviation, as if pairs were wholly
    dependent), so that a factor of 1.7 is missed less than once in 1e6.
    """
    n = 8
    values, game = table_game(n, seed=2)
    truth = exact(values, index, 2).of_size(2)
    squares, claimed = [], []
    for seed in range(200):
        found = sj.estimate(game, n, index, 2, budget, method, key=seed)
        squares.append((found.of_size(2) - truth) ** 2)
        claimed.append(found.standard_errors[2] ** 2)
    assert 1 / 1.7 < np.mean(claimed) / np.mean(squares) < 1.7


@pytest.mark.parametrize(
    ("method", "index", "order", "budget", "options"),
    [
        ("kernel-direct", "STII", 2, 200, {}),
        ("kernel-weighting", "STII", 2, 300, {}),
        ("kernel-border", "STII", 2, 500, {}),
        ("kernel-shap", "SV", 1, 80, {}),
        ("kernel-shap", "SV", 1, 80, {"paired": False}),
        ("leverage-shap", "SV", 1, 300, {}),
        ("faithful-regression", "FSII", 2, 200, {}),
        ("faithful-regression", "FBII", 2, 300, {"p": 0.3}),
        ("shap-iq", "SII", 2, 300, {}),
        ("svarm-iq", "SII", 2, 300, {}),
        ("permutation", "STII", 2, 400, {}),
    ],
)
def test_intervals_cover(method, index, order, budget, options):
    """Intervals of 95%, of 30 estimates: less than 90% is a failure, and what covers 90% fails once
    in 1e6."""
    values, game = smooth_game(10)
    truth = exact(values, index, order, options.get("p"))
    assert_covered(estimates(game, 10, index, order, budget, method, 30, **options), truth)


def test_permutation_spends_its_budget():
    """Orders share coalitions: more of them fit than if they did not, and one more would not."""
    n, order, budget = 7, 2, 110
    spent = []
    for seed in range(20):
        found = sj.estimate(table_game(n)[1], n, "STII", order, budget, "permutation", key=seed)
        assert found.stats["permutations"] >= (budget - n - 2) // (math.comb(n, 2) - 1)
        spent.append(found.stats["evaluations"])
    assert max(spent) <= budget
    assert np.mean(spent) > 0.95 * budget
    last = sj.estimate(table_game(n)[1], n, "STII", order, 2**n - 1, "permutation", key=0)
    assert last.stats["evaluations"] <= 2**n - 1


def test_svarm_says_where_it_is_biased():
    _, game = table_game(9)
    few, many = (
        sj.estimate(game, 9, "SII", 2, budget, "svarm-iq", key=0).stats["empty_strata"]
        for budget in (15, 450)
    )
    assert few > 0.3
    assert many == 0


def test_refits_can_be_left_out():
    _, game = table_game(7)
    for method, index in (("kernel-direct", "STII"), ("faithful-regression", "FBII")):
        assert sj.estimate(game, 7, index, 2, 90, method, key=0, refits=0).standard_errors is None
        with pytest.raises(sj.ShapjaxError, match="refits"):
            sj.estimate(game, 7, index, 2, 90, method, key=0, refits=-1)
        whole = sj.estimate(game, 7, index, 2, 128, method, key=0, refits=0).standard_errors
        assert not any(part.any() for part in whole)


# Consistent


@pytest.mark.parametrize(
    ("method", "index", "order", "factor"),
    [
        ("kernel-border", "STII", 2, 8),
        ("kernel-border", "SV", 1, 8),
        ("kernel-shap", "SV", 1, 4),
        ("leverage-shap", "SV", 1, 8),
        ("svarm-iq", "STII", 2, 8),
        ("svarm-iq", "SII", 2, 8),
        ("svarm-iq", "BII", 2, 8),
        ("svarm-iq", "JointSV", 2, 8),
        ("svarm-iq", "k-SII", 3, 8),
        ("shap-iq", "CHII", 2, 8),
        ("faithful-regression", "FSII", 2, 8),
        ("faithful-regression", "FBII", 2, 8),
    ],
)
def test_errors_shrink_as_the_budget_grows(method, index, order, factor):
    """Eightfold budget: independent draws would make the mean squared error an eighth.

    Mean of 8 seeds; without repetitions it falls more.
    """
    n = 11
    values, game = smooth_game(n)
    truth = exact(values, index, order).of_size(order)

    def error(budget):
        found = [
            sj.estimate(game, n, index, order, budget, method, key=seed).of_size(order)
            for seed in range(8)
        ]
        return np.mean((np.array(found) - truth) ** 2)

    small = {1: 60, 2: 200, 3: 240}[order]
    assert error(small * 8) < error(small) / factor


@pytest.mark.parametrize("method", ["permutation", "kernel-border", *SHARES_EVERYTHING])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_over_all_coalitions_it_is_exact(method, order):
    values, game = table_game(6)
    found = sj.estimate(game, 6, order=order, budget=64, method=method, key=0)
    for a, b in zip(found.coefficients, exact(values, "STII", order).coefficients, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


@pytest.mark.parametrize("method", ["kernel-shap", "leverage-shap"])
def test_over_all_coalitions_it_is_shapley(method):
    values, game = table_game(6)
    found = sj.estimate(game, 6, "SV", budget=64, method=method, key=0)
    np.testing.assert_allclose(found.singles, exact(values, "SV", 1).singles, atol=1e-9)


@pytest.mark.parametrize(
    ("index", "order", "p"),
    [("FSII", 1, None), ("FSII", 2, None), ("FSII", 4, None), ("FBII", 2, 0.3), ("FBII", 3, 0.5)],
)
def test_over_all_coalitions_the_regression_is_faithful(index, order, p):
    """Against the weights of the dividends, which know nothing of a regression."""
    values, game = table_game(6)
    method = "faithful-regression"
    found = sj.estimate(game, 6, index, order, 64, method, key=0, p=p)
    for a, b in zip(found.coefficients, exact(values, index, order, p).coefficients, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)
    few = sj.estimate(game, 6, index, order, 5, method, key=0, p=p)
    assert few.stats["underdetermined"]
    if index == "FSII":
        total = sum(c.sum() for c in few.coefficients[1:])
        np.testing.assert_allclose([few.empty, total], [values[0], values[-1] - values[0]])


@pytest.mark.parametrize("name", sorted(INDICES))
@pytest.mark.parametrize("method", SHARES_EVERYTHING)
def test_almost_all_coalitions_give_every_index(name, method):
    """One coalition short of all, the answer is off by about what one is worth."""
    n, p = 6, None if INDICES[name].p is None else 0.3
    index, order = index_and_order(name, None, n, p)
    values, game = table_game(n, seed=4)
    found = sj.estimate(game, n, name, order, 2**n - 1, method, key=0, p=p)
    assert found.index == index.label
    truth = exact(values, name, order, p)
    scale = max(1.0, *(np.abs(x).max() for x in truth.coefficients))
    for a, b in zip(found.coefficients, truth.coefficients, strict=True):
        np.testing.assert_allclose(a, b, atol=0.5 * scale)


def test_what_every_method_knows_is_exact():
    """A game that depends on sizes alone: nothing is left to chance but which sizes are seen."""
    n = 14
    found = sj.estimate(lambda m: np.asarray(m).sum(1) ** 3.0, n, "SII", 2, 200, "svarm-iq", key=0)
    dividends = [0, 1, 6, 6]  # of t**3, by size of the coalition
    pair = sum(math.comb(n - 2, t - 2) * dividends[t] / (t - 1) for t in (2, 3))
    np.testing.assert_allclose(found.of_size(2), pair, atol=1e-9)
    np.testing.assert_allclose(found.standard_errors[2], 0, atol=1e-6)


# The parts


@pytest.mark.parametrize("name", sorted(INDICES))
def test_worth_weights(name):
    n, p = 5, None if INDICES[name].p is None else 0.3
    index, order = index_and_order(name, min(INDICES[name].highest_order or 3, 3), n, p)
    values, _ = table_game(n)
    masks = np.asarray(all_masks(n))
    weights = worth_weights(weight_table(index, order, n), index.form)
    expected = by_definition(Game(values), name, order, 0.5 if p is None else p)
    for s, g in enumerate(weights):
        shared = (masks[:, None, :] & masks_of_size(n, s)[None]).sum(-1)
        found = (g[masks.sum(1)[:, None], shared].astype(float) * values[:, None]).sum(0)
        np.testing.assert_allclose(found, expected[s], atol=1e-9)
    law = size_law_of(weights, n)
    assert np.all((law > 0) == [any(g[t].any() for g in weights[1:]) for t in range(n + 1)])


def test_moments_and_patterns():
    n, order = 6, 3
    rng = np.random.default_rng(0)
    z, weights = rng.integers(0, 2, (9, n)).astype(float), rng.normal(size=(2, 9))
    found = moments(z, weights, order)
    for size, sums in enumerate(found):
        columns = (z @ masks_of_size(n, size).T == size).astype(float)
        np.testing.assert_allclose(sums, weights @ columns, atol=1e-12)
    patterns = parts_by_pattern(n, order)
    assert [size for size, _ in patterns] == [0, 1, 1, 2, 1, 2, 2, 3]
    singles, pairs = parts_of_size(n, order, 1), parts_of_size(n, order, 2)
    np.testing.assert_array_equal(patterns[0b010][1], singles[:, 1])
    np.testing.assert_array_equal(patterns[0b101][1], pairs[:, 1])


def test_allocation():
    """Counts never exceed rows nor the number of coalitions, and keep their means.

    A mean of 2,000 counts is within 5 standard deviations (at most 1/2 each) of its expectation:
    false alarms below 1e-5 in all.
    """
    n, rows = 10, 200
    law = size_law(n, 2)
    draws = [allocate(law, rows, np.random.default_rng(seed)) for seed in range(2000)]
    counts = np.array([x.counts for x in draws])
    assert np.all(counts.sum(1) <= rows)
    assert np.all(counts.sum(1) >= rows - 1)
    number = np.array([math.comb(n, s) for s in range(n + 1)])
    assert np.all(counts <= number)
    whole = draws[0].whole
    assert whole[[2, 9]].all()
    np.testing.assert_array_equal(counts[:, whole], np.tile(number[whole], (2000, 1)))
    assert np.abs(counts.mean(0) - draws[0].expected).max() < 5 * 0.5 / 2000**0.5
    assert counts[:, law == 0].sum() == 0
    least = allocate(law, rows, np.random.default_rng(0), least=2)
    assert least.counts[law > 0].min() >= 2
    everything = allocate(law, 10**6, np.random.default_rng(0))
    np.testing.assert_array_equal(everything.counts, number * (law > 0))
    assert allocate(law, 0, np.random.default_rng(0)).counts.sum() == 0
    assert allocate(0 * law, 5, np.random.default_rng(0)).counts.sum() == 0


@pytest.mark.parametrize(("n", "size", "count"), [(6, 3, 10), (6, 3, 20), (20, 8, 50), (40, 3, 60)])
def test_distinct_coalitions(n, size, count):
    """Distinct, and how often each player is there passes a chi-square test at 1e-6."""
    draws = [distinct_of_size(n, size, count, np.random.default_rng(s)) for s in range(50)]
    for masks in draws:
        assert masks.shape == (count, n)
        assert np.all(masks.sum(1) == size)
        assert len(np.unique(masks, axis=0)) == count
    # Without repetitions counts scatter less than the test allows, never more.
    assert stats.chisquare(np.concatenate(draws).sum(0)).pvalue > ERROR_RATE
    counts = np.zeros(n + 1, int)
    counts[[0, size]] = 1, count
    assert draw_distinct(counts, np.random.default_rng(0)).sum(1).tolist() == [0] + [size] * count


def test_border_rows_estimate_the_kernels_sum():
    """Sum over rows of weight times f(T) estimates the sum of kernel times f: Student at 1e-6."""
    n, order, rows = 8, 2, 60
    values, game = table_game(n)
    sizes = np.asarray(all_masks(n)).sum(1)
    expected = kernel(n, order)[sizes] @ values
    sums = []
    for seed in range(400):
        plan = border(jax.random.key(seed), n, order, rows)
        assert len(plan.free) <= rows
        assert len(np.unique(plan.free, axis=0)) == len(plan.free)
        assert plan.weights.max() == 1
        sums.append(plan.scale * plan.weights @ game(plan.free))
    assert abs(stats.ttest_1samp(sums, expected).statistic) < stats.t.isf(ERROR_RATE / 2, 399)


@pytest.mark.parametrize("n", [6, 7])
def test_leverage_rows_estimate_the_kernels_sum(n):
    """As above, of rows that come as complements."""
    values, game = table_game(n)
    sizes = np.asarray(all_masks(n)).sum(1)
    expected = kernel(n, 1)[sizes] @ values
    sums = []
    for seed in range(400):
        plan = by_leverage(jax.random.key(seed), n, 1, 25)
        assert len(plan.free) <= 24
        assert len(np.unique(plan.free, axis=0)) == len(plan.free)
        np.testing.assert_array_equal(plan.free[::2], ~plan.free[1::2])
        sums.append(plan.scale * plan.weights @ game(plan.free))
    assert abs(stats.ttest_1samp(sums, expected).statistic) < stats.t.isf(ERROR_RATE / 2, 399)


def test_pairs_are_complements():
    plan = with_complements(jax.random.key(0), 9, 1, 41)
    assert len(plan.free) == 40
    np.testing.assert_array_equal(plan.free[::2], ~plan.free[1::2])


def test_hundred_players():
    game = smooth_game_of_many(100)
    for method in ("svarm-iq", "shap-iq", "permutation"):
        found = sj.estimate(game, 100, budget=6000, method=method, key=0)
        assert np.isfinite(found.of_size(2)).all()
        assert found.stats["evaluations"] <= 6000


def smooth_game_of_many(n):
    weights = np.random.default_rng(0).normal(size=(n, 10))
    return lambda masks: np.maximum(np.asarray(masks) @ weights, 0).sum(1)
