r"""Interaction indices read off a Gaussian process fitted to the coalitions evaluated.

The model is :math:`v(S) = h(|S|) + e^{c |S|} g(S)`: a free function of the size, and a Gaussian
process g with covariance :math:`\tau^2 e^{-\lambda |S \triangle T|}` whose spread may grow or
shrink with the size. Any cardinal index of its posterior mean has a closed form
(``product_kernel``), so that no table of 2**n is ever made. Since no coalition is evaluated twice
and the posterior mean passes through every value, the estimate becomes exact as the budget
reaches 2**n, whatever the game.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve, solve_triangular

from shapjax.coalitions.enumerate import members_of_size
from shapjax.core.checks import whole_number
from shapjax.core.interactions import Interactions
from shapjax.core.memory import require_memory
from shapjax.core.precision import precision_scope
from shapjax.estimators.distinct import distinct_coalitions
from shapjax.estimators.oracle import Oracle
from shapjax.estimators.product_kernel import (
    MOST_PLAYERS,
    derivative_weights,
    index_tables,
    kernel_matrix,
    read_index,
    size_index,
)
from shapjax.estimators.protocol import Answer, Problem
from shapjax.estimators.shrinkage import held_out_factor, shrink
from shapjax.estimators.truncated_process import (
    count_columns,
    fit_truncated,
    read_truncated,
    truncated_errors,
)
from shapjax.indices.cardinal import CardinalIndex
from shapjax.indices.weights import index_and_order

Array = jax.Array

RATES = (0.3, 0.75, 1.5, 3.0, 6.0, 12.0)
"""The kernel's lambda times the number of players: what is tried."""

NUGGET = 1e-7
"""Variance of what the process cannot see, beside its own: keeps the Cholesky factor sound."""

GROWTHS = (0.0, -2.0, -1.0, 1.0)
"""The growth c of the log spread by size, times the number of players: what is tried."""

SELECTION_ROWS, TRUNCATED_SELECTION_ROWS = 600, 1500
"""Most rows by whose likelihood lambda and the growth are chosen."""

DENSE_ROWS, DENSE_PLAYERS = 5000, 20
"""Up to so many coalitions, or players, the whole kernel matrix is factored."""

MOST_COLUMNS = 6000
"""Columns up to which a truncated spectrum keeps further orders."""


def gaussian_process(problem: Problem, oracle: Oracle) -> Answer:
    """Any cardinal index, read off the posterior mean of a Gaussian process on coalitions.

    Coalitions are distinct; standard errors are the posterior's. ``stats`` holds ``v_empty``,
    ``v_grand``, the kernel's ``rate``, the ``growth`` of the spread by size, and the
    ``shrinkage`` of each size towards its mean (1 is none).

    Raises:
        ShapjaxError: the budget is below the sizes taken whole, or there are over 1000 players.
        MemoryRefused: the kernel matrix does not fit into memory.

    Cost: O(budget**3).
    """
    n = whole_number(problem.n, "n_players", low=1, high=MOST_PLAYERS)
    budget = min(oracle.left, 1 << n)
    _require(budget, n)
    masks = distinct_coalitions(problem.key, n, problem.order, budget)
    values = np.asarray(oracle(masks), np.float64)
    found = index_of_values(masks, values, problem.index, problem.order)
    stats = {key: value for key, value in found.stats.items() if key != "evaluations"}
    return Answer(found.coefficients, found.standard_errors, stats)


def index_of_values(
    masks: np.ndarray, values: np.ndarray, index: CardinalIndex, order: int
) -> Interactions:
    """The estimate from coalitions already evaluated.

    Args:
        masks: distinct coalitions, Boolean [M, n]; the empty and the grand one among them.
        values: their worth, float64 [M].
        index: any cardinal index.
        order: its order.

    Returns:
        Interactions in float64 NumPy arrays, with the posterior's standard errors.
    """
    with precision_scope(np.float64):
        fitted = _fit_and_read(masks, values, index, order)
    found, errors = fitted.coefficients, fitted.errors
    shrunk = [shrink(*pair) for pair in zip(found[:2], errors[:2], strict=True)]
    for s in range(2, order + 1):
        confirm = functools.partial(
            held_out_factor, masks, values, fitted.scale, estimate=_pairs_of
        )
        shrunk.append(shrink(found[s], errors[s], confirm if s == 2 else None))
    sizes = masks.sum(axis=1)
    stats = {
        "evaluations": len(masks),
        "v_empty": float(values[sizes == 0][0]),
        "v_grand": float(values[sizes == masks.shape[1]][0]),
        "rate": fitted.rate,
        "growth": float(np.log(fitted.scale[1])),
        "truncated": fitted.truncated,
        "shrinkage": [factor for _, factor in shrunk],
    }
    parts = tuple(part for part, _ in shrunk)
    return Interactions(parts, index.label, masks.shape[1], errors, stats)


