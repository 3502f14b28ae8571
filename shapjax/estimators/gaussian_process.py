r"""Interaction indices read off a Gaussian process fitted to the coalitions evaluated.

The model is :math:`v(S) = h(|S|) + e^{c |S|} g(S)`: a free function of the size, and a Gaussian
process g whose covariance is a mixture of two product kernels, one smooth and one rough, and whose
spread may grow or shrink with the size. In games of few players each of them has a rate of its own
(``player_rates``). Any cardinal index of the posterior mean has a closed form (``multilinear``,
``product_kernel``), so that no table of 2**n is ever made. Since no coalition is evaluated twice
and the posterior mean passes through every value, the estimate becomes exact as the budget
reaches 2**n, whatever the game.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
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
from shapjax.estimators.multilinear import (
    MOST_PLAYERS as FEW_PLAYERS,
)
from shapjax.estimators.multilinear import (
    cross_covariances,
    prior_variances_at_nodes,
    read_at_nodes,
)
from shapjax.estimators.oracle import Oracle
from shapjax.estimators.player_rates import own_rates
from shapjax.estimators.product_kernel import (
    MOST_PLAYERS,
    Kernel,
    derivative_weights,
    index_tables,
    kernel_matrix,
    read_index,
    size_index,
)
from shapjax.estimators.protocol import Answer, Problem
from shapjax.estimators.shrinkage import held_out_factor, shrink
from shapjax.estimators.truncated_process import (
    TruncatedProcess,
    count_columns,
    fit_gathered,
    gather,
    predict_truncated,
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

SLOWER, SHARES = (0.25, 0.5), (0.01, 0.03, 0.1, 0.3)
"""What is tried beside the best single rate: a part of it, with so much of a rough kernel."""

SELECTION_ROWS, TRUNCATED_SELECTION_ROWS = 600, 1500
"""Most rows by whose likelihood the kernel and the growth are chosen."""

DENSE_ROWS, DENSE_PLAYERS = 5000, 20
"""Up to so many coalitions, or players, the whole kernel matrix is factored."""

MOST_COLUMNS = 6000
"""Columns up to which a truncated spectrum keeps further orders."""


def gaussian_process(problem: Problem, oracle: Oracle) -> Answer:
    """Any cardinal index, read off the posterior mean of a Gaussian process on coalitions.

    Coalitions are distinct; standard errors are the posterior's. ``stats`` holds ``v_empty``,
    ``v_grand``, the kernel's ``rate`` (a list by player up to 20 players) and rough ``share``,
    the ``growth`` of the spread by size, and the ``shrinkage`` of each size towards its mean (1
    is none).

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
    return index_and_refits(masks, values, index, order)[0]


Predict = Callable[[np.ndarray], np.ndarray]
"""Coalitions, Boolean [M, n], to the posterior mean of their worth, float64 [M]."""

Refit = Callable[[int], tuple[tuple[np.ndarray, ...], Predict]]
"""A group to leave out to the index of a process of the others, per size, and its predictions.

Kernel and growth are those of all rows: three numbers, chosen among a few.
"""


def index_and_refits(
    masks: np.ndarray,
    values: np.ndarray,
    index: CardinalIndex,
    order: int,
    groups: np.ndarray | None = None,
) -> tuple[Interactions, Refit]:
    """The estimate from coalitions already evaluated, and what all groups but one would give.

    Args:
        masks: as for ``index_of_values``.
        values: likewise.
        index: likewise.
        order: likewise.
        groups: int [M], from 0 on; None for one group.
    """
    with precision_scope(np.float64):
        fitted = _fit_and_read(masks, values, index, order, groups)
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
        "rate": np.asarray(fitted.kernel.rate).tolist(),
        "share": float(fitted.kernel.share),
        "growth": float(np.log(fitted.scale[1])),
        "truncated": fitted.truncated,
        "shrinkage": [factor for _, factor in shrunk],
    }
    parts = tuple(part for part, _ in shrunk)
    return Interactions(parts, index.label, masks.shape[1], errors, stats), fitted.refit


class _Fitted(NamedTuple):
    coefficients: tuple[np.ndarray, ...]
    errors: tuple[np.ndarray, ...]
    scale: np.ndarray
    kernel: Kernel
    truncated: int | None
    refit: Refit


