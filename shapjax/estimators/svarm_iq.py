"""SVARM-IQ: the mean worth of coalitions, stratified by size and by what they share with S."""

from __future__ import annotations

import math

import numpy as np

from shapjax.estimators.enumeration import enumerated
from shapjax.estimators.oracle import Oracle
from shapjax.estimators.protocol import Answer, Problem
from shapjax.estimators.size_strata import draw_strata, moments, parts_by_pattern
from shapjax.indices.weights import weight_table
from shapjax.indices.worths import worth_weights


def svarm_iq(problem: Problem, oracle: Oracle) -> Answer:
    r"""SVARM-IQ, for every index weighted by sizes; consistent, biased where strata are empty.

    :math:`I(S) = \sum_t \sum_{W \subseteq S} \binom{n-s}{t-|W|} g_s(t, |W|)\, \bar v(S, W, t)`,
    the last being the mean worth of the coalitions T of size t with :math:`T \cap S = W`
    (``worth_weights`` has g). Every coalition drawn counts in one stratum of every S. A stratum
    that none fell into has the mean of its size, a size that none fell into what lies between
    its neighbours'; but for these the estimate is unbiased. ``stats["empty_strata"]`` is the share
    of the strata that count, over all S, into which none fell: 0 says unbiased.

    Standard errors are those of sampling within strata without replacement, a stratum with less
    than two coalitions being lent the scatter of its size; None where a size that counts has
    less than two.

    Source: Kolpaczki, Muschalik, Fumagalli, Hammer & Hüllermeier 2024, section 4. Deviations:
    coalitions are drawn without replacement, sizes that would be covered are taken whole, the
    shares of the others minimise the variance under equal scatter, and there is no warm-up.
    """
    n, order = problem.n, problem.order
    if oracle.left >= 1 << n:
        return enumerated(problem, oracle)
    weights = worth_weights(weight_table(problem.index, order, n), problem.index.form)
    strata = draw_strata("svarm-iq", problem, oracle, weights)
    counts, _, whole = strata.allocation
    present = np.flatnonzero(counts)
    means = np.interp(np.arange(n + 1), present, [strata.values[t].mean() for t in present])
    estimates = [np.zeros(math.comb(n, s)) for s in range(order + 1)]
    variances = [np.zeros(math.comb(n, s)) for s in range(order + 1)]
    patterns = [parts_by_pattern(n, s) for s in range(order + 1)]
    seen, empty, counting = True, 0, 0
    for t in range(n + 1):
        h = [
            [float(math.comb(n - s, t - j) * weights[s][t, j]) for j in range(min(s, t) + 1)]
            for s in range(order + 1)
        ]
        counted = any(any(row) for row in h)
        seen = seen and (bool(whole[t]) or counts[t] > 1 or not counted)
        for s, row in enumerate(h):
            estimates[s] += means[t] * sum(math.comb(s, j) * x for j, x in enumerate(row))
            strata_of_size = sum(math.comb(s, j) for j, x in enumerate(row) if x)
            counting += math.comb(n, s) * strata_of_size
            empty += 0 if counts[t] else math.comb(n, s) * strata_of_size
        if not counts[t] or not counted:
            continue
        v = strata.values[t] - means[t]
        scatter = (v**2).sum() / max(len(v) - 1, 1)
        sums = moments(strata.masks[t], np.stack([np.ones_like(v), v, v**2]), order)
        for s, row in enumerate(h):
            for pattern, (number, first, second) in enumerate(_by_stratum(sums, patterns[s])):
                j = patterns[s][pattern][0]
                if j >= len(row) or not row[j]:
                    continue
                empty += int((number == 0).sum())
                filled = np.maximum(number, 1)
                mean = first / filled
                estimates[s] += row[j] * mean
                if not whole[t]:
                    own = np.maximum(second - filled * mean**2, 0) / np.maximum(number - 1, 1)
                    spread = np.where(number > 1, own, scatter)
                    left = 1 - number / float(math.comb(n - s, t - j))
                    variances[s] += row[j] ** 2 * left * spread / filled
    errors = tuple(np.sqrt(x) for x in variances) if seen else None
    stats = {**strata.stats(), "empty_strata": empty / max(counting, 1)}
    return Answer(tuple(estimates), errors, stats)


def _by_stratum(sums: list[np.ndarray], patterns: list[tuple[int, np.ndarray]]) -> np.ndarray:
    """Sums over the coalitions that share exactly a part with S, float64 [2**s, W, C(n, s)].

    The moments sum over those that share at least the part.
    """
    strata = np.stack([sums[size][:, position] for size, position in patterns])
    for place in range(len(patterns).bit_length() - 1):
        without = [p for p in range(len(patterns)) if not p >> place & 1]
        strata[without] -= strata[[p | 1 << place for p in without]]
    return strata