class _Fitted(NamedTuple):
    coefficients: tuple[np.ndarray, ...]
    errors: tuple[np.ndarray, ...]
    scale: np.ndarray
    rate: float
    truncated: int | None


def _fit_and_read(
    masks: np.ndarray, values: np.ndarray, index: CardinalIndex, order: int
) -> _Fitted:
    n = masks.shape[1]
    kept = kept_order(len(masks), n, order)
    if kept is None:
        process = fit_process(masks, values[:, None])
        found = read_process(process, index, order)
        errors = posterior_errors(process, index, order)
        return _Fitted(found, errors, process.scale, process.rate, None)
    rate, growth = select(masks, values[:, None], TRUNCATED_SELECTION_ROWS)
    scale = np.exp(growth * np.arange(n + 1))
    process = fit_truncated(masks, values, rate, scale, kept, NUGGET)
    prior = prior_variances(index, order, n, rate, scale)
    errors = truncated_errors(process, index, order, prior)
    return _Fitted(read_truncated(process, index, order), errors, scale, rate, kept)


def kept_order(rows: int, n: int, order: int) -> int | None:
    """The order above which the spectrum is truncated; None for the whole kernel.

    The kernel matrix is used up to ``DENSE_ROWS`` coalitions and in games of few players, where
    most orders matter.
    """
    if rows <= DENSE_ROWS or n <= DENSE_PLAYERS:
        return None
    kept = order
    while kept < n and count_columns(n, kept + 1) <= MOST_COLUMNS:
        kept += 1
    return kept


def _pairs_of(masks: np.ndarray, values: np.ndarray) -> np.ndarray:
    with precision_scope(np.float64):
        index, order = index_and_order("STII", 2, masks.shape[1])
        return _fit_and_read(masks, values, index, order).coefficients[2]


class Process(NamedTuple):
    """A fitted Gaussian process.

    Attributes:
        z: masks as numbers, float64 [M, n].
        rate: the kernel's lambda.
        scale: e^(c s) by size, float64 [n+1].
        sizes: the function of the size, float64 [n+1, ...].
        beta: weights of the kernel functions, float64 [M, ...].
        factor: lower Cholesky factor of the kernel matrix with nugget, float64 [M, M].
        variance: tau squared, mean over outputs.
    """

    z: Array
    rate: float
    scale: np.ndarray
    sizes: np.ndarray
    beta: Array
    factor: Array
    variance: float


class _Solved(NamedTuple):
    beta: Array
    sizes: Array
    factor: Array
    variance: Array
    likelihood: Array


@jax.jit
def solve(z: Array, basis: Array, values: Array, rate: Array) -> _Solved:
    """Universal kriging for one lambda: mean coefficients, weights, restricted likelihood.

    Args:
        z: masks as numbers, float64 [M, n].
        basis: functions of the mean at the rows, float64 [M, p]; zero columns do no harm.
        values: float64 [M, outputs].
        rate: lambda.
    """
    rows, outputs = values.shape
    matrix = kernel_matrix(z, z, rate) + NUGGET * jnp.eye(rows)
    factor = jnp.linalg.cholesky(matrix)
    both = solve_triangular(factor, jnp.concatenate([basis, values], axis=1), lower=True)
    white, target = both[:, : basis.shape[1]], both[:, basis.shape[1] :]
    gram = white.T @ white
    # A column of zeros gets a unit pivot, hence coefficient and log determinant zero.
    used = jnp.diagonal(gram) > 0
    ridge = jnp.where(used, 1e-12 * jnp.diagonal(gram), 1.0)
    root = jnp.linalg.cholesky(gram + jnp.diag(ridge))
    mean = cho_solve((root, True), white.T @ target)
    rest = target - white @ mean
    beta = solve_triangular(factor, rest, lower=True, trans=1)
    freedom = jnp.maximum(rows - used.sum(), 1)
    tiny = jnp.finfo(values.dtype).tiny
    variance = jnp.maximum((rest**2).sum() / (freedom * outputs), tiny)
    determinants = jnp.log(jnp.diagonal(factor)).sum() + jnp.log(jnp.diagonal(root)).sum()
    likelihood = -outputs * (0.5 * freedom * jnp.log(variance) + determinants)
    return _Solved(beta, mean, factor, variance, likelihood)