def _fit_and_read(
    masks: np.ndarray,
    values: np.ndarray,
    index: CardinalIndex,
    order: int,
    groups: np.ndarray | None = None,
) -> _Fitted:
    rows, n = masks.shape
    _require(rows, n)
    kept = kept_order(rows, n, order)
    z, worth = jnp.asarray(masks, jnp.float64), jnp.asarray(values)
    if kept is None:
        chosen = jnp.asarray(some_rows(rows, SELECTION_ROWS))
        found = posterior(z, worth, chosen, index=index, order=order)
        parts, errors = (
            tuple(np.asarray(x) for x in part) for part in (found.coefficients, found.errors)
        )
        kernel, growth = found.process.kernel, found.process.growth

        def refit(group: int) -> tuple[tuple[np.ndarray, ...], Predict]:
            assert groups is not None
            others = groups != group
            with precision_scope(np.float64):
                process = fit_at(z[others], worth[others, None], kernel, growth)
                process = jax.tree.map(np.asarray, process)
                read = tuple(np.asarray(part) for part in read_process(process, index, order))
            return read, functools.partial(_predicted, process)

        return _Fitted(parts, errors, np.asarray(found.process.scale), kernel, None, refit)
    chosen = some_rows(rows, TRUNCATED_SELECTION_ROWS)
    rate, growth = _select_rate(z[chosen], worth[chosen, None])
    kernel, scale = Kernel(float(rate)), np.exp(float(growth) * np.arange(n + 1))
    gathered = gather(masks, values, float(rate), scale, kept, NUGGET, groups)
    process = fit_gathered(gathered)
    tables = index_tables(index, order, n, kernel, scale)
    prior = [float(x) for x in prior_variances(index, order, tables, jnp.asarray(scale))]
    errors = truncated_errors(process, index, order, prior)

    def refit_rest(group: int) -> tuple[tuple[np.ndarray, ...], Predict]:
        with precision_scope(np.float64):
            others = [g for g in range(len(gathered.counts)) if g != group]
            rest = fit_gathered(gathered, others)
            return read_truncated(rest, index, order), functools.partial(_predicted_by_rest, rest)

    parts = read_truncated(process, index, order)
    return _Fitted(parts, errors, scale, kernel, kept, refit_rest)


def _predicted_by_rest(process: TruncatedProcess, masks: np.ndarray) -> np.ndarray:
    with precision_scope(np.float64):
        return predict_truncated(process, masks)


