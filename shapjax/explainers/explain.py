"""Explain a match: one signature for every method."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from shapjax.backbones.record import Backbone
from shapjax.backbones.tokeniser import TextPreprocessing
from shapjax.core.checks import one_of, whole_number
from shapjax.core.errors import ShapjaxError
from shapjax.core.evaluate import Progress, evaluate
from shapjax.core.interactions import Interactions
from shapjax.estimators.estimate import as_key, estimate
from shapjax.explainers.explanation import Explanation
from shapjax.explainers.gram_sam import gram_sam
from shapjax.explainers.sam import sam
from shapjax.explainers.towers import BUDGET, explain_parts
from shapjax.games.parts import PICTURE_PLAYERS, TEXT_PLAYERS, parts
from shapjax.games.similarity import Picture, SimilarityGame, similarity_game

Explain = Callable[[SimilarityGame, int, int, jax.Array, Progress | None], Interactions]
"""(game, order, budget, key, progress) to the interactions that a method finds."""


class Method(NamedTuple):
    """A way to explain a match.

    Attributes:
        explain: finds the interactions; None: ``explain_parts`` does.
        players: kinds of players it works on; the first is its default.
        budgets: coalitions it may use at first and second order by default; None: it uses none.
    """

    explain: Explain | None
    players: tuple[str, ...]
    budgets: tuple[int, int] | None


def _sam(
    game: SimilarityGame, order: int, budget: int, key: jax.Array, progress: Progress | None
) -> Interactions:
    assert game.grams is not None
    return sam(game.grams)


def _gram_sam(
    game: SimilarityGame, order: int, budget: int, key: jax.Array, progress: Progress | None
) -> Interactions:
    assert game.grams is not None
    return gram_sam(game.grams, budget=budget, key=key, progress=progress)


def _kernel(
    game: SimilarityGame, order: int, budget: int, key: jax.Array, progress: Progress | None
) -> Interactions:
    return estimate(
        game.value_fn,
        game.n_players,
        index="STII" if order == 2 else "SV",
        order=order,
        budget=budget,
        key=key,
        chunk_size=game.chunk_size,
        progress=progress,
    )


METHODS: dict[str, Method] = {
    "sam": Method(_sam, ("features",), None),
    "kernel-sam": Method(_kernel, ("features", "superpixels"), (5_000, 40_000)),
    "gram-sam": Method(_gram_sam, ("features",), (5_000, 5_000)),
    "kernel-shap": Method(_kernel, ("superpixels", "features"), (5_000, 20_000)),
    "two-tower": Method(None, (*PICTURE_PLAYERS, *TEXT_PLAYERS), (BUDGET, BUDGET)),
}


def explain(
    model: Backbone,
    query: Picture,
    retrieved: Picture,
    *,
    method: str | None = None,
    order: int = 2,
    side: Literal["query", "retrieved"] | None = None,
    players: str | None = None,
    background: Any = None,
    budget: int | None = None,
    key: jax.Array | int = 0,
    progress: Progress | None = None,
) -> Explanation:
    """Why two pictures or two texts match, by the similarity of a backbone.

    Args:
        model: a backbone, compared by the cosine of its globally pooled features (kernel-shap
            and two-tower: of its embeddings).
        query: path, PIL image or array; a text, where the model reads texts.
        retrieved: likewise.
        method: ``"sam"`` (closed form, a heuristic for cosine), ``"kernel-sam"`` (kernel
            regression on feature locations), ``"gram-sam"`` (nearly exact on feature
            locations), ``"kernel-shap"`` (kernel regression on superpixels) or ``"two-tower"``
            (nearly exact on superpixels, patches, words or tokens); by default Gram SAM for
            pictures and two-tower for texts.
        order: 1, credit of the parts of one picture; 2, of pairs of parts.
        side: the picture whose parts play at first order, by default the retrieved one.
        players: ``"features"`` or ``"superpixels"``, by default what the method is named for;
            for two-tower those of ``shapjax.parts``.
        background: what replaces masked parts: ``"blur"`` (the default), ``"mean"``,
            ``"black"`` or a picture; for texts as in ``shapjax.parts``.
        budget: the most coalitions evaluated; by default the paper's (5,000 at first order,
            20,000 for Kernel SHAP and 40,000 for Kernel SAM at second; 5,000 for Gram SAM), and
            1,000 encodes of both items together for two-tower.
        key: PRNG key or seed.
        progress: called with (done, total) while coalitions are evaluated.

    Returns:
        An Explanation in units of cosine similarity.

    Raises:
        ShapjaxError: an argument is out of range, or does not go with the method.
        ImageError: a picture cannot be read.

    Source: Hamilton et al. 2022, sections 4 and 5; see each method's module.
    """
    begun = time.perf_counter()
    if not isinstance(model, Backbone):
        raise ShapjaxError(
            f"model is a {type(model).__name__}, expected a backbone from shapjax.backbones.load."
        )
    reads = isinstance(model.preprocessing, TextPreprocessing)
    if method is None:
        method = "two-tower" if reads else "gram-sam"
    record = METHODS[one_of(method, tuple(METHODS), "method")]
    order = whole_number(order, "order", low=1, high=2)
    if reads and method != "two-tower":
        raise ShapjaxError(
            f"method is {method}, but {model.name} reads texts; leave it out, or say two-tower."
        )
    if side is not None:
        one_of(side, ("query", "retrieved"), "side")
        if order == 2:
            raise ShapjaxError(f"side is {side!r}, but at order 2 both items play; leave it out.")
    if record.explain is None:
        items = [
            parts(model, item, players=players, background=background)
            for item in (query, retrieved)
        ]
        return explain_parts(
            items[0],
            items[1],
            side=side,
            order=order,
            budget=BUDGET if budget is None else budget,
            key=key,
            progress=progress,
        )
    kind = record.players[0] if players is None else players
    if kind not in record.players:
        raise ShapjaxError(
            f"players is {kind!r}, but {method} explains {' or '.join(record.players)}; "
            "use kernel-shap for superpixels and gram-sam for features."
        )
    if budget is not None and record.budgets is None:
        raise ShapjaxError(f"budget is {budget}, but {method} is a closed form; leave it out.")
    masked = "both" if order == 2 else side or "retrieved"
    game = similarity_game(
        model,
        query,
        retrieved,
        players=kind,  # pyright: ignore[reportArgumentType]
        masked=masked,
        background="blur" if background is None else background,
    )
    if budget is None:
        budget = record.budgets[order - 1] if record.budgets else 0
    found = record.explain(game, order, budget, as_key(key), progress)
    stats = found.stats or _ends(game)
    return Explanation(
        method=method,
        backbone=model.name,
        interactions=jax.tree.map(np.asarray, found),
        query_players=game.query_players,
        retrieved_players=game.retrieved_players,
        similarity=game.similarity,
        v_grand=float(stats["v_grand"]),
        v_empty=float(stats["v_empty"]),
        evaluations=int(stats["evaluations"]),
        seconds=time.perf_counter() - begun,
    )


def _ends(game: SimilarityGame) -> dict[str, float]:
    """Worth of no part and of all parts, for a closed form that evaluates nothing."""
    ends = np.stack([np.zeros(game.n_players, bool), np.ones(game.n_players, bool)])
    v_empty, v_grand = np.asarray(evaluate(game.value_fn, ends), float)
    return {"v_empty": v_empty, "v_grand": v_grand, "evaluations": len(ends)}
