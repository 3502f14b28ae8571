"""One self-contained page on which a reader points at words of a text, or parts of its picture."""

from __future__ import annotations

import html
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image

from shapjax.core.colors import COLORS
from shapjax.core.errors import ShapjaxError
from shapjax.core.files import printable, write_whole
from shapjax.explainers.explanation import Explanation, Side
from shapjax.explainers.exports import part_names
from shapjax.report.page import _base64, _data_uri, _document, _resource, _row, _shown

_SIDES: tuple[Side, Side] = ("query", "retrieved")


def write_text_page(
    explanation: Explanation,
    path: str | os.PathLike[str],
    *,
    summary: Mapping[str, Any],
    also: Explanation | None = None,
) -> None:
    """Write an HTML file that needs no network and no other file.

    Scripts on the page, or in a console, find the numbers and the pointer under
    ``window.shapjax``: ``explanation``, ``select(side, player)``, ``select(null)``.

    Args:
        explanation: of two texts, or of a text and a picture, of second order, or of first order
            on one of them.
        path: where to write.
        summary: names and values for the table at the foot, in order.
        also: at first order, an explanation whose players are on the other item.

    Raises:
        ShapjaxError: the explanation is of no text, or the file cannot be written.
    """
    texts = (explanation.query_names, explanation.retrieved_names)
    pictures = (explanation.query_picture, explanation.retrieved_picture)
    data: dict[str, Any] = {"colors": _base64(COLORS, "u1"), "cross": None}
    faces = {}
    for side, text, picture in zip(_SIDES, texts, pictures, strict=True):
        if text is None and (picture is None or texts == (None, None)):
            raise ShapjaxError(
                "the explanation is not of two texts, nor of one and a picture; write_page draws "
                "pictures."
            )
        own = explanation if _plays(explanation, side) else also
        names = text or (() if own is None else part_names(own, side))
        data[side] = {
            "names": [printable(name) for name in names],
            "heat": None if own is None else own.heat(side).tolist(),
        }
        labels = None if own is None else own.players(side)
        faces[side] = _chips(text) if picture is None else _picture(picture, labels)
    if explanation.order >= 2:
        data["cross"] = explanation.cross.tolist()
    style = _resource("page.css") + _resource("text_page.css")
    script = _resource("text_page.js")
    values = {
        "similarity": _shown(explanation.similarity),
        "empty": _shown(explanation.v_empty),
        "rows": "\n".join(_row(key, value) for key, value in summary.items()),
        "title": "Why these two texts match" if all(texts) else "Why text and picture match",
        **faces,
    }
    page = _document("text_page.html", values["title"], style, script, data, values)
    write_whole(path, page.encode("utf-8"))


def _plays(explanation: Explanation, side: Side) -> bool:
    labels = explanation.query_players if side == "query" else explanation.retrieved_players
    return labels is not None


def _chips(names: Sequence[str] | None) -> str:
    chips = (f'<bdi tabindex="0">{html.escape(printable(name))}</bdi>' for name in names or ())
    return f'<p class="passage">{" ".join(chips)}</p>'


def _picture(picture: np.ndarray, labels: np.ndarray | None) -> str:
    """A picture with an outline for each of its parts, in their order."""
    height, width = picture.shape[:2]
    runs: dict[int, list[str]] = defaultdict(list)
    for y, row in enumerate(() if labels is None else labels):
        edges = [0, *(np.flatnonzero(np.diff(row)) + 1).tolist(), width]
        for start, stop in pairwise(edges):
            runs[int(row[start])].append(f"M{start} {y}h{stop - start}v1h{start - stop}z")
    parts = "".join(f'<path tabindex="0" d="{"".join(runs[part])}"/>' for part in sorted(runs))
    uri = _data_uri(Image.fromarray(picture))
    return (
        f'<svg viewBox="0 0 {width} {height}"><image href="{uri}" width="{width}" '
        f'height="{height}"/>{parts}</svg>'
    )
