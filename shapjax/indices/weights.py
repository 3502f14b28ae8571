r"""From the index a user asks for to its table of weights.

An interaction index that depends on coalitions only through their sizes shares the Harsanyi
dividends, :math:`I(S) = \sum_{T \supseteq S} w(|S|, |T|)\, d(T)`; a generalised value weighs the
marginal contributions of S instead. The rows themselves are in ``rows.py``.
"""

from __future__ import annotations

from fractions import Fraction
from math import comb
from typing import Any

import numpy as np

from shapjax.core.checks import one_of, whole_number
from shapjax.indices.cardinal import CardinalIndex
from shapjax.indices.rows import INDICES


def index_and_order(
    index: str | CardinalIndex, order: int | None, n: int, p: Any = None
) -> tuple[CardinalIndex, int]:
    """The index and its order (2 by default, or the highest it has), checked for n players.

    Raises:
        ShapjaxError: no such index, an order that it or the game does not have, or a p that does
            not belong to it.
    """
    if not isinstance(index, CardinalIndex):
        index = INDICES[one_of(index, tuple(INDICES), "index")]
    if p is not None:
        index = index.with_p(p)
    highest = max(n, 1) if index.highest_order is None else min(index.highest_order, max(n, 1))
    order = min(2, highest) if order is None else order
    return index, whole_number(order, f"order of {index.label}", low=1, high=highest)


def weight_table(index: CardinalIndex, order: int, n: int) -> np.ndarray:
    """Weights w[s, t] for 0 <= s <= order and 0 <= t <= n, exact fractions [order+1, n+1].

    Of the dividends of the T containing S, zero where t < s; for the form ``"marginals"`` of the
    contributions of S to the T without it, zero where s = 0 or t > n - s.
    """
    table = np.full((order + 1, n + 1), Fraction(0), object)
    for s in range(min(order, n) + 1):
        if index.form == "marginals":
            for t in range(n - s + 1) if s else ():
                table[s, t] = index.at(s, t, order, n)
        elif index.form == "derivatives":
            given = [index.at(s, u, order, n) for u in range(n - s + 1)]
            for t in range(s, n + 1):
                # A derivative at a coalition of size u counts d(T) where it holds all of T but S.
                table[s, t] = sum(
                    comb(n - t, u - t + s) * given[u] for u in range(t - s, n - s + 1)
                )
        else:
            for t in range(s, n + 1):
                table[s, t] = index.at(s, t, order, n)
    return table
