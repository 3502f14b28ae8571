"""The Möbius and zeta transforms of a table of coalitions."""

from __future__ import annotations

import functools

import jax

from shapjax.core.precision import float_array
from shapjax.transforms.butterfly import butterfly, compensated_moebius


def moebius(values: jax.Array, *, compensated: bool = False) -> jax.Array:
    r"""Harsanyi dividends: the Möbius transform over the subset lattice.

    :math:`d(S) = \sum_{T \subseteq S} (-1)^{|S|-|T|} v(T)`, so that
    :math:`v(S) = \sum_{T \subseteq S} d(T)` and :math:`d(\emptyset) = v(\emptyset)`.

    Args:
        values: worth v of every coalition, float [..., 2**n]; bit i of the rank is player i.
        compensated: carry along what rounding takes, in the dtype of the values: the result is
            as good as one made in twice the digits and rounded at the end; static.

    Returns:
        Dividends, same shape and dtype, in units of the game.

    Raises:
        ShapjaxError: the last axis is not a power of two, or the values are not real numbers.
        DtypeError: float64 values while JAX's 64-bit mode is off.

    Cost: n 2**(n-1) subtractions in about eight copies of the table at n = 24, memory of two
    tables. Dividends cancel, so that float32 loses digits as n grows: of random worths in [0, 1]
    the largest error is 3e-6 at n = 14 and 3e-4 at n = 24 (dividends up to 1.4e3); of a smooth
    game, whose dividends should vanish, that error is all there is. ``compensated`` rounds once,
    at the end, and costs several times as much; values of float32 are still what they are.

    Source: Harsanyi 1963; Hamilton et al. 2022, eq. 4, which is this one for
    :math:`v(\emptyset) = 0`.
    """
    return _moebius(float_array(values, "values"), bool(compensated))


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
    return butterfly(table, (1, 1, 0, 1))


@functools.partial(jax.jit, static_argnames="compensated")
def _moebius(values: jax.Array, compensated: bool) -> jax.Array:
    return compensated_moebius(values) if compensated else butterfly(values, (1, 0, -1, 1))


@jax.jit
def _zeta(dividends: jax.Array) -> jax.Array:
    return butterfly(dividends, (1, 0, 1, 1))
