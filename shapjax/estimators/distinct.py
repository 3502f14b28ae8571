"""Coalitions no two of which are the same: how many of each size, then which."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import numpy as np

from shapjax.coalitions.enumerate import masks_of_size
from shapjax.estimators.sampling import constrained_masks, require_constrained, size_law

ENUMERABLE = 1 << 16
"""Up to so many coalitions of a size they are listed and shuffled to draw from them."""


def generator_of(key: jax.Array) -> np.random.Generator:
    """NumPy's generator, seeded by a PRNG key."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


class Allocation(NamedTuple):
    """How many coalitions of each size to draw.

    Attributes:
        counts: int64 [n+1], never above the number of coalitions of the size.
        expected: mean of the counts, float64 [n+1]; a size that is taken whole has its number.
        whole: whether all coalitions of the size are taken, Boolean [n+1].
    """

    counts: np.ndarray
    expected: np.ndarray
    whole: np.ndarray


def allocate(
    law: np.ndarray,
    rows: int,
    generator: np.random.Generator,
    least: int = 0,
    number: list[int] | None = None,
) -> Allocation:
    """Share rows among the sizes by a law, and take whole what would be covered anyway.

    A size whose expected count reaches its number of coalitions is taken whole, and the others
    share what is left by the same law, until no further size is covered. Their counts are the
    expected ones, rounded up or down together so that each keeps its mean (systematic rounding).

    Args:
        law: shares of the sizes, float [n+1], not negative; a size without share is never drawn.
        rows: how many coalitions, at least 0; never exceeded.
        generator: source of the one random number needed.
        least: each size with a share gets as many first, or as many as rows suffice for.
        number: how many coalitions there are of each size; by default all, C(n, size).
    """
    n = len(law) - 1
    number = [math.comb(n, s) for s in range(n + 1)] if number is None else number
    expected, whole = np.zeros(n + 1), np.zeros(n + 1, bool)
    open_sizes, left = np.asarray(law) > 0, rows
    while open_sizes.any():
        floor = min(least, left // int(open_sizes.sum()))
        share = np.where(open_sizes, law, 0)
        expected = np.where(whole, expected, floor * open_sizes)
        expected += (left - floor * open_sizes.sum()) * share / share.sum()
        full = [s for s in np.flatnonzero(open_sizes) if expected[s] >= number[s]]
        if not full:
            break
        for s in full:
            whole[s], open_sizes[s], expected[s] = True, False, number[s]
            left -= number[s]
    expected = np.where(whole | open_sizes, expected, 0)
    edges = np.cumsum(np.where(whole, 0, expected))
    upto = np.floor(np.minimum(edges, left) + generator.random()).astype(np.int64)
    counts = np.diff(np.minimum(upto, left), prepend=0)
    counts[whole] = [number[s] for s in np.flatnonzero(whole)]
    return Allocation(counts, expected, whole)


def draw_distinct(counts: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Distinct coalitions, uniform among those of their size, Boolean [sum of counts, n].

    Every size has a stream of its own, of which it takes the first ones: with the same generator
    larger counts draw the same coalitions and more, so that evaluations are used again.

    Args:
        counts: how many of each size, int [n+1], at most C(n, size); the rows come in that order.
        generator: source of chance.
    """
    n = len(counts) - 1
    streams = generator.spawn(n + 1)
    parts = [
        distinct_of_size(n, s, int(count), streams[s]) for s, count in enumerate(counts) if count
    ]
    return np.concatenate([np.zeros((0, n), bool), *parts])


def distinct_of_size(n: int, size: int, count: int, generator: np.random.Generator) -> np.ndarray:
    """``count`` distinct coalitions of one size, every such set equally likely, [count, n]."""
    number = math.comb(n, size)
    if count == number:
        return masks_of_size(n, size)
    if number <= max(ENUMERABLE, 4 * count):
        return masks_of_size(n, size)[generator.permutation(number)[:count]]
    found = np.zeros((0, n), bool)
    while len(found) < count:
        # Dropping repetitions in the order of drawing leaves a uniform draw without them.
        places = generator.random((count, n)).argpartition(size, axis=1)[:, :size]
        fresh = np.zeros((count, n), bool)
        np.put_along_axis(fresh, places, True, axis=1)
        found = np.concatenate([found, fresh])
        _, first = np.unique(np.packbits(found, axis=1), axis=0, return_index=True)
        found = found[np.sort(first)]
    return found[:count]


def distinct_coalitions(
    key: jax.Array, n: int, order: int, budget: int, law: np.ndarray | None = None
) -> np.ndarray:
    """Distinct coalitions by a law of sizes, the sizes that it covers taken whole.

    Args:
        key: PRNG key.
        n: number of players.
        order: k, at most n; sizes below it, and the grand coalition, are always taken whole.
        budget: how many coalitions; 2**n and more mean all of them.
        law: shares of the sizes from k to n-1, float [n+1]; by default the kernel's.

    Returns:
        Boolean [min(budget, 2**n), n]: sizes below k first, then the grand coalition, then the
        rest by size.

    Raises:
        ShapjaxError: the budget is below the sizes taken whole.
    """
    budget = min(budget, 1 << n)
    constrained = require_constrained(budget, n, order)
    generator = generator_of(key)
    shares = size_law(n, order) if law is None else law * (np.arange(n + 1) >= order)
    shares[n] = 0
    counts = allocate(shares, budget - constrained, generator).counts
    return np.concatenate([constrained_masks(n, order), draw_distinct(counts, generator)])
