"""Shapley-Taylor and Shapley values from random orders of arrival."""

from __future__ import annotations

import itertools
import math

import numpy as np

from shapjax.coalitions.enumerate import members_of_size
from shapjax.core.errors import ShapjaxError
from shapjax.core.memory import require_memory
from shapjax.estimators.distinct import generator_of
from shapjax.estimators.enumeration import enumerated
from shapjax.estimators.oracle import Oracle
from shapjax.estimators.protocol import Answer, Problem
from shapjax.estimators.sampling import constrained_masks, count_constrained
from shapjax.estimators.subsets import dividends_below

BLOCK_ENTRIES = 1 << 26
"""Entries of the masks that exist at the same time."""


def permutation(problem: Problem, oracle: Oracle) -> Answer:
    r"""Permutation sampling of STII of any order, and of SV; unbiased.

    The coefficient of S, |S| = k, is the mean over orders of arrival of the derivative of v with
    respect to S at those who came before all of S; below the order the dividends are computed.
    All C(n, k) derivatives of one order share their coalitions: beside those of sizes below k and
    the grand one, an order costs C(n, k) - 1 evaluations. As many whole orders are drawn as the
    budget holds if no two of them share more; what they do share is left of the budget.

    Standard errors are those of the mean over orders, None for a single order.

    Source: Sundararajan, Dhamdhere & Agarwal 2020, section 4 (Shapley-Taylor); Castro, Gomez &
    Tejada 2009 (SV). Deviation: one order serves all coalitions at once, not one each.
    """
    n, k = problem.n, problem.order
    problem.require_index("permutation", "STII", "SV")
    if oracle.left >= 1 << n:
        return enumerated(problem, oracle)
    known, each = count_constrained(n, k), math.comb(n, k) - 1
    if oracle.left < known + each:
        raise ShapjaxError(
            f"budget is {oracle.left}, but one permutation of {n} players at order {k} takes "
            f"{known + each} evaluations; give at least as many."
        )
    orders = (oracle.left - known) // each
    members = members_of_size(n, k)
    entries = len(members) * 2**k * n
    require_memory(2 * entries, f"one permutation of {n} players", "ask for a lower order")
    values = np.asarray(oracle(constrained_masks(n, k)), np.float64)
    lower = dividends_below(values, n, k)
    generator = generator_of(problem.key)
    total, squares = np.zeros(len(members)), np.zeros(len(members))
    block = max(1, BLOCK_ENTRIES // entries)
    for start in range(0, orders, block):
        count = min(block, orders - start)
        arrival = generator.permuted(np.tile(np.arange(n), (count, 1)), axis=1)
        masks, signs = _corners(arrival, members)
        worth = np.asarray(oracle(masks.reshape(-1, n)), np.float64)
        derivatives = worth.reshape(count, len(members), -1) @ signs
        total += derivatives.sum(axis=0)
        squares += (derivatives**2).sum(axis=0)
    mean = total / orders
    errors = None
    if orders > 1:
        variance = np.maximum(squares / orders - mean**2, 0) / (orders - 1)
        errors = (*(np.zeros(part.shape) for part in lower), np.sqrt(variance))
    stats = {"v_empty": float(values[0]), "v_grand": float(values[-1]), "permutations": orders}
    return Answer((*lower, mean), errors, stats)


def _corners(arrival: np.ndarray, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Those before S, with every part of S added, and the part's sign in the derivative.

    Args:
        arrival: when each player arrives, int [count, n].
        members: players of each S, int [C, k].

    Returns:
        Boolean [count, C, 2**k, n] and float [2**k].
    """
    k, n = members.shape[1], arrival.shape[1]
    parts = np.array(list(itertools.product([False, True], repeat=k)))
    added = np.zeros((len(members), len(parts), n), bool)
    for place in range(k):
        added[np.arange(len(members)), :, members[:, place]] = parts[:, place]
    first = arrival[:, members].min(axis=2)
    before = arrival[:, None, :] < first[:, :, None]
    return before[:, :, None, :] | added, (-1.0) ** (k - parts.sum(axis=1))
