"""The matrix-free solver: against dense least squares, singular problems and batches included."""

import dataclasses
import functools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import shapjax as sj
from shapjax.coalitions.enumerate import members_of_size
from shapjax.estimators import kernel_system, row_blocks
from shapjax.estimators.pair_rows import pair_rows
from shapjax.estimators.regression import fit_eliminated
from shapjax.estimators.sampling import constrained_masks, kernel_direct, kernel_weighting
from shapjax.estimators.stopping import until_tolerance

direct = functools.partial(sj.estimate, method="kernel-direct")


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=["small", "large"])
def solver(request, monkeypatch):
    """The solver as small problems have it, and as large ones: blocks, lists, pairs, heavy rows.

    Compiled anew, because what counts as large is read at compilation.
    """
    if request.param == "large":
        monkeypatch.setattr(kernel_system, "LARGE", 0)
        monkeypatch.setattr(row_blocks, "BLOCK_ROWS", 16)
        monkeypatch.setattr(row_blocks, "SHORT", 2)
    return lambda order=2: jax.jit(functools.partial(fit_eliminated.__wrapped__, order=order))


def problem(n, order, rows, seed=0, sampler=kernel_direct):
    """Masks, values without any structure (duplicates disagree), weights."""
    plan = sampler(jax.random.key(seed), n, order, rows)
    rng = np.random.default_rng(seed)
    values = rng.normal(size=len(plan.constrained) + rows)
    return np.array(plan.free), values, plan.weights


def by_pseudoinverse(free, values, weights, order):
    """Least squares on the hyperplane of the known sum; of least norm where there are many."""
    rows, n = free.shape
    empty, alone = values[0], values[1 : n + 1] - values[0]
    known = empty + (free @ alone if order == 2 else 0)
    total = values[-rows - 1] - empty - (alone.sum() if order == 2 else 0)
    design = free[:, members_of_size(n, order)].all(-1).astype(float)
    count = design.shape[1]
    base = np.full(count, total / count)
    centre = np.eye(count) - 1 / count
    root = np.sqrt(weights)[:, None]
    target = root[:, 0] * (values[-rows:] - known - design @ base)
    return base + np.linalg.lstsq(root * design @ centre, target, rcond=1e-10)[0]


def fit(solver, free, values, weights, order=2):
    return solver(order)(jnp.asarray(free), jnp.asarray(values), jnp.asarray(weights))


@pytest.mark.parametrize("sampler", [kernel_direct, kernel_weighting])
def test_it_is_dense_least_squares(solver, sampler):
    free, values, weights = problem(12, 2, 400, sampler=sampler)
    found = fit(solver, free, values, weights)
    expected = by_pseudoinverse(free, values, weights, 2)
    np.testing.assert_allclose(found.coefficients[2], expected, rtol=1e-8, atol=1e-9)
    assert not found.singular
    assert 0 < found.smallest < 10


@pytest.mark.parametrize(("n", "order", "rows"), [(10, 2, 25), (9, 1, 5), (6, 3, 9)])
def test_too_few_rows_give_the_least_norm(solver, n, order, rows):
    free, _, weights = problem(n, order, rows)
    worth = np.random.default_rng(1).normal(size=2**n)
    masks = np.concatenate([constrained_masks(n, order), free])
    values = worth[masks @ (1 << np.arange(n))]
    found = fit(solver, free, values, weights, order)
    assert found.singular
    assert found.smallest < 1e-9
    if order < 3:
        expected = by_pseudoinverse(free, values, weights, order)
        np.testing.assert_allclose(found.coefficients[order], expected, atol=1e-8)


@pytest.mark.parametrize("sampler", [kernel_direct, kernel_weighting])
def test_too_few_rows_of_many_players_give_it_to_five_digits(solver, sampler):
    """Values without structure, so that what no coefficients can fit is large, and weighed."""
    free, values, weights = problem(26, 2, 200, sampler=sampler)
    assert math.comb(26, 2) > 300
    found = fit(solver, free, values, weights)
    assert found.singular
    expected = by_pseudoinverse(free, values, weights, 2)
    error = np.linalg.norm(found.coefficients[2] - expected)
    assert error < 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("short", [1, 2, 1000])
