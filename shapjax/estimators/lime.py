r"""Joint LIME: a polynomial in the masks fitted near the grand coalition, with an L1 penalty.

With the local weight :math:`e^{-\lambda |N \setminus T| / n}` each player is present with odds
:math:`e^{\lambda/n}`, all independently. So without a penalty LIME of degree k is the faithful
Banzhaf index FBII of order k with :math:`p = 1/(1 + e^{-\lambda/n})`, and the locality of LIME is
the p of the index: :math:`\lambda = n \log(p/(1-p))`, and p = 1/2 weighs all coalitions alike.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.core.checks import one_of, whole_number
from shapjax.core.errors import ShapjaxError
from shapjax.core.precision import precision_scope
from shapjax.estimators.distinct import generator_of
from shapjax.estimators.faithful import (
    binomial_law,
    expanded,
    fit_polynomial,
    polynomial_errors,
    product_operators,
    weighted_rows,
)
from shapjax.estimators.fixlip import PAIRS
from shapjax.estimators.oracle import Oracle
from shapjax.estimators.protocol import Answer, Problem
from shapjax.estimators.refits import (
    MOST_LEVERAGE,
    REFITS,
    distinct_by_size,
    require_refits,
    signs_of,
)

GAP = 1e-9
"""Duality gap, relative to half the weighted square of the centred values, that is enough."""

REFIT_GAP = 1e-5
MOST_STEPS = 20_000
STEPS_BETWEEN = 20
POWER_STEPS = 100


def lime(
    problem: Problem,
    oracle: Oracle,
    *,
    l1: float = 0.01,
    distance: Callable[[np.ndarray], np.ndarray] | None = None,
    pairs: str = "all",
    n_query: int | None = None,
    refits: int = REFITS,
) -> Answer:
    r"""Joint LIME of any order, as FBII with an L1 penalty; without it, consistent for FBII.

    It minimises half the weighted mean square of what the polynomial misses plus a penalty times
    the sum of the absolute coefficients, that of the empty coalition excepted. Coalitions are
    distinct, drawn by the local weight (by size) and weighted by what is left of it.

    ``stats`` holds the ``penalty`` in units of the game, the ``gap`` (duality gap at the end,
    relative to half the weighted square of the centred values), whether it ``converged`` (1e-9),
    solver ``steps``, and how many coefficients are ``nonzero``. Standard errors are those of the
    penalised coefficients about their own mean; what the penalty takes away is not in them. They
    are None where there are no more rows than coefficients (with a penalty: than are not zero).

    Args:
        problem: what to estimate.
        oracle: where to ask.
        l1: the penalty, as a share of the least one that leaves no coefficient; 0 for none.
        distance: of coalitions from the grand one, Boolean [M, n] to nonnegative float [M]; the
            local weight is then :math:`e^{-distance}`, the index's p must stay 1/2, and the
            coefficients are no longer those of FBII whatever the penalty.
        pairs: ``"all"``, or ``"cross"`` for the bilinear form of two items, a polynomial of degree
            2 without the pairs within an item, which are zero (as in ``fixlip``).
        n_query: of ``"cross"``: players 0 to n_query - 1 are one item's, the others the other's.
        refits: how many fits of residuals the standard errors are made of; 0 leaves them out.

    Source: Ribeiro, Singh & Guestrin 2016; Hamilton et al. 2021, eq. 6 (joint); Tibshirani 1996;
    Beck & Teboulle 2009 (the solver), O'Donoghue & Candès 2015 (its restarts). Deviation:
    coalitions are drawn by the local weight, not uniformly and weighted by it.
    """
    n, order, p = problem.n, problem.order, problem.index.p
    problem.require_index("lime", "FBII")
    refits = require_refits(refits)
    if not isinstance(l1, int | float) or not 0 <= l1 <= 1:
        raise ShapjaxError(f"l1 is {l1!r}, expected a share between 0 and 1.")
    if p is None or not 0 < p < 1:
        raise ShapjaxError(f"p is {p}, but lime needs a p strictly between 0 and 1.")
    if distance is not None and p != 0.5:
        raise ShapjaxError(
            f"p is {p} and a distance is given, but both say what is near; leave one out."
        )
    one_of(pairs, PAIRS, "pairs")
    if pairs == "cross":
        if order != 2 or n_query is None:
            raise ShapjaxError(
                f'order is {order} and n_query {n_query}, but pairs="cross" is about pairs of '
                "two items' players; give order=2 and n_query."
            )
        n_query = whole_number(n_query, "n_query", low=1, high=n - 1)
    elif n_query is not None:
        raise ShapjaxError(
            f'n_query is {n_query}, but all pairs are fitted; say pairs="cross" or leave it out.'
        )
    if oracle.left < 2:
        raise ShapjaxError(
            f"budget is {oracle.left}, but lime starts with the empty and the grand coalition; "
            "give at least 2."
        )
    generator = generator_of(problem.key)
    masks, weights = weighted_rows(generator, n, oracle.left, binomial_law(n, p))
    if distance is not None:
        weights = weights * _local(distance, masks)
    values = np.asarray(oracle(masks), np.float64)
    root = np.sqrt(weights / weights.sum())
    stats = {
        "v_empty": float(values[0]),
        "v_grand": float(values[-1]),
        "rows": len(masks),
        "unknowns": (
            1 + n + n_query * (n - n_query)
            if n_query
            else sum(math.comb(n, s) for s in range(order + 1))
        ),
        "locality": n * math.log(p / (1 - p)),
    }
    if l1 == 0:
        return _unpenalised(problem, masks, values, root, n_query, refits, stats)
    draw = distinct_by_size(masks)
    with precision_scope(np.float64):
        given = tuple(jnp.asarray(x, jnp.float64) for x in (masks, values, root))
        signs = jnp.asarray(signs_of(draw, problem.key, refits))
        fit = jax.tree.map(np.asarray, _penalised(*given, l1, signs, order=order, n_query=n_query))
    stats |= {
        "penalty": float(fit.penalty),
        "gap": float(fit.gap),
        "converged": bool(fit.gap <= GAP),
        "steps": int(fit.steps),
        "nonzero": int(np.count_nonzero(fit.coefficients[1:])),
    }
    errors = None
    if draw.leaves_nothing_out:
        errors = np.zeros(len(fit.coefficients))
    elif refits and len(masks) > stats["nonzero"] + 1:
        errors = np.sqrt((fit.moved**2).mean(axis=0))
    cuts = np.cumsum([math.comb(n, s) for s in range(order)])
    split = tuple(np.split(fit.coefficients, cuts))
    return Answer(split, None if errors is None else tuple(np.split(errors, cuts)), stats)


def _local(distance: Callable[[np.ndarray], np.ndarray], masks: np.ndarray) -> np.ndarray:
    far = np.asarray(distance(masks), np.float64)
    if far.shape != masks.shape[:1] or not np.all(far >= 0) or not np.isfinite(far).all():
        raise ShapjaxError(
            f"distance gave shape {far.shape} for {len(masks)} coalitions, expected as many finite "
            "numbers that are not negative."
        )
    return np.exp(far.min() - far)


def _unpenalised(
    problem: Problem,
    masks: np.ndarray,
    values: np.ndarray,
    root: np.ndarray,
    n_query: int | None,
    refits: int,
    stats: dict[str, float],
) -> Answer:
    n, order, p = problem.n, problem.order, problem.index.p or 0.5
    basis = p, math.sqrt(p * (1 - p))
    base = np.zeros(sum(math.comb(n, s) for s in range(order + 1)))
    model = {"constrained": False, "n_query": n_query}
    with precision_scope(np.float64):
        y = (masks - basis[0]) / basis[1]
        given = tuple(jnp.asarray(x, jnp.float64) for x in (y, values, root, base))
        solution, steps, gradient = fit_polynomial(*given, order=order, **model)
    stats |= {"penalty": 0.0, "steps": int(steps), "gradient": float(gradient)}
    errors = None
    if len(masks) > stats["unknowns"] or len(masks) == 1 << n:
        solved = (*given[:3], solution)
        errors = polynomial_errors(problem, masks, solved, basis, refits, **model)
    return Answer(expanded(np.asarray(solution), n, order, *basis), errors, stats)


class _Penalised(NamedTuple):
    """The minimiser and what is known of it.

    Attributes:
        coefficients: flat by size, [unknowns].
        moved: what the residuals with random signs move them by, [refits, unknowns].
        penalty: in units of the game.
        gap: relative duality gap.
        steps: of the solver.
    """

    coefficients: jax.Array
    moved: jax.Array
    penalty: jax.Array
    gap: jax.Array
    steps: jax.Array


@functools.partial(jax.jit, static_argnames=("order", "n_query"))
def _penalised(
    z: jax.Array,
    values: jax.Array,
    root: jax.Array,
    l1: jax.Array,
    signs: jax.Array,
    *,
    order: int,
    n_query: int | None,
) -> _Penalised:
    apply, adjoint, keep = product_operators(z, order, constrained=False, n_query=n_query)
    share = root**2

    def centred(rows: jax.Array) -> jax.Array:
        """Eliminates the coefficient of the empty coalition, which is not penalised."""
        return root * (rows - share @ rows)

    def forward(u: jax.Array) -> jax.Array:
        return centred(apply(jnp.concatenate([jnp.zeros(1, u.dtype), u])))

    def back(r: jax.Array) -> jax.Array:
        weighted = root * r
        return keep(adjoint(weighted - share * weighted.sum()))[1:]

    target = centred(values)
    largest = jnp.abs(target).max()
    unit = jnp.where(largest > 0, largest, 1)
    target = target / unit
    first = back(target)
    penalty = l1 * jnp.abs(first).max()
    # A vector without symmetries, so that no eigenvector is missed.
    probe = jnp.cos(1.0 + jnp.arange(first.size, dtype=z.dtype))
    probe = jax.lax.fori_loop(
        0, POWER_STEPS, lambda _, u: _unit(back(forward(u))), _unit(first + probe)
    )
    curvature = 1.02 * jnp.linalg.norm(back(forward(probe)))
    solve = functools.partial(_lasso, forward, back, penalty=penalty, curvature=curvature)
    solution, gap, steps = solve(target, jnp.zeros_like(first), enough=GAP)
    fitted = forward(solution)
    used = jnp.count_nonzero(solution) + 1
    whole = (target - fitted) / (1 - jnp.clip(used / len(values), 0, MOST_LEVERAGE))

    def again(sign: jax.Array) -> jax.Array:
        return solve(fitted + sign * whole, solution, enough=REFIT_GAP)[0] - solution

    def with_empty(u: jax.Array, level: jax.Array) -> jax.Array:
        rest = apply(jnp.concatenate([jnp.zeros(1, u.dtype), u]))
        return jnp.concatenate([(level - share @ rest)[None], u])

    if len(signs):
        moved = jax.lax.map(lambda s: with_empty(again(s), root @ (s * whole)), signs)
    else:
        moved = jnp.zeros((0, first.size + 1), z.dtype)
    found = with_empty(unit * solution, share @ values)
    return _Penalised(found, unit * moved, unit * penalty, gap, steps)


def _unit(u: jax.Array) -> jax.Array:
    return u / jnp.maximum(jnp.linalg.norm(u), jnp.finfo(u.dtype).tiny)


def _lasso(
    forward: Callable[[jax.Array], jax.Array],
    back: Callable[[jax.Array], jax.Array],
    target: jax.Array,
    start: jax.Array,
    *,
    penalty: jax.Array,
    curvature: jax.Array,
    enough: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Minimise ||forward(u) - target||^2 / 2 + penalty |u|_1: accelerated proximal gradients.

    The momentum starts anew where it points uphill. Every few steps the duality gap is found, of
    the residual scaled so that no correlation exceeds the penalty, and decides.

    Returns:
        (u, gap relative to half the square of the target, steps).
    """
    size = jnp.maximum(0.5 * jnp.vdot(target, target), jnp.finfo(target.dtype).tiny)
    length = 1 / jnp.maximum(curvature, jnp.finfo(target.dtype).tiny)

    def gap_at(u: jax.Array) -> jax.Array:
        residual = target - forward(u)
        correlation = jnp.abs(back(residual)).max()
        scale = jnp.minimum(1.0, penalty / jnp.maximum(correlation, penalty))
        primal = 0.5 * jnp.vdot(residual, residual) + penalty * jnp.abs(u).sum()
        rest = target - scale * residual
        return jnp.maximum(primal - (size - 0.5 * jnp.vdot(rest, rest)), 0) / size

    def step(_: int, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        u, ahead, momentum = state
        moved = ahead - length * back(forward(ahead) - target)
        shrunk = jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - length * penalty, 0)
        uphill = jnp.vdot(ahead - shrunk, shrunk - u) > 0
        momentum = jnp.where(uphill, 1.0, momentum)
        after = (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2
        return shrunk, shrunk + (momentum - 1) / after * (shrunk - u), after

    def going(state: tuple[jax.Array, ...]) -> jax.Array:
        return (state[3] > enough) & (state[4] < MOST_STEPS)

    def advance(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        u, ahead, momentum = jax.lax.fori_loop(0, STEPS_BETWEEN, step, state[:3])
        return u, ahead, momentum, gap_at(u), state[4] + STEPS_BETWEEN

    one = jnp.ones((), target.dtype)
    first = (start, start, one, gap_at(start), jnp.zeros((), jnp.int32))
    u, _, _, gap, steps = jax.lax.while_loop(going, advance, first)
    return u, gap, steps
