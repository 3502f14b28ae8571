"""Exact values and interaction indices of a game."""

from __future__ import annotations

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.coalitions.enumerate import all_masks
from shapjax.core.checks import players_of_table, whole_number
from shapjax.core.errors import ShapjaxError
from shapjax.core.evaluate import DEFAULT_CHUNK, Progress, ValueFunction, evaluate
from shapjax.core.interactions import Interactions
from shapjax.core.memory import require_memory
from shapjax.core.precision import float_array, precision_scope
from shapjax.indices.blocks import HIGHEST_BY_BLOCKS
from shapjax.indices.kernels import share_dividends
from shapjax.indices.streaming import stream
from shapjax.indices.weights import index_and_order, weight_table

TABLE_PLAYERS = 20
"""Players up to which the table of a value function is made whole: 8 MiB in float64."""


def interactions(
    values: jax.Array | ValueFunction,
    index: str = "STII",
    order: int | None = None,
    *,
    n_players: int | None = None,
    chunk_size: int = DEFAULT_CHUNK,
    progress: Progress | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Interactions:
    r"""Exact interaction indices of a game.

    ``"STII"``, the Shapley-Taylor index: the dividend d(S) for :math:`|S| < k` and
    :math:`\sum_{T \supseteq S} d(T) / \binom{|T|}{k}` for :math:`|S| = k`; all terms of size 1
    to k sum to :math:`v(N) - v(\emptyset)`. ``"SV"``, the Shapley value (order 1).

    Args:
        values: worth of every coalition, float [..., 2**n], bit i of the rank = player i; or a
            value function, Boolean [B, n] to [B], which is then evaluated on all 2**n
            coalitions: block by block, keeping only sums of the size of the result, for more
            than 20 players and an order of at most 3.
        index: ``"STII"`` or ``"SV"``; static.
        order: size k of the largest coalitions, 1 <= k <= n; 2 by default (1 for SV); static.
        n_players: n, only with a value function.
        chunk_size: coalitions per call of a value function.
        progress: called with (done, total) while a value function is evaluated.
        checkpoint: file that the sums over blocks are saved to, every minute and when interrupted;
            the same call goes on from it, to the same bits. A game without data of its own
            (no ``jax.tree_util.Partial``) is recognised by the worth of eight coalitions.

    Returns:
        Interactions with coefficients of shape [..., C(n, s)] for s = 0..k, in the dtype of the
        values.

    Raises:
        ShapjaxError: wrong shape, index, order or number of players.
        DtypeError: a float64 table while JAX's 64-bit mode is off.
        MemoryRefused: the table of a value function does not fit into memory.
        ValueFunctionError: the value function misbehaved.

    Cost: up to order 3 a few reads of the table, else O(k n 2**n); memory of a few tables. Sums
    over blocks are compensated: 2**26 terms lose no digits even in float32.

    Source: Sundararajan et al. 2020; Hamilton et al. 2022, eq. 5.
    """
    if callable(values):
        return _of_value_function(values, index, order, n_players, chunk_size, progress, checkpoint)
    if checkpoint is not None:
        raise ShapjaxError("checkpoint is given with a table of values; it needs a value function.")
    if n_players is not None:
        raise ShapjaxError(
            "n_players is given beside a table of values, which tells it by its length; "
            "leave it out."
        )
    table = float_array(values, "values")
    n = players_of_table(table.shape, "values")
    return _interactions(table, *index_and_order(index, order, n))


def shapley_value(values: jax.Array) -> jax.Array:
    r"""Shapley values of all players.

    :math:`\varphi_i = \sum_{S \not\ni i} \frac{|S|!\,(n-|S|-1)!}{n!} (v(S \cup i) - v(S))`.

    Args:
        values: worth of every coalition, float [..., 2**n]; bit i of the rank is player i.

    Returns:
        [..., n], same dtype; they sum to v(N) - v(empty).

    Raises:
        ShapjaxError, DtypeError: as ``interactions``.

    Cost: O(2**n), two reads of the table.

    Source: Shapley 1953; Hamilton et al. 2022, eq. 1.
    """
    table = float_array(values, "values")
    players_of_table(table.shape, "values")
    return jnp.asarray(_interactions(table, "SV", 1).singles)


def _of_value_function(
    value_fn: ValueFunction,
    index: str,
    order: int | None,
    n_players: int | None,
    chunk_size: int,
    progress: Progress | None,
    checkpoint: str | os.PathLike[str] | None,
) -> Interactions:
    if n_players is None:
        raise ShapjaxError("a value function was given without n_players; say how many there are.")
    n = whole_number(n_players, "n_players", low=0)
    index, order = index_and_order(index, order, n)
    if checkpoint is not None or (n > TABLE_PLAYERS and order <= HIGHEST_BY_BLOCKS):
        coefficients = stream(
            value_fn,
            weight_table(index, order, n),
            chunk_size=whole_number(chunk_size, "chunk_size", low=1),
            progress=progress,
            checkpoint=checkpoint,
        )
        return Interactions(coefficients, index, n)
    require_memory(
        (1 << n) * (n + 32),
        f"the table of all 2^{n} coalitions",
        f"an order of at most {HIGHEST_BY_BLOCKS} is streamed without a table, and "
        "shapjax.estimate needs only a budget of coalitions",
    )
    masks = all_masks(n)
    values = evaluate(value_fn, masks, chunk_size=chunk_size, progress=progress)
    if isinstance(values, jax.Array):
        return _interactions(values, index, order)
    with precision_scope(values.dtype):
        return jax.tree.map(np.asarray, _interactions(jnp.asarray(values), index, order))


@functools.partial(jax.jit, static_argnames=("index", "order"))
def _interactions(table: jax.Array, index: str, order: int) -> Interactions:
    n = players_of_table(table.shape, "values")
    return Interactions(share_dividends(table, weight_table(index, order, n)), index, n)
