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
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.coalitions.enumerate import members_of_size
from shapjax.core.errors import ShapjaxError
from shapjax.core.memory import require_memory
from shapjax.core.precision import precision_scope
from shapjax.estimators.designs import dense_design, design_of_order
from shapjax.estimators.sampling import Plan, size_law
from shapjax.estimators.subsets import Products, dividends_below

LARGE_WEIGHT = 1e8
"""Weight of a constrained row in the papers' form of the regression."""

SMALLEST_RATIO = 1e-20
"""Least weight of a row beside the constrained ones that float64 still resolves: at n = 40 the
kernel goes down to 1e-21 of them and pair terms are good to four digits, at n = 60 to none."""

MAX_STEPS = 1000
PATIENCE = 50
"""Steps without a smaller gradient after which the solver has reached its floor."""


class Fit(NamedTuple):
    """Result of a regression.

    Attributes:
        coefficients: per size 0..order, float [C(n, size)], lexicographic.
        steps: conjugate-gradient steps taken; 0 for a dense solve.
        gradient: norm of the whitened least-squares gradient relative to that of the residual,
            zero at the solution; 0 for a dense solve.
    """

    coefficients: tuple[jax.Array, ...]
    steps: jax.Array
    gradient: jax.Array


@functools.partial(jax.jit, static_argnames="order")
def fit_eliminated(free: jax.Array, values: jax.Array, weights: jax.Array, *, order: int) -> Fit:
    """The regression with its constraints eliminated exactly, solved matrix-free.

    The unknowns are whitened by the inverse square root of the Gram matrix that the kernel's
    law expects and stay orthogonal to the constant vector, so their sum never changes. Over all
    coalitions the whitening is exact and one step suffices.

    Args:
        free: masks of sizes order..n-1, Boolean [rows, n].
        values: worth of the constrained coalitions (sizes below order, then the grand one),
            then of the free ones, float [c + rows].
        weights: float [rows]; only their ratios matter.
        order: k, at least 1; static.

    Returns:
        Fit in the dtype of the values. With fewer independent rows than unknowns it is the
        solution of least whitened norm.

    Cost: O(rows n**k) a step, memory O(rows n + n**k); never the [rows, C(n, k)] design.
    """
    rows, n = free.shape
    lower = dividends_below(values, n, order)
    total = values[-rows - 1] - sum(part.sum() for part in lower)
    law = size_law(n, order)
    count = math.comb(n, order)
    z = free.astype(values.dtype)
    if rows == 0 or count == 1:
        nothing = jnp.zeros((), values.dtype)
        top = jnp.full(count, total / count, values.dtype)
        return Fit((*lower, top), jnp.zeros((), jnp.int32), nothing)
    design = design_of_order(z, order, law)
    base = design.constant(total / count)
    known = lower[0] + (z @ lower[1] if order > 1 else 0)
    known = known + sum(Products(z, size).apply(lower[size]) for size in range(2, order))
    root = jnp.sqrt(weights / weights.sum())
    target = root * (values[-rows:] - known - design.apply(base))
    # Squared norms must neither overflow nor vanish, whatever the units of the game.
    largest = jnp.abs(target).max()
    unit = jnp.where(largest > 0, largest, 1)
    solution, steps, gradient = least_squares(
        lambda u: root * design.apply(design.whiten(u)),
        lambda r: design.whiten(design.adjoint(root * r)),
        target / unit,
    )
    top = design.flatten(base + unit * design.whiten(solution))
    return Fit((*lower, top), steps, gradient)


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
        solution = np.asarray(jnp.linalg.lstsq(root[:, None] * design, target)[0])
    split = np.split(solution, np.cumsum(counts)[:-1])
    return Fit(tuple(split), np.int32(0), np.float64(0))  # pyright: ignore


def least_squares(
    forward: Callable[[jax.Array], jax.Array],
    adjoint: Callable[[jax.Array], jax.Array],
    target: jax.Array,
    *,
    reduction: float = 0.0,
    most_steps: int = MAX_STEPS,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Minimise ||forward(u) - target|| by conjugate gradients on the normal equations (CGLS).

    Starting from zero it finds the solution of least norm when there are many. It carries the
    residual rather than the normal equations' right-hand side, which saves digits.

    Args:
        forward: unknowns to rows.
        adjoint: its transpose.
        target: [rows].
        reduction: stop once the gradient is this much smaller than at the start; by default it
            goes on to rounding noise.
        most_steps: stop after as many.

    Returns:
        (u, steps taken, norm of the gradient relative to the residual).
    """
    tiny = jnp.finfo(target.dtype).tiny
    gradient = adjoint(target)
    norm = jnp.vdot(gradient, gradient)
    tolerance = (16 + 2 * math.sqrt(gradient.size)) * jnp.finfo(target.dtype).eps
    smallest = tolerance**2 * jnp.vdot(target, target)
    enough = reduction**2 * norm

    def going(state: _State) -> jax.Array:
        # Paige & Saunders: a whitened design has norm near one, so below this the gradient is
        # rounding noise of the residual.
        residual = jnp.vdot(state.residual, state.residual)
        more = (state.norm > tolerance**2 * residual) & (residual > smallest)
        more &= state.norm > enough
        return more & (state.step < most_steps) & (state.step - state.best_step < PATIENCE)

    def advance(state: _State) -> _State:
        image = forward(state.direction)
        length = state.norm / jnp.maximum(jnp.vdot(image, image), tiny)
        u = state.u + length * state.direction
        residual = state.residual - length * image
        gradient = adjoint(residual)
        norm = jnp.vdot(gradient, gradient)
        direction = gradient + norm / state.norm * state.direction
        better = norm < state.best_norm
        return _State(
            u,
            residual,
            direction,
            norm,
            state.step + 1,
            jnp.where(better, u, state.best),
            jnp.where(better, norm, state.best_norm),
            jnp.where(better, state.step + 1, state.best_step),
        )

    zero, step = jnp.zeros_like(gradient), jnp.zeros((), jnp.int32)
    first = _State(zero, target, gradient, norm, step, zero, norm, step)
    last = jax.lax.while_loop(going, advance, first)
    residual = jnp.maximum(jnp.vdot(last.residual, last.residual), tiny)
    return last.best, last.best_step, jnp.sqrt(last.best_norm / residual)


class _State(NamedTuple):
    """Where the conjugate gradients are, and the best point they have passed.

    At the floor of the precision the recurrences part from what they stand for and may run
    away, so the point of least gradient is the answer.
    """

    u: jax.Array
    residual: jax.Array
    direction: jax.Array
    norm: jax.Array
    step: jax.Array
    best: jax.Array
    best_norm: jax.Array
    best_step: jax.Array
