r"""FIxLIP: the faithful Banzhaf regression on a grid of query masks by retrieved masks.

Where a worth compares two items, m masks of one and m' of the other give m m' coalitions for the
price of m + m' embeddings. Under weights that are products, a polynomial of degree 2 splits: let
:math:`Q_1` be spanned by 1 and the query's players, :math:`Q_2` by their pairs too, and R alike.
What :math:`Q_2` adds to :math:`Q_1` is orthogonal to all of :math:`Q_1 \otimes R_1`, and to what
:math:`R_2` adds. So the fit is :math:`A V B^\top` across the items, A and B being the least squares
of each, plus that of the mean of V over one item on what the pairs of the other add: three small
regressions and never the [m m', pairs] design.
"""

from __future__ import annotations

import math

import jax
import numpy as np

from shapjax.core.checks import one_of, whole_number
from shapjax.core.errors import ShapjaxError
from shapjax.core.memory import require_memory
from shapjax.estimators.distinct import generator_of
from shapjax.estimators.faithful import binomial_law, expanded, weighted_rows
from shapjax.estimators.oracle import Oracle
from shapjax.estimators.protocol import Answer, Problem
from shapjax.estimators.refits import (
    MOST_LEVERAGE,
    REFITS,
    distinct_by_size,
    require_refits,
    signs_of,
)

PAIRS = ("all", "cross")


def fixlip(
    problem: Problem,
    oracle: Oracle,
    *,
    n_query: int | None = None,
    pairs: str = "all",
    refits: int = REFITS,
) -> Answer:
    r"""FIxLIP across two items, for FBII of order 2; consistent.

    Distinct masks of each item by the binomial law of p, every query mask with every retrieved
    mask; as many of each as their players ask for and the budget holds. ``stats`` holds
    ``query_masks`` and ``retrieved_masks``. Standard errors take both draws into account (rows and
    columns of the grid are clusters); they are None where an item has no more masks than players
    and one. Pairs within an item that has fewer masks than such pairs are of least norm; what that
    takes from them, and from its players alone, is not in their standard errors.

    Args:
        problem: what to estimate; players 0 to n_query - 1 are the query's.
        oracle: where to ask.
        n_query: players on the query, 1 to n - 1.
        pairs: ``"all"``, or ``"cross"`` for a polynomial without the pairs within an item: those
            are zero, pairs across are still those of FBII, and a player alone (and the empty
            coalition) has what the best fit without the others gives it, which is not FBII.
        refits: how many fits of residuals the standard errors are made of; 0 leaves them out.

    Source: Baniecki, Muschalik, Fumagalli, Hammer, Hüllermeier & Biecek 2025, section 4
    (cross-modal sampling). Deviations: masks do not repeat, sizes that would be covered are taken
    whole, and each item has its empty and its full mask.
    """
    n, p = problem.n, problem.index.p
    problem.require_index("fixlip", "FBII")
    one_of(pairs, PAIRS, "pairs")
    refits = require_refits(refits)
    if n_query is None:
        raise ShapjaxError("fixlip needs to know whose players are whose; give n_query.")
    n_query = whole_number(n_query, "n_query", low=1, high=n - 1)
    if problem.order != 2:
        raise ShapjaxError(f"order is {problem.order}, but fixlip is about pairs; give 2.")
    if p is None or not 0 < p < 1:
        raise ShapjaxError(f"p is {p}, but fixlip needs a p strictly between 0 and 1.")
    if oracle.left < 4:
        raise ShapjaxError(
            f"budget is {oracle.left}, but fixlip starts with two masks of each item; give at "
            "least 4."
        )
    generator, sizes = generator_of(problem.key), (n_query, n - n_query)
    counts = grid_of(oracle.left, *sizes)
    sides = [
        weighted_rows(generator, size, count, binomial_law(size, p))
        for size, count in zip(sizes, counts, strict=True)
    ]
    (query, _), (retrieved, _) = sides
    rows, columns = len(query), len(retrieved)
    grid = np.concatenate(
        [np.repeat(query, columns, axis=0), np.tile(retrieved, (rows, 1))], axis=1
    )
    values = np.asarray(oracle(grid), np.float64).reshape(rows, columns)
    fits = [_Side(masks, weights, p, pairs) for masks, weights in sides]
    solution = _solve(values, *fits)
    basis = p, math.sqrt(p * (1 - p))
    coefficients = expanded(_flat(solution, n, n_query), n, 2, *basis)
    stats = {
        "v_empty": float(values[0, 0]),
        "v_grand": float(values[-1, -1]),
        "query_masks": rows,
        "retrieved_masks": columns,
        "underdetermined": any(side.underdetermined for side in fits),
    }
    draws = [distinct_by_size(masks) for masks, _ in sides]
    errors = None
    if all(draw.leaves_nothing_out for draw in draws):
        errors = tuple(np.zeros(part.shape) for part in coefficients)
    elif refits and rows > n_query + 1 and columns > n - n_query + 1:
        residual = values - _fitted(solution, *fits)
        residual = residual * fits[0].lift[:, None] * fits[1].lift
        keys = jax.random.split(problem.key)
        signs = [signs_of(draw, key, refits) for draw, key in zip(draws, keys, strict=True)]
        moved = []
        for a, b in zip(*signs, strict=True):
            by = (residual * a[:, None], residual * b, residual * a[:, None] * b)
            moved.append([_flat(_solve(part, *fits), n, n_query) for part in by])
        squares = [(x**2).mean(axis=0) for x in expanded(np.array(moved), n, 2, *basis)]
        # Of the clusters: rows and columns less what both count.
        errors = tuple(
            np.sqrt(np.maximum(q + r - both, np.maximum(q, r))) for q, r, both in squares
        )
    return Answer(coefficients, errors, stats)


