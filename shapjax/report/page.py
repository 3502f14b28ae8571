"""One self-contained page on which a reader points at parts of either picture."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import numbers
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from string import Template
from typing import Any

import numpy as np
from PIL import Image

from shapjax.core.colors import COLORS, FAINT
from shapjax.core.errors import ShapjaxError
from shapjax.core.files import printable, write_whole
from shapjax.explainers.explanation import Explanation, Side

_LONG_SIDE = 800  # Pixels of an embedded picture.
_SIDES: tuple[Side, Side] = ("query", "retrieved")


def write_page(
    explanations: Explanation | Sequence[Explanation],
    query: Image.Image,
    retrieved: Image.Image,
    path: str | os.PathLike[str],
    *,
    query_name: str,
    retrieved_name: str,
    summary: Mapping[str, Any],
) -> None:
    """Write an HTML file that needs no network and no other file.

    Several methods stand side by side and follow one pointer. Scripts on the page, or in a
    console, find the numbers and the pointer under ``window.shapjax``: ``explanation`` (the one
    that is large), ``explanations``, ``show(place)``, ``select(side, player)``,
    ``select(null)``, ``state()``.

    Args:
        explanations: one, or several of the same pair, which are shown in this order; the two
            first-order explanations of a method, one for each picture, are shown as one when
            they follow each other.
        query: the query picture, RGB of any size.
        retrieved: the retrieved picture, RGB of any size.
        path: where to write.
        query_name: what to call the query, for example its file name.
        retrieved_name: what to call the retrieved picture.
        summary: names and values for the table at the foot, in order.

    Raises:
        ShapjaxError: there is no explanation, or the file cannot be written.
    """
    shown = views([explanations] if isinstance(explanations, Explanation) else explanations)
    names = {"query": query_name, "retrieved": retrieved_name}
    pictures = {"query": query.convert("RGB"), "retrieved": retrieved.convert("RGB")}
    style = _resource("page.css") + _layout(pictures)
    script = _resource("page.js")
    values = {
        "similarity": _shown(shown[0][0].similarity),
        "comparison": _comparison(shown) if len(shown) > 1 else "",
        "rows": "\n".join(_row(key, value) for key, value in summary.items()),
    }
    for side in _SIDES:
        values[f"{side}_name"] = html.escape(printable(names[side]))
        values[f"{side}_picture"] = _data_uri(pictures[side])
    title = f"{values['query_name']} – {values['retrieved_name']}"
    page = _document("page.html", title, style, script, _data(shown), values)
    write_whole(path, page.encode("utf-8"))


View = list[Explanation]
"""What is shown at a time: a second-order explanation, or first-order ones of both pictures."""


def views(explanations: Sequence[Explanation]) -> list[View]:
    """Explanations as they are shown: both first-order ones of a method together.

    Raises:
        ShapjaxError: there is none.
    """
    found: list[View] = []
    for explanation in explanations:
        if found and _completes(found[-1], explanation):
            found[-1].append(explanation)
        else:
            found.append([explanation])
    if not found:
        raise ShapjaxError("there is no explanation to show; give at least one.")
    return found


def _completes(view: View, explanation: Explanation) -> bool:
    first = view[0]
    return (
        len(view) == 1
        and first.method == explanation.method
        and first.order == explanation.order == 1
        and all(
            (_labels(first, side) is None) != (_labels(explanation, side) is None)
            for side in _SIDES
        )
    )


def _labels(explanation: Explanation, side: Side) -> np.ndarray | None:
    return explanation.query_players if side == "query" else explanation.retrieved_players


def _data(shown: list[View]) -> dict[str, Any]:
    """What page.js reads: int32 label maps, float32 coefficients, the colour table.

    Methods that share a label map share it here too.
    """
    maps: dict[tuple[tuple[int, ...], str], int] = {}
    methods = [_method(view, maps) for view in shown]
    return {
        "backbone": printable(shown[0][0].backbone),
        "methods": methods,
        "maps": [{"shape": list(shape), "labels": labels} for shape, labels in maps],
        "colors": _base64(COLORS, "u1"),
    }


def _method(view: View, maps: dict[tuple[tuple[int, ...], str], int]) -> dict[str, Any]:
    faces: dict[str, Any] = dict.fromkeys(_SIDES)
    for explanation in view:
        for side in _SIDES:
            labels = _labels(explanation, side)
            if labels is not None:
                place = maps.setdefault((labels.shape, _base64(labels, "<i4")), len(maps))
                faces[side] = {"map": place, "heat": _base64(explanation.heat(side), "<f4")}
                if explanation.order == 1:
                    errors = explanation.interactions.standard_errors
                    faces[side]["errors"] = _errors(None if errors is None else errors[1])
    first = view[0]
    paired = first.order >= 2 and None not in faces.values()
    return {
        "method": printable(first.method),
        "order": first.order,
        **faces,
        "cross": _base64(first.cross, "<f4") if paired else None,
        "errors": _errors(first.cross_errors) if paired else None,
    }


def _errors(errors: Any) -> str | None:
    """Standard errors as the page stores them; None where there are none, or nothing errs."""
    return None if errors is None or not np.any(errors) else _base64(errors, "<f4")


def _comparison(shown: list[View]) -> str:
    """The methods' numbers as a table, a row for each."""
    heads = ("method", "order", "parts", "v(N) − v(∅)", "inefficiency", "evaluations", "seconds")
    rows = []
    for place, view in enumerate(shown):
        first = view[0]
        parts = [max(getattr(one, f"n_{side}") for one in view) for side in _SIDES]
        cells = [
            str(first.order),
            " × ".join(f"{count:,}" for count in parts if count),
            *(
                " / ".join(_shown(float(f"{number:.3g}")) for number in numbers)
                for numbers in (
                    [one.v_grand - one.v_empty for one in view],
                    [one.inefficiency for one in view],
                )
            ),
            f"{sum(one.evaluations for one in view):,}",
            f"{sum(one.seconds for one in view):.1f}",
        ]
        shown_cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        name = html.escape(printable(first.method))
        rows.append(
            f'<tr data-place="{place}"><th scope="row"><bdi>{name}</bdi></th>{shown_cells}</tr>'
        )
    head = "".join(f'<th scope="col">{head}</th>' for head in heads)
    return (
        f'<div class="wide"><table class="comparison"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


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


def _data_uri(picture: Image.Image, long_side: int = _LONG_SIDE) -> str:
    small = picture.copy()
    small.thumbnail((long_side, long_side), Image.Resampling.LANCZOS)
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


def _document(
    body: str, title: str, style: str, script: str, data: Any, values: Mapping[str, str]
) -> str:
    """A whole page: the file of its body filled in, within what all pages have around theirs.

    Args:
        body: a file beside this one, with the names in ``values``.
        title: escaped.
        style: CSS.
        script: JavaScript, which finds ``data`` in the element of that id.
        data: anything that JSON can hold.
        values: escaped.
    """
    return Template(_resource("frame.html")).substitute(
        policy=html.escape(_policy(style, script)),
        title=title,
        style=style,
        body=Template(_resource(body)).substitute(values),
        data=_json_for_html(data),
        script=script,
    )


def _resource(name: str) -> str:
    return resources.files("shapjax.report").joinpath(name).read_text("utf-8")
