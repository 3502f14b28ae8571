"""Search activation maps: the closed form of the un-normalised GAP game."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from shapjax.core.interactions import Interactions
from shapjax.games.pooled import Grams, inverse_root


@jax.jit
def sam(grams: Grams) -> Interactions:
    r"""First- and second-order search activation maps with backgrounds.

    Exact Shapley (one side masked) and Shapley-Taylor indices of the dot product of pooled
    features: a pair is :math:`\frac{1}{hw\,h'w'} (x_i - a_i) \cdot (y_j - b_j)`, a location
    alone the same with the other side's pooled background (first order: its pooled feature).
    For cosine it is a heuristic, the dot game divided by the norms of the whole pictures, and
    not efficient.

    Args:
        grams: of the pair; a side without players makes the result first order.

    Returns:
        Interactions of the dot game over the norms of the unmasked features (units of cosine):
        order 2 where both sides have players, else order 1.

    Source: Hamilton et al. 2022, propositions 4.1 and 5.1 (eqs. 3 and 8).
    """
    qr = grams.qr * inverse_root(grams.qq.sum()) * inverse_root(grams.rr.sum())
    return dot_interactions(qr)


def dot_interactions(qr: jax.Array) -> Interactions:
    """Exact interactions of a dot game from its cross Gram matrix, float [1 + nq, 1 + nr]."""
    n_query, n_retrieved = (length - 1 for length in qr.shape)
    n = n_query + n_retrieved
    empty = qr[:1, 0]
    singles = jnp.concatenate([qr[1:, 0], qr[0, 1:]])
    if n_query == 0 or n_retrieved == 0:
        return Interactions((empty, singles), "SV", n)
    rows, columns = jnp.triu_indices(n, 1)
    cross = (rows < n_query) & (columns >= n_query)
    pairs = jnp.where(cross, qr[1 + jnp.minimum(rows, n_query - 1), columns - n_query + 1], 0)
    return Interactions((empty, singles, pairs), "STII", n)
