"""Drawn scenes: textured things before a textured ground, seen twice with the things moved.

A scene is a stack of flat layers, each an RGBA picture; a view places every layer by an affine
map. So the place of a point of one view in another view of the same scene is known exactly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from shapjax.training.crops import SIDE, augment, cell_centres, to_cells

GROUND = 256
THING = 96


@dataclasses.dataclass(frozen=True)
class Layer:
    """A flat picture and where it rests.

    Attributes:
        picture: RGBA, its alpha is its shape.
        pose: [3, 3], from the picture's pixels (centred) to the scene's (centred).
    """

    picture: Image.Image
    pose: np.ndarray


def draw_scene(rng: np.random.Generator, photographs: Sequence[Image.Image] = ()) -> list[Layer]:
    """A ground and three to seven things of random shape, texture, size and place.

    Args:
        rng: source of chance.
        photographs: where given, half of the textures are cut from them.

    Returns:
        Layers, the ground first, then nearer and nearer.
    """
    ground = _texture(rng, GROUND, photographs)
    ground.putalpha(255)
    layers = [Layer(ground, affine(angle=rng.uniform(-0.5, 0.5)))]
    for _ in range(rng.integers(3, 8)):
        picture = _texture(rng, THING, photographs)
        picture.putalpha(_silhouette(rng))
        pose = affine(
            shift=rng.uniform(-0.45, 0.45, 2) * SIDE,
            angle=rng.uniform(-np.pi, np.pi),
            scale=rng.uniform(0.25, 0.9),
        )
        layers.append(Layer(picture, pose))
    return layers


def affine(
    shift: Sequence[float] | np.ndarray = (0, 0), angle: float = 0.0, scale: float = 1.0
) -> np.ndarray:
    """The map that scales, turns by ``angle`` radians, then shifts, [3, 3]."""
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, shift[0]], [s, c, shift[1]], [0, 0, 1]])


def scene_pair(
    rng: np.random.Generator, photographs: Sequence[Image.Image] = ()
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two views of a new scene: another camera, moved things, another light.

    Args:
        rng: source of chance.
        photographs: as in :func:`draw_scene`.

    Returns:
        first, second (RGB uint8 [128, 128, 3]), match and valid as in
        :class:`shapjax.training.crops.Pairs`.
    """
    layers = draw_scene(rng, photographs)
    first, first_maps, first_owner = _render(layers, rng)
    second, second_maps, second_owner = _render(layers, rng)
    match, valid = _correspond(first_maps, first_owner, second_maps, second_owner)
    return augment(rng, first), augment(rng, second), match, valid


def _render(
    layers: Sequence[Layer], rng: np.random.Generator
) -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """A view, the map of each layer into it [L, 3, 3], and the layer that owns each pixel."""
    centre = affine(shift=(SIDE / 2, SIDE / 2))
    camera = affine(
        shift=rng.uniform(-12, 12, 2),
        angle=rng.uniform(-0.15, 0.15),
        scale=np.exp(rng.uniform(-0.15, 0.25)),
    )
    view = Image.new("RGB", (SIDE, SIDE))
    owner = np.zeros((SIDE, SIDE), np.intp)
    maps = []
    for index, layer in enumerate(layers):
        moved = np.eye(3) if index == 0 else _nudge(rng, layer.pose)
        side = layer.picture.width
        placed = centre @ camera @ moved @ layer.pose @ affine(shift=(-side / 2, -side / 2))
        maps.append(placed)
        alpha = _paste(view, layer.picture, placed)
        owner[alpha > 127] = index
    return view, np.stack(maps), owner


def _nudge(rng: np.random.Generator, pose: np.ndarray) -> np.ndarray:
    """A small motion of a thing about its own middle, [3, 3]."""
    middle = pose[:2, 2]
    motion = affine(rng.uniform(-10, 10, 2), rng.uniform(-0.15, 0.15), rng.uniform(0.9, 1.1))
    return affine(shift=middle) @ motion @ affine(shift=-middle)


def _paste(view: Image.Image, picture: Image.Image, placed: np.ndarray) -> np.ndarray:
    """Draws a picture into a view by an affine map; returns its coverage, uint8 [128, 128]."""
    coverage = np.zeros((SIDE, SIDE), np.uint8)
    corners = placed[:2, :2] @ (np.array([[0, 1, 0, 1], [0, 0, 1, 1]]) * picture.width)
    corners += placed[:2, 2:]
    # Resampling only the part of the view that the picture can reach saves most of the time.
    left, top = np.clip(np.floor(corners.min(axis=1)), 0, SIDE).astype(int).tolist()
    right, bottom = np.clip(np.ceil(corners.max(axis=1)), 0, SIDE).astype(int).tolist()
    if left == right or top == bottom:
        return coverage
    back = np.linalg.inv(placed) @ affine(shift=(left, top))
    shown = picture.transform(
        (right - left, bottom - top),
        Image.Transform.AFFINE,
        tuple(back[:2].ravel()),
        Image.Resampling.BILINEAR,
    )
    alpha = shown.getchannel("A")
    view.paste(shown, (left, top), alpha)
    coverage[top:bottom, left:right] = np.asarray(alpha)
    return coverage


