"""The weighted rows of a regression: plain ones, and those of a large regression on pairs.

The kernel draws small coalitions most, and a coalition of two players is one pair: all rows of
that pair are one equation of its own coefficient, whatever their number, so they are added up and
cost nothing. Often that is half of the rows. The others are kept as Booleans, and only a block of
them is a matrix of numbers at any time, which stays in the cache and bounds the memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from shapjax.estimators.designs import Design

Array = jax.Array

BLOCK_ROWS = 2048
"""Rows that are numbers at the same time."""


class Rows(NamedTuple):
    """Coefficients to rows, each times a number of its own, and back.

    Attributes:
        forward: (coefficients, numbers) to rows.
        adjoint: (rows, numbers) to coefficients, the transpose.
        roots: the numbers that are the square roots of the weights.
        even: those that bring every row of some weight to norm one on zero-sum coefficients.
        target: values of the rows as they were given, float [rows], as ``forward`` has them.
    """

    forward: Callable[[Array, Any], Array]
    adjoint: Callable[[Array, Any], Array]
    roots: Any
    even: Any
    target: Callable[[Array], Array]


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


def pair_rows(free: Array, weights: Array, held: Array) -> Rows:
    """Of a regression on pairs: those of a single pair added up, the others in blocks.

    Args:
        free: Boolean [rows, n]; one of less than two players says nothing of pairs.
        weights: float [rows].
        held: how many pairs each holds, float [rows].

    Returns:
        Rows of symmetric coefficients, float [n, n] with zero diagonal. They are float [blocks
        width + n n + 1]: the larger coalitions, the pairs, and what no coefficient can fit,
        which is how the rows of one pair scatter about their mean.
    """
    rows, n = free.shape
    dtype, width = weights.dtype, min(rows, BLOCK_ROWS)
    sizes = free.sum(axis=1)
    # The largest come first, so that a count of blocks leaves out those of single pairs.
    position = jnp.argsort(-sizes)
    masks, weights, sizes = free[position], weights[position], sizes[position]
    large = sizes > 2
    used = (large.sum() + width - 1) // width
    fill = -rows % width

    def blocks(x: Array) -> Array:
        return jnp.pad(jnp.where(large, x, 0), (0, fill)).reshape(-1, width)

    # Rows with no pair of their own count for a pair that is then dropped.
    first, last = jnp.argmax(masks, axis=1), n - 1 - jnp.argmax(masks[:, ::-1], axis=1)
    pair = jnp.where(sizes == 2, first * n + last, n * n)

    def summed(x: Array) -> Array:
        return jnp.zeros(n * n + 1, dtype).at[pair].add(x)[:-1]

    total = summed(weights)
    even = _even(weights, held[position], math.comb(n, 2))
    masks = jnp.pad(masks, ((0, fill), (0, 0))).reshape(-1, width, n)
    hollow = 1 - jnp.eye(n, dtype=dtype)
    shape, count = masks.shape[:2], len(masks) * width

    def forward(a: Array, roots: tuple[Array, Array]) -> Array:
        root, single = roots

        def block(i: Array, found: Array) -> Array:
            z = masks[i].astype(dtype)
            return found.at[i].set(0.5 * root[i] * ((z @ a) * z).sum(axis=1))

        larger = jax.lax.fori_loop(0, used, block, jnp.zeros(shape, dtype))
        # A skew part, left by rounding, is as invisible here as it is to the other rows.
        pairs = 0.5 * single * (a + a.T).ravel()
        return jnp.concatenate([larger.ravel(), pairs, jnp.zeros(1, dtype)])

    def adjoint(r: Array, roots: tuple[Array, Array]) -> Array:
        root, single = roots
        scaled = root * r[:count].reshape(shape)

        def block(i: Array, found: Array) -> Array:
            z = masks[i].astype(dtype)
            return found + z.T @ (scaled[i][:, None] * z)

        found = jax.lax.fori_loop(0, used, block, jnp.zeros((n, n), dtype))
        found = 0.25 * found * hollow + 0.5 * (single * r[count:-1]).reshape(n, n)
        return found + found.T

    def target(values: Array) -> Array:
        values = values[position]
        mean = summed(weights * values) / jnp.where(total > 0, total, 1)
        about = jnp.where(sizes == 2, values - mean[pair % (n * n)], 0)
        scatter = jnp.sqrt((weights * about**2).sum())
        larger = blocks(jnp.sqrt(weights) * values).ravel()
        return jnp.concatenate([larger, jnp.sqrt(total) * mean, scatter[None]])

    return Rows(
        forward=forward,
        adjoint=adjoint,
        roots=(blocks(jnp.sqrt(weights)), jnp.sqrt(total)),
        even=(blocks(even), jnp.asarray(total > 0, dtype)),
        target=target,
    )


def _even(weights: Array, held: Array, count: int) -> Array:
    """What brings rows to norm one on zero-sum coefficients; those of no weight to zero."""
    # A row that sums none or all of them is nothing there.
    square = jnp.maximum(held * (1 - held / count), 1)
    return jnp.where(weights > 0, jax.lax.rsqrt(square), 0)
