"""SHAP-IQ: every coalition drawn updates every interaction, by a sum that is unbiased."""

from __future__ import annotations

import math

import numpy as np

from shapjax.estimators.enumeration import enumerated
from shapjax.estimators.oracle import Oracle
from shapjax.estimators.protocol import Answer, Problem
from shapjax.estimators.size_strata import draw_strata, overlap_sums, spread_of_sums
from shapjax.indices.weights import weight_table
from shapjax.indices.worths import worth_weights


def shap_iq(problem: Problem, oracle: Oracle) -> Answer:
    r"""SHAP-IQ, for every index weighted by sizes; unbiased.

    :math:`I(S) = \sum_T g_{|S|}(|T|, |T \cap S|)\, (v(T) - v(\emptyset))` is estimated by a sum
    over the coalitions drawn, each divided by the probability of its being drawn
    (``worth_weights`` has g; the empty S also gets the index of a constant game).

    Standard errors are those of sampling within sizes without replacement, None where the budget
    does not hold two coalitions of every size that counts.

    Source: Fumagalli, Muschalik, Kolpaczki, Hüllermeier & Hammer 2023, theorem 4.1 and
    definition 4.2. Deviations: coalitions are drawn without replacement, sizes that would be
    covered are taken whole and the shares of the others minimise the variance of the index under
    equal scatter.
    """
    n, order = problem.n, problem.order
    if oracle.left >= 1 << n:
        return enumerated(problem, oracle)
    weights = worth_weights(weight_table(problem.index, order, n), problem.index.form)
    strata = draw_strata("shap-iq", problem, oracle, weights)
    counts, expected = strata.allocation.counts, strata.allocation.expected
    empty = strata.values[0][0]
    estimates = [np.zeros(math.comb(n, s)) for s in range(order + 1)]
    estimates[0] += empty * float(sum(math.comb(n, t) * g for t, g in enumerate(weights[0][:, 0])))
    contrast = [v - empty for v in strata.values]
    for t in np.flatnonzero(counts):
        number = math.comb(n, int(t))
        # A size that may be missing is weighed by its chance, not by its count.
        share = counts[t] if expected[t] >= 1 else expected[t]
        h = [[float(number * g) for g in weights[s][t, : s + 1]] for s in range(order + 1)]
        sums = overlap_sums(strata.masks[t], contrast[t] / share, h)
        estimates = [a + b for a, b in zip(estimates, sums, strict=True)]
    errors = spread_of_sums(strata, contrast, weights, order)
    return Answer(tuple(estimates), errors, strata.stats())
