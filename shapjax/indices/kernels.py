"""The kernels: weighted sums of a table of coalitions, for all small coalitions at once."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.coalitions.enumerate import ranks_of_size, sizes_of_ranks
from shapjax.core.checks import players_of_table
from shapjax.transforms.moebius import moebius, superset_sums


def share_dividends(table: jax.Array, weights: np.ndarray) -> tuple[jax.Array, ...]:
    r"""Coefficients of a cardinal index from the worth of every coalition.

    :math:`I(S) = \sum_{T \supseteq S} w(|S|, |T|)\, d(T)` for all S of at most k players.

    Args:
        table: worth of every coalition, float [..., 2**n].
        weights: w(s, t), float64 [k+1, n+1]; static (made at trace time).

    Returns:
        Per size s = 0..k, float [..., C(n, s)], lexicographic.
    """
    n = players_of_table(table.shape, "values")
    dividends = moebius(table)
    sizes = sizes_of_ranks(n)
    coefficients = []
    for s, row in enumerate(weights):
        shares = dividends
        if s > n or row[s] != 1 or np.count_nonzero(row) > 1:
            shares = superset_sums(dividends * jnp.asarray(row, table.dtype)[sizes])
        coefficients.append(shares[..., ranks_of_size(n, s) if s <= n else []])
    return tuple(coefficients)


def shapley_marginals(table: jax.Array) -> jax.Array:
    """Shapley values from the worth of every coalition, float [..., 2**n] to [..., n], n >= 1."""
    n = players_of_table(table.shape, "values")
    # phi_i = sum over T with i of (joins + leaves)(|T|) v(T) - sum over all T of leaves(|T|) v(T),
    # joins(t) and leaves(t) being the weights of v(T) when i belongs to T and when it does not.
    joins = [0.0] + [1 / (n * math.comb(n - 1, t - 1)) for t in range(1, n + 1)]
    leaves = [1 / (n * math.comb(n - 1, t)) for t in range(n)] + [0.0]
    sizes = sizes_of_ranks(n)
    both = jnp.asarray(np.add(joins, leaves), table.dtype)[sizes] * table
    offset = (jnp.asarray(leaves, table.dtype)[sizes] * table).sum(axis=-1)
    marginals = []
    for _ in range(n):
        halves = both.reshape(*both.shape[:-1], 2, -1)
        marginals.append(halves[..., 1, :].sum(axis=-1))
        both = halves.sum(axis=-2)
    return jnp.stack(marginals[::-1], axis=-1) - offset[..., None]
