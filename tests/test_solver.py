"""The matrix-free solver: against dense least squares, singular problems and batches included."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import shapjax as sj
from shapjax.coalitions.enumerate import members_of_size
from shapjax.estimators import kernel_system
from shapjax.estimators import rows as rows_module
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
    """The solver as small problems have it, and as large ones: blocks, pairs, heavy rows.

    Compiled anew, because what counts as large is read at compilation.
    """
    if request.param == "large":
        monkeypatch.setattr(kernel_system, "LARGE", 0)
        monkeypatch.setattr(rows_module, "BLOCK_ROWS", 64)
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
