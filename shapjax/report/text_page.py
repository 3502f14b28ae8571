"""One self-contained page on which a reader points at words of either text."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping
from typing import Any

from shapjax.core.colors import COLORS
from shapjax.core.errors import ShapjaxError
from shapjax.core.files import printable, write_whole
from shapjax.explainers.explanation import Explanation, Side
from shapjax.report.page import _base64, _document, _resource, _row, _shown

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
        explanation: of two texts, of second order, or of first order on one of them.
        path: where to write.
        summary: names and values for the table at the foot, in order.
        also: at first order, an explanation whose players are on the other text.

    Raises:
        ShapjaxError: the explanation is not of two texts, or the file cannot be written.
    """
    names = {"query": explanation.query_names, "retrieved": explanation.retrieved_names}
    if None in names.values():
        raise ShapjaxError("the explanation is not of two texts; write_page draws pictures.")
    data: dict[str, Any] = {"colors": _base64(COLORS, "u1"), "cross": None}
    for side in _SIDES:
        own = explanation if _plays(explanation, side) else also
        data[side] = {
            "names": [printable(name) for name in names[side] or ()],
            "heat": None if own is None else own.heat(side).tolist(),
        }
    if explanation.order >= 2:
        data["cross"] = explanation.cross.tolist()
    style = _resource("page.css") + _resource("text_page.css")
    script = _resource("text_page.js")
    values = {
        "similarity": _shown(explanation.similarity),
        "empty": _shown(explanation.v_empty),
        "rows": "\n".join(_row(key, value) for key, value in summary.items()),
        **{f"{side}_words": _chips(names[side] or ()) for side in _SIDES},
    }
    title = "Why these two texts match"
    page = _document("text_page.html", title, style, script, data, values)
    write_whole(path, page.encode("utf-8"))


def _plays(explanation: Explanation, side: Side) -> bool:
    labels = explanation.query_players if side == "query" else explanation.retrieved_players
    return labels is not None


def _chips(names: tuple[str, ...]) -> str:
    return " ".join(f'<bdi tabindex="0">{html.escape(printable(name))}</bdi>' for name in names)
