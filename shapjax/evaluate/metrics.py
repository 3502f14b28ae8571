r"""How good an explanation is: pure functions of maps, masks and a similarity.

A map ranks the pixels of a picture; metrics censor the highest or keep only them, and ask the
network what that did.

**Ties** are broken in reading order: of equal pixels the upper, then the left one comes first.
A map that is equal everywhere ranks nothing and is scored by that order, as an arbitrary choice,
rather than left out of the mean. **Empty masks** show nothing that could be found: metrics that
need one are NaN, and means leave them out. **Void pixels** belong to no class: intersections,
unions and the pointing game pass over them. An explanation is not told where they are, so they are
ranked and censored as all others, and those among the ``top_pixels`` of a map take places that
then count for nothing. Maps may be of any real dtype and are ranked in
float64; masks are Boolean, or of the numbers 0 and 1.

Source: Hamilton et al. 2022, section 6 and A.2; v1 (2021), section 5; Petsiuk et al. 2018 for
the curves; Zhang et al. 2016 for the pointing game.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from shapjax.core.checks import whole_number
from shapjax.core.errors import ShapjaxError
from shapjax.explainers.explanation import Explanation

Similarity = Callable[[np.ndarray], np.ndarray]
"""Pictures [B, S, S, 3] in RGB to their similarity with one other picture, [B]."""

SHARE = 0.3
"""Of the pixels of a heat map that first-order faithfulness censors; 0.2 in v1."""

SHARE_V1 = 0.2

NOT_ADDITIVE = ("SBSM", "VESM")
"""Indices whose terms are weights, not shares of a similarity."""


class Curve(NamedTuple):
    """Similarity while a picture is taken away, or brought back, in the order of a map.

    Attributes:
        shares: of the pixels that were changed, float64 [T], from 0 to 1.
        similarities: float64 [T].
    """

    shares: np.ndarray
    similarities: np.ndarray

    @property
    def area(self) -> float:
        """Area under the curve by trapezoids: its mean height."""
        return float(np.trapezoid(self.similarities, self.shares))


def ranks(heat: np.ndarray) -> np.ndarray:
    """Place of each pixel, 0 for the highest, int [H, W]; ties in reading order.

    Raises:
        ShapjaxError: the map is not [H, W] or holds NaN or infinity.
    """
    values = _finite(heat)
    order = np.argsort(-values.ravel(), kind="stable")
    found = np.empty(values.size, np.int64)
    found[order] = np.arange(values.size)
    return found.reshape(values.shape)


def _finite(heat: np.ndarray, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """A map in float64 [H, W], which holds every dtype without wrapping; of ``shape`` if given."""
    values = np.asarray(heat, np.float64)
    fits = values.ndim == 2 if shape is None else values.shape == shape
    if not fits or not np.isfinite(values).all():
        raise ShapjaxError(
            f"a map has shape {values.shape} and {int((~np.isfinite(values)).sum())} entries that "
            f"are no numbers, expected finite numbers {'[H, W]' if shape is None else shape}; give "
            "it at the size of its picture."
        )
    return values


def _mask(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A mask as Boolean: bitwise operators would take the numbers 0 and 1 for others."""
    given = np.asarray(mask)
    strange = int(((given != 0) & (given != 1)).sum())
    if given.shape != shape or strange:
        raise ShapjaxError(
            f"a mask has shape {given.shape} and {strange} entries other than 0 and 1, expected "
            f"Boolean {shape}; give it at the size of its picture, compared with the class."
        )
    return given.astype(bool)


