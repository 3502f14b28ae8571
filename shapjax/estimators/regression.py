r"""The kernel regression: a polynomial in the masks, fitted by weighted least squares.

The model is :math:`v(T) \approx \sum_{|S| \le k,\, S \subseteq T} a_S`. The kernel is infinite on
sizes below k and on the grand coalition, so those coefficients are known exactly and the top
ones sum to a known constant: what is left is a least-squares problem over the top coefficients
on the hyperplane of that sum.

Over all coalitions its solution is Shapley-Taylor of order k, for every k. The sizes below k fix
:math:`a_S = d(S)` there, the dividend. What remains to be fitted is
:math:`\sum_{U \subseteq T,\, |U| \ge k} d(U)`, and as the solution is linear in it, one U with
:math:`d(U) = 1` is enough. Let :math:`u = |U|` and let b be Shapley-Taylor of it,
:math:`b_S = 1/\binom{u}{k}` for :math:`S \subseteq U` and 0 otherwise, which sums to the 1 that
the grand coalition demands. It is the solution if the gradient
:math:`g(S) = \sum_{T \supseteq S,\, T \ne N} \pi(t)\, r(T)` is the same for all S (the
multiplier of the constraint), :math:`r(T) = [U \subseteq T] - \binom{c}{k}/\binom{u}{k}` being
the residual and :math:`c = |T \cap U|`. There are :math:`\binom{n-k}{t-k}` coalitions T of size t
that contain S, and :math:`\binom{n}{t} \binom{t}{k} = \binom{n}{k} \binom{n-k}{t-k}`, so that up
to a constant factor

.. math:: g(S) = \sum_{t=k}^{n-1} \frac{E[r(T_t)]}{n - t},

:math:`T_t` being the first t players of a random order that begins with S. The next to arrive is
each of the absent with probability :math:`1/(n-t)`, a member of U with :math:`(u-c)/(n-t)`. Choose
a function :math:`\varphi` of c with
:math:`(u - c)(\varphi(c+1) - \varphi(c)) = \binom{c}{k}/\binom{u}{k}` for :math:`c < u`. Then
:math:`-r(T_t)/(n-t)` is what :math:`\varphi` is expected to gain from t to t + 1 (nothing once
c = u, where r = 0), the sum telescopes, and :math:`-g(S) = \varphi(u) - \varphi(|S \cap U|)`.
As :math:`\varphi` does not move below k, and :math:`|S \cap U| \le k`, that is
:math:`\varphi(u) - \varphi(k)` for every S. The solution is unique: the rows of size k alone
determine every coefficient.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.coalitions.enumerate import members_of_size
from shapjax.core.errors import ShapjaxError
from shapjax.core.memory import require_memory
from shapjax.core.precision import precision_scope
from shapjax.estimators.conjugate import (
    Map,
    Operator,
    Solution,
    least_squares,
    least_squares_mixed,
    smallest_eigenvalue,
)
from shapjax.estimators.designs import Design, dense_design, design_of_order
from shapjax.estimators.heavy_rows import capacitance, preconditioner, split_rows
from shapjax.estimators.pair_rows import PairRows, pair_rows
from shapjax.estimators.sampling import Plan, size_law
from shapjax.estimators.subsets import Products, dividends_below

LARGE_WEIGHT = 1e8
"""Weight of a constrained row in the papers' form of the regression."""

SMALLEST_RATIO = 1e-20
"""Least weight of a row beside the constrained ones that float64 still resolves: at n = 40 the
kernel goes down to 1e-21 of them and pair terms are good to four digits, at n = 60 to none."""

DOUBTFUL = 1e-2
"""Below this a smallest eigenvalue found in float32 is looked for in float64."""


class Fit(NamedTuple):
    """Result of a regression.

    Attributes:
        coefficients: per size 0..order, float [C(n, size)], lexicographic.
        steps: conjugate-gradient steps taken; 0 for a dense solve.
        gradient: norm of the whitened least-squares gradient relative to that of the residual,
            zero at the solution; 0 for a dense solve.
        smallest: how far the system is from singular, which is at 0: about its smallest
            eigenvalue (from above), whitened so that the sizes drawn let expect 1; of a dense
            solve the smallest singular value over the largest.
        singular: whether the rows leave coefficients undetermined. Then these are, of all that
            fit best, those of least norm.
    """

    coefficients: tuple[jax.Array, ...]
    steps: jax.Array
    gradient: jax.Array
    smallest: jax.Array
    singular: jax.Array


