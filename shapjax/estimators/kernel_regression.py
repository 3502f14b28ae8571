"""Estimators of Shapley-Taylor by kernel regression: they differ in the coalitions they draw."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.core.checks import one_of
from shapjax.core.errors import ShapjaxError
from shapjax.core.precision import precision_scope
from shapjax.estimators import kernel_plans, sampling
from shapjax.estimators.kernel_system import system_of
from shapjax.estimators.oracle import Oracle
from shapjax.estimators.protocol import Answer, Problem
from shapjax.estimators.refits import (
    REFITS,
    Draw,
    distinct_by_size,
    independent,
    independent_signs,
    leverage_signs,
    refit,
    require_refits,
    signs_of,
)
from shapjax.estimators.regression import Fit, fit_eliminated, fit_large_weight
from shapjax.estimators.sampling import Plan, every_coalition, require_constrained
from shapjax.estimators.subsets import polynomial_at

Sampler = Callable[[jax.Array, int, int, int], Plan]
"""(key, n_players, order, rows) to the coalitions of a kernel regression."""

CONSTRAINTS = ("eliminate", "weight")


def kernel_direct(
    problem: Problem, oracle: Oracle, *, constraints: str = "eliminate", refits: int = REFITS
) -> Answer:
    """Kernel-Direct: sizes from the kernel's own law, rows unweighted.

    For the indices STII (any order) and SV. Draws are independent, and a coalition drawn twice is
    evaluated twice. Standard errors are None where the rows leave coefficients undetermined (which
    then are those of least norm) or are fewer than the unknowns.

    Args:
        problem: what to estimate.
        oracle: where to ask.
        constraints: ``"eliminate"`` (exact constraints, any precision, never forms the design) or
            ``"weight"`` (the papers' rows of weight 1e8, a dense float64 solve).
        refits: how many fits of residuals the standard errors are made of; 0 leaves them out.

    Source: Hamilton et al. 2022, section 5.2; Lundberg & Lee 2017 for order 1.
    """
    sampler = sampling.kernel_direct
    return _regress("kernel-direct", sampler, problem, oracle, constraints, refits, cached=False)


def traced_kernel_direct(
    problem: Problem,
    game: Callable[[jax.Array], jax.Array],
    budget: int,
    *,
    chunk_size: int = 4096,
    refits: int = REFITS,
) -> Answer:
    """Kernel-Direct as one pure function, for ``jit`` and ``vmap``.

    The coalitions, and up to rounding coefficients and standard errors, are those of
    ``kernel_direct`` for the same problem and budget.

    Args:
        problem: what to estimate; its key may be traced.
        game: worth of masks, Boolean [B, n] to [B]; traced.
        budget: evaluations; static.
        chunk_size: coalitions evaluated together; static.
        refits: as in Kernel-Direct; static.

    Returns:
        Coefficients in the dtype of the worths; stats as those of ``kernel_direct``. Standard
        errors are NaN where the rows leave coefficients undetermined, and None where they are
        fewer than the unknowns.

    Raises:
        ShapjaxError: the budget is below the constrained coalitions.
    """
    n, order = problem.n, problem.order
    constrained = require_constrained(budget, n, order)
    if budget >= 1 << n:
        plan = every_coalition(n, order)
    else:
        plan = sampling.kernel_direct(problem.key, n, order, budget - constrained)
    free = jnp.asarray(plan.free)
    masks = jnp.concatenate([jnp.asarray(plan.constrained), free])
    width = min(chunk_size, len(masks))
    padded = jnp.pad(masks, ((0, -len(masks) % width), (0, 0)))
    values = jax.lax.map(game, padded.reshape(-1, width, n)).reshape(-1)[: len(masks)]
    weights = jnp.asarray(plan.weights, values.dtype)
    fit = fit_eliminated(free, values, weights, order=order)
    stats = {
        "v_empty": values[0],
        "v_grand": values[len(plan.constrained) - 1],
        "evaluations": len(masks),
        "rows": len(free),
        "unknowns": fit.coefficients[order].size,
        "underdetermined": fit.singular,
        "steps": fit.steps,
        "gradient": fit.gradient,
        "smallest": fit.smallest,
    }
    nothing = tuple(jnp.zeros_like(part) for part in fit.coefficients)
    if budget >= 1 << n:
        return Answer(fit.coefficients, nothing, stats)
    if refits == 0 or len(free) < stats["unknowns"]:
        return Answer(fit.coefficients, None, stats)
    top = _refit(
        free,
        values[len(plan.constrained) :],
        weights,
        fit.coefficients,
        independent_signs(len(free), problem.key, refits).astype(values.dtype),
        leverage_signs(len(free), problem.key),
        together=1,
    )
    top = jnp.where(fit.singular, jnp.nan, top)
    return Answer(fit.coefficients, (*nothing[:-1], top), stats)


def kernel_weighting(
    problem: Problem, oracle: Oracle, *, constraints: str = "eliminate", refits: int = REFITS
) -> Answer:
    """Kernel-Weighting: uniform coalitions, rows weighted by the kernel; else as Kernel-Direct.

    Source: Hamilton et al. 2022, section 5.2.
    """
    sampler = sampling.kernel_weighting
    return _regress("kernel-weighting", sampler, problem, oracle, constraints, refits, cached=False)


def kernel_border(
    problem: Problem, oracle: Oracle, *, constraints: str = "eliminate", refits: int = REFITS
) -> Answer:
    """Kernel-Direct without repetitions; else as Kernel-Direct.

    Sizes whose expected count covers them, which are those at both ends, are taken whole; the
    others share the rest by the kernel's law, distinct within their size.

    Source: Hamilton et al. 2022, section 5.2 (the regression); the enumeration of sizes from
    both ends is that of the reference implementation of Lundberg & Lee 2017.
    """
    sampler = kernel_plans.border
    return _regress(
        "kernel-border", sampler, problem, oracle, constraints, refits, draw=distinct_by_size
    )


def kernel_shap(
    problem: Problem,
    oracle: Oracle,
    *,
    paired: bool = True,
    constraints: str = "eliminate",
    refits: int = REFITS,
) -> Answer:
    """KernelSHAP, for SV: independent draws by the Shapley kernel's law.

    Args:
        problem: what to estimate.
        oracle: where to ask; a coalition drawn twice costs nothing.
        paired: whether each coalition comes with its complement.
        constraints: as in Kernel-Direct.
        refits: likewise.

    Source: Lundberg & Lee 2017; Covert & Lee 2021, section 4 (pairs).
    """
    if not isinstance(paired, bool):
        raise ShapjaxError(f"paired is {paired!r}, expected True or False.")
    sampler = kernel_plans.with_complements if paired else sampling.kernel_direct
    draw = functools.partial(_independent, paired=paired)
    return _regress(
        "kernel-shap", sampler, problem, oracle, constraints, refits, draw=draw, first_order=True
    )


def leverage_shap(
    problem: Problem, oracle: Oracle, *, constraints: str = "eliminate", refits: int = REFITS
) -> Answer:
    """Leverage SHAP, for SV: distinct pairs of complements, every size alike, weighted rows.

    Else as Kernel-Direct.

    Source: Musco & Witter 2025, section 3. Deviation: counts of sizes are rounded, not random,
    so that the budget is met.
    """
    sampler = kernel_plans.by_leverage
    draw = functools.partial(distinct_by_size, paired=True)
    return _regress(
        "leverage-shap", sampler, problem, oracle, constraints, refits, draw=draw, first_order=True
    )


def _independent(masks: np.ndarray, *, paired: bool = False) -> Draw:
    return independent(len(masks), paired=paired)


def _regress(
    method: str,
    sampler: Sampler,
    problem: Problem,
    oracle: Oracle,
    constraints: str,
    refits: int,
    *,
    draw: Callable[[np.ndarray], Draw] = _independent,
    cached: bool = True,
    first_order: bool = False,
) -> Answer:
    n, order = problem.n, problem.order
    problem.require_index(method, *(("SV",) if first_order else ("STII", "SV")))
    one_of(constraints, CONSTRAINTS, "constraints")
    refits = require_refits(refits)
    constrained, total = require_constrained(oracle.left, n, order), 1 << n
    everything = oracle.left >= total
    if everything:
        plan = every_coalition(n, order)
    else:
        plan = sampler(problem.key, n, order, oracle.left - constrained)
    values = oracle(np.concatenate([plan.constrained, np.asarray(plan.free)]), cached=cached)
    fit = _fit(plan, values, order, constraints)
    rows, unknowns = len(plan.free), fit.coefficients[order].size
    stats = {
        "v_empty": float(values[0]),
        "v_grand": float(values[len(plan.constrained) - 1]),
        "rows": rows,
        "unknowns": unknowns,
        "underdetermined": bool(fit.singular),
        "steps": int(fit.steps),
        "gradient": float(fit.gradient),
        "smallest": float(fit.smallest),
    }
    if fit.singular or 0 < rows < unknowns:
        return Answer(fit.coefficients, None, stats)
    how = (distinct_by_size if everything else draw)(np.asarray(plan.free))
    errors = _errors(problem, plan, values, fit, how, refits)
    return Answer(fit.coefficients, errors, stats)


def _errors(
    problem: Problem,
    plan: Plan,
    values: jax.Array | np.ndarray,
    fit: Fit,
    draw: Draw,
    refits: int,
) -> tuple[np.ndarray, ...] | None:
    """Standard errors; nothing below the order, whose coefficients are computed."""
    nothing = tuple(np.zeros(part.shape) for part in fit.coefficients)
    if draw.leaves_nothing_out:
        return nothing
    if refits == 0:
        return None
    dtype = np.promote_types(values.dtype, np.float32)
    signs = signs_of(draw, problem.key, refits)
    leverage = leverage_signs(len(draw.unit), problem.key)
    with precision_scope(dtype):
        top = _refit(
            jnp.asarray(plan.free),
            jnp.asarray(values[len(plan.constrained) :], dtype),
            jnp.asarray(plan.weights, dtype),
            tuple(jnp.asarray(part, dtype) for part in fit.coefficients),
            jnp.asarray(signs, dtype),
            leverage,
            draw.together,
        )
        top = np.asarray(top)
    return (*nothing[:-1], top)


@functools.partial(jax.jit, static_argnames="together")
def _refit(
    free: jax.Array,
    values: jax.Array,
    weights: jax.Array,
    coefficients: tuple[jax.Array, ...],
    signs: jax.Array,
    leverage: jax.Array,
    together: int,
) -> jax.Array:
    """Standard errors of the top coefficients, [C(n, k)]."""
    system = system_of(free, weights, len(coefficients) - 1, merged=False)
    residual = system.rows.target(values - polynomial_at(free.astype(values.dtype), coefficients))
    largest = jnp.abs(residual).max()
    unit = jnp.where(largest > 0, largest, 1)
    operator = system.operator()
    found = refit(operator, residual / unit, free, signs, leverage, together)
    moved = jax.lax.map(lambda u: system.design.flatten(system.design.centre(u)), found)
    return unit * jnp.sqrt((moved**2).mean(axis=0))


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
