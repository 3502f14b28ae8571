"""Matrix-free designs: how the top coefficients act on masks, without forming the matrix."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.estimators.subsets import Products, parts_of_size

Array = jax.Array


class Design(NamedTuple):
    """The linear map from top coefficients to rows, and what a solver needs beside it.

    Attributes:
        apply: coefficients to rows, [rows].
        adjoint: rows to coefficients, the transpose of ``apply``.
        invert: inverse of the expected Gram matrix, on the coefficients that sum to zero.
        centre: coefficients with their constant part taken off.
        constant: the coefficients that are all equal to a number.
        flatten: coefficients in lexicographic order, [C(n, k)].
        count: how many there are.
    """

    apply: Callable[[Array], Array]
    adjoint: Callable[[Array], Array]
    invert: Callable[[Array], Array]
    centre: Callable[[Array], Array]
    constant: Callable[[Array | float], Array]
    flatten: Callable[[Array], Array]
    count: int


def design_of_order(z: Array, order: int, spectrum: Array | np.ndarray) -> Design:
    """The design of the coalitions of ``order`` players; pairs need no products of columns.

    Args:
        z: masks as numbers, float [rows, n].
        order: k, 1 <= k < n; static.
        spectrum: eigenvalues of the expected Gram matrix as ``gram_table`` orders them, float
            [1 + min(k, n-k)], traced or not.
    """
    inverse = [1 / x for x in jnp.asarray(spectrum, z.dtype)[1:]]
    if order > 2:
        return _sets(z, order, inverse)
    return _singles(z, inverse) if order == 1 else _pairs(z, inverse)


def _singles(z: Array, inverse: list[Array]) -> Design:
    def centre(a: Array) -> Array:
        return a - a.mean()

    return Design(
        apply=lambda a: z @ a,
        adjoint=lambda r: r @ z,
        invert=lambda a: inverse[0] * a,
        centre=centre,
        constant=lambda value: jnp.full(z.shape[1], value, z.dtype),
        flatten=lambda a: a,
        count=z.shape[1],
    )


def _pairs(z: Array, inverse: list[Array]) -> Design:
    r"""Coefficients of pairs, kept as a symmetric matrix A with zero diagonal.

    A row is z'Az/2, so rows cost one matrix product and the design is never formed. The expected
    Gram matrix has three eigenspaces: constants, :math:`x_i + x_j` with :math:`\sum x = 0`, and
    the rest, which is empty at n = 3.
    """
    n = z.shape[1]
    hollow = 1 - jnp.eye(n, dtype=z.dtype)
    # A matrix holds every pair twice, so that its Gram matrix is half of that of the pairs.
    standard, rest = 2 * inverse[0], 2 * inverse[-1]

    def centre(a: Array) -> Array:
        return a - a.sum() / (n * (n - 1)) * hollow

    def invert(a: Array) -> Array:
        x = a.sum(axis=1) / (n - 2)
        along = (x[:, None] + x[None, :]) * hollow
        return rest * a + (standard - rest) * along

    def adjoint(r: Array) -> Array:
        pairs = 0.25 * (z.T @ (r[:, None] * z)) * hollow
        # Rounding leaves a skew part, which no row can see and a solver would feed on.
        return pairs + pairs.T

    return Design(
        apply=lambda a: 0.5 * ((z @ a) * z).sum(axis=1),
        adjoint=adjoint,
        invert=invert,
        centre=centre,
        constant=lambda value: value * hollow,
        # Fused products round a and its transpose apart; only their mean is seen by a row.
        flatten=lambda a: 0.5 * (a + a.T)[np.triu_indices(n, 1)],
        count=math.comb(n, 2),
    )


def _sets(z: Array, order: int, inverse: list[Array]) -> Design:
    """Coefficients of coalitions of any size, flat.

    The Gram matrix commutes with relabelling, and so does its inverse.
    """
    n = z.shape[1]
    products = Products(z, order)

    def centre(a: Array) -> Array:
        return a - a.mean()

    return Design(
        apply=products.apply,
        adjoint=products.adjoint,
        invert=johnson_operator(n, order, inverse, first=1),
        centre=centre,
        constant=lambda value: jnp.full(products.count, value, z.dtype),
        flatten=lambda a: a,
        count=products.count,
    )


def johnson_operator(
    n: int, order: int, values: list[Any], first: int = 0
) -> Callable[[Array], Array]:
    """The operator on k-sets that multiplies each eigenspace of the Johnson scheme by a number.

    What commutes with relabelling has the eigenspaces of the operator X that sends the indicator
    of S to the sum of those that share all but at most one member with S (S itself, k times), and
    is a polynomial in X. Applied one factor at a time (Newton's form) it costs one sum over the
    parts of size k - 1 less than there are numbers.

    Args:
        n: number of players.
        order: k.
        values: of the eigenspaces ``first``, ``first`` + 1, ..., min(k, n-k): the constants are
            space 0, the last one is harmonic (it sums to zero over the k-sets that hold any
            k - 1 players) where 2 k <= n.
        first: the first eigenspace; it is applied to functions without parts in those before.

    Source: Delsarte 1973, section 4.2.
    """
    parts = parts_of_size(n, order, order - 1)
    spaces = range(first, min(order, n - order) + 1)
    nodes = [(order - e) * (n - order - e + 1) for e in spaces]
    newton = _divided_differences(nodes, values)

    def neighbours(a: Array) -> Array:
        shared = jnp.zeros(math.comb(n, order - 1), a.dtype)
        shared = shared.at[parts].add(jnp.broadcast_to(a[:, None], parts.shape))
        return shared[parts].sum(axis=1)

    def operator(a: Array) -> Array:
        total = newton[0] * a
        for factor, node in zip(newton[1:], nodes, strict=False):
            a = neighbours(a) - node * a
            total = total + factor * a
        return total

    return operator


def _divided_differences(nodes: list[int], values: list[Any]) -> list[Any]:
    """Coefficients of the interpolating polynomial in Newton's form."""
    table = list(values)
    for level in range(1, len(table)):
        for i in range(len(table) - 1, level - 1, -1):
            table[i] = (table[i] - table[i - 1]) / (nodes[i] - nodes[i - level])
    return table


def gram_table(n: int, order: int) -> np.ndarray:
    r"""Eigenvalues that coalitions of each size give to the Gram matrix of k-sets.

    The Johnson scheme J(n, k) has the eigenspaces e = 0 (constants) to min(k, n-k). Coalitions
    of size t, each counted with 1/C(n, t), contribute the matrix of how many of them hold two
    k-sets at once, whose eigenvalue is :math:`\binom{t-e}{k-e} \binom{n-k-e}{t-k}`. Under a law
    p of sizes the eigenvalues are ``p @ gram_table(n, k)``.

    Args:
        n: number of players.
        order: k.

    Returns:
        float64 [n+1, 1 + min(k, n-k)].

    Source: Delsarte 1973, section 4.2 (the Johnson scheme); Wilson 1990 (inclusion matrices).
    """
    k, spaces = order, range(min(order, n - order) + 1)
    table = np.zeros((n + 1, len(spaces)))
    for t in range(k, n + 1):
        # The quotient of the two large binomials, in numbers that stay small.
        table[t] = [
            math.comb(t - e, k - e) * math.perm(t, k) * math.perm(n - t, e) / math.perm(n, k + e)
            for e in spaces
        ]
    return table


def dense_design(z: Array, members: list[np.ndarray]) -> Array:
    """The design matrix of the coefficients of all given sizes, float [rows, columns].

    Args:
        z: float [rows, n].
        members: players of the coalitions of each size, as ``members_of_size`` gives them.
    """
    columns = [z[:, players].prod(axis=-1) for players in members]
    return jnp.concatenate(columns, axis=1)
