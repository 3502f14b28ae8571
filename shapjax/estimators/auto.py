r"""The default estimator: a surrogate, what it leaves, and what held-out coalitions say of both.

A Gaussian process with a free function of the size predicts the game and has its index in closed
form. Cross-fitted estimates (``residual``) are unbiased whatever the game but scatter more. How
far to go from the one to the other is decided by how far apart they are, beyond the scatter: with
squared distance D and variance V, by the share :math:`1 - c V / D` where that is positive. So
nothing is added where the surrogate is right, and where it is wrong the share tends to one as the
budget grows, hence the estimate to the truth.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from shapjax.core.checks import one_of
from shapjax.core.errors import ShapjaxError
from shapjax.estimators.distinct import allocate, draw_distinct, generator_of
from shapjax.estimators.enumeration import enumerated
from shapjax.estimators.gaussian_process import index_and_refits
from shapjax.estimators.oracle import Oracle
from shapjax.estimators.protocol import Answer, Problem
from shapjax.estimators.residual import COMMON, Corrected, correct, halves
from shapjax.estimators.size_strata import size_law_of
from shapjax.indices.weights import weight_table
from shapjax.indices.worths import worth_weights

CORRECTIONS = ("held-out", "always", "never")

ENDS = 0.6
"""Largest share of the budget for the sizes at the ends that matter most."""

DENSE = 2.0
"""How much a coalition of such a size matters at least, in units of the mean over coalitions."""

SPREAD = 0.5
"""Half of the others are drawn by this power of how many coalitions a size has, half by law."""

CAUTION = 2.0
"""Variances that the squared distance must exceed before the surrogate is corrected."""

FEWEST = 8
"""Coalitions beyond the sizes taken whole from which halves are made."""


def auto(
    problem: Problem,
    oracle: Oracle,
    *,
    correction: Literal["held-out", "always", "never"] = "held-out",
) -> Answer:
    """Any cardinal index of any order: exact, by a surrogate, corrected as far as that helps.

    From 2**n evaluations on the result is exact. Else the budget is spent on distinct coalitions,
    the sizes that matter most whole, and a Gaussian process is fitted to them. ``correction``
    says what is done about what it leaves: ``"held-out"`` corrects it as far as coalitions held
    out show that it errs, ``"always"`` returns the cross-fitted estimates, which are unbiased once
    every size has been drawn from, ``"never"`` the surrogate's.

    ``stats`` holds ``v_empty``, ``v_grand``, ``surrogate`` (what the process reports),
    ``whole_sizes``, ``correction`` (share of it by size), ``explained`` (share of the scatter
    within sizes that the surrogate predicts where it was not fitted; None if not tried), and
    ``decision``, a sentence.

    Raises:
        ShapjaxError: the budget does not hold the empty and the grand coalition, or
            ``correction`` is none of these.
        MemoryRefused: the kernel matrix does not fit into memory.

    Cost: O(budget**3).
    """
    one_of(correction, CORRECTIONS, "correction")
    n, index, order = problem.n, problem.index, problem.order
    if oracle.left >= 1 << n:
        answer = enumerated(problem, oracle)
        return answer._replace(stats={**answer.stats, "decision": "exact: all coalitions"})
    if oracle.left < 2:
        raise ShapjaxError(
            f"budget is {oracle.left}, but auto starts with the empty and the grand coalition; "
            "give at least 2."
        )
    weights = worth_weights(weight_table(index, order, n), index.form)
    generator = generator_of(problem.key)
    masks, units = draw_design(weights, oracle.left, generator)
    counts = np.bincount(masks.sum(axis=1), minlength=n + 1)
    values = np.asarray(oracle(masks), np.float64)
    groups = halves(masks, units, generator)
    found, refit = index_and_refits(masks, values, index, order, groups)
    assert found.standard_errors is not None
    parts = [np.asarray(part) for part in found.coefficients]
    errors = [np.asarray(part) for part in found.standard_errors]
    whole = [t for t in range(n + 1) if counts[t] == math.comb(n, t)]
    shares, explained = [0.0] * (order + 1), None
    if correction != "never" and np.count_nonzero(groups != COMMON) >= FEWEST:
        corrected = correct(masks, values, units, groups, weights, refit)
        explained = corrected.explained
        parts, errors, shares = _combine(parts, errors, corrected, correction)
    stats = {
        "v_empty": float(values[0]),
        "v_grand": float(values[-1]),
        "surrogate": {k: found.stats[k] for k in ("rate", "share", "growth", "shrinkage")},
        "whole_sizes": len(whole),
        "correction": shares,
        "explained": explained,
        "decision": _decision(shares[-1], explained, found.stats["shrinkage"][-1]),
    }
    return Answer(tuple(parts), tuple(errors), stats)


def draw_design(
    weights: np.ndarray, budget: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Distinct coalitions, uniform within their size, and which of them were drawn together.

    Where the index is odd (a coalition counts as its complement does, with the other sign, as in
    the Shapley and the Banzhaf value), the even part of a game is of no account, and coalitions
    come with their complements, which cancels it.

    Args:
        weights: of the worths in the index, from ``worth_weights``.
        budget: at least 2.
        generator: source of chance.

    Returns:
        Boolean [M, n], the empty coalition first and the grand one last, and int [M].
    """
    n = weights.shape[1] - 1
    counts = counts_by_size(weights, budget, generator)
    if not is_odd(weights):
        masks = draw_distinct(counts, generator)
        return masks, np.arange(len(masks))
    lower = np.zeros(n + 1, np.int64)
    for t in range((n + 1) // 2):
        lower[t] = min((counts[t] + counts[n - t]) // 2, math.comb(n, t))
    parts = [draw_distinct(lower, generator)]
    if n % 2 == 0:
        # Each pair of the middle size has one member without the last player.
        middle = np.zeros(n, np.int64)
        middle[n // 2] = counts[n // 2] // 2
        without = draw_distinct(middle, generator)
        parts.append(np.pad(without, ((0, 0), (0, 1))))
    half = np.concatenate(parts)
    units = np.arange(len(half))
    return np.concatenate([half, ~half[::-1]]), np.concatenate([units, units[::-1]])


def is_odd(weights: np.ndarray) -> bool:
    """Whether a coalition's weight in the value of a player is minus that of its complement."""
    order, n = len(weights) - 1, weights.shape[1] - 1
    if order != 1:
        return False
    pairs = [(t, a) for t in range(n + 1) for a in range(2) if a <= t <= n - 1 + a]
    return all(abs(weights[1, t, a] + weights[1, n - t, 1 - a]) < 1e-12 for t, a in pairs)


def counts_by_size(weights: np.ndarray, budget: int, generator: np.random.Generator) -> np.ndarray:
    r"""How many coalitions of each size to draw, int64 [n+1], no more than there are.

    The empty and the grand coalition; then sizes up to the order and n-1, those that matter most
    first, as ``size_law_of`` ranks a coalition of them, for at most a share of the budget; then
    the others, half by that law, half by a power of how many coalitions they have. A surrogate
    that varies smoothly from coalition to coalition is known where the ends are known and the
    middle is covered.

    Args:
        weights: of the worths in the index, from ``worth_weights``.
        budget: at least 2.
        generator: rounds the counts.
    """
    order, n = len(weights) - 1, weights.shape[1] - 1
    number = [math.comb(n, t) for t in range(n + 1)]
    counts = np.zeros(n + 1, np.int64)
    counts[[0, n]] = 1
    law = size_law_of(weights, n)
    mean = law[1:n].sum() / max(sum(number[1:n]), 1)
    density = {t: law[t] / number[t] for t in {*range(1, min(order, n - 1) + 1), n - 1} - {0}}
    left = budget - int(counts.sum())
    spend = int(ENDS * left)
    for t in sorted(density, key=lambda t: -density[t]):
        if density[t] > DENSE * mean:
            counts[t] = min(number[t], spend)
            spend -= int(counts[t])
    left = budget - int(counts.sum())
    ends = [0, n, *np.flatnonzero(counts)]
    most = max(number)
    cover = np.array([(x / most) ** SPREAD for x in number])
    rest = law.copy()
    cover[ends] = rest[ends] = 0
    rest = np.sum([x / x.sum() for x in (cover, rest) if x.any()] or [rest], axis=0)
    free = [0 if t in ends else x for t, x in enumerate(number)]
    if rest.any():
        least = 2 if left >= 40 * n else 0
        counts += allocate(rest, left, generator, least=least, number=free).counts
    # What the others could not take goes to the ends that are not whole.
    left = budget - int(counts.sum())
    for t in range(n + 1):
        more = min(number[t] - int(counts[t]), left)
        counts[t] += more
        left -= more
    return counts


def _combine(
    parts: list[np.ndarray], errors: list[np.ndarray], corrected: Corrected, correction: str
) -> tuple[list[np.ndarray], list[np.ndarray], list[float]]:
    """From the surrogate's estimates towards the corrected ones, as far as these differ.

    What the correction adds in scatter is taken off again towards the mean, which keeps the sum.
    """
    if correction == "always":
        spread = [np.sqrt(v) for v in corrected.variances]
        return list(corrected.estimates), spread, [1.0] * len(parts)
    out, deviations, shares = [], [], []
    for own, error, other, variance in zip(
        parts, errors, corrected.estimates, corrected.variances, strict=True
    ):
        distance, scatter = float(((other - own) ** 2).sum()), float(variance.sum())
        share = 0.0
        if corrected.complete and scatter > 0 and distance > 0:
            share = max(0.0, 1 - CAUTION * scatter / distance)
        mixed = own + share * (other - own)
        bias = max(distance - scatter, 0) / len(own) if share else 0.0
        square = (1 - share) ** 2 * np.maximum(error**2, bias) + share**2 * variance
        deviation = mixed - mixed.mean()
        if share and len(own) > 3:
            signal = float((deviation**2).sum())
            kept = max(0.0, 1 - share**2 * scatter / signal) if signal else 1.0
            mixed = mixed.mean() + kept * deviation
        out.append(mixed)
        deviations.append(np.sqrt(square))
        shares.append(share)
    return out, deviations, shares


def _decision(share: float, explained: float | None, shrinkage: float) -> str:
    """What was done about the top order, and why."""
    if explained is None:
        text = "surrogate, not corrected"
    elif share > 0:
        text = f"surrogate, corrected by {share:.0%} of what it leaves on coalitions held out"
    else:
        text = "surrogate: on coalitions held out it leaves nothing that exceeds the scatter"
    if explained is not None:
        text += f"; it predicts {explained:.0%} of their scatter within sizes"
    if shrinkage < 1:
        text += f"; shrunk to {shrinkage:.0%} towards the mean"
    return text
