"""A match: two pictures at a network's input size, and what may replace their parts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Union

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.backbones.record import Backbone
from shapjax.core.errors import NotFiniteError, ShapjaxError
from shapjax.games.backgrounds import (
    NAMES,
    background,
    backgrounds,
    feature_backgrounds,
    features_of,
    is_folder,
    kinds_of,
)
from shapjax.games.images import load_image

if TYPE_CHECKING:
    from PIL import Image

Picture = Union[str, "os.PathLike[str]", "Image.Image", np.ndarray]

SIDES = ("query", "retrieved")


class Match(NamedTuple):
    """Two pictures, which of them have players, and the backgrounds of each.

    Attributes:
        backbone: the network that compares them.
        pictures: query and retrieved picture, RGB in [0, 1], float32 [S, S, 3] each.
        plays: which of them have players.
        kinds: the background of each, as the caller gave it.
    """

    backbone: Backbone
    pictures: tuple[np.ndarray, np.ndarray]
    plays: tuple[bool, bool]
    kinds: tuple[Any, Any]

    @staticmethod
    def of(
        backbone: Backbone,
        query: Picture,
        retrieved: Picture,
        plays: tuple[bool, bool],
        background: Any,
    ) -> Match:
        """Pictures brought to the network's input, bilinearly and whole.

        Args:
            backbone: the network.
            query: path, PIL image or array.
            retrieved: likewise.
            plays: which pictures have players.
            background: for both; or a dictionary with one for ``"query"`` and for
                ``"retrieved"``.
        """
        kinds = by_side(background, "background")
        x, y = (backbone.resize(load_image(item), fit="stretch") for item in (query, retrieved))
        return Match(backbone, (x, y), plays, kinds)

    def feature_maps(self) -> jax.Array:
        """Feature maps of both pictures, [2, h, w, C].

        Raises:
            NotFiniteError: the network gives NaN or infinity; it names the picture and the layer.
        """
        return self._finite(
            features_of(self.backbone, jnp.asarray(np.stack(self.pictures))), self.pictures
        )

    def embeddings(self) -> jax.Array:
        """What similarity compares of both whole pictures, [2, C].

        Raises:
            NotFiniteError: the network gives NaN or infinity; it names the picture and the layer.
        """
        return self._finite(
            embeddings_of(self.backbone, jnp.asarray(np.stack(self.pictures))), self.pictures
        )

    def feature_blanks(self, side: int) -> jax.Array:
        """Backgrounds of one picture's feature map, [K, h, w, C].

        Raises:
            NotFiniteError: the network gives NaN or infinity; it names the picture and the layer.
        """
        found = feature_backgrounds(self.kinds[side], self.pictures[side], self.backbone)
        if not np.isfinite(found).all():
            kinds = kinds_of(self.kinds[side])
            raise background_not_finite(self.backbone, kinds, self.pictures[side], SIDES[side])
        return jnp.asarray(found)

    def blanks(self, side: int) -> np.ndarray:
        """Backgrounds of one picture in RGB, float32 [K, S, S, 3]."""
        return backgrounds(self.kinds[side], self.pictures[side], self.backbone)

    def _finite(self, maps: jax.Array, pictures: tuple[np.ndarray, np.ndarray]) -> jax.Array:
        for side, found in zip(SIDES, maps, strict=True):
            if not np.isfinite(np.asarray(found)).all():
                place = f"the {side} picture"
                raise not_finite(self.backbone, pictures[SIDES.index(side)], place)
        return maps


def first_bad_layer(backbone: Backbone, x: jax.Array) -> str | None:
    """Name of the stage where a network first gives NaN or infinity; None if none does.

    Args:
        backbone: the network.
        x: its normalised input, float32 [S, S, 3].
    """
    # Not compiled: this runs once.
    stages = backbone.maps(x[None])
    bad = (name for name, found in stages.items() if not np.isfinite(np.asarray(found)).all())
    return next(bad, None)


def not_finite(
    backbone: Backbone, rgb: np.ndarray | jax.Array, place: str, *, normalised: bool = False
) -> NotFiniteError:
    """The error that says in which layer a network first gives NaN or infinity.

    Args:
        backbone: the network.
        rgb: the picture, float32 [S, S, 3] in [0, 1].
        place: what the picture is to the reader of the message.
        normalised: whether the picture is the network's normalised input already.
    """
    x = jnp.asarray(rgb)
    name = first_bad_layer(backbone, x if normalised else backbone.normalise(x))
    layer = "only in its embedding" if name is None else f"first in layer {name!r}"
    return NotFiniteError(
        f"{backbone.name} gives NaN or infinity for {place}, {layer}; check its weights."
    )


def background_not_finite(
    backbone: Backbone, kinds: Sequence[Any], picture: np.ndarray, side: str
) -> NotFiniteError:
    """The error that says for which background a network gives NaN or infinity, and where first.

    Args:
        backbone: the network.
        kinds: the backgrounds, each as in ``shapjax.games.backgrounds.background``.
        picture: what they stand in for, float32 [S, S, 3].
        side: ``"query"`` or ``"retrieved"``.
    """
    for kind in kinds:
        named = isinstance(kind, str) and kind in NAMES
        if is_folder(kind) or (isinstance(kind, str) and kind == "zero"):
            continue
        shown = background(kind, picture, backbone)
        if not np.isfinite(np.asarray(features_of(backbone, jnp.asarray(shown)[None]))).all():
            place = f"the {kind if named else 'given'} background of the {side} picture"
            return not_finite(backbone, shown, place)
    return NotFiniteError(
        f"{backbone.name} gives NaN or infinity for a background of the {side} picture; check its "
        "weights."
    )


@jax.jit
def embeddings_of(backbone: Backbone, rgb: jax.Array) -> jax.Array:
    """What similarity compares of pictures [B, S, S, 3] in RGB, [B, C]."""
    return backbone.embed(backbone.normalise(rgb))


def by_side(value: Any, name: str) -> tuple[Any, Any]:
    """One value for both pictures, or a dictionary's own for each.

    Raises:
        ShapjaxError: a dictionary lacks a picture or has something else.
    """
    if not isinstance(value, dict):
        return value, value
    if set(value) != set(SIDES):
        raise ShapjaxError(
            f"{name} is a dictionary of {', '.join(map(repr, value))}, expected one for "
            "'query' and one for 'retrieved'."
        )
    return value["query"], value["retrieved"]


def count_backgrounds(counts: list[int]) -> int:
    """How many backgrounds worths are averaged over.

    Raises:
        ShapjaxError: the pictures have different numbers of them, neither of which is one.
    """
    most = max(counts, default=1)
    if set(counts) - {1, most}:
        raise ShapjaxError(
            f"the pictures have {' and '.join(map(str, counts))} backgrounds, expected the same "
            "number or one."
        )
    return most