def grid_of(budget: int, n_query: int, n_retrieved: int) -> tuple[int, int]:
    """How many masks of each item: as their players, one more each, and within the budget."""
    share = math.sqrt(budget * (n_query + 1) / (n_retrieved + 1))
    rows = min(max(2, round(share)), 1 << n_query, budget // 2)
    columns = min(budget // rows, 1 << n_retrieved)
    return min(budget // columns, 1 << n_query), columns


class _Side:
    """The regressions on the masks of one item.

    Attributes:
        linear: 1 and the players, float64 [masks, n+1].
        whole: the same and the pairs.
        by_linear: values [masks] to coefficients, float64 [n+1, masks].
        by_whole: likewise; None for pairs across alone.
        weights: float64 [masks], they sum to one.
        lift: one over one less the leverage in the linear fit, float64 [masks].
        underdetermined: whether there are fewer masks than coefficients.
    """

    def __init__(self, masks: np.ndarray, weights: np.ndarray, p: float, pairs: str) -> None:
        rows, n = masks.shape
        count = 1 + n + math.comb(n, 2)
        require_memory(8 * 6 * rows * count, f"the design of {rows} masks", "lower the budget")
        y = (masks - p) / math.sqrt(p * (1 - p))
        upper = np.triu_indices(n, 1)
        self.weights = weights / weights.sum()
        root = np.sqrt(self.weights)
        self.linear = np.concatenate([np.ones((rows, 1)), y], axis=1)
        self.whole = np.concatenate([self.linear, y[:, upper[0]] * y[:, upper[1]]], axis=1)
        self.by_linear = np.linalg.pinv(root[:, None] * self.linear) * root
        self.by_whole = None
        if pairs == "all":
            self.by_whole = np.linalg.pinv(root[:, None] * self.whole) * root
        own = (self.linear * self.by_linear.T).sum(axis=1)
        self.lift = 1 / (1 - np.clip(own, 0, MOST_LEVERAGE))
        self.underdetermined = rows < (count if pairs == "all" else n + 1)

    def added(self, means: np.ndarray) -> np.ndarray:
        """What the pairs of this item add, to values that are means over the other, [n+1+pairs]."""
        if self.by_whole is None:
            return np.zeros(self.whole.shape[1])
        found = self.by_whole @ means
        found[: len(self.by_linear)] -= self.by_linear @ means
        return found


Solution = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Across [n_query+1, n_retrieved+1], and what each item adds by its pairs."""


def _solve(values: np.ndarray, query: _Side, retrieved: _Side) -> Solution:
    across = query.by_linear @ values @ retrieved.by_linear.T
    return (
        across,
        query.added(values @ retrieved.weights),
        retrieved.added(query.weights @ values),
    )


def _fitted(solution: Solution, query: _Side, retrieved: _Side) -> np.ndarray:
    across, own, other = solution
    found = query.linear @ across @ retrieved.linear.T
    return found + (query.whole @ own)[:, None] + retrieved.whole @ other


def _flat(solution: Solution, n: int, n_query: int) -> np.ndarray:
    """Coefficients of products of y, by size, float64 [1 + n + C(n, 2)]."""
    across, own, other = solution
    singles = np.concatenate([across[1:, 0] + own[1 : n_query + 1], across[0, 1:]])
    singles[n_query:] += other[1 : n - n_query + 1]
    matrix = np.zeros((n, n))
    matrix[:n_query, n_query:] = across[1:, 1:]
    for part, start, size in ((own, 0, n_query), (other, n_query, n - n_query)):
        rows, columns = np.triu_indices(size, 1)
        matrix[rows + start, columns + start] = part[size + 1 :]
    empty = across[0, 0] + own[0] + other[0]
    return np.concatenate([[empty], singles, matrix[np.triu_indices(n, 1)]])
