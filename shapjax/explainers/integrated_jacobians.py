r"""Integrated Jacobians: second-order credit of a dot product of two embeddings.

For :math:`v = \langle g(z), h(z')\rangle`, with unit embeddings g and h of softly masked pictures,
a location i of the query has the vector :math:`J_i = \int_0^1 \partial_i g(t 1)\,dt`, likewise
:math:`J'_j`, and a pair the credit :math:`\langle J_i, J'_j \rangle`: the difference of both
embeddings, attributed to locations and multiplied out.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.core.interactions import Interactions
from shapjax.explainers.gradients import legendre
from shapjax.games.pooled import inverse_root


@partial(jax.jit, static_argnames="nodes")
def integrated_jacobians(query: jax.Array, retrieved: jax.Array, *, nodes: int) -> Interactions:
    """Credit of locations and of cross pairs in a GAP-cosine game.

    Args:
        query: rows of the pooled feature, float [1 + nq, C], from ``pooled_rows``.
        retrieved: float [1 + nr, C].
        nodes: Gauss-Legendre nodes on the path; static.

    Returns:
        ``"IJ"``, order 2: pairs on one side are 0, a location alone has its vector's dot product
        with the other side's background. All terms sum to v(N) - v(empty) up to the quadrature.

    Source: Möller et al. 2023 (siamese encoders) and 2024 (CLIP), with the picture's background
        as reference and feature locations as parts.
    """
    n_query, n_retrieved = len(query) - 1, len(retrieved) - 1
    n = n_query + n_retrieved
    a, b = _mean_jacobian(query, nodes), _mean_jacobian(retrieved, nodes)
    start_q, start_r = (rows[0] * inverse_root(rows[0] @ rows[0]) for rows in (query, retrieved))
    rows, columns = np.triu_indices(n, 1)
    crossing = (rows < n_query) & (columns >= n_query)
    cross = jnp.matmul(a, b.T, precision="highest")
    pairs = jnp.where(
        crossing, cross[np.minimum(rows, n_query - 1), np.maximum(columns - n_query, 0)], 0
    )
    singles = jnp.concatenate([a @ start_r, b @ start_q])
    return Interactions(((start_q @ start_r)[None], singles, pairs), "IJ", n)


def _mean_jacobian(rows: jax.Array, nodes: int) -> jax.Array:
    """Mean over the path of the derivative of the unit embedding in each location, [n, C]."""
    t, weight = legendre(nodes)
    points = rows[0] + jnp.asarray(t, rows.dtype)[:, None] * rows[1:].sum(axis=0)
    roots = inverse_root((points * points).sum(axis=1))
    unit = points * roots[:, None]
    share = jnp.asarray(weight, rows.dtype) * roots
    along = jnp.matmul(rows[1:], unit.T, precision="highest")
    return share.sum() * rows[1:] - jnp.matmul(along * share, unit, precision="highest")