def _predicted(process: Process, masks: np.ndarray) -> np.ndarray:
    with precision_scope(np.float64):
        sizes = masks.sum(axis=1)
        near = kernel_matrix(jnp.asarray(masks, jnp.float64), process.z, process.kernel)
        deviation = np.asarray(near @ process.beta[:, 0])
        return np.asarray(process.sizes)[sizes, 0] + np.asarray(process.scale)[sizes] * deviation


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
        kernel: rate and share of the covariance.
        growth: c, of the spread by size.
        scale: e^(c s) by size, float64 [n+1].
        sizes: the function of the size, float64 [n+1, outputs].
        beta: weights of the kernel functions, float64 [M, outputs].
        factor: lower Cholesky factor of the kernel matrix with nugget, float64 [M, M].
        variance: tau squared, mean over outputs.
    """

    z: Array
    kernel: Kernel
    growth: Array
    scale: Array
    sizes: Array
    beta: Array
    factor: Array
    variance: Array


class Posterior(NamedTuple):
    """What ``posterior`` gives: an index with its errors, and the process that they are of.

    Attributes:
        coefficients: per size s, float64 [C(n, s)].
        errors: posterior standard deviations, likewise.
        process: the fitted process.
    """

    coefficients: tuple[Array, ...]
    errors: tuple[Array, ...]
    process: Process


@functools.partial(jax.jit, static_argnames=("index", "order"))
def posterior(
    z: Array, values: Array, chosen: Array, *, index: CardinalIndex, order: int
) -> Posterior:
    """Fit and read in one pure function of fixed shapes, for one game or, by ``vmap``, many.

    Args:
        z: distinct coalitions as numbers, the empty and the grand one among them, float64 [M, n].
        values: their worth, float64 [M].
        chosen: rows by which the kernel and the growth are chosen, int [R].
        index: any cardinal index; static.
        order: its order; static.
    """
    kernel, growth = choose_kernel(z[chosen], values[chosen, None])
    process = fit_at(z, values[:, None], kernel, growth)
    found = read_process(process, index, order)
    return Posterior(found, posterior_errors(process, index, order), process)


@jax.jit
def fit(z: Array, values: Array, chosen: Array) -> Process:
    """Fit the process: the kernel and the growth c by restricted likelihood, then one solve.

    Args:
        z: as for ``posterior``.
        values: float64 [M, outputs]; outputs share the kernel and c.
        chosen: int [R].
    """
    return fit_at(z, values, *select(z[chosen], values[chosen]))


@jax.jit
def fit_at(z: Array, values: Array, kernel: Kernel, growth: Array | float) -> Process:
    """The process of a given kernel and growth."""
    kernel, growth = Kernel(*(jnp.asarray(x) for x in kernel)), jnp.asarray(growth)
    weight = jnp.exp(-growth * z.sum(axis=1))[:, None]
    factor = _factor(z, kernel)
    solved = _solve(factor, _at_sizes(z) * weight, values * weight)
    scale = jnp.exp(growth * jnp.arange(z.shape[1] + 1))
    level = between(solved.sizes, z)
    return Process(z, kernel, growth, scale, level, solved.beta, factor, solved.variance)


@jax.jit
def choose_kernel(z: Array, values: Array) -> tuple[Kernel, Array]:
    """``select``, then in a game of few players a rate for each of them.

    Args:
        z: masks as numbers, float64 [M, n].
        values: their worth, float64 [M, outputs].
    """
    kernel, growth = select(z, values)
    if z.shape[1] > FEW_PLAYERS:
        return kernel, growth
    weight = jnp.exp(-growth * z.sum(axis=1))[:, None]
    return own_rates(z, values * weight, _at_sizes(z) * weight, kernel, NUGGET), growth


def select(z: Array, values: Array) -> tuple[Kernel, Array]:
    """The best kernel and c among those tried, by the restricted likelihood.

    First the rate and c of one product kernel, then how much of a rough one beside a slower one.
    """
    rate, growth = select_rate(z, values)
    slower = [(slow, share) for slow in SLOWER for share in SHARES]
    tried = jnp.asarray([(1.0, 0.0), *slower]) * jnp.stack([rate, jnp.ones_like(rate)])
    scores = jax.lax.map(
        lambda pair: _likelihood(_factor(z, Kernel(*pair)), z, values, growth), tried
    )
    best = jnp.where(jnp.isfinite(scores), scores, -jnp.inf).argmax()
    return Kernel(tried[best, 0], tried[best, 1]), growth


def select_rate(z: Array, values: Array) -> tuple[Array, Array]:
    """The best lambda of a single product kernel, and c."""
    n = z.shape[1]
    rates, growths = jnp.asarray(RATES) / n, jnp.asarray(GROWTHS) / n

    def scores_of(rate: Array) -> Array:
        # c weighs the rows alone, so that all growths share the factor.
        factor = _factor(z, Kernel(rate))
        return jax.vmap(lambda growth: _likelihood(factor, z, values, growth))(growths)

    scores = jax.lax.map(scores_of, rates).ravel()
    # Where no likelihood is finite the largest lambda is the safest.
    usable = jnp.where(jnp.isfinite(scores), scores, -jnp.inf)
    last = len(scores) - len(GROWTHS)
    best = jnp.where(jnp.isfinite(scores).any(), usable.argmax(), last)
    return rates[best // len(GROWTHS)], growths[best % len(GROWTHS)]


def _likelihood(factor: Array, z: Array, values: Array, growth: Array) -> Array:
    sizes = z.sum(axis=1)
    weight = jnp.exp(-growth * sizes)[:, None]
    solved = _solve(factor, _at_sizes(z) * weight, values * weight)
    return solved.likelihood - values.shape[1] * growth * sizes.sum()


def _factor(z: Array, kernel: Kernel) -> Array:
    """Lower Cholesky factor of the kernel matrix with nugget, float64 [M, M]."""
    return jnp.linalg.cholesky(kernel_matrix(z, z, kernel) + NUGGET * jnp.eye(len(z)))


class _Solved(NamedTuple):
    beta: Array
    sizes: Array
    variance: Array
    likelihood: Array


def _solve(factor: Array, basis: Array, values: Array) -> _Solved:
    """Universal kriging for one kernel: mean coefficients, weights, restricted likelihood.

    Args:
        factor: of the kernel matrix, from ``_factor``.
        basis: functions of the mean at the rows, float64 [M, p]; zero columns do no harm.
        values: float64 [M, outputs].
    """
    rows, outputs = values.shape
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
    return _Solved(beta, mean, variance, likelihood)


def fit_process(masks: np.ndarray, values: np.ndarray, *, seed: int = 0) -> Process:
    """``fit`` on masks, in NumPy arrays; call it where JAX keeps float64.

    Args:
        masks: distinct coalitions, Boolean [M, n].
        values: their worth, float64 [M, outputs].
        seed: picks the rows by which the kernel and c are chosen where there are many.

    Raises:
        MemoryRefused: the kernel matrix does not fit into memory.

    Cost: O(M**3) time, 3 matrices of M**2 numbers.
    """
    _require_matrix(len(masks))
    z, chosen = jnp.asarray(masks, jnp.float64), some_rows(len(masks), SELECTION_ROWS, seed)
    return jax.tree.map(np.asarray, fit(z, jnp.asarray(values), jnp.asarray(chosen)))


def some_rows(count: int, most: int, seed: int = 0) -> np.ndarray:
    """Places of at most so many of ``count`` rows, at random."""
    if count <= most:
        return np.arange(count)
    return np.random.default_rng(seed).choice(count, most, replace=False)


_select_rate = jax.jit(select_rate)


def _require(rows: int, n: int) -> None:
    if kept_order(rows, n, 1) is None:
        _require_matrix(rows)


def _require_matrix(rows: int) -> None:
    require_memory(8 * 3 * rows**2, f"the kernel matrix of {rows} coalitions", "lower the budget")


def _at_sizes(z: Array) -> Array:
    """One free function for each size, at the rows, float [M, n+1]."""
    return jax.nn.one_hot(z.sum(axis=1).astype(jnp.int32), z.shape[1] + 1, dtype=z.dtype)


def between(level: Array, z: Array) -> Array:
    """A function of the size, known where a row has the size and linear in between.

    Args:
        level: float [n+1, outputs].
        z: masks as numbers, the empty and the grand one among them, float [M, n].
    """
    n = z.shape[1]
    place = jnp.arange(n + 1)
    present = jnp.zeros(n + 1, bool).at[z.sum(axis=1).astype(jnp.int32)].set(True)
    before = jax.lax.cummax(jnp.where(present, place, 0))
    after = jax.lax.cummin(jnp.where(present, place, n), reverse=True)
    share = ((place - before) / jnp.maximum(after - before, 1))[:, None]
    return (1 - share) * level[before] + share * level[after]


@functools.partial(jax.jit, static_argnames=("index", "order"))
def read_process(process: Process, index: CardinalIndex, order: int) -> tuple[Array, ...]:
    """Any cardinal index of the posterior mean (of one output), per size [C(n, s)]."""
    n = process.z.shape[1]
    beta = process.beta[:, 0]
    if n <= FEW_PLAYERS:
        found = read_at_nodes(process.z, beta, process.kernel, process.growth, index, order)
    else:
        tables = index_tables(index, order, n, process.kernel, process.scale)
        found = read_index(process.z, beta, tables)
    level = size_index(index, order, n) @ process.sizes[:, 0]
    return tuple(part + level[s] for s, part in enumerate(found))


@functools.partial(jax.jit, static_argnames=("index", "order"))
def posterior_errors(process: Process, index: CardinalIndex, order: int) -> tuple[Array, ...]:
    """Posterior standard deviation of the index under the model, per size [C(n, s)].

    Cost: O(M**2) for each coefficient.
    """
    z, n = process.z, process.z.shape[1]
    if n <= FEW_PLAYERS:
        kernel, growth = process.kernel, process.growth
        prior = prior_variances_at_nodes(kernel, growth, index, order, n)
        cross = cross_covariances(z, kernel, growth, index, order)
    else:
        tables = index_tables(index, order, n, process.kernel, process.scale)
        prior = prior_variances(index, order, tables, process.scale)
        sizes = z.sum(axis=1).astype(jnp.int32)
        cross = [
            table[sizes[:, None], z[:, members_of_size(n, s)].sum(axis=-1).astype(jnp.int32)]
            for s, table in enumerate(tables)
        ]
    edges = np.cumsum([math.comb(n, s) for s in range(order)])
    found = solve_triangular(process.factor, jnp.concatenate(cross, axis=1), lower=True)
    explained = jnp.split((found**2).sum(axis=0), edges, axis=0)
    return tuple(
        jnp.sqrt(process.variance * jnp.maximum(a - b, 0))
        for a, b in zip(prior, explained, strict=True)
    )


def prior_variances(
    index: CardinalIndex, order: int, tables: list[Array], scale: Array
) -> list[Array]:
    """The index of the index: variance a priori of that of an A of each size, over tau squared.

    Args:
        index: any cardinal index.
        order: its order.
        tables: from ``index_tables``.
        scale: e^(c s) by size, float [n+1].
    """
    out = []
    for s, (table, row) in enumerate(
        zip(tables, derivative_weights(index, order, len(scale) - 1), strict=True)
    ):
        total = jnp.zeros((), scale.dtype)
        for level in range(s + 1):
            sign = (-1) ** (s - level) * math.comb(s, level)
            if index.form == "marginals":
                sign = (level == s) - (level == 0)
            sizes = np.arange(len(row)) + level
            total = total + sign * (row * scale[sizes] * table[sizes, level]).sum()
        out.append(total)
    return out
