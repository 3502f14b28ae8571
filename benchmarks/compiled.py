"""Sweeps over seeds as one compiled program, for estimators that ask for all coalitions at once.

Such an estimator is a plan (PRNG key to coalitions with their weights) and a fit (worths to
coefficients). Between them stands a look-up in the game's value table, so that evaluating and
solving for all seeds are one jitted function under ``vmap``, and drawing too where the plan is pure
JAX. Coalitions that never repeat are drawn by NumPy, in as many rows whatever the seed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.coalitions.enumerate import members_of_size
from shapjax.core.errors import ShapjaxError
from shapjax.estimators import Answer, Oracle, Problem, kernel_plans, sampling
from shapjax.estimators.enumeration import enumerated
from shapjax.estimators.regression import fit_eliminated
from shapjax.estimators.sampling import constrained_masks, count_constrained, draw_by_size
from shapjax.estimators.subsets import dividends_below

Coefficients = tuple[jax.Array, ...]


Drawn = tuple[jax.Array | np.ndarray, jax.Array | np.ndarray]
"""Coalitions to evaluate, Boolean [M, n], and the weights of those that are not constrained."""


class Planned(NamedTuple):
    """An estimator of STII (and, at order 1, of SV) that knows beforehand what it will ask.

    Attributes:
        plan: (key, n, order, budget) to ``Drawn``, at most ``budget`` coalitions.
        fit: (coalitions, their weights, their worths, order) to coefficients per size; pure JAX.
        traced: whether the plan is pure JAX as well.
    """

    plan: Callable[[jax.Array, int, int, int], Drawn]
    fit: Callable[[jax.Array, jax.Array, jax.Array, int], Coefficients]
    traced: bool


def _traced_kernel(law: Callable[[int, int], np.ndarray], *, weighted: bool) -> Planned:
    """Independent draws by a law of sizes."""

    def plan(key: jax.Array, n: int, order: int, budget: int) -> Drawn:
        rows = budget - count_constrained(n, order)
        free = draw_by_size(key, jnp.asarray(law(n, order), jnp.float32), rows=rows)
        by_size = jnp.asarray(sampling.kernel(n, order)) if weighted else jnp.ones(n + 1)
        masks = jnp.concatenate([jnp.asarray(constrained_masks(n, order)), free])
        return masks, by_size[free.sum(axis=1)]

    return Planned(plan, _fit_kernel, traced=True)


def _drawn_kernel(sampler: Callable[[jax.Array, int, int, int], sampling.Plan]) -> Planned:
    """Coalitions of one of the library's samplers."""

    def plan(key: jax.Array, n: int, order: int, budget: int) -> Drawn:
        drawn = sampler(key, n, order, budget - count_constrained(n, order))
        return np.concatenate([drawn.constrained, np.asarray(drawn.free)]), drawn.weights

    return Planned(plan, _fit_kernel, traced=False)


def _fit_kernel(
    masks: jax.Array, weights: jax.Array, values: jax.Array, order: int
) -> Coefficients:
    free = masks[count_constrained(masks.shape[1], order) :]
    return fit_eliminated(free, values, weights.astype(values.dtype), order=order).coefficients


def _plan_by_sets(key: jax.Array, n: int, order: int, budget: int) -> Drawn:
    known, each = count_constrained(n, order), math.comb(n, order) << order
    count = (budget - known) // each
    if count < 1:
        raise ShapjaxError(
            f"budget is {budget}, but one derivative of every set of {order} of {n} players takes "
            f"{known + each} evaluations; give at least as many."
        )
    members, corners = members_of_size(n, order), _corners(n, order)
    arrival = jax.random.uniform(key, (count, len(members), n), jnp.float32)
    first = jnp.take_along_axis(arrival, jnp.asarray(members)[None], axis=2).min(axis=2)
    before = arrival < first[..., None]
    drawn = before[:, :, None, :] | corners
    masks = jnp.concatenate([jnp.asarray(constrained_masks(n, order)), drawn.reshape(-1, n)])
    return masks, jnp.ones(len(masks) - known)


