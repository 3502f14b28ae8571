"""Sweeps over seeds as one compiled program, for estimators that are pure JAX from end to end.

Such an estimator is a plan (PRNG key to coalitions) and a fit (worths to coefficients). Between
them stands a look-up in the game's value table, so that drawing, evaluating, solving and scoring
for all seeds are one jitted function under ``vmap``.
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
from shapjax.estimators import Answer, Oracle, Problem, sampling
from shapjax.estimators.enumeration import enumerated
from shapjax.estimators.regression import fit_eliminated
from shapjax.estimators.sampling import constrained_masks, count_constrained, draw_by_size
from shapjax.estimators.subsets import dividends_below

Coefficients = tuple[jax.Array, ...]


class Pure(NamedTuple):
    """An estimator of STII (and, at order 1, of SV) without NumPy inside.

    Attributes:
        plan: (key, n, order, budget) to the coalitions to evaluate, Boolean [M, n], M <= budget.
        fit: (those coalitions, their worths, order) to coefficients per size.
    """

    plan: Callable[[jax.Array, int, int, int], jax.Array]
    fit: Callable[[jax.Array, jax.Array, int], Coefficients]


def _kernel_plan(law: Callable[[int, int], np.ndarray]) -> Callable[..., jax.Array]:
    def plan(key: jax.Array, n: int, order: int, budget: int) -> jax.Array:
        rows = budget - count_constrained(n, order)
        free = draw_by_size(key, jnp.asarray(law(n, order), jnp.float32), rows=rows)
        return jnp.concatenate([jnp.asarray(constrained_masks(n, order)), free])

    return plan


def _kernel_fit(weighted: bool) -> Callable[..., Coefficients]:
    def fit(masks: jax.Array, values: jax.Array, order: int) -> Coefficients:
        n = masks.shape[1]
        free = masks[count_constrained(n, order) :]
        by_size = jnp.asarray(sampling.kernel(n, order), values.dtype)
        weights = by_size[free.sum(axis=1)] if weighted else jnp.ones(len(free), values.dtype)
        return fit_eliminated(free, values, weights, order=order).coefficients

    return fit


def _plan_by_sets(key: jax.Array, n: int, order: int, budget: int) -> jax.Array:
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
    return jnp.concatenate([jnp.asarray(constrained_masks(n, order)), drawn.reshape(-1, n)])


def _fit_by_sets(masks: jax.Array, values: jax.Array, order: int) -> Coefficients:
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


PURE = {
    "kernel-direct": Pure(_kernel_plan(sampling.size_law), _kernel_fit(weighted=False)),
    "kernel-weighting": Pure(_kernel_plan(sampling.uniform_law), _kernel_fit(weighted=True)),
    "permutation-by-sets": Pure(_plan_by_sets, _fit_by_sets),
}
"""The paper's three estimators; the last is its baseline, which shares nothing between sets."""


def permutation_by_sets(problem: Problem, oracle: Oracle) -> Answer:
    """Permutation sampling, one set at a time: the baseline of Hamilton et al. 2022, fig. 5.

    Every derivative has an order of arrival of its own and all its 2**k coalitions are paid for,
    as where the sets are estimated by separate procedures.
    """
    problem.require_index("permutation-by-sets", "STII", "SV")
    if oracle.left >= 1 << problem.n:
        return enumerated(problem, oracle)
    masks = _planned(problem.key, problem.n, problem.order, oracle.left)
    values = oracle(np.asarray(masks), cached=False)
    return Answer(_fitted(masks, jnp.asarray(values), problem.order), None, {})


_planned = jax.jit(_plan_by_sets, static_argnums=(1, 2, 3))
_fitted = jax.jit(_fit_by_sets, static_argnums=2)


@functools.partial(jax.jit, static_argnames=("method", "order", "budget"))
def sweep(
    seeds: jax.Array, tables: jax.Array, *, method: str, order: int, budget: int
) -> Coefficients:
    """Estimates of STII of many games, one seed each, by one program.

    Args:
        seeds: int [seeds]; each is what ``key`` of ``shapjax.estimate`` would be.
        tables: worth of all coalitions, float64 [seeds, 2**n].
        method: a name in ``PURE``; static.
        order: static.
        budget: static; below 2**n.

    Returns:
        Per size [seeds, C(n, s)].
    """
    plan, fit = PURE[method]
    n = tables.shape[1].bit_length() - 1

    def one(seed: jax.Array, table: jax.Array) -> Coefficients:
        masks = plan(jax.random.key(seed), n, order, budget)
        return fit(masks, table[masks @ (1 << jnp.arange(n))], order)

    return jax.vmap(one)(seeds, tables)
