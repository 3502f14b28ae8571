"""The Möbius and zeta transforms of a table of coalitions."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from shapjax.core.checks import players_of_table
from shapjax.core.precision import float_array


def moebius(values: jax.Array) -> jax.Array:
    r"""Harsanyi dividends: the Möbius transform over the subset lattice.

    :math:`d(S) = \sum_{T \subseteq S} (-1)^{|S|-|T|} v(T)`, so that
    :math:`v(S) = \sum_{T \subseteq S} d(T)` and :math:`d(\emptyset) = v(\emptyset)`.

    Args:
        values: worth v of every coalition, float [..., 2**n]; bit i of the rank is player i.

    Returns:
        Dividends, same shape and dtype, in units of the game.

    Raises:
        ShapjaxError: the last axis is not a power of two, or the values are not real numbers.
        DtypeError: float64 values while JAX's 64-bit mode is off.

    Cost: n 2**(n-1) subtractions, memory of a few tables. In float32 the error grows with n
    (about 1e-5 of the largest worth at n = 16).

    Source: Harsanyi 1963; Hamilton et al. 2022, eq. 4, which is this one for
    :math:`v(\emptyset) = 0`.
    """
    return _moebius(float_array(values, "values"))


def zeta(dividends: jax.Array) -> jax.Array:
    r"""Worth of every coalition from its dividends: the inverse of ``moebius``.

    :math:`v(S) = \sum_{T \subseteq S} d(T)`.

    Args:
        dividends: float [..., 2**n]; bit i of the rank is player i.

    Returns:
        Same shape and dtype.

    Raises:
        ShapjaxError, DtypeError: as ``moebius``.
    """
    return _zeta(float_array(dividends, "dividends"))


def superset_sums(table: jax.Array) -> jax.Array:
    r"""Sum over all supersets: :math:`g(S) = \sum_{T \supseteq S} f(T)`, float [..., 2**n]."""
    return butterfly(table, lambda without, with_: (without + with_, with_))


@jax.jit
def _moebius(values: jax.Array) -> jax.Array:
    return butterfly(values, lambda without, with_: (without, with_ - without))


@jax.jit
def _zeta(dividends: jax.Array) -> jax.Array:
    return butterfly(dividends, lambda without, with_: (without, with_ + without))


Step = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]

LOWEST = 4
"""Players whose pairs lie too close in memory for vectors: one small matrix product."""

RADIX = 4
"""Players per pass over the table."""

BLOCK = 15
"""Players whose table stays in cache; more are done block by block, then across blocks."""


def butterfly(table: jax.Array, step: Step) -> jax.Array:
    """Apply ``step`` to every pair of coalitions that differ by one player, player by player.

    Memory moves, not arithmetic, is what this costs; so several players are done per pass, and
    all passes that fit are done on one block in cache before the next.

    Args:
        table: [..., 2**n].
        step: linear; maps the entries (without player i, with player i) to their new values.
    """
    n = players_of_table(table.shape, "table")
    low = min(LOWEST, n)
    matrix = _radix_pass(jnp.eye(1 << low, dtype=table.dtype), step, 0, low)

    def within(block: jax.Array) -> jax.Array:
        rows = block.reshape(*block.shape[:-1], -1, 1 << low)
        block = jnp.matmul(rows, matrix, precision="highest").reshape(block.shape)
        return _passes(block, step, low, min(n, BLOCK))

    if n <= BLOCK:
        return within(table)
    blocks = jax.lax.map(within, table.reshape(-1, 1 << BLOCK))
    return _passes(blocks.reshape(table.shape), step, BLOCK, n)


def _passes(table: jax.Array, step: Step, first: int, stop: int) -> jax.Array:
    for player in range(first, stop, RADIX):
        table = _radix_pass(table, step, player, min(RADIX, stop - player))
    return table


def _radix_pass(table: jax.Array, step: Step, player: int, count: int) -> jax.Array:
    """The butterflies of ``count`` players from ``player`` on, in one fused loop."""
    split = table.reshape(*table.shape[:-1], -1, 1 << count, 1 << player)
    # lax.split, because its transpose is one concatenation; that of slices pads each of them.
    parts = list(jax.lax.split(split, [1] * (1 << count), axis=split.ndim - 2))
    for bit in range(count):
        for rank in range(1 << count):
            if not rank >> bit & 1:
                with_ = rank | 1 << bit
                parts[rank], parts[with_] = step(parts[rank], parts[with_])
    return jnp.concatenate(parts, axis=-2).reshape(table.shape)
