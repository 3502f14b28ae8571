r"""Games that are cheap to fit and whose indices have a closed form: sparse dividends.

A polynomial and a sum of trees are both a list of coalitions T with dividends d(T), few and small.
Any cardinal index of the game that is 1 where all of T are there is

.. math:: \kappa_s(t, a) = \sum_{j, u} \binom{s-a}{j} \binom{n-s-t+a}{u} \gamma_s(t+j+u, a+j),
   \qquad t = |T|,\ a = |T \cap S|,

the sum of the weights :math:`\gamma` of worths (``worth_weights``) over what holds T.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.coalitions.enumerate import masks_of_size
from shapjax.core.precision import precision_scope
from shapjax.estimators.faithful import expanded, fit_polynomial
from shapjax.estimators.size_strata import overlap_sums
from shapjax.estimators.subsets import polynomial_at

RATE = 0.1
"""Share of each tree that is added: the learning rate of boosting."""

RIDGE = 1.0
"""Rows that a leaf has beside its own, with a residual of zero."""


class Surrogate(NamedTuple):
    """A fitted game.

    Attributes:
        masks: coalitions with a dividend, Boolean [R, n].
        dividends: float64 [R].
        fitted: worth of the coalitions it was asked about, float64 [rows].
    """

    masks: np.ndarray
    dividends: np.ndarray
    fitted: np.ndarray


def index_of_surrogate(surrogate: Surrogate, weights: np.ndarray, order: int) -> list[np.ndarray]:
    """A cardinal index of the surrogate, exactly: per size float64 [C(n, s)].

    Args:
        surrogate: the game.
        weights: from ``worth_weights``.
        order: of the index.
    """
    n = surrogate.masks.shape[1]
    sizes = surrogate.masks.sum(axis=1)
    found = [np.zeros(math.comb(n, s)) for s in range(order + 1)]
    for t in np.unique(sizes).tolist():
        chosen = sizes == t
        z = surrogate.masks[chosen].astype(np.float64)
        tables = [
            [float(_unanimity(weights[s], s, t, a, n)) for a in range(s + 1)]
            for s in range(order + 1)
        ]
        added = overlap_sums(z, surrogate.dividends[chosen], tables)
        found = [a + b for a, b in zip(found, added, strict=True)]
    return found


def _unanimity(gamma: np.ndarray, s: int, t: int, a: int, n: int) -> Fraction:
    """The index of the game of T's presence at an S that shares ``a`` players with T."""
    free = n - s - t + a
    if a > t or free < 0:
        return Fraction(0)
    return sum(
        (
            math.comb(s - a, j) * math.comb(free, u) * gamma[t + j + u, a + j]
            for j in range(s - a + 1)
            for u in range(free + 1)
        ),
        Fraction(0),
    )


def polynomial(
    masks: np.ndarray, values: np.ndarray, kept: np.ndarray, *, degree: int
) -> Surrogate:
    """The polynomial in the masks that is nearest to some of the values, by least squares.

    Args:
        masks: coalitions, Boolean [rows, n].
        values: their worth, float64 [rows].
        kept: which rows it is fitted to, Boolean [rows].
        degree: of the polynomial.

    Returns:
        The surrogate; of many nearest ones that of least norm in products of numbers 1 and -1.
    """
    n = masks.shape[1]
    root = kept / math.sqrt(max(kept.sum(), 1))
    base = np.zeros(sum(math.comb(n, s) for s in range(degree + 1)))
    with precision_scope(np.float64):
        given = (jnp.asarray(x, jnp.float64) for x in (2.0 * masks - 1, values, root, base))
        flat = np.asarray(fit_polynomial(*given, order=degree, constrained=False)[0])
        parts = expanded(flat, n, degree, 0.5, 0.5)
        fitted = np.asarray(_evaluate(jnp.asarray(masks, jnp.float64), parts))
    coalitions = np.concatenate([masks_of_size(n, s) for s in range(degree + 1)])
    return Surrogate(coalitions, np.concatenate(parts), fitted)


_evaluate = jax.jit(polynomial_at)


def boosted_trees(
    masks: np.ndarray, values: np.ndarray, kept: np.ndarray, *, trees: int, depth: int
) -> Surrogate:
    """Gradient boosting of trees that ask one player per level, fitted to some of the values.

    A tree of depth d is a game of d players, whose 2**d dividends are the Möbius transform of its
    leaves.

    Args:
        masks: coalitions, Boolean [rows, n].
        values: their worth, float64 [rows].
        kept: which rows it is fitted to, Boolean [rows].
        trees: how many.
        depth: players that a tree asks, at most n.

    Cost: O(trees 2**depth rows n).

    Source: Friedman 2001 (boosting); Kohavi & Li 1995 (trees of one question per level).
    """
    n = masks.shape[1]
    depth = min(depth, n)
    z, w = masks.astype(np.float64), kept.astype(np.float64)
    start = values[kept].mean() if kept.any() else 0.0
    fitted = np.full(len(values), start)
    asked, leaves = np.zeros((trees, depth), np.int64), np.zeros((trees, 1 << depth))
    for tree in range(trees):
        residual = w * (values - fitted)
        place = np.zeros(len(values), np.int64)
        for level in range(depth):
            here = (place[:, None] == np.arange(1 << level)).astype(np.float64)
            total, count = here.T @ residual, here.T @ w
            with_player = (here * residual[:, None]).T @ z
            number = (here * w[:, None]).T @ z
            gain = with_player**2 / (number + RIDGE)
            gain += (total[:, None] - with_player) ** 2 / (count[:, None] - number + RIDGE)
            gain = gain.sum(axis=0)
            gain[asked[tree, :level]] = -1.0
            asked[tree, level] = player = int(gain.argmax())
            place = 2 * place + masks[:, player]
        sums = np.bincount(place, residual, 1 << depth)
        leaves[tree] = RATE * sums / (np.bincount(place, w, 1 << depth) + RIDGE)
        fitted = fitted + leaves[tree][place]
    coalitions, dividends = _dividends_of_trees(asked, leaves, n)
    coalitions = np.concatenate([np.zeros((1, n), bool), coalitions])
    return Surrogate(*_merged(coalitions, np.append(start, dividends)), fitted)


def _dividends_of_trees(
    asked: np.ndarray, leaves: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """The coalitions of all trees, Boolean [trees 2**depth, n], and their dividends."""
    trees, depth = asked.shape
    table = leaves.reshape(trees, *(2,) * depth).copy()
    for axis in range(1, depth + 1):
        absent, present = (np.take(table, i, axis) for i in (0, 1))
        table = np.stack([absent, present - absent], axis)
    patterns = np.array(list(itertools.product([False, True], repeat=depth)), bool)
    patterns = patterns.reshape(1 << depth, depth)
    coalitions = np.zeros((trees, 1 << depth, n), bool)
    for place in range(depth):
        coalitions[np.arange(trees), :, asked[:, place]] |= patterns[:, place]
    return coalitions.reshape(-1, n), table.reshape(-1)


def _merged(masks: np.ndarray, dividends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each coalition once, with the sum of its dividends."""
    packed = np.ascontiguousarray(np.packbits(masks, axis=1))
    keys = packed.view(np.dtype((np.void, packed.shape[1]))).ravel()
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return masks[first], np.bincount(inverse.ravel(), dividends, len(first))
