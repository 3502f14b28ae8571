"""Hiding tokens of a text or patches of a picture from a transformer."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from shapjax.backbones.record import Backbone


class TokenItem(NamedTuple):
    """The tokens of one item, some of which belong to players.

    Attributes:
        backbone: a transformer.
        tokens: what its first block sees of the whole item, float32 [T, C].
        hidden: what it sees in place of a hidden token, float32 [T, C]; None: hidden tokens are
            left out, and those that stay keep their positions.
        owners: player of each token, int32 [T]; -1: always shown.
    """

    backbone: Backbone
    tokens: jax.Array
    hidden: jax.Array | None
    owners: jax.Array


def token_embed(item: TokenItem) -> Partial:
    """Boolean masks [B, n] to embeddings [B, D] of the item less its hidden tokens.

    A token that is left out is one that no other attends to and that no average counts, which
    gives what the network gives for the shorter sequence.
    """
    return Partial(_embed, item)


def first_tokens(backbone: Backbone, x: jax.Array | np.ndarray) -> jax.Array:
    """What the first block sees of one input, float32 [T, C]."""
    return _tokens(backbone, jnp.asarray(x)[None])[0]


@jax.jit
def _tokens(backbone: Backbone, x: jax.Array) -> jax.Array:
    return backbone.network.tokens(x)


def _embed(item: TokenItem, masks: jax.Array) -> jax.Array:
    network = item.backbone.network
    shown = jnp.where(item.owners < 0, True, masks[:, item.owners])
    if item.hidden is None:
        tokens = jnp.broadcast_to(item.tokens, (len(masks), *item.tokens.shape))
        return network.pool(network.encode(tokens, shown), shown)
    tokens = jnp.where(shown[..., None], item.tokens, item.hidden)
    everything = jnp.ones_like(shown)
    return network.pool(network.encode(tokens, everything), everything)
