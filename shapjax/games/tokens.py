"""Hiding tokens of a text or patches of a picture from a transformer."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from shapjax.backbones.record import Backbone

LONG = 64
"""Tokens from which on it pays to run the network on those that stay only."""

LENGTHS = (5, 9, 12, 16)
"""What sequences of those that stay are filled up to, sixteenths of the whole. Each is a program
of its own to compile; masks at random show about half, which has some room above it."""

TOGETHER = 8
"""Sequences of about one length that run together."""


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
    """Boolean masks [B, n] to embeddings [B, D] of the item less its hidden tokens."""
    if item.hidden is not None:
        return Partial(_embed_replaced, item, item.hidden)
    return Partial(embed_unseen if len(item.tokens) < LONG else _embed_dropped, item)


def first_tokens(backbone: Backbone, x: jax.Array | np.ndarray) -> jax.Array:
    """What the first block sees of one input, float32 [T, C]."""
    return _tokens(backbone, jnp.asarray(x)[None])[0]


@jax.jit
def _tokens(backbone: Backbone, x: jax.Array) -> jax.Array:
    return backbone.network.tokens(x)


def embed_unseen(item: TokenItem, masks: jax.Array) -> jax.Array:
    """Embeddings [B, D] of the item less its hidden tokens, for Boolean masks [B, n].

    A token that is left out is one that no other attends to and that no average counts, which
    gives what the network gives for the shorter sequence. It takes the time of the whole one.
    """
    network, shown = item.backbone.network, _shown(item, masks)
    tokens = jnp.broadcast_to(item.tokens, (len(masks), *item.tokens.shape))
    return network.pool(network.encode(tokens, shown), shown)


def _embed_dropped(item: TokenItem, masks: jax.Array) -> jax.Array:
    """The same up to rounding, in time that follows how many tokens stay.

    Masks are sorted by how many tokens they show. A few neighbours at a time run together, on as
    many places as the longest of them needs, rounded up to one of four lengths, which have a
    program of fixed shapes each. Shown tokens come first, in their order; what fills up the
    others is not attended to.
    """
    shown = _shown(item, masks)
    count, total = shown.shape
    order = jnp.argsort(shown.sum(axis=1))
    # The last group is full, as are all others: some of the shortest go twice.
    extra = -count % TOGETHER
    groups = shown[jnp.concatenate([jnp.repeat(order[:1], extra), order])]
    lengths = [-(-total * part // LENGTHS[-1]) for part in LENGTHS]

    def embed(length: int, group: jax.Array) -> jax.Array:
        network = item.backbone.network
        places = jnp.argsort(~group, axis=1, stable=True)[:, :length]
        there = jnp.take_along_axis(group, places, axis=1)
        return network.pool(network.encode(item.tokens[places], there), there)

    ways = [functools.partial(embed, length) for length in lengths]

    def run(group: jax.Array) -> jax.Array:
        longest = group.sum(axis=1).max()
        return jax.lax.switch(jnp.searchsorted(jnp.asarray(lengths), longest), ways, group)

    vectors = jax.lax.map(run, groups.reshape(len(groups) // TOGETHER, TOGETHER, total))
    vectors = vectors.reshape(len(groups), vectors.shape[-1])[extra:]
    return vectors[jnp.argsort(order)]


def _embed_replaced(item: TokenItem, hidden: jax.Array, masks: jax.Array) -> jax.Array:
    network, shown = item.backbone.network, _shown(item, masks)
    tokens = jnp.where(shown[..., None], item.tokens, hidden)
    everything = jnp.ones_like(shown)
    return network.pool(network.encode(tokens, everything), everything)


def _shown(item: TokenItem, masks: jax.Array) -> jax.Array:
    """Which tokens are shown, Boolean [B, T]."""
    return jnp.where(item.owners < 0, True, masks[:, item.owners])