@functools.partial(jax.jit, static_argnames="order")
def fit_eliminated(free: jax.Array, values: jax.Array, weights: jax.Array, *, order: int) -> Fit:
    """The regression with its constraints eliminated exactly, solved matrix-free.

    The unknowns are whitened by the inverse square root of the Gram matrix that the sizes drawn
    let expect, a closed form, and stay orthogonal to the constant vector, so their sum never
    changes; the rows of largest leverage are preconditioned exactly (``heavy_rows``). In float64
    most steps are taken in float32 and refined.

    Args:
        free: masks of sizes order..n-1, Boolean [rows, n].
        values: worth of the constrained coalitions (sizes below order, then the grand one),
            then of the free ones, float [c + rows].
        weights: float [rows]; only their ratios matter.
        order: k, at least 1; static.

    Returns:
        Fit in the dtype of the values. Under ``vmap`` it is a batch of problems.

    Cost: O(rows n**k) a step, memory O(rows n + n**k); never the [rows, C(n, k)] design.
    """
    rows, n = free.shape
    dtype, count = values.dtype, math.comb(n, order)
    lower = dividends_below(values, n, order)
    total = values[-rows - 1] - sum(part.sum() for part in lower)
    if rows == 0 or count == 1:
        zero = jnp.zeros((), dtype)
        top = jnp.full(count, total / count, dtype)
        return Fit((*lower, top), jnp.zeros((), jnp.int32), zero, zero, jnp.asarray(count > 2))
    system = whitened(free, weights.astype(dtype), order)
    (design, wide), (_, narrow) = system.operator(dtype), system.operator(jnp.float32)
    held = np.array([math.comb(s, order) / count for s in range(n + 1)])
    known = lower[0] + total * jnp.asarray(held, dtype)[free.sum(axis=1)]
    if order > 1:
        # Summed where they are, because a product would turn all masks into numbers at once.
        known = known + jnp.where(free, lower[1], 0).sum(axis=1)
    for size in range(2, order):
        known = known + Products(free.astype(dtype), size).apply(lower[size])
    left = values[-rows:] - known
    target = system.target(left)
    # Squared norms must neither overflow nor vanish, whatever the units of the game.
    largest = jnp.abs(target).max()
    unit = jnp.where(largest > 0, largest, 1)
    if dtype == jnp.float64:
        found = least_squares_mixed(wide, narrow, target / unit)
    else:
        found = least_squares(wide, target / unit)
    base = design.constant(total / count)
    change, steps = design.whiten(found.u), found.steps
    few = rows < count - 1
    smallest = jnp.zeros((), dtype) if few else _smallest(design, wide, narrow)
    singular = smallest < (1e-9 if dtype == jnp.float64 else 1e-5)
    nearest = _least_norm(design, free, system.weights, order, jnp.where(singular, change, 0))
    top = design.flatten(base + unit * jnp.where(singular, nearest.u, change))
    return Fit((*lower, top), steps + nearest.steps, found.gradient, smallest, singular)


class System(NamedTuple):
    """The rows of a regression, ready for conjugate gradients in any precision.

    Attributes:
        free: Boolean [rows, n].
        weights: float [rows], sum one.
        order: k.
        law: weight of the sizes of the rows that are not heavy, float [n+1].
        heavy: masks, weights and capacitance of the rows preconditioned exactly, or None.
        packed: the rows of a regression on pairs, or None.
    """

    free: jax.Array
    weights: jax.Array
    order: int
    law: jax.Array
    heavy: tuple[jax.Array, jax.Array, jax.Array] | None
    packed: PairRows | None

    def operator(self, dtype: Any) -> tuple[Design, Operator]:
        """The design, and whitened coefficients to weighted rows with their preconditioner."""
        design = design_of_order(self.free.astype(dtype), self.order, self.law.astype(dtype))
        forward, adjoint = _weighted(design, self.packed, self.weights, dtype)
        operator = Operator(
            lambda u: forward(design.whiten(u)), lambda r: design.whiten(adjoint(r))
        )
        if self.heavy is not None:
            exact = preconditioner(*self.heavy, self.law, dtype)
            operator = operator._replace(precondition=exact)
        return design, operator

    def target(self, values: jax.Array) -> jax.Array:
        """Values of the rows as the operator has them, times the roots of their weights."""
        if self.packed is not None:
            return self.packed.gather(values)
        return jnp.sqrt(self.weights).astype(values.dtype) * values


def whitened(free: jax.Array, weights: jax.Array, order: int) -> System:
    """The whitened system of weighted rows.

    Args:
        free: Boolean [rows, n].
        weights: float [rows]; only their ratios matter.
        order: k.
    """
    weights = weights / weights.sum()
    heavy, law = split_rows(free, weights, order, size_law(free.shape[1], order))
    taken = free[heavy], weights[heavy]
    exact = (*taken, capacitance(*taken, law)) if heavy.size else None
    packed = pair_rows(free, weights) if order == 2 else None
    return System(free, weights, order, law, exact, packed)


