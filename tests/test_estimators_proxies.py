"""Estimates through a surrogate: its index is exact, and what it misses is estimated unbiasedly."""

import numpy as np
import pytest
from games_for_tests import (
    assert_covered,
    assert_unbiased,
    estimates,
    exact,
    smooth_game,
    table_game,
)

import shapjax as sj
from shapjax.coalitions.enumerate import all_masks
from shapjax.estimators.surrogates import boosted_trees, index_of_surrogate, polynomial
from shapjax.indices.rows import INDICES
from shapjax.indices.weights import index_and_order, weight_table
from shapjax.indices.worths import worth_weights

CHEAP = {"proxyshap": {"trees": 15}, "regression-msr": {}}


def surrogates(n):
    values, _ = table_game(n)
    masks = np.asarray(all_masks(n))
    kept = np.random.default_rng(0).random(2**n) < 0.7
    yield boosted_trees(masks, values, kept, trees=12, depth=3)
    yield polynomial(masks, values, kept, degree=2)


def test_a_surrogate_is_its_dividends():
    for surrogate in surrogates(6):
        masks = np.asarray(all_masks(6)).astype(int)
        holds = masks @ surrogate.masks.T == surrogate.masks.sum(1)
        np.testing.assert_allclose(holds @ surrogate.dividends, surrogate.fitted, atol=1e-12)
        assert len(np.unique(surrogate.masks, axis=0)) == len(surrogate.masks)


@pytest.mark.parametrize("name", sorted(INDICES))
def test_its_index_is_exact(name):
    """Against the exact engine, which is given the table of the surrogate."""
    n, p = 5, None if INDICES[name].p is None else 0.3
    index, order = index_and_order(name, min(INDICES[name].highest_order or 3, 3), n, p)
    weights = worth_weights(weight_table(index, order, n), index.form)
    for surrogate in surrogates(n):
        truth = exact(surrogate.fitted, name, order, p)
        found = index_of_surrogate(surrogate, weights, order)
        for a, b in zip(found, truth.coefficients, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-9)


def test_trees_learn_what_they_can_say():
    """A game of three players: one tree in ten thousand would do, and what is left out falls."""
    masks = np.asarray(all_masks(7))
    values = 3.0 * (masks[:, 1] & ~masks[:, 4] & masks[:, 5]) - masks[:, 2]
    kept = np.random.default_rng(0).random(128) < 0.8
    surrogate = boosted_trees(masks, values, kept, trees=150, depth=3)
    assert np.mean((surrogate.fitted - values)[~kept] ** 2) < 0.01 * values.var()


@pytest.mark.parametrize("method", CHEAP)
@pytest.mark.parametrize(
    ("index", "order", "budget"), [("STII", 2, 60), ("SGV", 2, 20), ("SV", 1, 5)]
)
def test_unbiased(method, index, order, budget):
    """60 estimates, as for the other estimators: an unbiased one fails once in 1e6."""
    values, game = table_game(7, seed=1)
    found = estimates(game, 7, index, order, budget, method, 60, **CHEAP[method])
    assert_unbiased(found, exact(values, index, order))


@pytest.mark.parametrize("method", CHEAP)
def test_intervals_cover_and_errors_fall(method):
    """Less than 90% of intervals of 95% fails; a surrogate must beat the plain sums fourfold."""
    n, budget = 9, 200
    values, game = smooth_game(n)
    truth = exact(values, "STII", 2)
    found = estimates(game, n, "STII", 2, budget, method, 20, **CHEAP[method])
    assert_covered(found, truth)
    plain = estimates(game, n, "STII", 2, budget, "shap-iq", 20)

    def error(estimates):
        return np.mean([(x.of_size(2) - truth.of_size(2)) ** 2 for x in estimates])

    assert error(found) < error(plain) / 4


@pytest.mark.parametrize("method", CHEAP)
@pytest.mark.parametrize("name", ["FBII", "JointSV", "Co-Moebius"])
def test_over_all_coalitions_it_is_exact(method, name):
    values, game = table_game(5)
    found = sj.estimate(game, 5, name, 2, 32, method, key=0, **CHEAP[method])
    for a, b in zip(found.coefficients, exact(values, name, 2).coefficients, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)
    assert not any(part.any() for part in found.standard_errors)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "regression-msr", "degree": 3}, "degree"),
        ({"method": "proxyshap", "trees": 0}, "trees"),
        ({"method": "proxyshap", "depth": 9}, "depth"),
        ({"method": "proxyshap", "budget": 1}, "at least 2"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(sj.ShapjaxError, match=message):
        sj.estimate(table_game(6)[1], 6, key=0, **{"budget": 30, **arguments})
