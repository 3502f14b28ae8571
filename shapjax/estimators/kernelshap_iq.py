r"""KernelSHAP-IQ: the Shapley interaction index as weighted least squares, order after order.

Let :math:`D` be the sum over supersets with one player more, :math:`(D\varphi)(R) = \sum_j
\varphi(R \cup j)`. Of SII of size s the coalitions at both ends tell all but the part that D
cannot see:

.. math:: (D I)(R) = \Delta_R v(N \setminus R) - \Delta_R v(\emptyset), \qquad |R| = s - 1,

because :math:`\sum_j \Delta_{R \cup j} v(T)`, averaged over T of one size, is what the mean of
:math:`\Delta_R v` gains from that size to the next, so that the sum over sizes telescopes. The
worths in it are those of sizes below s and above n - s.

The rest is harmonic, :math:`D\varphi = 0`, and is the least-squares fit of
:math:`\sum_{S \subseteq T} \varphi(S)` to v over the coalitions of sizes s to n - s, weighted by
:math:`\mu(t) = 1/((n-2s+1) \binom{n-2s}{t-s})`: by Schur's lemma the Gram matrix is a multiple of
the identity on the harmonic functions, :math:`\sum_t \mu(t) \binom{n-2s}{t-s} = 1` (the e = s
eigenvalue of ``gram_table``), so that the fit is the harmonic part of
:math:`\sum_T \mu(t) [S \subseteq T]\, v(T)`. The index is :math:`I(S) = \sum_T \gamma(t, a) v(T)`
with :math:`\gamma(t, a) = (-1)^{s-a} / ((n-s+1) \binom{n-s}{t-a})`; the harmonic part of
:math:`[|S \cap T| = a]` is :math:`(-1)^{s-a} \binom{s}{a}` times that of :math:`[S \subseteq T]`,
and

.. math:: \sum_a \frac{\binom{s}{a}}{(n-s+1)\binom{n-s}{t-a}}
   = \int_0^1 x^{t-s} (1-x)^{n-s-t} \sum_a \binom{s}{a} x^{s-a} (1-x)^a \, dx = \mu(t),

the sum under the integral being one. So it holds at every order; the paper proves s <= 2. Its
infinite weights at both ends are the equation above, and its design with Bernoulli numbers is
:math:`\sum_{S \subseteq T} \varphi(S)` on harmonic functions.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.core.errors import ShapjaxError
from shapjax.core.precision import precision_scope
from shapjax.estimators.conjugate import Operator, least_squares
from shapjax.estimators.designs import johnson_operator
from shapjax.estimators.distinct import allocate, draw_distinct, generator_of
from shapjax.estimators.enumeration import enumerated
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
from shapjax.estimators.size_strata import size_law_of
from shapjax.estimators.subsets import (
    Products,
    dividends_below,
    parts_of_size,
    polynomial_at,
    summed_to_parts,
)
from shapjax.indices.rows import INDICES, bernoulli
from shapjax.indices.weights import weight_table
from shapjax.indices.worths import worth_weights


def kernelshap_iq(problem: Problem, oracle: Oracle, *, refits: int = REFITS) -> Answer:
    """KernelSHAP-IQ, for SII and k-SII of any order; consistent.

    Coalitions are distinct. Those of sizes below k and above n - k are all evaluated, which gives
    every part of the index but the harmonic one; that is fitted to the others, each order to what
    the orders before it have left (the k-additive game with their coefficients). SII of the empty
    coalition is that of the fitted game, plus the mean of what it leaves, size by size.

    Standard errors are None where the fit has no more rows than unknowns.

    Args:
        problem: what to estimate.
        oracle: where to ask.
        refits: how many fits of residuals the standard errors are made of; 0 leaves them out.

    Source: Fumagalli, Muschalik, Kolpaczki, Hüllermeier & Hammer 2024, algorithm 1. Deviations:
    the infinite weights are met exactly, sizes have the shares of SHAP-IQ, and those that would be
    covered are taken whole.
    """
    n, order = problem.n, problem.order
    problem.require_index("kernelshap-iq", "SII", "k-SII")
    refits = require_refits(refits)
    ends = _require_ends(oracle.left, n, order)
    if len(ends) == n + 1:
        return enumerated(problem, oracle)
    masks, expected = _draw(problem, oracle, ends)
    values = np.asarray(oracle(masks), np.float64)
    sizes, draw = masks.sum(axis=1), distinct_by_size(masks)
    lower, upper = _ends(values, n, order)
    signs, leverage = signs_of(draw, problem.key, refits), leverage_signs(len(masks), problem.key)
    residual = values - values[0]
    parts, moved, steps, enough = [values[:1]], [np.zeros((refits, 1))], 0, refits > 0
    rows = unknowns = 0
    for s in range(1, order + 1):
        law = _law(n, s)
        by_size = np.divide(law, expected, where=law * expected > 0, out=np.zeros(n + 1))
        weights = by_size[sizes]
        known = _known(lower[s - 1], upper[s - 1], n, s)
        target = residual - _at(masks, _aggregated_from(known, n, s))
        with precision_scope(np.float64):
            given = (jnp.asarray(x) for x in (masks, target, weights, signs, leverage))
            harmonic, changes, taken = jax.tree.map(np.asarray, _fit(*given, order=s))
        parts.append(known + harmonic)
        moved.append(changes)
        residual = residual - _at(masks, _aggregated_from(parts[s], n, s))
        rows, unknowns = int((weights > 0).sum()), math.comb(n, s) - math.comb(n, s - 1)
        enough, steps = enough and rows > unknowns, max(steps, int(taken))
    stats = {
        "v_empty": float(values[0]),
        "v_grand": float(values[-1]),
        "rows": rows,
        "unknowns": unknowns,
        "underdetermined": rows < unknowns,
        "steps": steps,
    }
    model, level = _aggregated(parts, n), np.zeros(1)
    if problem.index.name == "k-SII":
        parts, moved = model, _aggregated(moved, n)
    else:
        mean, level = _mean_over_sizes(residual, masks, draw.missing)
        parts[0] = mean + sum(part.sum() / (size + 1) for size, part in enumerate(model))
    if not enough:
        return Answer(tuple(parts), None, stats)
    errors = [np.sqrt((part**2).mean(axis=0)) for part in moved]
    return Answer(tuple(parts), (level, *errors[1:]), stats)


def _require_ends(budget: int, n: int, order: int) -> list[int]:
    """The sizes of which all coalitions are evaluated.

    Raises:
        ShapjaxError: the budget does not hold them.
    """
    ends = [t for t in range(n + 1) if t < order or t > n - order]
    whole = sum(math.comb(n, t) for t in ends)
    if budget < whole:
        raise ShapjaxError(
            f"budget is {budget}, but kernelshap-iq of order {order} on {n} players starts with "
            f"{whole} evaluations (sizes below {order} and above {n - order}); give at least "
            f"{whole}."
        )
    return ends


def _draw(problem: Problem, oracle: Oracle, ends: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Distinct coalitions by size, the ends whole, and their expected counts by size."""
    n, order = problem.n, problem.order
    weights = worth_weights(weight_table(INDICES["SII"], order, n), INDICES["SII"].form)
    law, generator = size_law_of(weights, n), generator_of(problem.key)
    law[ends] = 0
    whole = sum(math.comb(n, t) for t in ends)
    inner = allocate(law, oracle.left - whole, generator)
    counts, expected = inner.counts, inner.expected
    for t in ends:
        counts[t] = expected[t] = math.comb(n, t)
    return draw_distinct(counts, generator), expected


