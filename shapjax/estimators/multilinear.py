r"""Any cardinal index of a product of functions of single players, whatever they are.

A function :math:`f(S) = \prod_i f_i([i \in S])` has the multilinear extension
:math:`F(t) = \prod_i ((1-t) f_i(0) + t f_i(1))` on the diagonal, and its derivative with respect
to a coalition A replaces the factors of A by :math:`f_i(1) - f_i(0)`. A cardinal index weighs the
means of that derivative over all U of one size, which are the Bernstein coefficients of a
polynomial in t of degree n - |A|; so the index is a weighted sum of its values at fixed nodes.
``product_kernel`` has the same number by a table where all players share one rate.

Source: Owen 1972 (multilinear extensions).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.coalitions.enumerate import members_of_size
from shapjax.estimators.product_kernel import ROUGHER, Kernel, derivative_weights, moments_of_size
from shapjax.estimators.sampling import binomial
from shapjax.indices.cardinal import CardinalIndex

MOST_PLAYERS = 20
"""Beyond it weights of some indices are so large that float64 loses their sum."""

Array = jax.Array


class Rule(NamedTuple):
    """Nodes in [0, 1], float64 [K], and for each size s = 0..order their weights, [order+1, K]."""

    nodes: np.ndarray
    weights: np.ndarray


@functools.lru_cache(maxsize=64)
def node_rule(index: CardinalIndex, order: int, n: int) -> Rule:
    """Nodes and weights that give an index, up to rounding.

    Twice as many Chebyshev nodes as coefficients keep the weights of least norm small.
    """
    count = 2 * n + 2
    nodes = 0.5 - 0.5 * np.cos(np.pi * (np.arange(count) + 0.5) / count)
    weights = [
        np.linalg.lstsq(binomial(len(row) - 1, nodes).T, row, rcond=1e-15)[0]
        for row in derivative_weights(index, order, n)
    ]
    return Rule(nodes, np.stack(weights))


def read_at_nodes(
    z: Array, beta: Array, kernel: Kernel, growth: Array | float, index: CardinalIndex, order: int
) -> tuple[Array, ...]:
    r"""The index of :math:`S \mapsto e^{c|S|} \sum_m \beta_m k(S, T_m)` for all A up to the order.

    Args:
        z: masks T_m as numbers, float64 [M, n].
        beta: float64 [M].
        kernel: k, with one rate or one for each player.
        growth: c.
        index: any cardinal index; static.
        order: its order; static.

    Returns:
        Per size s, float64 [C(n, s)], lexicographic.
    """

    def part(size: int, heads: list[tuple[int, Array]], level: Array) -> Array:
        return jnp.asarray(
            sum(sign * moments_of_size(head, beta * level, size) for sign, head in heads)
        )

    return _over_nodes(z, kernel, growth, index, order, part)


def cross_covariances(
    z: Array, kernel: Kernel, growth: Array | float, index: CardinalIndex, order: int
) -> tuple[Array, ...]:
    r"""The index of :math:`S \mapsto e^{c|S|} k(S, T_m)` for every m, per size [M, C(n, s)].

    Arguments as for ``read_at_nodes``.
    """

    def part(size: int, heads: list[tuple[int, Array]], level: Array) -> Array:
        members = members_of_size(z.shape[1], size)
        return jnp.asarray(sum(sign * _each(head, level, members) for sign, head in heads))

    return _over_nodes(z, kernel, growth, index, order, part)


def prior_variances_at_nodes(
    kernel: Kernel, growth: Array | float, index: CardinalIndex, order: int, n: int
) -> tuple[Array, ...]:
    r"""The index of the index of :math:`e^{c(|S| + |T|)} k(S, T)`, per size, float64 [C(n, s)].

    Arguments as for ``read_at_nodes``.
    """
    rule = node_rule(index, order, n)
    t = jnp.asarray(rule.nodes)
    a, b = (x.ravel()[:, None] for x in jnp.meshgrid(t, t))
    grown = jnp.exp(growth)
    totals = [jnp.zeros(math.comb(n, s)) for s in range(order + 1)]
    for share, r in _products(kernel, n):
        mean = (1 - a) * (1 - b) + a * b * grown**2 + (a * (1 - b) + b * (1 - a)) * r * grown
        level = mean.prod(axis=1) * share
        heads = _heads(mean, [(1, 1.0), (1, grown**2), (-2, r * grown)], index.form)
        for s in range(order + 1):
            gamma = level * jnp.outer(rule.weights[s], rule.weights[s]).ravel()
            totals[s] += sum(sign * moments_of_size(head, gamma, s) for sign, head in heads)
    return tuple(totals)


def _over_nodes(
    z: Array,
    kernel: Kernel,
    growth: Array | float,
    index: CardinalIndex,
    order: int,
    part: Callable[[int, list[tuple[int, Array]], Array], Array],
) -> tuple[Array, ...]:
    """Weighted sum over the nodes of what ``part`` makes of the factors there.

    ``part`` gets a size, the factors of a member of A over its mean, [M, n], with their signs,
    and the means over all players, [M].
    """
    rule = node_rule(index, order, z.shape[1])
    kernels = [
        (share, 1 + z * (r - 1), (r + z * (1 - r)) * jnp.exp(growth))
        for share, r in _products(kernel, z.shape[1])
    ]

    def at(node: tuple[Array, Array]) -> tuple[Array, ...]:
        t, weights = node
        totals = [jnp.zeros(())] * (order + 1)
        for share, absent, present in kernels:
            mean = (1 - t) * absent + t * present
            heads = _heads(mean, [(1, present), (-1, absent)], index.form)
            level = share * mean.prod(axis=1)
            totals = [total + weights[s] * part(s, heads, level) for s, total in enumerate(totals)]
        return tuple(totals)

    def add(totals: tuple[Array, ...], node: tuple[Array, Array]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, totals, at(node)), None

    nodes = (jnp.asarray(rule.nodes), jnp.asarray(rule.weights.T))
    shapes = jax.eval_shape(at, jax.tree.map(lambda x: x[0], nodes))
    start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(add, start, nodes)[0]


def _products(kernel: Kernel, n: int) -> list[tuple[Array, Array]]:
    """What a kernel is a mixture of: shares, and r of each player, [n]."""
    rate, share = jnp.asarray(kernel.rate), jnp.asarray(kernel.share)
    return [
        (part, jnp.exp(-times * rate) * jnp.ones(n))
        for part, times in ((1 - share, 1), (share, ROUGHER))
    ]


def _heads(
    mean: Array, terms: list[tuple[int, Array | float]], form: str
) -> list[tuple[int, Array]]:
    """Factors of the members of A over their means, with signs.

    A derivative is a product of differences; a marginal the difference of two products.
    """
    if form == "marginals":
        return [(sign, factor / mean) for sign, factor in terms]
    return [(1, sum(sign * jnp.asarray(factor) for sign, factor in terms) / mean)]


def _each(head: Array, level: Array, members: np.ndarray) -> Array:
    """Product over the members of each A, [M, A]."""
    out = jnp.broadcast_to(level[:, None], (len(level), len(members)))
    for column in members.T:
        out = out * head[:, column]
    return out
