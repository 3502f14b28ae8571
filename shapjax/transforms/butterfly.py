"""Transforms over the subset lattice that treat every player alike, at the speed of memory.

Each is a Kronecker power of one 2x2 matrix. Moving the table, not arithmetic, is what they cost:
several players are done per pass, and all passes that fit are done on one block in cache before
the next. JAX learns the transform as one linear primitive, so that ``vmap`` keeps the blocks
small and a gradient is the same transform with the transposed matrix.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from shapjax.core.checks import players_of_table

Matrix = tuple[int, int, int, int]
"""a, b, c, d: (without, with) player i becomes (a without + b with, c without + d with)."""

Step = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]

LOWEST = 4
"""Players whose pairs lie too close in memory for vectors: one small matrix product."""

BLOCK = 14
"""Players whose table stays in cache, 128 KiB in float64."""

COLUMNS = 512
"""Coalitions of those players that are taken at a time through all further players."""

RADIX = 2
"""Players per pass."""


def butterfly(table: jax.Array, matrix: Matrix) -> jax.Array:
    """Apply a 2x2 matrix to every pair of coalitions that differ by one player, all players.

    Args:
        table: finite, float [..., 2**n].
        matrix: static.
    """
    players_of_table(table.shape, "table")
    return _butterfly_p.bind(table, matrix=matrix)


def _apply(table: jax.Array, *, matrix: Matrix) -> jax.Array:
    n = players_of_table(table.shape, "table")
    low, block = min(LOWEST, n), min(BLOCK, n)
    step = _step_of(matrix)
    power = _pass(jnp.eye(1 << low, dtype=table.dtype), step, 0, low)

    def within(part: jax.Array) -> jax.Array:
        rows = part.reshape(*part.shape[:-1], -1, 1 << low)
        part = jnp.matmul(rows, power, precision="highest").reshape(part.shape)
        return _passes(part, step, low, block)

    if table.size <= 1 << BLOCK:
        return within(table)
    blocks = table.reshape(-1, 1 << block)
    blocks = jax.lax.map(within, blocks, batch_size=1 << BLOCK - block)
    if n == block:
        return blocks.reshape(table.shape)
    games = blocks.reshape(-1, 1 << n - block, 1 << block)
    per_game = games.shape[2] // COLUMNS

    def across(i: jax.Array, games: jax.Array) -> jax.Array:
        start = (i // per_game, 0, i % per_game * COLUMNS)
        part = jax.lax.dynamic_slice(games, start, (1, games.shape[1], COLUMNS))
        columns = COLUMNS.bit_length() - 1
        part = _passes(part.reshape(-1), step, columns, columns + n - block)
        return jax.lax.dynamic_update_slice(games, part.reshape(1, -1, COLUMNS), start)

    # In place: memory that is new to the process costs more than all of the arithmetic.
    return jax.lax.fori_loop(0, len(games) * per_game, across, games).reshape(table.shape)


def step_by_step(table: jax.Array, step: Step) -> jax.Array:
    """Any ``step`` instead of a matrix: same pairs, but no table faster than its passes.

    Args:
        table: [..., 2**n].
        step: maps the entries (without player i, with player i) to their new values.
    """
    return _passes(table, step, 0, players_of_table(table.shape, "table"))


def _passes(table: jax.Array, step: Step, first: int, stop: int) -> jax.Array:
    for player in range(first, stop, RADIX):
        table = _pass(table, step, player, min(RADIX, stop - player))
    return table


def _pass(table: jax.Array, step: Step, player: int, count: int) -> jax.Array:
    """The butterflies of ``count`` players from ``player`` on, in one fused loop."""
    split = table.reshape(*table.shape[:-1], -1, 1 << count, 1 << player)
    parts = [split[..., rank, :] for rank in range(1 << count)]
    for bit in range(count):
        for rank in range(1 << count):
            if not rank >> bit & 1:
                with_ = rank | 1 << bit
                parts[rank], parts[with_] = step(parts[rank], parts[with_])
    return jnp.stack(parts, axis=-2).reshape(table.shape)


def _step_of(matrix: Matrix) -> Step:
    a, b, c, d = matrix
    return lambda x, y: (_combination(a, x, b, y), _combination(c, x, d, y))


def _combination(a: int, x: jax.Array, b: int, y: jax.Array) -> jax.Array:
    terms = [z if factor == 1 else factor * z for factor, z in ((a, x), (b, y)) if factor]
    return sum(terms[1:], terms[0])


def compensated_moebius(table: jax.Array) -> jax.Array:
    """The Möbius transform with every number held as a rounded one and what rounding took."""
    n = players_of_table(table.shape, "values")
    rounded, rest = table, jnp.zeros_like(table)
    for player in range(n):
        shape = (*table.shape[:-1], -1, 2, 1 << player)
        (x, y), (dx, dy) = (
            (part.reshape(shape)[..., 0, :], part.reshape(shape)[..., 1, :])
            for part in (rounded, rest)
        )
        difference = y - x
        taken = difference - y
        error = (y - (difference - taken)) - (x + taken) + (dy - dx)
        whole = difference + error
        error = error - (whole - difference)
        rounded = jnp.stack([x, whole], axis=-2).reshape(table.shape)
        rest = jnp.stack([dx, error], axis=-2).reshape(table.shape)
    return rounded + rest


def _transposed(cotangent: jax.Array, table: jax.Array, *, matrix: Matrix) -> list[jax.Array]:
    a, b, c, d = matrix
    return [_butterfly_p.bind(cotangent, matrix=(a, c, b, d))]


def _batched(tables: list[jax.Array], axes: list[int], *, matrix: Matrix):
    return _butterfly_p.bind(jnp.moveaxis(tables[0], axes[0], 0), matrix=matrix), 0


_butterfly_p = Primitive("subset_butterfly")
_butterfly_p.def_impl(jax.jit(_apply, static_argnames="matrix"))
_butterfly_p.def_abstract_eval(lambda table, *, matrix: table)
ad.deflinear2(_butterfly_p, _transposed)
batching.primitive_batchers[_butterfly_p] = _batched
mlir.register_lowering(_butterfly_p, mlir.lower_fun(_apply, multiple_results=False))
