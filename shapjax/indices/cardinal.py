r"""Exact interaction indices: one table of weights per index, one kernel for all.

An index that depends on coalitions only through their sizes shares the Harsanyi dividends,
:math:`I(S) = \sum_{T \supseteq S} w(|S|, |T|)\, d(T)`; adding an index is adding a row to
``WEIGHTS``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.coalitions.enumerate import all_masks, ranks_of_size, sizes_of_ranks
from shapjax.core.checks import one_of, players_of_table, whole_number
from shapjax.core.errors import ShapjaxError
from shapjax.core.evaluate import DEFAULT_CHUNK, Progress, ValueFunction, evaluate
from shapjax.core.interactions import Interactions
from shapjax.core.memory import require_memory
from shapjax.core.precision import float_array, precision_scope
from shapjax.transforms.moebius import moebius, superset_sums

Weight = Callable[[int, int, int], float]
"""w(s, t; k): the share of the dividend of a coalition of size t that each of its
sub-coalitions of size s receives, 0 <= s <= t, for an index of order k."""


def _own(s: int, t: int) -> float:
    return float(s == t)


def _shapley_taylor(s: int, t: int, order: int) -> float:
    """Below the top order the dividend itself, at the top order 1/C(t, k): ICLR eq. 5."""
    return _own(s, t) if s < order else 1 / math.comb(t, order)


def _shapley(s: int, t: int, order: int) -> float:
    return _shapley_taylor(s, t, 1)


WEIGHTS: dict[str, Weight] = {"SV": _shapley, "STII": _shapley_taylor}


def interactions(
    values: jax.Array | ValueFunction,
    index: str = "STII",
    order: int | None = None,
    *,
    n_players: int | None = None,
    chunk_size: int = DEFAULT_CHUNK,
    progress: Progress | None = None,
) -> Interactions:
    r"""Exact interaction indices of a game.

    ``"STII"``, the Shapley-Taylor index: the dividend d(S) for :math:`|S| < k` and
    :math:`\sum_{T \supseteq S} d(T) / \binom{|T|}{k}` for :math:`|S| = k`; all terms of size 1
    to k sum to :math:`v(N) - v(\emptyset)`. ``"SV"``, the Shapley value (order 1).

    Args:
        values: worth of every coalition, float [..., 2**n], bit i of the rank = player i; or a
            value function, Boolean [B, n] to [B], which is then evaluated on all 2**n
            coalitions.
        index: ``"STII"`` or ``"SV"``; static.
        order: size k of the largest coalitions, 1 <= k <= n; 2 by default (1 for SV); static.
        n_players: n, only with a value function.
        chunk_size: coalitions per call of a value function.
        progress: called with (done, total) while a value function is evaluated.

    Returns:
        Interactions with coefficients of shape [..., C(n, s)] for s = 0..k, in the dtype of the
        values.

    Raises:
        ShapjaxError: wrong shape, index, order or number of players.
        DtypeError: a float64 table while JAX's 64-bit mode is off.
        MemoryRefused: the table of a value function does not fit into memory.
        ValueFunctionError: the value function misbehaved.

    Cost: O(k n 2**n) time, a few tables of 2**n of memory.

    Source: Sundararajan et al. 2020; Hamilton et al. 2022, eq. 5.
    """
    if callable(values):
        return _of_value_function(values, index, order, n_players, chunk_size, progress)
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

    Cost: O(2**n): the table is weighted once, then halved player by player.

    Source: Shapley 1953; Hamilton et al. 2022, eq. 1.
    """
    table = float_array(values, "values")
    if players_of_table(table.shape, "values") == 0:
        return jnp.zeros((*table.shape[:-1], 0), table.dtype)
    return _shapley_value(table)


def _of_value_function(
    value_fn: ValueFunction,
    index: str,
    order: int | None,
    n_players: int | None,
    chunk_size: int,
    progress: Progress | None,
) -> Interactions:
    if n_players is None:
        raise ShapjaxError("a value function was given without n_players; say how many there are.")
    n = whole_number(n_players, "n_players", low=0)
    index, order = index_and_order(index, order, n)
    require_memory(
        (1 << n) * (n + 32),
        f"the table of all 2^{n} coalitions",
        "use shapjax.estimate with a budget of coalitions instead",
    )
    masks = all_masks(n)
    values = evaluate(value_fn, masks, chunk_size=chunk_size, progress=progress)
    if isinstance(values, jax.Array):
        return _interactions(values, index, order)
    with precision_scope(values.dtype):
        return jax.tree.map(np.asarray, _interactions(jnp.asarray(values), index, order))


def index_and_order(index: str, order: int | None, n: int) -> tuple[str, int]:
    """The index and its order (2 by default, 1 for the Shapley value), checked for n players.

    Raises:
        ShapjaxError: no such index, or an order that it or the game does not have.
    """
    one_of(index, tuple(WEIGHTS), "index")
    if index == "SV":
        if order not in (None, 1):
            raise ShapjaxError(f"order is {order} for the Shapley value, which has order 1.")
        order = 1
    return index, whole_number(2 if order is None else order, "order", low=1, high=max(n, 1))


def weight_table(index: str, order: int, n: int) -> np.ndarray:
    """w(s, t) for 0 <= s <= order and 0 <= t <= n, float64; zero where t < s."""
    table = np.zeros((order + 1, n + 1))
    for s in range(order + 1):
        for t in range(s, n + 1):
            table[s, t] = WEIGHTS[index](s, t, order)
    return table


@functools.partial(jax.jit, static_argnames=("index", "order"))
def _interactions(table: jax.Array, index: str, order: int) -> Interactions:
    n = players_of_table(table.shape, "values")
    dividends = moebius(table)
    sizes = sizes_of_ranks(n)
    coefficients = []
    for s, weights in enumerate(weight_table(index, order, n)):
        shares = dividends
        if weights[s] != 1 or np.count_nonzero(weights) > 1:
            shares = superset_sums(dividends * jnp.asarray(weights, table.dtype)[sizes])
        coefficients.append(shares[..., ranks_of_size(n, s) if s <= n else []])
    return Interactions(tuple(coefficients), index, n)


@jax.jit
def _shapley_value(table: jax.Array) -> jax.Array:
    n = players_of_table(table.shape, "values")
    # phi_i = sum over T with i of (joins + leaves)(|T|) v(T) - sum over all T of leaves(|T|) v(T),
    # joins(t) and leaves(t) being the weights of v(T) when i belongs to T and when it does not.
    joins = [0.0] + [1 / (n * math.comb(n - 1, t - 1)) for t in range(1, n + 1)]
    leaves = [1 / (n * math.comb(n - 1, t)) for t in range(n)] + [0.0]
    sizes = sizes_of_ranks(n)
    both = jnp.asarray(np.add(joins, leaves), table.dtype)[sizes] * table
    offset = (jnp.asarray(leaves, table.dtype)[sizes] * table).sum(axis=-1)
    marginals = []
    for _ in range(n):
        halves = both.reshape(*both.shape[:-1], 2, -1)
        marginals.append(halves[..., 1, :].sum(axis=-1))
        both = halves.sum(axis=-2)
    return jnp.stack(marginals[::-1], axis=-1) - offset[..., None]
