r"""Standard errors of a regression: the same fit again, of its residuals with random signs.

A fit of least squares is linear in what is fitted, so that the fit of :math:`\xi_T\, e_T`, with
residuals e and independent signs :math:`\xi`, moves the coefficients as the chance of the draw
does: its mean square over signs is the sandwich :math:`H^{-1} \sum_T g_T g_T^\top H^{-1}`,
:math:`g_T = w_T x_T e_T`, on the diagonal, without any matrix being formed. What the draw leaves
to chance is all in the signs: rows drawn together share one, within a stratum of given count they
sum to zero, and a stratum drawn without replacement counts by the share of it that was not drawn
(nothing where all was).

Residuals are divided by one less the leverage of what was drawn together, which makes them those
of predictions without it: in small samples the fit would otherwise hide part of them.

Source: Wu 1986 (the wild bootstrap); White 1980 (the sandwich); MacKinnon & White 1985 (the
leverage, as a jackknife has it); Cochran 1977, section 2.6 (the finite population).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.core.checks import whole_number
from shapjax.estimators.conjugate import Operator, least_squares

REFITS = 24
"""Refits by default: standard errors are then good to one part in seven."""

TOLERANCE = 3e-3
MOST_STEPS = 100
LEVERAGE_REFITS = 4
MOST_LEVERAGE = 0.95


class Draw(NamedTuple):
    """How the rows of a regression were drawn.

    Attributes:
        unit: which rows were drawn together, int [rows], from 0.
        stratum: the units of which it is drawn from one population, int [rows].
        missing: the share of the stratum that was not drawn, float64 [rows]; 1 for independent
            draws.
    """

    unit: np.ndarray
    stratum: np.ndarray
    missing: np.ndarray

    @property
    def together(self) -> int:
        """How many rows a unit has."""
        return int(np.bincount(self.unit).max(initial=1))

    @property
    def leaves_nothing_out(self) -> bool:
        """Whether there is no chance in it."""
        return not np.any(self.missing > 0)


def independent(rows: int, *, paired: bool = False) -> Draw:
    """Independent draws, of neighbouring pairs of rows where ``paired``."""
    unit = np.arange(rows) // (2 if paired else 1)
    return Draw(unit, np.zeros(rows, np.int64), np.ones(rows))


def distinct_by_size(masks: np.ndarray, *, paired: bool = False) -> Draw:
    """Distinct coalitions, so many of each size; with ``paired`` complements are neighbours.

    Args:
        masks: Boolean [rows, n].
        paired: whether a coalition and its complement were drawn together.
    """
    rows, n = masks.shape
    sizes = masks.sum(axis=1)
    if paired:
        sizes = np.minimum(sizes, n - sizes)
    number = np.array([float(math.comb(n, s)) for s in range(n + 1)])
    if paired:
        number[: n // 2 + 1] *= [1 + (2 * s != n) for s in range(n // 2 + 1)]
    missing = 1 - np.bincount(sizes, minlength=n + 1) / number
    return Draw(np.arange(rows) // (2 if paired else 1), sizes, missing[sizes])


def signs_of(draw: Draw, key: jax.Array, refits: int) -> np.ndarray:
    """Random signs of the rows, scaled by what the draw leaves to chance, float64 [refits, rows].

    A unit that is alone in its stratum keeps its whole residual, since nothing tells how it
    scatters.
    """
    units, first = np.unique(draw.unit, return_index=True)
    stratum = draw.stratum[first]
    count = np.bincount(stratum)
    signs = np.asarray(_random_signs(key, refits, len(units)), np.float64)
    means = np.zeros((refits, len(count)))
    for mean, row in zip(means, signs, strict=True):
        mean[:] = np.bincount(stratum, row, len(count))
    alone = count == 1
    means /= np.maximum(count, 1)
    means[:, alone] = 0
    wider = np.where(alone, 1.0, count / np.maximum(count - 1.0, 1.0))
    scaled = (signs - means[:, stratum]) * np.sqrt(wider)[stratum]
    return scaled[:, draw.unit] * np.sqrt(np.maximum(draw.missing, 0))


def independent_signs(rows: int, key: jax.Array, refits: int) -> jax.Array:
    """``signs_of`` of independent draws for ``jit`` and ``vmap``, float [refits, rows]."""
    signs = _random_signs(key, refits, rows).astype(float)
    if rows == 1:
        return signs
    return (signs - signs.mean(axis=1, keepdims=True)) * (rows / (rows - 1)) ** 0.5


def leverage_signs(rows: int, key: jax.Array) -> jax.Array:
    """Signs by whose refits the leverage of the rows is found, int8 [LEVERAGE_REFITS, rows]."""
    return jax.random.rademacher(jax.random.fold_in(key, 2), (LEVERAGE_REFITS, rows), jnp.int8)


def _random_signs(key: jax.Array, refits: int, units: int) -> jax.Array:
    return jax.random.rademacher(jax.random.fold_in(key, 1), (refits, units), jnp.int8)


def require_refits(refits: int) -> int:
    """How many refits.

    Raises:
        ShapjaxError: it is not a whole number, or negative.
    """
    return whole_number(refits, "refits", low=0)


def refit(
    operator: Operator,
    residual: jax.Array,
    z: jax.Array,
    signs: jax.Array,
    leverage: jax.Array,
    together: int = 1,
) -> jax.Array:
    """The unknowns that fit the residuals, with every row of signs.

    Args:
        operator: unknowns to weighted rows, well conditioned as preconditioned.
        residual: of the weighted rows, [rows].
        z: the coalitions, Boolean [rows, n]; those of a size have one leverage, their mean.
        signs: [refits, rows].
        leverage: signs from ``leverage_signs``.
        together: how many rows were drawn together.

    Returns:
        [refits, unknowns], solved to a few thousandths, which is finer than what the number of
        refits allows.
    """
    sizes, segments = z.sum(axis=1), z.shape[1] + 1
    count = jax.ops.segment_sum(jnp.ones_like(residual), sizes, segments)
    leverage = leverage.astype(residual.dtype)
    own = jax.lax.map(lambda s: s * operator.forward(_solve(operator, s)), leverage).mean(axis=0)
    own = (jax.ops.segment_sum(own, sizes, segments) / jnp.maximum(count, 1))[sizes]
    whole = residual / (1 - jnp.clip(together * own, 0, MOST_LEVERAGE))
    return jax.lax.map(lambda s: _solve(operator, s * whole), signs)


def _solve(operator: Operator, target: jax.Array) -> jax.Array:
    """Least squares by a few conjugate gradients, in units of the largest row."""
    largest = jnp.abs(target).max()
    unit = jnp.where(largest > 0, largest, 1)
    found = least_squares(
        operator,
        target / unit,
        enough=lambda state: state.norm <= TOLERANCE**2 * state.first,
        most_steps=MOST_STEPS,
    )
    return unit * found.u
