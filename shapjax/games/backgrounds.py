"""What stands in for the masked parts of a picture: one background, or several averaged over."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.core.errors import ImageError, ShapjaxError
from shapjax.games.images import load_image

if TYPE_CHECKING:
    from shapjax.backbones.record import Backbone

NAMES = ("blur", "mean", "black")

BLUR = 25
"""Side of the blur's window, in pixels of a 224-pixel picture (Hamilton et al. 2022, A.2)."""

BATCH = 32
"""Pictures of a data set held at a time."""


def background(kind: Any, picture: np.ndarray, backbone: Backbone) -> np.ndarray:
    """The picture that masked parts of ``picture`` are taken from.

    Args:
        kind: ``"blur"`` (box blur, 25 of 224 pixels), ``"mean"`` (the picture's mean colour),
            ``"black"``, a picture (path, PIL image, array): the counterfactual; or a folder,
            the mean of the pictures in it.
        picture: float32 [S, S, 3], RGB in [0, 1], at the network's input size.
        backbone: whose input size a counterfactual is brought to.

    Returns:
        float32 [S, S, 3], RGB in [0, 1].

    Raises:
        ImageError: a counterfactual picture cannot be read, or a folder holds none.
        ShapjaxError: it is ``"zero"``, which only feature maps have, or ``"drop"``.
    """
    if isinstance(kind, str) and kind in NAMES:
        return {"blur": _blur, "mean": _mean, "black": np.zeros_like}[kind](picture)
    if isinstance(kind, str) and kind == "zero":
        raise ShapjaxError(
            'background "zero" is of feature maps, but pixels are masked; use "black".'
        )
    if isinstance(kind, str) and kind == "drop":
        raise ShapjaxError(
            'background "drop" leaves patches of a transformer out, which only shapjax.explain '
            'and shapjax.parts do, without other backgrounds; use "blur", "mean" or "black".'
        )
    if is_folder(kind):
        return _mean_of(_pictures_in(Path(kind)), lambda batch: batch, backbone)
    return backbone.resize(load_image(kind), fit="stretch")


def backgrounds(kind: Any, picture: np.ndarray, backbone: Backbone) -> np.ndarray:
    """All backgrounds, over which worths are averaged, float32 [K, S, S, 3].

    Args:
        kind: as in ``background``, or a list of such kinds.
        picture: as in ``background``.
        backbone: as in ``background``.
    """
    return np.stack([background(one, picture, backbone) for one in kinds_of(kind)])


def feature_backgrounds(kind: Any, picture: np.ndarray, backbone: Backbone) -> np.ndarray:
    """What replaces masked locations of a feature map, float32 [K, h, w, C].

    The features of the background picture; of a folder the mean of its pictures' features
    (not the features of their mean); zeros for ``"zero"``.

    Args:
        kind: as in ``backgrounds``, or ``"zero"``.
        picture: as in ``background``.
        backbone: whose features they are.
    """

    def one(single: Any) -> np.ndarray:
        if isinstance(single, str) and single == "zero":
            shape = jax.eval_shape(features_of, backbone, jnp.asarray(picture)[None]).shape
            return np.zeros(shape[1:], np.float32)
        if is_folder(single):
            files = _pictures_in(Path(single))
            return _mean_of(files, lambda batch: features_of(backbone, batch), backbone)
        return np.asarray(features_of(backbone, background(single, picture, backbone)[None]))[0]

    return np.stack([one(single) for single in kinds_of(kind)])


@jax.jit
def features_of(backbone: Backbone, rgb: jax.Array) -> jax.Array:
    """Feature maps of pictures [B, S, S, 3] in RGB, [B, h, w, C]; of a transformer its patches."""
    maps = backbone.features(backbone.normalise(rgb))
    if maps.ndim == 3:
        # A transformer's class token, then its patches row by row.
        side = math.isqrt(maps.shape[1] - 1)
        maps = maps[:, 1:].reshape(len(maps), side, side, -1)
    return maps


def feature_cells(backbone: Backbone) -> tuple[int, int]:
    """Rows and columns of the feature map, of a transformer its patches."""
    size = backbone.preprocessing.size
    rgb = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    shape = jax.eval_shape(features_of, backbone, rgb).shape
    return shape[1], shape[2]


def kinds_of(kind: Any) -> list[Any]:
    """The backgrounds that a caller gave, one or a list, as a list."""
    if not isinstance(kind, list | tuple):
        return [kind]
    if not kind:
        raise ShapjaxError("background is an empty list, expected at least one; name one.")
    return list(kind)


def is_folder(kind: Any) -> bool:
    """Whether a background is a folder of pictures, of which the mean is taken."""
    return isinstance(kind, str | os.PathLike) and Path(kind).is_dir()


def _pictures_in(folder: Path) -> list[Path]:
    from PIL import Image

    endings = set(Image.registered_extensions())
    files = [f for f in sorted(folder.iterdir()) if f.suffix.lower() in endings and f.is_file()]
    if not files:
        raise ImageError(f"{folder} holds no pictures, expected a data set; name another folder.")
    return files


def _mean_of(files: list[Path], seen: Any, backbone: Backbone) -> np.ndarray:
    """Mean over pictures of what ``seen`` makes of batches of them, float32."""
    total: Any = 0.0
    for start in range(0, len(files), BATCH):
        part = files[start : start + BATCH]
        batch = np.stack([backbone.resize(load_image(file), fit="stretch") for file in part])
        total = total + np.asarray(seen(batch), np.float64).sum(axis=0)
    return (total / len(files)).astype(np.float32)


def _blur(picture: np.ndarray) -> np.ndarray:
    from scipy.ndimage import uniform_filter

    # An odd window is centred on its pixel.
    window = max(3, 2 * round((BLUR * len(picture) / 224 - 1) / 2) + 1)
    return uniform_filter(picture, size=(window, window, 1), mode="reflect")  # pyright: ignore[reportArgumentType]


def _mean(picture: np.ndarray) -> np.ndarray:
    return np.broadcast_to(picture.mean(axis=(0, 1)), picture.shape).copy()
