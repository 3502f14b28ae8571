"""Preconditioning by the rows that weigh most: taken exactly, the others as their sizes expect.

A coalition of middling size sees far more pairs than a small one and is drawn far less often, so
a few rows carry most of the Gram matrix, and their sum is far from its expectation. Split off,
they leave rows that are many and alike, whose Gram matrix is near its expectation, and the sum of
both has a closed inverse (Sherman, Morrison & Woodbury).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.estimators.conjugate import Map
from shapjax.estimators.designs import design_of_order

Array = jax.Array

SHARE = 12
"""One row in so many is taken exactly."""

MOST = 1536
"""Rows taken exactly at most: a matrix of its square is inverted."""


def heaviest(sizes: Array, weights: Array, expected: Array, table: np.ndarray) -> Array:
    """The rows of largest leverage, as their size and weight let expect it, int [h].

    Args:
        sizes: how many players each row has, int [rows].
        weights: float [rows].
        expected: eigenvalues of the expected Gram matrix of all rows, float [3].
        table: what each size gives to them, as ``gram_table`` has it, for pairs.
    """
    n = len(table) - 1
    dimensions = np.diff([math.comb(n, e) for e in range(3)], prepend=0)
    of_size = (jnp.asarray(dimensions * table, weights.dtype) / expected)[:, 1:].sum(axis=1)
    count = min(len(sizes) // SHARE, MOST)
    return jax.lax.top_k(weights * of_size[sizes], count)[1]


def inverse_with(free: Array, weights: Array, spectrum: Array, invert: Map) -> Map:
    """Inverse of G + V'V on zero-sum coefficients of pairs, V the heavy rows.

    Args:
        free: Boolean [h, n], the heavy rows.
        weights: theirs, float [h].
        spectrum: eigenvalues of G, the expected Gram matrix of the others, float [3].
        invert: the inverse of G.
    """
    # What the heavy rows take off needs no more digits than the matrix between them has.
    design = design_of_order(free.astype(jnp.float32), 2, spectrum)
    root = jnp.sqrt(weights).astype(jnp.float32)
    inner = _capacitance(free, weights, spectrum)

    def both(a: Array) -> Array:
        b = design.invert(a.astype(jnp.float32))
        heavy = design.adjoint(root * (inner @ (root * design.apply(b))))
        return invert(a) - design.invert(design.centre(design.centre(heavy)))

    return both


def _capacitance(free: Array, weights: Array, spectrum: Array) -> Array:
    """Inverse of I + V G^-1 V', symmetric, float32 [h, h]: a preconditioner needs no more digits.

    The inverse of G is a combination of projections of the Johnson scheme, so that two rows meet
    in it by their sizes and by how many players they share.
    """
    n = free.shape[1]
    _, standard, rest = spectrum.astype(jnp.float32)
    z = free.astype(jnp.float32)
    shared, s = z @ z.T, z.sum(axis=1)
    pairs = s * (s - 1) / 2
    constant = pairs[:, None] * (pairs * (2 / (n * (n - 1))))
    along = ((s - 1)[:, None] * (s - 1) * shared - 2 * (n - 1) * constant) / (n - 2)
    across = shared * (shared - 1) / 2 - constant - along
    root = jnp.sqrt(weights).astype(jnp.float32)
    parts = along / standard + across / rest
    inverse = jnp.linalg.inv(jnp.eye(len(z), dtype=jnp.float32) + root[:, None] * parts * root)
    return 0.5 * (inverse + inverse.T)
