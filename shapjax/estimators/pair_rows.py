"""The rows of a large regression on pairs.

The kernel draws small coalitions most, and a coalition of two players is one pair: all rows of
that pair are one equation of its own coefficient, whatever their number, so they are added up and
cost nothing. Often that is half of the rows.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.estimators.conjugate import Map
from shapjax.estimators.row_blocks import Blocks, blocks_of, in_blocks
from shapjax.estimators.rows import Alike, Rows

Array = jax.Array


def pair_rows(free: Array, weights: Array) -> Rows:
    """Of a regression on pairs: those of a single pair added up, the others in blocks.

    Args:
        free: Boolean [rows, n]; one of less than two players says nothing of pairs.
        weights: float [rows].

    Returns:
        Rows of symmetric coefficients, float [n, n] with zero diagonal. They are float [blocks
        width + n n + 1]: the larger coalitions, the pairs, and what no coefficient can fit,
        which is how the rows of one pair scatter about their mean.
    """
    n, dtype = free.shape[1], weights.dtype
    sizes = free.sum(axis=1)
    # The largest come first, so that a count of blocks leaves out those of single pairs.
    position = jnp.argsort(-sizes)
    masks, weights, sizes = free[position], weights[position], sizes[position]
    larger = blocks_of(masks, sizes, 3)

    # Rows with no pair of their own count for a pair that is then dropped.
    first, last = jnp.argmax(masks, axis=1), n - 1 - jnp.argmax(masks[:, ::-1], axis=1)
    pair = jnp.where(sizes == 2, first * n + last, n * n)

    def summed(x: Array) -> Array:
        return jnp.zeros(n * n + 1, dtype).at[pair].add(x)[:-1]

    total = summed(weights)

    def of_larger(x: Array) -> Array:
        return in_blocks(jnp.where(sizes > 2, x, 0))

    def forward(a: Array, roots: tuple[Array, Array]) -> Array:
        root, single = roots
        # A skew part, left by rounding, is as invisible here as it is to the other rows.
        a = 0.5 * (a + a.T)
        return _joined(root * larger.over_pairs(a), single * a.ravel())

    def adjoint(r: Array, roots: tuple[Array, Array]) -> Array:
        root, single = roots
        above, pairs = _parted(r, larger)
        single = (single * pairs.ravel()).reshape(n, n)
        return 0.5 * (larger.to_pairs(root * above) + single + single.T)

    def target(values: Array) -> Array:
        values = values[position]
        mean = summed(weights * values) / jnp.where(total > 0, total, 1)
        about = jnp.where(sizes == 2, values - mean[pair % (n * n)], 0)
        scatter = jnp.sqrt((weights * about**2).sum())
        return _joined(of_larger(jnp.sqrt(weights) * values), jnp.sqrt(total) * mean, scatter)

    of_size = jnp.asarray(_even(n), dtype)
    roots = of_larger(jnp.sqrt(weights)), jnp.sqrt(total)
    even = of_larger(jnp.where(weights > 0, of_size[sizes], 0)), of_size[2] * (total > 0)
    # A row sees x_i + x_j over its pairs as a multiple of the sum of x over its players.
    seen = even[0] * of_larger(sizes - 1) / math.sqrt(n - 2), even[1] / math.sqrt(n - 2)
    ratio = _joined(*(_over(a, b) for a, b in zip(even, roots, strict=True)))
    return Rows(
        forward=forward,
        adjoint=adjoint,
        roots=roots,
        even=even,
        target=target,
        alike=Alike(_whitening(larger, *seen), lambda target: ratio * target),
    )


def _joined(larger: Array, pairs: Array, scatter: Array | float = 0.0) -> Array:
    rest = jnp.asarray(scatter, larger.dtype)
    return jnp.concatenate([larger.ravel(), pairs.ravel(), rest[None]])


def _parted(r: Array, larger: Blocks) -> tuple[Array, Array]:
    """Values of the larger coalitions, [blocks, width], and of the pairs, [n, n]."""
    count, n = math.prod(larger.shape), larger.masks.shape[-1]
    return r[:count].reshape(larger.shape), r[count:-1].reshape(n, n)


def _whitening(larger: Blocks, above: Array, pairs: Array) -> Map:
    """(1 + LL')^(-1/2) on rows, where row S of L is a multiple of the players of S, centred.

    Args:
        larger: the larger coalitions.
        above: their multiples, float [blocks, width].
        pairs: those of the pairs, float [n n].
    """
    n = larger.masks.shape[-1]
    pairs = pairs.reshape(n, n)
    squares = pairs**2 + (pairs**2).T
    gram = larger.meetings(above**2) + squares + jnp.diag(squares.sum(axis=1))
    gram = gram - gram.mean(axis=0)
    spectrum, axes = jnp.linalg.eigh(gram - gram.mean(axis=1, keepdims=True))
    spectrum = jnp.maximum(spectrum, 0)
    # ((1 + s)^(-1/2) - 1) / s, without its cancellation.
    shrunk = -1 / (1 + spectrum + jnp.sqrt(1 + spectrum))

    def whiten(r: Array) -> Array:
        part, single = _parted(r, larger)
        single = pairs * single
        x = larger.to_players(above * part) + single.sum(axis=0) + single.sum(axis=1)
        x = axes @ (shrunk * (axes.T @ (x - x.mean())))
        x = x - x.mean()
        return r + _joined(above * larger.over_players(x), pairs * (x[:, None] + x))

    return whiten


def _even(n: int) -> np.ndarray:
    """By size, what brings a row to norm one without its part along sums over players, [n + 1]."""
    s = np.arange(n + 1)
    held = s * (s - 1) / 2
    centred = held - held**2 * 2 / (n * (n - 1))
    across = centred - (s - 1) ** 2 * s * (1 - s / n) / (n - 2)
    # Rows of n - 1 players have no other part; whatever they get is whitened.
    return np.maximum(across, np.maximum(0.01 * centred, 1e-3)) ** -0.5


def _over(a: Array, b: Array) -> Array:
    """a / b, 0 where b is."""
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)