def _correspond(
    first_maps: np.ndarray,
    first_owner: np.ndarray,
    second_maps: np.ndarray,
    second_owner: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Where the second view's cell centres lie in the first, and whether they are seen there."""
    points = cell_centres()
    x, y = points.astype(int)[..., 0], points.astype(int)[..., 1]
    layer = second_owner[y, x]
    across = first_maps @ np.linalg.inv(second_maps)
    homogeneous = np.concatenate([points, np.ones_like(points[..., :1])], axis=-1)
    moved = np.einsum("rcij,rcj->rci", across[layer], homogeneous)[..., :2]
    match, inside = to_cells(moved)
    pixel = np.clip(moved.astype(int), 0, SIDE - 1)
    x, y = pixel[..., 0], pixel[..., 1]
    return match, inside & (first_owner[y, x] == layer)


def _silhouette(rng: np.random.Generator) -> Image.Image:
    """A random outline, filled: an ellipse, a polygon, a star or a blob; L, 96 x 96."""
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    corners = rng.integers(3, 8)
    kind = rng.integers(4)
    if kind == 0:
        radius = np.ones_like(angle)
    elif kind == 1:
        sector = np.pi / corners
        radius = np.cos(sector) / np.cos(angle % (2 * sector) - sector)
    elif kind == 2:
        radius = 0.7 + 0.3 * np.cos(corners * angle)
    else:
        waves = rng.normal(0, 0.12, (4, 1)) * np.cos(
            np.arange(1, 5)[:, None] * angle + rng.uniform(0, 2 * np.pi, (4, 1))
        )
        radius = np.clip(0.75 + waves.sum(axis=0), 0.2, 1)
    squeeze = np.array([1, rng.uniform(0.4, 1)])
    outline = np.stack([np.cos(angle), np.sin(angle)], axis=-1) * radius[:, None] * squeeze
    mask = Image.new("L", (THING, THING))
    ImageDraw.Draw(mask).polygon([tuple(p) for p in (outline * 0.97 + 1) * THING / 2], fill=255)
    return mask


def _texture(
    rng: np.random.Generator, side: int, photographs: Sequence[Image.Image]
) -> Image.Image:
    """A square RGB texture: two colours mixed by a pattern, or a piece of a photograph."""
    if photographs and rng.random() < 0.5:
        return _piece(rng, side, photographs[int(rng.integers(len(photographs)))])
    colours = rng.uniform(0, 255, (2, 1, 1, 3)).astype(np.float32)
    mix = _pattern(rng, side)[..., None]
    grain = _noise(rng, side, side // int(rng.integers(2, 8)))[..., None] * np.float32(
        rng.uniform(0, 80)
    )
    x = colours[0] * mix + colours[1] * (1 - mix) + grain
    return Image.fromarray(np.clip(x, 0, 255).astype(np.uint8))


def _piece(rng: np.random.Generator, side: int, photograph: Image.Image) -> Image.Image:
    limit = np.asarray(photograph.size)
    extent = rng.uniform(0.3, 1) * limit.min()
    corner = rng.uniform(0, limit - extent)
    return photograph.resize(
        (side, side), Image.Resampling.BILINEAR, box=(*corner, *(corner + extent))
    )


def _pattern(rng: np.random.Generator, side: int) -> np.ndarray:
    """How much of the first colour, float32 [side, side] in [0, 1]."""
    kind = rng.integers(5)
    if kind == 0:
        return _contrast(_noise(rng, side, int(rng.integers(3, 12))))
    if kind == 1:
        return _contrast(_noise(rng, side, int(rng.integers(3, 8))) * 12)
    pitch = rng.uniform(8, 40)
    turn = affine(angle=rng.uniform(0, np.pi), scale=2 * np.pi / pitch)[:2, :2].astype(np.float32)
    axis = np.arange(side, dtype=np.float32) - side / 2
    u = turn[0, 0] * axis[None] + turn[0, 1] * axis[:, None]
    v = turn[1, 0] * axis[None] + turn[1, 1] * axis[:, None]
    warp = rng.uniform(0, 3) * _noise(rng, side, 4)
    if kind == 2:
        return _contrast(3 * np.sin(u + warp))
    if kind == 3:
        return _contrast(6 * np.sin(u + warp) * np.sin(v + warp))
    return _contrast(8 * (np.cos(u + warp) + np.cos(v + warp) - rng.uniform(0.3, 1.2)))


def _contrast(x: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(x)


def _noise(rng: np.random.Generator, side: int, knots: int) -> np.ndarray:
    """Smooth noise of unit variance at its knots, float32 [side, side]."""
    grid = Image.fromarray(rng.standard_normal((knots, knots), np.float32))
    return np.asarray(grid.resize((side, side), Image.Resampling.BICUBIC))
