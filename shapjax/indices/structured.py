"""Values of players when the game comes with a structure: groups, a graph, or weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from shapjax.coalitions.graphs import Edges, first_component, neighbours_of
from shapjax.core.checks import players_of_table, whole_number
from shapjax.core.errors import ShapjaxError
from shapjax.core.memory import require_memory
from shapjax.core.precision import float_array
from shapjax.indices.exact import shapley_value
from shapjax.transforms.moebius import moebius, superset_sums


def owen_value(values: jax.Array, partition: Iterable[Iterable[int]]) -> jax.Array:
    r"""Owen values: Shapley values when players join in groups.

    The mean marginal contribution over the orders in which the members of each group come
    together:

    .. math:: \varphi_i = \sum_{H \not\ni k} \frac{|H|!\,(m-|H|-1)!}{m!}
        \sum_{S \subseteq B_k \setminus i} \frac{|S|!\,(b-|S|-1)!}{b!}
        (v(B_H \cup S \cup i) - v(B_H \cup S))

    for a player i of group :math:`B_k` of b members, H a set of other groups out of m and
    :math:`B_H` their union.

    Args:
        values: worth v of every coalition, float [..., 2**n]; bit i of the rank is player i.
        partition: the groups: every player in exactly one; static.

    Returns:
        [..., n], same dtype; they sum to v(N) - v(empty). With one group, or with n groups, the
        Shapley value.

    Raises:
        ShapjaxError: wrong shape, or the groups are not a partition of the players.
        DtypeError: float64 values while JAX's 64-bit mode is off.

    Cost: the sum over groups of 2**(m - 1 + b).

    Source: Owen 1977.
    """
    table = float_array(values, "values")
    n = players_of_table(table.shape, "values")
    groups = _groups(partition, n)
    ranks = [sum(1 << player for player in group) for group in groups]
    result = jnp.zeros((*table.shape[:-1], n), table.dtype)
    for k, group in enumerate(groups):
        others = _subset_sums(ranks[:k] + ranks[k + 1 :])
        inside = _subset_sums([1 << player for player in group])
        result = result.at[..., np.array(group)].set(_within_group(table, others, inside))
    return result


def myerson_value(values: jax.Array, edges: Edges) -> jax.Array:
    r"""Myerson values: Shapley values when only players connected in a graph can cooperate.

    The Shapley values of :math:`v^g(S) = v(\emptyset) + \sum_C (v(C) - v(\emptyset))`, C running
    over the connected components of S in the graph.

    Args:
        values: worth v of every coalition, float [..., 2**n]; bit i of the rank is player i.
        edges: undirected edges, pairs of players; static.

    Returns:
        [..., n], same dtype; over each component C of the graph they sum to v(C) - v(empty). With
        a complete graph, the Shapley value.

    Raises:
        ShapjaxError: wrong shape, or an edge is not a pair of different players.
        DtypeError: float64 values while JAX's 64-bit mode is off.
        MemoryRefused: the components of all coalitions do not fit into memory.

    Cost: on the host O(n 2**n) per sweep over the players (one or two for a path in order, at most
    n), on the device O(2**n log n).

    Source: Myerson 1977.
    """
    table = float_array(values, "values")
    n = players_of_table(table.shape, "values")
    neighbours = neighbours_of(edges, n)
    require_memory(48 << n, f"the components of all 2^{n} coalitions", "use fewer players")
    ranks = np.arange(1 << n)
    component = first_component(ranks, neighbours)
    rest = ranks - component
    empty = table[..., :1]
    worth = table[..., component] - empty
    # Each round doubles how many components have been added and skips as many.
    while rest.any():
        worth = worth + worth[..., rest]
        rest = rest[rest]
    return shapley_value(worth)


def weighted_shapley_value(values: jax.Array, weights: Any) -> jax.Array:
    r"""Weighted Shapley values: dividends shared in proportion to the weights of players.

    :math:`\varphi_i = \sum_{T \ni i} \frac{w_i}{\sum_{j \in T} w_j} d(T)`, d the Harsanyi
    dividends. It is the mean marginal contribution over orders built from the last place, where
    the next player is drawn from those left with probability proportional to its weight.

    Args:
        values: worth v of every coalition, float [..., 2**n]; bit i of the rank is player i.
        weights: w, positive, [n]; may be traced.

    Returns:
        [..., n], same dtype; they sum to v(N) - v(empty). With equal weights, the Shapley value.

    Raises:
        ShapjaxError: wrong shape, or a weight that is not positive and finite.
        DtypeError: float64 values while JAX's 64-bit mode is off.

    Cost: O(n 2**n). Goes through the dividends, so in float32 its error grows as that of
    ``moebius``.

    Source: Kalai and Samet 1987 (their simple weight systems).
    """
    table = float_array(values, "values")
    n = players_of_table(table.shape, "values")
    given = float_array(weights, "weights")
    if given.shape != (n,):
        raise ShapjaxError(f"weights have shape {given.shape}, expected ({n},): one per player.")
    if not isinstance(given, Tracer) and not np.all((given > 0) & np.isfinite(given)):
        raise ShapjaxError(f"weights are {np.asarray(given).tolist()}, expected positive numbers.")
    return _weighted_shapley_value(table, given.astype(table.dtype))


@jax.jit
def _within_group(table: jax.Array, others: jax.Array, inside: jax.Array) -> jax.Array:
    """Shapley values within one group of the game averaged over the groups that came before."""
    m = others.shape[0].bit_length()
    chance = np.array([1 / (m * math.comb(m - 1, h)) for h in range(m)])
    before = np.bitwise_count(np.arange(others.shape[0], dtype=np.uint32))
    weights = jnp.asarray(chance[before], table.dtype)
    game = table[..., others[:, None] | inside]
    return shapley_value(jnp.einsum("...hs,h->...s", game, weights, precision="highest"))


@jax.jit
def _weighted_shapley_value(table: jax.Array, weights: jax.Array) -> jax.Array:
    totals = jnp.zeros(1, table.dtype)
    for weight in weights:
        totals = jnp.concatenate([totals, totals + weight])
    per_weight = moebius(table) / totals.at[0].set(1)
    alone = 1 << np.arange(len(weights))
    return weights * superset_sums(per_weight)[..., alone]


def _subset_sums(parts: list[int]) -> np.ndarray:
    """Sums of all subsets of ``parts``: bit i of the position says whether part i is in."""
    sums = np.zeros(1, np.int32)
    for part in parts:
        sums = np.concatenate([sums, sums + np.int32(part)])
    return sums


def _groups(partition: Iterable[Iterable[int]], n: int) -> list[list[int]]:
    try:
        groups = [list(group) for group in partition]
    except TypeError:
        raise ShapjaxError(f"partition is {partition!r}, expected a list of groups.") from None
    groups = [
        [whole_number(player, "a player of the partition", low=0, high=n - 1) for player in group]
        for group in groups
    ]
    if sorted(player for group in groups for player in group) != list(range(n)):
        raise ShapjaxError(
            f"partition is {groups}, expected every player from 0 to {n - 1} in exactly one group."
        )
    return [group for group in groups if group]
