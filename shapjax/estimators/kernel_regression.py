"""Estimators of Shapley-Taylor by kernel regression: they differ in the coalitions they draw."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.core.checks import one_of
from shapjax.core.errors import ShapjaxError
from shapjax.core.precision import precision_scope
from shapjax.estimators import kernel_plans, sampling
from shapjax.estimators.oracle import Oracle
from shapjax.estimators.protocol import Answer, Problem
from shapjax.estimators.regression import Fit, fit_eliminated, fit_large_weight
from shapjax.estimators.sampling import Plan, every_coalition, require_constrained

Sampler = Callable[[jax.Array, int, int, int], Plan]
"""(key, n_players, order, rows) to the coalitions of a kernel regression."""

CONSTRAINTS = ("eliminate", "weight")


def kernel_direct(problem: Problem, oracle: Oracle, *, constraints: str = "eliminate") -> Answer:
    """Kernel-Direct: sizes from the kernel's own law, rows unweighted.

    For the indices STII (any order) and SV. Draws are independent, and a coalition drawn twice is
    evaluated twice.

    Args:
        problem: what to estimate.
        oracle: where to ask.
        constraints: ``"eliminate"`` (exact constraints, any precision, never forms the design) or
            ``"weight"`` (the papers' rows of weight 1e8, a dense float64 solve).

    Source: Hamilton et al. 2022, section 5.2; Lundberg & Lee 2017 for order 1.
    """
    sampler = sampling.kernel_direct
    return _regress("kernel-direct", sampler, problem, oracle, constraints, cached=False)


def kernel_weighting(problem: Problem, oracle: Oracle, *, constraints: str = "eliminate") -> Answer:
    """Kernel-Weighting: uniform coalitions, rows weighted by the kernel; else as Kernel-Direct.

    Source: Hamilton et al. 2022, section 5.2.
    """
    sampler = sampling.kernel_weighting
    return _regress("kernel-weighting", sampler, problem, oracle, constraints, cached=False)


def kernel_border(problem: Problem, oracle: Oracle, *, constraints: str = "eliminate") -> Answer:
    """Kernel-Direct without repetitions; else as Kernel-Direct.

    Sizes whose expected count covers them, which are those at both ends, are taken whole; the
    others share the rest by the kernel's law, distinct within their size.

    Source: Hamilton et al. 2022, section 5.2 (the regression); the enumeration of sizes from
    both ends is that of the reference implementation of Lundberg & Lee 2017.
    """
    return _regress("kernel-border", kernel_plans.border, problem, oracle, constraints)


def kernel_shap(
    problem: Problem, oracle: Oracle, *, paired: bool = True, constraints: str = "eliminate"
) -> Answer:
    """KernelSHAP, for SV: independent draws by the Shapley kernel's law.

    Args:
        problem: what to estimate.
        oracle: where to ask; a coalition drawn twice costs nothing.
        paired: whether each coalition comes with its complement.
        constraints: as in Kernel-Direct.

    Source: Lundberg & Lee 2017; Covert & Lee 2021, section 4 (pairs).
    """
    if not isinstance(paired, bool):
        raise ShapjaxError(f"paired is {paired!r}, expected True or False.")
    sampler = kernel_plans.with_complements if paired else sampling.kernel_direct
    return _regress("kernel-shap", sampler, problem, oracle, constraints, first_order=True)


def leverage_shap(problem: Problem, oracle: Oracle, *, constraints: str = "eliminate") -> Answer:
    """Leverage SHAP, for SV: distinct pairs of complements, every size alike, weighted rows.

    Source: Musco & Witter 2025, section 3. Deviation: counts of sizes are rounded, not random,
    so that the budget is met.
    """
    sampler = kernel_plans.by_leverage
    return _regress("leverage-shap", sampler, problem, oracle, constraints, first_order=True)


def _regress(
    method: str,
    sampler: Sampler,
    problem: Problem,
    oracle: Oracle,
    constraints: str,
    *,
    cached: bool = True,
    first_order: bool = False,
) -> Answer:
    n, order = problem.n, problem.order
    problem.require_index(method, *(("SV",) if first_order else ("STII", "SV")))
    one_of(constraints, CONSTRAINTS, "constraints")
    constrained, total = require_constrained(oracle.left, n, order), 1 << n
    if oracle.left >= total:
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
    return Answer(fit.coefficients, None, stats)


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
