"""Explain a match: one signature for every method."""

from __future__ import annotations

import time
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from shapjax.backbones.record import Backbone
from shapjax.backbones.tokeniser import TextPreprocessing
from shapjax.core.checks import one_of, whole_number
from shapjax.core.errors import ShapjaxError
from shapjax.core.worths import Progress
from shapjax.estimators.estimate import as_key
from shapjax.explainers.explanation import Explanation, as_bytes
from shapjax.explainers.methods import METHODS, Method, Request, ends
from shapjax.explainers.towers import BUDGET, explain_parts
from shapjax.games.match import Picture, by_side
from shapjax.games.parts import parts
from shapjax.games.similarity import similarity_game

__all__ = ["METHODS", "default_method", "explain"]


def explain(
    model: Backbone,
    query: Picture,
    retrieved: Picture,
    *,
    method: str | None = None,
    order: int = 2,
    side: Literal["query", "retrieved"] | None = None,
    players: Any = None,
    background: Any = None,
    rather_than: Any = None,
    budget: int | None = None,
    bilinear: bool = False,
    errors: bool = False,
    key: jax.Array | int = 0,
    progress: Progress | None = None,
) -> Explanation:
    """Why two pictures or two texts match, by the similarity of a backbone.

    ====================  =======  ===========  ================================================
    method                orders   players      what it is
    ====================  =======  ===========  ================================================
    gram-sam              1, 2     features     Shapley(-Taylor), nearly exactly
    sam                   1, 2     features     closed form, a heuristic for cosine
    kernel-sam            1, 2     features     kernel regression
    ig-sam                1, 2     features     integrated gradients, Hessians of the soft mask
    integrated-jacobians  2        features     integrated gradients of both embeddings
    gradcam, vesm         1        features     weighted channels, from one gradient
    two-tower             1, 2     superpixels  Shapley(-Taylor) from encodes of each item; of
                                                texts the only method, its players words
    kernel-shap           1, 2     superpixels  kernel regression
    lime                  1, 2     superpixels  L1 regression near the whole pictures
    fixlip                2        superpixels  weighted Banzhaf, masks of one by masks of the other
    sbsm                  1, 2     pixels/grid  windows of background slide over the pictures
    partition-shap        1        pixels       Owen values over halved rectangles
    ig                    1        pixels       integrated gradients
    ====================  =======  ===========  ================================================

    Args:
        model: a backbone, compared by the cosine of its globally pooled features where they
            play, else of its embeddings.
        query: path, PIL image or array; a text, where the model reads texts.
        retrieved: likewise.
        method: a name from the table; by default gram-sam for features and two-tower for
            regions and texts.
        order: 1, credit of the parts of one picture; 2, of pairs of parts.
        side: the picture whose parts play at first order, by default the retrieved one.
        players: ``"features"``, ``"pixels"``, or regions: ``"superpixels"``, ``"grid"``,
            ``"4x6"`` or ``(4, 6)``, a label map or its PNG; a dictionary gives each picture
            regions of its own (see ``similarity_game``). By default the method's own. Of texts
            ``"words"`` or ``"tokens"`` (see ``shapjax.parts``).
        background: what replaces masked parts: ``"blur"``, ``"mean"``, ``"black"``, a picture, a
            folder (its mean), ``"zero"`` for features, a list of these (averaged), or a
            dictionary with one for each picture. By default the paper's: the mean colour for
            sbsm and lime, else the blur. ``"drop"``: by two-tower, patches of a transformer are
            left out, by default each of them (see ``shapjax.parts``). Of texts ``"drop"`` or
            ``"mask"``.
        rather_than: a picture (or a list, or a folder) that might have been found instead: it
            becomes the background of the retrieved picture, so that credit says what makes
            that one the better match.
        budget: the most coalitions evaluated (ig, ig-sam and integrated-jacobians: points on
            the path; two-tower: encodes of both items together); by default the paper's where
            it has one.
        bilinear: of lime and fixlip at second order, whether to fit the bilinear form, in which
            pairs of parts of one picture are zero, instead of the full quadratic.
        errors: whether kernel-shap, kernel-sam and lime fit 24 times more at second order for
            standard errors, which takes several times as long. Wherever they cost little they
            are there anyway.
        key: PRNG key or seed.
        progress: called with (done, total) while coalitions are evaluated.

    Returns:
        An Explanation in units of cosine similarity. ``interactions.standard_errors`` are None
        where the method draws nothing (sam, gradcam, vesm, ig, integrated-jacobians,
        partition-shap), has too few coalitions to tell, or was not asked for them.

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
    order = whole_number(order, "order", low=1, high=2)
    reads = isinstance(model.preprocessing, TextPreprocessing)
    if reads or drops(background):
        asked = {
            f"method {method}": method not in (None, "two-tower"),
            "rather_than": rather_than is not None,
            "bilinear": bilinear,
        }
        if wrong := [name for name, given in asked.items() if given]:
            why = f"{model.name} reads texts" if reads else 'background is "drop"'
            raise ShapjaxError(
                f"{wrong[0]} is of pictures with backgrounds, but {why}, which two-tower "
                "explains; leave it out."
            )
        coalition_sides(order, side)
        if players is None and not reads:
            players = "grid"
        kinds = by_side(players, "players"), by_side(background, "background")
        items = [
            parts(model, item, players=own, background=blank)
            for item, own, blank in zip((query, retrieved), *kinds, strict=True)
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
    plan = settled(method, order, side, players, background, budget, rather_than, bilinear)
    game = similarity_game(
        model,
        query,
        retrieved,
        players=plan.players,
        masked=plan.masked,
        background=plan.background,
    )
    record = METHODS[plan.method]
    asked = Request(order, plan.budget, as_key(key), progress, errors, bilinear)
    found = record.explain(game, asked)
    stats = found.stats if "v_grand" in found.stats else {"evaluations": 2, **ends(game)}
    return Explanation(
        method=plan.method,
        backbone=model.name,
        interactions=jax.tree.map(np.asarray, found),
        query_players=game.query_players,
        retrieved_players=game.retrieved_players,
        similarity=game.similarity,
        v_grand=float(stats["v_grand"]),
        v_empty=float(stats["v_empty"]),
        evaluations=int(stats["evaluations"]),
        seconds=time.perf_counter() - begun,
        query_picture=as_bytes(game.match.pictures[0]),
        retrieved_picture=as_bytes(game.match.pictures[1]),
    )


class Settled(NamedTuple):
    """What a caller asked for, with the method's own choices where nothing was said.

    Attributes:
        method: its name.
        players: what plays.
        masked: whose parts play.
        background: what replaces masked parts.
        budget: evaluations; 0 for a closed form.
    """

    method: str
    players: Any
    masked: Literal["query", "retrieved", "both"]
    background: Any
    budget: int


def settled(
    method: str | None,
    order: int,
    side: str | None,
    players: Any,
    background: Any,
    budget: int | None,
    rather_than: Any = None,
    bilinear: bool = False,
) -> Settled:
    """The arguments of ``explain`` for pictures, checked against one another.

    Raises:
        ShapjaxError: they do not go together.
    """
    if method is None:
        method = default_method(players)
    record = METHODS[one_of(method, tuple(METHODS), "method")]
    players = _players(method, record, order, players)
    if budget is not None and record.budgets is None:
        raise ShapjaxError(
            f"budget is {budget}, but {method} has a closed form, without samples; leave it out."
        )
    if bilinear and not (order == 2 and record.bilinear):
        able = [name for name, other in METHODS.items() if other.bilinear]
        raise ShapjaxError(
            f"bilinear is True, but {method} at order {order} has no bilinear form; leave it out, "
            f"or explain at order 2 by {' or '.join(able)}."
        )
    masked = coalition_sides(order, side)
    if rather_than is not None and masked == "query":
        raise ShapjaxError(
            "rather_than replaces parts of the retrieved picture, but only the query plays; "
            'explain with side="retrieved" or order=2.'
        )
    if method == "vesm" and (background is not None or rather_than is not None):
        raise ShapjaxError("vesm has no background; leave background and rather_than out.")
    blank = record.background if background is None else background
    if rather_than is not None:
        blank = {"query": by_side(blank, "background")[0], "retrieved": rather_than}
    if budget is None:
        budget = record.budgets[order - 1] if record.budgets else 0
    return Settled(method, players, masked, blank, budget)


def drops(background: Any) -> bool:
    """Whether patches of either picture are left out."""
    return "drop" in [b for b in by_side(background, "background") if isinstance(b, str)]


def default_method(players: Any, background: Any = None) -> str:
    """The method for players and a background that came without one."""
    if drops(background):
        return "two-tower"
    return "gram-sam" if players is None or _family(players) == "features" else "two-tower"


def coalition_sides(order: int, side: str | None) -> Literal["query", "retrieved", "both"]:
    """Which items have players.

    Raises:
        ShapjaxError: the order is not 1 or 2, or the side does not go with it.
    """
    order = whole_number(order, "order", low=1, high=2)
    if side is not None:
        one_of(side, ("query", "retrieved"), "side")
    if order == 1:
        return "query" if side == "query" else "retrieved"
    if side is not None:
        raise ShapjaxError(f"side is {side!r}, but at order 2 both items play; leave it out.")
    return "both"


def _players(method: str, record: Method, order: int, players: Any) -> Any:
    """The players that a method works on: what the caller wants, or its own."""
    taken = record.players[order - 1]
    if not taken:
        raise ShapjaxError(
            f"order is {order}, but {method} has only order {3 - order}; "
            f"explain with order={3 - order}."
        )
    if players is None:
        return taken[0]
    family = _family(players)
    if family not in map(_family, taken):
        shown = players if isinstance(players, str) else family
        others = [
            name
            for name, other in METHODS.items()
            if family in map(_family, other.players[order - 1])
        ]
        raise ShapjaxError(
            f"players is {shown!r}, but {method} explains {' or '.join(taken)} at order {order}; "
            f"use {' or '.join(others) if others else 'other players'}."
        )
    return players


def _family(players: Any) -> str:
    """Features, pixels, or regions of any other kind."""
    return players if isinstance(players, str) and players in ("features", "pixels") else "regions"
