"""Pairs of views: crops of photographs under known geometry, and what light does to a view.

Everything here is NumPy and Pillow, so that a background process can do it without JAX.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

SIDE = 128
CELL = 16
GRID = SIDE // CELL

# skimage.data functions whose picture lies in the scikit-image wheel. The stereo motorcycle is
# absent on purpose: it is what the package is shown on, and must never be trained on.
TRAINING_PHOTOGRAPHS = (
    "astronaut",
    "brick",
    "camera",
    "cell",
    "chelsea",
    "clock",
    "coffee",
    "grass",
    "hubble_deep_field",
    "immunohistochemistry",
    "moon",
    "page",
    "retina",
    "text",
)
HELD_OUT_PHOTOGRAPHS = ("coins", "gravel", "rocket")


@dataclasses.dataclass(frozen=True)
class Pairs:
    """B pairs of views and where the second's cells lie in the first.

    Attributes:
        first: RGB uint8 [B, 128, 128, 3].
        second: RGB uint8 [B, 128, 128, 3].
        match: float32 [B, 8, 8, 2], the (row, column) in the first view's cells of each cell
            centre of the second; integers are cell centres.
        valid: bool [B, 8, 8], whether that point is visible in the first view.
    """

    first: np.ndarray
    second: np.ndarray
    match: np.ndarray
    valid: np.ndarray


def stack(pairs: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]) -> Pairs:
    """One :class:`Pairs` from single pairs, each (first, second, match, valid)."""
    return Pairs(*map(np.stack, zip(*pairs, strict=True)))


def photographs(names: Sequence[str]) -> list[Image.Image]:
    """The named ``skimage.data`` pictures as RGB, the large ones reduced to 512 pixels.

    Reducing makes a crop show a thing rather than the grain of one.
    """
    from skimage import data

    pictures = [Image.fromarray(getattr(data, name)()).convert("RGB") for name in names]
    for picture in pictures:
        picture.thumbnail((512, 512), Image.Resampling.LANCZOS)
    return pictures


def cell_centres() -> np.ndarray:
    """The centres of a view's cells in pixels, float [8, 8, 2] as (x, y)."""
    middle = (np.arange(GRID) + 0.5) * CELL
    return np.stack(np.meshgrid(middle, middle), axis=-1)


def to_cells(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fractional cells of points in a view, and which points lie inside it.

    Args:
        points: float [..., 2] as (x, y) in pixels.

    Returns:
        float32 [..., 2] as (row, column), and bool [...].
    """
    inside = np.all((points >= 0) & (points <= SIDE), axis=-1)
    return (points[..., ::-1] / CELL - 0.5).astype(np.float32), inside


def crop_pair(
    rng: np.random.Generator, photograph: Image.Image
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two overlapping random crops of a photograph, lit differently.

    Both are mirrored or neither is: mirrored twins of a thing are different locations.

    Args:
        rng: source of chance.
        photograph: RGB.

    Returns:
        first, second (RGB uint8 [128, 128, 3]), match and valid as in :class:`Pairs`.
    """
    first, second = _overlapping_boxes(rng, photograph.size)
    flip = rng.random() < 0.5
    views = [_cut(photograph, box, flip) for box in (first, second)]
    points = cell_centres() / SIDE
    if flip:
        points = points * [-1, 1] + [1, 0]
    points = (second[:2] + points * (second[2:] - second[:2]) - first[:2]) / (first[2:] - first[:2])
    if flip:
        points = points * [-1, 1] + [1, 0]
    match, valid = to_cells(points * SIDE)
    return augment(rng, views[0]), augment(rng, views[1]), match, valid


def _overlapping_boxes(
    rng: np.random.Generator, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Two boxes (left, top, right, bottom) of similar size and place within a picture."""
    limit = np.asarray(size, float)
    side = np.exp(rng.uniform(np.log(90), np.log(0.9 * limit.min())))
    centre = rng.uniform(side / 2, limit - side / 2)
    boxes = []
    for _ in range(2):
        aspect = np.exp(rng.uniform(-0.15, 0.15))
        scale = np.exp(rng.uniform(-0.3, 0.3))
        extent = np.minimum(side * scale * np.array([aspect, 1 / aspect]), limit)
        middle = centre + rng.uniform(-0.2, 0.2, 2) * side
        corner = np.clip(middle - extent / 2, 0, limit - extent)
        boxes.append(np.concatenate([corner, corner + extent]))
    return boxes[0], boxes[1]


def _cut(photograph: Image.Image, box: np.ndarray, flip: bool) -> Image.Image:
    view = photograph.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=tuple(box))
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else view


def augment(rng: np.random.Generator, view: Image.Image) -> np.ndarray:
    """A view under another light and camera: blur, colour, shading and noise.

    Args:
        rng: source of chance.
        view: RGB, 128 x 128.

    Returns:
        RGB uint8 [128, 128, 3].
    """
    if rng.random() < 0.25:
        view = view.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))
    x = np.asarray(view, np.float32) / 255
    x = (x - 0.5) @ _colour_matrix(rng) + np.float32(0.5 + rng.uniform(-0.15, 0.15))
    if rng.random() < 0.5:
        x *= _shading(rng)
    if rng.random() < 0.5:
        x += rng.standard_normal(x.shape, np.float32) * np.float32(rng.uniform(0, 0.04))
    return (np.clip(x, 0, 1) * 255).astype(np.uint8)


def _colour_matrix(rng: np.random.Generator) -> np.ndarray:
    """Contrast, saturation, hue and the light's tint in one matrix, float32 [3, 3]."""
    grey = np.full((3, 3), 1 / 3)
    saturation = 0.0 if rng.random() < 0.1 else rng.uniform(0.5, 1.5)
    angle = rng.normal(0, 0.2)
    # The generator of rotations about the grey axis.
    spin = np.array([[0, 1, -1], [-1, 0, 1], [1, -1, 0]]) / np.sqrt(3)
    hue = np.cos(angle) * (np.eye(3) - grey) + np.sin(angle) * spin
    tint = np.diag(rng.uniform(0.9, 1.1, 3))
    contrast = rng.uniform(0.6, 1.3)
    return (contrast * (grey + saturation * hue) @ tint).astype(np.float32)


def _shading(rng: np.random.Generator) -> np.ndarray:
    """Light that changes linearly across the view, float32 [128, 128, 1]."""
    ramp = np.linspace(-0.5, 0.5, SIDE, dtype=np.float32)
    slope = rng.uniform(-0.5, 0.5, 2).astype(np.float32)
    return (1 + slope[0] * ramp[:, None] + slope[1] * ramp[None, :])[..., None]
