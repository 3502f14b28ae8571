"""KernelSHAP-IQ: its regression is SII at every order, and below all coalitions it tends to it."""

import numpy as np
import pytest
from brute_force import Game, by_definition
from games_for_tests import assert_covered, estimates, exact, smooth_game, table_game

import shapjax as sj


@pytest.mark.parametrize("index", ["SII", "k-SII"])
@pytest.mark.parametrize(("n", "order"), [(4, 1), (6, 2), (5, 2), (6, 3)])
def test_over_all_coalitions_the_regression_is_sii(index, n, order):
    """No coalition is enumerated but as a row: the harmonic fit and the ends make the index."""
    values, game = table_game(n, seed=order)
    found = sj.estimate(game, n, index, order, 2**n, "kernelshap-iq", key=0)
    for a, b in zip(found.coefficients, exact(values, index, order).coefficients, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)
    # On harmonic functions the Gram matrix is a multiple of the identity.
    assert found.stats["steps"] <= 1
    assert not any(part.any() for part in found.standard_errors)


def test_it_is_sii_by_definition():
    values, game = table_game(4, seed=5)
    found = sj.estimate(game, 4, "SII", 2, 16, "kernelshap-iq", key=0)
    for a, b in zip(found.coefficients, by_definition(Game(values), "SII", 2), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


def test_what_the_ends_tell_is_exact():
    """Sums over pairs with one player in common need no coalition between."""
    n = 9
    values, game = table_game(n)
    found = sj.estimate(game, n, "SII", 2, 60, "kernelshap-iq", key=0)
    pairs = exact(values, "SII", 2).pairs
    np.testing.assert_allclose(found.pairs.sum(0), pairs.sum(0), atol=1e-9)
    np.testing.assert_allclose(found.singles.sum(), values[-1] - values[0], atol=1e-9)


@pytest.mark.parametrize(("index", "order"), [("k-SII", 2)])
def test_it_is_consistent_and_its_intervals_cover(index, order):
    """Eightfold budget, a sixth of the mean squared error at most; intervals as for the others."""
    n = 10
    values, game = smooth_game(n)
    truth = exact(values, index, order)

    def found_at(budget):
        return estimates(game, n, index, order, budget, "kernelshap-iq", 20)

    def error(found):
        return np.mean([(x.of_size(order) - truth.of_size(order)) ** 2 for x in found])

    few, many = found_at(90), found_at(720)
    assert error(many) < error(few) / 6
    assert_covered(found_at(300), truth)


def test_too_small_a_budget_says_what_it_takes():
    _, game = table_game(6)
    with pytest.raises(sj.ShapjaxError, match="at least 14"):
        sj.estimate(game, 6, "SII", 2, 13, "kernelshap-iq", key=0)
    with pytest.raises(sj.ShapjaxError, match="at least 64"):
        sj.estimate(game, 6, "SII", 4, 63, "kernelshap-iq", key=0)
    with pytest.raises(sj.ShapjaxError, match="only SII and k-SII"):
        sj.estimate(game, 6, "STII", 2, 30, "kernelshap-iq", key=0)
    assert sj.estimate(game, 6, "SII", 2, 14, "kernelshap-iq", key=0).stats["underdetermined"]


@pytest.mark.peers
def test_against_shapiq():
    """All coalitions: the same numbers (theirs to the 1e-7 that their weights of 1e7 leave).

    Fewer: no larger an error than theirs, over 20 seeds each.
    """
    shapiq = pytest.importorskip(
        "shapiq", reason="shapiq is not installed (the peers extra has it)"
    )
    n, budget = 9, 150
    values, game = smooth_game(n)
    truth = exact(values, "SII", 2).of_size(2)

    def theirs(seed, budget):
        peer = shapiq.approximator.KernelSHAPIQ(n, 2, "SII", random_state=seed)
        found = peer.approximate(budget, lambda masks: game(np.asarray(masks)))
        return np.array([found[pair] for pair in zip(*np.triu_indices(n, 1), strict=True)])

    np.testing.assert_allclose(theirs(0, 2**n), truth, atol=1e-5)
    ours = [x.of_size(2) for x in estimates(game, n, "SII", 2, budget, "kernelshap-iq", 20)]
    error = np.mean((np.array(ours) - truth) ** 2)
    peer = np.mean([(theirs(seed, budget) - truth) ** 2 for seed in range(20)])
    assert error < peer
