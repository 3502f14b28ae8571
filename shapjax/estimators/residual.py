"""What a surrogate leaves: its index estimated without bias, from coalitions it was not fitted to.

The coalitions are split in halves. A surrogate fitted to one half is corrected by the index of
what it leaves on the other, whose coalitions are a uniform draw of those it has not seen; both
ways, and the mean of the two. The result is unbiased whatever the surrogate, as SHAP-IQ is, and
scatters by what the surrogate leaves instead of by the game itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from shapjax.estimators.size_strata import overlap_sums

Surrogate = Callable[[int], tuple[tuple[np.ndarray, ...], Callable]]
"""A group to leave out to the index, per size [C(n, s)], and a function predicting worths."""

COMMON = 0
"""The group of the coalitions that both surrogates are fitted to; 1 and 2 are the halves."""


class Corrected(NamedTuple):
    """Unbiased estimates of an index.

    Attributes:
        estimates: per size s = 0..order, float64 [C(n, s)].
        variances: likewise; of the drawing of coalitions.
        complete: whether every size that counts was seen in both halves, so that the estimates
            are unbiased.
        explained: share of the scatter within sizes that the surrogates predict in the half that
            they were not fitted to; negative where they do worse than the mean of the size.
    """

    estimates: tuple[np.ndarray, ...]
    variances: tuple[np.ndarray, ...]
    complete: bool
    explained: float


def halves(masks: np.ndarray, units: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Deal coalitions into two halves, size by size; sizes taken whole are common to both.

    Args:
        masks: distinct coalitions, uniform within their size, Boolean [M, n].
        units: int [M]; coalitions of one unit were drawn together, and stay together.
        generator: makes the halves.

    Returns:
        Groups, int [M]: ``COMMON``, 1 or 2.
    """
    n = masks.shape[1]
    sizes = masks.sum(axis=1)
    counts = np.bincount(sizes, minlength=n + 1)
    whole = np.array([counts[t] == math.comb(n, t) for t in range(n + 1)])
    heads = np.zeros(len(masks), bool)
    heads[np.unique(units, return_index=True)[1]] = True
    first, odd = np.zeros(len(masks), bool), int(generator.random() < 0.5)
    for t in np.flatnonzero((counts > 0) & ~whole):
        rows = np.flatnonzero((sizes == t) & heads)
        # Odd ones go to either half in turn.
        more, odd = divmod(len(rows) + odd, 2)
        first |= np.isin(units, units[generator.permutation(rows)[:more]])
    return np.where(whole[sizes], COMMON, np.where(first, 1, 2))


def correct(
    masks: np.ndarray,
    values: np.ndarray,
    units: np.ndarray,
    groups: np.ndarray,
    weights: np.ndarray,
    surrogate: Surrogate,
) -> Corrected:
    """Cross-fitted estimates: two surrogates, each corrected on the half it has not seen.

    Args:
        masks: distinct coalitions, uniform within their size, Boolean [M, n].
        values: their worth, float64 [M].
        units: int [M]; coalitions of one unit were drawn together.
        groups: int [M], from ``halves``.
        weights: of the worths in the index, from ``worth_weights``.
        surrogate: what is fitted.
    """
    order, n = len(weights) - 1, masks.shape[1]
    sizes = masks.sum(axis=1)
    # At worst, two coalitions drawn together err together.
    together = 1 if len(np.unique(units)) == len(units) else 2
    estimates, variances = _zeros(n, order), _zeros(n, order)
    complete, scatter, left = True, 0.0, 0.0
    for half in (1, 2):
        held = groups == half
        index, predict = surrogate(half)
        rest = values[held] - predict(masks[held])
        part = index_of_rest(masks[held], rest, np.bincount(sizes[~held], minlength=n + 1), weights)
        complete &= part[2]
        for s in range(order + 1):
            estimates[s] += (index[s] + part[0][s]) / 2
            variances[s] += together * part[1][s] / 4
        for t in np.unique(sizes[held]):
            at = sizes[held] == t
            scatter += float(((values[held][at] - values[held][at].mean()) ** 2).sum())
            left += float((rest[at] ** 2).sum())
    explained = 1 - left / scatter if scatter > 0 else 1.0
    return Corrected(tuple(estimates), tuple(variances), complete, explained)


def index_of_rest(
    masks: np.ndarray, rest: np.ndarray, known: np.ndarray, weights: np.ndarray
) -> tuple[list[np.ndarray], list[np.ndarray], bool]:
    """The index of a game that is zero on known coalitions, from a draw of the others.

    Args:
        masks: drawn uniformly within their size, not among the known ones, Boolean [M, n].
        rest: their worth, float64 [M].
        known: how many coalitions are known to be worth zero, by size, int [n+1].
        weights: from ``worth_weights``.

    Returns:
        (estimates, variances of drawing without replacement, whether every size that counts was
        drawn from twice or is known); per size [C(n, s)].
    """
    order, n = len(weights) - 1, masks.shape[1]
    sizes = masks.sum(axis=1)
    estimates, variances = _zeros(n, order), _zeros(n, order)
    complete = True
    for t in range(n + 1):
        rows = sizes == t
        count, number = int(rows.sum()), math.comb(n, t) - int(known[t])
        counted = any(any(g) for g in weights[:, t])
        if not number or not counted:
            continue
        complete &= count > 1 or count == number
        if not count:
            continue
        z, worth = masks[rows].astype(np.float64), rest[rows]
        h = [[float(number * g) for g in weights[s, t, : s + 1]] for s in range(order + 1)]
        first = overlap_sums(z, worth, h)
        second = overlap_sums(z, worth**2, [[x**2 for x in row] for row in h])
        for s, (one, two) in enumerate(zip(first, second, strict=True)):
            estimates[s] += one / count
            if count < number:
                # One coalition alone shows no scatter: its square bounds it.
                about = one**2 / count if count > 1 else 0.0
                scatter = np.maximum(two - about, 0) / max(count - 1, 1)
                variances[s] += (1 - count / number) * scatter / count
    return estimates, variances, complete


def _zeros(n: int, order: int) -> list[np.ndarray]:
    return [np.zeros(math.comb(n, s)) for s in range(order + 1)]
