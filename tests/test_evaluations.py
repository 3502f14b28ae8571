"""Evaluations used again, and budgets that end when the errors are small."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import shapjax as sj

ERROR_RATE = 1e-6


class Counting:
    """A game in NumPy that remembers what it was asked."""

    def __init__(self, n, seed=0, fail_after=None):
        rng = np.random.default_rng(seed)
        self.first, self.last = rng.normal(size=(n, 20)), rng.normal(size=20)
        self.asked, self.fail_after = [], fail_after

    def __call__(self, masks):
        masks = np.asarray(masks)
        if self.fail_after is not None and len(self.asked) >= self.fail_after:
            raise OSError("the machine went away")
        self.asked += [row.tobytes() for row in masks]
        return np.tanh(masks @ self.first) @ self.last


METHODS = ("kernel-direct", "kernel-border", "permutation", "shap-iq", "gaussian-process")


@pytest.mark.parametrize("method", METHODS)
def test_a_larger_budget_evaluates_only_what_is_new(method):
    fresh = Counting(11)
    alone = sj.estimate(fresh, 11, budget=600, method=method, key=3)
    game, known = Counting(11), sj.Evaluations()
    sj.estimate(game, 11, budget=250, method=method, key=3, evaluations=known)
    after = len(game.asked)
    found = sj.estimate(game, 11, budget=600, method=method, key=3, evaluations=known)
    assert len(set(game.asked)) == len(game.asked) == len(known)
    assert found.stats["new_evaluations"] == len(game.asked) - after
    assert found.stats["evaluations"] <= 600
    # What is known changes nothing.
    for a, b in zip(found.coefficients, alone.coefficients, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)
    # The samples of the small budget are used: rounding of counts may waste one of each size.
    assert len(known) <= len(set(fresh.asked)) + 11


def test_another_method_and_another_index_use_them_too():
    game, known = Counting(8), sj.Evaluations()
    sj.estimate(game, 8, budget=256, method="shap-iq", key=0, evaluations=known)
    assert len(game.asked) == len(known) == 256
    found = sj.estimate(game, 8, "FBII", budget=100, key=1, evaluations=known, method="svarm-iq")
    assert len(game.asked) == 256
    assert found.stats["new_evaluations"] == 0
    assert found.stats["evaluations"] <= 100


def test_they_survive_on_disk(tmp_path):
    game, known = Counting(9), sj.Evaluations()
    first = sj.estimate(game, 9, budget=200, key=0, evaluations=known)
    known.save(tmp_path / "known.npz")
    again = sj.Evaluations.load(tmp_path / "known.npz")
    np.testing.assert_array_equal(again.masks, known.masks)
    np.testing.assert_array_equal(again.values, known.values)
    assert again.values.dtype == np.float64
    count = len(game.asked)
    second = sj.estimate(game, 9, budget=200, key=0, evaluations=again)
    assert len(game.asked) == count
    np.testing.assert_array_equal(second.pairs, first.pairs)


def test_a_jax_game_stays_one(tmp_path):
    weights = jnp.linspace(-1, 1, 6)
    known = sj.Evaluations()
    game = jax.jit(lambda masks: jnp.tanh(masks @ weights))
    sj.estimate(game, 6, budget=30, key=0, evaluations=known)
    known.save(tmp_path / "known.npz")
    known = sj.Evaluations.load(tmp_path / "known.npz")
    assert isinstance(known.values, jax.Array)
    found = sj.estimate(game, 6, budget=30, key=0, evaluations=known)
    assert isinstance(found.pairs, jax.Array)
    assert found.stats["new_evaluations"] == 0
    assert len(sj.Evaluations().values) == 0


def test_what_was_evaluated_before_a_failure_is_kept():
    game, known = Counting(12, fail_after=500), sj.Evaluations()
    arguments = {"budget": 1000, "method": "shap-iq", "key": 0, "chunk_size": 10}
    with pytest.raises(Exception, match="went away"):
        sj.estimate(game, 12, **arguments, evaluations=known)
    assert 300 < len(known) <= 500
    game.fail_after = None
    sj.estimate(game, 12, **arguments, evaluations=known)
    assert len(known) == 1000


def test_evaluations_of_another_game_and_other_things_are_refused(tmp_path):
    known = sj.Evaluations()
    sj.estimate(Counting(5), 5, budget=20, key=0, evaluations=known)
    with pytest.raises(sj.ShapjaxError, match="of a game of 5 players, not of 6"):
        sj.estimate(Counting(6), 6, budget=20, key=0, evaluations=known)
    with pytest.raises(sj.ShapjaxError, match=r"expected shapjax.Evaluations"):
        sj.estimate(Counting(6), 6, budget=20, key=0, evaluations={})
    np.savez(tmp_path / "other.npz", packed=np.zeros((2, 1)))
    with pytest.raises(sj.ShapjaxError, match="does not hold evaluations"):
        sj.Evaluations.load(tmp_path / "other.npz")


@pytest.mark.parametrize("method", ["permutation", "shap-iq"])
def test_a_tolerance_is_met(method):
    game = Counting(14)
    found = sj.estimate(
        game, 14, "SV", budget="auto", tolerance=0.1, method=method, key=0, chunk_size=128
    )
    assert found.stats["converged"]
    assert found.stats["largest_error"] <= 0.1
    assert found.stats["new_evaluations"] == len(game.asked) == len(set(game.asked))
    coarse = sj.estimate(Counting(14), 14, "SV", budget="auto", tolerance=0.3, method=method, key=0)
    assert coarse.stats["evaluations"] < found.stats["evaluations"]


def test_the_most_ends_the_search_and_all_coalitions_are_exact():
    few = sj.estimate(
        Counting(10), 10, budget="auto", tolerance=1e-6, max_budget=300, method="shap-iq", key=0
    )
    assert not few.stats["converged"]
    assert few.stats["evaluations"] <= 300
    everything = sj.estimate(Counting(6), 6, budget="auto", tolerance=1e-6, method="shap-iq", key=0)
    assert everything.stats["converged"]
    assert everything.stats["evaluations"] == 64


def test_tolerances_that_cannot_be():
    with pytest.raises(sj.ShapjaxError, match=r"tolerance is None, .* needs a positive number"):
        sj.estimate(Counting(4), 4, budget="auto", key=0)
    with pytest.raises(sj.ShapjaxError, match="tolerance is nan"):
        sj.estimate(Counting(4), 4, budget="auto", tolerance=float("nan"), key=0)
    with pytest.raises(sj.ShapjaxError, match="tolerance and max_budget go with"):
        sj.estimate(Counting(4), 4, budget=10, tolerance=0.1, key=0)
    with pytest.raises(sj.ShapjaxError, match="budget is 'many'"):
        sj.estimate(Counting(4), 4, budget="many", key=0)


def test_intervals_cover_where_the_errors_decided_when_to_stop():
    """95% intervals of 60 stopped estimates hold the truth as often as they should.

    A rule that stops on errors that are small by chance may cover a little less: the test fails
    for a true coverage of 90% once in a million runs.
    """
    n, covered, seeds = 12, [], 60
    values = np.random.default_rng(5).normal(size=2**n)
    with jax.enable_x64(True):
        exact = np.asarray(sj.shapley_value(values))
    order = 1 << np.arange(n)
    for seed in range(seeds):
        found = sj.estimate(
            lambda masks: values[np.asarray(masks) @ order],
            n,
            "SV",
            budget="auto",
            tolerance=0.12,
            method="permutation",
            key=seed,
        )
        assert found.stats["converged"]
        assert found.stats["evaluations"] < 2**n
        player = seed % n  # one for each seed: coefficients of one estimate are not independent
        error = abs(found.singles[player] - exact[player])
        covered.append(error <= 1.96 * found.standard_errors[1][player])
    assert sum(covered) >= stats.binom.ppf(ERROR_RATE, seeds, 0.9)
