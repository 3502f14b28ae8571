r"""Two towers: every term of the cross-linear index from encodes of each tower alone.

For :math:`v(S) = \langle a(S_q), b(S_r) \rangle` the pairs across are those of ``two_tower``. The
Shapley value of a query player is an integral of the same kind,

.. math:: \varphi_i = \int_0^1 \langle dA_i(p), B(p) \rangle\, dp,

with :math:`B(p)` the mean embedding of the other item where each part is kept with probability p.
A player keeps of its own :math:`\varphi_i - \frac12 \sum_j \psi_{ij}`: the scheme of singletons
and pairs across, in which a pair of one side is shared half and half. All terms sum to
v(N) - v(empty). Since the derivatives dB_j(p) of the other item sum to B'(p), that is

.. math:: \int_0^1 \langle dA_i(p), B(p) - (1 - p) B'(p) \rangle\, dp,

one dot product of what the towers know, whose standard error is that of the pairs across.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from shapjax.core.checks import whole_number
from shapjax.core.errors import ShapjaxError
from shapjax.core.interactions import Interactions
from shapjax.core.worths import Progress
from shapjax.estimators.estimate import as_key
from shapjax.estimators.sampling import binomial
from shapjax.estimators.tower_part import Embed, TowerPart, tower_part
from shapjax.estimators.two_tower import (
    at_nodes,
    combine,
    contract,
    mean_at_nodes,
    split_budget,
)
from shapjax.explainers.explanation import Explanation, as_bytes
from shapjax.explainers.gradients import legendre
from shapjax.games.pairs import similarity
from shapjax.games.parts import Parts

BUDGET = 1_000
"""Encodes of both towers together; from 2**nq + 2**nr on everything is exact."""

CHUNK = 64


def explain_parts(
    query: Parts,
    retrieved: Parts,
    *,
    side: str | None = None,
    order: int = 2,
    budget: int = BUDGET,
    key: jax.Array | int = 0,
    progress: Progress | None = None,
) -> Explanation:
    """Why two items match by the cosine of their embeddings, whatever the towers.

    Args:
        query: an item in parts (``shapjax.parts``), of any kind.
        retrieved: likewise, perhaps of another kind and model.
        side: at first order the item whose parts play; by default the retrieved one.
        order: 2: both items' parts and pairs across; 1: Shapley values of one item's parts.
        budget: the most encodes, both towers together; exact from 2**nq + 2**nr on.
        key: PRNG key or seed.
        progress: called with (encodes done, encodes in all).

    Returns:
        Explanation in units of cosine similarity, by the cross-linear index: at second order
        ``cross`` is Shapley-Taylor's, ``credit`` the Shapley value, and pairs of one item's parts
        are zero, since their dividends are shared among the two.

    Raises:
        ShapjaxError: a side is no Parts, or the budget is below n + 2 encodes of a tower.
        ValueFunctionError: a tower misbehaved.

    Source: Hamilton et al. 2021, section 4.3 (the scheme); ``shapjax.estimators.two_tower``.
    """
    begun = time.perf_counter()
    for given in (query, retrieved):
        if not isinstance(given, Parts):
            raise ShapjaxError(
                f"got a {type(given).__name__}, expected an item in parts; make one with "
                "shapjax.parts."
            )
    order = whole_number(order, "order", low=1, high=2)
    budget = whole_number(budget, "budget", low=0)
    game = similarity(query, retrieved)
    plays = (order == 2 or side == "query", order == 2 or side != "query")
    given = ((game.embed_query, game.n_query), (game.embed_retrieved, game.n_retrieved))
    wholes = [np.asarray(embed(np.ones((1, n), bool)), float)[0] for embed, n in given]
    found = play_towers(
        [
            one if playing else whole
            for one, whole, playing in zip(given, wholes, plays, strict=True)
        ],
        budget,
        as_key(key),
        progress=progress,
    )
    grand = float(wholes[0] @ wholes[1])
    return Explanation(
        method="two-tower",
        backbone=" and ".join(dict.fromkeys((query.model, retrieved.model))),
        interactions=found,
        query_players=query.labels if plays[0] else None,
        retrieved_players=retrieved.labels if plays[1] else None,
        similarity=grand,
        v_grand=grand,
        v_empty=found.stats["v_empty"],
        evaluations=found.stats["evaluations"],
        seconds=time.perf_counter() - begun,
        query_names=query.names,
        retrieved_names=retrieved.names,
        query_picture=None if query.picture is None else as_bytes(query.picture),
        retrieved_picture=None if retrieved.picture is None else as_bytes(retrieved.picture),
    )


def play_towers(
    sides: Sequence[tuple[Embed, int] | np.ndarray],
    budget: int,
    key: jax.Array,
    *,
    chunk_size: int = CHUNK,
    progress: Progress | None = None,
) -> Interactions:
    """The cross-linear index of two items from encodes of each alone.

    Args:
        sides: of the query and of the retrieved item, the function from masks [B, n] to
            embeddings [B, C] and n; or the embedding [C] of one that does not play.
        budget: the most encodes, which two items share in proportion to their players.
        key: PRNG key.
        chunk_size: masks per call.
        progress: called with (encodes done, encodes in all).

    Returns:
        As ``cross_linear``; among the stats ``evaluations``, the encodes, and ``v_empty``.

    Raises:
        As ``shapjax.estimators.tower_part.tower_part``.
    """
    counts = [0 if isinstance(side, np.ndarray) else side[1] for side in sides]
    if all(counts):
        shares = split_budget(budget, counts[0], counts[1])
    else:
        shares = tuple(min(budget, 1 << n) if n else 0 for n in counts)
    towers: list[TowerPart] = []
    for side, share, own in zip(sides, shares, jax.random.split(key), strict=True):
        if isinstance(side, np.ndarray):
            towers.append(
                TowerPart(np.zeros((0, 0, len(side))), side, np.zeros((0, len(side))), 0, True)
            )
            continue
        embed, n = side
        done = sum(tower.encodes for tower in towers)
        shown = embed if progress is None else _shown(embed, done, sum(shares), progress)
        towers.append(tower_part(shown, n, share, own, chunk_size=chunk_size))
    found = cross_linear(towers[0], towers[1])
    stats = {
        **found.stats,
        "evaluations": sum(tower.encodes for tower in towers),
        "v_empty": float(towers[0].empty @ towers[1].empty),
    }
    return Interactions(
        found.coefficients, found.index, found.n_players, found.standard_errors, stats
    )


def cross_linear(query: TowerPart, retrieved: TowerPart) -> Interactions:
    """The cross-linear index of two towers; the Shapley value where one has no players.

    Returns:
        Interactions, float64: of order 2 where both have players, else of order 1. Standard errors
        are posterior standard deviations, as in ``shapjax.estimators.two_tower``; zero where exact.
    """
    nq, nr = query.n_players, retrieved.n_players
    n = nq + nr
    own = [_own_terms(*pair) for pair in ((query, retrieved), (retrieved, query))]
    values, errors = (np.concatenate(parts) for parts in zip(*own, strict=True))
    empty = np.array([query.empty @ retrieved.empty])
    stats = {"exact": query.exact and retrieved.exact}
    if not nq or not nr:
        return Interactions((empty, values), "SV", n, (np.zeros(1), errors), stats)
    found = combine(query, retrieved)
    return Interactions(
        (empty, values, across(found.cross)),
        "cross-linear",
        n,
        (np.zeros(1), errors, across(found.standard_errors)),
        stats,
    )


def across(cross: np.ndarray) -> np.ndarray:
    """Pairs of a query and a retrieved player, [nq, nr], as all pairs: others are 0, [C(n, 2)]."""
    nq, n = len(cross), sum(cross.shape)
    pairs = np.zeros((n, n), cross.dtype)
    pairs[:nq, nq:] = cross
    return pairs[np.triu_indices(n, 1)]


def _own_terms(own: TowerPart, other: TowerPart) -> tuple[np.ndarray, np.ndarray]:
    """What the players of one item keep of their own, and its standard errors, [n] each."""
    n, m = own.n_players, other.n_players
    if not n:
        return np.zeros(0), np.zeros(0)
    p, weights = legendre(-(-(n + m) // 2))
    # B - (1 - p) B', with the derivative of a binomial weight its u / p - (m - u) / (1 - p) fold.
    left = binomial(m, p) * (1 + m - np.arange(m + 1) / p[:, None])
    derivatives = at_nodes(own, binomial(n - 1, p), own.derivatives, own.spread_singles)
    values, errors = contract(weights, derivatives, mean_at_nodes(other, left))
    return values[:, 0], errors[:, 0]


def _shown(embed: Embed, done: int, total: int, progress: Progress) -> Embed:
    """The same tower, which says how many of all masks are encoded."""

    def run(masks: np.ndarray) -> Any:
        nonlocal done
        vectors = embed(masks)
        done += len(masks)
        progress(done, total)
        return vectors

    return run
