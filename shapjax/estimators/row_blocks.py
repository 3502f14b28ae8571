"""Coalitions in blocks by their sizes: what they sum over their pairs and players, and back.

Most coalitions that the kernel draws have a few players, and few of the n n pairs: they are lists.
The others are kept as Booleans, and only a block of them is a matrix of numbers at any time, which
stays in the cache and bounds the memory.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

BLOCK_ROWS = 512
"""Rows that are numbers at the same time."""

LISTED = (64, 32, 16, 8, 4)
"""Most players of rows whose pairs are looked up one by one, in groups of about one length."""

SHORT = 6
"""Such rows have at most one player in so many: a longer one is cheaper as a product of matrices.
On CPU; elsewhere products always are."""


class Blocks(NamedTuple):
    """Coalitions, the largest first, in blocks of one width.

    Attributes:
        masks: Boolean [blocks, width, n].
        lists: players of each row of the lists, ascending, then n; int32 [blocks, width, longest].
        lengths: most players of the rows of each group of lists.
        starts: where each group begins, and the rows that are left out; one more than lengths.
    """

    masks: Array
    lists: Array
    lengths: tuple[int, ...]
    starts: list[Array]

    @property
    def shape(self) -> tuple[int, int]:
        """Blocks and rows in each."""
        return self.masks.shape[0], self.masks.shape[1]

    def _pairs(self, i: Array, length: int) -> Array:
        """Places of a block's pairs in a matrix of n + 1 rows and columns, [width, pairs]."""
        left, right = np.triu_indices(length, 1)
        players, side = self.lists[i], self.masks.shape[-1] + 1
        return players[:, left] * side + players[:, right]

    def over_pairs(self, a: Array) -> Array:
        """Sums of a over the pairs of each row, float [blocks, width]; 0 of those left out.

        Args:
            a: symmetric, float [n, n].
        """
        looked_up = jnp.pad(a, (0, 1)).ravel()

        def product(i: Array, found: Array) -> Array:
            z = self.masks[i].astype(a.dtype)
            return found.at[i].set(0.5 * ((z @ a) * z).sum(axis=1))

        found = jax.lax.fori_loop(0, self.starts[0], product, jnp.zeros(self.shape, a.dtype))
        for k, length in enumerate(self.lengths):

            def look_up(i: Array, found: Array, length: int = length) -> Array:
                return found.at[i].set(looked_up[self._pairs(i, length)].sum(axis=1))

            found = jax.lax.fori_loop(self.starts[k], self.starts[k + 1], look_up, found)
        return found

    def to_pairs(self, r: Array) -> Array:
        """What the rows that hold a pair add up to, symmetric with zero diagonal, float [n, n].

        Args:
            r: float [blocks, width].
        """
        n = self.masks.shape[-1]
        found = self._met(r, self.starts[0])
        found = 0.5 * found * (1 - jnp.eye(n, dtype=r.dtype))
        above = jnp.zeros((n + 1) ** 2, r.dtype)
        for k, length in enumerate(self.lengths):

            def add(i: Array, above: Array, length: int = length) -> Array:
                return above.at[self._pairs(i, length)].add(r[i][:, None])

            above = jax.lax.fori_loop(self.starts[k], self.starts[k + 1], add, above)
        found = found + above.reshape(n + 1, n + 1)[:n, :n]
        return found + found.T

    def over_players(self, x: Array) -> Array:
        """Sums of x, float [n], over the players of each row, float [blocks, width]."""
        looked_up = jnp.pad(x, (0, 1))

        def product(i: Array, found: Array) -> Array:
            return found.at[i].set(self.masks[i].astype(x.dtype) @ x)

        def look_up(i: Array, found: Array) -> Array:
            return found.at[i].set(looked_up[self.lists[i]].sum(axis=1))

        found = jax.lax.fori_loop(0, self.starts[0], product, jnp.zeros(self.shape, x.dtype))
        return jax.lax.fori_loop(self.starts[0], self.starts[-1], look_up, found)

    def to_players(self, r: Array) -> Array:
        """What the rows that hold a player add up to, float [n]."""
        n = self.masks.shape[-1]

        def product(i: Array, found: Array) -> Array:
            return found + r[i] @ self.masks[i].astype(r.dtype)

        def add(i: Array, found: Array) -> Array:
            return found.at[self.lists[i]].add(r[i][:, None])

        found = jax.lax.fori_loop(0, self.starts[0], product, jnp.zeros(n, r.dtype))
        found = jnp.pad(found, (0, 1))
        return jax.lax.fori_loop(self.starts[0], self.starts[-1], add, found)[:n]

    def meetings(self, r: Array) -> Array:
        """What the rows that hold two players, or one twice, add up to, float [n, n]."""
        return self._met(r, self.starts[-1])

    def _met(self, r: Array, end: Array) -> Array:
        """The same of the blocks before ``end``."""
        n = self.masks.shape[-1]

        def product(i: Array, found: Array) -> Array:
            z = self.masks[i].astype(r.dtype)
            return found + z.T @ (r[i][:, None] * z)

        return jax.lax.fori_loop(0, end, product, jnp.zeros((n, n), r.dtype))


def in_blocks(x: Array) -> Array:
    """Rows, [rows, ...], in blocks of one width, the last filled up with zeros."""
    width = min(len(x), BLOCK_ROWS)
    padded = jnp.pad(x, ((0, -len(x) % width), *[(0, 0)] * (x.ndim - 1)))
    return padded.reshape(-1, width, *x.shape[1:])


def blocks_of(masks: Array, sizes: Array, smallest: int) -> Blocks:
    """Coalitions in blocks.

    Args:
        masks: Boolean [rows, n], the largest first.
        sizes: how many players each has, int [rows].
        smallest: blocks in which all have fewer are left out; static.
    """
    n, masks = masks.shape[1], in_blocks(masks)
    listed = LISTED if jax.default_backend() == "cpu" else ()
    lengths = tuple(length for length in listed if length <= n // SHORT)
    longest = in_blocks(sizes)[:, 0]
    starts = [(longest > length).sum() for length in (*lengths, smallest - 1)]
    return Blocks(masks, _lists(masks, starts[0], max(lengths, default=0)), lengths, starts)


def _lists(masks: Array, start: Array, length: int) -> Array:
    """The first players of the rows from a block on, n where there are fewer.

    Args:
        masks: Boolean [blocks, width, n].
        start: the first block; those before stay empty.
        length: players of each row; static.

    Returns:
        int32 [blocks, width, length], ascending.
    """
    blocks, width, n = masks.shape
    empty = jnp.full((blocks, width, length), n, jnp.int32)
    if length == 0:
        return empty

    def of_block(i: Array, found: Array) -> Array:
        def next_player(left: Array, _: None) -> tuple[Array, Array]:
            first = jnp.where(left.any(axis=1), jnp.argmax(left, axis=1), n)
            return left & (jnp.arange(n) != first[:, None]), first.astype(jnp.int32)

        return found.at[i].set(jax.lax.scan(next_player, masks[i], None, length=length)[1].T)

    return jax.lax.fori_loop(start, blocks, of_block, empty)
