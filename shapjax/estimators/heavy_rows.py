"""Preconditioning by the rows that weigh most: taken exactly, the others as their sizes expect.

A coalition of middling size sees far more pairs than a small one and is drawn far less often, so
a few rows carry most of the Gram matrix, and their sum is far from its expectation. Split off,
they leave rows that are many and alike, whose Gram matrix is near its expectation, and the sum of
both has a closed inverse (Sherman, Morrison & Woodbury).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.estimators.conjugate import Map
from shapjax.estimators.designs import design_of_order, gram_table

Array = jax.Array

SHARE = 12
"""One row in so many is taken exactly."""

MOST = 1536
"""Rows taken exactly at most: a matrix of its square is inverted."""

LEAST_LAW = 0.01
"""Share of the kernel's own law in the expectation: no eigenvalue of it may vanish."""


class Split(NamedTuple):
    """Rows by weight.

    Attributes:
        heavy: positions of the rows taken exactly, int [h]; h may be 0.
        law: weight of the sizes of the others, float [n+1].
    """

    heavy: Array
    law: Array


def split_rows(free: Array, weights: Array, order: int, law: np.ndarray) -> Split:
    """The rows of largest leverage, and the law of the sizes of the others.

    Args:
        free: Boolean [rows, n].
        weights: float [rows], sum one.
        order: size of the coalitions whose coefficients are sought; only pairs have heavy rows.
        law: of the kernel, float64 [n+1].
    """
    rows, n = free.shape
    sizes = free.sum(axis=1)
    least = LEAST_LAW * jnp.asarray(law, weights.dtype)
    weight_of_size = jnp.zeros(n + 1, weights.dtype).at[sizes].add(weights)
    count = min(rows // SHARE, MOST) if order == 2 and n > 3 else 0
    if not count:
        return Split(jnp.zeros(0, jnp.int32), weight_of_size + least)
    table = gram_table(n, order)
    dimensions = np.diff([math.comb(n, e) for e in range(order + 1)], prepend=0)
    expected = (weight_of_size + least) @ table.astype(weights.dtype)
    leverage = (jnp.asarray(dimensions * table, weights.dtype) / expected)[:, 1:].sum(axis=1)
    heavy = jax.lax.top_k(weights * leverage[sizes], count)[1]
    taken = jnp.zeros(n + 1, weights.dtype).at[sizes[heavy]].add(weights[heavy])
    return Split(heavy, jnp.maximum(weight_of_size - taken, 0) + least)


def capacitance(free: Array, weights: Array, law: Array) -> Array:
    """Inverse of I + V G V', V the heavy rows, G the inverse of the expected Gram matrix.

    G is a combination of projections of the Johnson scheme, so that two rows meet in it by their
    sizes and by how many players they share.

    Args:
        free: Boolean [h, n], the heavy rows.
        weights: theirs, float [h].
        law: of the other rows, float [n+1].

    Returns:
        float32 [h, h], symmetric.
    """
    n = free.shape[1]
    _, standard, rest = law @ gram_table(n, 2).astype(law.dtype)
    z = free.astype(jnp.float32)
    shared, s = z @ z.T, z.sum(axis=1)
    pairs = s * (s - 1) / 2
    constant = pairs[:, None] * (pairs * (2 / (n * (n - 1))))
    along = ((s - 1)[:, None] * (s - 1) * shared - 2 * (n - 1) * constant) / (n - 2)
    across = shared * (shared - 1) / 2 - constant - along
    root = jnp.sqrt(weights).astype(jnp.float32)
    parts = along / standard.astype(jnp.float32) + across / rest.astype(jnp.float32)
    matrix = jnp.eye(len(z), dtype=jnp.float32) + root[:, None] * parts * root
    inverse = jnp.linalg.inv(matrix)
    return 0.5 * (inverse + inverse.T)


def preconditioner(free: Array, weights: Array, inverse: Array, law: Array, dtype: type) -> Map:
    """Inverse of I + B'B on whitened pair terms, B = V times the whitening.

    Args:
        free: Boolean [h, n], the heavy rows.
        weights: theirs, float [h].
        inverse: what ``capacitance`` gives for them.
        law: of the other rows, float [n+1].
        dtype: of the unknowns.
    """
    design = design_of_order(free.astype(dtype), 2, law.astype(dtype))
    root = jnp.sqrt(weights).astype(dtype)

    def apply(u: Array) -> Array:
        seen = root * design.apply(design.whiten(u))
        return u - design.whiten(design.adjoint(root * (inverse.astype(dtype) @ seen)))

    return apply
