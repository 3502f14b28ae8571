"""Similarity of masked pictures: the network runs on every coalition."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from shapjax.backbones.record import Backbone
from shapjax.games.pooled import inverse_root


class MaskedPicture(NamedTuple):
    """One picture of a game: parts outside the coalition come from the background.

    Attributes:
        picture: normalised network input, float32 [S, S, 3].
        backgrounds: likewise, float32 [K, S, S, 3]; worths are averaged over them.
        labels: player that owns each pixel, int32 [S, S].
        players: bool [n], only its length counts.
    """

    picture: jax.Array
    backgrounds: jax.Array
    labels: jax.Array
    players: jax.Array


def masked_game(
    backbone: Backbone, query: MaskedPicture | jax.Array, retrieved: MaskedPicture | jax.Array
) -> Partial:
    """Value function: cosine of the embeddings of the masked pictures, mean over backgrounds.

    A side without players is given by its embedding [C], which is then computed once. Masks,
    not pictures, are what a coalition adds to the device's memory traffic. Two masked sides
    have equally many backgrounds, taken in pairs.
    """
    return Partial(_masked_cosine, backbone, query, retrieved)


def tower(backbone: Backbone, side: MaskedPicture) -> Partial:
    """One side of the game: masks [B, n] to vectors [B, K C] whose dot products are worths.

    The unit embeddings under each background side by side, over the root of their number K.
    """
    return Partial(_tower, backbone, side)


def _masked_cosine(
    backbone: Backbone,
    query: MaskedPicture | jax.Array,
    retrieved: MaskedPicture | jax.Array,
    masks: jax.Array,
) -> jax.Array:
    n_query = len(query.players) if isinstance(query, MaskedPicture) else 0
    a = _unit(backbone, query, masks[:, :n_query])
    b = _unit(backbone, retrieved, masks[:, n_query:])
    return (a * b).sum(axis=2).mean(axis=0)


def _tower(backbone: Backbone, side: MaskedPicture, masks: jax.Array) -> jax.Array:
    vectors = _unit(backbone, side, masks)
    return vectors.swapaxes(0, 1).reshape(len(masks), -1) / len(vectors) ** 0.5


def _unit(backbone: Backbone, side: MaskedPicture | jax.Array, masks: jax.Array) -> jax.Array:
    """Embeddings of norm one (or zero), [K, B, C]; [1, 1, C] for a side without players."""
    if isinstance(side, MaskedPicture):
        vectors = jax.lax.map(
            lambda blank: embed_masked(backbone, side._replace(backgrounds=blank[None]), masks),
            side.backgrounds,
        )
    else:
        vectors = side[None, None]
    return vectors * inverse_root((vectors * vectors).sum(axis=-1, keepdims=True))


def embed_masked(backbone: Backbone, side: MaskedPicture, masks: jax.Array) -> jax.Array:
    """Embeddings [B, C] of a picture less the parts that each mask [B, n] leaves out.

    Its first background stands in for them.
    """
    shown = masks[:, side.labels][..., None]
    return backbone.embed(jnp.where(shown, side.picture, side.backgrounds[0]))
