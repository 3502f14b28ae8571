"""Coalitions by the kernel's law of sizes, none of them twice."""

from __future__ import annotations

import math

import jax
import numpy as np

from shapjax.coalitions.enumerate import masks_of_size
from shapjax.core.checks import whole_number
from shapjax.core.errors import ShapjaxError
from shapjax.core.memory import require_memory
from shapjax.estimators.sampling import count_constrained, size_law


def distinct_coalitions(key: jax.Array, n: int, order: int, budget: int) -> np.ndarray:
    r"""Distinct coalitions for an estimate of order k: small and large sizes whole, others drawn.

    Sizes below k and n are taken whole. So is, from both ends, every size whose expected count
    under the kernel's law :math:`p(s) \propto 1/(\binom{s}{k}(n-s))` of what is left of the budget
    covers it. The rest is shared among the other sizes by the same law and drawn without
    replacement within each size.

    Args:
        key: PRNG key.
        n: number of players.
        order: k, at most n; static.
        budget: how many coalitions; 2**n and more mean all of them.

    Returns:
        Boolean [min(budget, 2**n), n]: sizes below k first, then the grand coalition, then the
        rest by size.

    Raises:
        ShapjaxError: the budget is below the sizes taken whole.
        MemoryRefused: the masks do not fit into memory.
    """
    whole = count_constrained(n, order)
    total = 1 << n
    budget = min(whole_number(budget, "budget", low=0), total)
    if budget < min(whole, total):
        raise ShapjaxError(
            f"budget is {budget}, but order {order} on {n} players starts with {whole} "
            f"evaluations (sizes below {order} and the grand coalition); give at least {whole}."
        )
    require_memory(budget * n * 24, f"{budget} coalitions of {n} players", "lower the budget")
    counts = size_counts(n, order, budget)
    rng = np.random.default_rng(np.asarray(jax.random.bits(key, (4,), np.uint32)))
    below = [masks_of_size(n, size) for size in range(min(order, n))]
    drawn = [draw_distinct(rng, n, size, counts[size]) for size in range(order, n)]
    return np.concatenate([*below, np.ones((1, n), bool), *drawn])


def size_counts(n: int, order: int, budget: int) -> list[int]:
    """How many coalitions of each size, [n+1]; they sum to the budget."""
    counts = [math.comb(n, size) if size < order or size == n else 0 for size in range(n + 1)]
    left = budget - sum(counts)
    law = size_law(n, order)
    low, high = order, n - 1
    while low <= high and left > 0:
        rest = law[low : high + 1].sum()
        # In integers where counts are large: binomials leave the range of floats.
        ends = [size for size in {low, high} if math.comb(n, size) <= left * law[size] / rest]
        if not ends:
            break
        size = min(ends, key=lambda end: math.comb(n, end))
        counts[size] = math.comb(n, size)
        left -= counts[size]
        low, high = (low + 1, high) if size == low else (low, high - 1)
    open_sizes = list(range(low, high + 1))
    while left > 0 and open_sizes:
        share = law[open_sizes] / law[open_sizes].sum() * left
        given = np.floor(share).astype(int)
        # The largest remainders get what rounding down has left over.
        for place in np.argsort(given - share, kind="stable")[: left - given.sum()]:
            given[place] += 1
        for size, more in zip(open_sizes, given.tolist(), strict=True):
            more = min(more, math.comb(n, size) - counts[size])
            counts[size] += more
            left -= more
        open_sizes = [size for size in open_sizes if counts[size] < math.comb(n, size)]
    return counts


def draw_distinct(rng: np.random.Generator, n: int, size: int, count: int) -> np.ndarray:
    """``count`` uniform coalitions of one size without replacement, Boolean [count, n]."""
    total = math.comb(n, size)
    if 2 * count >= total:
        chosen = np.sort(rng.choice(total, count, replace=False))
        return masks_of_size(n, size)[chosen]
    found = np.zeros((0, n), bool)
    while len(found) < count:
        more = np.zeros((2 * (count - len(found)) + 8, n), bool)
        members = np.argpartition(rng.random(more.shape), size, axis=1)[:, :size]
        np.put_along_axis(more, members, True, axis=1)
        found = np.concatenate([found, more])
        # The first of equal rows stays, in the order of the draws: the law remains uniform.
        first = np.unique(np.packbits(found, axis=1), axis=0, return_index=True)[1]
        found = found[np.sort(first)]
    return found[:count]
