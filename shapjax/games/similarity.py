"""The similarity game of two pictures: who plays, and what coalitions are worth."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Union

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from shapjax.backbones.record import Backbone
from shapjax.core.checks import one_of
from shapjax.core.errors import ShapjaxError
from shapjax.games.backgrounds import background
from shapjax.games.images import load_image
from shapjax.games.masked import MaskedPicture, masked_game
from shapjax.games.players import grid, superpixels
from shapjax.games.pooled import Grams, cosine_game, gram_matrices, pooled_rows, unmasked_row

if TYPE_CHECKING:
    from PIL import Image

Picture = Union[str, "os.PathLike[str]", "Image.Image", np.ndarray]

PLAYERS = ("features", "superpixels")
SIDES = ("query", "retrieved", "both")

NETWORK_CHUNK = 64
"""Masked pictures per call of a network: enough to fill the machine, small enough to hold."""


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
    """

    value_fn: Partial
    grams: Grams | None
    query_players: np.ndarray | None
    retrieved_players: np.ndarray | None
    similarity: float
    chunk_size: int

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
    players: Literal["features", "superpixels"] = "features",
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
            matrices); or ``"superpixels"`` of the pictures (the network runs on every
            coalition).
        masked: which pictures have players: ``"both"`` is the second-order game
            v(S) = d(mask(x, S), mask(y, S)), the others are first order.
        background: ``"blur"``, ``"mean"``, ``"black"`` or a picture, which replaces what is
            masked; feature players take its features.

    Raises:
        ShapjaxError: an argument is not one of its choices, or the network gives NaN.
        ImageError: a picture cannot be read.

    Source: Hamilton et al. 2022, eqs. 2 and 6.
    """
    one_of(players, PLAYERS, "players")
    one_of(masked, SIDES, "masked")
    sides = [_Side.of(backbone, picture, background) for picture in (query, retrieved)]
    plays = [masked in (name, "both") for name in ("query", "retrieved")]
    build = _pooled if players == "features" else _superpixel
    return build(backbone, sides, plays)


class _Side(NamedTuple):
    """One picture at the network's input size, and what replaces its parts: RGB [S, S, 3]."""

    picture: np.ndarray
    background: np.ndarray

    @staticmethod
    def of(backbone: Backbone, source: Picture, kind: Any) -> _Side:
        picture = backbone.resize(load_image(source), fit="stretch")
        return _Side(picture, background(kind, picture, backbone))


@jax.jit
def _features(backbone: Backbone, rgb: jax.Array) -> jax.Array:
    return backbone.features(backbone.normalise(rgb))


@jax.jit
def _embeddings(backbone: Backbone, rgb: jax.Array) -> jax.Array:
    return backbone.embed(backbone.normalise(rgb))


def _feature_maps(backbone: Backbone, sides: list[_Side]) -> np.ndarray:
    """Feature maps of both pictures and both backgrounds, [2, 2, h, w, C].

    Raises:
        ShapjaxError: the network gives NaN or infinity.
    """
    rgb = np.stack([image for side in sides for image in side])
    maps = _finite(backbone, _features(backbone, jnp.asarray(rgb)))
    if maps.ndim == 3:
        # A transformer's class token, then its patches row by row.
        side = math.isqrt(maps.shape[1] - 1)
        maps = maps[:, 1:].reshape(len(maps), side, side, -1)
    return maps.reshape(2, 2, *maps.shape[1:])


def _finite(backbone: Backbone, found: jax.Array) -> np.ndarray:
    """What the network gave, as NumPy has it.

    Raises:
        ShapjaxError: NaN or infinity.
    """
    if not np.isfinite(np.asarray(found)).all():
        raise ShapjaxError(
            f"{backbone.name} gives NaN or infinity for these pictures; check its weights."
        )
    return np.asarray(found)


def _pooled(backbone: Backbone, sides: list[_Side], plays: list[bool]) -> SimilarityGame:
    # Gram matrices are made in the widest precision that JAX is set to.
    maps = jnp.asarray(_feature_maps(backbone, sides), jnp.result_type(float))
    rows = [
        pooled_rows(picture, blank) if playing else unmasked_row(picture)
        for (picture, blank), playing in zip(maps, plays, strict=True)
    ]
    grams = gram_matrices(*rows)
    size = backbone.preprocessing.size
    labels = grid(size, size, *maps.shape[2:4])
    return SimilarityGame(
        cosine_game(grams),
        grams,
        labels if plays[0] else None,
        labels if plays[1] else None,
        _cosine(maps[:, 0].mean(axis=(1, 2))),
        chunk_size=4096,
    )


def _superpixel(backbone: Backbone, sides: list[_Side], plays: list[bool]) -> SimilarityGame:
    rgb = np.stack([side.picture for side in sides])
    embeddings = jnp.asarray(_finite(backbone, _embeddings(backbone, jnp.asarray(rgb))))
    labels = [
        superpixels(side.picture) if playing else None
        for side, playing in zip(sides, plays, strict=True)
    ]
    inputs = [
        embedding if owners is None else _masked_picture(backbone, side, owners)
        for side, owners, embedding in zip(sides, labels, embeddings, strict=True)
    ]
    game = masked_game(backbone, inputs[0], inputs[1])
    similarity = _cosine(embeddings)
    return SimilarityGame(game, None, labels[0], labels[1], similarity, NETWORK_CHUNK)


def _masked_picture(backbone: Backbone, side: _Side, owners: np.ndarray) -> MaskedPicture:
    picture, blank = (backbone.normalise(jnp.asarray(image)) for image in side)
    return MaskedPicture(picture, blank, jnp.asarray(owners), jnp.ones(owners.max() + 1, bool))


def _cosine(embeddings: jax.Array) -> float:
    """Cosine of the two whole pictures, from [2, C]."""
    query, retrieved = embeddings
    return float(
        cosine_game(gram_matrices(query[None], retrieved[None]))(jnp.ones((1, 0), bool))[0]
    )