def _weighted(
    design: Design, packed: PairRows | None, weights: jax.Array, dtype: Any
) -> tuple[Map, Map]:
    """Coefficients to rows times the roots of their weights, and the transpose."""
    if packed is not None:
        return packed.forward(dtype), packed.adjoint(dtype)
    root = jnp.sqrt(weights).astype(dtype)
    return lambda a: root * design.apply(a), lambda r: design.adjoint(root * r)


def _centre(design: Design, a: jax.Array) -> jax.Array:
    """Coefficients with their mean taken off."""
    ones = design.constant(1.0)
    return a - a.sum() / ones.sum() * ones


def _smallest(design: Design, wide: Operator, narrow: Operator) -> jax.Array:
    """About the smallest eigenvalue of the whitened system: in float32, in doubt in float64."""
    ones = design.constant(1.0)
    probe = jax.random.normal(jax.random.key(0), ones.shape, ones.dtype) * ones
    probe = _centre(design, probe + probe.T if probe.ndim > 1 else probe)
    first = smallest_eigenvalue(narrow, probe.astype(jnp.float32))
    found = first.gradient.astype(ones.dtype)
    if ones.dtype != jnp.float64:
        return found
    doubtful = found < DOUBTFUL
    # Where there is no doubt the second search has nothing to look for and takes no step.
    probe, seen = (jnp.where(doubtful, a, 0) for a in (probe, first.u.astype(probe.dtype)))
    again = smallest_eigenvalue(wide, probe, seen)
    return jnp.where(doubtful, again.gradient, found)


def _least_norm(
    design: Design, free: jax.Array, weights: jax.Array, order: int, change: jax.Array
) -> Solution:
    """The coefficients of least norm that mean the same to every row, zero-sum.

    Rows are brought to one norm, which changes nothing but the number of steps, since here every
    row can be met.
    """
    n, count = free.shape[1], math.comb(free.shape[1], order)
    held = [math.comb(s, order) for s in range(n + 1)]
    norms = np.sqrt([max(h - h * h / count, 1.0) if h else 1.0 for h in held])
    scale = jnp.asarray(1 / norms, change.dtype)[free.sum(axis=1)] * (weights > 0)
    packed = pair_rows(free, scale**2) if order == 2 else None
    forward, adjoint = _weighted(design, packed, scale**2, change.dtype)
    operator = Operator(
        lambda a: forward(_centre(design, a)), lambda r: _centre(design, adjoint(r))
    )
    return least_squares(operator, operator.forward(change))


def fit_large_weight(plan: Plan, values: np.ndarray, *, order: int) -> Fit:
    """The regression as the papers state it: constrained rows of weight 1e8, one dense solve.

    Always in float64: in float32 no dense solver survives the spread of the weights. The kernel
    keeps its own scale, since normalising it beside 1e8 costs digits.

    Args:
        plan: the coalitions and their weights.
        values: worth of the constrained, then of the free coalitions, [c + rows].
        order: k.

    Returns:
        Fit in float64 NumPy arrays.

    Raises:
        MemoryRefused: the dense design does not fit into memory.
        ShapjaxError: the kernel's weights are too small beside 1e8 for float64.

    Source: Hamilton et al. 2022, section 5.2.
    """
    n = plan.constrained.shape[1]
    masks = np.concatenate([plan.constrained, np.asarray(plan.free)])
    counts = [math.comb(n, size) for size in range(order + 1)]
    require_memory(
        8 * 3 * len(masks) * sum(counts),
        f"the dense design of {len(masks)} rows and {sum(counts)} columns",
        'use constraints="eliminate", which never forms it',
    )
    sampled = plan.weights * plan.scale
    if sampled.min(initial=1.0) < SMALLEST_RATIO * LARGE_WEIGHT:
        raise ShapjaxError(
            f"the kernel's weights go down to {sampled.min():.1e}, too little beside rows of "
            f'{LARGE_WEIGHT:.0e}; use constraints="eliminate", or kernel-direct.'
        )
    weights = np.concatenate([np.full(len(plan.constrained), LARGE_WEIGHT), sampled])
    members = [members_of_size(n, size) for size in range(order + 1)]
    with precision_scope(np.float64):
        root = jnp.sqrt(jnp.asarray(weights))
        design = dense_design(jnp.asarray(masks, jnp.float64), members)
        target = root * jnp.asarray(values, jnp.float64)
        solution, _, rank, spectrum = map(
            np.asarray, jnp.linalg.lstsq(root[:, None] * design, target)
        )
    split = np.split(solution, np.cumsum(counts)[:-1])
    smallest = spectrum[-1] / spectrum[0]
    singular = rank < len(solution)
    return Fit(tuple(split), np.int32(0), np.float64(0), smallest, singular)  # pyright: ignore