def fit_process(masks: np.ndarray, values: np.ndarray, *, seed: int = 0) -> Process:
    """Fit the process: lambda and the growth c by restricted likelihood, then one solve.

    Args:
        masks: distinct coalitions, Boolean [M, n].
        values: their worth, float64 [M, outputs]; outputs share lambda and c. Call it where
            JAX keeps float64.
        seed: picks the rows by which lambda and c are chosen where there are many.

    Raises:
        MemoryRefused: the kernel matrix does not fit into memory.

    Cost: O(M**3) time, 3 matrices of M**2 numbers.
    """
    rows, n = masks.shape
    _require_matrix(rows)
    z = jnp.asarray(masks, jnp.float64)
    rate, growth = select(masks, values, SELECTION_ROWS, seed=seed)
    scale = np.exp(growth * np.arange(n + 1))
    weight = np.exp(-growth * masks.sum(axis=1))[:, None]
    basis, knots = _basis(masks)
    inputs = z, jnp.asarray(basis * weight), jnp.asarray(values * weight)
    solved = solve(*inputs, rate)
    # More rows show finer detail: from the subset's lambda upwards while the likelihood grows.
    for next_rate in [finer for finer in _rates(n) if finer > rate and rows > SELECTION_ROWS]:
        other = solve(*inputs, next_rate)
        if not other.likelihood > solved.likelihood:
            break
        solved, rate = other, next_rate
    return Process(
        z,
        rate,
        scale,
        knots @ np.asarray(solved.sizes),
        solved.beta,
        solved.factor,
        float(solved.variance),
    )


def select(
    masks: np.ndarray, values: np.ndarray, rows: int, *, seed: int = 0
) -> tuple[float, float]:
    """Lambda and the growth c by the restricted likelihood of so many rows at most.

    Args:
        masks: distinct coalitions, Boolean [M, n].
        values: their worth, float64 [M, outputs].
        rows: how many are looked at.
        seed: picks them.
    """
    n = masks.shape[1]
    chosen = np.arange(len(masks))
    if len(masks) > rows:
        chosen = np.random.default_rng(seed).choice(len(masks), rows, replace=False)
    z = jnp.asarray(masks[chosen], jnp.float64)
    basis = _basis(masks[chosen])[0]
    best = (-math.inf, 1.0, 0.0)
    for growth in growths(masks, values):
        weight = np.exp(-growth * masks[chosen].sum(axis=1))[:, None]
        scores = _likelihoods(
            z, jnp.asarray(basis * weight), jnp.asarray(values[chosen] * weight), tuple(_rates(n))
        )
        scores = np.asarray(scores) + values.shape[1] * np.log(weight).sum()
        place = int(np.nanargmax(scores)) if np.isfinite(scores).any() else len(scores) - 1
        best = max(best, (float(scores[place]), _rates(n)[place], growth))
    return best[1:]


def _require(rows: int, n: int) -> None:
    if kept_order(rows, n, 1) is None:
        _require_matrix(rows)


def _require_matrix(rows: int) -> None:
    require_memory(8 * 3 * rows**2, f"the kernel matrix of {rows} coalitions", "lower the budget")


def _rates(n: int) -> list[float]:
    return [rate / n for rate in RATES]


