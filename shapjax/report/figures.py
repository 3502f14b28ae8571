"""Still pictures of an explanation, drawn with matplotlib.

matplotlib is imported where it is used, through its object interface: importing shapjax stays
quick, and a caller's pyplot figures and backend are left alone.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from shapjax.core.colors import COLORS, faint_grey, paint, scale_limit, signed
from shapjax.core.errors import ShapjaxError
from shapjax.core.files import printable, write_whole
from shapjax.explainers.explanation import Explanation, Side

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 150
_INK = "#1d1d1b"
_MUTED = "#5c5b57"
_MARGIN = 0.2  # All lengths are inches.
_BAR_HEIGHT = 0.11
_BAR_BLOCK = 0.62  # The colour bar with its numbers and label.
_RASTER = 900  # Pixels on the long side of a picture as drawn.

_REGIONS = 6
_CELL_HEIGHT = 1.75
_LABEL_HEIGHT = 0.36
_LABEL_WIDTH = 1.3


def save_heat_map(
    explanation: Explanation,
    side: Side,
    picture: Image.Image,
    path: str | os.PathLike[str],
    title: str | None = None,
) -> None:
    """Draw the credit of one picture's players over that picture.

    Args:
        explanation: of either order.
        side: ``"query"`` or ``"retrieved"``.
        picture: that picture, RGB of any size; the label map was laid over it stretched.
        path: where to write; the ending chooses the format (png, pdf, svg, ...).
        title: one line above, shortened in the middle where it is too long.

    Raises:
        ShapjaxError: that picture has no players, or the file cannot be written.
    """
    heat, labels = explanation.heat(side), explanation.players(side)
    limit = scale_limit(heat)
    width, height = _fit(picture, 5.6, 5.6)
    sheet_width = max(width, 3.4) + 2 * _MARGIN
    title_block = 0.36 if title else 0.0
    sheet_height = height + title_block + _BAR_BLOCK + 2 * _MARGIN
    with _sheet(sheet_width, sheet_height, path) as figure:
        left, bottom = (sheet_width - width) / 2, _MARGIN + _BAR_BLOCK
        axes = _picture_axes(figure, (left, bottom, width, height))
        _show(axes, _heat_over(picture, labels, heat, limit))
        if title:
            _write(
                figure,
                (_MARGIN if width < sheet_width - 2 * _MARGIN else left, bottom + height + 0.14),
                title,
                size=11,
                room=sheet_width - 2 * _MARGIN,
            )
        _color_bar(figure, limit, "credit")


def save_correspondence(
    explanation: Explanation,
    query: Image.Image,
    retrieved: Image.Image,
    path: str | os.PathLike[str],
) -> None:
    """Draw what the strongest query parts match: each outlined, with its row of ``cross``.

    The parts are chosen for their best counterpart and kept apart from each other. All heat is
    on one scale; the best counterpart is outlined too.

    Args:
        explanation: of second order.
        query: the query picture, RGB of any size.
        retrieved: the retrieved picture, RGB of any size.
        path: where to write; the ending chooses the format (png, pdf, svg, ...).

    Raises:
        ShapjaxError: the explanation is of first order, or the file cannot be written.
    """
    cross = explanation.cross
    parts = spread_parts(cross.max(axis=1), explanation.players("query"), _REGIONS)
    limit = scale_limit(cross[parts])
    cells = _fit(query, 2.6, _CELL_HEIGHT), _fit(retrieved, 2.6, _CELL_HEIGHT)
    columns = max(1, min(2, len(parts)))
    rows = -(-len(parts) // columns)
    between, beside = 0.1, 0.45
    block_width = max(cells[0][0], 1.0) + between + max(cells[1][0], _LABEL_WIDTH)
    block_height = max(cells[0][1], cells[1][1]) + _LABEL_HEIGHT
    sheet_width = 2 * _MARGIN + columns * block_width + (columns - 1) * beside
    sheet_height = 2 * _MARGIN + rows * block_height + 0.12 + _BAR_BLOCK
    with _sheet(sheet_width, sheet_height, path) as figure:
        for place, part in enumerate(parts):
            row, column = divmod(place, columns)
            corner = (
                _MARGIN + column * (block_width + beside),
                sheet_height - _MARGIN - row * block_height,
            )
            _correspondence(
                figure, corner, cells, between, explanation, (query, retrieved), part, limit
            )
        _color_bar(figure, limit, "interaction of the outlined query part with each retrieved part")


def spread_parts(strength: np.ndarray, labels: np.ndarray, count: int) -> list[int]:
    """Up to ``count`` strong players that do not crowd each other, strongest first.

    Args:
        strength: [n], larger is stronger.
        labels: int [H, W], the player that owns each pixel.
        count: how many are wanted.

    Returns:
        Greedy choice by strength with a least distance between centres, a quarter of the
        picture; the distance is relaxed where too few players keep it.
    """
    centres = _centres(labels, len(strength))
    ranked = np.argsort(-strength, kind="stable").tolist()
    chosen: list[int] = []
    for distance in (0.25, 0.125, 0.0):
        for player in ranked:
            if len(chosen) == count:
                break
            gaps = np.linalg.norm(centres[chosen] - centres[player], axis=1)
            if player not in chosen and np.all(gaps >= distance):
                chosen.append(player)
    return sorted(chosen, key=ranked.index)


def _centres(labels: np.ndarray, n: int) -> np.ndarray:
    """Mean position (x, y) of every player, [n, 2], in fractions of the picture."""
    flat = labels.ravel()
    y, x = np.divmod(np.arange(flat.size), labels.shape[1])
    area = np.maximum(np.bincount(flat, minlength=n), 1)
    sums = [np.bincount(flat, weights=w, minlength=n) / area for w in (x, y)]
    return (np.stack(sums, axis=1) + 0.5) / labels.shape[::-1]


def _correspondence(
    figure: Figure,
    corner: tuple[float, float],
    cells: tuple[tuple[float, float], tuple[float, float]],
    between: float,
    explanation: Explanation,
    pictures: tuple[Image.Image, Image.Image],
    part: int,
    limit: float,
) -> None:
    """One query part and its heat, below and right of ``corner`` (inches)."""
    (query_width, query_height), (retrieved_width, retrieved_height) = cells
    row = explanation.cross[part]
    peak = int(np.argmax(row))
    x, top = corner
    y = top - max(query_height, retrieved_height)

    axes = _picture_axes(figure, (x, y, query_width, query_height))
    _show(axes, np.asarray(_raster(pictures[0])))
    _outline(axes, explanation.players("query") == part)
    _write(figure, (x, y - 0.16), f"query part {part}")

    x += max(query_width, 1.0) + between
    labels = explanation.players("retrieved")
    axes = _picture_axes(figure, (x, y, retrieved_width, retrieved_height))
    _show(axes, _heat_over(pictures[1], labels, row, limit))
    if row[peak] > 0:
        _outline(axes, labels == peak)
        _write(figure, (x, y - 0.16), f"part {peak}: {signed(row[peak])}")
    else:
        _write(figure, (x, y - 0.16), "no counterpart", color=_MUTED)


def _fit(picture: Image.Image, width: float, height: float) -> tuple[float, float]:
    """Size in inches of a picture drawn as large as the box allows."""
    scale = min(width / picture.width, height / picture.height)
    return max(picture.width * scale, 0.02), max(picture.height * scale, 0.02)


def _raster(picture: Image.Image) -> Image.Image:
    """The picture as drawn: RGB, as many pixels as print can use."""
    scale = _RASTER / max(picture.size)
    size = [max(1, round(side * scale)) for side in picture.size]
    return picture.convert("RGB").resize((size[0], size[1]), Image.Resampling.LANCZOS)


def _heat_over(
    picture: Image.Image, labels: np.ndarray, values: np.ndarray, limit: float
) -> np.ndarray:
    """Colours of ``values`` [n] laid over the faint picture, uint8 [h, w, 3].

    The label map is stretched without smoothing: a pixel belongs to one player.
    """
    grey = faint_grey(_raster(picture))
    rows = np.arange(grey.shape[0]) * labels.shape[0] // grey.shape[0]
    columns = np.arange(grey.shape[1]) * labels.shape[1] // grey.shape[1]
    owner = labels[rows[:, None], columns]
    return np.round(paint(values, limit)[owner] * grey[..., None]).astype(np.uint8)


def _edges(mask: np.ndarray) -> np.ndarray:
    """Border of a region as segments [k, 2, (x, y)] in fractions of the picture."""
    height, width = mask.shape
    padded = np.pad(mask, 1)
    y, x = np.nonzero(padded[1:-1, 1:] != padded[1:-1, :-1])
    upright = np.stack([np.stack([x, y], -1), np.stack([x, y + 1], -1)], 1)
    y, x = np.nonzero(padded[1:, 1:-1] != padded[:-1, 1:-1])
    level = np.stack([np.stack([x, y], -1), np.stack([x + 1, y], -1)], 1)
    return np.concatenate([upright, level]) / np.array([width, height])


def _outline(axes: Axes, mask: np.ndarray) -> None:
    """Dark line in a white halo, to be seen on light and dark pictures alike."""
    from matplotlib.collections import LineCollection

    for color, width in (("white", 2.4), (_INK, 1.0)):
        lines = LineCollection(
            list(_edges(mask)), colors=color, linewidths=width, capstyle="projecting"
        )
        # The picture's own edge must not cut a border that runs along it.
        lines.set_clip_on(False)
        axes.add_collection(lines, autolim=False)


def _show(axes: Axes, pixels: np.ndarray) -> None:
    axes.imshow(pixels, extent=(0, 1, 1, 0), aspect="auto", interpolation="antialiased")


def _picture_axes(figure: Figure, box: tuple[float, float, float, float]) -> Axes:
    axes = _axes(figure, box)
    axes.set_axis_off()
    return axes


def _axes(figure: Figure, box: tuple[float, float, float, float]) -> Axes:
    """Axes at (left, bottom, width, height) in inches."""
    width, height = figure.get_size_inches()
    return figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))


def _write(
    figure: Figure,
    at: tuple[float, float],
    text: str,
    *,
    size: float = 8.5,
    room: float | None = None,
    color: str = _INK,
) -> None:
    """One line of plain text from a baseline start in inches, shortened to ``room`` inches."""
    width, height = figure.get_size_inches()
    line = figure.text(at[0] / width, at[1] / height, printable(text), fontsize=size, color=color)
    line.set_parse_math(False)
    if room is not None:
        _shorten(line, room * figure.dpi)


def _shorten(line: Any, room: float) -> None:
    """Take characters out of the middle: the end of a file name tells as much as its start."""
    text = line.get_text()
    low, high = 0, len(text)
    while low < high:
        kept = (low + high + 1) // 2
        line.set_text(_middle_cut(text, kept))
        fits = line.get_window_extent().width <= room
        low, high = (kept, high) if fits else (low, kept - 1)
    line.set_text(_middle_cut(text, low))


def _middle_cut(text: str, kept: int) -> str:
    if kept >= len(text):
        return text
    head = -(-kept // 2)
    return text[:head] + "…" + text[len(text) - (kept - head) :]


def _color_bar(figure: Figure, limit: float, label: str) -> None:
    """The scale and its numbers, centred at the foot of the sheet."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    sheet_width = figure.get_size_inches()[0]
    # The numbers at both ends reach past the bar.
    width = min(sheet_width - 2 * _MARGIN - 0.6, 3.6)
    axes = _axes(figure, ((sheet_width - width) / 2, _MARGIN + 0.34, width, _BAR_HEIGHT))
    scale = ScalarMappable(Normalize(-limit, limit), ListedColormap(COLORS / 255.0))
    ticks = [-limit, -limit / 2, 0.0, limit / 2, limit]
    bar = figure.colorbar(scale, cax=axes, orientation="horizontal", ticks=ticks)
    bar.ax.set_xticklabels([signed(tick) for tick in ticks])
    bar.ax.tick_params(length=2, width=0.6, pad=2, labelsize=8, colors=_MUTED, labelcolor=_INK)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    label_text = f"{label}, in units of similarity"
    bar.set_label(label_text, fontsize=8, color=_MUTED, labelpad=3)


@contextmanager
def _sheet(width: float, height: float, path: str | os.PathLike[str]) -> Iterator[Figure]:
    """A white figure of that size in inches, written to ``path`` when the block ends."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A user's style must not send file names through TeX or change the measured layout.
    style: dict[Any, Any] = {"text.usetex": False, "font.family": "DejaVu Sans"}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # Names may hold characters that the font lacks; their boxes say so.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
        canvas = FigureCanvasAgg(figure)
        yield figure
        ending = Path(path).suffix.lstrip(".").lower()
        if ending not in canvas.get_supported_filetypes():
            raise ShapjaxError(f"cannot draw to {path}; end its name in .png, .pdf or .svg.")
        content = io.BytesIO()
        figure.savefig(content, format=ending)
    write_whole(path, content.getvalue())
