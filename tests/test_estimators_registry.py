"""The interface of estimators: a registry to add to, an oracle that counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import shapjax as sj
from shapjax.coalitions.enumerate import all_masks, members_of_size
from shapjax.estimators import Answer, Oracle, method_names, register
from shapjax.estimators.registry import BUILT_IN, _registered


@pytest.fixture(autouse=True)
def clean_registry():
    before = dict(_registered)
    yield
    _registered.clear()
    _registered.update(before)


def game(masks):
    return np.asarray(masks).sum(1) ** 2.0


def leave_one_out(problem, oracle, *, scale=1.0):
    """v(N) - v(N without i)."""
    n = problem.n
    values = oracle(~np.eye(n, dtype=bool))
    grand = oracle(np.ones((1, n), bool))
    return Answer((np.zeros(1), scale * (grand - values)), None, {"own": 7})


def test_a_registered_function_is_a_method():
    register("leave-one-out", leave_one_out)
    assert method_names() == (*BUILT_IN, "leave-one-out")
    found = sj.estimate(game, 4, "SV", budget=5, method="leave-one-out", key=0)
    np.testing.assert_array_equal(found.singles, [7.0] * 4)
    assert found.index == "SV"
    assert found.stats == {"evaluations": 5, "own": 7}
    doubled = sj.estimate(game, 4, "SV", budget=5, method="leave-one-out", key=0, scale=2.0)
    np.testing.assert_array_equal(doubled.singles, [14.0] * 4)


def test_it_decorates():
    @register("mine")
    def mine(problem, oracle, **options):
        return Answer((np.zeros(1), np.full(problem.n, options["level"])), None, {})

    found = sj.estimate(game, 3, "SV", method="mine", key=0, level=2.0)
    np.testing.assert_array_equal(found.singles, [2.0] * 3)


def test_results_have_the_kind_and_precision_of_the_values():
    @register("halves")
    def halves(problem, oracle):
        oracle(np.ones((1, problem.n), bool))
        half = np.full(problem.n, 0.5)
        return Answer((np.zeros(1), half), (np.zeros(1), half), {})

    def singles(value_fn):
        return sj.estimate(value_fn, 3, "SV", method="halves", key=0).singles

    assert isinstance(singles(jax.jit(lambda m: m.sum(1) * 1.0)), jax.Array)
    assert singles(jax.jit(lambda m: m.sum(1) * jnp.bfloat16(1))).dtype == np.float32
    assert isinstance(singles(game), np.ndarray)
    assert singles(game).dtype == np.float64
    assert singles(lambda m: game(m).astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("kernel-direct", leave_one_out), "exists already"),
        (("", leave_one_out), "name of a method"),
        ((3, leave_one_out), "name of a method"),
        (("x", 3), "expected a function"),
    ],
)
def test_what_cannot_be_registered(arguments, message):
    with pytest.raises(sj.ShapjaxError, match=message):
        register(*arguments)


def test_overwriting_is_said():
    register("kernel-direct", leave_one_out, overwrite=True)
    found = sj.estimate(game, 4, "SV", budget=5, method="kernel-direct", key=0)
    np.testing.assert_array_equal(found.singles, [7.0] * 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "permutation", "constraints": "weight"}, "is no option of permutation; it has"),
        ({"method": "kernel-direct", "paired": True}, "its options are constraints"),
        ({"method": "kernel-shap", "index": "SV", "paired": 1}, "True or False"),
        ({"method": "kernel-shap"}, "kernel-shap estimates only SV"),
        ({"method": "leverage-shap"}, "leverage-shap estimates only SV"),
        ({"method": "permutation", "index": "SII"}, "permutation estimates only STII and SV"),
        ({"method": "permutation", "budget": 60}, "at least"),
        ({"method": "shap-iq", "budget": 1}, "at least 2"),
        ({"method": "svarm-iq", "budget": 0}, "at least 2"),
        ({"method": "faithful-regression"}, "only FSII and FBII"),
        ({"method": "faithful-regression", "index": "FBII", "p": 1.0}, "strictly between"),
        ({"method": "faithful-regression", "index": "FSII", "budget": 1}, "at least 2"),
        ({"method": "svarm-iq", "p": 0.3}, "no parameter p"),
    ],
)
def test_bad_arguments_end_in_one_sentence(arguments, message):
    arguments = {"n_players": 15, "budget": 300, "key": 0, **arguments}
    with pytest.raises(sj.ShapjaxError, match=message) as caught:
        sj.estimate(game, **arguments)
    assert str(caught.value).count("\n") == 0


# The oracle


def counting():
    seen = []

    def value(masks):
        seen.extend(map(tuple, np.asarray(masks)))
        return game(masks)

    return value, seen


def test_nothing_is_evaluated_twice():
    value, seen = counting()
    oracle = Oracle(value, 11, 30)
    masks = np.asarray(all_masks(11))[np.random.default_rng(0).choice(20, 60)]
    distinct = len(np.unique(masks, axis=0))
    np.testing.assert_array_equal(oracle(masks), game(masks))
    assert oracle.spent == distinct == len(seen) == len(set(seen))
    np.testing.assert_array_equal(oracle(masks[::-1]), game(masks[::-1]))
    assert oracle.spent == distinct
    more = np.asarray(all_masks(11))[[5, 2000, 5, 1999, 0]]
    np.testing.assert_array_equal(oracle(more), game(more))
    assert oracle.left == 30 - oracle.spent
    assert len(seen) == len(set(seen)) == oracle.spent


def test_without_the_cache_every_row_counts():
    value, seen = counting()
    oracle = Oracle(value, 3, 10)
    oracle(np.ones((4, 3), bool), cached=False)
    assert oracle.spent == 4
    assert len(seen) == oracle.evaluated == 1


def test_beyond_the_budget_nothing_is_evaluated():
    value, seen = counting()
    oracle = Oracle(value, 4, 5)
    oracle(np.eye(4, dtype=bool))
    with pytest.raises(sj.ShapjaxError, match="2 evaluations where 1 of a budget of 5"):
        oracle(np.asarray(all_masks(4))[[0, 15, 1]])
    assert oracle.spent == len(seen) == 4
    oracle(np.asarray(all_masks(4))[[1, 2, 15]])
    assert oracle.left == 0


def test_traced_values_stay_on_the_device():
    traces = []

    def value(masks):
        if isinstance(masks, jax.core.Tracer):
            traces.append(masks.shape)
        return jnp.asarray(masks, jnp.float32).sum(axis=1)

    oracle = Oracle(value, 5, 32)
    masks = np.asarray(all_masks(5))
    for rows in (masks[:8], masks[4:12], masks[8:16], masks[16:20]):
        found = oracle(rows)
        assert isinstance(found, jax.Array)
        np.testing.assert_array_equal(found, rows.sum(1))
    assert oracle.traced


def test_progress_adds_up():
    calls = []
    oracle = Oracle(game, 4, 9, chunk_size=2, progress=lambda *c: calls.append(c))
    oracle(np.eye(4, dtype=bool))
    oracle(np.asarray(all_masks(4))[[0, 1, 15]])
    assert calls[-1] == (6, 9)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


@pytest.mark.parametrize("masks", [np.ones((2, 3)), np.ones((2, 4), bool), np.ones(3, bool)])
def test_bad_masks(masks):
    with pytest.raises(sj.ShapjaxError, match="masks"):
        Oracle(game, 3, 10)(masks)


@pytest.mark.parametrize("method", sorted(BUILT_IN))
@pytest.mark.parametrize("budget", [91, pytest.param(300, marks=pytest.mark.slow)])
def test_budgets_are_never_exceeded(method, budget):
    n = 12
    value, seen = counting()
    index = {
        "kernel-shap": "SV",
        "leverage-shap": "SV",
        "faithful-regression": "FSII",
        "lime": "FBII",
        "fixlip": "FBII",
        "kernelshap-iq": "SII",
    }.get(method, "STII")
    options = {"fixlip": {"n_query": 5}, "proxyshap": {"trees": 10}}.get(method, {})
    found = sj.estimate(value, n, index, budget=budget, method=method, key=0, **options)
    assert len(seen) == len(set(seen)) <= found.stats["evaluations"] <= budget
    repeats = method in ("kernel-direct", "kernel-weighting")
    assert repeats or len(seen) == found.stats["evaluations"]
    assert found.stats["v_grand"] == n**2
    assert found.stats["v_empty"] == 0
    if budget == 300 or method not in ("permutation", "faithful-regression"):
        errors = found.standard_errors
        assert [part.shape for part in errors] == [part.shape for part in found.coefficients]
    again = sj.estimate(game, n, index, budget=budget, method=method, key=0, **options)
    for a, b in zip(found.coefficients, again.coefficients, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == np.float64
    # The square of the size has dividends 1 for players and 2 for pairs.
    if index == "STII":
        assert found.of_size(2).shape == (len(members_of_size(n, 2)),)
