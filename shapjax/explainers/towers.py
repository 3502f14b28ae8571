r"""Two towers: every term of the cross-linear index from encodes of each tower alone.

For :math:`v(S) = \langle a(S_q), b(S_r) \rangle` the pairs across are those of ``two_tower``. The
Shapley value of a query player is an integral of the same kind,

.. math:: \varphi_i = \int_0^1 \langle dA_i(p), B(p) \rangle\, dp,

with :math:`B(p)` the mean embedding of the other item where each part is kept with probability p.
A player keeps of its own :math:`\varphi_i - \frac12 \sum_j \psi_{ij}`: the scheme of singletons
and pairs across, in which a pair of one side is shared half and half. All terms sum to
v(N) - v(empty).
"""

from __future__ import annotations

import math
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
from shapjax.estimators.tower_part import Embed, TowerPart, tower_part
from shapjax.estimators.two_tower import combine, split_budget
from shapjax.explainers.explanation import Explanation
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
    return Interactions(found.coefficients, found.index, found.n_players, None, stats)


def cross_linear(query: TowerPart, retrieved: TowerPart) -> Interactions:
    """The cross-linear index of two towers; the Shapley value where one has no players.

    Returns:
        Interactions, float64: of order 2 where both have players, else of order 1.
    """
    nq, nr = len(query.singles), len(retrieved.singles)
    n = nq + nr
    p, weights = legendre(-(-n // 2))
    a, b = (_mixed(tower.means, p) for tower in (query, retrieved))
    da, db = (_derivatives(tower, p) for tower in (query, retrieved))
    values = np.concatenate(
        [np.einsum("p,pic,pc->i", weights, *pair) for pair in ((da, b), (db, a))]
    )
    empty = np.array([query.empty @ retrieved.empty])
    stats = {"exact": query.exact and retrieved.exact}
    if not nq or not nr:
        return Interactions((empty, values), "SV", n, None, stats)
    cross = combine(query, retrieved).cross
    own = values - np.concatenate([cross.sum(axis=1), cross.sum(axis=0)]) / 2
    rows, columns = np.triu_indices(n, 1)
    across = (rows < nq) & (columns >= nq)
    pairs = np.where(across, cross[np.minimum(rows, nq - 1), np.maximum(columns - nq, 0)], 0)
    return Interactions((empty, own, pairs), "cross-linear", n, None, stats)


def _shown(embed: Embed, done: int, total: int, progress: Progress) -> Embed:
    """The same tower, which says how many of all masks are encoded."""

    def run(masks: np.ndarray) -> Any:
        nonlocal done
        vectors = embed(masks)
        done += len(masks)
        progress(done, total)
        return vectors

    return run


def _mixed(by_size: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Means by size, [m + 1, ...], mixed for m players who each join with probability p."""
    m = len(by_size) - 1
    u = np.arange(m + 1)
    counts = np.array([math.comb(m, int(size)) for size in u], float)
    law = counts * p[:, None] ** u * (1 - p[:, None]) ** (m - u)
    return np.tensordot(law, by_size, 1)


def _derivatives(tower: TowerPart, p: np.ndarray) -> np.ndarray:
    """dA_i(p), [nodes, n, C]."""
    n = len(tower.singles)
    return _mixed(tower.derivatives, p) if n else np.zeros((len(p), 0, len(tower.empty)))
