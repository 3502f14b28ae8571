"""What estimators by sums share: distinct coalitions, size by size, and sums over them."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from shapjax.coalitions.enumerate import members_of_size
from shapjax.core.errors import ShapjaxError
from shapjax.estimators.distinct import Allocation, allocate, draw_distinct, generator_of
from shapjax.estimators.oracle import Oracle
from shapjax.estimators.protocol import Problem
from shapjax.estimators.subsets import parts_of_size

BLOCK_ENTRIES = 1 << 22
"""Entries of a block of products that exist at the same time."""


class Strata(NamedTuple):
    """Coalitions drawn, by size.

    Attributes:
        allocation: how many there are of each size.
        masks: per size 0..n, float64 [count, n].
        values: per size, float64 [count].
    """

    allocation: Allocation
    masks: list[np.ndarray]
    values: list[np.ndarray]

    def stats(self) -> dict[str, float | int]:
        """What an estimator reports of them."""
        return {
            "v_empty": float(self.values[0][0]),
            "v_grand": float(self.values[-1][0]),
            "whole_sizes": int(self.allocation.whole.sum()),
        }


def draw_strata(method: str, problem: Problem, oracle: Oracle, weights: np.ndarray) -> Strata:
    """Spend the budget on the empty, the grand and distinct other coalitions.

    Sizes have the shares that ``size_law_of`` finds best for the index; each size that counts
    gets two coalitions first, where the budget holds as many, so that its variance is seen.

    Raises:
        ShapjaxError: the budget does not hold two coalitions.
    """
    n = problem.n
    if oracle.left < 2:
        raise ShapjaxError(
            f"budget is {oracle.left}, but {method} starts with the empty and the grand "
            "coalition; give at least 2."
        )
    law, generator = size_law_of(weights, n), generator_of(problem.key)
    law[[0, n]] = 0
    inner = allocate(law, oracle.left - 2, generator, least=2)
    counts, expected, whole = (part.copy() for part in inner)
    for part in (counts, expected, whole):
        part[[0, n]] = 1
    masks = draw_distinct(counts, generator)
    values = np.asarray(oracle(masks), np.float64)
    cuts = np.cumsum(counts)[:-1]
    return Strata(
        Allocation(counts, expected, whole),
        np.split(masks.astype(np.float64), cuts),
        np.split(values, cuts),
    )


def moments(z: np.ndarray, weights: np.ndarray, order: int) -> list[np.ndarray]:
    """Weighted sums over rows of the product of the members of L, for all L up to a size.

    Args:
        z: masks, float64 [rows, n].
        weights: float64 [W, rows].
        order: largest size of L.

    Returns:
        Per size float64 [W, C(n, size)].
    """
    n = z.shape[1]
    sums = [weights.sum(axis=1, keepdims=True), weights @ z]
    if order > 1:
        pairs = np.triu_indices(n, 1)
        sums.append(np.stack([((z.T * w) @ z)[pairs] for w in weights]))
    for size in range(3, order + 1):
        members = members_of_size(n, size)
        width = max(1, BLOCK_ENTRIES // max(len(z), 1))
        blocks = [members[i : i + width] for i in range(0, len(members), width)]
        columns = (np.prod([z[:, block[:, j]] for j in range(size)], axis=0) for block in blocks)
        sums.append(np.concatenate([weights @ block for block in columns], axis=1))
    return sums[: order + 1]


def overlap_sums(
    z: np.ndarray, values: np.ndarray, tables: Sequence[Sequence[float]]
) -> list[np.ndarray]:
    """Sums over rows of a value times a function of how many members of S are there.

    Args:
        z: masks, float64 [rows, n].
        values: float64 [rows].
        tables: per size s of S the function at 0..s.

    Returns:
        Per size float64 [C(n, s)].
    """
    n, order = z.shape[1], len(tables) - 1
    sums = moments(z, values[None], order)
    found = []
    for s, table in enumerate(tables):
        terms = enumerate(_differences(np.asarray(table)))
        parts = (d * sums[m][0][_parts(n, s, m)].sum(axis=1) for m, d in terms if d)
        found.append(sum(parts, np.zeros(math.comb(n, s))))
    return found


def spread_of_sums(
    strata: Strata, values: list[np.ndarray], weights: np.ndarray, order: int
) -> tuple[np.ndarray, ...] | None:
    """Standard errors of the sums over all coalitions of weights times values.

    Args:
        strata: the coalitions drawn.
        values: of the coalitions of each size, float64 [count].
        weights: from ``worth_weights``.
        order: largest size of S.

    Returns:
        Per size float64 [C(n, s)]; None where a size that counts has less than two coalitions.
    """
    counts, expected, whole = strata.allocation
    if not np.all(whole | (expected >= 2) | (expected == 0)):
        return None
    n = len(counts) - 1
    variances = [np.zeros(math.comb(n, s)) for s in range(order + 1)]
    for t in np.flatnonzero((counts > 1) & ~whole):
        count, number = int(counts[t]), math.comb(n, int(t))
        h = [
            np.array([float(number * g) for g in weights[s][t, : s + 1]]) for s in range(order + 1)
        ]
        first = overlap_sums(strata.masks[t], values[t], h)
        second = overlap_sums(strata.masks[t], values[t] ** 2, [[x**2 for x in row] for row in h])
        for s, (one, two) in enumerate(zip(first, second, strict=True)):
            scatter = np.maximum(two - one**2 / count, 0) / (count - 1)
            variances[s] += (1 - count / number) * scatter / count
    return tuple(np.sqrt(x) for x in variances)


def _differences(f: np.ndarray) -> list[float]:
    """Forward differences at zero: f(j) is their sum with binomials (j choose m)."""
    found = []
    while len(f):
        found.append(float(f[0]))
        f = np.diff(f)
    return found


@functools.lru_cache(maxsize=64)
def _parts(n: int, size: int, part: int) -> np.ndarray:
    return parts_of_size(n, size, part)


def parts_by_pattern(n: int, size: int) -> list[tuple[int, np.ndarray]]:
    """Which part of every S a pattern of its places means.

    Returns:
        For each of the 2**size patterns (bit j: the j-th member of S belongs) the size of the
        part and its position among the coalitions of that size, int64 [C(n, size)].
    """
    tables = {m: parts_of_size(n, size, m) for m in range(size + 1)}
    found = []
    for pattern in range(1 << size):
        places = [j for j in range(size) if pattern >> j & 1]
        column = _column(places, size)
        found.append((len(places), tables[len(places)][:, column]))
    return found


def _column(places: list[int], size: int) -> int:
    """Position of places among the combinations of as many of ``range(size)``."""
    m = len(places)
    after = sum(math.comb(size - 1 - place, m - i) for i, place in enumerate(places))
    return math.comb(size, m) - 1 - after


def size_law_of(weights: np.ndarray, n: int) -> np.ndarray:
    r"""Shares of the sizes under which the estimated index has least variance, float64 [n+1].

    If the worth of coalitions scatters alike at every size, size t adds to the variance of I(S)
    the square of :math:`\binom{n}{t}` times the mean of :math:`g^2` over its coalitions, divided
    by how many are drawn; the shares that minimise the sum, averaged over the S of each size and
    added over sizes, are proportional to the square root (Neyman's allocation).

    Args:
        weights: from ``worth_weights``.
        n: number of players.
    """
    squares = [Fraction(0)] * (n + 1)
    for s, g in enumerate(weights[1:], start=1):
        for t in range(n + 1):
            spread = sum(
                math.comb(s, j) * math.comb(n - s, t - j) * g[t, j] ** 2
                for j in range(min(s, t) + 1)
            )
            squares[t] += math.comb(n, t) * math.comb(n, s) * spread
    # Fractions first: the binomials leave the range of floats long before the shares do.
    largest = max(squares)
    return np.array([float(x / largest) for x in squares]) ** 0.5 if largest else np.zeros(n + 1)
