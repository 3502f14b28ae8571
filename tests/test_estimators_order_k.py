"""The kernel regression at any order: over all coalitions it is Shapley-Taylor."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brute_force import Game, by_definition
from games_for_tests import table_game

import shapjax as sj
from shapjax.coalitions.enumerate import all_masks, members_of_size
from shapjax.estimators.designs import design_of_order, gram_table
from shapjax.estimators.sampling import size_law
from shapjax.estimators.subsets import (
    Products,
    dividends_below,
    parts_of_size,
    positions,
)

direct = functools.partial(sj.estimate, method="kernel-direct")


@pytest.mark.parametrize(("n", "order"), [(3, 3), (4, 3), (8, 3), (5, 4), (8, 4)])
def test_over_all_coalitions_it_is_shapley_taylor(n, order):
    values, game = table_game(n, seed=order)
    found = direct(game, n, order=order, budget=2**n, key=0)
    with jax.enable_x64(True):
        exact = jax.tree.map(np.asarray, sj.interactions(values, order=order))
    for a, b in zip(found.coefficients, exact.coefficients, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)
    # The law of sizes preconditions exactly, so that conjugate gradients are done at once.
    assert found.stats["steps"] <= 1


@pytest.mark.parametrize(("n", "order"), [(5, 3), (6, 4)])
def test_it_is_shapley_taylor_by_definition(n, order):
    values, game = table_game(n, seed=7)
    found = direct(game, n, order=order, budget=2**n, key=0)
    for a, b in zip(found.coefficients, by_definition(Game(values), "STII", order), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


@pytest.mark.parametrize("order", [3, 4])
def test_the_papers_rows_give_it_too(order):
    """Rows of weight 1e8 in one dense solve: no design, solver or constraint in common."""
    values, game = table_game(6)
    found = direct(game, 6, order=order, budget=64, key=0, constraints="weight")
    with jax.enable_x64(True):
        exact = np.asarray(sj.interactions(values, order=order).of_size(order))
    np.testing.assert_allclose(found.of_size(order), exact, atol=1e-6)


def test_too_few_rows_still_obey_the_constraints():
    _, game = table_game(9)
    found = direct(game, 9, order=3, budget=80, key=0)
    assert found.stats["underdetermined"]
    total = sum(c.sum() for c in found.coefficients[1:])
    np.testing.assert_allclose(total, game(np.ones((1, 9), int))[0] - found.empty, atol=1e-10)


def test_a_cubic_game_is_found_from_few_rows():
    """A polynomial of the regression's own degree leaves no residual, whatever is drawn."""
    n, rng = 9, np.random.default_rng(0)
    terms = {s: rng.normal(size=len(members_of_size(n, s))) for s in range(1, 4)}

    def cubic(masks):
        masks = np.asarray(masks)
        return sum(masks[:, members_of_size(n, s)].all(-1) @ a for s, a in terms.items())

    found = direct(cubic, n, order=3, budget=300, key=0)
    assert not found.stats["underdetermined"]
    for size, expected in terms.items():
        np.testing.assert_allclose(found.of_size(size), expected, atol=1e-9)


@pytest.mark.parametrize(("n", "order"), [(7, 2), (7, 3), (5, 4), (8, 4)])
def test_gram_spectrum(n, order):
    law = size_law(n, order)
    masks = np.asarray(all_masks(n)).astype(float)
    sizes = masks.sum(1).astype(int)
    probability = law[sizes] / np.bincount(sizes)[sizes]
    columns = masks[:, members_of_size(n, order)].prod(-1)
    spectrum = np.linalg.eigvalsh(columns.T @ (probability[:, None] * columns))
    expected = law @ gram_table(n, order)
    assert {round(x, 9) for x in spectrum} == {round(x, 9) for x in expected}


@pytest.mark.parametrize(("n", "order"), [(7, 3), (5, 4), (8, 4)])
def test_the_expected_gram_matrix_is_inverted(x64, n, order):
    law = size_law(n, order)
    masks = np.asarray(all_masks(n)).astype(float)
    sizes = masks.sum(1).astype(int)
    probability = jnp.asarray(law[sizes] / np.bincount(sizes)[sizes])
    design = design_of_order(jnp.asarray(masks), order, law @ gram_table(n, order))
    a = np.random.default_rng(0).normal(size=len(members_of_size(n, order)))
    a -= a.mean()
    seen = design.adjoint(probability * design.apply(jnp.asarray(a)))
    back = design.invert(design.centre(seen))
    np.testing.assert_allclose(back, a, atol=1e-10)


def test_products_in_blocks(x64, monkeypatch):
    monkeypatch.setattr("shapjax.estimators.subsets.CHUNK_ELEMENTS", 50)
    rng = np.random.default_rng(0)
    z, a, r = rng.normal(size=(12, 6)), rng.normal(size=20), rng.normal(size=12)
    dense = z[:, members_of_size(6, 3)].prod(-1)
    products = Products(jnp.asarray(z), 3)
    np.testing.assert_allclose(products.apply(jnp.asarray(a)), dense @ a, atol=1e-12)
    np.testing.assert_allclose(products.adjoint(jnp.asarray(r)), r @ dense, atol=1e-12)


@pytest.mark.parametrize("n", [1, 4, 6])
def test_positions_and_parts(n):
    for size in range(n + 1):
        members = members_of_size(n, size)
        np.testing.assert_array_equal(positions(members, n), np.arange(len(members)))
        for part in range(size + 1):
            lists = {c: i for i, c in enumerate(itertools.combinations(range(n), part))}
            expected = [[lists[c] for c in itertools.combinations(m, part)] for m in members]
            np.testing.assert_array_equal(parts_of_size(n, size, part), expected)


def test_dividends_of_small_coalitions(x64):
    n, order = 5, 4
    values, _ = table_game(n)
    ranks = [sum(1 << i for i in m) for s in range(order) for m in members_of_size(n, s)]
    found = dividends_below(jnp.asarray(values[ranks]), n, order)
    for a, b in zip(found, by_definition(Game(values), "Moebius", order), strict=False):
        np.testing.assert_allclose(a, b, atol=1e-12)
