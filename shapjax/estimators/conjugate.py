"""Least squares by conjugate gradients: preconditioned, refined in two precisions, probed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
Map = Callable[[Array], Array]

MAX_STEPS = 1000
PATIENCE = 50
"""Steps without a smaller gradient after which the solver has reached its floor."""

REDUCTION = 1e-4
"""By how much at most a round in float32 lowers the gradient before float64 takes stock."""

MAX_ROUNDS = 12
"""Rounds in float32 before float64 goes on alone."""

GOAL = 1e-12
"""Relative gradient that refinement need not go below: far less than any draw scatters, and far
more than the noise of float64."""

SEEN = 1e-4
"""Relative gradient at which a search for the smallest eigenvalue has seen the others."""


class Operator(NamedTuple):
    """A linear map A, and an approximation of the inverse of A'A.

    Attributes:
        forward: unknowns to rows.
        adjoint: rows to unknowns, the transpose.
        precondition: unknowns to unknowns, symmetric and positive.
    """

    forward: Map
    adjoint: Map
    precondition: Map = lambda u: u


class Solution(NamedTuple):
    """Where the conjugate gradients ended.

    Attributes:
        u: the unknowns.
        steps: how many were taken up to the best point.
        gradient: norm of the gradient, in that of the preconditioner, over that of the residual.
    """

    u: Array
    steps: Array
    gradient: Array


def least_squares(
    operator: Operator, target: Array, start: Array | None = None, goal: float = 0.0
) -> Solution:
    """Minimise ||A u - target|| by conjugate gradients on the normal equations (CGLS).

    Among many solutions it finds the one nearest to the start (by default zero) in the norm of
    the preconditioner's inverse. It carries the residual rather than the normal equations'
    right-hand side, which saves digits.

    Source: Hestenes & Stiefel 1952; Paige & Saunders 1982, section 6 (when to stop).
    """
    residual = target
    if start is None:
        start = jnp.zeros_like(operator.adjoint(target))
    else:
        residual = target - operator.forward(start)
    tolerance = max(goal, _tolerance(start))
    smallest = tolerance**2 * jnp.vdot(target, target)

    def enough(state: _State) -> Array:
        return ~_above_noise(state.norm, state.residual, tolerance, smallest)

    return _solution(_descend(operator, operator.adjoint, residual, start, enough))


def least_squares_mixed(wide: Operator, narrow: Operator, target: Array) -> Solution:
    """The same in float64, most steps being taken in float32.

    A round solves the normal equations for the gradient that float64 found, in float32 and to a
    few digits, and float64 computes the new residual and its gradient. As only the correction is
    rounded, the digits lost come back in the next round. Where a round does not pay, because
    the system is too ill-conditioned for float32, float64 takes over from the best point.

    Args:
        wide: the operator on float64.
        narrow: the same operator on float32.
        target: float64 [rows].
    """
    tiny = jnp.finfo(target.dtype).tiny
    gradient = wide.adjoint(target)
    zero, count = jnp.zeros_like(gradient), jnp.zeros((), jnp.int32)
    tolerance = max(GOAL, _tolerance(zero))
    smallest = tolerance**2 * jnp.vdot(target, target)
    norm = jnp.vdot(gradient, wide.precondition(gradient))
    first = _Round(zero, target, gradient, norm, jnp.full_like(norm, jnp.inf), count, count)

    def going(state: _Round) -> Array:
        paid = state.norm < 0.01 * state.before
        more = _above_noise(state.norm, state.residual, tolerance, smallest)
        return more & paid & (state.rounds < MAX_ROUNDS)

    def advance(state: _Round) -> _Round:
        unit = jnp.maximum(jnp.abs(state.gradient).max(), tiny)
        # The last round does no more than is left to do.
        wanted = tolerance * jnp.linalg.norm(state.residual) / jnp.sqrt(state.norm)
        found = _correction(
            narrow,
            (state.gradient / unit).astype(jnp.float32),
            state.residual,
            jnp.maximum(REDUCTION, 0.5 * wanted).astype(jnp.float32),
        )
        u = state.u + unit * found.best.astype(target.dtype)
        residual = target - wide.forward(u)
        gradient = wide.adjoint(residual)
        norm = jnp.vdot(gradient, wide.precondition(gradient))
        steps = state.steps + found.best_step
        after = _Round(u, residual, gradient, norm, state.norm, steps, state.rounds + 1)
        # A round that went astray counts its steps and moves nothing.
        kept = state._replace(before=state.norm, steps=steps, rounds=state.rounds + 1)
        return jax.tree.map(lambda a, b: jnp.where(norm < state.norm, a, b), after, kept)

    last = jax.lax.while_loop(going, advance, first)
    final = least_squares(wide, target, last.u, tolerance)
    return final._replace(steps=final.steps + last.steps)


def smallest_eigenvalue(operator: Operator, probe: Array, start: Array | None = None) -> Solution:
    r"""About the smallest eigenvalue of A'A, from above; zero where A is singular.

    Solving A u = A g for a random g takes from g all that A sees, the large eigenvalues first.
    What is left, g - u, lies in the null space or, where there is none, along the smallest
    eigenvalue: its Rayleigh quotient is the answer.

    Args:
        operator: A, its unknowns scaled so that A'A is about the identity.
        probe: g, random.
        start: where an earlier search ended.

    Returns:
        Solution, its ``gradient`` being the Rayleigh quotient.
    """
    start = jnp.zeros_like(probe) if start is None else start
    seen = operator.adjoint(operator.forward(probe))
    tiny, eps = jnp.finfo(probe.dtype).tiny, jnp.finfo(probe.dtype).eps
    seen_enough = SEEN if probe.dtype == jnp.float32 else 100 * float(eps)
    norm = jnp.vdot(seen, operator.precondition(seen))

    def enough(state: _State) -> Array:
        return state.norm <= seen_enough**2 * norm

    last = _descend(
        operator,
        lambda r: seen + operator.adjoint(r),
        -operator.forward(start),
        start,
        enough,
    )
    left = probe - last.best
    image = operator.forward(left)
    quotient = jnp.vdot(image, image) / jnp.maximum(jnp.vdot(left, left), tiny)
    return Solution(last.best, last.best_step, quotient)


class _State(NamedTuple):
    """Where the conjugate gradients are, and the best point they have passed.

    At the floor of the precision the recurrences part from what they stand for and may run
    away, so the point of least gradient is the answer.
    """

    u: Array
    residual: Array
    direction: Array
    norm: Array
    step: Array
    best: Array
    best_norm: Array
    best_step: Array


class _Round(NamedTuple):
    """Where the refinement stands after a round."""

    u: Array
    residual: Array
    gradient: Array
    norm: Array
    before: Array
    steps: Array
    rounds: Array


def _descend(
    operator: Operator,
    downhill: Map,
    residual: Array,
    start: Array,
    enough: Callable[[_State], Array],
) -> _State:
    """Preconditioned CGLS; ``downhill`` takes the residual to the direction of descent."""
    tiny = jnp.finfo(start.dtype).tiny

    def going(state: _State) -> Array:
        return ~enough(state) & (state.step < MAX_STEPS) & (state.step - state.best_step < PATIENCE)

    def advance(state: _State) -> _State:
        image = operator.forward(state.direction)
        length = state.norm / jnp.maximum(jnp.vdot(image, image), tiny)
        u = state.u + length * state.direction
        residual = state.residual - length * image
        gradient = downhill(residual)
        scaled = operator.precondition(gradient)
        norm = jnp.vdot(gradient, scaled)
        direction = scaled + norm / jnp.maximum(state.norm, tiny) * state.direction
        step, better = state.step + 1, norm < state.best_norm
        best = [
            jnp.where(better, new, old)
            for new, old in ((u, state.best), (norm, state.best_norm), (step, state.best_step))
        ]
        return _State(u, residual, direction, norm, step, *best)

    gradient = downhill(residual)
    scaled = operator.precondition(gradient)
    norm, step = jnp.vdot(gradient, scaled), jnp.zeros((), jnp.int32)
    first = _State(start, residual, scaled, norm, step, start, norm, step)
    return jax.lax.while_loop(going, advance, first)


def _correction(narrow: Operator, gradient: Array, residual: Array, reduction: Array) -> _State:
    """About the solution of A'A d = gradient, in float32."""
    norm = jnp.vdot(gradient, narrow.precondition(gradient))
    return _descend(
        narrow,
        lambda r: gradient + narrow.adjoint(r),
        jnp.zeros_like(residual, jnp.float32),
        jnp.zeros_like(gradient),
        lambda state: state.norm <= reduction**2 * norm,
    )


def _tolerance(u: Array) -> float:
    return (16 + 2 * math.sqrt(u.size)) * float(jnp.finfo(u.dtype).eps)


def _above_noise(norm: Array, residual: Array, tolerance: float, smallest: Array) -> Array:
    """Whether the gradient is more than rounding noise of the residual.

    Paige & Saunders: a preconditioned design has norm near one.
    """
    square = jnp.vdot(residual, residual)
    return (norm > tolerance**2 * square) & (square > smallest)


def _solution(state: _State) -> Solution:
    square = jnp.vdot(state.residual, state.residual)
    square = jnp.maximum(square, jnp.finfo(square.dtype).tiny)
    return Solution(state.best, state.best_step, jnp.sqrt(state.best_norm / square))
