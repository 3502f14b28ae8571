"""One interface to every estimator of interaction indices."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.core.checks import MAX_PLAYERS, one_of, whole_number
from shapjax.core.errors import ShapjaxError
from shapjax.core.evaluate import DEFAULT_CHUNK, Progress, ValueFunction, evaluate
from shapjax.core.interactions import Interactions
from shapjax.core.memory import require_memory
from shapjax.core.precision import precision_scope
from shapjax.estimators.regression import Fit, fit_eliminated, fit_large_weight
from shapjax.estimators.sampling import (
    Plan,
    count_constrained,
    every_coalition,
    kernel_direct,
    kernel_weighting,
)
from shapjax.indices.weights import index_and_order

Sampler = Callable[[jax.Array, int, int, int], Plan]
"""(key, n_players, order, rows) to the coalitions of a kernel regression."""

METHODS: dict[str, Sampler] = {
    "kernel-direct": kernel_direct,
    "kernel-weighting": kernel_weighting,
}

CONSTRAINTS = ("eliminate", "weight")

INDICES = ("STII", "SV")


def estimate(
    value_fn: ValueFunction,
    n_players: int,
    index: str = "STII",
    order: int | None = None,
    budget: int = 2000,
    method: str = "kernel-direct",
    *,
    key: jax.Array | int,
    constraints: str = "eliminate",
    chunk_size: int = DEFAULT_CHUNK,
    traceable: bool | None = None,
    progress: Progress | None = None,
) -> Interactions:
    """Estimate interaction indices from a budget of evaluations.

    Args:
        value_fn: worth of coalitions, Boolean [B, n] to [B]: a JAX function (jitted, called in
            chunks of one shape) or any Python callable.
        n_players: n.
        index: ``"STII"`` (Shapley-Taylor) or ``"SV"`` (Shapley value); static.
        order: 1 or 2; by default 2 for STII and 1 for SV; static.
        budget: the most coalitions ever evaluated, the constrained ones included (n + 2 at
            order 2). A coalition drawn twice is evaluated twice. From 2**n on, all coalitions
            are enumerated and the result is exact.
        method: ``"kernel-direct"`` or ``"kernel-weighting"``.
        key: PRNG key or seed; the same key gives the same estimate.
        constraints: ``"eliminate"`` (the default: exact constraints, any precision, never forms
            the design) or ``"weight"`` (the papers' rows of weight 1e8, a dense float64 solve).
        chunk_size: coalitions per call of ``value_fn``.
        traceable: whether ``value_fn`` is a JAX function; None finds out.
        progress: called with (done, total) after every chunk.

    Returns:
        Interactions; ``stats`` holds ``evaluations``, ``v_empty``, ``v_grand``, the ``rows`` and
        ``unknowns`` of the regression, ``underdetermined`` (fewer rows than unknowns, so that
        the least-norm solution is returned), solver ``steps`` and relative ``gradient``.

    Raises:
        ShapjaxError: an argument is out of range, or the budget is below the constrained rows.
        ValueFunctionError: the value function misbehaved.
        MemoryRefused: the masks, or the dense design, do not fit into memory.

    Source: Hamilton et al. 2022, section 5.2; Lundberg & Lee 2017 for order 1.
    """
    n = whole_number(n_players, "n_players", low=1, high=MAX_PLAYERS)
    if index not in INDICES:
        raise ShapjaxError(
            f"index is {index!r}, but only {' and '.join(INDICES)} can be estimated; "
            "shapjax.interactions computes the others exactly."
        )
    order = index_and_order(index, order, n)[1]
    sampler = METHODS[one_of(method, tuple(METHODS), "method")]
    one_of(constraints, CONSTRAINTS, "constraints")
    if order > 2:
        raise ShapjaxError(
            f"order is {order}, but {method} estimates orders 1 and 2; "
            "use shapjax.interactions for higher orders."
        )
    budget = whole_number(budget, "budget", low=0)
    plan = _plan(sampler, as_key(key), n, order, budget)
    masks = np.concatenate([plan.constrained, np.asarray(plan.free)])
    values = evaluate(
        value_fn, masks, chunk_size=chunk_size, traceable=traceable, progress=progress
    )
    fit = _fit(plan, values, order, constraints)
    rows, unknowns = len(plan.free), fit.coefficients[order].size
    stats = {
        "evaluations": len(masks),
        "v_empty": float(values[0]),
        "v_grand": float(values[len(plan.constrained) - 1]),
        "rows": rows,
        "unknowns": unknowns,
        "underdetermined": rows < unknowns - 1,
        "steps": int(fit.steps),
        "gradient": float(fit.gradient),
    }
    return Interactions(fit.coefficients, index, n, None, stats)


def as_key(key: jax.Array | int) -> jax.Array:
    """A PRNG key, from itself or from a seed.

    Raises:
        ShapjaxError: it is neither.
    """
    if isinstance(key, jax.Array):
        raw = key.dtype == np.uint32 and key.shape == (2,)
        if raw or (key.shape == () and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
            return key
        raise ShapjaxError(
            f"key is an array of shape {key.shape} and dtype {key.dtype}, expected one PRNG key "
            "(jax.random.key) or a seed."
        )
    seed = whole_number(key, "seed", low=0, high=2**32 - 1)
    return jax.random.key(seed)


def _plan(sampler: Sampler, key: jax.Array, n: int, order: int, budget: int) -> Plan:
    constrained = count_constrained(n, order)
    total = 1 << n
    if budget < min(constrained, total):
        raise ShapjaxError(
            f"budget is {budget}, but order {order} on {n} players starts with {constrained} "
            f"evaluations (sizes below {order} and the grand coalition); give at least "
            f"{min(constrained, total)}."
        )
    require_memory(
        min(budget, total) * n * 24,
        f"{min(budget, total)} coalitions of {n} players",
        "lower the budget",
    )
    require_memory(8 * 8 * n**order, f"order {order} on {n} players", "merge some players")
    if budget >= total:
        return every_coalition(n, order)
    return sampler(key, n, order, budget - constrained)


def _fit(plan: Plan, values: jax.Array | np.ndarray, order: int, constraints: str) -> Fit:
    """Solve in the precision of the values (at least float32); NumPy in, NumPy out."""
    if constraints == "weight":
        return fit_large_weight(plan, np.asarray(values), order=order)
    dtype = np.promote_types(values.dtype, np.float32)
    with precision_scope(dtype):
        fit = fit_eliminated(
            jnp.asarray(plan.free),
            jnp.asarray(values, dtype),
            jnp.asarray(plan.weights, dtype),
            order=order,
        )
        return jax.tree.map(np.asarray, fit) if isinstance(values, np.ndarray) else fit
