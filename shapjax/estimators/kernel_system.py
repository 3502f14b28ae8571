"""The least squares of a kernel regression, solved: how its rows act, and what they leave open."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.estimators.conjugate import MAX_STEPS, Map, Operator, State, least_squares
from shapjax.estimators.designs import Design, design_of_order, gram_table
from shapjax.estimators.heavy_rows import heaviest, inverse_with
from shapjax.estimators.pair_rows import pair_rows
from shapjax.estimators.rows import Alike, Rows, plain_rows
from shapjax.estimators.sampling import size_law

Array = jax.Array

LARGE = 1 << 24
"""Rows times players squared from which a regression on pairs is worth a longer compilation."""

KERNEL_SHARE = 0.01
"""Share of the kernel's own law in the expectation: no eigenvalue of it may vanish."""

SEEN = 1e-4
"""By how much the gradient falls in the search for the smallest eigenvalue, and in doubt:"""
SEEN_IN_DOUBT = 100
"""in units of the precision."""
DOUBTFUL = 1e-2
"""Smallest eigenvalue that is looked at more closely."""

FITTED = 1e-8
WEIGHED = 1e-7
"""Gradients, in units of the target's norm, at which a large system of too few rows is solved."""


class System(NamedTuple):
    """Rows and unknowns of a kernel regression on its hyperplane of zero-sum coefficients.

    Attributes:
        design: of the rows; its ``apply`` and ``adjoint`` know nothing of weights.
        rows: with their weights, which sum to one.
        invert: about the inverse of their Gram matrix.
        least: the smallest eigenvalue that the sizes of the rows let expect, in the norm of the
            array of coefficients.
        held: how many coefficients each row as it was given sums, float [rows].
    """

    design: Design
    rows: Rows
    invert: Map
    least: Array
    held: Array

    def operator(self, even: Array | None = None, whiten: Map | None = None) -> Operator:
        """Coefficients to weighted rows, preconditioned.

        Args:
            even: whether rows have norm one instead, without preconditioner, Boolean [].
            whiten: what makes even rows less alike; not always, for it is more to compile.
        """
        centre, roots = self.design.centre, self.rows.roots
        if even is not None:
            roots = jax.tree.map(lambda a, b: jnp.where(even, a, b), self.rows.even, roots)

        def whitened(r: Array) -> Array:
            return jax.lax.cond(even, whiten, _same, r) if whiten else r

        def adjoint(r: Array) -> Array:
            # Twice: at the solution the constant part of a gradient (the multiplier of the
            # constraint) dwarfs the rest, and no row would see what rounding leaves of it.
            return centre(centre(self.rows.adjoint(whitened(r), roots)))

        def precondition(a: Array) -> Array:
            return self.invert(a) if even is None else jax.lax.cond(even, _same, self.invert, a)

        def forward(a: Array) -> Array:
            return whitened(self.rows.forward(centre(a), roots))

        return Operator(forward, adjoint, precondition)


def system_of(free: Array, weights: Array, order: int, *, merged: bool = True) -> System:
    """The system of weighted rows.

    The preconditioner is the inverse of the Gram matrix that the sizes drawn let expect, a closed
    form; in a large regression on pairs the rows of largest leverage are in it as they are.

    Args:
        free: Boolean [rows, n].
        weights: float [rows]; only their ratios matter.
        order: k.
        merged: whether rows that are one equation may be added up; static.
    """
    rows, n = free.shape
    dtype, sizes = weights.dtype, free.sum(axis=1)
    weights = weights / weights.sum()
    table = gram_table(n, order)
    number = [math.comb(s, order) for s in range(n + 1)]
    of_row = jnp.asarray(np.column_stack([table, number]), dtype)[sizes]
    by_row, held = of_row[:, :-1], of_row[:, -1]
    kernel = jnp.asarray(KERNEL_SHARE * (size_law(n, order) @ table), dtype)
    expected = spectrum = weights @ by_row + kernel
    large = order == 2 and n > 3 and rows * n * n >= LARGE
    if large:
        heavy = heaviest(sizes, weights, expected, table)
        spectrum = weights.at[heavy].set(0) @ by_row + kernel
    design = design_of_order(free.astype(dtype), order, spectrum)
    invert = design.invert
    if large:
        invert = inverse_with(free[heavy], weights[heavy], spectrum, invert)
    pairs = large and merged
    weighted = pair_rows(free, weights) if pairs else plain_rows(weights, held, design)
    # A matrix of pairs holds each coefficient twice.
    copies = 2 if order == 2 else 1
    return System(design, weighted, invert, expected[-1] / copies, held)


class Solved(NamedTuple):
    """Where a system was solved.

    Attributes:
        change: the zero-sum coefficients; where singular, of all that fit best those of least
            norm.
        steps: conjugate-gradient steps taken.
        gradient: norm of the gradient relative to that of the residual.
        smallest: about the smallest eigenvalue of the Gram matrix of the rows, from above, over
            the least that their sizes let expect; infinite before it was looked for.
    """

    change: Array
    steps: Array
    gradient: Array
    smallest: Array

    @property
    def singular(self) -> Array:
        """Whether the rows leave coefficients undetermined, as far as the precision tells."""
        return self.smallest < (1e-9 if self.smallest.dtype == jnp.float64 else 1e-5)