def _ends(
    values: np.ndarray, n: int, order: int
) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    r"""Per size below the order the derivatives at the empty coalition and at all others."""
    count = sum(math.comb(n, s) for s in range(order))
    # The complements of what comes last are in lexicographic order from the end.
    dual = dividends_below(values[::-1][:count], n, order)
    upper = tuple((-1) ** s * part for s, part in enumerate(dual))
    return dividends_below(values[:count], n, order), upper


def _known(lower: np.ndarray, upper: np.ndarray, n: int, size: int) -> np.ndarray:
    """All but the harmonic part of SII of one size, [C(n, size)]."""
    sums = (upper - lower)[parts_of_size(n, size, size - 1)].sum(axis=1)
    inverse = [1 / ((size - e) * (n - size - e + 1)) for e in range(size)]
    with precision_scope(np.float64):
        return np.asarray(_operate(jnp.asarray(sums), n, size, (*inverse, 0.0)))


@functools.partial(jax.jit, static_argnames=("n", "size", "values"))
def _operate(a: jax.Array, n: int, size: int, values: tuple[float, ...]) -> jax.Array:
    return johnson_operator(n, size, list(values))(a)


def _law(n: int, size: int) -> np.ndarray:
    """Law of sizes under the kernel of one order, float64 [n+1]."""
    law = [
        Fraction(math.comb(n, t), math.comb(n - 2 * size, t - size))
        if size <= t <= n - size
        else Fraction(0)
        for t in range(n + 1)
    ]
    return np.array([float(x / sum(law)) for x in law])


