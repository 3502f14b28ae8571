"""Any index weighted by sizes as a sum over coalitions of what they are worth."""

from __future__ import annotations

import itertools
from fractions import Fraction
from math import comb

import numpy as np

from shapjax.indices.cardinal import CardinalIndex
from shapjax.indices.weights import weight_table


def worth_weights(index: CardinalIndex, order: int, n: int) -> list[np.ndarray]:
    r"""Weights g_s(t, j) with :math:`I(S) = \sum_T g_{|S|}(|T|, |T \cap S|)\, v(T)`.

    With the derivative weights p(s, t) of an interaction index,
    :math:`I(S) = \sum_{T \subseteq N \setminus S} p(s, t)\, \Delta_S v(T)`, they are
    :math:`g_s(t, j) = (-1)^{s-j} p(s, t-j)`; from the weights w of the dividends,
    :math:`p(s, t) = \sum_r (-1)^r \binom{n-s-t}{r} w(s, s+t+r)`. A generalised value weighs
    T with all of S inside by p(s, t-s) and T with none of it by -p(s, t).

    Returns:
        Per size s = 0..order exact fractions [n+1, s+1], zero where no T has these sizes.

    Source: Fumagalli et al. 2023, theorem 4.1 (the form); Fujimoto, Kojadinovic & Marichal 2006
    (derivative weights of an index given by dividends).
    """
    table = weight_table(index, order, n)
    weights = []
    for s in range(order + 1):
        marginals = index.form == "marginals"
        p = table[s, : n - s + 1] if marginals else _derivative_weights(table[s], s, n)
        g = np.full((n + 1, s + 1), Fraction(0), object)
        for j in range(s + 1):
            for t in range(j, n - s + j + 1):
                if not marginals:
                    g[t, j] = (-1) ** (s - j) * p[t - j]
                elif s and j in (0, s):
                    g[t, j] = p[t - j] if j else -p[t]
        weights.append(g)
    return weights


def _derivative_weights(w: np.ndarray, s: int, n: int) -> list[Fraction]:
    """p(s, t) for t = 0..n-s: repeated differences, each of the neighbours to the right."""
    differences = [Fraction(x) for x in w[s:]]
    p = []
    while differences:
        # The last one standing is the difference over all sizes that remain.
        p.append(differences[-1])
        differences = [a - b for a, b in itertools.pairwise(differences)]
    return p[::-1]


def size_law_of(weights: list[np.ndarray], n: int) -> np.ndarray:
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
                comb(s, j) * comb(n - s, t - j) * g[t, j] ** 2 for j in range(min(s, t) + 1)
            )
            squares[t] += comb(n, t) * comb(n, s) * spread
    # Fractions first: the binomials leave the range of floats long before the shares do.
    largest = max(squares)
    return np.array([float(x / largest) for x in squares]) ** 0.5 if largest else np.zeros(n + 1)
