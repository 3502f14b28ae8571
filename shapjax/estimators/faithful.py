"""Faithful indices by the regression that defines them, on the coalitions drawn."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.core.errors import ShapjaxError
from shapjax.core.precision import precision_scope
from shapjax.estimators.conjugate import Operator, least_squares
from shapjax.estimators.distinct import allocate, draw_distinct, generator_of
from shapjax.estimators.oracle import Oracle
from shapjax.estimators.protocol import Answer, Problem
from shapjax.estimators.refits import (
    REFITS,
    distinct_by_size,
    leverage_signs,
    refit,
    require_refits,
    signs_of,
)
from shapjax.estimators.sampling import size_law
from shapjax.estimators.subsets import Products, summed_to_parts


def faithful_regression(problem: Problem, oracle: Oracle, *, refits: int = REFITS) -> Answer:
    r"""FSII and FBII of any order: the polynomial of degree k nearest to v; consistent.

    Coalitions are distinct, their sizes by the law of the regression: the Shapley kernel's for
    FSII, the binomial law of p for FBII; a size that it would cover is taken whole. Both always
    include the empty and the grand coalition, which are exact constraints of FSII.

    The polynomial is written in products of :math:`y_i = (z_i - c)/\sigma`: for FBII with the
    mean and the deviation of :math:`z_i`, which makes them orthonormal under its law, for FSII
    with c = 1/2 and :math:`y_i = \pm 1`. There the constraints say what the coefficients of even
    and of odd size sum to, :math:`(v(N) \pm v(\emptyset))/2`, and conjugate gradients keep both
    sums. The design is never formed. Standard errors are None where there are no more rows than
    unknowns.

    Args:
        problem: what to estimate.
        oracle: where to ask.
        refits: how many fits of residuals the standard errors are made of; 0 leaves them out.

    Source: Tsai, Yeh & Ravikumar 2023, section 3; Marichal & Mathonet 2011 (p of FBII).
    """
    n, order = problem.n, problem.order
    problem.require_index("faithful-regression", "FSII", "FBII")
    if oracle.left < 2:
        raise ShapjaxError(
            f"budget is {oracle.left}, but faithful-regression starts with the empty and the "
            "grand coalition; give at least 2."
        )
    p, refits = problem.index.p, require_refits(refits)
    if p is not None and not 0 < p < 1:
        raise ShapjaxError(
            f"p is {p}, where all coalitions but one have no weight; give a number strictly "
            "between 0 and 1, or use svarm-iq."
        )
    law = size_law(n, 1) if p is None else binomial_law(n, p)
    masks, weights = weighted_rows(generator_of(problem.key), n, oracle.left, law)
    values = np.asarray(oracle(masks), np.float64)
    center, width = (0.5, 0.5) if p is None else (p, math.sqrt(p * (1 - p)))
    even, odd = (values[-1] + values[0]) / 2, (values[-1] - values[0]) / 2
    base = np.zeros(sum(math.comb(n, s) for s in range(order + 1)))
    if p is None:
        base[0], base[1 : n + 1] = even, odd / n
    y = (masks - center) / width
    root = np.sqrt(weights / weights.sum() if weights.any() else weights)
    with precision_scope(np.float64):
        given = tuple(jnp.asarray(x, jnp.float64) for x in (y, values, root, base))
        fit = fit_polynomial(*given, order=order, constrained=p is None)
        solution, steps, gradient = jax.tree.map(np.asarray, fit)
    rows, unknowns = int((weights > 0).sum()), len(solution) - 2 * (p is None)
    stats = {
        "v_empty": float(values[0]),
        "v_grand": float(values[-1]),
        "rows": rows,
        "unknowns": unknowns,
        "underdetermined": rows < unknowns,
        "steps": int(steps),
        "gradient": float(gradient),
    }
    coefficients = expanded(solution, n, order, center, width)
    errors = None
    if rows > unknowns or len(masks) == 1 << n:
        solved = (*given[:3], fit[0])
        errors = polynomial_errors(
            problem, masks, solved, (center, width), refits, constrained=p is None
        )
    return Answer(coefficients, errors, stats)


def polynomial_errors(
    problem: Problem,
    masks: np.ndarray,
    fit: tuple[jax.Array, ...],
    basis: tuple[float, float],
    refits: int,
    *,
    constrained: bool,
    n_query: int | None = None,
) -> tuple[np.ndarray, ...] | None:
    """Standard errors of the coefficients of products of z; None without refits.

    Args:
        problem: what is estimated.
        masks: distinct coalitions, Boolean [rows, n].
        fit: y, values, root weights and solution of ``fit_polynomial``.
        basis: centre and width of y.
        refits: how many.
        constrained: as for ``fit_polynomial``.
        n_query: likewise.
    """
    n, order, draw = problem.n, problem.order, distinct_by_size(masks)
    if draw.leaves_nothing_out:
        return tuple(np.zeros(math.comb(n, s)) for s in range(order + 1))
    if refits == 0:
        return None
    signs, leverage = signs_of(draw, problem.key, refits), leverage_signs(len(masks), problem.key)
    with precision_scope(np.float64):
        given = (*fit, *(jnp.asarray(x) for x in (masks, signs, leverage)))
        options = {"order": order, "constrained": constrained, "n_query": n_query}
        moved = np.asarray(_refit(*given, **options))
    parts = expanded(moved, n, order, *basis)
    return tuple(np.sqrt((part**2).mean(axis=0)) for part in parts)


def binomial_law(n: int, p: float) -> np.ndarray:
    """Law of the size where every player is present with probability p, float64 [n+1]."""
    logs = [
        math.lgamma(n + 1) - math.lgamma(s + 1) - math.lgamma(n - s + 1)
        + s * math.log(p) + (n - s) * math.log1p(-p)
        for s in range(n + 1)
    ]  # fmt: skip
    return np.exp(logs)


def weighted_rows(
    generator: np.random.Generator, n: int, rows: int, law: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Distinct coalitions, the empty one first and the grand one last, and their weights."""
    inner = law.copy()
    inner[[0, n]] = 0
    counts, expected, _ = allocate(inner, rows - 2, generator)
    counts[[0, n]] = expected[[0, n]] = 1
    masks = draw_distinct(counts, generator)
    by_size = np.divide(law, expected, where=expected > 0, out=np.zeros(n + 1))
    return masks, by_size[masks.sum(axis=1)]


