"""Where the players of a picture are: label maps, int32 [H, W], the player that owns each pixel."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from shapjax.core.checks import whole_number
from shapjax.core.errors import ShapjaxError
from shapjax.games.images import png_entries

CHOICES = "features, superpixels, pixels, grid, ROWSxCOLUMNS, a label map or its PNG"

MAX_LABELS = 16_000_000
"""Pixels of the largest label map that is read from a file; its labels are sorted."""


def label_map(kind: Any, picture: np.ndarray, cells: tuple[int, int]) -> np.ndarray:
    """The players that a caller asks for.

    Args:
        kind: ``"superpixels"``; ``"pixels"``; ``"features"`` or ``"grid"``, one player for
            each cell of the feature map; ``"4x6"`` or ``(4, 6)``, rows and columns of a grid; a
            label map: Boolean or whole numbers [H, W], of any size, stretched over the picture
            as the picture is over the network's input; or a path to a PNG of one (grey,
            palette, or one colour a player).
        picture: float32 [S, S, 3], RGB in [0, 1].
        cells: rows and columns of the feature map.

    Returns:
        int32 [S, S] with labels 0..n-1, in the order of the caller's labels.

    Raises:
        ShapjaxError: none of these, or a label covers no pixel of the network's input.
        ImageError: a label map cannot be read.
    """
    height, width = picture.shape[:2]
    if isinstance(kind, str):
        if kind == "superpixels":
            return superpixels(picture)
        if kind == "pixels":
            return grid(height, width, height, width)
        if kind in ("features", "grid"):
            return grid(height, width, *cells)
        size = re.fullmatch(r"(\d{1,6})x(\d{1,6})", kind)
        if size:
            kind = (int(size[1]), int(size[2]))
    if isinstance(kind, tuple):
        if len(kind) != 2:
            raise ShapjaxError(f"players is {kind!r}, expected two numbers, rows and columns.")
        rows = whole_number(kind[0], "rows of the grid of players", low=1, high=height)
        columns = whole_number(kind[1], "columns of the grid of players", low=1, high=width)
        return grid(height, width, rows, columns)
    if isinstance(kind, str | os.PathLike):
        return own_labels(_read_labels(Path(kind)), height, width)
    if hasattr(kind, "__array__"):
        return own_labels(np.asarray(kind), height, width)
    raise ShapjaxError(f"players is {kind!r}, expected one of {CHOICES}.")


def grid(height: int, width: int, rows: int, columns: int) -> np.ndarray:
    """Cells of a feature map laid over the input, row by row.

    Args:
        height, width: size of the network's input, pixels.
        rows, columns: size of the feature map.

    Returns:
        int32 [height, width] with labels 0..rows*columns-1.
    """
    y = np.arange(height) * rows // height
    x = np.arange(width) * columns // width
    return (y[:, None] * columns + x[None, :]).astype(np.int32)


def superpixels(picture: np.ndarray) -> np.ndarray:
    """SLIC superpixels: 50 segments, compactness 10, sigma 3.

    Args:
        picture: float32 [H, W, 3], RGB in [0, 1].

    Returns:
        int32 [H, W] with labels 0..k-1; k may differ from 50.

    Source: Hamilton et al. 2022, A.2 (settings); Achanta et al. 2012.
    """
    from skimage.segmentation import slic

    labels = slic(picture, n_segments=50, compactness=10, sigma=3, start_label=0)
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.int32)


def own_labels(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """A caller's label map at the network's input size, labels renumbered from 0 in their order.

    Args:
        labels: Boolean or whole numbers [H, W].
        height, width: size of the network's input, pixels.

    Raises:
        ShapjaxError: it is no label map, or stretching loses a label.
    """
    if labels.ndim != 2 or labels.dtype.kind not in "biu" or 0 in labels.shape:
        raise ShapjaxError(
            f"a label map has shape {labels.shape} and dtype {labels.dtype}, expected whole "
            "numbers [H, W]: the player that owns each pixel."
        )
    shown = stretch(labels, height, width)
    lost = np.setdiff1d(labels, shown)
    if lost.size:
        raise ShapjaxError(
            f"{lost.size} of {np.unique(labels).size} labels (the first is {lost[0]}) cover no "
            f"pixel of the network's {width} x {height} input; merge small regions."
        )
    return np.unique(shown, return_inverse=True)[1].reshape(shown.shape).astype(np.int32)


def stretch(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """The nearest entries of a map [H, W] at another size, [height, width]."""
    rows = (2 * np.arange(height) + 1) * labels.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * labels.shape[1] // (2 * width)
    return labels[rows[:, None], columns]


def _read_labels(path: Path) -> np.ndarray:
    """Labels of a PNG: palette entries, greys of any depth, or colours."""
    if not path.is_file():
        raise ShapjaxError(f"players is {str(path)!r}, expected one of {CHOICES}.")
    labels = png_entries(path, "label map", MAX_LABELS)
    if labels.ndim == 2:
        return labels
    # One label for each colour, alpha included.
    packed = np.zeros(labels.shape[:2], np.int64)
    for channel in range(labels.shape[2]):
        packed = packed * 65536 + labels[..., channel]
    return packed
