r"""One table of weights per index: the rows that define every cardinal interaction index.

An index that depends on coalitions only through their sizes shares the Harsanyi dividends,
:math:`I(S) = \sum_{T \supseteq S} w(|S|, |T|)\, d(T)`; adding an index is adding a row to
``WEIGHTS``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from shapjax.core.checks import one_of, whole_number
from shapjax.core.errors import ShapjaxError

Weight = Callable[[int, int, int], float]
"""w(s, t; k): the share of the dividend of a coalition of size t that each of its
sub-coalitions of size s receives, 0 <= s <= t, for an index of order k."""


def _own(s: int, t: int) -> float:
    return float(s == t)


def _shapley_taylor(s: int, t: int, order: int) -> float:
    """Below the top order the dividend itself, at the top order 1/C(t, k): ICLR eq. 5."""
    return _own(s, t) if s < order else 1 / math.comb(t, order)


def _shapley(s: int, t: int, order: int) -> float:
    return _shapley_taylor(s, t, 1)


WEIGHTS: dict[str, Weight] = {"SV": _shapley, "STII": _shapley_taylor}


def index_and_order(index: str, order: int | None, n: int) -> tuple[str, int]:
    """The index and its order (2 by default, 1 for the Shapley value), checked for n players.

    Raises:
        ShapjaxError: no such index, or an order that it or the game does not have.
    """
    one_of(index, tuple(WEIGHTS), "index")
    if index == "SV":
        if order not in (None, 1):
            raise ShapjaxError(f"order is {order} for the Shapley value, which has order 1.")
        order = 1
    return index, whole_number(2 if order is None else order, "order", low=1, high=max(n, 1))


def weight_table(index: str, order: int, n: int) -> np.ndarray:
    """w(s, t) for 0 <= s <= order and 0 <= t <= n, float64; zero where t < s."""
    table = np.zeros((order + 1, n + 1))
    for s in range(order + 1):
        for t in range(s, n + 1):
            table[s, t] = WEIGHTS[index](s, t, order)
    return table
