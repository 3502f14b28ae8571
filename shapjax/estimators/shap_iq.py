"""SHAP-IQ: every coalition drawn updates every interaction, by a sum that is unbiased."""

from __future__ import annotations

import math

import numpy as np

from shapjax.estimators.enumeration import enumerated
from shapjax.estimators.oracle import Oracle
from shapjax.estimators.protocol import Answer, Problem
from shapjax.estimators.size_strata import Strata, draw_strata, moments
from shapjax.estimators.subsets import parts_of_size
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
    variances = [np.zeros(math.comb(n, s)) for s in range(order + 1)]
    parts = {(s, m): parts_of_size(n, s, m) for s in range(order + 1) for m in range(s + 1)}
    estimates[0] += empty * float(sum(math.comb(n, t) * g for t, g in enumerate(weights[0][:, 0])))
    for t in np.flatnonzero(counts):
        v = strata.values[t] - empty
        sums = moments(strata.masks[t], np.stack([v, v**2]), order)
        count, number = int(counts[t]), math.comb(n, int(t))
        for s in range(order + 1):
            h = np.array([float(number * g) for g in weights[s][t, : s + 1]])
            first, second = (
                sum(
                    difference * sums[m][row][parts[s, m]].sum(axis=1)
                    for m, difference in enumerate(_differences(f))
                )
                for row, f in enumerate((h, h**2))
            )
            # A size that may be missing is weighed by its chance, not by its count.
            estimates[s] += first / (count if expected[t] >= 1 else expected[t])
            if not strata.allocation.whole[t] and count > 1:
                scatter = np.maximum(second - first**2 / count, 0) / (count - 1)
                variances[s] += (1 - count / number) * scatter / count
    errors = tuple(np.sqrt(x) for x in variances) if _variance_is_seen(strata) else None
    return Answer(tuple(estimates), errors, strata.stats())


def _differences(f: np.ndarray) -> list[float]:
    """Forward differences at zero: f(j) is their sum with binomials (j choose m)."""
    found = []
    while len(f):
        found.append(float(f[0]))
        f = np.diff(f)
    return found


def _variance_is_seen(strata: Strata) -> bool:
    _, expected, whole = strata.allocation
    return bool(np.all(whole | (expected >= 2) | (expected == 0)))
