"""Exact values and interaction indices of a game."""

from __future__ import annotations

import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.coalitions.enumerate import all_masks
from shapjax.core.checks import MAX_PLAYERS, players_of_table, whole_number
from shapjax.core.errors import ShapjaxError
from shapjax.core.interactions import Interactions
from shapjax.core.memory import require_memory
from shapjax.core.precision import float_array, precision_scope
from shapjax.core.worths import DEFAULT_CHUNK, Progress, ValueFunction, worths
from shapjax.indices.blocks import HIGHEST_BY_BLOCKS
from shapjax.indices.cardinal import CardinalIndex
from shapjax.indices.kernels import share
from shapjax.indices.rows import INDICES
from shapjax.indices.streaming import MOST_PLAYERS, stream
from shapjax.indices.weights import index_and_order, weight_table
from shapjax.indices.worths import worth_weights

TABLE_PLAYERS = 20
"""Players up to which the table of a value function is made whole: 8 MiB in float64."""


def interactions(
    values: jax.Array | ValueFunction,
    index: str | CardinalIndex = "STII",
    order: int | None = None,
    *,
    p: float | None = None,
    n_players: int | None = None,
    chunk_size: int = DEFAULT_CHUNK,
    progress: Progress | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Interactions:
    r"""Exact interaction indices and generalised values of a game, all weighted by size alone.

    Interaction indices share the Harsanyi dividends d,
    :math:`I(S) = \sum_{T \supseteq S} w(|S|, |T|)\, d(T)`; with k = ``order``, s = |S|, t = |T|:

    =============  ===========================================================================
    Moebius        d(S)
    Co-Moebius     w = 1
    SV             w = 1/t, order 1
    BV             w = :math:`p^{t-1}`, order 1
    SII            w = 1/(t-s+1)
    BII            w = :math:`p^{t-s}`
    CHII           w = s/t
    STII           d(S) for s < k, w = :math:`1/\binom{t}{k}` for s = k
    k-SII          w = :math:`\sum_{r=s}^{\min(k,t)} B_{r-s} \binom{t-s}{r-s} / (t-r+1)`,
                   B the Bernoulli numbers, :math:`B_1 = -1/2`
    FSII           d(S) plus, for t > k, w = :math:`(-1)^{k-s} \frac{s}{k+s} \binom{k}{s}
                   \binom{t-1}{k} / \binom{t+k-1}{k+s}`
    FBII           d(S) plus, for t > k, w = :math:`(-1)^{k-s} \binom{t-s-1}{k-s} p^{t-s}`
    kADD-SHAP      w = :math:`\sum_{r=s}^{\min(k,t)} \binom{t-s}{r-s} w_{FSII}(r, t) / (r-s+1)`
    =============  ===========================================================================

    Generalised values weigh what S adds when it arrives as one,
    :math:`I(S) = \sum_{T \subseteq N \setminus S} p(s, t)\, (v(T \cup S) - v(T))`:

    =============  ===========================================================================
    SGV            p(s, t) = t! (n-s-t)! / (n-s+1)!
    BGV            p(s, t) = :math:`p^t (1-p)^{n-s-t}`
    CHGV           p(s, t) = s (s+t-1)! (n-s-t)! / n!
    IGV            v(S) - v(empty)
    EGV            v(N) - v(N without S)
    JointSV        p(s, t) = :math:`q_t`, :math:`q_0 = 1/\sum_{i=1}^{k} \binom{n}{i}`, :math:`q_t
                   = \sum_{r=\max(t-k,0)}^{t-1} \binom{t}{r} q_r / \sum_{i=1}^{\min(k,n-t)}
                   \binom{n-t}{i}`
    =============  ===========================================================================

    Sizes 1 to k sum to v(N) - v(empty) for SV, STII, k-SII, FSII and JointSV. The empty coalition
    has what the formula gives for SII, BII, FBII, kADD-SHAP (means of the game) and Co-Moebius
    (v(N)), 0 for generalised values, v(empty) for the others. ``index_names`` says in words what
    each index means.

    Args:
        values: worth of every coalition, float [..., 2**n], bit i of the rank = player i; or a
            value function, Boolean [B, n] to [B], which is then evaluated on all 2**n
            coalitions: block by block, keeping only sums of the size of the result, for 21 to
            48 players and an order of at most 3.
        index: a name from the tables, or weights of your own as a ``CardinalIndex``; static.
        order: size k of the largest coalitions, 1 <= k <= n; by default 2, or the highest that
            exists where that is lower (SV and BV have order 1 only); static.
        p: probability in [0, 1] of BV, BII, FBII and BGV, 1/2 by default; static.
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
        ShapjaxError: wrong shape, index, order or number of players, or a p that the index lacks.
        DtypeError: a float64 table while JAX's 64-bit mode is off.
        MemoryRefused: the table of a value function does not fit into memory.
        ValueFunctionError: the value function misbehaved.

    Cost: up to order 3 a few reads of the table, else O(k n 2**n); memory of a few tables. Sums
    over blocks are compensated: 2**26 terms lose no digits even in float32.

    Source: Harsanyi 1963 (Moebius); Shapley 1953 (SV); Banzhaf 1965 (BV); Grabisch & Roubens 1999
    (SII, BII, Co-Moebius); Marichal & Roubens 1999 and Fujimoto, Kojadinovic & Marichal 2006
    (CHII); Marichal & Mathonet 2011 (p of BV, BII and FBII); Sundararajan, Dhamdhere & Agarwal
    2020, Hamilton et al. 2022, eq. 5 (STII); Bordt & von Luxburg 2023 (k-SII); Tsai, Yeh &
    Ravikumar 2023 (FSII, FBII); Pelegrina, Duarte & Grabisch 2023 (kADD-SHAP); Marichal 2000 (SGV,
    BGV); Marichal, Kojadinovic & Fujimoto 2007 (CHGV, IGV, EGV); Harris, Pymar & Rowat 2022
    (JointSV).
    """
    if callable(values):
        return _of_value_function(
            values, index, order, p, n_players, chunk_size, progress, checkpoint
        )
    if checkpoint is not None:
        raise ShapjaxError("checkpoint is given with a table of values; it needs a value function.")
    if n_players is not None:
        raise ShapjaxError(
            "n_players is given beside a table of values, which tells it by its length; "
            "leave it out."
        )
    table = float_array(values, "values")
    n = players_of_table(table.shape, "values")
    return _interactions(table, *index_and_order(index, order, n, p))


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
    return jnp.asarray(_interactions(table, INDICES["SV"], 1).singles)


def _of_value_function(
    value_fn: ValueFunction,
    index: str | CardinalIndex,
    order: int | None,
    p: Any,
    n_players: int | None,
    chunk_size: int,
    progress: Progress | None,
    checkpoint: str | os.PathLike[str] | None,
) -> Interactions:
    if n_players is None:
        raise ShapjaxError("a value function was given without n_players; say how many there are.")
    n = whole_number(n_players, "n_players", low=0, high=MAX_PLAYERS)
    cardinal, order = index_and_order(index, order, n, p)
    streamed = TABLE_PLAYERS < n <= MOST_PLAYERS and order <= HIGHEST_BY_BLOCKS
    if checkpoint is not None or streamed:
        coefficients = stream(
            value_fn,
            worth_weights(weight_table(cardinal, order, n), cardinal.form),
            chunk_size=whole_number(chunk_size, "chunk_size", low=1),
            progress=progress,
            checkpoint=checkpoint,
        )
        return Interactions(coefficients, cardinal.label, n)
    require_memory(
        (1 << n) * (n + 32),
        f"the table of all 2^{n} coalitions",
        f"up to {MOST_PLAYERS} players an order of at most {HIGHEST_BY_BLOCKS} is streamed without "
        "any table, and shapjax.estimate needs only a budget of coalitions",
    )
    masks = all_masks(n)
    values = worths(value_fn, masks, chunk_size=chunk_size, progress=progress)
    if isinstance(values, jax.Array):
        return _interactions(values, cardinal, order)
    with precision_scope(values.dtype):
        return jax.tree.map(np.asarray, _interactions(jnp.asarray(values), cardinal, order))


@functools.partial(jax.jit, static_argnames=("index", "order"))
def _interactions(table: jax.Array, index: CardinalIndex, order: int) -> Interactions:
    n = players_of_table(table.shape, "values")
    weights = weight_table(index, order, n)
    return Interactions(share(table, weights, index.form), index.label, n)
