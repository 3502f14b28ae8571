"""When to pull estimates towards the constant answer, and how far."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

TRUSTED, DOUBTED = 0.2, 0.4
"""Posterior variance over the spread of the estimates: from where they are shrunk, and fully."""


HELD_OUT = 0.2
"""Share of the coalitions that is held out."""


def doubt_of(values: np.ndarray, errors: np.ndarray) -> float:
    """Mean squared standard error over the spread of the estimates."""
    spread = float(values.var())
    return float((errors**2).mean()) / spread if spread > 0 else 0.0


def shrink(
    values: np.ndarray, errors: np.ndarray, held_out: Callable[[], float] | None = None
) -> tuple[np.ndarray, float]:
    """Estimates towards their mean, where their spread is little more than their errors.

    Under its model a posterior mean needs none. Games unlike the model (a threshold, say) show by
    errors as large as the spread, and there the constant answer would be the better one. The sum
    stays, hence efficiency. Where errors are not small the posterior has shrunk by itself
    already, and what it left is kept as far as coalitions held out confirm it.

    Args:
        values: estimates of one size, [C(n, s)].
        errors: their standard errors.
        held_out: the factor that coalitions held out allow; called only where errors are not
            small beside the spread. None leaves the errors to decide.

    Returns:
        (values, factor between 0 and 1).
    """
    doubt = doubt_of(values, errors)
    if held_out is not None and doubt > TRUSTED:
        factor = held_out()
    elif doubt >= 1:
        factor = 0.0
    else:
        factor = 1 - doubt * float(np.clip((doubt - TRUSTED) / (DOUBTED - TRUSTED), 0, 1))
    return values.mean() + factor * (values - values.mean()), factor


def held_out_factor(
    masks: np.ndarray,
    values: np.ndarray,
    scale: np.ndarray,
    estimate: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    seed: int = 0,
) -> float:
    """How much of the pair terms of most coalitions the others confirm.

    Under the kernel's law the second-order Shapley-Taylor index is a least-squares fit, so the
    regression of the other worths on what the pair terms predict has the slope by which these
    should be multiplied. Few are held out, since what fewer rows would find is another matter.

    Args:
        masks: coalitions by the kernel's law of order 2, Boolean [M, n], sizes 0 and 1 whole.
        values: their worth, float64 [M].
        scale: spread of the worth by size, float64 [n+1].
        estimate: pair terms from some masks and values.
        seed: picks those held out.

    Returns:
        The largest slope that they do not contradict by more than its standard error, between
        0 and 1.
    """
    n = masks.shape[1]
    sizes = masks.sum(axis=1)
    fixed = (sizes < 2) | (sizes == n)
    tested = ~fixed & (np.random.default_rng(seed).random(len(masks)) < HELD_OUT)
    pairs = estimate(masks[~tested], values[~tested])
    matrix = np.zeros((n, n))
    matrix[np.triu_indices(n, 1)] = pairs - pairs.mean()
    z, s = masks[tested].astype(float), sizes[tested]
    predicted = ((z @ matrix) * z).sum(axis=1)
    empty = values[sizes == 0][0]
    alone = np.zeros(n)
    alone[masks[sizes == 1].argmax(axis=1)] = values[sizes == 1] - empty
    left = values[tested] - empty - z @ alone
    counts = np.maximum(np.bincount(s, minlength=n + 1), 1)
    # A constant pair term is a function of the size, and is not in question.
    predicted -= (np.bincount(s, predicted, n + 1) / counts)[s]
    left -= (np.bincount(s, left, n + 1) / counts)[s]
    weight = scale[s] ** -2.0
    square = (weight * predicted**2).sum()
    if not square > 0:
        return 0.0
    slope = (weight * predicted * left).sum() / square
    error = math.sqrt(((weight * predicted * (left - slope * predicted)) ** 2).sum()) / square
    return float(np.clip(slope + error, 0, 1))
