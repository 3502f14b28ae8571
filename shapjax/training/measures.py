"""How good features are: retrieval of a second view, and correspondence of locations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from shapjax.backbones.record import Backbone
from shapjax.training.crops import GRID, SIDE, Pairs, crop_pair, photographs, stack
from shapjax.training.scenes import scene_pair

# 25 pixels at the 224 that publishers use are about 15 at 128, and a box is 2 r + 1 wide.
BASELINE_RADIUS = 7


@dataclasses.dataclass(frozen=True)
class Score:
    """A hit rate beside what guessing would reach, both in [0, 1]."""

    rate: float
    chance: float


def drawn_gallery(seed: int, count: int) -> Pairs:
    """Pairs of views of drawn scenes; no photograph is in them."""
    return stack([scene_pair(np.random.default_rng((seed, i))) for i in range(count)])


def photograph_gallery(seed: int, count: int, names: Sequence[str]) -> Pairs:
    """Pairs of crops of the named photographs, taken in turn."""
    pictures = photographs(names)
    return stack(
        [
            crop_pair(np.random.default_rng((seed, i)), pictures[i % len(pictures)])
            for i in range(count)
        ]
    )


def retrieval(backbone: Backbone, pairs: Pairs) -> Score:
    """How often the second view's nearest first view, by cosine of the pooled features, is its own.

    Args:
        backbone: what embeds.
        pairs: N pairs; the N first views are the gallery.
    """
    first, second = (
        np.asarray(features_of(backbone, views).mean(axis=(1, 2)))
        for views in (pairs.first, pairs.second)
    )
    first = first / np.linalg.norm(first, axis=1, keepdims=True)
    hit = (second @ first.T).argmax(axis=1) == np.arange(len(second))
    return Score(float(hit.mean()), 1 / len(second))


def correspondence(
    backbone: Backbone, pairs: Pairs, describe: Callable[[Backbone, np.ndarray], np.ndarray]
) -> Score:
    """How often the best cell of the first view by dot product is within one of the truth.

    Args:
        backbone: what gives the feature maps.
        pairs: their ``match`` is the truth, for the cells where ``valid``.
        describe: :func:`features_of`, or :func:`centred` for what the similarity game attributes.
    """
    first, second = (describe(backbone, views) for views in (pairs.first, pairs.second))
    return _hits(second, first, pairs.match, pairs.valid)


def stereo(backbone: Backbone) -> Score:
    """The same, centred, on the stereo motorcycle, from the left picture's cells to the right's.

    No training uses this pair. The truth is the median finite disparity within each left cell.
    """
    from skimage import data

    left, right, disparity = data.stereo_motorcycle()
    views = [np.asarray(Image.fromarray(v).resize((SIDE, SIDE)))[None] for v in (left, right)]
    match, valid = disparity_cells(disparity)
    x, y = (centred(backbone, view) for view in views)
    return _hits(x, y, match[None], valid[None])


def disparity_cells(disparity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each left cell lies in the right view, from a disparity map.

    Args:
        disparity: float [H, W] in pixels; a left pixel at x lies at x - disparity on the right.

    Returns:
        float [8, 8, 2] as (row, column) in cells, and bool [8, 8]: whether the cell has a finite
        disparity that leads to a point within the right view.
    """
    height, width = disparity.shape
    rows, columns = (np.arange(n) * GRID // n for n in (height, width))
    match = np.stack(np.meshgrid(range(GRID), range(GRID), indexing="ij"), axis=-1).astype(float)
    valid = np.zeros((GRID, GRID), bool)
    for r, c in np.ndindex(GRID, GRID):
        cell = disparity[np.ix_(rows == r, columns == c)]
        finite = cell[np.isfinite(cell)]
        if finite.size:
            match[r, c, 1] -= np.median(finite) * GRID / width
            valid[r, c] = match[r, c, 1] >= -0.5
    return match, valid


def centred(backbone: Backbone, views: np.ndarray) -> np.ndarray:
    """Features less those of the box-blurred views, float32 [N, 8, 8, C].

    This is the difference that the similarity game attributes: a location present against the
    same location blurred.

    Args:
        backbone: what gives the feature maps.
        views: RGB uint8 [N, 128, 128, 3].
    """
    blurred = np.asarray(box_blur(jnp.asarray(views, jnp.float32)))
    return features_of(backbone, views) - features_of(backbone, blurred)


def box_blur(views: jax.Array) -> jax.Array:
    """Views under a 15 pixel box blur whose border continues outwards, [N, 128, 128, 3]."""
    pixel = jnp.arange(SIDE)
    window = jnp.arange(-BASELINE_RADIUS, BASELINE_RADIUS + 1)
    near = jnp.clip(pixel[:, None] + window, 0, SIDE - 1)
    mean = jax.nn.one_hot(near, SIDE).mean(axis=1)
    return jnp.einsum("rs,cd,nsdk->nrck", mean, mean, views)


def features_of(backbone: Backbone, views: np.ndarray) -> np.ndarray:
    """Feature maps of RGB views in [0, 255] in batches of at most 50, float32 [N, 8, 8, C]."""
    chunks = [views[i : i + 50] for i in range(0, len(views), 50)]
    return np.concatenate([np.asarray(_features(backbone, chunk)) for chunk in chunks])


@jax.jit
def _features(backbone: Backbone, views: jax.Array) -> jax.Array:
    return backbone.features(backbone.normalise(views.astype(jnp.float32) / 255))


def _hits(
    queries: np.ndarray, candidates: np.ndarray, match: np.ndarray, valid: np.ndarray
) -> Score:
    """Hits within one cell (Chebyshev) among the valid queries, and of a uniform guess."""
    product = np.einsum("nijc,nklc->nijkl", queries, candidates)
    best = product.reshape(*product.shape[:3], -1).argmax(axis=-1)
    guess = np.stack([best // GRID, best % GRID], axis=-1)
    truth = np.clip(np.rint(match), 0, GRID - 1)
    hit = np.abs(guess - truth).max(axis=-1) <= 1
    axis = np.arange(GRID)
    near = (np.abs(truth[..., None] - axis) <= 1).sum(axis=-1).prod(axis=-1) / GRID**2
    return Score(float(hit[valid].mean()), float(near[valid].mean()))


def suite(seed: int, count: int, held_out: Sequence[str]) -> dict[str, Callable[[Backbone], Score]]:
    """Every measure by name, on galleries made once so that networks meet the same data.

    Args:
        seed: of the galleries; must differ from the training seed.
        count: pairs in each gallery.
        held_out: photographs that training never saw.
    """
    scenes = drawn_gallery(seed, count)
    crops = photograph_gallery(seed, count, held_out)
    measures: dict[str, Callable[[Backbone], Score]] = {}
    for name, pairs in (("drawn scenes", scenes), ("held-out photographs", crops)):
        measures |= {
            f"retrieval, {name}": partial(retrieval, pairs=pairs),
            f"correspondence, {name}": partial(correspondence, pairs=pairs, describe=features_of),
            f"centred correspondence, {name}": partial(
                correspondence, pairs=pairs, describe=centred
            ),
        }
    return measures | {"centred correspondence, stereo motorcycle": stereo}