def _fit_by_sets(
    masks: jax.Array, weights: jax.Array, values: jax.Array, order: int
) -> Coefficients:
    n = masks.shape[1]
    known = count_constrained(n, order)
    signs = (-1.0) ** (order - np.array([bin(part).count("1") for part in range(1 << order)]))
    worth = values[known:].reshape(-1, math.comb(n, order), 1 << order)
    return (*dividends_below(values[:known], n, order), (worth @ signs).mean(axis=0))


def _corners(n: int, order: int) -> np.ndarray:
    """Every part of every set of ``order`` players, Boolean [C(n, k), 2**k, n]."""
    parts = np.arange(1 << order)[:, None] >> np.arange(order) & 1 == 1
    members = members_of_size(n, order)
    out = np.zeros((len(members), len(parts), n), bool)
    np.put_along_axis(out, members[:, None, :] + np.zeros((len(parts), 1), int), parts, axis=2)
    return out


PLANNED = {
    "kernel-direct": _traced_kernel(sampling.size_law, weighted=False),
    "kernel-weighting": _traced_kernel(sampling.uniform_law, weighted=True),
    "permutation-by-sets": Planned(_plan_by_sets, _fit_by_sets, traced=True),
    "kernel-border": _drawn_kernel(kernel_plans.border),
    "kernel-shap": _drawn_kernel(kernel_plans.with_complements),
    "leverage-shap": _drawn_kernel(kernel_plans.by_leverage),
}
"""The paper's three estimators, its baseline ``permutation-by-sets`` (which shares nothing between
sets) among them, then the other kernel regressions; the last two are of order 1."""


def permutation_by_sets(problem: Problem, oracle: Oracle) -> Answer:
    """Permutation sampling, one set at a time: the baseline of Hamilton et al. 2022, fig. 5.

    Every derivative has an order of arrival of its own and all its 2**k coalitions are paid for,
    as where the sets are estimated by separate procedures.
    """
    problem.require_index("permutation-by-sets", "STII", "SV")
    if oracle.left >= 1 << problem.n:
        return enumerated(problem, oracle)
    masks, weights = _planned(problem.key, problem.n, problem.order, oracle.left)
    values = oracle(np.asarray(masks), cached=False)
    return Answer(_fitted(masks, weights, jnp.asarray(values), problem.order), None, {})


_planned = jax.jit(_plan_by_sets, static_argnums=(1, 2, 3))
_fitted = jax.jit(_fit_by_sets, static_argnums=3)


def sweep(
    seeds: jax.Array, tables: jax.Array, *, method: str, order: int, budget: int
) -> Coefficients:
    """Estimates of STII of many games, one seed each, by one program.

    Args:
        seeds: int [seeds]; each is what ``key`` of ``shapjax.estimate`` would be.
        tables: worth of all coalitions, float64 [seeds, 2**n].
        method: a name in ``PLANNED``.
        order: of the index.
        budget: below 2**n.

    Returns:
        Per size [seeds, C(n, s)].
    """
    plan, _, traced = PLANNED[method]
    n = tables.shape[1].bit_length() - 1
    if traced:
        return _swept(seeds, tables, method=method, order=order, budget=budget)
    plans = [plan(jax.random.key(seed), n, order, budget) for seed in np.asarray(seeds)]
    masks, weights = (jnp.asarray(np.stack(part)) for part in zip(*plans, strict=True))
    return _solved(masks, weights, tables, method=method, order=order)


@functools.partial(jax.jit, static_argnames=("method", "order", "budget"))
def _swept(
    seeds: jax.Array, tables: jax.Array, *, method: str, order: int, budget: int
) -> Coefficients:
    n = tables.shape[1].bit_length() - 1

    def draw(seed: jax.Array) -> Drawn:
        return PLANNED[method].plan(jax.random.key(seed), n, order, budget)

    masks, weights = jax.vmap(draw)(seeds)
    return _solved(masks, weights, tables, method=method, order=order)


@functools.partial(jax.jit, static_argnames=("method", "order"))
def _solved(
    masks: jax.Array, weights: jax.Array, tables: jax.Array, *, method: str, order: int
) -> Coefficients:
    n = tables.shape[1].bit_length() - 1

    def one(masks: jax.Array, weights: jax.Array, table: jax.Array) -> Coefficients:
        values = table[masks @ (1 << jnp.arange(n))]
        return PLANNED[method].fit(masks, weights, values, order)

    return jax.vmap(one)(masks, weights, tables)