@functools.partial(jax.jit, static_argnames="order")
def _fit(
    masks: jax.Array,
    target: jax.Array,
    weights: jax.Array,
    signs: jax.Array,
    leverage: jax.Array,
    *,
    order: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The harmonic fit [C(n, order)], its refits [refits, C(n, order)], and the steps taken."""
    n = masks.shape[1]
    products = Products(masks.astype(target.dtype), order)
    harmonic = johnson_operator(n, order, [*([0.0] * order), 1.0])
    root = jnp.sqrt(weights / weights.sum())
    largest = jnp.abs(target).max()
    unit = jnp.where(largest > 0, largest, 1)

    operator = Operator(
        lambda u: root * products.apply(harmonic(u)),
        lambda r: harmonic(products.adjoint(root * r)),
    )
    solution, steps, *_ = least_squares(operator, root * target / unit)
    if not len(signs):
        return unit * harmonic(solution), jnp.zeros((0, products.count)), steps
    residual = root * target / unit - operator.forward(solution)
    found = refit(operator, residual, masks, signs, leverage)
    return unit * harmonic(solution), unit * jax.lax.map(harmonic, found), steps


def _aggregated_from(part: np.ndarray, n: int, size: int) -> list[np.ndarray]:
    """What SII of one size adds to the coefficients of k-SII, per size 0..size [..., C(n, l)]."""
    lower = [
        float(bernoulli(size - to)) * summed_to_parts(part, n, size, to)
        for to in range(1, size + 1)
    ]
    return [np.zeros((*part.shape[:-1], 1)), *lower]


def _aggregated(parts: list[np.ndarray], n: int) -> list[np.ndarray]:
    """k-SII from SII; the empty coalition keeps what is given."""
    found = [part.copy() for part in parts[:1]]
    for size, part in enumerate(parts[1:], start=1):
        added = _aggregated_from(part, n, size)
        found = [a + b for a, b in zip(found, added[:-1], strict=True)] + added[-1:]
    return found


def _at(masks: np.ndarray, parts: list[np.ndarray]) -> np.ndarray:
    """A polynomial at the coalitions, float64 [rows]."""
    with precision_scope(np.float64):
        z = jnp.asarray(masks, jnp.float64)
        return np.asarray(_evaluate(z, tuple(jnp.asarray(part) for part in parts)))


_evaluate = jax.jit(polynomial_at)


def _mean_over_sizes(
    residual: np.ndarray, masks: np.ndarray, missing: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean over sizes of the mean of each size, and its standard error, [1] each.

    A size that does not occur has what lies between its neighbours; one with a single coalition
    is lent the scatter of all.
    """
    n = masks.shape[1]
    sizes = masks.sum(axis=1)
    present, count = np.unique(sizes, return_counts=True)
    mean = np.bincount(sizes, residual)[present] / count
    square = np.bincount(sizes, (residual - np.interp(sizes, present, mean)) ** 2)[present]
    spread = np.where(count > 1, square / np.maximum(count - 1, 1), square.sum() / len(residual))
    left = np.array([missing[sizes == t][0] for t in present])
    error = np.sqrt((left * spread / count).sum()) / (n + 1)
    return np.interp(np.arange(n + 1), present, mean).mean(keepdims=True), error[None]
