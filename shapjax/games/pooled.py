r"""Similarity of globally pooled features, in Gram form.

Masking locations of a feature map and pooling is linear in the mask,
:math:`u(z) = \bar a + \frac{1}{hw} \sum_i z_i (x_i - a_i)`, so dot products of masked pooled
features need only the Gram matrices of the rows :math:`\bar a` and :math:`(x_i - a_i)/hw`; the
feature maps are never masked.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from shapjax.core.errors import ShapjaxError


class Grams(NamedTuple):
    """Gram matrices of one pair of pictures; row and column 0 belong to the backgrounds.

    A leading axis of all three is several backgrounds, over which worths are averaged.

    Attributes:
        qq: query rows with query rows, float [1 + nq, 1 + nq].
        qr: query rows with retrieved rows, float [1 + nq, 1 + nr].
        rr: retrieved rows with retrieved rows, float [1 + nr, 1 + nr].
    """

    qq: jax.Array
    qr: jax.Array
    rr: jax.Array

    @property
    def n_query(self) -> int:
        """Players on the query."""
        return self.qr.shape[-2] - 1

    @property
    def n_retrieved(self) -> int:
        """Players on the retrieved picture."""
        return self.qr.shape[-1] - 1


def pooled_rows(features: jax.Array, background: jax.Array) -> jax.Array:
    """Rows of the pooled feature, linear in the mask: the background, then one per location.

    Args:
        features: feature map, float [h, w, C].
        background: feature map of what replaces masked locations, float [h, w, C].

    Returns:
        float [1 + h*w, C]; their sum is the pooled feature of the whole picture.
    """
    if features.shape != background.shape or features.ndim != 3:
        raise ShapjaxError(
            f"features have shape {features.shape} and their background {background.shape}, "
            "expected one shape [h, w, C]."
        )
    locations = math.prod(features.shape[:2])
    x = features.reshape(locations, -1)
    a = background.reshape(locations, -1)
    return jnp.concatenate([a.mean(axis=0, keepdims=True), (x - a) / locations])


def unmasked_row(features: jax.Array) -> jax.Array:
    """The single row of a picture without players: its pooled feature, float [1, C]."""
    return features.reshape(1, -1, features.shape[-1]).mean(axis=1)


def gram_matrices(query: jax.Array, retrieved: jax.Array) -> Grams:
    """Gram matrices of two sets of rows.

    Args:
        query: float [1 + nq, C], from ``pooled_rows`` or ``unmasked_row``.
        retrieved: float [1 + nr, C].
    """
    if query.shape[1:] != retrieved.shape[1:]:
        raise ShapjaxError(
            f"query features have {query.shape[-1]} channels and retrieved ones "
            f"{retrieved.shape[-1]}, expected the same; use one network for both."
        )

    def gram(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.matmul(a, b.T, precision="highest")

    return Grams(gram(query, query), gram(query, retrieved), gram(retrieved, retrieved))


def cosine_game(grams: Grams) -> Partial:
    """Value function: cosine of the masked pooled features, 0 where one of them vanishes.

    Players are the query's locations, then the retrieved picture's. A worth costs
    O(nq nr + nq**2 + nr**2), whatever the number of channels.
    """
    return Partial(_cosine, grams)


def dot_game(grams: Grams) -> Partial:
    """Value function: dot product of the masked pooled features (ICLR propositions 4.1, 5.1)."""
    return Partial(_dot, grams)


def with_background(masks: jax.Array, grams: Grams) -> tuple[jax.Array, jax.Array]:
    """Masks split by side, each with a leading one for the background's row.

    Args:
        masks: [B, nq + nr].

    Returns:
        float [B, 1 + nq] and [B, 1 + nr] in the dtype of the Gram matrices.
    """
    n_query = grams.n_query
    ones = jnp.ones((len(masks), 1), grams.qr.dtype)
    query, retrieved = masks[:, :n_query], masks[:, n_query:]
    return (
        jnp.concatenate([ones, query.astype(ones.dtype)], axis=1),
        jnp.concatenate([ones, retrieved.astype(ones.dtype)], axis=1),
    )


def inverse_root(squares: jax.Array) -> jax.Array:
    """1/sqrt of squared norms; 0 where the norm vanishes, so that the cosine is 0 there."""
    positive = squares > 0
    return jnp.where(positive, jax.lax.rsqrt(jnp.where(positive, squares, 1)), 0)


def _dot(grams: Grams, masks: jax.Array) -> jax.Array:
    query, retrieved = with_background(masks, grams)
    return ((query @ grams.qr) * retrieved).sum(axis=1)


def _cosine(grams: Grams, masks: jax.Array) -> jax.Array:
    if grams.qr.ndim > 2:
        return jax.vmap(_cosine, (0, None))(grams, masks).mean(axis=0)
    query, retrieved = with_background(masks, grams)
    dots = ((query @ grams.qr) * retrieved).sum(axis=1)
    norms = [((z @ g) * z).sum(axis=1) for z, g in ((query, grams.qq), (retrieved, grams.rr))]
    return dots * inverse_root(norms[0]) * inverse_root(norms[1])
