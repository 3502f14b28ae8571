"""The weighted rows of a regression: what they are to a solver, and the plain ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from shapjax.estimators.designs import Design

Array = jax.Array


class Alike(NamedTuple):
    """What even rows have in common, and how to take it off.

    Attributes:
        whiten: rows to rows, symmetric: makes them less alike.
        evened: what ``target`` gave, times the numbers of ``even`` instead of ``roots``.
    """

    whiten: Callable[[Array], Array]
    evened: Callable[[Array], Array]


class Rows(NamedTuple):
    """Coefficients to rows, each times a number of its own, and back.

    Attributes:
        forward: (coefficients, numbers) to rows.
        adjoint: (rows, numbers) to coefficients, the transpose.
        roots: the numbers that are the square roots of the weights.
        even: those that bring every row of some weight to about norm one on zero-sum coefficients.
        target: values of the rows as they were given, float [rows], as ``forward`` has them.
        alike: how even rows become less alike; None of plain ones.
    """

    forward: Callable[[Array, Any], Array]
    adjoint: Callable[[Array, Any], Array]
    roots: Any
    even: Any
    target: Callable[[Array], Array]
    alike: Alike | None = None


def plain_rows(weights: Array, held: Array, design: Design) -> Rows:
    """One row for each coalition.

    Args:
        weights: float [rows].
        held: how many coefficients each sums, float [rows].
        design: of the coalitions.
    """
    root = jnp.sqrt(weights)
    return Rows(
        forward=lambda a, root: root * design.apply(a),
        adjoint=lambda r, root: design.adjoint(root * r),
        roots=root,
        even=_even(weights, held, design.count),
        target=lambda values: root * values,
    )


def _even(weights: Array, held: Array, count: int) -> Array:
    """What brings rows to norm one on zero-sum coefficients; those of no weight to zero."""
    # A row that sums none or all of them is nothing there.
    square = jnp.maximum(held * (1 - held / count), 1)
    return jnp.where(weights > 0, jax.lax.rsqrt(square), 0)