def test_rows_of_pairs_are_the_design(monkeypatch, short):
    """Lists, products and single pairs, each against dense rows; whitening by definition."""
    monkeypatch.setattr(row_blocks, "BLOCK_ROWS", 16)
    monkeypatch.setattr(row_blocks, "SHORT", short)
    n, count = 18, math.comb(18, 2)
    free, values, weights = problem(n, 2, 140)
    values, weights = values[-140:], weights * np.linspace(0.5, 1, 140)
    rows = pair_rows(jnp.asarray(free), jnp.asarray(weights))
    upper = np.triu_indices(n, 1)
    basis = np.zeros((count, n, n))
    basis[:, *upper] = np.eye(count)
    basis = jnp.asarray(basis + basis.swapaxes(1, 2))

    def matrix(of):
        return np.asarray(jax.jit(jax.vmap(of, out_axes=1))(basis))

    dense = matrix(lambda a: rows.forward(a, rows.roots))
    design = free[:, members_of_size(n, 2)].all(-1) * np.sqrt(weights)[:, None]
    np.testing.assert_allclose(dense.T @ dense, design.T @ design, atol=1e-12)
    target = rows.target(jnp.asarray(values))
    np.testing.assert_allclose(dense.T @ target, design.T @ (np.sqrt(weights) * values), atol=1e-12)
    np.testing.assert_allclose(target @ target, weights @ values**2)
    r = jnp.asarray(np.random.default_rng(0).normal(size=len(dense)))
    np.testing.assert_allclose(
        2 * np.asarray(rows.adjoint(r, rows.roots))[upper], dense.T @ r, atol=1e-12
    )

    even = matrix(lambda a: rows.forward(a, rows.even))
    some = np.linspace(-1, 1, count)
    np.testing.assert_allclose(
        rows.alike.evened(jnp.asarray(dense @ some)), even @ some, atol=1e-12
    )
    incidence = (members_of_size(n, 2)[:, :, None] == np.arange(n)).any(1).astype(float)
    onto = incidence - incidence.mean(axis=0)
    alike = even @ onto @ np.linalg.pinv(onto)
    white = np.asarray(jax.jit(jax.vmap(rows.alike.whiten, out_axes=1))(jnp.eye(len(even))))
    inverse = np.linalg.inv(np.eye(len(even)) + alike @ alike.T)
    np.testing.assert_allclose(white @ white, inverse, atol=1e-10)
    np.testing.assert_allclose(white, white.T, atol=1e-12)


def never_seen(free):
    """Two pairs that no row holds: only the sum of their coefficients is known."""
    for i, j in ((0, 1), (2, 3)):
        free[free[:, i] & free[:, j], j] = False


def test_pairs_that_no_row_holds_are_singular_whatever_the_rows(solver):
    free, values, weights = problem(9, 2, 500)
    never_seen(free)
    found = fit(solver, free, values, weights)
    assert found.singular
    expected = by_pseudoinverse(free, values, weights, 2)
    np.testing.assert_allclose(found.coefficients[2], expected, atol=1e-8)


def test_repeated_rows_are_no_new_rows(solver):
    free, values, weights = problem(10, 2, 20)
    values = np.concatenate([values[:-20], np.tile(values[-20:], 8)])
    many, weights = np.tile(free, (8, 1)), np.tile(weights, 8)
    found = fit(solver, many, values, weights)
    assert found.singular
    expected = by_pseudoinverse(many, values, weights, 2)
    np.testing.assert_allclose(found.coefficients[2], expected, atol=1e-8)


def test_estimates_say_so():
    game = lambda m: np.sin(np.asarray(m) @ np.arange(8.0))  # noqa: E731
    assert direct(game, 8, budget=25, key=0).stats["underdetermined"]
    full = direct(game, 8, budget=200, key=0).stats
    assert not full["underdetermined"]
    assert full["smallest"] > 1e-3


def test_a_batch_of_problems_under_vmap(solver):
    """Masks, values and weights differ; the middle one is singular, its neighbours are not."""
    batch = [problem(8, 2, 90, seed) for seed in range(3)]
    never_seen(batch[1][0])
    stacked = [jnp.asarray(np.stack(part)) for part in zip(*batch, strict=True)]
    found = jax.jit(jax.vmap(solver()))(*stacked)
    assert found.singular.tolist() == [False, True, False]
    for pairs, one in zip(found.coefficients[2], batch, strict=True):
        np.testing.assert_allclose(pairs, by_pseudoinverse(*one, 2), atol=1e-8)


def test_growing_budgets_go_past_rows_that_leave_terms_open():
    game = lambda m: np.sin(np.asarray(m) @ np.arange(8.0))  # noqa: E731
    known = direct(game, 8, budget=200, key=0)
    opened = dataclasses.replace(known, standard_errors=None, stats={"underdetermined": True})
    asked = []

    def run(budget, _):
        asked.append(budget)
        return opened if len(asked) < 3 else known

    problem = types.SimpleNamespace(n=8, order=2)
    found = until_tolerance(run, problem, "kernel-direct", 1e6, None, None)
    assert len(asked) == 3
    assert found.stats["converged"]
