"""Möbius, zeta and the exact indices of the first cut, against definitions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from definitions import dividend, shapley_by_permutations, shapley_taylor, table_to_game

import shapjax as sj

rng = np.random.default_rng(1)


@pytest.mark.parametrize("n", range(6))
def test_moebius_is_its_definition(x64, n):
    values = rng.normal(size=2**n)
    game = table_to_game(values)
    by_rank = [
        dividend(game, frozenset(i for i in range(n) if rank >> i & 1)) for rank in range(2**n)
    ]
    np.testing.assert_allclose(sj.moebius(values), by_rank, atol=1e-13)
    np.testing.assert_allclose(sj.zeta(sj.moebius(values)), values, atol=1e-13)


@pytest.mark.parametrize("n", range(1, 7))
def test_shapley_value_is_the_mean_over_permutations(x64, n):
    values = rng.normal(size=2**n)
    expected = shapley_by_permutations(table_to_game(values), n)
    np.testing.assert_allclose(sj.shapley_value(values), expected, atol=1e-13)
    np.testing.assert_allclose(sj.interactions(values, "SV").singles, expected, atol=1e-13)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_shapley_taylor_is_its_definition(x64, n):
    values = rng.normal(size=2**n)
    game = table_to_game(values)
    for order in range(1, n + 1):
        found = sj.interactions(values, "STII", order)
        for size in range(order + 1):
            for coalition in itertools.combinations(range(n), size):
                expected = shapley_taylor(game, n, frozenset(coalition), order)
                np.testing.assert_allclose(found[coalition], expected, atol=1e-12)
        total = sum(c.sum() for c in found.coefficients[1:])
        np.testing.assert_allclose(total, values[-1] - values[0], atol=1e-12)


def test_glove_game_by_hand():
    # Player 0 owns a left glove, 1 and 2 a right one; a pair is worth 1.
    values = np.zeros(8, np.float32)
    values[[0b011, 0b101, 0b111]] = 1
    np.testing.assert_allclose(sj.shapley_value(values), [2 / 3, 1 / 6, 1 / 6], atol=1e-6)
    found = sj.interactions(values)
    np.testing.assert_allclose(found.singles, 0, atol=1e-6)
    expected = np.array([[0, 2, 2], [2, 0, -1], [2, -1, 0]]) / 3
    np.testing.assert_allclose(found.pairs, expected, atol=1e-6)


def test_batches_and_transformations(x64):
    values = rng.normal(size=(3, 2, 16))
    found = sj.interactions(values)
    assert found.pairs.shape == (3, 2, 4, 4)
    one = sj.interactions(values[1, 0])
    np.testing.assert_allclose(found.of_size(2)[1, 0], one.of_size(2), atol=1e-14)
    mapped = jax.vmap(jax.vmap(sj.interactions))(values)
    np.testing.assert_allclose(mapped.pairs, found.pairs, atol=1e-14)
    jitted = jax.jit(sj.shapley_value)(jnp.asarray(values))
    np.testing.assert_allclose(jitted, sj.shapley_value(values), atol=1e-14)


def test_gradient_of_an_index_is_its_weights(x64):
    gradient = jax.grad(lambda v: sj.shapley_value(v)[0])(jnp.zeros(8))
    expected = np.array([-2, 2, -1, 1, -1, 1, -2, 2]) / 6
    np.testing.assert_allclose(gradient, expected, atol=1e-14)


def test_dtype_is_kept():
    for dtype in (np.float32, np.float16, jnp.bfloat16):
        assert sj.moebius(np.zeros(4, dtype)).dtype == dtype
    assert sj.moebius([0, 1, 1, 3]).dtype == jnp.float32
    with jax.enable_x64(True):
        assert sj.moebius(np.zeros(4)).dtype == np.float64
        assert sj.interactions(np.zeros(4)).singles.dtype == np.float64


def test_float64_without_x64_is_refused():
    for function in (sj.moebius, sj.zeta, sj.shapley_value, sj.interactions):
        for table in (np.zeros(4), list(np.zeros(4)), [np.zeros(4), np.zeros(4)]):
            with pytest.raises(sj.DtypeError, match="jax_enable_x64"):
                function(table)


@pytest.mark.parametrize("bad", [np.zeros(3), np.zeros((4, 0)), np.float32(1.0), [[1], [1, 2]]])
def test_wrong_tables_are_refused(x64, bad):
    with pytest.raises(sj.ShapjaxError):
        sj.moebius(bad)


def test_wrong_kinds_are_refused(x64):
    for bad in (np.zeros(4, complex), np.array(["a", "b"]), np.array([None, 1])):
        with pytest.raises(sj.ShapjaxError, match="real numbers"):
            sj.moebius(bad)


def test_wrong_arguments_are_refused(x64):
    values = np.zeros(8)
    for arguments in ({"index": "nope"}, {"order": 0}, {"order": 4}, {"order": 1.5}):
        with pytest.raises(sj.ShapjaxError, match="expected"):
            sj.interactions(values, **arguments)
    with pytest.raises(sj.ShapjaxError, match="n_players"):
        sj.interactions(values, n_players=3)
    with pytest.raises(sj.ShapjaxError, match="n_players"):
        sj.interactions(lambda masks: masks.sum(1))


def test_value_functions_are_enumerated():
    weights = np.array([1.0, 2.0, 4.0])
    found = sj.interactions(lambda masks: (masks @ weights) ** 2, n_players=3)
    assert found.pairs.dtype == np.float64
    np.testing.assert_allclose(found.pairs, 2 * np.outer(weights, weights) * (1 - np.eye(3)))
    with pytest.raises(sj.MemoryRefused, match=r"needs .* available"):
        sj.interactions(lambda masks: masks.sum(1), n_players=60)
