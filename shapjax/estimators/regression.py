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
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.coalitions.enumerate import members_of_size
from shapjax.core.errors import ShapjaxError
from shapjax.core.memory import require_memory
from shapjax.core.precision import precision_scope
from shapjax.estimators.designs import dense_design
from shapjax.estimators.kernel_system import solve, system_of
from shapjax.estimators.sampling import Plan
from shapjax.estimators.subsets import Products, dividends_below

LARGE_WEIGHT = 1e8
"""Weight of a constrained row in the papers' form of the regression."""

SMALLEST_RATIO = 1e-20
"""Least weight of a row beside the constrained ones that float64 still resolves: at n = 40 the
kernel goes down to 1e-21 of them and pair terms are good to four digits, at n = 60 to none."""


class Fit(NamedTuple):
    """Result of a regression.

    Attributes:
        coefficients: per size 0..order, float [C(n, size)], lexicographic.
        steps: conjugate-gradient steps taken; 0 for a dense solve.
        gradient: norm of the preconditioned least-squares gradient relative to that of the
            residual, zero at the solution; 0 for a dense solve.
        smallest: how far the rows are from leaving coefficients undetermined, which is at 0:
            about the smallest eigenvalue of their Gram matrix (from above), over the least that
            their sizes let expect; of a dense solve the smallest singular value over the largest.
        singular: whether they do. Of all coefficients that fit best these then are those of
            least norm.
    """

    coefficients: tuple[jax.Array, ...]
    steps: jax.Array
    gradient: jax.Array
    smallest: jax.Array
    singular: jax.Array


@functools.partial(jax.jit, static_argnames="order")
def fit_eliminated(free: jax.Array, values: jax.Array, weights: jax.Array, *, order: int) -> Fit:
    """The regression with its constraints eliminated exactly, solved matrix-free.

    The unknowns are zero-sum changes of equal coefficients, so their sum never changes, and
    preconditioned by the inverse of the Gram matrix that the sizes drawn let expect. Over all
    coalitions that is exact and one step suffices.

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
        return Fit((*lower, top), jnp.zeros((), jnp.int32), zero, zero, jnp.asarray(count > 1))
    system = system_of(free, weights.astype(dtype), order)
    base = system.design.constant(total / count)
    known = lower[0] + total / count * system.held
    if order > 1:
        # Summed where they are, because a product would turn all masks into numbers at once.
        known = known + jnp.where(free, lower[1], 0).sum(axis=1)
    for size in range(2, order):
        known = known + Products(free.astype(dtype), size).apply(lower[size])
    target = system.rows.target(values[-rows:] - known)
    # Squared norms must neither overflow nor vanish, whatever the units of the game.
    largest = jnp.abs(target).max()
    unit = jnp.where(largest > 0, largest, 1)
    found = solve(system, target / unit, few=rows < count - 1)
    top = system.design.flatten(base + unit * system.design.centre(found.change))
    return Fit((*lower, top), found.steps, found.gradient, found.smallest, found.singular)


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
    smallest, singular = spectrum[-1] / spectrum[0], rank < len(solution)
    return Fit(tuple(split), np.int32(0), np.float64(0), smallest, singular)  # pyright: ignore
