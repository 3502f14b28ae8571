"""The similarity game of two pictures: who plays, and what coalitions are worth."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from shapjax.backbones.record import Backbone
from shapjax.core.checks import one_of
from shapjax.games.backgrounds import feature_cells
from shapjax.games.feature_pairs import FeaturePair
from shapjax.games.masked import NETWORK_CHUNK, MaskedPicture, PaddedGame, masked_game
from shapjax.games.match import Match, Picture, by_side, count_backgrounds
from shapjax.games.players import label_map
from shapjax.games.pooled import Grams, cosine_game, gram_matrices

SIDES = ("query", "retrieved", "both")


class SimilarityGame(NamedTuple):
    """Worth of coalitions of parts of one or two pictures, in units of cosine similarity.

    Players are numbered query first, then retrieved.

    Attributes:
        value_fn: Boolean [B, n] to float [B].
        grams: Gram matrices, where players are locations of a pooled feature map; else None.
        query_players: int32 [S, S], the player that owns each input pixel; None if unmasked.
        retrieved_players: likewise.
        similarity: cosine of the whole pictures.
        chunk_size: coalitions per call.
        match: the pictures, the network and the backgrounds.
        features: the feature maps, where their locations play; else None.
    """

    value_fn: Partial | PaddedGame
    grams: Grams | None
    query_players: np.ndarray | None
    retrieved_players: np.ndarray | None
    similarity: float
    chunk_size: int
    match: Match
    features: FeaturePair | None = None

    @property
    def n_query(self) -> int:
        """Players on the query."""
        return 0 if self.query_players is None else int(self.query_players.max()) + 1

    @property
    def n_players(self) -> int:
        """Players on both pictures."""
        maps = (self.query_players, self.retrieved_players)
        return sum(int(labels.max()) + 1 for labels in maps if labels is not None)


def similarity_game(
    backbone: Backbone,
    query: Picture,
    retrieved: Picture,
    *,
    players: Any = "features",
    masked: Literal["query", "retrieved", "both"] = "both",
    background: Any = "blur",
) -> SimilarityGame:
    """The game whose interactions explain why two pictures match.

    Pictures are brought bilinearly to the network's square input, as a whole.

    Args:
        backbone: network whose globally pooled features are compared by cosine.
        query: path, PIL image or array.
        retrieved: likewise.
        players: ``"features"``, locations of the last feature map (worths come from Gram
            matrices); or regions of the pictures (the network runs on every coalition):
            ``"superpixels"``, ``"pixels"``, ``"grid"`` (the cells of the feature map),
            ``"4x6"`` or ``(4, 6)`` (rows and columns), a label map [H, W] or its PNG. A
            dictionary with ``"query"`` and ``"retrieved"`` gives regions for each.
        masked: which pictures have players: ``"both"`` is the second-order game
            v(S) = d(mask(x, S), mask(y, S)), the others are first order.
        background: ``"blur"``, ``"mean"``, ``"black"``, a picture, or a folder of pictures
            (their mean), which replaces what is masked; feature players take its features, and
            may take ``"zero"``. A list averages the worths over several; a dictionary with
            ``"query"`` and ``"retrieved"`` gives each picture its own.

    Raises:
        ShapjaxError: an argument is not one of its choices, or the network gives NaN.
        ImageError: a picture cannot be read.

    Source: Hamilton et al. 2022, eqs. 2 and 6.
    """
    one_of(masked, SIDES, "masked")
    plays = (masked in ("query", "both"), masked in ("retrieved", "both"))
    match = Match.of(backbone, query, retrieved, plays, background)
    if isinstance(players, str) and players == "features":
        return _pooled(match)
    return _masked(match, by_side(players, "players"))


def _pooled(match: Match) -> SimilarityGame:
    pair = feature_pair(match)
    grams = pair.grams()
    labels = [
        label_map("features", picture, feature_cells(match.backbone)) if playing else None
        for picture, playing in zip(match.pictures, match.plays, strict=True)
    ]
    return SimilarityGame(
        cosine_game(grams),
        grams,
        labels[0],
        labels[1],
        float(pair.similarity()),
        4096,
        match,
        pair,
    )


def feature_pair(match: Match) -> FeaturePair:
    """The feature maps of a match with the backgrounds of the sides that play.

    Raises:
        NotFiniteError: the network gives NaN or infinity.
    """
    # Gram matrices are made in the widest precision that JAX is set to.
    maps = jnp.asarray(match.feature_maps(), jnp.result_type(float))
    blanks = [
        jnp.asarray(match.feature_blanks(side), maps.dtype) if playing else None
        for side, playing in enumerate(match.plays)
    ]
    return FeaturePair(maps[0], maps[1], *blanks)


def _masked(match: Match, kinds: tuple[Any, Any]) -> SimilarityGame:
    labels = [
        label_map(kind, picture, feature_cells(match.backbone)) if playing else None
        for kind, picture, playing in zip(kinds, match.pictures, match.plays, strict=True)
    ]
    embeddings = match.embeddings()
    game = masked_game(match.backbone, *masked_sides(match, labels, embeddings))
    similarity = _cosine(embeddings)
    return SimilarityGame(game, None, labels[0], labels[1], similarity, NETWORK_CHUNK, match)


def masked_sides(
    match: Match, labels: list[np.ndarray | None], embeddings: jax.Array
) -> list[MaskedPicture | jax.Array]:
    """Both sides of a masked game: a picture with players, or the embedding of one without.

    Args:
        match: the pictures.
        labels: label map of each picture, None where it has no players.
        embeddings: of the whole pictures, [2, C].
    """
    blanks = [
        match.blanks(side) if owners is not None else None for side, owners in enumerate(labels)
    ]
    count = count_backgrounds([len(b) for b in blanks if b is not None])
    sides: list[MaskedPicture | jax.Array] = []
    for picture, owners, blank, embedding in zip(
        match.pictures, labels, blanks, embeddings, strict=True
    ):
        if owners is None or blank is None:
            sides.append(embedding)
            continue
        shown = np.broadcast_to(blank, (count, *blank.shape[1:]))
        sides.append(MaskedPicture.of(match.backbone, picture, shown, owners))
    return sides


def _cosine(embeddings: jax.Array) -> float:
    """Cosine of the two whole pictures, from [2, C]."""
    query, retrieved = embeddings
    return float(
        cosine_game(gram_matrices(query[None], retrieved[None]))(jnp.ones((1, 0), bool))[0]
    )
