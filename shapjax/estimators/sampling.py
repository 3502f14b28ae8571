"""Random coalitions: a law of sizes, then a uniform coalition of the size drawn."""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.coalitions.enumerate import masks_of_size
from shapjax.core.errors import ShapjaxError


class Plan(NamedTuple):
    """Coalitions for a kernel regression.

    Attributes:
        constrained: Boolean [c, n], the sizes below ``order`` and the grand coalition, in that
            order: the rows whose kernel weight is infinite.
        free: Boolean [rows, n], the sizes from ``order`` to n-1.
        weights: float64 [rows], weight of each free row in the least squares, at most one.
        scale: what the papers' weights are in units of these.
    """

    constrained: np.ndarray
    free: jax.Array | np.ndarray
    weights: np.ndarray
    scale: float = 1.0


def constrained_masks(n: int, order: int) -> np.ndarray:
    """Coalitions of size below ``order``, then the grand coalition, Boolean [c, n]."""
    below = [masks_of_size(n, size) for size in range(order)]
    return np.concatenate([*below, np.ones((1, n), bool)])


def count_constrained(n: int, order: int) -> int:
    """Number of constrained coalitions: n + 2 at order 2."""
    return sum(math.comb(n, size) for size in range(order)) + 1


def require_constrained(budget: int, n: int, order: int) -> int:
    """Number of constrained coalitions, which a budget must cover.

    Raises:
        ShapjaxError: it does not.
    """
    constrained = count_constrained(n, order)
    if budget < constrained:
        raise ShapjaxError(
            f"budget is {budget}, but order {order} on {n} players starts with {constrained} "
            f"evaluations (sizes below {order} and the grand coalition); give at least "
            f"{constrained}."
        )
    return constrained


def kernel(n: int, order: int) -> np.ndarray:
    r"""The Shapley-Taylor kernel by size, float64 [n+1], zero where it is infinite.

    :math:`\pi(s) = \frac{n-1}{\binom{n}{s}\binom{s}{k}(n-s)}` for :math:`k \le s \le n-1`; k = 1
    is the Shapley kernel of Lundberg & Lee 2017.

    Source: Hamilton et al. 2022, eq. 7 (k = 2).
    """
    return np.array([float(weight) for weight in _kernel(n, order)])


def _kernel(n: int, order: int) -> list[Fraction]:
    """The kernel in exact fractions: the binomials leave the range of floats near n = 1030."""
    return [
        Fraction(n - 1, math.comb(n, s) * math.comb(s, order) * (n - s))
        if order <= s < n
        else Fraction(0)
        for s in range(n + 1)
    ]


def _kernel_plan(n: int, order: int, free: jax.Array | np.ndarray) -> Plan:
    """Free rows weighted by the kernel, in units of the largest weight among them."""
    sizes = np.asarray(free.sum(axis=1))
    weights = _kernel(n, order)
    present = np.unique(sizes)
    largest = max((weights[s] for s in present), default=Fraction(1))
    relative = np.zeros(n + 1)
    relative[present] = [float(weights[s] / largest) for s in present]
    return Plan(constrained_masks(n, order), free, relative[sizes], float(largest))


def size_law(n: int, order: int) -> np.ndarray:
    r"""Law of the size of a coalition under the kernel, float64 [n+1], sums to one.

    :math:`p(s) \propto \binom{n}{s} \pi(s) \propto \frac{1}{\binom{s}{k}(n-s)}`.

    Source: Hamilton et al. 2022, section 5.2 (Kernel-Direct).
    """
    law = np.zeros(n + 1)
    for s in range(order, n):
        law[s] = 1 / (math.comb(s, order) * (n - s))
    return law / law.sum() if order < n else law


def binomial(n: int, p: np.ndarray) -> np.ndarray:
    """Law of the size where every player is present with probability p, [nodes, n+1].

    Args:
        n: number of players; binomials of over 1,000 leave the range of floats.
        p: float64 [nodes].
    """
    s = np.arange(n + 1)
    choose = np.array([math.comb(n, int(size)) for size in s], np.float64)
    return choose * p[:, None] ** s * (1 - p[:, None]) ** (n - s)


def uniform_law(n: int, order: int) -> np.ndarray:
    """Law of the size of a uniformly drawn coalition that is not constrained, float64 [n+1]."""
    counts = [math.comb(n, s) if order <= s < n else 0 for s in range(n + 1)]
    total = sum(counts)
    return np.array([float(Fraction(count, total)) for count in counts])


def kernel_direct(key: jax.Array, n: int, order: int, rows: int) -> Plan:
    """Sizes from the kernel's own law, rows unweighted (Kernel-Direct, section 5.2)."""
    free = draw_by_size(key, jnp.asarray(size_law(n, order), jnp.float32), rows=rows)
    return Plan(constrained_masks(n, order), free, np.ones(rows))


def kernel_weighting(key: jax.Array, n: int, order: int, rows: int) -> Plan:
    """Uniform coalitions, rows weighted by the kernel (Kernel-Weighting, section 5.2).

    Draws are conditioned on not being a constrained coalition, which is evaluated anyway.
    """
    free = draw_by_size(key, jnp.asarray(uniform_law(n, order), jnp.float32), rows=rows)
    return _kernel_plan(n, order, free)


def every_coalition(n: int, order: int) -> Plan:
    """All 2**n coalitions, weighted by the kernel: the regression is then exact."""
    sizes = range(order, n)
    free = np.concatenate([masks_of_size(n, s) for s in sizes] or [np.zeros((0, n), bool)])
    return _kernel_plan(n, order, free)


@functools.partial(jax.jit, static_argnames="rows")
def draw_by_size(key: jax.Array, law: jax.Array, *, rows: int) -> jax.Array:
    """Independent coalitions: a size from ``law``, then uniform of that size.

    Args:
        key: PRNG key.
        law: probability of each size, float [n+1].
        rows: how many; static.

    Returns:
        Boolean [rows, n].
    """
    key_sizes, key_members = jax.random.split(key)
    n = law.shape[0] - 1
    sizes = jax.random.categorical(key_sizes, jnp.log(law), shape=(rows,))
    return draw_of_sizes(key_members, sizes, n)


def draw_of_sizes(key: jax.Array, sizes: jax.Array, n: int) -> jax.Array:
    """A uniform coalition of each given size.

    Player after player joins with probability (places left) / (players left), which makes every
    coalition of the size equally likely and needs no sort.

    Args:
        key: PRNG key.
        sizes: int [rows], between 0 and n.
        n: number of players.

    Returns:
        Boolean [rows, n].
    """

    def join(places: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        player_key, remaining = step
        u = jax.random.uniform(player_key, places.shape, jnp.float32)
        joined = u * remaining < places
        return places - joined, joined

    remaining = jnp.arange(n, 0, -1, dtype=jnp.float32)
    steps = (jax.random.split(key, n), remaining)
    _, joined = jax.lax.scan(join, sizes.astype(jnp.float32), steps)
    return joined.T
