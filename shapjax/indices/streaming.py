"""Exact indices of a value function with nothing of size 2**n in memory.

Coalitions are made block by block, evaluated and folded into sums of the size of the result
(``blocks``). Blocks are added in one fixed order and with the rounding error of every addition
carried along, so 2**26 terms lose no digits even in float32, and a run that was interrupted and
resumed from its checkpoint gives the very same bits.
"""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from shapjax.coalitions.enumerate import unrank
from shapjax.core.errors import ShapjaxError, ValueFunctionError
from shapjax.core.interactions import load_npz, save_npz
from shapjax.core.precision import float_array, precision_scope
from shapjax.core.worths import Progress, ValueFunction, as_game, is_traceable, worths
from shapjax.indices.blocks import Sums, block_sums, coefficients_of, no_sums, require_order
from shapjax.indices.worths import superset_weights

MOST_PLAYERS = 48
"""Evaluating the coalitions of more would take years, however fast the game."""

BLOCK_PLAYERS = 16
"""Low players of a block of a JAX function: enough work per step to hide its start."""

MOST_LOW_PLAYERS = 20
"""Low players of any block, whatever the chunk size: masks of some ten megabytes."""

SECONDS_BETWEEN_SAVES = 60.0

PROBES = 8
"""Coalitions whose worth tells one game from another when a checkpoint is opened."""


class Plan(NamedTuple):
    """What is static about a stream: players by half, order of the index, rows per call."""

    high: int
    low: int
    order: int
    rows: int


class _State(NamedTuple):
    """Sums so far, what rounding took from them, and the next block."""

    sums: Sums
    lost: Sums
    block: int


