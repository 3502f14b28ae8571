"""Games whose exact indices are at hand, and statistical tests of estimates against them."""

import functools

import jax
import numpy as np
from scipy import stats

import shapjax as sj
from shapjax.coalitions.enumerate import all_masks

ERROR_RATE = 1e-6
"""How often a statistical test fails an estimator that is what it says."""


def game_of(values):
    """The value function of a table, [2**n]."""
    ranks = 1 << np.arange(len(values).bit_length() - 1)
    return lambda masks: values[np.asarray(masks) @ ranks]


def table_game(n, seed=0):
    """A worth drawn from the normal distribution for every coalition: (table, value function)."""
    values = np.random.default_rng(seed).normal(size=2**n)
    return values, game_of(values)


def smooth_game(n, seed=0):
    """A small ReLU network in NumPy, what estimators are for: (table, value function)."""
    rng = np.random.default_rng(seed)
    first, second, last = rng.normal(size=(n, 20)), rng.normal(size=(20, 20)), rng.normal(size=20)

    def value(masks):
        hidden = np.maximum(np.asarray(masks) @ first, 0) @ second / 20
        return np.maximum(hidden, 0) @ last

    return value(np.asarray(all_masks(n))), value


@functools.cache
def _exact(values, index, order, p):
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, sj.interactions(np.array(values), index, order, p=p))


def exact(values, index, order, p=None):
    """The index of a table, in float64 NumPy arrays."""
    return _exact(tuple(values), index, order, p)


def estimates(game, n, index, order, budget, method, repetitions, **options):
    """Estimates with the seeds 0, 1, ..."""
    return [
        sj.estimate(game, n, index, order, budget, method, key=seed, **options)
        for seed in range(repetitions)
    ]


def assert_unbiased(found, truth):
    """Student's test of the mean of every coefficient that varies, Bonferroni's correction."""
    flat = np.array([np.concatenate(x.coefficients) for x in found])
    truth = np.concatenate(truth.coefficients)
    known = flat.std(axis=0) < 1e-9
    np.testing.assert_allclose(flat[0, known], truth[known], atol=1e-9)
    assert not known.all()
    wrong = (flat - truth)[:, ~known]
    t = wrong.mean(axis=0) / wrong.std(axis=0, ddof=1) * len(found) ** 0.5
    assert np.abs(t).max() < stats.t.isf(ERROR_RATE / 2 / t.size, len(found) - 1)


def assert_covered(found, truth, least=0.9):
    """That 95% intervals hold the truth in a share ``least`` of cases: Student's one-sided test.

    What an estimate says is one number, the share of its coefficients whose interval of 1.96
    standard errors holds the truth; those known exactly are left out, and must be right.
    """
    shares = []
    for x in found:
        pairs = zip(x.coefficients, x.standard_errors, truth.coefficients, strict=True)
        wrong, error = (
            np.concatenate(y) for y in zip(*((a - t, e) for a, e, t in pairs), strict=True)
        )
        scale = np.abs(np.concatenate(truth.coefficients)).max()
        chance = error > 1e-9 * scale
        np.testing.assert_allclose(wrong[~chance], 0, atol=1e-6 * scale)
        shares.append(np.mean(np.abs(wrong[chance]) < 1.96 * error[chance]))
    mean, spread = np.mean(shares), np.std(shares, ddof=1) / len(shares) ** 0.5
    assert mean > least - spread * stats.t.isf(ERROR_RATE, len(shares) - 1), mean
    return mean
