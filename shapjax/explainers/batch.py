"""Many matches at once: one compiled program for all pairs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.backbones.record import Backbone
from shapjax.core.checks import one_of
from shapjax.core.errors import ShapjaxError
from shapjax.core.interactions import Interactions
from shapjax.estimators.estimate import as_key
from shapjax.explainers.explain import as_bytes, coalition_sides
from shapjax.explainers.explanation import Explanation
from shapjax.explainers.gram_sam import gram_sam
from shapjax.explainers.ig_sam import ig_sam
from shapjax.explainers.methods import METHODS
from shapjax.explainers.sam import sam
from shapjax.games.match import Picture
from shapjax.games.pooled import Grams, cosine_game
from shapjax.games.similarity import similarity_game

BATCHED = ("gram-sam", "sam", "ig-sam")

TOGETHER = 8
"""Pairs explained at a time; the others wait their turn in the same program."""


def explain_pairs(
    model: Backbone,
    queries: Sequence[Picture],
    retrieved: Sequence[Picture],
    *,
    method: Literal["gram-sam", "sam", "ig-sam"] = "gram-sam",
    order: int = 2,
    side: Literal["query", "retrieved"] | None = None,
    background: Any = "blur",
    budget: int | None = None,
    key: jax.Array | int = 0,
) -> list[Explanation]:
    """Why each query matches its retrieved picture, in one compiled batch.

    For the methods that live on Gram matrices, so that the network sees every picture once and
    the explanations of all pairs are one program.

    Args:
        model: a backbone.
        queries: P pictures.
        retrieved: P pictures, one for each query.
        method: ``"gram-sam"``, ``"sam"`` or ``"ig-sam"``.
        order: as in ``explain``.
        side: as in ``explain``.
        background: one background, as in ``explain``.
        budget: for each pair, as in ``explain``.
        key: PRNG key or seed; each pair gets a key of its own.

    Returns:
        P explanations; ``seconds`` of each is its share of the whole.

    Raises:
        ShapjaxError: as ``explain``, no pairs, or several backgrounds.
        ImageError: a picture cannot be read.
    """
    begun = time.perf_counter()
    if len(queries) != len(retrieved) or not len(queries):
        raise ShapjaxError(
            f"there are {len(queries)} queries and {len(retrieved)} retrieved pictures, expected "
            "equally many, and at least one."
        )
    record = METHODS[one_of(method, BATCHED, "method")]
    if budget is not None and record.budgets is None:
        raise ShapjaxError(f"budget is {budget}, but {method} has a closed form; leave it out.")
    masked = coalition_sides(order, side)
    games = [
        similarity_game(model, x, y, masked=masked, background=background)
        for x, y in zip(queries, retrieved, strict=True)
    ]
    if games[0].grams is None or games[0].grams.qr.ndim != 2:
        raise ShapjaxError("several backgrounds came, expected one; explain each pair alone.")
    if budget is None:
        budget = record.budgets[order - 1] if record.budgets else 0
    grams = jax.tree.map(lambda *parts: jnp.stack(parts), *(game.grams for game in games))
    keys = jax.random.split(as_key(key), len(games))
    found, ends = _explained(grams, keys, method=method, budget=budget)
    found, ends = jax.tree.map(np.asarray, (found, ends))
    seconds = (time.perf_counter() - begun) / len(games)
    explanations = []
    for place, game in enumerate(games):
        own = jax.tree.map(lambda leaf, place=place: leaf[place], found)
        explanations.append(
            Explanation(
                method=method,
                backbone=model.name,
                interactions=own,
                query_players=game.query_players,
                retrieved_players=game.retrieved_players,
                similarity=game.similarity,
                v_grand=float(ends[place, 1]),
                v_empty=float(ends[place, 0]),
                evaluations=int(own.stats.get("evaluations", 2)),
                seconds=seconds,
                query_picture=as_bytes(game.match.pictures[0]),
                retrieved_picture=as_bytes(game.match.pictures[1]),
            )
        )
    return explanations


@partial(jax.jit, static_argnames=("method", "budget"))
def _explained(
    grams: Grams, keys: jax.Array, *, method: str, budget: int
) -> tuple[Interactions, jax.Array]:
    """Interactions of every pair, and the worths of no part and of all parts, [P, 2]."""

    def one(pair: tuple[Grams, jax.Array]) -> tuple[Interactions, jax.Array]:
        own, key = pair
        if method == "sam":
            found = sam(own)
        elif method == "ig-sam":
            found = ig_sam(own, budget=budget, key=key)
        else:
            found = gram_sam(own, budget=budget, key=key)
        n = own.n_query + own.n_retrieved
        ends = cosine_game(own)(jnp.stack([jnp.zeros(n, bool), jnp.ones(n, bool)]))
        return jax.tree.map(jnp.asarray, found), ends

    return jax.lax.map(one, (grams, keys), batch_size=TOGETHER)
