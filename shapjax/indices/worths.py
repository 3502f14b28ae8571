r"""From an index to weights of the worths themselves: exact numbers, made once on the host.

Every cardinal index is :math:`I(S) = \sum_T \gamma_{|S|}(|T|, |T \cap S|)\, v(T)`. Expanding gamma
in its second argument, :math:`I(S) = \sum_{B \subseteq S} \sum_{T \supseteq B}
f_{|S|,|B|}(|T|)\, v(T)`: sums of the weighted table over the supersets of a few small coalitions,
without any dividend.
"""

from __future__ import annotations

import functools
import itertools
import math
from fractions import Fraction

import numpy as np


def worth_weights(weights: np.ndarray, form: str = "dividends") -> np.ndarray:
    r"""Weight of v(T) in I(S) by sizes, :math:`\gamma_s(t, a)` with a = \|T & S\|.

    Of weights of dividends, :math:`\gamma_s(t, a) = \sum_{u \ge 0} (-1)^{s-a+u}
    \binom{n-t-s+a}{u} w(s, t+s-a+u)`, since v(T) counts in d(U) for every U that holds T and S.
    The signs alternate, so the sums are made of fractions. Of weights of marginals,
    :math:`\gamma_s(t, s) = p(s, t-s)` and :math:`\gamma_s(t, 0) = -p(s, t)`.

    Args:
        weights: as ``weight_table`` makes them, fractions or float64 [k+1, n+1].
        form: of the index; ``"marginals"``, or what ``weight_table`` turns into dividends.

    Returns:
        Fractions [k+1, n+1, k+1]; zero where no such T exists.
    """
    order, n = weights.shape[0] - 1, weights.shape[1] - 1
    gamma = np.full((order + 1, n + 1, order + 1), Fraction(0), object)
    for s in range(min(order, n) + 1):
        row = [_simplest(w) for w in weights[s]]
        if form == "marginals":
            for t in range(n - s + 1) if s else ():
                gamma[s, t + s, s] += row[t]
                gamma[s, t, 0] -= row[t]
            continue
        for a, outside in itertools.product(range(s + 1), range(n - s + 1)):
            free = n - s - outside
            terms = (
                (-1) ** (s - a + u) * math.comb(free, u) * row[outside + s + u]
                for u in range(free + 1)
                if row[outside + s + u]
            )
            gamma[s, outside + a, a] = sum(terms, Fraction(0))
    return gamma


def superset_weights(gamma: np.ndarray) -> np.ndarray:
    r"""Weights :math:`f_{s,b}(t) = \sum_{a \le b} (-1)^{b-a} \binom{b}{a} \gamma_s(t, a)`.

    Args:
        gamma: from ``worth_weights``.

    Returns:
        float64 [k+1, k+1, n+1], f by s, b and t; zero where b > s or b > t.
    """
    order, n = gamma.shape[0] - 1, gamma.shape[1] - 1
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
    """The fraction of smallest denominator that rounds to a float, so that 0.333... is a third.

    A float is off by up to 1e-16, which the alternating sums would multiply by up to 2**n.
    Fractions that are no floats are what they say.
    """
    exact, bound = Fraction(weight), 1
    if Fraction(float(exact)) != exact:
        return exact
    while bound < 1 << 40:
        near = exact.limit_denominator(bound)
        if float(near) == float(exact):
            return near
        bound *= 2
    return exact
