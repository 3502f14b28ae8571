r"""From shares of dividends to weights of worths: exact numbers, made once on the host.

With :math:`I(S) = \sum_{T \supseteq S} w(|S|, |T|)\, d(T)`, inserting the dividends gives
:math:`I(S) = \sum_T \gamma_{|S|}(|T|, |T \cap S|)\, v(T)`, and expanding gamma in its second
argument, :math:`I(S) = \sum_{B \subseteq S} \sum_{T \supseteq B} f_{|S|,|B|}(|T|)\, v(T)`:
sums of the weighted table over the supersets of a few small coalitions, without any dividend.
"""

from __future__ import annotations

import functools
import itertools
import math
from fractions import Fraction

import numpy as np


def worth_weights(weights: np.ndarray) -> np.ndarray:
    r"""Weight of v(T) in I(S) by sizes, :math:`\gamma_s(t, a)` with a = \|T & S\|.

    :math:`\gamma_s(t, a) = \sum_{u \ge 0} (-1)^{s-a+u} \binom{n-t-s+a}{u} w(s, t+s-a+u)`, since
    v(T) counts in d(U) for every U that holds T and S. The signs alternate, so the sums are made
    of fractions.

    Args:
        weights: w(s, t), float64 or fractions [k+1, n+1].

    Returns:
        Fractions [k+1, n+1, k+1]; zero where no such T exists.
    """
    order, n = weights.shape[0] - 1, weights.shape[1] - 1
    gamma = np.full((order + 1, n + 1, order + 1), Fraction(0), object)
    for s in range(min(order, n) + 1):
        row = [_simplest(w) for w in weights[s]]
        for a, outside in itertools.product(range(s + 1), range(n - s + 1)):
            free = n - s - outside
            terms = (
                (-1) ** (s - a + u) * math.comb(free, u) * row[outside + s + u]
                for u in range(free + 1)
                if row[outside + s + u]
            )
            gamma[s, outside + a, a] = sum(terms, Fraction(0))
    return gamma


def superset_weights(weights: np.ndarray) -> np.ndarray:
    r"""Weights :math:`f_{s,b}(t) = \sum_{a \le b} (-1)^{b-a} \binom{b}{a} \gamma_s(t, a)`.

    Args:
        weights: w(s, t), float64 or fractions [k+1, n+1].

    Returns:
        float64 [k+1, k+1, n+1], f by s, b and t; zero where b > s or b > t.
    """
    gamma = worth_weights(weights)
    order, n = weights.shape[0] - 1, weights.shape[1] - 1
    f = np.zeros((order + 1, order + 1, n + 1))
    for s in range(order + 1):
        for b, t in itertools.product(range(s + 1), range(n + 1)):
            if b <= t:
                f[s, b, t] = sum(
                    (-1) ** (b - a) * math.comb(b, a) * gamma[s, t, a] for a in range(b + 1)
                )
    return f


@functools.lru_cache(maxsize=4096)
def _simplest(weight: float | Fraction) -> Fraction:
    """The fraction of smallest denominator that rounds to ``weight``, so that 1/3 is a third.

    A float is off by up to 1e-16, which the alternating sums would multiply by up to 2**n.
    """
    if isinstance(weight, Fraction):
        return weight
    exact, bound = Fraction(weight), 1
    while bound < 1 << 40:
        near = exact.limit_denominator(bound)
        if float(near) == weight:
            return near
        bound *= 2
    return exact
