"""Exact values and interaction indices of a game."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.coalitions.enumerate import all_masks
from shapjax.core.checks import MAX_PLAYERS, players_of_table, whole_number
from shapjax.core.errors import ShapjaxError
from shapjax.core.evaluate import DEFAULT_CHUNK, Progress, ValueFunction, evaluate
from shapjax.core.interactions import Interactions
from shapjax.core.memory import require_memory
from shapjax.core.precision import float_array, precision_scope
from shapjax.indices.cardinal import CardinalIndex
from shapjax.indices.generalised import share_marginals
from shapjax.indices.kernels import shapley_marginals, share_dividends
from shapjax.indices.weights import index_and_order, weight_table


def interactions(
    values: jax.Array | ValueFunction,
    index: str | CardinalIndex = "STII",
    order: int | None = None,
    *,
    p: float | None = None,
    n_players: int | None = None,
    chunk_size: int = DEFAULT_CHUNK,
    progress: Progress | None = None,
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
            coalitions.
        index: a name from the tables, or weights of your own as a ``CardinalIndex``; static.
        order: size k of the largest coalitions, 1 <= k <= n; by default 2, or the highest that
            exists where that is lower (SV and BV have order 1 only); static.
        p: probability in [0, 1] of BV, BII, FBII and BGV, 1/2 by default; static.
        n_players: n, only with a value function.
        chunk_size: coalitions per call of a value function.
        progress: called with (done, total) while a value function is evaluated.

    Returns:
        Interactions with coefficients of shape [..., C(n, s)] for s = 0..k, in the dtype of the
        values.

    Raises:
        ShapjaxError: wrong shape, index, order or number of players, or a p that the index lacks.
        DtypeError: a float64 table while JAX's 64-bit mode is off.
        MemoryRefused: the table of a value function does not fit into memory.
        ValueFunctionError: the value function misbehaved.

    Cost: O(k n 2**n) time, a few tables of 2**n of memory.

    Source: Harsanyi 1963 (Moebius); Shapley 1953 (SV); Banzhaf 1965 (BV); Grabisch & Roubens 1999
    (SII, BII, Co-Moebius); Marichal & Roubens 1999 and Fujimoto, Kojadinovic & Marichal 2006
    (CHII); Marichal & Mathonet 2011 (p of BV, BII and FBII); Sundararajan, Dhamdhere & Agarwal
    2020, Hamilton et al. 2022, eq. 5 (STII); Bordt & von Luxburg 2023 (k-SII); Tsai, Yeh &
    Ravikumar 2023 (FSII, FBII); Pelegrina, Duarte & Grabisch 2023 (kADD-SHAP); Marichal 2000 (SGV,
    BGV); Marichal, Kojadinovic & Fujimoto 2007 (CHGV, IGV, EGV); Harris, Pymar & Rowat 2022
    (JointSV).
    """
    if callable(values):
        return _of_value_function(values, index, order, p, n_players, chunk_size, progress)
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

    Cost: O(2**n): the table is weighted once, then halved player by player.

    Source: Shapley 1953; Hamilton et al. 2022, eq. 1.
    """
    table = float_array(values, "values")
    if players_of_table(table.shape, "values") == 0:
        return jnp.zeros((*table.shape[:-1], 0), table.dtype)
    return _shapley_value(table)


def _of_value_function(
    value_fn: ValueFunction,
    index: str | CardinalIndex,
    order: int | None,
    p: Any,
    n_players: int | None,
    chunk_size: int,
    progress: Progress | None,
) -> Interactions:
    if n_players is None:
        raise ShapjaxError("a value function was given without n_players; say how many there are.")
    n = whole_number(n_players, "n_players", low=0, high=MAX_PLAYERS)
    cardinal, order = index_and_order(index, order, n, p)
    require_memory(
        (1 << n) * (n + 32),
        f"the table of all 2^{n} coalitions",
        "use shapjax.estimate with a budget of coalitions instead",
    )
    masks = all_masks(n)
    values = evaluate(value_fn, masks, chunk_size=chunk_size, progress=progress)
    if isinstance(values, jax.Array):
        return _interactions(values, cardinal, order)
    with precision_scope(values.dtype):
        return jax.tree.map(np.asarray, _interactions(jnp.asarray(values), cardinal, order))


@functools.partial(jax.jit, static_argnames=("index", "order"))
def _interactions(table: jax.Array, index: CardinalIndex, order: int) -> Interactions:
    n = players_of_table(table.shape, "values")
    weights = weight_table(index, order, n).astype(np.float64)
    kernel = share_marginals if index.form == "marginals" else share_dividends
    return Interactions(kernel(table, weights), index.label, n)


_shapley_value = jax.jit(shapley_marginals)
