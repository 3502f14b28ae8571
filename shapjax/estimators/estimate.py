"""One interface to every estimator of interaction indices."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.core.checks import MAX_PLAYERS, whole_number
from shapjax.core.errors import ShapjaxError
from shapjax.core.evaluate import DEFAULT_CHUNK, Progress, ValueFunction
from shapjax.core.interactions import Interactions
from shapjax.core.memory import require_memory
from shapjax.estimators.oracle import Oracle
from shapjax.estimators.protocol import Array, Problem
from shapjax.estimators.registry import estimator_of
from shapjax.indices.cardinal import CardinalIndex
from shapjax.indices.weights import index_and_order


def estimate(
    value_fn: ValueFunction,
    n_players: int,
    index: str | CardinalIndex = "STII",
    order: int | None = None,
    budget: int = 2000,
    method: str = "kernel-direct",
    *,
    key: jax.Array | int,
    p: float | None = None,
    chunk_size: int = DEFAULT_CHUNK,
    traceable: bool | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Interactions:
    """Estimate interaction indices from a budget of evaluations.

    ====================  ============================  =======================================
    method                indices                       coalitions
    ====================  ============================  =======================================
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
    gaussian-process      every index of                distinct; the index of the posterior mean
                          ``interactions``
    shap-iq               likewise                      distinct; sums that are unbiased
    svarm-iq              likewise                      distinct; means by size and intersection
    regression-msr        likewise                      distinct; a polynomial, corrected; unbiased
    proxyshap             likewise                      distinct; boosted trees, corrected; unbiased
    ====================  ============================  =======================================

    A coalition that comes twice is evaluated once and counts once in the budget, but for
    kernel-direct and kernel-weighting, which evaluate and count it again, as their paper does.

    Args:
        value_fn: worth of coalitions, Boolean [B, n] to [B]: a JAX function (jitted, called in
            chunks of one shape) or any Python callable.
        n_players: n.
        index: a name or a ``CardinalIndex``, as in ``shapjax.interactions``; static.
        order: size of the largest coalitions, by default 2, or 1 where the index has no more;
            static.
        budget: the most evaluations there will be. From 2**n on, all coalitions are evaluated
            and the result is exact.
        method: a name from the table, or one given to ``shapjax.estimators.register``.
        key: PRNG key or seed; the same key gives the same estimate.
        p: probability of the indices that have one, as in ``shapjax.interactions``.
        chunk_size: coalitions per call of ``value_fn``.
        traceable: whether ``value_fn`` is a JAX function; None finds out.
        progress: called with (done, most) after every chunk; an estimator may use less than
            the most.
        options: of the method, such as ``constraints`` of the kernel regressions; its own
            docstring says which.

    Returns:
        Interactions, in the kind and precision of the values (at least float32), with standard
        errors where the method has them; ``stats`` holds ``evaluations`` and what the method
        reports. The kernel regressions report ``v_empty``, ``v_grand``, ``rows``, ``unknowns``,
        ``underdetermined`` (fewer rows than unknowns, so that the least-norm solution is
        returned), solver ``steps`` and relative ``gradient``.

    Raises:
        ShapjaxError: an argument is out of range, the method does not estimate the index, or the
            budget is below what it starts with.
        ValueFunctionError: the value function misbehaved.
        MemoryRefused: the masks, the coefficients or a dense design do not fit into memory.

    Source: see each method; the interface and its kernel are of Hamilton et al. 2022, section 5.2.
    """
    n = whole_number(n_players, "n_players", low=1, high=MAX_PLAYERS)
    cardinal, order = index_and_order(index, order, n, p)
    estimator = estimator_of(method, options)
    budget = whole_number(budget, "budget", low=0)
    problem = Problem(n, cardinal, order, as_key(key))
    rows = min(budget, 1 << n)
    require_memory(rows * n * 24, f"{rows} coalitions of {n} players", "lower the budget")
    require_memory(
        8 * 16 * sum(math.comb(n, size) for size in range(order + 1)),
        f"order {order} on {n} players",
        "merge some players",
    )
    oracle = Oracle(
        value_fn, n, budget, chunk_size=chunk_size, traceable=traceable, progress=progress
    )
    answer = estimator(problem, oracle, **options)

    def like_the_values(parts: tuple[Array, ...]) -> tuple[Array, ...]:
        dtype = np.promote_types(oracle.dtype, np.float32)
        cast = jnp.asarray if oracle.traced else np.asarray
        return tuple(cast(part, dtype) for part in parts)

    errors = answer.standard_errors
    return Interactions(
        like_the_values(answer.coefficients),
        cardinal.label,
        n,
        None if errors is None else like_the_values(errors),
        {"evaluations": oracle.spent, **answer.stats},
    )


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
