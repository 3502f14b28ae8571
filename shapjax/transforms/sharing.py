r"""Sharing rules: how coalitions outside a family give their dividends to its members.

A rule is a plain function, ``rule(dividends, member) -> coefficients``:

- dividends: d(T) of every coalition by rank, float [..., 2**n], bit i of the rank is player i;
- member: a NumPy Boolean array [2**n], concrete even under ``jit``: which coalitions belong to the
  family. The empty coalition and every player alone always do;
- returned: like ``dividends``, zero outside the family.

The rules here are examples of it. ``functools.partial(push_down, weights=...)`` is the shortest
way to one's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from shapjax.core.checks import players_of_table
from shapjax.core.errors import ShapjaxError
from shapjax.core.memory import require_memory
from shapjax.transforms.butterfly import step_by_step

Rule = Callable[[jax.Array, np.ndarray], Any]

Weights = Callable[[np.ndarray], Any]
"""Masks of coalitions, Boolean [B, n], to numbers [B, n] (or what broadcasts to it):
entry [b, i] is the weight of the sub-coalition that player i has left."""

_WORD = 8


def push_down(
    dividends: jax.Array, member: np.ndarray, weights: Weights | None = None
) -> jax.Array:
    r"""Coalitions outside the family give to their sub-coalitions of one player fewer.

    Largest sizes first: a coalition T outside the family passes on all it has (its dividend and
    what reached it), the part :math:`w_i(T) / \sum_{j \in T} w_j(T)` to T without i; a member
    keeps what reaches it. Without weights the parts are equal.

    Args:
        dividends: d(T) by rank, float [..., 2**n].
        member: Boolean [2**n]; must hold every coalition of at most one player.
        weights: w, at least 0 and not all 0 for a coalition outside the family; called once with
            the masks of all coalitions by rank. Gradients flow through it.

    Returns:
        Like ``dividends``; zero outside the family. The sum over all coalitions is unchanged.

    Raises:
        ShapjaxError: weights of a wrong shape, or negative, or all zero.

    Cost: O(n 2**n), whatever the family: one look at each pair of neighbouring coalitions. A few
    tables of 2**n of memory, n of them with weights.
    """
    n = players_of_table(dividends.shape, "dividends")
    parts = None if weights is None else _parts(weights, member, dividends)
    return _push_down(dividends, member, *_blocks_by_size(n), parts)


def maximal_members(dividends: jax.Array, member: np.ndarray) -> jax.Array:
    """A coalition outside the family shares its dividend equally among its maximal members.

    The maximal members of T are the members of the family contained in T and in no other such.

    Args:
        dividends: d(T) by rank, float [..., 2**n].
        member: Boolean [2**n]; must hold every coalition of at most one player.

    Returns:
        Like ``dividends``; zero outside the family. The sum over all coalitions is unchanged.

    Cost: O(|F| 2**n (1 + n/8)) for a family of |F| members, about 12 tables of 2**n of memory.
    """
    ranks = np.flatnonzero(member)[1:].astype(np.int32)
    # The empty coalition fills the last block: it is maximal in no coalition with players.
    blocks = np.zeros((-(-len(ranks) // _WORD), _WORD), np.int32)
    blocks.flat[: len(ranks)] = ranks
    return _maximal_members(dividends, member, blocks)


def _blocks_by_size(n: int) -> tuple[np.ndarray, np.ndarray]:
    """All coalitions in blocks of one width, each of one size, largest sizes first.

    Returns:
        Ranks, int32 [blocks, width], blocks filled up with the grand coalition (a few
        per cent more than 2**n in all); and where each coalition is in them, int32 [2**n].
    """
    sizes = np.bitwise_count(np.arange(1 << n, dtype=np.uint32))
    by_size = np.argsort(-sizes.astype(np.int8), kind="stable").astype(np.int32)
    counts = [math.comb(n, size) for size in range(n, -1, -1)]
    width = -(-(1 << n) // (16 * (n + 1)))  # small enough for caches, and little to fill up
    starts = np.cumsum([0] + [-(-count // width) * width for count in counts])
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    slots = np.arange(1 << n, dtype=np.int32) + np.repeat(starts[:-1] - first, counts)
    blocks = np.full(starts[-1], (1 << n) - 1, np.int32)
    blocks[slots] = by_size
    position = np.empty(1 << n, np.int32)
    position[by_size] = slots
    return blocks.reshape(-1, width), position


@jax.jit
def _push_down(
    dividends: jax.Array,
    member: jax.Array,
    blocks: jax.Array,
    position: jax.Array,
    parts: jax.Array | None,
) -> jax.Array:
    n = players_of_table(dividends.shape, "dividends")
    players = jnp.arange(n, dtype=blocks.dtype)[:, None]
    bits = jnp.left_shift(jnp.ones((), blocks.dtype), players)

    def settle(passed_on: jax.Array, block: tuple[jax.Array, Any]) -> tuple[jax.Array, jax.Array]:
        ranks, start = block
        givers = ranks | bits
        gifts = passed_on[..., position[givers]]
        if parts is not None:
            gifts = gifts * parts[givers, players]
        received = jnp.where(ranks & bits == 0, gifts, 0).sum(axis=-2)
        credit = dividends[..., ranks] + received
        gift = jnp.where(member[ranks], 0, credit)
        if parts is None:
            gift = gift / jnp.maximum(jax.lax.population_count(ranks), 1).astype(gift.dtype)
        passed_on = jax.lax.dynamic_update_slice_in_dim(passed_on, gift, start, axis=-1)
        return passed_on, jnp.where(member[ranks], credit, 0)

    nothing = jnp.zeros((*dividends.shape[:-1], blocks.size), dividends.dtype)
    starts = blocks.shape[1] * jnp.arange(blocks.shape[0], dtype=blocks.dtype)
    _, kept = jax.lax.scan(settle, nothing, (blocks, starts))
    return jnp.moveaxis(kept, 0, -2).reshape(nothing.shape)[..., position]


def _parts(weights: Weights, member: np.ndarray, like: jax.Array) -> jax.Array:
    """The part of its credit that each coalition gives to each sub-coalition, [2**n, n]."""
    n = players_of_table(like.shape, "dividends")
    require_memory(
        (3 * like.dtype.itemsize + 2) * n << n,
        f"the weights of the {n} sub-coalitions of each of 2^{n} coalitions",
        "push down without weights, or use fewer players",
    )
    masks = np.arange(1 << n)[:, None] >> np.arange(n) & 1 == 1
    given = jnp.asarray(weights(masks), like.dtype)
    try:
        given = jnp.where(masks, jnp.broadcast_to(given, masks.shape), 0)
    except ValueError:
        raise ShapjaxError(
            f"the weights have shape {given.shape} for masks of shape {masks.shape}, expected one "
            "number for each player of each coalition."
        ) from None
    total = given.sum(axis=1, keepdims=True)
    if not isinstance(given, Tracer):
        low = np.asarray(given).min(axis=1, initial=0)
        bad = ~member & ~((low == 0) & np.isfinite(total[:, 0]) & (np.asarray(total[:, 0]) > 0))
        if bad.any():
            players = np.flatnonzero(masks[np.argmax(bad)]).tolist()
            raise ShapjaxError(
                f"the weights of the coalition {tuple(players)} outside the family are negative, "
                "not finite or all zero; give at least one of its players a positive weight."
            )
    return given / jnp.where(total > 0, total, 1)


@jax.jit
def _maximal_members(dividends: jax.Array, member: jax.Array, blocks: jax.Array) -> jax.Array:
    ranks = jnp.arange(dividends.shape[-1], dtype=blocks.dtype)
    bits = jnp.left_shift(jnp.uint8(1), jnp.arange(_WORD, dtype=jnp.uint8))[:, None]

    def maximal(block: jax.Array) -> jax.Array:
        """Whether each member S of a block is maximal in each coalition T, [8, 2**n]."""
        contained = block[:, None] & ~ranks == 0
        larger = contained & member & (block[:, None] != ranks)
        # Eight members at a time, a bit each: is there a larger one within T?
        words = jnp.where(larger, bits, 0).sum(axis=0, dtype=jnp.uint8)
        words = step_by_step(words, lambda without, with_: (without, without | with_))
        return contained & (words & bits == 0)

    def count(counts: jax.Array, block: jax.Array) -> tuple[jax.Array, None]:
        return counts + maximal(block).sum(axis=0, dtype=counts.dtype), None

    @jax.checkpoint  # a gradient recomputes who is maximal rather than keep it for all members
    def collect(each: jax.Array, block: jax.Array) -> tuple[jax.Array, jax.Array]:
        part = jnp.matmul(each, maximal(block).T.astype(each.dtype), precision="highest")
        return each, part

    counts, _ = jax.lax.scan(count, jnp.zeros(ranks.shape, jnp.int32), blocks)
    each = jnp.where(member, 0, dividends / jnp.maximum(counts, 1))
    _, parts = jax.lax.scan(collect, each, blocks)
    received = jnp.moveaxis(parts, 0, -2).reshape(*dividends.shape[:-1], blocks.size)
    return jnp.where(member, dividends, 0).at[..., blocks.reshape(-1)].add(received)
