"""Figures of several panels, laid out as in Hamilton et al. 2022, from pictures of one's own.

``save_methods`` is figure 2 (one pair), figure 9 (several) and, of a similarity that ignores a
part of the picture, figure 8; ``save_counterfactual`` figure 3; ``save_regions`` figure 4.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from shapjax.core.checks import whole_number
from shapjax.core.colors import faint_grey, scale_limit
from shapjax.core.errors import ShapjaxError
from shapjax.explainers.explanation import Explanation, Side
from shapjax.explainers.transport import propagate_labels
from shapjax.games.players import stretch
from shapjax.report.figures import (
    _BAR_BLOCK,
    _INK,
    _LABEL_HEIGHT,
    _MARGIN,
    _MUTED,
    _color_bar,
    _fit,
    _heat_over,
    _picture_axes,
    _raster,
    _sheet,
    _show,
    _write,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANEL = (1.9, 1.5)  # Inches: the room of a picture among many, of four and of two.
_SQUARE = (2.6, 2.0)
_WIDE = (3.2, 2.6)
_BETWEEN = 0.12
_COLUMNS = 6

_HUES = np.array(
    [
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 228, 66),
        (0, 114, 178),
        (213, 94, 0),
        (204, 121, 167),
        (150, 150, 150),
    ]
)
"""Colours of regions that all eyes tell apart: Okabe and Ito 2008."""


def save_methods(
    pairs: Sequence[tuple[Image.Image, Image.Image, Sequence[Explanation]]],
    path: str | os.PathLike[str],
    *,
    side: Side = "retrieved",
    line: float | None = None,
) -> None:
    """Draw pairs and beside each what every method credits in one of its pictures.

    Methods work on parts of different sizes, so each panel has the scale that stands under it.
    Several pairs are a row each; one pair goes over several rows.

    Args:
        pairs: query, retrieved picture and their explanations, of either order.
        path: where to write; the ending chooses the format (png, pdf, svg, ...).
        side: the picture whose credit is drawn; explanations without players on it are left out.
        line: where to rule every panel from top to bottom, in fractions of its width, such as
            the border of what a similarity ignores.

    Raises:
        ShapjaxError: there is nothing to draw, or the file cannot be written.
    """
    rows = []
    for query, retrieved, explanations in pairs:
        shown = [one for one in explanations if getattr(one, f"{side}_players") is not None]
        rows.append((query, retrieved, shown))
    if not any(shown for *_, shown in rows):
        raise ShapjaxError(f"no explanation has players on the {side} picture; give one that has.")
    cells = [
        [("query", query, None), ("retrieved", retrieved, None)]
        + [(one.method, query if side == "query" else retrieved, one) for one in shown]
        for query, retrieved, shown in rows
    ]
    if len(cells) == 1:
        (only,) = cells
        cells = [only[start : start + _COLUMNS] for start in range(0, len(only), _COLUMNS)]
    width = _PANEL[0]
    height = max(_fit(picture, *_PANEL)[1] for row in cells for _, picture, _ in row)
    columns = max(map(len, cells))
    sheet_width = 2 * _MARGIN + columns * (width + _BETWEEN) - _BETWEEN
    block = height + _LABEL_HEIGHT
    sheet_height = 2 * _MARGIN + len(cells) * block + 0.1 + _BAR_BLOCK
    with _sheet(sheet_width, sheet_height, path) as figure:
        for row, panels in enumerate(cells):
            for column, (name, picture, explanation) in enumerate(panels):
                corner = (
                    _MARGIN + column * (width + _BETWEEN),
                    sheet_height - _MARGIN - row * block - height,
                )
                room = (width, height)
                if explanation is None:
                    whole = np.asarray(_raster(picture))
                    _panel(figure, corner, picture, whole, name, room=room)
                    continue
                heat = explanation.heat(side)
                limit = scale_limit(heat)
                pixels = _heat_over(picture, explanation.players(side), heat, limit)
                _panel(figure, corner, picture, pixels, name, f"±{limit:.3g}", line, room)
        _color_bar(figure, 1.0, "credit, ±1 being the number under each panel")


def save_counterfactual(
    explanation: Explanation,
    query: Image.Image,
    retrieved: Image.Image,
    rather_than: Image.Image,
    path: str | os.PathLike[str],
) -> None:
    """Draw why one result was found rather than another: four pictures in a square.

    Above the query and the other candidate, below the result and the credit of its parts for
    being the better match. Numbers under them are similarities to the query, and with a sign
    credit: at first order of all parts, the difference of both similarities; at second order of
    all parts of the picture, the query's too.

    Args:
        explanation: made with ``rather_than``, of either order.
        query: the query picture, RGB of any size.
        retrieved: the result.
        rather_than: the other candidate.
        path: where to write; the ending chooses the format.

    Raises:
        ShapjaxError: the retrieved picture has no players, or the file cannot be written.
    """
    heat, labels = explanation.heat("retrieved"), explanation.players("retrieved")
    limit = scale_limit(heat)
    width = _SQUARE[0]
    height = max(_fit(picture, *_SQUARE)[1] for picture in (query, retrieved, rather_than))
    block = height + _LABEL_HEIGHT
    sheet_width = 2 * _MARGIN + 2 * width + _BETWEEN
    sheet_height = 2 * _MARGIN + 2 * block + 0.1 + _BAR_BLOCK
    other, best = explanation.v_empty, explanation.v_grand
    own, against, better = "", f"{other:.3f}", f"{best - other:+.3f}"
    if explanation.order >= 2:
        # The empty coalition hides the query too, and is not the other candidate's similarity.
        own, against = f"{explanation.heat('query').sum():+.3f}", ""
        better = f"{heat.sum():+.3f}"
    panels = (
        (query, np.asarray(_raster(query)), "query", own),
        (rather_than, np.asarray(_raster(rather_than)), "rather than", against),
        (retrieved, np.asarray(_raster(retrieved)), "found", f"{best:.3f}"),
        (retrieved, _heat_over(retrieved, labels, heat, limit), "why", better),
    )
    with _sheet(sheet_width, sheet_height, path) as figure:
        for place, (picture, pixels, name, number) in enumerate(panels):
            row, column = divmod(place, 2)
            corner = (
                _MARGIN + column * (width + _BETWEEN),
                sheet_height - _MARGIN - row * block - height,
            )
            shown = number.replace("-", "−")
            _panel(figure, corner, picture, pixels, name, shown, room=(width, height))
        _color_bar(figure, limit, "credit for being the better match")


def save_regions(
    explanation: Explanation,
    query: Image.Image,
    retrieved: Image.Image,
    path: str | os.PathLike[str],
    *,
    regions: Any = 6,
) -> None:
    """Draw how regions of the query are carried over to the retrieved picture, in colours.

    Args:
        explanation: of second order.
        query: the query picture, RGB of any size.
        retrieved: the retrieved picture.
        path: where to write; the ending chooses the format.
        regions: how many, at most 8: parts whose interactions with the retrieved picture are
            alike go together; or a label map of one's own, whole numbers [H, W] of any size,
            of which at most 8 are different.

    Raises:
        ShapjaxError: the explanation is of first order, regions are not as described, or the
            file cannot be written.
    """
    labels = explanation.players("query")
    if np.ndim(regions) == 2:
        given = stretch(np.asarray(regions), *labels.shape)
        names, given = np.unique(given, return_inverse=True)
        given = given.reshape(labels.shape)
        if len(names) > len(_HUES):
            raise ShapjaxError(f"regions has {len(names)} labels, expected at most {len(_HUES)}.")
    else:
        count = whole_number(regions, "regions", low=1, high=len(_HUES))
        given = alike_parts(explanation.cross, count)[labels]
    carried = propagate_labels(explanation, given)
    width = _WIDE[0]
    height = max(_fit(picture, *_WIDE)[1] for picture in (query, retrieved))
    sheet_width = 2 * _MARGIN + 2 * width + _BETWEEN
    sheet_height = 2 * _MARGIN + height + _LABEL_HEIGHT
    with _sheet(sheet_width, sheet_height, path) as figure:
        for place, (picture, owner, name) in enumerate(
            ((query, given, "query"), (retrieved, carried, "carried to the retrieved picture"))
        ):
            corner = (_MARGIN + place * (width + _BETWEEN), _MARGIN + _LABEL_HEIGHT)
            grey = faint_grey(_raster(picture))
            pixels = _HUES[stretch(owner, *grey.shape)] * grey[..., None]
            shown = np.round(pixels).astype(np.uint8)
            _panel(figure, corner, picture, shown, name, room=(width, height))


def alike_parts(cross: np.ndarray, count: int) -> np.ndarray:
    """Groups of query parts whose rows point the same way, int [nq], numbered by size.

    Args:
        cross: [nq, nr].
        count: most groups.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import pdist

    rows = np.asarray(cross, np.float64)
    if len(rows) < 2:
        return np.zeros(len(rows), int)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    directions = rows / np.maximum(norms, np.finfo(float).tiny)
    found = fcluster(linkage(pdist(directions), "ward"), count, "maxclust")
    _, found, sizes = np.unique(found, return_inverse=True, return_counts=True)
    return np.argsort(np.argsort(-sizes, kind="stable"))[found]


def _panel(
    figure: Figure,
    corner: tuple[float, float],
    picture: Image.Image,
    pixels: np.ndarray,
    name: str,
    number: str = "",
    line: float | None = None,
    room: tuple[float, float] = _PANEL,
) -> None:
    """One picture in the room above ``corner`` (inches), its name and a number under it."""
    width, height = _fit(picture, *room)
    x, y = corner
    axes = _picture_axes(figure, (x, y + room[1] - height, width, height))
    _show(axes, pixels)
    if line is not None:
        axes.axvline(line, color=_INK, linewidth=1, linestyle="--")
    below = y + room[1] - height - 0.17
    _write(figure, (x, below), name, room=room[0] - 0.45)
    if number:
        _write(figure, (x + max(width, 1.2) - 0.075 * len(number), below), number, color=_MUTED)