def top_pixels(heat: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` highest pixels of a map, Boolean [H, W]; exactly as many, ties or not.

    Raises:
        ShapjaxError: see ``ranks``; or there are not so many pixels.
    """
    whole_number(count, "count", low=0, high=int(np.size(heat)))
    return ranks(heat) < count


def top_share(heat: np.ndarray, share: float) -> np.ndarray:
    """The highest share of the pixels, rounded to whole pixels, Boolean [H, W].

    Raises:
        ShapjaxError: see ``ranks``; or the share is not one.
    """
    if not 0 <= share <= 1:
        raise ShapjaxError(f"share is {share!r}, expected a number from 0 to 1.")
    return top_pixels(heat, round(share * np.size(heat)))


def censored(picture: np.ndarray, hidden: np.ndarray, blank: np.ndarray) -> np.ndarray:
    """A picture [H, W, 3] with the ``hidden`` pixels [H, W] from a blank one.

    Raises:
        ShapjaxError: ``hidden`` is of another size, or has other numbers than 0 and 1.
    """
    return np.where(_mask(hidden, picture.shape[:2])[..., None], blank, picture)


def faithfulness(
    similarity: Similarity,
    picture: np.ndarray,
    heat: np.ndarray,
    blank: np.ndarray,
    *,
    share: float = SHARE,
) -> float:
    """First-order faithfulness: what similarity drops when the highest pixels are censored.

    Args:
        similarity: with the other picture.
        picture: RGB, [S, S, 3].
        heat: credit of each pixel, [S, S].
        blank: what censored pixels show, [S, S, 3]: the blur (v1: the mean colour).
        share: of the pixels that are censored (v1: 0.2).

    Returns:
        Units of similarity; higher is better.

    Raises:
        ShapjaxError: the map is of another size than the picture, or see ``top_share``.
    """
    heat = _finite(heat, picture.shape[:2])
    pictures = np.stack([picture, censored(picture, top_share(heat, share), blank)])
    whole, less = np.asarray(similarity(pictures), np.float64)
    return float(whole - less)


def second_order_faithfulness(
    similarity: Callable[[np.ndarray, np.ndarray], np.ndarray],
    pictures: tuple[np.ndarray, np.ndarray],
    blanks: tuple[np.ndarray, np.ndarray],
    mask: np.ndarray,
    found: np.ndarray,
) -> float:
    """Similarity of two pictures of which only an object and what it was projected to are left.

    Args:
        similarity: queries [B, S, S, 3] and retrieved pictures [B, S, S, 3] to [B].
        pictures: query and retrieved picture, RGB, [S, S, 3] each.
        blanks: what censored pixels of each show.
        mask: the object in the query, Boolean [S, S].
        found: pixels of the retrieved picture that are kept, Boolean [S, S]: the highest of the
            projected map, as many as its true object has (``top_pixels``).

    Returns:
        Units of similarity, higher is better (v1 prints 1 less this); NaN if either is empty.

    Raises:
        ShapjaxError: a mask is of another size than its picture, or has other numbers than 0, 1.
    """
    kept = [
        _mask(own, picture.shape[:2]) for own, picture in zip((mask, found), pictures, strict=True)
    ]
    if not all(own.any() for own in kept):
        return float("nan")
    query, retrieved = (
        censored(picture, ~own, blank)[None]
        for picture, own, blank in zip(pictures, kept, blanks, strict=True)
    )
    return float(np.asarray(similarity(query, retrieved), np.float64)[0])


def mean_iou(found: np.ndarray, true: np.ndarray, void: np.ndarray | None = None) -> float:
    """Mean intersection over union of an object and of what is not the object.

    Args:
        found: pixels taken for the object, Boolean [H, W].
        true: pixels of the object, likewise.
        void: pixels that are left out, likewise.

    Returns:
        In [0, 1], a mean over the two classes of a binary segmentation; of the object alone
        where nothing else is in the picture; NaN if the object is not.
    """
    scores = [iou(found, true, void)]
    if np.isnan(scores[0]):
        return scores[0]
    rest = iou(np.logical_not(found), np.logical_not(true), void)
    return float(np.mean(scores if np.isnan(rest) else [*scores, rest]))


def iou(found: np.ndarray, true: np.ndarray, void: np.ndarray | None = None) -> float:
    """Intersection over union of Boolean masks [H, W]; NaN if there is nothing to find.

    Raises:
        ShapjaxError: they differ in size, or have other numbers than 0 and 1.
    """
    shape = np.shape(true)
    found, true = _mask(found, shape), _mask(true, shape)
    counted = np.ones(shape, bool) if void is None else ~_mask(void, shape)
    if not (true & counted).any():
        return float("nan")
    return float((found & true & counted).sum() / ((found | true) & counted).sum())


def inefficiency(explanation: Explanation) -> float:
    """How far the terms of an explanation are from summing to v(N) - v(empty).

    At first order the credits of all parts, at second order those of parts and of pairs.

    Args:
        explanation: of any order.

    Returns:
        Units of similarity; NaN for SBSM and VESM, whose maps are not meant to add up.
    """
    if explanation.interactions.index in NOT_ADDITIVE:
        return float("nan")
    return explanation.inefficiency


def deletion(
    similarity: Similarity,
    picture: np.ndarray,
    heat: np.ndarray,
    blank: np.ndarray,
    *,
    steps: int = 10,
) -> Curve:
    """Similarity while pixels go, the highest first; a small area is good.

    Args:
        similarity, picture, heat, blank: as in ``faithfulness``.
        steps: equal shares in which all pixels go, so that the curve has ``steps + 1`` points.

    Raises:
        ShapjaxError: the map is of another size than the picture, or see ``ranks``.
    """
    return _curve(similarity, blank, picture, heat, steps)


def insertion(
    similarity: Similarity,
    picture: np.ndarray,
    heat: np.ndarray,
    blank: np.ndarray,
    *,
    steps: int = 10,
) -> Curve:
    """Similarity while pixels come back to a blank picture, the highest first.

    A large area is good. Arguments and errors as in ``deletion``.
    """
    return _curve(similarity, picture, blank, heat, steps)


def _curve(
    similarity: Similarity, coming: np.ndarray, going: np.ndarray, heat: np.ndarray, steps: int
) -> Curve:
    shares = np.linspace(0, 1, whole_number(steps, "steps", low=1) + 1)
    places = ranks(_finite(heat, coming.shape[:2]))
    counts = np.round(shares * places.size)[:, None, None]
    pictures = np.where((places < counts)[..., None], coming, going)
    return Curve(shares, np.asarray(similarity(pictures), np.float64))


def pointing_game(heat: np.ndarray, true: np.ndarray, void: np.ndarray | None = None) -> float:
    """Whether the highest pixel lies on the object: 1 or 0.

    Of several highest pixels the share that lies on it, which is the chance that one of them
    drawn at random does; so a map that is equal everywhere scores the object's share.

    Args:
        heat: [H, W].
        true: pixels of the object, Boolean [H, W].
        void: pixels that do not play, likewise.

    Returns:
        In [0, 1]; NaN if the object is empty.

    Raises:
        ShapjaxError: see ``ranks``; or a mask is of another size, or no mask.
    """
    heat = _finite(heat)
    true = _mask(true, heat.shape)
    playing = np.ones(heat.shape, bool) if void is None else ~_mask(void, heat.shape)
    if not (true & playing).any():
        return float("nan")
    highest = playing & (heat == heat[playing].max())
    return float((highest & true).sum() / highest.sum())
