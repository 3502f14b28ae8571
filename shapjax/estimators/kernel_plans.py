"""Coalitions for a kernel regression that never repeat, or that come with their complements."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.estimators.distinct import allocate, distinct_of_size, draw_distinct, generator_of
from shapjax.estimators.sampling import Plan, constrained_masks, draw_by_size, kernel, size_law


def border(key: jax.Array, n: int, order: int, rows: int) -> Plan:
    """Distinct coalitions by the kernel's law of sizes; sizes it would cover are taken whole.

    Rows are weighted by the law over the expected count of their size: what is taken whole has
    the kernel's own weight, what is drawn one common weight.
    """
    law, generator = size_law(n, order), generator_of(key)
    allocation = allocate(law, rows, generator)
    free = draw_distinct(allocation.counts, generator)
    by_size = np.divide(law, allocation.expected, where=law > 0, out=np.zeros(n + 1))
    weights = by_size[free.sum(axis=1)]
    largest = weights.max(initial=0) or 1.0
    scale = largest * sum((n - 1) / (math.comb(s, order) * (n - s)) for s in range(order, n))
    return Plan(constrained_masks(n, order), free, weights / largest, scale)


def with_complements(key: jax.Array, n: int, order: int, rows: int) -> Plan:
    """Independent draws by the kernel's law, each followed by its complement; order 1."""
    law = jnp.asarray(size_law(n, order), jnp.float32)
    half = np.asarray(draw_by_size(key, law, rows=rows // 2))
    free = np.stack([half, ~half], axis=1).reshape(-1, n)
    return Plan(constrained_masks(n, order), free, np.ones(len(free)))


def by_leverage(key: jax.Array, n: int, order: int, rows: int) -> Plan:
    """Distinct coalitions with their complements, every size alike; order 1.

    At order 1 the leverage of a row, weighted by the kernel, is one over the number of
    coalitions of its size (up to a constant), so sizes are drawn alike and rows are weighted by
    the kernel over the probability of their being drawn.
    """
    generator = generator_of(key)
    # Pairs go by the smaller of their sizes. At n/2 there are half as many as coalitions: those
    # with player 0, which are the coalitions of n/2 - 1 others.
    middle = n // 2 if n % 2 == 0 else None
    law = np.array([2.0 * (0 < s < n / 2) for s in range(n + 1)])
    number = [math.comb(n, s) for s in range(n + 1)]
    if middle:
        law[middle], number[middle] = 1.0, number[middle] // 2
    allocation = allocate(law, rows // 2, generator, number=number)
    pairs = [np.zeros((0, n), bool)]
    for size in np.flatnonzero(allocation.counts):
        count = int(allocation.counts[size])
        if size == middle:
            others = distinct_of_size(n - 1, int(size) - 1, count, generator)
            pairs.append(np.concatenate([np.ones((count, 1), bool), others], axis=1))
        else:
            pairs.append(distinct_of_size(n, int(size), count, generator))
    half = np.concatenate(pairs)
    free = np.stack([half, ~half], axis=1).reshape(-1, n)
    sizes = np.minimum(free.sum(axis=1), n - free.sum(axis=1))
    # The kernel times the number of coalitions is the law of sizes, which stays within floats.
    chance = np.divide(allocation.expected, [x / math.comb(n, s) for s, x in enumerate(number)])
    weights = size_law(n, order)[free.sum(axis=1)] / chance[sizes]
    largest = weights.max(initial=0) or 1.0
    first = kernel(n, 1)[1] / size_law(n, 1)[1] * n
    return Plan(constrained_masks(n, order), free, weights / largest, largest * first)