def solve(system: System, target: Array, *, few: bool = False) -> Solved:
    """Solve, look for the smallest eigenvalue and, where singular, for the least norm.

    All three are the same conjugate gradients, so they are one program, run three times. The
    second fits nothing from a random start: what is left is what no row sees or, where they see
    everything, lies along the smallest eigenvalue. The third does so from the solution, without
    preconditioner: what is left is its part that no row sees, and is taken off.

    Args:
        system: the rows.
        target: their values, as ``system.rows.target`` has them.
        few: whether it is known that there are too few rows; static.
    """
    if few and system.rows.alike is not None:
        return _solve_few(system, system.rows.alike, target)
    dtype = target.dtype
    noise = SEEN_IN_DOUBT * float(jnp.finfo(dtype).eps)
    nothing = jnp.zeros((), dtype)
    shape = jax.eval_shape(system.design.constant, nothing).shape
    probe = _probe(shape) * (not few)
    floor = noise**2 * float((probe**2).sum())

    def smallest(square: Array, u: Array) -> Array:
        # A probe that was seen to the last digit leaves noise, whose quotient means nothing.
        if few:
            return nothing
        return (square / system.least + floor) / (jnp.vdot(u, u) + floor)

    def once(i: Array, found: Solved) -> Solved:
        solving, probing, nearest = i == 0, i == 1, i == 2
        start = jnp.where(
            probing, jnp.asarray(probe, dtype), jnp.where(found.singular, found.change, 0)
        )

        def enough(state: State) -> Array:
            sure = probing & (smallest(state.square, state.u) > DOUBTFUL)
            fall = jnp.where(solving, 0, jnp.where(sure, SEEN, noise))
            return state.norm <= fall**2 * state.first

        left = least_squares(
            system.operator(nearest),
            jnp.where(solving, target, 0),
            start=start,
            enough=enough,
            most_steps=jnp.where(nearest & ~found.singular, -1, MAX_STEPS),
        )
        return Solved(
            jnp.where(solving, left.u, jnp.where(probing, found.change, found.change - left.u)),
            found.steps + jnp.where(probing, 0, left.steps),
            jnp.where(solving, left.gradient, found.gradient),
            jnp.where(probing, smallest(left.square, left.u), found.smallest),
        )

    begun = Solved(jnp.zeros(shape, dtype), jnp.zeros((), jnp.int32), nothing, nothing + jnp.inf)
    return jax.lax.fori_loop(0, 3, once, begun)


def _solve_few(system: System, alike: Alike, target: Array) -> Solved:
    """The same of many rows that are too few, to about five digits.

    Nearly all of them can be fitted at once, and then their weights mean nothing: even rows, made
    less alike, give the solution of least norm in some hundred steps, where weighted ones take
    thousands. What cannot be fitted (three pairs and the coalition of their players, all drawn)
    is then weighed, which moves the solution little, and of that move again what no row sees is
    taken off. All three are one program, as in ``solve``.
    """
    dtype = target.dtype
    even = alike.whiten(alike.evened(target))
    norms = jnp.stack([FITTED * jnp.linalg.norm(even), WEIGHED * jnp.linalg.norm(target)])
    nothing = jnp.zeros((), dtype)
    zero = jnp.zeros_like(system.design.constant(nothing))

    def once(i: Array, found: tuple[Solved, Array]) -> tuple[Solved, Array]:
        solved, fitted = found
        fitting, weighing, nearest = i == 0, i == 1, i == 2
        left = least_squares(
            system.operator(~weighing, alike.whiten),
            jnp.where(fitting, even, jnp.where(weighing, target, 0)),
            start=jnp.where(fitting, 0, solved.change - jnp.where(nearest, fitted, 0)),
            enough=lambda state: state.norm <= jnp.where(weighing, *norms[::-1]) ** 2,
        )
        return Solved(
            jnp.where(nearest, solved.change - left.u, left.u),
            solved.steps + left.steps,
            jnp.where(weighing, left.gradient, solved.gradient),
            nothing,
        ), jnp.where(fitting, left.u, fitted)

    begun = Solved(zero, jnp.zeros((), jnp.int32), nothing, nothing)
    return jax.lax.fori_loop(0, 3, once, (begun, zero))[0]


def _same(a: Array) -> Array:
    return a


def _probe(shape: tuple[int, ...]) -> np.ndarray:
    """Random zero-sum coefficients, float64; of pairs as a symmetric matrix."""
    probe, ones = np.random.default_rng(0).normal(size=shape), np.ones(shape)
    if len(shape) > 1:
        probe, ones = probe + probe.T, 1 - np.eye(len(probe))
    return ones * (probe - (ones * probe).sum() / ones.sum())
