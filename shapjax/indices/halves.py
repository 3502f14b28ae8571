"""Sums over supersets of small coalitions, from a table seen as high players by low players."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.coalitions.enumerate import ranks_of_size
from shapjax.core.checks import players_of_table
from shapjax.transforms.moebius import superset_sums

GROUP = 6
"""High players summed over per pass: 2**6 streams of memory are read at once."""

IN_CACHE = 1 << 19
"""Entries of the table that are weighted and contracted at a time, 4 MiB in float64."""


class Halves:
    """A table of coalitions as a matrix [2**high, 2**low], and sums of it over either half.

    A coalition is a pair (r, c) of its high and low players, and its size is that of r plus that
    of c. So what concerns low players alone needs only the columns summed over rows r of each
    size, and the other way round; only coalitions with players of both halves need the weighted
    table itself, summed over the supersets of their low players first.
    """

    def __init__(self, table: jax.Array):
        """Take a table of the worths of all coalitions, float [..., 2**n]."""
        self.n = players_of_table(table.shape, "values")
        self.high = self.n // 2
        self.low = self.n - self.high
        self.matrix = table.reshape(*table.shape[:-1], 1 << self.high, 1 << self.low)

    @functools.cached_property
    def by_low_size(self) -> jax.Array:
        """Rows summed by size of their low players, [..., low + 1, 2**high]."""
        # Size 0 is a column of its own, which leaves 12 columns at n = 24: whole registers.
        one_hot = jnp.asarray(np.eye(self.low + 1)[_sizes(self.low), 1:], self.matrix.dtype)
        others = jnp.matmul(self.matrix, one_hot, precision="highest")
        return jnp.concatenate([self.matrix[..., :1], others], axis=-1).swapaxes(-1, -2)

    @functools.cached_property
    def by_high_size(self) -> jax.Array:
        """Columns summed by size of their high players, [..., high + 1, 2**low]."""
        sums = self.matrix[..., None, :, :]
        left = self.high
        while left:
            count = min(GROUP, left)
            left -= count
            sums = _sums_by_size(sums, count)
        return sums[..., 0, :]

    def superset_sums(self, f: np.ndarray | jax.Array, size: int) -> jax.Array:
        r"""Sums :math:`\sum_{T \supseteq B} f(|T|)\, v(T)` for all B of ``size`` players.

        Args:
            f: float [n + 1].
            size: of B.

        Returns:
            [..., C(n, size)], lexicographic.
        """
        of_low = _weighted(self.by_high_size, f, self.low)
        parts = [superset_sums(of_low)[..., small_ranks(self.low, size)]]
        ranks = [small_ranks(self.low, size)]
        if size:
            of_high = _weighted(self.by_low_size, f, self.high)
            parts.append(superset_sums(of_high)[..., small_ranks(self.high, size)])
            ranks.append(small_ranks(self.high, size) << self.low)
        for own in range(1, size):
            theirs = small_ranks(self.high, size - own)
            sums = superset_sums(self._over_low_supersets(f, own))[..., theirs]
            parts.append(sums.reshape(*sums.shape[:-2], -1))
            ranks.append((small_ranks(self.low, own)[:, None] | theirs << self.low).reshape(-1))
        return jnp.concatenate(parts, axis=-1)[
            ..., positions(small_ranks(self.n, size), np.concatenate(ranks))
        ]

    def _over_low_supersets(self, f: np.ndarray | jax.Array, size: int) -> jax.Array:
        """Rows weighted by f, summed over low supersets, [..., C(low, size), 2**high]."""
        small = small_ranks(self.low, size)
        holds = (np.arange(1 << self.low)[:, None] & small) == small
        contains = jnp.asarray(holds, self.matrix.dtype)
        by_size = np.arange(self.high + 1)[:, None] + _sizes(self.low)
        weights = jnp.asarray(f[by_size], self.matrix.dtype)

        def contract(row: tuple[jax.Array, jax.Array]) -> jax.Array:
            entries, row_size = row
            return jnp.matmul(weights[row_size] * entries, contains, precision="highest")

        rows = self.matrix.reshape(-1, 1 << self.low)
        row_sizes = np.tile(_sizes(self.high), len(rows) >> self.high)
        at_once = max(IN_CACHE >> self.low, 1)
        sums = jax.lax.map(contract, (rows, jnp.asarray(row_sizes)), batch_size=at_once)
        return sums.reshape(*self.matrix.shape[:-1], -1).swapaxes(-1, -2)


def positions(wanted: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Where each wanted rank stands in a list of distinct ranks that holds them all."""
    order = np.argsort(among)
    return order[np.searchsorted(among[order], wanted)]


def _weighted(by_size: jax.Array, f: np.ndarray | jax.Array, players: int) -> jax.Array:
    """Sums by size of the other half, [..., sizes, 2**players], weighted by whole size."""
    others = by_size.shape[-2]
    weight = f[np.arange(others)[:, None] + _sizes(players)]
    return (by_size * jnp.asarray(weight, by_size.dtype)).sum(axis=-2)


def _sums_by_size(sums: jax.Array, count: int) -> jax.Array:
    """Fold the ``count`` topmost players: [..., a, 2**h, L] to [..., a + count, 2**(h-count), L].

    The third axis from the end is the size of what has been folded.
    """
    rows = _top(sums, count)
    sizes = _sizes(count)
    classes = [sum(rows[r] for r in np.flatnonzero(sizes == s)) for s in range(count + 1)]
    if sums.shape[-3] == 1:
        return jnp.concatenate(classes, axis=-3)
    unpadded = [(0, 0)] * (sums.ndim - 3)
    return sum(
        jnp.pad(part, [*unpadded, (s, count - s), (0, 0), (0, 0)]) for s, part in enumerate(classes)
    )  # pyright: ignore[reportReturnType]


def _top(sums: jax.Array, count: int) -> list[jax.Array]:
    """The 2**count slices of [..., a, 2**h, L] by topmost row players, each [..., a, -1, L]."""
    *lead, rows, length = sums.shape
    split = sums.reshape(*lead, 1 << count, rows >> count, length)
    # lax.split, because its transpose is one concatenation; that of slices pads each of them.
    slices = jax.lax.split(split, [1] * (1 << count), axis=split.ndim - 3)
    return [part.squeeze(axis=-3) for part in slices]


def _sizes(players: int) -> np.ndarray:
    return np.bitwise_count(np.arange(1 << players)).astype(np.int64)


def small_ranks(players: int, size: int) -> np.ndarray:
    """Ranks of all coalitions of one size, lexicographic; none where there are fewer players."""
    return ranks_of_size(players, size) if size <= players else np.zeros(0, np.int64)