@functools.partial(jax.jit, static_argnames=("order", "constrained", "n_query"))
def fit_polynomial(
    y: jax.Array,
    values: jax.Array,
    root: jax.Array,
    base: jax.Array,
    *,
    order: int,
    constrained: bool,
    n_query: int | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Least squares in products of y, flat by size: the base and the best change of it.

    Args:
        y: float [rows, n].
        values: what is fitted, float [rows].
        root: square roots of the weights, float [rows].
        base: where the change starts, float [unknowns].
        order: degree k; static.
        constrained: whether the sums of the even and of the odd coefficients are kept; static.
        n_query: where given, only pairs across change; static.

    Returns:
        (coefficients [unknowns], steps, relative gradient).
    """
    apply, adjoint, keep = product_operators(y, order, constrained, n_query)
    target = root * (values - apply(base))
    largest = jnp.abs(target).max()
    unit = jnp.where(largest > 0, largest, 1)
    operator = Operator(lambda u: root * apply(keep(u)), lambda r: keep(adjoint(root * r)))
    found = least_squares(operator, target / unit)
    return base + unit * keep(found.u), found.steps, found.gradient


@functools.partial(jax.jit, static_argnames=("order", "constrained", "n_query"))
def _refit(
    y: jax.Array,
    values: jax.Array,
    root: jax.Array,
    solution: jax.Array,
    masks: jax.Array,
    signs: jax.Array,
    leverage: jax.Array,
    *,
    order: int,
    constrained: bool,
    n_query: int | None,
) -> jax.Array:
    """What the residuals move the coefficients by, for every row of signs, [refits, unknowns]."""
    apply, adjoint, keep = product_operators(y, order, constrained, n_query)
    residual = root * (values - apply(solution))
    largest = jnp.abs(residual).max()
    unit = jnp.where(largest > 0, largest, 1)
    operator = Operator(lambda u: root * apply(keep(u)), lambda r: keep(adjoint(root * r)))
    found = refit(operator, residual / unit, masks, signs, leverage)
    return unit * jax.vmap(keep)(found)


def product_operators(
    y: jax.Array, order: int, constrained: bool, n_query: int | None = None
) -> tuple[Callable[[jax.Array], jax.Array], ...]:
    """The products of y, [rows, unknowns], as a map; its transpose; what keeps to the allowed.

    The last one keeps the sums, where the fit is constrained; or with ``n_query`` (of order 2,
    never constrained) it makes pairs on one side of it nothing, which leaves a bilinear form.
    """
    n = y.shape[1]
    counts = [math.comb(n, s) for s in range(order + 1)]
    cuts = np.cumsum(counts)[:-1].tolist()
    pairs = np.triu_indices(n, 1)
    higher = [Products(y, s) for s in range(3, order + 1)]

    def apply(flat: jax.Array) -> jax.Array:
        parts = jnp.split(flat, cuts)
        rows = parts[0] + y @ parts[1]
        if order > 1:
            upper = jnp.zeros((n, n), y.dtype).at[pairs].set(parts[2])
            rows = rows + ((y @ upper) * y).sum(axis=1)
        return rows + sum(x.apply(a) for x, a in zip(higher, parts[3:], strict=True))

    def adjoint(r: jax.Array) -> jax.Array:
        parts = [r.sum()[None], r @ y]
        if order > 1:
            parts.append((y.T @ (r[:, None] * y))[pairs])
        return jnp.concatenate([*parts, *(x.adjoint(r) for x in higher)])

    def keep(flat: jax.Array) -> jax.Array:
        if not constrained and n_query is None:
            return flat
        parts = jnp.split(flat, cuts)
        if n_query is not None:
            across = (pairs[0] < n_query) & (pairs[1] >= n_query)
            parts[2] = jnp.where(across, parts[2], 0)
            return jnp.concatenate(parts)
        for parity in (0, 1):
            sizes = range(parity, order + 1, 2)
            mean = sum(parts[s].sum() for s in sizes) / sum(counts[s] for s in sizes)
            for s in sizes:
                parts[s] = parts[s] - mean
        return jnp.concatenate(parts)

    return apply, adjoint, keep


def expanded(
    flat: np.ndarray, n: int, order: int, center: float, width: float
) -> tuple[np.ndarray, ...]:
    """From products of (z - center)/width to products of z: each gives to all its parts.

    Args:
        flat: coefficients by size, float64 [..., unknowns].
        n: number of players.
        order: degree.
        center: subtracted from the masks.
        width: by which the rest was divided.

    Returns:
        Per size float64 [..., C(n, size)].
    """
    counts = [math.comb(n, s) for s in range(order + 1)]
    parts = np.split(flat, np.cumsum(counts)[:-1], axis=-1)
    found = [np.zeros(part.shape) for part in parts]
    for s, part in enumerate(parts):
        for size in range(s + 1):
            share = (-center) ** (s - size) / width**s
            found[size] += share * summed_to_parts(part, n, s, size)
    return tuple(found)
