"""The kernels: weighted sums of a table of coalitions, for all small coalitions at once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.coalitions.enumerate import sizes_of_ranks
from shapjax.core.checks import players_of_table
from shapjax.indices.blocks import over_subsets
from shapjax.indices.generalised import share_marginals
from shapjax.indices.halves import Halves, small_ranks
from shapjax.indices.worths import superset_weights, worth_weights
from shapjax.transforms.moebius import moebius, superset_sums

HIGHEST_BY_SUPERSETS = 3
"""Orders up to this need a few passes over the table; above, all dividends cost less."""

LARGEST_MATRIX = 1 << 19
"""Entries of a dense matrix of all weights that is still worth making, 4 MiB in float64."""


def share(table: jax.Array, weights: np.ndarray, form: str) -> tuple[jax.Array, ...]:
    r"""Coefficients of any cardinal index from the worth of every coalition.

    Up to order 3 dividends are never made: the index is a weighted sum of worths, one matrix
    product for a small game, sums over the supersets of single players, pairs and triples for a
    large one. So it loses no digits to cancelling dividends either.

    Args:
        table: worth of every coalition, float [..., 2**n].
        weights: of ``weight_table``, fractions or float64 [k+1, n+1]; static (made at trace time).
        form: of the index.

    Returns:
        Per size s = 0..k, float [..., C(n, s)], lexicographic.

    Cost: one or two reads of the table up to order 2, about six at order 3; above, transforms.
    """
    if len(weights) - 1 > HIGHEST_BY_SUPERSETS:
        by_size = share_marginals if form == "marginals" else share_dividends
        return by_size(table, weights)
    return _share_worths(table, worth_weights(weights, form))


def share_dividends(table: jax.Array, weights: np.ndarray) -> tuple[jax.Array, ...]:
    r"""The same from all dividends, :math:`I(S) = \sum_{T \supseteq S} w(|S|, |T|)\, d(T)`.

    Args:
        table: worth of every coalition, float [..., 2**n].
        weights: w(s, t), fractions or float64 [k+1, n+1]; static.

    Returns:
        Per size s = 0..k, float [..., C(n, s)], lexicographic.
    """
    n = players_of_table(table.shape, "values")
    dividends = moebius(table)
    sizes = sizes_of_ranks(n)
    coefficients = []
    for s, row in enumerate(weights.astype(np.float64)):
        shares = dividends
        if s > n or row[s] != 1 or np.count_nonzero(row) > 1:
            shares = superset_sums(dividends * jnp.asarray(row, table.dtype)[sizes])
        coefficients.append(shares[..., small_ranks(n, s)])
    return tuple(coefficients)


def _share_worths(table: jax.Array, gamma: np.ndarray) -> tuple[jax.Array, ...]:
    n, order = players_of_table(table.shape, "values"), len(gamma) - 1
    counts = [len(small_ranks(n, s)) for s in range(order + 1)]
    if sum(counts) << n <= LARGEST_MATRIX:
        matrix = jnp.asarray(_matrix_of_weights(gamma.astype(float), n), table.dtype)
        flat = jnp.matmul(table, matrix, precision="highest")
        return tuple(jnp.split(flat, np.cumsum(counts)[:-1], axis=-1))
    halves = Halves(table)
    f = superset_weights(gamma)
    coefficients = []
    for s in range(order + 1):
        sums = [_superset_sum(table, halves, f[s, b], b) for b in range(s + 1)]
        coefficients.append(over_subsets(sums, n, s))
    return tuple(coefficients)


def _matrix_of_weights(gamma: np.ndarray, n: int) -> np.ndarray:
    """Weight of every coalition's worth in every coefficient, float64 [2**n, coefficients]."""
    ranks = np.arange(1 << n)
    columns = [
        gamma[s][np.bitwise_count(ranks), np.bitwise_count(ranks & own)]
        for s in range(len(gamma))
        for own in small_ranks(n, s)
    ]
    return np.stack(columns, axis=1)


def _superset_sum(table: jax.Array, halves: Halves, f: np.ndarray, size: int) -> jax.Array:
    """Sum of f(|T|) v(T) over T containing B, for all B of a size, [..., C(n, size)]."""
    if f[size + 1 :].any():
        return halves.superset_sums(f, size)
    # B alone counts among its supersets, or nothing does.
    return table[..., small_ranks(halves.n, size)] * jnp.asarray(f[size], table.dtype)
