"""The matrix of two texts: what each word of one has to do with each word of the other."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from shapjax.core.colors import paint, scale_limit
from shapjax.core.files import printable
from shapjax.report.figures import (
    _BAR_BLOCK,
    _INK,
    _MARGIN,
    _axes,
    _color_bar,
    _middle_cut,
    _sheet,
)

_CELL = 0.36  # All lengths are inches.
_LETTER = 0.085
_LONGEST = 24
_NUMBERS = 24  # Most rows or columns with a number in every cell.
_STRONG = 0.62  # Part of the scale from which numbers are white.


def save_matrix(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    path: str | os.PathLike[str],
    *,
    label: str,
) -> None:
    """Draw a matrix of numbers with a name for each row and column.

    Args:
        values: [len(rows), len(columns)], units of similarity.
        rows: names of the rows, such as the query's words.
        columns: names of the columns.
        path: where to write; the ending chooses the format (png, pdf, svg, ...).
        label: what the numbers are, for the colour bar.

    Raises:
        ShapjaxError: the file cannot be written.
    """
    limit = scale_limit(values)
    shown = [[_middle_cut(printable(name), _LONGEST) for name in side] for side in (rows, columns)]
    beside, above = (_LETTER * max(map(len, side)) + 0.15 for side in shown)
    cell = _CELL if max(values.shape) <= _NUMBERS else max(0.12, 9.0 / max(values.shape))
    height, width = (cell * count for count in values.shape)
    sheet_width = max(beside + width, 4.2) + 2 * _MARGIN
    sheet_height = above + height + 0.15 + _BAR_BLOCK + 2 * _MARGIN
    with _sheet(sheet_width, sheet_height, path) as figure:
        left = max(beside, (sheet_width - width) / 2 - _MARGIN) + _MARGIN
        axes = _axes(figure, (left, _MARGIN + _BAR_BLOCK + 0.15, width, height))
        axes.imshow(paint(values, limit), aspect="auto", interpolation="nearest")
        axes.xaxis.tick_top()
        size = min(9.0, 60 * cell)
        for axis, names in ((axes.xaxis, shown[1]), (axes.yaxis, shown[0])):
            axis.set_ticks(range(len(names)), labels=names, parse_math=False)
        axes.tick_params(length=0, labelsize=size, labelcolor=_INK)
        axes.tick_params(axis="x", labelrotation=90)
        for spine in axes.spines.values():
            spine.set_visible(False)
        # White lines between the cells.
        axes.set_xticks(np.arange(-0.5, values.shape[1]), minor=True)
        axes.set_yticks(np.arange(-0.5, values.shape[0]), minor=True)
        axes.grid(which="minor", color="white", linewidth=1)
        axes.tick_params(which="minor", length=0)
        if max(values.shape) <= _NUMBERS:
            for (row, column), value in np.ndenumerate(values):
                color = "white" if abs(value) > _STRONG * limit else _INK
                text = f"{value:.2f}".replace("-", "−")
                axes.text(column, row, text, ha="center", va="center", fontsize=6, color=color)
        _color_bar(figure, limit, label)
