"""Sums over supersets of small coalitions, from a table seen as high players by low players."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.coalitions.enumerate import ranks_of_size, sizes_of_ranks
from shapjax.core.checks import players_of_table
from shapjax.transforms.moebius import superset_sums

GROUP = 6
"""High players summed over per pass: 2**6 streams of memory are read at once."""


class Halves:
    """A table of coalitions as a matrix [2**high, 2**low], and its sums by size of either half.

    A coalition is a pair (r, c) of its high and low players, and its size is that of r plus that
    of c. So what concerns low players alone needs only the columns summed over rows r of each
    size, and the other way round; only coalitions with players of both halves need the weighted
    table itself, summed over the supersets of their high players first.
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
        one_hot = jnp.asarray(np.eye(self.low + 1)[_sizes(self.low)], self.matrix.dtype)
        return jnp.matmul(self.matrix, one_hot, precision="highest").swapaxes(-1, -2)

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

    def superset_sums(self, f: np.ndarray, size: int) -> jax.Array:
        r"""Sums :math:`\sum_{T \supseteq B} f(|T|)\, v(T)` for all B of ``size`` players.

        Args:
            f: float64 [n + 1], static.
            size: of B.

        Returns:
            [..., C(n, size)], lexicographic.
        """
        of_low = _weighted(self.by_high_size, f, self.low)
        parts = [superset_sums(of_low)[..., _small(self.low, size)]]
        ranks = [_small(self.low, size)]
        if size:
            of_high = _weighted(self.by_low_size, f, self.high)
            parts.append(superset_sums(of_high)[..., _small(self.high, size)])
            ranks.append(_small(self.high, size) << self.low)
        mixed = _sums_over_supersets(self.matrix, size - 1, f) if size > 1 else []
        for own, sums in enumerate(mixed[1:], start=1):
            theirs = _small(self.low, size - own)
            kept = superset_sums(sums)[..., theirs]
            parts.append(kept.reshape(*kept.shape[:-2], -1))
            ranks.append((_small(self.high, own)[:, None] << self.low | theirs).reshape(-1))
        there = np.concatenate(ranks)
        by_rank = np.argsort(there)
        order = by_rank[np.searchsorted(there[by_rank], ranks_of_size(self.n, size))]
        return jnp.concatenate(parts, axis=-1)[..., order]


def _weighted(by_size: jax.Array, f: np.ndarray, players: int) -> jax.Array:
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
        jnp.pad(part, [*unpadded, (s, count - s), (0, 0), (0, 0)])
        for s, part in enumerate(classes)
    )  # pyright: ignore[reportReturnType]


def _sums_over_supersets(
    matrix: jax.Array, degree: int, f: np.ndarray | None = None
) -> list[jax.Array]:
    """Sums over rows r that contain b, for every b of at most ``degree`` row players.

    Args:
        matrix: [..., 2**h, L].
        degree: of the largest b.
        f: weight of an entry (r, c) by the size of r and c together, float64 [n + 1]; None is 1.

    Returns:
        Per size 0..degree of b, [..., C(h, size), L], lexicographic.
    """
    high = matrix.shape[-2].bit_length() - 1
    if f is None and degree == 0:
        return [matrix.sum(axis=-2, keepdims=True)]
    if high == 0:
        return [matrix] + [matrix[..., :0, :]] * degree
    count = min(GROUP, high)
    rest = high - count
    rows = _top(matrix[..., None, :, :], count)
    if f is not None:
        length = matrix.shape[-1] << rest
        shape = (1 << rest, matrix.shape[-1])
        by_size = [
            _by_size(f[s:], length, matrix.dtype).reshape(shape) for s in range(count + 1)
        ]
        rows = [row * by_size[size] for row, size in zip(rows, _sizes(count), strict=True)]
    found: list[list[tuple[np.ndarray, jax.Array]]] = [[] for _ in range(degree + 1)]
    for own in range(min(degree, count) + 1):
        mine = _small(count, own)
        sums = jnp.concatenate(
            [sum(rows[r] for r in range(1 << count) if r & b == b) for b in mine], axis=-3
        )
        for size, part in enumerate(_sums_over_supersets(sums, degree - own)):
            ranks = mine[:, None] << rest | _small(rest, size)
            found[own + size].append(
                (ranks.reshape(-1), part.reshape(*part.shape[:-3], -1, part.shape[-1]))
            )
    return [_in_order(parts, high, size) for size, parts in enumerate(found)]


def _in_order(parts: list[tuple[np.ndarray, jax.Array]], players: int, size: int) -> jax.Array:
    """Rows of several families of coalitions, put into lexicographic order."""
    there = np.concatenate([ranks for ranks, _ in parts])
    by_rank = np.argsort(there)
    order = by_rank[np.searchsorted(there[by_rank], _small(players, size))]
    return jnp.concatenate([rows for _, rows in parts], axis=-2)[..., order, :]


def _top(sums: jax.Array, count: int) -> list[jax.Array]:
    """The 2**count slices of [..., a, 2**h, L] by topmost row players, each [..., a, -1, L]."""
    *lead, rows, length = sums.shape
    split = sums.reshape(*lead, 1 << count, rows >> count, length)
    # lax.split, because its transpose is one concatenation; that of slices pads each of them.
    slices = jax.lax.split(split, [1] * (1 << count), axis=split.ndim - 3)
    return [part.squeeze(axis=-3) for part in slices]


def _by_size(f: np.ndarray, length: int, dtype: np.dtype) -> jax.Array:
    """f by size of every rank below ``length``."""
    # The barrier keeps the compiler from folding the whole table into the program.
    sizes = jax.lax.optimization_barrier(sizes_of_ranks(length.bit_length() - 1))
    return jnp.asarray(f, dtype)[sizes]


def _sizes(players: int) -> np.ndarray:
    return np.bitwise_count(np.arange(1 << players)).astype(np.int64)


def _small(players: int, size: int) -> np.ndarray:
    return ranks_of_size(players, size) if size <= players else np.zeros(0, np.int64)
