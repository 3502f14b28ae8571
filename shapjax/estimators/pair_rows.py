"""The rows of a regression on pairs: as few as there can be, a block at a time.

The kernel draws small coalitions most, and a coalition of two players is one pair: all rows of
that pair are one equation of its own coefficient, whatever their number, so they are added up and
cost nothing. Often that is half of the rows. The others are kept as Booleans, and only a block of
them is a matrix of numbers at any time, which stays in the cache and bounds the memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from shapjax.estimators.conjugate import Map

Array = jax.Array

BLOCK_ROWS = 2048
"""Rows that are numbers at the same time."""


class PairRows(NamedTuple):
    """Weighted rows, the largest coalitions first.

    Attributes:
        masks: Boolean [blocks, width, n]; the last block is filled up with rows of no weight.
        root: square roots of their weights, float [blocks, width]; 0 for those of a single pair.
        blocks: how many blocks hold a row of more than a pair, int [].
        position: of the rows before they were sorted, int [rows].
        pair: for every row, sorted, its pair as a position in [n, n]; n * n for other rows.
        weight_of_row: of every row, sorted, float [rows].
        weight_of_pair: sum over the rows of a single pair, float [n, n], upper triangle.
    """

    masks: Array
    root: Array
    blocks: Array
    position: Array
    pair: Array
    weight_of_row: Array
    weight_of_pair: Array

    def forward(self, dtype: Any) -> Map:
        """Symmetric coefficients [n, n] to weighted rows, then pairs: float [blocks width + n n].

        A last entry is zero: what no coefficient can fit (``gather``).
        """
        root, single = self.root.astype(dtype), jnp.sqrt(self.weight_of_pair).astype(dtype)

        def block(i: Array | int, a: Array) -> Array:
            z = self.masks[i].astype(dtype)
            return 0.5 * root[i] * ((z @ a) * z).sum(axis=1)

        def apply(a: Array) -> Array:
            if len(root) == 1:
                rows = block(0, a)[None]
            else:
                rows = jax.lax.fori_loop(
                    0, self.blocks, lambda i, r: r.at[i].set(block(i, a)), jnp.zeros_like(root)
                )
            # A skew part, left by rounding, is as invisible here as it is to the other rows.
            pairs = 0.5 * single * (a + a.T)
            return jnp.concatenate([rows.ravel(), pairs.ravel(), jnp.zeros(1, dtype)])

        return apply

    def adjoint(self, dtype: Any) -> Map:
        """The transpose of ``forward``, symmetric and with zero diagonal."""
        n = self.masks.shape[-1]
        hollow = 1 - jnp.eye(n, dtype=dtype)
        root, single = self.root.astype(dtype), jnp.sqrt(self.weight_of_pair).astype(dtype)

        def block(i: Array | int, r: Array) -> Array:
            z = self.masks[i].astype(dtype)
            return z.T @ ((root[i] * r[i])[:, None] * z)

        def apply(r: Array) -> Array:
            rows = r[: root.size].reshape(root.shape)
            if len(root) == 1:
                total = block(0, rows)
            else:
                total = jax.lax.fori_loop(
                    0, self.blocks, lambda i, a: a + block(i, rows), jnp.zeros_like(single)
                )
            # Rounding leaves a skew part, which no row can see and a solver would feed on.
            total = 0.25 * total * hollow + 0.5 * single * r[root.size : -1].reshape(n, n)
            return total + total.T

        return apply

    def gather(self, values: Array) -> Array:
        """Values of the rows as they were given, float [rows], as ``forward`` has them.

        Rows of one pair have their mean there, and how they scatter about it is the last entry.
        """
        n, values = self.masks.shape[-1], values[self.position]
        weights = jnp.where(self.pair < n * n, self.weight_of_row, 0).astype(values.dtype)
        total = self.weight_of_pair.astype(values.dtype).ravel()
        sums = jnp.zeros_like(total).at[self.pair].add(weights * values, mode="drop")
        mean = sums / jnp.where(total > 0, total, 1)
        about = jnp.where(self.pair < n * n, values - mean[self.pair % (n * n)], 0)
        scatter = jnp.sqrt((weights * about**2).sum())
        rows = jnp.zeros(self.root.size, values.dtype).at[: len(values)].set(values)
        root = self.root.astype(values.dtype)
        return jnp.concatenate([root.ravel() * rows, jnp.sqrt(total) * mean, scatter[None]])


def pair_rows(free: Array, weights: Array) -> PairRows:
    """Sort the rows by size and add up those of a single pair.

    Args:
        free: Boolean [rows, n]; one of less than two players says nothing of pairs.
        weights: float [rows].
    """
    rows, n = free.shape
    width = min(rows, BLOCK_ROWS)
    sizes = free.sum(axis=1)
    position = jnp.argsort(-sizes)
    masks, weights, sizes = free[position], weights[position], sizes[position]
    large = sizes > 2
    first, last = jnp.argmax(masks, axis=1), n - 1 - jnp.argmax(masks[:, ::-1], axis=1)
    pair = jnp.where(sizes == 2, first * n + last, n * n)
    of_pair = jnp.zeros(n * n, weights.dtype).at[pair].add(weights, mode="drop")
    fill = -rows % width
    root = jnp.pad(jnp.where(large, jnp.sqrt(weights), 0), (0, fill)).reshape(-1, width)
    return PairRows(
        masks=jnp.pad(masks, ((0, fill), (0, 0))).reshape(-1, width, n),
        root=root,
        blocks=(large.sum() + width - 1) // width,
        position=position,
        pair=pair,
        weight_of_row=weights,
        weight_of_pair=of_pair.reshape(n, n),
    )
