"""One self-contained page on which a reader points at parts of either picture."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import numbers
import os
from collections.abc import Mapping
from importlib import resources
from string import Template
from typing import Any

import numpy as np
from PIL import Image

from shapjax.core.errors import ShapjaxError
from shapjax.core.files import printable, write_whole
from shapjax.explainers.explanation import Explanation, Side
from shapjax.report.colors import COLORS, FAINT

_LONG_SIDE = 800  # Pixels of an embedded picture.
_SIDES: tuple[Side, Side] = ("query", "retrieved")


def write_page(
    explanation: Explanation,
    query: Image.Image,
    retrieved: Image.Image,
    path: str | os.PathLike[str],
    *,
    query_name: str,
    retrieved_name: str,
    summary: Mapping[str, Any],
    also: Explanation | None = None,
) -> None:
    """Write an HTML file that needs no network and no other file.

    Scripts on the page, or in a console, find the numbers and the pointer under
    ``window.shapjax``: ``explanation``, ``select(side, player)``, ``select(null)``, ``state()``.

    Args:
        explanation: of second order, or of first order with players on one picture.
        query: the query picture, RGB of any size.
        retrieved: the retrieved picture, RGB of any size.
        path: where to write.
        query_name: what to call the query, for example its file name.
        retrieved_name: what to call the retrieved picture.
        summary: names and values for the table at the foot, in order.
        also: at first order, an explanation whose players are on the other picture.

    Raises:
        ShapjaxError: ``also`` does not complete ``explanation``, or the file cannot be written.
    """
    names = {"query": query_name, "retrieved": retrieved_name}
    pictures = {"query": query.convert("RGB"), "retrieved": retrieved.convert("RGB")}
    style = _resource("page.css") + _layout(pictures)
    script = _resource("page.js")
    values = {
        "policy": html.escape(_policy(style, script)),
        "style": style,
        "script": script,
        "data": _json_for_html(_data(explanation, also)),
        "similarity": _shown(explanation.similarity),
        "rows": "\n".join(_row(key, value) for key, value in summary.items()),
    }
    for side in _SIDES:
        values[f"{side}_name"] = html.escape(printable(names[side]))
        values[f"{side}_picture"] = _data_uri(pictures[side])
    page = Template(_resource("page.html")).substitute(values)
    write_whole(path, page.encode("utf-8"))


def _data(explanation: Explanation, also: Explanation | None) -> dict[str, Any]:
    """What page.js reads: int32 label maps, float32 coefficients, the colour table."""
    faces = {side: _face(explanation, side) for side in _SIDES}
    if also is not None:
        added = {side: _face(also, side) for side in _SIDES}
        if any((faces[side] is None) == (added[side] is None) for side in _SIDES):
            raise ShapjaxError(
                "also must be a first-order explanation of the other picture than explanation."
            )
        faces = {side: faces[side] or added[side] for side in _SIDES}
    paired = explanation.order >= 2 and None not in faces.values()
    return {
        "method": printable(explanation.method),
        "backbone": printable(explanation.backbone),
        "order": explanation.order,
        **faces,
        "cross": _base64(explanation.cross, "<f4") if paired else None,
        "colors": _base64(COLORS, "u1"),
    }


def _face(explanation: Explanation, side: Side) -> dict[str, Any] | None:
    """The players of one picture: label map [H, W] and credit [n]; None without players."""
    labels = explanation.query_players if side == "query" else explanation.retrieved_players
    if labels is None:
        return None
    return {
        "shape": list(labels.shape),
        "labels": _base64(labels, "<i4"),
        "heat": _base64(explanation.heat(side), "<f4"),
    }


def _base64(array: np.ndarray, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype).tobytes()).decode("ascii")


def _json_for_html(data: Any) -> str:
    """JSON in which nothing can end the script element; escapes are JSON's own."""
    text = json.dumps(data, ensure_ascii=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _policy(style: str, script: str) -> str:
    """A content security policy: this style, this script, embedded pictures, nothing else."""
    return (
        "default-src 'none'; img-src data:; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()


def _layout(pictures: Mapping[str, Image.Image]) -> str:
    ratios = "".join(
        f"--{side}-ratio:{picture.width / picture.height:.6f};"
        for side, picture in pictures.items()
    )
    return f":root{{{ratios}--faint:{FAINT};}}\n"


def _data_uri(picture: Image.Image) -> str:
    small = picture.copy()
    small.thumbnail((_LONG_SIDE, _LONG_SIDE), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    small.save(content, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")


def _row(key: object, value: object) -> str:
    name, shown = html.escape(printable(key)), html.escape(_shown(value))
    return f'<tr><th scope="row">{name}</th><td><bdi>{shown}</bdi></td></tr>'


def _shown(value: object) -> str:
    """A value as text: whole numbers grouped, others to six significant digits."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return printable(value)
    text = f"{int(value):,}" if isinstance(value, numbers.Integral) else f"{float(value):.6g}"
    return text.replace("-", "−")


def _resource(name: str) -> str:
    return resources.files("shapjax.report").joinpath(name).read_text("utf-8")