@functools.partial(jax.jit, static_argnames="rates")
def _likelihoods(z: Array, basis: Array, values: Array, rates: tuple[float, ...]) -> Array:
    return jax.lax.map(lambda rate: solve(z, basis, values, rate).likelihood, jnp.asarray(rates))


def growths(masks: np.ndarray, values: np.ndarray) -> list[float]:
    """Candidates of c: a few of either sign, and the slope of the log spread over the size."""
    few = [step / masks.shape[1] for step in GROWTHS]
    sizes = masks.sum(axis=1)
    counts = np.bincount(sizes)
    present = np.flatnonzero(counts > 1)
    spread = np.array([values[sizes == s].var(axis=0).mean() for s in present])
    present, spread = present[spread > 0], spread[spread > 0]
    if len(present) < 3:
        return few
    weight = np.sqrt(np.minimum(counts[present], 30))
    slope = np.polyfit(present, 0.5 * np.log(spread), 1, w=weight)[0]
    return [*few, float(np.clip(slope, -2, 2))]


def _basis(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Functions of the size: [M, n+1] at the rows, [n+1, n+1] at every size.

    One is free at each size that occurs, and they are joined linearly in between; the columns
    of the sizes that do not occur are zero.
    """
    n = masks.shape[1]
    sizes = masks.sum(axis=1)
    present = np.unique(sizes)
    knots = np.zeros((n + 1, n + 1))
    for size in present:
        knots[:, size] = np.interp(np.arange(n + 1), present, (present == size).astype(float))
    return knots[sizes], knots


def read_process(process: Process, index: CardinalIndex, order: int) -> tuple[np.ndarray, ...]:
    """Any cardinal index of the posterior mean (of one output), per size [C(n, s)]."""
    n = process.z.shape[1]
    tables = index_tables(index, order, n, process.rate, process.scale)
    found = _read(process.z, process.beta[:, 0], [jnp.asarray(t) for t in tables])
    level = size_index(index, order, n) @ process.sizes[:, 0]
    return tuple(np.asarray(part) + level[s] for s, part in enumerate(found))


_read = jax.jit(read_index)


def posterior_errors(process: Process, index: CardinalIndex, order: int) -> tuple[np.ndarray, ...]:
    """Posterior standard deviation of the index under the model, per size [C(n, s)].

    Cost: O(M**2) for each coefficient.
    """
    n = process.z.shape[1]
    tables = index_tables(index, order, n, process.rate, process.scale)
    weights = derivative_weights(index, order, n)
    out = []
    for s, table in enumerate(tables):
        members = jnp.asarray(members_of_size(n, s))
        found = _explained(process.z, process.factor, jnp.asarray(table), members)
        prior = _prior(table, weights[s], process.scale, index.form)
        variance = process.variance * np.maximum(prior - np.asarray(found), 0)
        out.append(np.sqrt(variance))
    return tuple(out)


@jax.jit
def _explained(z: Array, factor: Array, table: Array, members: Array) -> Array:
    """Variance of the index of each A that the rows explain, in units of tau squared."""
    inside = z[:, members].sum(axis=-1).astype(jnp.int32)
    sizes = z.sum(axis=1).astype(jnp.int32)
    cross = table[sizes[:, None], inside]
    return (solve_triangular(factor, cross, lower=True) ** 2).sum(axis=0)


def prior_variances(
    index: CardinalIndex, order: int, n: int, rate: float, scale: np.ndarray
) -> list[float]:
    """Variance a priori of the index of an A of each size, in units of tau squared."""
    tables = index_tables(index, order, n, rate, scale)
    weights = derivative_weights(index, order, n)
    return [_prior(t, w, scale, index.form) for t, w in zip(tables, weights, strict=True)]


def _prior(table: np.ndarray, weights: np.ndarray, scale: np.ndarray, form: str) -> float:
    """The index of the index: variance a priori of the index of an A of one size."""
    s = table.shape[1] - 1
    total = 0.0
    for level in range(s + 1):
        sign = (-1) ** (s - level) * math.comb(s, level)
        if form == "marginals":
            sign = (level == s) - (level == 0)
        sizes = np.arange(len(weights)) + level
        total += sign * (weights * scale[sizes] * table[sizes, level]).sum()
    return float(total)
