"""Least squares by preconditioned conjugate gradients, and what a start elsewhere tells."""

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


class Operator(NamedTuple):
    """A linear map A, and an approximation of the inverse of A'A.

    Attributes:
        forward: unknowns to rows.
        adjoint: rows to unknowns, the transpose.
        precondition: unknowns to unknowns, symmetric and positive; where its scale is right, A'A
            times it is about the identity.
    """

    forward: Map
    adjoint: Map
    precondition: Map = lambda u: u


class Solution(NamedTuple):
    """The point of least gradient that was passed.

    Attributes:
        u: the unknowns.
        steps: how many lead there.
        gradient: norm of the gradient, in that of the preconditioner, over that of the residual.
        square: squared norm of the residual.
    """

    u: Array
    steps: Array
    gradient: Array
    square: Array


class State(NamedTuple):
    """Where the conjugate gradients are, and the best point they have passed.

    At the floor of the precision the recurrences part from what they stand for and may run
    away, so the point of least gradient is the answer.

    Attributes:
        u: the unknowns now, ``residual`` that of their rows, ``direction`` the last move.
        step: how many were taken.
        norm: squared norm of the gradient before the last move, ``square`` of the residual there.
        first: squared norm of the gradient at the start.
        best: the unknowns of least gradient, with the ``best_*`` that belong to them.
    """

    u: Array
    residual: Array
    direction: Array
    step: Array
    norm: Array
    square: Array
    first: Array
    best: Array
    best_step: Array
    best_norm: Array
    best_square: Array


def least_squares(
    operator: Operator,
    target: Array,
    *,
    start: Array | None = None,
    enough: Callable[[State], Array] | None = None,
    most_steps: int | Array = MAX_STEPS,
) -> Solution:
    """Minimise ||A u - target|| by conjugate gradients on the normal equations (CGLS).

    Of many solutions it finds the one nearest to the start in the norm of the preconditioner's
    inverse. It carries the residual rather than the normal equations' right-hand side, which
    saves digits. Whether it has arrived is seen one move later, so that the compiled program
    holds the operator once.

    Args:
        operator: A.
        target: [rows].
        start: where to start; by default at zero.
        enough: another reason to stop; by default it goes on to rounding noise.
        most_steps: stop after as many, where -1 does not even go to the start.

    Source: Hestenes & Stiefel 1952; Paige & Saunders 1982, section 6 (when to stop).
    """
    dtype = target.dtype
    shape = jax.eval_shape(operator.adjoint, target).shape
    tolerance = (16 + 2 * math.sqrt(math.prod(shape))) * float(jnp.finfo(dtype).eps)
    tiny, unseen = jnp.finfo(dtype).tiny, jnp.finfo(dtype).max
    smallest = tolerance**2 * jnp.vdot(target, target)

    def going(state: State) -> Array:
        # Paige & Saunders: a preconditioned design has norm near one, so below this the gradient
        # is rounding noise of the residual.
        more = (state.norm > tolerance**2 * state.square) & (state.square > smallest)
        if enough is not None:
            more &= ~enough(state)
        return more & (state.step < most_steps) & (state.step - state.best_step < PATIENCE)

    def advance(state: State) -> State:
        gradient = operator.adjoint(state.residual)
        scaled = operator.precondition(gradient)
        norm, square = jnp.vdot(gradient, scaled), jnp.vdot(state.residual, state.residual)
        better = norm < state.best_norm
        first = jnp.where(state.step == 0, norm, state.first)
        turn = norm / state.norm
        if start is not None:
            # The first move goes to the start, the second is of steepest descent.
            begins = state.step < 0
            norm, square = jnp.where(begins, jnp.inf, norm), jnp.where(begins, unseen, square)
            better &= ~begins
            scaled, turn = jnp.where(begins, 0, scaled), jnp.where(begins, 1, turn)
        direction = scaled + turn * state.direction
        image = operator.forward(direction)
        length = norm / jnp.maximum(jnp.vdot(image, image), tiny)
        if start is not None:
            length = jnp.where(begins, 1, length)
        best = [
            jnp.where(better, new, old)
            for new, old in (
                (state.u, state.best),
                (state.step, state.best_step),
                (norm, state.best_norm),
                (square, state.best_square),
            )
        ]
        return State(
            state.u + length * direction,
            state.residual - length * image,
            direction,
            state.step + 1,
            norm,
            square,
            first,
            *best,
        )

    zero, nothing = jnp.zeros(shape, dtype), jnp.zeros((), dtype)
    begun = State(
        u=zero,
        residual=target,
        direction=zero if start is None else start,
        step=jnp.full((), 0 if start is None else -1, jnp.int32),
        norm=nothing + jnp.inf,
        square=nothing + unseen,
        first=nothing,
        best=zero,
        best_step=jnp.zeros((), jnp.int32),
        best_norm=nothing + jnp.inf,
        best_square=nothing,
    )
    last = jax.lax.while_loop(going, advance, begun)
    square = last.best_square
    gradient = jnp.sqrt(jnp.where(square > 0, last.best_norm / jnp.maximum(square, tiny), 0))
    return Solution(last.best, last.best_step, gradient, square)
