"""What stands in for the masked parts of a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from shapjax.games.images import load_image

if TYPE_CHECKING:
    from shapjax.backbones.record import Backbone

NAMES = ("blur", "mean", "black")

BLUR = 25
"""Side of the blur's window, in pixels of a 224-pixel picture (Hamilton et al. 2022, A.2)."""


def background(kind: Any, picture: np.ndarray, backbone: Backbone) -> np.ndarray:
    """The picture that masked parts of ``picture`` are taken from.

    Args:
        kind: ``"blur"`` (box blur, 25 of 224 pixels), ``"mean"`` (the picture's mean colour),
            ``"black"``, or a picture (path, PIL image, array): the counterfactual.
        picture: float32 [S, S, 3], RGB in [0, 1], at the network's input size.
        backbone: whose input size a counterfactual is brought to.

    Returns:
        float32 [S, S, 3], RGB in [0, 1].

    Raises:
        ImageError: a counterfactual picture cannot be read.
    """
    if isinstance(kind, str) and kind in NAMES:
        return {"blur": _blur, "mean": _mean, "black": np.zeros_like}[kind](picture)
    return backbone.resize(load_image(kind), fit="stretch")


def _blur(picture: np.ndarray) -> np.ndarray:
    from scipy.ndimage import uniform_filter

    # An odd window is centred on its pixel.
    window = max(3, 2 * round((BLUR * len(picture) / 224 - 1) / 2) + 1)
    return uniform_filter(picture, size=(window, window, 1), mode="reflect")  # pyright: ignore[reportArgumentType]


def _mean(picture: np.ndarray) -> np.ndarray:
    return np.broadcast_to(picture.mean(axis=(0, 1)), picture.shape).copy()
