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
        background: likewise.
        labels: player that owns each pixel, int32 [S, S].
        players: bool [n], only its length counts.
    """

    picture: jax.Array
    background: jax.Array
    labels: jax.Array
    players: jax.Array


def masked_game(
    backbone: Backbone, query: MaskedPicture | jax.Array, retrieved: MaskedPicture | jax.Array
) -> Partial:
    """Value function: cosine of the embeddings of the masked pictures.

    A side without players is given by its embedding [C], which is then computed once. Masks,
    not pictures, are what a coalition adds to the device's memory traffic.
    """
    return Partial(_masked_cosine, backbone, query, retrieved)


def _masked_cosine(
    backbone: Backbone,
    query: MaskedPicture | jax.Array,
    retrieved: MaskedPicture | jax.Array,
    masks: jax.Array,
) -> jax.Array:
    n_query = len(query.players) if isinstance(query, MaskedPicture) else 0
    a = _embed(backbone, query, masks[:, :n_query])
    b = _embed(backbone, retrieved, masks[:, n_query:])
    norms = inverse_root((a * a).sum(axis=1)) * inverse_root((b * b).sum(axis=1))
    return (a * b).sum(axis=1) * norms


def _embed(backbone: Backbone, side: MaskedPicture | jax.Array, masks: jax.Array) -> jax.Array:
    return embed_masked(backbone, side, masks) if isinstance(side, MaskedPicture) else side[None]


def embed_masked(backbone: Backbone, side: MaskedPicture, masks: jax.Array) -> jax.Array:
    """Embeddings [B, C] of a picture less the parts that each mask [B, n] leaves out."""
    shown = masks[:, side.labels][..., None]
    return backbone.embed(jnp.where(shown, side.picture, side.background))
