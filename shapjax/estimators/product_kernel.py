r"""The product kernel on coalitions, and what any cardinal index makes of it.

With r in (0, 1), :math:`k(S, T) = r^{|S \triangle T|}` is a product over players, and so is a
function of S for every fixed T. The index of a coalition A of that function depends on T only
through :math:`|T|` and :math:`|A \cap T|`: a small table holds it for all A and T at once.

Written by discrete derivatives, a cardinal index is :math:`I(A) = \sum_{U \subseteq N \setminus A}
q(|A|, |U|)\, \Delta_A v(U)`. A derivative of a product is a product, and the sum over all U of one
size is a coefficient of :math:`\prod_{i \notin A} (f_i(0) + f_i(1) x)
= (r + x)^a (1 + r x)^{n-s-a}`, where :math:`a = |T \setminus A|`: sums of positive numbers,
where the dividends themselves would cancel.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.coalitions.enumerate import members_of_size
from shapjax.core.errors import ShapjaxError
from shapjax.estimators.subsets import parts_of_size, positions
from shapjax.indices.cardinal import CardinalIndex
from shapjax.indices.weights import weight_table
from shapjax.indices.worths import worth_weights

MOST_PLAYERS = 1000
"""Beyond it binomials leave the range of float64."""

ROUGHER = 8
"""The rough part of a kernel decays so many times faster than the smooth one."""


class Kernel(NamedTuple):
    r"""A mixture of product kernels, :math:`(1 - a) r^d + a r^{8 d}` of the Hamming distance d.

    Games have broad trends and fine detail of much smaller spread; one rate serves one of them.

    Attributes:
        rate: lambda, positive, of all players or of each, [n]; r is its negative exponential.
        share: a, between 0 and 1; 0 leaves the product kernel alone.
    """

    rate: jax.Array | float
    share: jax.Array | float = 0.0


def kernel_matrix(a: jax.Array, b: jax.Array, kernel: Kernel) -> jax.Array:
    """The kernel for masks S in a and T in b, float [A, B], by one matrix product.

    Args:
        a: masks as numbers, float [A, n].
        b: float [B, n].
        kernel: rates and share.
    """
    smooth = jnp.exp(-weighted_distance(a, b, kernel.rate))
    return smooth + kernel.share * (smooth**ROUGHER - smooth)


def weighted_distance(a: jax.Array, b: jax.Array, rate: jax.Array | float) -> jax.Array:
    """Sum of the rates of the players in which masks S in a and T in b differ, float [A, B].

    Args:
        a: masks as numbers, float [A, n].
        b: float [B, n].
        rate: of all players, or float [n].
    """
    weighted = a * rate
    return weighted.sum(axis=1)[:, None] + (b * rate).sum(axis=1) - 2 * (weighted @ b.T)


@functools.lru_cache(maxsize=64)
def derivative_weights(index: CardinalIndex, order: int, n: int) -> list[np.ndarray]:
    r"""Weights of a cardinal index by discrete derivatives, times the number of coalitions.

    From weights w over dividends, :math:`q(s, u) = \sum_j \binom{n-s-u}{j} (-1)^j w(s, s+u+j)`,
    summed exactly. Of the form ``"marginals"`` the weights of v(U + A) - v(U).

    Returns:
        Per size s = 0..order, float64 [n-s+1]: :math:`\binom{n-s}{u} q(s, u)`.
    """
    # A derivative's weight is that of the worth of the largest coalition in it.
    gamma = worth_weights(weight_table(index, order, n), index.form)
    return [
        np.array([float(gamma[s, s + u, s] * math.comb(n - s, u)) for u in range(n - s + 1)])
        for s in range(order + 1)
    ]


def index_tables(
    index: CardinalIndex,
    order: int,
    n: int,
    kernel: Kernel,
    scale: jax.Array | np.ndarray | None = None,
) -> list[jax.Array]:
    r"""The index of :math:`S \mapsto \sigma(|S|)\, k(S, T)`.

    Args:
        index: any cardinal index; static.
        order: its order k; static.
        n: number of players, at most 1000; static.
        kernel: k.
        scale: sigma by size, float [n+1]; None for one.

    Returns:
        Per size s = 0..k, float [n+1, s+1]: entry [t, c] is the index of any A of size s
        with |T| = t and |A and T| = c; zero where no such A exists.

    Raises:
        ShapjaxError: too many players.
    """
    return [
        jnp.tensordot(jnp.asarray(row), derivative_tables(n, s, kernel, scale, index.form), 1)
        for s, row in enumerate(derivative_weights(index, order, n))
    ]


def derivative_tables(
    n: int,
    size: int,
    kernel: Kernel,
    scale: jax.Array | np.ndarray | None = None,
    form: str = "derivatives",
) -> jax.Array:
    r"""Mean discrete derivatives of :math:`\sigma(|S|)\, k(S, T)`.

    Returns:
        float [n-s+1, n+1, s+1]: entry [u, t, c] is the mean over all U of size u outside A of
        the derivative with respect to A at U (for ``"marginals"``, of what A adds as one), where
        s = |A|, t = |T|, c = |A and T|; zero where no such A exists.

    Raises:
        ShapjaxError: too many players.
    """
    if n > MOST_PLAYERS:
        raise ShapjaxError(
            f"n_players is {n}, but the product kernel's index is known up to {MOST_PLAYERS}; "
            "merge some players."
        )
    sigma = jnp.ones(n + 1) if scale is None else jnp.asarray(scale)
    rate, share = (jnp.asarray(x, sigma.dtype) for x in kernel)
    smooth, rough = (
        _product_tables(n, size, jnp.exp(-each), sigma, form) for each in (rate, ROUGHER * rate)
    )
    return smooth + share * (rough - smooth)


def _product_tables(n: int, size: int, r: jax.Array, sigma: jax.Array, form: str) -> jax.Array:
    """``derivative_tables`` of one product kernel."""
    rest = n - size
    means = _means(r, rest)
    levels = jnp.stack([sigma[level : level + rest + 1] for level in range(size + 1)])
    tables = jnp.zeros((rest + 1, n + 1, size + 1), sigma.dtype)
    for c in range(size + 1):
        head = _head(r, size, c, form) @ levels
        tables = tables.at[:, c : c + rest + 1, c].set((means * head).T)
    return tables


def _means(r: jax.Array, rest: int) -> jax.Array:
    """Means over all U of one size of the product of the players outside A, [a, u].

    Row a = |T minus A|. Players join one after the other, those of T first: the newcomer belongs
    to a U of size u among m + 1 with probability u / (m + 1), so that only positive numbers of
    at most one are added.
    """
    a, u = np.arange(rest + 1)[:, None], np.arange(rest + 1)

    def join(means: jax.Array, m: jax.Array) -> tuple[jax.Array, None]:
        absent, present = jnp.where(m < a, r, 1), jnp.where(m < a, 1, r)
        share = jnp.minimum(u / (m + 1), 1)
        smaller = jnp.pad(means[:, :-1], ((0, 0), (1, 0)))
        return absent * (1 - share) * means + present * share * smaller, None

    start = jnp.ones((rest + 1, rest + 1), r.dtype)
    return jax.lax.scan(join, start, jnp.arange(rest, dtype=r.dtype))[0]


def _head(r: jax.Array, s: int, c: int, form: str) -> jax.Array:
    """What the members of A contribute by how many of them are in, float [s+1].

    c of them lie in T: a factor is 1 where both agree and r where not, with the sign of the
    derivative; a marginal knows only all and none.
    """
    if form == "marginals":
        return jnp.zeros(s + 1, r.dtype).at[0].add(-(r**c)).at[s].add(r ** (s - c))
    head = jnp.ones(1, r.dtype)
    for member in range(s):
        stay, join = (-r, 1.0) if member < c else (-1.0, r)
        head = stay * jnp.pad(head, (0, 1)) + join * jnp.pad(head, (1, 0))
    return head


def size_index(index: CardinalIndex, order: int, n: int) -> np.ndarray:
    r"""The index of functions of the size alone, float64 [order+1, n+1].

    Row s times h(0..n) is the index of :math:`S \mapsto h(|S|)` for any A of size s.
    """
    rows = np.zeros((order + 1, n + 1))
    for s, share in enumerate(derivative_weights(index, order, n)):
        if index.form == "marginals":
            step = np.zeros(s + 1)
            step[0] -= 1
            step[s] += 1
        else:
            step = np.array([(-1) ** (s - level) * math.comb(s, level) for level in range(s + 1)])
        # Sum over u and l of share(u) step(l) h(u + l).
        rows[s] = np.convolve(share, step)
    return rows


def read_index(
    z: jax.Array, coefficients: jax.Array, tables: list[jax.Array]
) -> tuple[jax.Array, ...]:
    r"""The index of :math:`S \mapsto \sum_m \beta_m k(S, T_m)` for all A up to the order.

    A table's row is a polynomial in |A and T|, which in Newton's form is a sum over the subsets
    of A, so that moments of the masks (for pairs :math:`Z^T \mathrm{diag}(\gamma) Z`) suffice.

    Args:
        z: masks T_m as numbers, float [M, n].
        coefficients: beta, float [M].
        tables: from ``index_tables``.

    Returns:
        Per size s, float [C(n, s)], lexicographic.
    """
    n = z.shape[1]
    sizes = z.sum(axis=1).astype(jnp.int32)
    out = []
    for s, table in enumerate(tables):
        rows = jnp.asarray(table, z.dtype)[sizes]
        total = jnp.zeros(math.comb(n, s), z.dtype)
        for j in range(s + 1):
            gamma = coefficients * rows[:, 0]
            moments = moments_of_size(z, gamma, j)
            total = total + moments[parts_of_size(n, s, j)].sum(axis=1)
            rows = rows[:, 1:] - rows[:, :-1]
        out.append(total)
    return tuple(out)


def moments_of_size(z: jax.Array, gamma: jax.Array, size: int) -> jax.Array:
    """Sum of gamma over the masks that hold J, for every J of one size, [C(n, size)]."""
    n = z.shape[1]
    if size == 0:
        return gamma.sum()[None]
    if size == 1:
        return gamma @ z
    # All but the last two members by a walk over the former, the last two by a matrix product.
    first, second = np.triu_indices(n, 1)
    if size == 2:
        return (z.T @ (gamma[:, None] * z))[first, second]
    lead = members_of_size(n, size - 2)

    def pairs(members: jax.Array) -> jax.Array:
        return z.T @ ((gamma * z[:, members].prod(axis=1))[:, None] * z)

    every = jax.lax.map(pairs, jnp.asarray(lead))
    members = members_of_size(n, size)
    return every[positions(members[:, :-2], n), members[:, -2], members[:, -1]]
