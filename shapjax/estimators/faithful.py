"""Faithful indices by the regression that defines them, on the coalitions drawn."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.core.errors import ShapjaxError
from shapjax.core.precision import precision_scope
from shapjax.estimators.conjugate import Operator, least_squares
from shapjax.estimators.distinct import allocate, draw_distinct, generator_of
from shapjax.estimators.oracle import Oracle
from shapjax.estimators.protocol import Answer, Problem
from shapjax.estimators.sampling import size_law
from shapjax.estimators.subsets import Products, parts_of_size


def faithful_regression(problem: Problem, oracle: Oracle) -> Answer:
    r"""FSII and FBII of any order: the polynomial of degree k nearest to v; consistent.

    Coalitions are distinct, their sizes by the law of the regression: the Shapley kernel's for
    FSII, the binomial law of p for FBII; a size that it would cover is taken whole. Both always
    include the empty and the grand coalition, which are exact constraints of FSII.

    The polynomial is written in products of :math:`y_i = (z_i - c)/\sigma`: for FBII with the
    mean and the deviation of :math:`z_i`, which makes them orthonormal under its law, for FSII
    with c = 1/2 and :math:`y_i = \pm 1`. There the constraints say what the coefficients of even
    and of odd size sum to, :math:`(v(N) \pm v(\emptyset))/2`, and conjugate gradients keep both
    sums. The design is never formed.

    Source: Tsai, Yeh & Ravikumar 2023, section 3; Marichal & Mathonet 2011 (p of FBII).
    """
    n, order = problem.n, problem.order
    problem.require_index("faithful-regression", "FSII", "FBII")
    if oracle.left < 2:
        raise ShapjaxError(
            f"budget is {oracle.left}, but faithful-regression starts with the empty and the "
            "grand coalition; give at least 2."
        )
    p = problem.index.p
    if p is not None and not 0 < p < 1:
        raise ShapjaxError(
            f"p is {p}, where all coalitions but one have no weight; give a number strictly "
            "between 0 and 1, or use svarm-iq."
        )
    law = size_law(n, 1) if p is None else _binomial_law(n, p)
    masks, weights = _rows(problem, oracle.left, law)
    values = np.asarray(oracle(masks), np.float64)
    center, width = (0.5, 0.5) if p is None else (p, math.sqrt(p * (1 - p)))
    even, odd = (values[-1] + values[0]) / 2, (values[-1] - values[0]) / 2
    counts = [math.comb(n, s) for s in range(order + 1)]
    base = np.zeros(sum(counts))
    if p is None:
        base[0], base[1 : n + 1] = even, odd / n
    with precision_scope(np.float64):
        y = jnp.asarray((masks - center) / width, jnp.float64)
        root = jnp.sqrt(jnp.asarray(weights / weights.sum() if weights.any() else weights))
        fit = _fit(y, jnp.asarray(values), root, jnp.asarray(base), order, p is None)
        solution, steps, gradient = jax.tree.map(np.asarray, fit)
    parts = np.split(solution, np.cumsum(counts)[:-1])
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
    return Answer(_expanded(parts, n, center, width), None, stats)


def _binomial_law(n: int, p: float) -> np.ndarray:
    """Law of the size where every player is present with probability p, float64 [n+1]."""
    logs = [
        math.lgamma(n + 1) - math.lgamma(s + 1) - math.lgamma(n - s + 1)
        + s * math.log(p) + (n - s) * math.log1p(-p)
        for s in range(n + 1)
    ]  # fmt: skip
    return np.exp(logs)


def _rows(problem: Problem, rows: int, law: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct coalitions, the empty one first and the grand one last, and their weights."""
    n, generator = problem.n, generator_of(problem.key)
    inner = law.copy()
    inner[[0, n]] = 0
    counts, expected, _ = allocate(inner, rows - 2, generator)
    counts[[0, n]] = expected[[0, n]] = 1
    masks = draw_distinct(counts, generator)
    by_size = np.divide(law, expected, where=expected > 0, out=np.zeros(n + 1))
    return masks, by_size[masks.sum(axis=1)]


@functools.partial(jax.jit, static_argnames=("order", "constrained"))
def _fit(
    y: jax.Array,
    values: jax.Array,
    root: jax.Array,
    base: jax.Array,
    order: int,
    constrained: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Coefficients of products of y, flat by size: the base and the best change of it."""
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

    def keep_sums(flat: jax.Array) -> jax.Array:
        if not constrained:
            return flat
        parts = jnp.split(flat, cuts)
        for parity in (0, 1):
            sizes = range(parity, order + 1, 2)
            mean = sum(parts[s].sum() for s in sizes) / sum(counts[s] for s in sizes)
            for s in sizes:
                parts[s] = parts[s] - mean
        return jnp.concatenate(parts)

    target = root * (values - apply(base))
    largest = jnp.abs(target).max()
    unit = jnp.where(largest > 0, largest, 1)
    operator = Operator(
        lambda u: root * apply(keep_sums(u)), lambda r: keep_sums(adjoint(root * r))
    )
    change, steps, gradient = least_squares(operator, target / unit)
    return base + unit * keep_sums(change), steps, gradient


def _expanded(
    parts: list[np.ndarray], n: int, center: float, width: float
) -> tuple[np.ndarray, ...]:
    """From products of (z - center)/width to products of z: each gives to all its parts."""
    found = [np.zeros(len(part)) for part in parts]
    for s, part in enumerate(parts):
        for size in range(s + 1):
            shares = (-center) ** (s - size) / width**s * part
            np.add.at(found[size], parts_of_size(n, s, size), shares[:, None])
    return tuple(found)
