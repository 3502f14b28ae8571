"""The kernel of generalised values: what a coalition adds when it arrives as one player."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.coalitions.enumerate import ranks_of_size, sizes_of_ranks
from shapjax.core.checks import players_of_table
from shapjax.transforms.moebius import superset_sums


def share_marginals(table: jax.Array, weights: np.ndarray) -> tuple[jax.Array, ...]:
    r"""Generalised values from the worth of every coalition.

    :math:`I(S) = \sum_{T \subseteq N \setminus S} p(|S|, |T|)\, (v(T \cup S) - v(T))` for all S
    of at most k players. The coalitions without S are the complements of those with S, so that
    one sum over supersets does:
    :math:`I(S) = \sum_{U \supseteq S} p(s, |U| - s)\, v(U) - p(s, n - |U|)\, v(N \setminus U)`.

    Args:
        table: worth of every coalition, float [..., 2**n].
        weights: p(s, t), float64 or fractions [k+1, n+1], of which s = 0 is not used; static
            (made at trace time).

    Returns:
        Per size s = 0..k, float [..., C(n, s)], lexicographic.
    """
    n = players_of_table(table.shape, "values")
    sizes = sizes_of_ranks(n)
    complements = table[..., ::-1]
    coefficients = [jnp.zeros_like(table[..., :1])]
    for s, row in enumerate(weights[1:].astype(np.float64), start=1):
        joins = np.zeros(n + 1)
        joins[s:] = row[: max(n + 1 - s, 0)]
        leaves = row[::-1]
        marginals = (
            jnp.asarray(joins, table.dtype)[sizes] * table
            - jnp.asarray(leaves, table.dtype)[sizes] * complements
        )
        ranks = ranks_of_size(n, s) if s <= n else []
        coefficients.append(superset_sums(marginals)[..., ranks])
    return tuple(coefficients)