def stream(
    value_fn: ValueFunction,
    gamma: np.ndarray,
    *,
    chunk_size: int,
    progress: Progress | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> tuple[jax.Array, ...] | tuple[np.ndarray, ...]:
    r"""Coefficients :math:`I(S) = \sum_T \gamma_{|S|}(|T|, |T \cap S|)\, v(T)` of a game.

    Args:
        value_fn: Boolean [B, n] to [B]; a JAX function runs in one compiled step per block, any
            other callable in a loop on the host.
        gamma: of ``worth_weights``, [k+1, n+1, k+1], k at most 3.
        chunk_size: most coalitions per call; the largest power of two in it is used.
        progress: called with (coalitions done, 2**n) after every block.
        checkpoint: file to save the sums to, every minute and when interrupted; a call that finds
            it goes on from there.

    Returns:
        Per size s = 0..k, [C(n, s)], lexicographic; JAX arrays from a JAX function, else NumPy.

    Raises:
        ShapjaxError: order above 3, too many players, or the checkpoint is of another call.
        ValueFunctionError: wrong shape or type, NaN or infinity.
    """
    order, n = gamma.shape[0] - 1, gamma.shape[1] - 1
    require_order(order, "lower it, or use shapjax.estimate with a budget of coalitions")
    if n > MOST_PLAYERS:
        raise ShapjaxError(
            f"n_players is {n}, and the coalitions of more than {MOST_PLAYERS} players cannot all "
            "be evaluated; use shapjax.estimate with a budget of coalitions."
        )
    traceable = is_traceable(value_fn, n)
    rows = min(chunk_size.bit_length() - 1, n, MOST_LOW_PLAYERS)
    low = min(max(rows, BLOCK_PLAYERS), n) if traceable else rows
    plan = Plan(n - low, low, order, 1 << rows)
    probes = np.asarray(worths(value_fn, _probe_masks(n), traceable=traceable))
    add = _traced_adder(value_fn, plan) if traceable else _host_adder(value_fn, plan)
    with precision_scope(probes.dtype):
        f = jnp.asarray(superset_weights(gamma), probes.dtype)
        identity = _identity(gamma, plan, value_fn, probes)
        state = _run(add, f, plan, probes.dtype, identity, checkpoint, progress)
        found = _coefficients(state, plan, probes.dtype)
        return tuple(map(jnp.asarray, found)) if traceable else found


def _coefficients(state: _State, plan: Plan, dtype: Any) -> tuple[np.ndarray, ...]:
    """Sums and what rounding took from them become one number in float64, then the index."""
    with jax.enable_x64(True):
        exact = {
            key: jnp.asarray(total, float) + jnp.asarray(state.lost[key], float)
            for key, total in state.sums.items()
        }
        coefficients = coefficients_of(exact, plan.high, plan.low, plan.order)
        return tuple(np.asarray(c).astype(dtype) for c in coefficients)


Adder = Callable[[Sums, Sums, np.ndarray, jax.Array], tuple[Sums, Sums]]


def _run(
    add: Adder,
    f: jax.Array,
    plan: Plan,
    dtype: Any,
    identity: dict[str, np.ndarray],
    checkpoint: str | os.PathLike[str] | None,
    progress: Progress | None,
) -> _State:
    nothing = no_sums(plan.high, plan.low, plan.order, dtype)
    state = _State(nothing, nothing, 0)
    if checkpoint is not None and Path(checkpoint).exists():
        state = _resume(checkpoint, identity, nothing)
    saved = time.monotonic()
    try:
        while state.block < 1 << plan.high:
            high_mask = np.array([state.block >> i & 1 for i in range(plan.high)], bool)
            # One assignment, so that an interrupt never sees sums and count of different blocks.
            state = _State(*add(state.sums, state.lost, high_mask, f), state.block + 1)
            if progress is not None:
                progress(state.block << plan.low, 1 << plan.high + plan.low)
            if checkpoint is not None and time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                _save(checkpoint, identity, state)
                saved = time.monotonic()
    finally:
        if checkpoint is not None:
            _save(checkpoint, identity, state)
    return state


def _traced_adder(value_fn: ValueFunction, plan: Plan) -> Adder:
    game = as_game(value_fn)

    def add(sums: Sums, lost: Sums, high_mask: np.ndarray, f: jax.Array) -> tuple[Sums, Sums]:
        sums, lost, bad = _evaluate_and_add(game, sums, lost, high_mask, f, plan)
        if int(bad) < 1 << plan.low:
            _refuse(int(bad), high_mask, plan)
        return sums, lost

    return add


@functools.partial(jax.jit, static_argnames="plan")
def _evaluate_and_add(
    game: Partial, sums: Sums, lost: Sums, high_mask: jax.Array, f: jax.Array, plan: Plan
) -> tuple[Sums, Sums, jax.Array]:
    def worth(ranks: jax.Array) -> jax.Array:
        high = jnp.broadcast_to(high_mask, (plan.rows, plan.high))
        return game(jnp.concatenate([unrank(ranks, plan.low), high], axis=1))

    ranks = jnp.arange(1 << plan.low, dtype=jnp.int32).reshape(-1, plan.rows)
    values = float_array(jax.lax.map(worth, ranks), "the value function's result").reshape(-1)
    first_bad = jnp.where(jnp.isfinite(values), 1 << plan.low, ranks.reshape(-1)).min()
    return *_add(values.astype(f.dtype), sums, lost, high_mask, f, plan), first_bad


def _host_adder(value_fn: ValueFunction, plan: Plan) -> Adder:
    low_masks = np.asarray(unrank(jnp.arange(1 << plan.low, dtype=jnp.int32), plan.low))

    def add(sums: Sums, lost: Sums, high_mask: np.ndarray, f: jax.Array) -> tuple[Sums, Sums]:
        high = np.broadcast_to(high_mask, (len(low_masks), plan.high))
        masks = np.concatenate([low_masks, high], axis=1)
        values = worths(value_fn, masks, chunk_size=plan.rows, traceable=False)
        return _add_block(jnp.asarray(values, f.dtype), sums, lost, high_mask, f, plan=plan)

    return add


def _add(
    values: jax.Array, sums: Sums, lost: Sums, high_mask: jax.Array, f: jax.Array, plan: Plan
) -> tuple[Sums, Sums]:
    """Add a block, and to ``lost`` what rounding takes from the sum (Knuth's two-sum)."""
    more = block_sums(values, high_mask, f, plan.order)
    total = {key: sums[key] + more[key] for key in more}
    error = {}
    for key, whole in total.items():
        added = whole - sums[key]
        error[key] = lost[key] + ((sums[key] - (whole - added)) + (more[key] - added))
    return total, error


_add_block = jax.jit(_add, static_argnames="plan")


def _refuse(low_rank: int, high_mask: np.ndarray, plan: Plan) -> None:
    members = [i for i in range(plan.low) if low_rank >> i & 1]
    members += [plan.low + int(i) for i in np.flatnonzero(high_mask)]
    raise ValueFunctionError(
        f"the value function returned NaN or infinity, first for players {members}; "
        "make it finite for every coalition."
    )


def _probe_masks(n: int) -> np.ndarray:
    masks = np.random.default_rng(n).random((PROBES, n)) < 0.5
    masks[0], masks[1] = False, True
    return masks


def _identity(
    gamma: np.ndarray, plan: Plan, value_fn: ValueFunction, probes: np.ndarray
) -> dict[str, np.ndarray]:
    """What a checkpoint must share with the call that opens it."""
    digest = hashlib.sha256(gamma.astype(float).tobytes())
    if isinstance(value_fn, Partial):
        for leaf in jax.tree.leaves(value_fn):
            if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                leaf = jax.random.key_data(leaf)
            digest.update(np.asarray(leaf).tobytes())
    return {
        "plan": np.array(plan, np.int64),
        "index_and_game": np.array(digest.hexdigest()),
        "probes": probes,
    }


def _save(path: str | os.PathLike[str], identity: dict[str, np.ndarray], state: _State) -> None:
    arrays = {f"sum {key}": np.asarray(value) for key, value in state.sums.items()}
    arrays |= {f"lost {key}": np.asarray(value) for key, value in state.lost.items()}
    save_npz(path, {**identity, "block": np.array(state.block, np.int64), **arrays})


def _resume(path: str | os.PathLike[str], identity: dict[str, np.ndarray], nothing: Sums) -> _State:
    arrays = load_npz(path)
    same = arrays.keys() >= {*identity, "block", *(f"lost {key}" for key in nothing)} and all(
        arrays[key].dtype == value.dtype and np.array_equal(arrays[key], value)
        for key, value in identity.items()
    )
    if not same:
        raise ShapjaxError(
            f"the checkpoint {path} belongs to another game, index, order, number of players, "
            "precision or chunk size; give the arguments it was made with, or another file."
        )
    return _State(
        {key: jnp.asarray(arrays[f"sum {key}"]) for key in nothing},
        {key: jnp.asarray(arrays[f"lost {key}"]) for key in nothing},
        int(arrays["block"]),
    )
