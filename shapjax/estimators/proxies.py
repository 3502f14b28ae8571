r"""Estimates through a cheap game: its exact index, and an unbiased estimate of what it misses.

The coalitions drawn are dealt into folds. For each fold a surrogate is fitted to the others, and
:math:`I(v) = I(f) + I(v - f)`, the second from the sum over coalitions of SHAP-IQ: of a size with
:math:`N_t` coalitions of which a were fitted to and b held out, the a count as they are and the b
stand for the :math:`N_t - a` others, among which they are drawn uniformly whatever f is. So each
fold's estimate is unbiased, and so is their mean. In a fold that holds out nothing of a size
nothing of that size is fitted to, and all of it stands for the size.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

from shapjax.core.checks import whole_number
from shapjax.estimators.distinct import generator_of
from shapjax.estimators.oracle import Oracle
from shapjax.estimators.protocol import Answer, Problem
from shapjax.estimators.size_strata import Strata, draw_strata, overlap_sums, spread_of_sums
from shapjax.estimators.surrogates import Surrogate, boosted_trees, index_of_surrogate, polynomial
from shapjax.indices.weights import weight_table
from shapjax.indices.worths import worth_weights

FOLDS = 5

Fitter = Callable[[np.ndarray, np.ndarray, np.ndarray], Surrogate]
"""(masks [rows, n], values [rows], which rows to fit to) to a surrogate."""


def regression_msr(problem: Problem, oracle: Oracle, *, degree: int | None = None) -> Answer:
    """Regression MSR: a polynomial corrected by the sums of SHAP-IQ, for every index; unbiased.

    Standard errors are as for SHAP-IQ, of what the surrogates miss.

    Args:
        problem: what to estimate.
        oracle: where to ask.
        degree: of the polynomial, 1 or 2; None takes 2 where a fit has two rows for each unknown.

    Source: Witter, Liu & Musco 2025, section 3. Deviations: any cardinal index of any order,
    coalitions without repetition as in SHAP-IQ, and those fitted to count exactly.
    """
    n = problem.n
    if degree is not None:
        degree = whole_number(degree, "degree", low=1, high=2)
    unknowns = 1 + n + math.comb(n, 2)
    rows = min(oracle.left, 1 << n) * (FOLDS - 1) // FOLDS
    chosen = degree or (2 if rows >= 2 * unknowns else 1)
    fit = functools.partial(polynomial, degree=min(chosen, n))
    return _corrected("regression-msr", problem, oracle, fit, {"degree": chosen})


def proxyshap(problem: Problem, oracle: Oracle, *, trees: int = 200, depth: int = 3) -> Answer:
    """ProxySHAP: boosted trees corrected by the sums of SHAP-IQ, for every index; unbiased.

    Standard errors are as for SHAP-IQ, of what the surrogates miss.

    Args:
        problem: what to estimate.
        oracle: where to ask.
        trees: how many trees a surrogate has.
        depth: how many players a tree asks, at most 8.

    Source: Butler et al. 2025 (ProxySPEX: boosted trees as a proxy whose interactions are read
    off); Witter, Liu & Musco 2025, section 3 (the correction, across folds).
    """
    trees = whole_number(trees, "trees", low=1)
    depth = whole_number(depth, "depth", low=1, high=8)
    fit = functools.partial(boosted_trees, trees=trees, depth=depth)
    return _corrected("proxyshap", problem, oracle, fit, {"trees": trees, "depth": depth})


def _corrected(
    method: str, problem: Problem, oracle: Oracle, fit: Fitter, said: dict[str, int]
) -> Answer:
    n, order = problem.n, problem.order
    weights = worth_weights(weight_table(problem.index, order, n), problem.index.form)
    strata = draw_strata(method, problem, oracle, weights)
    counts, whole = strata.allocation.counts, strata.allocation.whole
    sizes = np.repeat(np.arange(n + 1), counts)
    masks, values = np.concatenate(strata.masks) > 0, np.concatenate(strata.values)
    folds = 1 if whole.all() else FOLDS
    fold = _deal(counts, whole, folds, problem)
    estimates = [np.zeros(math.comb(n, s)) for s in range(order + 1)]
    missed, share = np.zeros(len(values)), np.zeros(len(values))
    for k in range(folds):
        held, stands_for = _held_out(fold == k, sizes, strata)
        surrogate = fit(masks, values, ~held)
        residual = values - surrogate.fitted
        missed += np.where(held, stands_for * residual, 0)
        share += np.where(held, stands_for, 0)
        added = index_of_surrogate(surrogate, weights, order)
        for t, rows in enumerate(np.split(stands_for * residual, np.cumsum(counts)[:-1])):
            if len(rows):
                sums = overlap_sums(strata.masks[t], rows, _tables(weights, t))
                added = [a + b for a, b in zip(added, sums, strict=True)]
        estimates = [a + b / folds for a, b in zip(estimates, added, strict=True)]
    missed = np.split(missed / np.where(share > 0, share, 1), np.cumsum(counts)[:-1])
    errors = spread_of_sums(strata, missed, weights, order)
    left = np.concatenate(missed)
    stats = {
        **strata.stats(),
        **said,
        "unexplained": float(left.var() / values.var()) if values.var() > 0 else 0.0,
    }
    return Answer(tuple(estimates), errors, stats)


def _deal(counts: np.ndarray, whole: np.ndarray, folds: int, problem: Problem) -> np.ndarray:
    """The fold of every row, int [rows]; -1 where a size is taken whole."""
    generator = generator_of(problem.key).spawn(1)[0]
    dealt = [
        np.full(m, -1)
        if whole[t]
        else (generator.permutation(m) + generator.integers(folds)) % folds
        for t, m in enumerate(counts)
    ]
    return np.concatenate(dealt)


def _held_out(
    in_fold: np.ndarray, sizes: np.ndarray, strata: Strata
) -> tuple[np.ndarray, np.ndarray]:
    """Which rows are held out, Boolean [rows], and how many coalitions each row stands for."""
    counts, expected, whole = strata.allocation
    n = len(counts) - 1
    some = np.bincount(sizes[in_fold], minlength=n + 1) > 0
    held = in_fold | (~some & ~whole)[sizes]
    b = np.bincount(sizes[held], minlength=n + 1)
    number = np.array([float(math.comb(n, t)) for t in range(n + 1)])
    each = (number - (counts - b)) / np.maximum(b, 1)
    # A size that may be missing is weighed by its chance, not by its count.
    rare = ~whole & (expected < 1) & (expected > 0)
    each[rare] = number[rare] / expected[rare]
    return held, np.where(held, each[sizes], 1.0)


def _tables(weights: np.ndarray, t: int) -> list[list[float]]:
    return [[float(g) for g in weights[s][t, : s + 1]] for s in range(len(weights))]
