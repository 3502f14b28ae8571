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

MOST_ORDERS = 50
"""Orders drawn at most, in units of those that share nothing: near 2**n evaluations hardly any
order brings anything new, and the budget would never be spent."""


def permutation(problem: Problem, oracle: Oracle) -> Answer:
    r"""Permutation sampling of STII of any order, and of SV; unbiased.

    The coefficient of S, |S| = k, is the mean over orders of arrival of the derivative of v with
    respect to S at those who came before all of S; below the order the dividends are computed.
    All C(n, k) derivatives of one order share their coalitions: beside those of sizes below k and
    the grand one, an order costs at most C(n, k) - 1 evaluations, and nothing for what another
    order had. Orders are drawn until one does not fit into the budget, which is left out.

    It is unbiased although chance decides how many there are: given the one left out and the set
    of those before it, they may have come in any order, since what they cost together does not
    depend on it; so the first of them, whose derivatives are unbiased, has their mean as its
    conditional expectation.

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
    members = members_of_size(n, k)
    entries = len(members) * 2**k * n
    require_memory(2 * entries, f"one permutation of {n} players", "ask for a lower order")
    constrained = constrained_masks(n, k)
    values = np.asarray(oracle(constrained), np.float64)
    lower = dividends_below(values, n, k)
    generator = generator_of(problem.key)
    total, squares = np.zeros(len(members)), np.zeros(len(members))
    orders, most = 0, MOST_ORDERS * max(1, oracle.left // max(each, 1))
    seen, fits = np.unique(_packed(constrained)), True
    while fits and orders < most:
        count = min(max(1, oracle.left // max(each, 1)), max(1, BLOCK_ENTRIES // entries))
        count = min(count, most - orders)
        arrival = generator.permuted(np.tile(np.arange(n), (count, 1)), axis=1)
        masks, signs = _corners(arrival, members)
        keys = _packed(masks.reshape(-1, n))
        everything, first = np.unique(np.concatenate([seen, keys]), return_index=True)
        new = first[first >= len(seen)] - len(seen)
        costs = np.bincount(new * count // len(keys), minlength=count)
        fitting = int(np.searchsorted(np.cumsum(costs), oracle.left, side="right"))
        fits, seen = fitting == count, everything
        worth = np.asarray(oracle(masks[:fitting].reshape(-1, n)), np.float64)
        derivatives = worth.reshape(fitting, len(members), len(signs)) @ signs
        total += derivatives.sum(axis=0)
        squares += (derivatives**2).sum(axis=0)
        orders += fitting
    mean = total / orders
    errors = None
    if orders > 1:
        variance = np.maximum(squares / orders - mean**2, 0) / (orders - 1)
        errors = (*(np.zeros(part.shape) for part in lower), np.sqrt(variance))
    stats = {"v_empty": float(values[0]), "v_grand": float(values[-1]), "permutations": orders}
    return Answer((*lower, mean), errors, stats)


def _packed(masks: np.ndarray) -> np.ndarray:
    """A sortable key for each coalition, [rows]."""
    packed = np.ascontiguousarray(np.packbits(masks, axis=1))
    return packed.view(np.dtype((np.void, packed.shape[1]))).ravel()


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
