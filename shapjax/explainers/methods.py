"""The methods by name: what each is called with, plays on and costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.core.interactions import Interactions
from shapjax.core.worths import Progress, require_finite, worths
from shapjax.estimators.estimate import estimate
from shapjax.estimators.refits import REFITS
from shapjax.estimators.two_tower import Embed
from shapjax.explainers.features import explain_features, over_backgrounds
from shapjax.explainers.gradients import pixel_gradients
from shapjax.explainers.gram_sam import gram_sam
from shapjax.explainers.ig_sam import ig_sam
from shapjax.explainers.partition_shap import partition_shap
from shapjax.explainers.towers import BUDGET, across, play_towers
from shapjax.explainers.windows import joint_sbsm, sbsm
from shapjax.games.masked import MaskedPicture, PaddedGame, masked_game, tower
from shapjax.games.match import SIDES
from shapjax.games.players import label_map
from shapjax.games.similarity import SimilarityGame, masked_sides


class Request(NamedTuple):
    """What is asked of a method, of any game.

    Attributes:
        order: 1 or 2.
        budget: evaluations; 0 for a closed form.
        key: PRNG key.
        progress: called with (evaluations done, evaluations in all).
        errors: whether standard errors may cost more fits at second order.
        bilinear: whether pairs within a picture are left out of the model that is fitted.
    """

    order: int
    budget: int
    key: jax.Array
    progress: Progress | None
    errors: bool
    bilinear: bool

    @property
    def refits(self) -> int:
        """Refits of a regression: at first order they cost next to nothing."""
        return REFITS if self.order == 1 or self.errors else 0


Explain = Callable[[SimilarityGame, Request], Interactions]
"""A game and what is asked to the interactions that a method finds."""


class Method(NamedTuple):
    """A way to explain a match.

    Attributes:
        explain: finds the interactions.
        players: what players it takes at first and at second order, the default in front:
            ``"features"``, ``"pixels"``, or regions, which any of the others is; none: it has no
            such order.
        budgets: evaluations it may use at first and second order by default; None: a closed
            form, or one gradient.
        background: what replaces masked parts by default.
        bilinear: whether at second order it can fit pairs across the pictures alone.
    """

    explain: Explain
    players: tuple[tuple[str, ...], tuple[str, ...]]
    budgets: tuple[int, int] | None
    background: str = "blur"
    bilinear: bool = False


def _pure(method: str) -> Explain:
    """A method on feature maps that shows no progress: the pure function, on one pair."""

    def run(game: SimilarityGame, ask: Request) -> Interactions:
        assert game.features is not None
        return explain_features(
            game.features,
            method=method,
            order=ask.order,
            budget=ask.budget,
            key=ask.key,
            errors=ask.errors,
        )

    return run


def _sampled(find: Callable[..., Interactions]) -> Explain:
    """A method that draws from the Gram matrices of a game, background by background."""

    def run(game: SimilarityGame, ask: Request) -> Interactions:
        assert game.grams is not None
        return over_backgrounds(
            game.grams,
            ask.key,
            ask.budget,
            lambda grams, own, share: find(grams, budget=share, key=own, progress=ask.progress),
        )

    return run


def _kernel(game: SimilarityGame, ask: Request) -> Interactions:
    return estimate(
        game.value_fn,
        game.n_players,
        index="STII" if ask.order == 2 else "SV",
        order=ask.order,
        budget=ask.budget,
        method="kernel-direct",
        key=ask.key,
        chunk_size=game.chunk_size,
        progress=ask.progress,
        refits=ask.refits,
    )


def _own_side(game: SimilarityGame) -> int:
    """The picture that plays at first order: 0 the query, 1 the retrieved one."""
    return 0 if game.match.plays[0] else 1


def _first_order(
    values: Any,
    index: str,
    game: SimilarityGame,
    evaluations: int,
    errors: np.ndarray | None = None,
) -> Interactions:
    """A map over the players of one picture, whatever its shape, as interactions."""
    singles = np.asarray(values, np.float64).ravel()
    stats = {**ends(game), "evaluations": evaluations}
    empty = np.array([stats["v_empty"]])
    standard_errors = None if errors is None else (np.zeros(1), errors.ravel())
    return Interactions((empty, singles), index, len(singles), standard_errors, stats)


def ends(game: SimilarityGame) -> dict[str, float]:
    """Worth of no part and of all parts."""
    masks = np.stack([np.zeros(game.n_players, bool), np.ones(game.n_players, bool)])
    v_empty, v_grand = np.asarray(worths(game.value_fn, masks), float).tolist()
    return {"v_empty": v_empty, "v_grand": v_grand}


def _pixel_gradients(game: SimilarityGame, ask: Request) -> Interactions:
    match, side = game.match, _own_side(game)
    other = match.embeddings()[1 - side]
    blanks = match.blanks(side)
    nodes = max(1, ask.budget // len(blanks))
    picture = jnp.asarray(match.pictures[side])
    total = np.zeros(picture.shape[:2])
    for done, blank in enumerate(blanks, start=1):
        total += np.asarray(
            pixel_gradients(match.backbone, picture, jnp.asarray(blank), other, nodes=nodes)
        )
        if ask.progress is not None:
            ask.progress(done * nodes, len(blanks) * nodes)
    return _first_order(total / len(blanks), "IG", game, nodes * len(blanks))


def _partition_shap(game: SimilarityGame, ask: Request) -> Interactions:
    size = game.match.backbone.preprocessing.size
    values, stats = partition_shap(
        game.value_fn,
        size,
        size,
        budget=ask.budget,
        chunk_size=game.chunk_size,
        progress=ask.progress,
    )
    empty = np.array([stats["v_empty"]])
    return Interactions((empty, values.ravel()), "Owen", size * size, None, stats)


def _sbsm(game: SimilarityGame, ask: Request) -> Interactions:
    size = game.match.backbone.preprocessing.size
    options = {"budget": ask.budget, "key": ask.key, "chunk_size": game.chunk_size}
    options["progress"] = ask.progress
    if ask.order == 1:
        values, errors, evaluations = sbsm(game.value_fn, size, **options)
        return _first_order(values, "SBSM", game, evaluations, errors)
    assert game.query_players is not None
    assert game.retrieved_players is not None
    match = game.match
    pixels: list[np.ndarray | None] = [label_map("pixels", p, (1, 1)) for p in match.pictures]
    sides = masked_sides(match, pixels, match.embeddings())
    cross, errors, evaluations = joint_sbsm(
        masked_game(match.backbone, *sides), game.query_players, game.retrieved_players, **options
    )
    stats = {**ends(game), "evaluations": evaluations}
    empty, alone = np.array([stats["v_empty"]]), np.zeros(game.n_players)
    return Interactions(
        (empty, alone, across(cross)),
        "SBSM",
        game.n_players,
        (np.zeros(1), alone, across(errors)),
        stats,
    )


def _two_tower(game: SimilarityGame, ask: Request) -> Interactions:
    found = play_towers(
        _towers(game), ask.budget, ask.key, chunk_size=game.chunk_size, progress=ask.progress
    )
    stats = {**found.stats, "v_grand": game.similarity}
    return Interactions(
        found.coefficients, found.index, found.n_players, found.standard_errors, stats
    )


def _towers(game: SimilarityGame) -> list[tuple[Embed, int] | np.ndarray]:
    """Both sides of a game of regions, whose embeddings' dot products are worths.

    The function from masks to embeddings of a picture that plays and its number of players, and
    the embedding of one that does not.
    """
    assert isinstance(game.value_fn, PaddedGame)
    backbone, sides = game.match.backbone, game.value_fn.sides
    count = max(len(side.backgrounds) for side in sides if isinstance(side, MaskedPicture))
    towers: list[tuple[Embed, int] | np.ndarray] = []
    for side, name in zip(sides, SIDES, strict=True):
        if isinstance(side, MaskedPicture):
            embed = tower(backbone, side, game.chunk_size, f"the {name} picture")
            towers.append((_finite(embed), side.n_players))
        else:
            # A playing tower has one embedding for each background, side by side.
            unit = np.asarray(side, np.float64)
            unit = unit / max(float(np.linalg.norm(unit)), np.finfo(float).tiny)
            towers.append(np.tile(unit, count) / count**0.5)
    return towers


def _finite(embed: PaddedGame) -> Embed:
    """A tower that itself refuses NaN and infinity, since it knows the picture and the layer."""

    def run(masks: np.ndarray) -> np.ndarray:
        vectors = np.asarray(embed(masks))
        require_finite(embed, vectors, masks)
        return vectors

    return run


def _remembered(embed: Embed) -> Callable[[np.ndarray], np.ndarray]:
    """A tower that encodes every distinct mask once, over all its calls."""
    known: dict[bytes, np.ndarray] = {}

    def remembered(masks: np.ndarray) -> np.ndarray:
        names = [row.tobytes() for row in np.packbits(masks, axis=1)]
        new = {name: place for place, name in enumerate(names) if name not in known}
        if new:
            found = np.asarray(embed(np.asarray(masks)[list(new.values())]))
            known.update(zip(new, found, strict=True))
        return np.stack([known[name] for name in names])

    return remembered


def _fixlip(game: SimilarityGame, ask: Request) -> Interactions:
    query, retrieved = (_remembered(side[0]) for side in _towers(game))
    n_query = game.n_query

    def encoded(masks: np.ndarray) -> np.ndarray:
        a, b = query(masks[:, :n_query]), retrieved(masks[:, n_query:])
        return (a * b).sum(axis=1, dtype=np.float64)

    return estimate(
        encoded,
        game.n_players,
        index="FBII",
        order=2,
        budget=ask.budget,
        method="fixlip",
        key=ask.key,
        traceable=False,
        progress=ask.progress,
        n_query=n_query,
        pairs="cross" if ask.bilinear else "all",
    )


def _lime(game: SimilarityGame, ask: Request) -> Interactions:
    hidden = _squared_differences(game)

    def distance(masks: np.ndarray) -> np.ndarray:
        return ~masks @ hidden

    return estimate(
        game.value_fn,
        game.n_players,
        index="FBII",
        order=ask.order,
        budget=ask.budget,
        method="lime",
        key=ask.key,
        chunk_size=game.chunk_size,
        progress=ask.progress,
        distance=distance,
        pairs="cross" if ask.bilinear else "all",
        n_query=game.n_query if ask.bilinear else None,
        refits=ask.refits,
    )


def _squared_differences(game: SimilarityGame) -> np.ndarray:
    """What hiding each part changes in squared pixels, as a share of hiding everything, [n].

    LIME's local weight exp(-lambda |masked pictures - pictures|^2) falls by it, with lambda one
    over the squared distance of the wholly masked pictures.
    """
    shares = []
    for side, labels in enumerate((game.query_players, game.retrieved_players)):
        if labels is not None:
            change = (game.match.blanks(side) - game.match.pictures[side]) ** 2
            shares.append(np.bincount(labels.ravel(), change.mean(axis=0).sum(axis=-1).ravel()))
    found = np.concatenate(shares)
    return found / max(float(found.sum()), np.finfo(float).tiny)


_FEATURES, _PIXELS, _REGIONS = ("features",), ("pixels",), ("superpixels",)
_FEATURES_OR_REGIONS = ("features", "superpixels")

METHODS: dict[str, Method] = {
    "sbsm": Method(_sbsm, (_PIXELS, ("grid",)), (5_000, 20_000), "mean"),
    "vesm": Method(_pure("vesm"), (_FEATURES, ()), None),
    "lime": Method(_lime, (_REGIONS, _REGIONS), (5_000, 20_000), "mean", bilinear=True),
    "kernel-shap": Method(
        _kernel, (("superpixels", "features"), ("superpixels", "features")), (5_000, 20_000)
    ),
    "partition-shap": Method(_partition_shap, (_PIXELS, ()), (5_000, 0)),
    "ig": Method(_pixel_gradients, (_PIXELS, ()), (50, 0)),
    "gradcam": Method(_pure("gradcam"), (_FEATURES, ()), None),
    "sam": Method(_pure("sam"), (_FEATURES, _FEATURES), None),
    "ig-sam": Method(_sampled(ig_sam), (_FEATURES, _FEATURES), (5_000, 40_000)),
    "kernel-sam": Method(_kernel, (_FEATURES_OR_REGIONS, _FEATURES_OR_REGIONS), (5_000, 40_000)),
    "gram-sam": Method(_sampled(gram_sam), (_FEATURES, _FEATURES), (5_000, 5_000)),
    "two-tower": Method(_two_tower, (_REGIONS, _REGIONS), (BUDGET, 2 * BUDGET)),
    "fixlip": Method(_fixlip, ((), _REGIONS), (0, 20_000), bilinear=True),
    "integrated-jacobians": Method(_pure("integrated-jacobians"), ((), _FEATURES), (0, 64)),
}
