"""One interface to every estimator of interaction indices."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.core.checks import MAX_PLAYERS, whole_number
from shapjax.core.errors import ShapjaxError
from shapjax.core.interactions import Interactions
from shapjax.core.memory import require_memory
from shapjax.core.worths import DEFAULT_CHUNK, Progress, ValueFunction
from shapjax.estimators.evaluations import Evaluations
from shapjax.estimators.oracle import Oracle
from shapjax.estimators.protocol import Answer, Array, Problem
from shapjax.estimators.registry import estimator_of
from shapjax.estimators.stopping import until_tolerance
from shapjax.indices.cardinal import CardinalIndex
from shapjax.indices.weights import index_and_order


def estimate(
    value_fn: ValueFunction,
    n_players: int,
    index: str | CardinalIndex = "STII",
    order: int | None = None,
    budget: int | Literal["auto"] = 2000,
    method: str = "auto",
    *,
    key: jax.Array | int,
    p: float | None = None,
    tolerance: float | None = None,
    max_budget: int | None = None,
    evaluations: Evaluations | None = None,
    chunk_size: int = DEFAULT_CHUNK,
    traceable: bool | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Interactions:
    """Estimate interaction indices from a budget of evaluations.

    ====================  ============================  =======================================
    method                indices                       coalitions
    ====================  ============================  =======================================
    auto                  every index of                distinct; a surrogate, corrected where
                          ``interactions``              coalitions held out show that it errs
    kernel-direct         STII of any order, SV         independent, by the kernel's law of sizes
    kernel-weighting      STII of any order, SV         independent, uniform; weighted rows
    kernel-border         STII of any order, SV         distinct; sizes at both ends taken whole
    kernel-shap           SV                            independent, with their complements
    leverage-shap         SV                            distinct, with complements, sizes alike
    kernelshap-iq         SII, k-SII of any order       distinct; sizes at both ends taken whole
    permutation           STII of any order, SV         along orders of arrival; unbiased
    faithful-regression   FSII, FBII of any order       distinct, by the law of the regression
    lime                  FBII, with an L1 penalty      distinct, by LIME's local weight
    fixlip                FBII of order 2               masks of one item by masks of the other
    gaussian-process      as auto                       distinct; the index of the posterior mean
    shap-iq               likewise                      distinct; sums that are unbiased
    svarm-iq              likewise                      distinct; means by size and intersection
    regression-msr        likewise                      distinct; a polynomial, corrected; unbiased
    proxyshap             likewise                      distinct; boosted trees, corrected; unbiased
    ====================  ============================  =======================================

    No coalition is evaluated twice. One that comes twice counts once in the budget, but for
    kernel-direct and kernel-weighting, where it counts again, as in their paper.

    With the same key a larger budget draws the same coalitions and more (nearly so where counts of
    sizes are rounded), so that an estimate is refined for the price of what is new::

        known = shapjax.Evaluations()
        rough = shapjax.estimate(game, 30, budget=1000, key=0, evaluations=known)
        finer = shapjax.estimate(game, 30, budget=4000, key=0, evaluations=known)

    Args:
        value_fn: worth of coalitions, Boolean [B, n] to [B]: a JAX function (jitted, called in
            chunks of one shape) or any Python callable.
        n_players: n.
        index: a name or a ``CardinalIndex``, as in ``shapjax.interactions``; static.
        order: size of the largest coalitions, by default 2, or 1 where the index has no more;
            static.
        budget: the most evaluations there will be. From 2**n on, all coalitions are evaluated
            and the result is exact. ``"auto"`` goes on until ``tolerance`` is met.
        method: a name from the table, or one given to ``shapjax.estimators.register``.
        key: PRNG key or seed; the same key gives the same estimate.
        p: probability of the indices that have one, as in ``shapjax.interactions``.
        tolerance: with ``budget="auto"``, the largest standard error that a coefficient of one
            player or more may keep, in units of the game.
        max_budget: with ``budget="auto"``, the most evaluations, by default 100,000.
        evaluations: those of earlier estimates of the same game, by any method; what they hold is
            not evaluated again (it counts in the budget), and what is new is added to them.
        chunk_size: coalitions per call of ``value_fn``.
        traceable: whether ``value_fn`` is a JAX function; None finds out.
        progress: called with (done, most) after every chunk; an estimator may use less than
            the most.
        options: of the method, such as ``constraints`` of the kernel regressions; its own
            docstring says which.

    Returns:
        Interactions, in the kind and precision of the values (at least float32), with standard
        errors where the method has them; ``stats`` holds ``evaluations`` (what was spent of the
        budget), with ``evaluations=`` also ``new_evaluations``, with ``budget="auto"`` also
        ``converged`` and ``largest_error``, and what the method reports. The kernel regressions
        report ``v_empty``, ``v_grand``, ``rows``, ``unknowns``, ``underdetermined`` (the rows
        leave coefficients open, so that of all that fit best those of least norm are returned),
        solver ``steps``, relative ``gradient``, and how far the rows are from leaving some open:
        ``smallest``, about the smallest eigenvalue of their Gram matrix over the least expected.

    Raises:
        ShapjaxError: an argument is out of range, the method does not estimate the index, the
            budget is below what it starts with, or ``"auto"`` is asked of a method that gives no
            standard errors.
        ValueFunctionError: the value function misbehaved.
        MemoryRefused: the masks, the coefficients or a dense design do not fit into memory.

    Source: see each method; the interface and its kernel are of Hamilton et al. 2022, section 5.2.
    """
    n = whole_number(n_players, "n_players", low=1, high=MAX_PLAYERS)
    cardinal, order = index_and_order(index, order, n, p)
    estimator = functools.partial(estimator_of(method, options), **options)
    if not isinstance(evaluations, Evaluations | None):
        raise ShapjaxError(
            f"evaluations is a {type(evaluations).__name__}, expected shapjax.Evaluations, which "
            "an earlier estimate was given."
        )
    problem = Problem(n, cardinal, order, as_key(key))
    require_memory(
        8 * 16 * sum(math.comb(n, size) for size in range(order + 1)),
        f"order {order} on {n} players",
        "merge some players",
    )

    def run(budget: int, known: Evaluations | None) -> Interactions:
        rows = min(budget, 1 << n)
        require_memory(rows * n * 24, f"{rows} coalitions of {n} players", "lower the budget")
        oracle = Oracle(
            value_fn,
            n,
            budget,
            chunk_size=chunk_size,
            traceable=traceable,
            progress=progress,
            evaluations=known,
        )
        found = _in_kind(estimator(problem, oracle), problem, oracle)
        return found if known is None else _with(found, new_evaluations=oracle.evaluated)

    if budget == "auto":
        return until_tolerance(run, problem, method, tolerance, max_budget, evaluations)
    if tolerance is not None or max_budget is not None:
        raise ShapjaxError(
            f'budget is {budget}, but tolerance and max_budget go with budget="auto"; '
            "leave them out, or the budget."
        )
    return run(whole_number(budget, "budget", low=0), evaluations)


def _in_kind(answer: Answer, problem: Problem, oracle: Oracle) -> Interactions:
    """The answer in the kind and precision of the values."""

    def cast(parts: tuple[Array, ...]) -> tuple[Array, ...]:
        dtype = np.promote_types(oracle.dtype, np.float32)
        as_array = jnp.asarray if oracle.traced else np.asarray
        return tuple(as_array(part, dtype) for part in parts)

    errors = answer.standard_errors
    return Interactions(
        cast(answer.coefficients),
        problem.index.label,
        problem.n,
        None if errors is None else cast(errors),
        {"evaluations": oracle.spent, **answer.stats},
    )


def _with(found: Interactions, **stats: Any) -> Interactions:
    return dataclasses.replace(found, stats={**found.stats, **stats})


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
