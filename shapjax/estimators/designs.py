"""Matrix-free designs: how the top coefficients act on masks, without forming the matrix."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

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
        whiten: inverse square root of the Gram matrix expected under the law of sizes, on the
            coefficients that sum to zero; it is symmetric and removes the constant part. It
            does so twice: at the solution the constant part of a gradient (the multiplier of
            the constraint) dwarfs the rest, and what rounding leaves of it no row would see.
        constant: the coefficients that are all equal to a number.
        flatten: coefficients in lexicographic order, [C(n, k)].
    """

    apply: Callable[[Array], Array]
    adjoint: Callable[[Array], Array]
    whiten: Callable[[Array], Array]
    constant: Callable[[Array], Array]
    flatten: Callable[[Array], Array]


def design_of_order(z: Array, order: int, law: np.ndarray) -> Design:
    """The design of the coalitions of ``order`` players; pairs need no products of columns.

    Args:
        z: masks as numbers, float [rows, n].
        order: k, 1 <= k < n; static.
        law: probability of each size, float64 [n+1].
    """
    if order > 2:
        return _sets(z, order, law)
    return _singles(z, law) if order == 1 else _pairs(z, law)


def _singles(z: Array, law: np.ndarray) -> Design:
    def centre(a: Array) -> Array:
        return a - a.mean()

    # On the zero-sum vectors the expected Gram matrix is m1 - m2 times the identity.
    scale = float(_moment(law, 1) - _moment(law, 2)) ** -0.5
    return Design(
        apply=lambda a: z @ a,
        adjoint=lambda r: r @ z,
        whiten=lambda a: scale * centre(centre(a)),
        constant=lambda value: jnp.full(z.shape[1], value, z.dtype),
        flatten=lambda a: a,
    )


def _pairs(z: Array, law: np.ndarray) -> Design:
    """Coefficients of pairs, kept as a symmetric matrix A with zero diagonal.

    A row is z'Az/2, so rows cost one matrix product and the design is never formed.
    """
    n = z.shape[1]
    hollow = 1 - jnp.eye(n, dtype=z.dtype)
    # Half of the Gram matrix, because a matrix holds every pair twice.
    standard, rest = (float(0.5 * x) ** -0.5 for x in pair_gram_spectrum(law)[1:])

    def centre(a: Array) -> Array:
        return a - a.sum() / (n * (n - 1)) * hollow

    def whiten(a: Array) -> Array:
        a = centre(centre(a))
        x = a.sum(axis=1) / (n - 2)
        along = (x[:, None] + x[None, :]) * hollow
        return standard * along + rest * (a - along)

    def adjoint(r: Array) -> Array:
        pairs = 0.25 * (z.T @ (r[:, None] * z)) * hollow
        # Rounding leaves a skew part, which no row can see and a solver would feed on.
        return pairs + pairs.T

    return Design(
        apply=lambda a: 0.5 * ((z @ a) * z).sum(axis=1),
        adjoint=adjoint,
        whiten=whiten,
        constant=lambda value: value * hollow,
        flatten=lambda a: a[np.triu_indices(n, 1)],
    )


def pair_gram_spectrum(law: np.ndarray) -> tuple[float, float, float]:
    r"""Eigenvalues of the Gram matrix of pair indicators under a law of sizes.

    :math:`E[z_i z_j z_k z_l] = m_r` depends only on :math:`r = |\{i, j, k, l\}|`, so the matrix
    commutes with relabelling (the Johnson scheme J(n, 2)) and has three eigenspaces: constants,
    :math:`x_i + x_j` with :math:`\sum x = 0`, and the rest.

    Args:
        law: probability of each size, float64 [n+1], n >= 3.

    Returns:
        The three eigenvalues in that order. The third space is empty at n = 3.
    """
    n = len(law) - 1
    m2, m3, m4 = (_moment(law, r) for r in (2, 3, 4))
    constants = m2 + 2 * (n - 2) * m3 + math.comb(n - 2, 2) * m4
    standard = m2 + (n - 4) * m3 - (n - 3) * m4
    return constants, standard, m2 - 2 * m3 + m4


def _sets(z: Array, order: int, law: np.ndarray) -> Design:
    """Coefficients of coalitions of any size, flat.

    The Gram matrix commutes with relabelling, and so does its inverse square root.
    """
    n = z.shape[1]
    products = Products(z, order)
    roots = [x**-0.5 for x in gram_spectrum(law, order)[1:]]
    inner = johnson_operator(n, order, roots, first=1)

    def centre(a: Array) -> Array:
        return a - a.mean()

    def whiten(a: Array) -> Array:
        return centre(inner(centre(centre(a))))

    return Design(
        apply=products.apply,
        adjoint=products.adjoint,
        whiten=whiten,
        constant=lambda value: jnp.full(products.count, value, z.dtype),
        flatten=lambda a: a,
    )


def johnson_operator(
    n: int, order: int, values: list[float], first: int = 0
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


def _divided_differences(nodes: list[int], values: list[float]) -> list[float]:
    """Coefficients of the interpolating polynomial in Newton's form."""
    table = list(values)
    for level in range(1, len(table)):
        for i in range(len(table) - 1, level - 1, -1):
            table[i] = (table[i] - table[i - 1]) / (nodes[i] - nodes[i - level])
    return table


def gram_spectrum(law: np.ndarray, order: int) -> list[float]:
    r"""Eigenvalues of the Gram matrix of indicators of k-sets under a law of sizes.

    The Johnson scheme J(n, k) has the eigenspaces e = 0 (constants) to min(k, n-k). Coalitions
    of size t, each counted with p(t)/C(n, t), contribute the matrix of how many of them hold two
    k-sets at once, whose eigenvalue is :math:`\binom{t-e}{k-e} \binom{n-k-e}{t-k}`.

    Args:
        law: probability p of each size, float64 [n+1].
        order: k.

    Source: Delsarte 1973, section 4.2 (the Johnson scheme); Wilson 1990 (inclusion matrices).
    """
    n, k = len(law) - 1, order
    return [
        sum(
            float(law[t])
            * float(
                Fraction(math.comb(t - e, k - e) * math.comb(n - k - e, t - k), math.comb(n, t))
            )
            for t in range(k, n - e + 1)
        )
        for e in range(min(k, n - k) + 1)
    ]


def _moment(law: np.ndarray, r: int) -> float:
    """Probability that r given players all belong to a coalition."""
    n = len(law) - 1
    if r > n:
        return 0.0
    return sum(p * math.comb(s, r) / math.comb(n, r) for s, p in enumerate(law))


def dense_design(z: Array, members: list[np.ndarray]) -> Array:
    """The design matrix of the coefficients of all given sizes, float [rows, columns].

    Args:
        z: float [rows, n].
        members: players of the coalitions of each size, as ``members_of_size`` gives them.
    """
    columns = [z[:, players].prod(axis=-1) for players in members]
    return jnp.concatenate(columns, axis=1)
