"""The Möbius and zeta transforms of a table of coalitions."""

from __future__ import annotations

import functools
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


def butterfly(table: jax.Array, step: Step) -> jax.Array:
    """Apply ``step`` to every pair of coalitions that differ by one player, player by player.

    Args:
        table: [..., 2**n].
        step: maps the entries (without player i, with player i) to their new values.
    """
    n = players_of_table(table.shape, "table")
    return functools.reduce(functools.partial(_pass, step=step), range(n), table)


def _pass(table: jax.Array, player: int, step: Step) -> jax.Array:
    split = table.reshape(*table.shape[:-1], -1, 2, 1 << player)
    without, with_ = step(split[..., 0, :], split[..., 1, :])
    return jnp.stack([without, with_], axis=-2).reshape(table.shape)
