"""Explanations as JSON, as HTML for a notebook, and as the shap package's."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from shapjax.core.colors import FAINT, paint, scale_limit, signed
from shapjax.core.errors import ShapjaxError
from shapjax.core.exports import package
from shapjax.core.files import printable

if TYPE_CHECKING:
    from shapjax.explainers.explanation import Explanation, Side

_SIDES: tuple[Side, Side] = ("query", "retrieved")
_STRONGEST = 5


def part_names(explanation: Explanation, side: Side) -> Sequence[str]:
    """What to call the parts of one item: the words of a text, numbers in a picture.

    Raises:
        ShapjaxError: that item is a picture without players in this explanation.
    """
    names = getattr(explanation, f"{side}_names")
    return names or [f"{side} part {i}" for i in range(len(explanation.heat(side)))]


def to_json(explanation: Explanation) -> str:
    """See ``Explanation.to_json``."""
    found = explanation.interactions
    content: dict[str, Any] = {
        "method": explanation.method,
        "backbone": explanation.backbone,
        "index": found.index,
        "order": explanation.order,
        "similarity": explanation.similarity,
        "v_grand": explanation.v_grand,
        "v_empty": explanation.v_empty,
        "inefficiency": explanation.inefficiency,
        "evaluations": explanation.evaluations,
        "seconds": explanation.seconds,
        "n_query": explanation.n_query,
        "n_retrieved": explanation.n_retrieved,
        "coefficients": [np.asarray(part, np.float64).tolist() for part in found.coefficients],
        "credit": np.asarray(explanation.credit, np.float64).tolist(),
        "cross": None if explanation.order < 2 else explanation.cross.tolist(),
    }
    if found.standard_errors is not None:
        errors = [np.asarray(part, np.float64).tolist() for part in found.standard_errors]
        content["standard_errors"] = errors
    for side in _SIDES:
        labels = getattr(explanation, f"{side}_players")
        content[f"{side}_players"] = None if labels is None else labels.tolist()
        names = getattr(explanation, f"{side}_names")
        content[f"{side}_names"] = None if names is None else list(names)
    return json.dumps(content)


def to_shap(explanation: Explanation, side: Side) -> Any:
    """See ``Explanation.to_shap``."""
    explanation_class = package("shap").Explanation
    labels, heat = explanation.players(side), np.asarray(explanation.heat(side), np.float64)
    names = getattr(explanation, f"{side}_names")
    if names is not None:
        return explanation_class(
            values=heat, base_values=explanation.v_empty, data=np.array(names, object)
        )
    picture = getattr(explanation, f"{side}_picture")
    if picture is None:
        raise ShapjaxError(
            "this explanation carries no pictures, without which shap draws nothing; explain "
            "anew, or take interactions.to_shap()."
        )
    # A part's credit is spread over its pixels and channels, so that sums stay what they were.
    each = heat / np.bincount(labels.ravel(), minlength=len(heat)) / 3
    values = np.repeat(each[labels][..., None], 3, axis=2)
    return explanation_class(
        values=values[None], base_values=np.array([explanation.v_empty]), data=picture[None]
    )


def to_html(explanation: Explanation) -> str:
    """See ``Explanation._repr_html_``."""
    sides: list[Side] = [s for s in _SIDES if getattr(explanation, f"{s}_players") is not None]
    heats = [explanation.heat(side) for side in sides]
    limit = scale_limit(np.concatenate(heats))
    faces = [_face(explanation, side, limit) for side in sides]
    rows = [
        ("method", f"{printable(explanation.method)}, order {explanation.order}"),
        ("similarity", f"{explanation.similarity:.6g}"),
        ("v(N) − v(∅)", signed(explanation.v_grand - explanation.v_empty)),
        ("inefficiency", f"{explanation.inefficiency:.2g}"),
        ("evaluations", f"{explanation.evaluations:,}"),
        ("colours", f"{signed(-limit)} (blue) to {signed(limit)} (red), units of similarity"),
    ]
    if explanation.order >= 2:
        rows += [("strongest pairs", "; ".join(_strongest(explanation)))]
    table = "".join(
        f'<tr><th style="text-align:left">{html.escape(name)}</th>'
        f'<td style="text-align:left">{html.escape(value)}</td></tr>'
        for name, value in rows
    )
    return (
        f'<div><div style="display:flex;flex-wrap:wrap;gap:1em">{"".join(faces)}</div>'
        f"<table>{table}</table></div>"
    )


def _strongest(explanation: Explanation) -> list[str]:
    """The pairs of the largest size, in words, with their standard errors where known."""
    cross, errors = explanation.cross, explanation.cross_errors
    names = [part_names(explanation, side) for side in _SIDES]
    found = []
    for rank in np.argsort(-np.abs(cross), axis=None, kind="stable")[:_STRONGEST].tolist():
        q, r = divmod(rank, cross.shape[1])
        pair = f"{printable(names[0][q])} – {printable(names[1][r])}"
        error = ""
        if errors is not None:
            rounded = float(f"{float(errors[q, r]):.1g}")
            error = f" ± {np.format_float_positional(rounded, trim='-')}"
        found.append(f"{pair}: {signed(float(cross[q, r]))}{error}")
    return found


def _face(explanation: Explanation, side: Side, limit: float) -> str:
    """One picture under the credit of its parts, or one text in its colours."""
    heat, names = explanation.heat(side), getattr(explanation, f"{side}_names")
    if names is not None:
        chips = [
            f'<bdi style="background:rgb({",".join(map(str, color))});color:#1d1d1b;'
            f'padding:0 .2em">{html.escape(printable(name))}</bdi>'
            for name, color in zip(names, paint(heat, limit).tolist(), strict=True)
        ]
        return f"<p>{' '.join(chips)}</p>"
    from PIL import Image

    pixels = paint(heat, limit)[explanation.players(side)].astype(np.float64)
    picture = getattr(explanation, f"{side}_picture")
    if picture is not None:
        grey = picture @ np.array([0.299, 0.587, 0.114]) / 255
        pixels *= (1 - FAINT + FAINT * grey)[..., None]
    content = io.BytesIO()
    Image.fromarray(np.round(pixels).astype(np.uint8)).save(content, "PNG")
    data = base64.b64encode(content.getvalue()).decode("ascii")
    return (
        f'<figure style="margin:0"><img alt="" width="224" style="image-rendering:pixelated" '
        f'src="data:image/png;base64,{data}"><figcaption>{side}</figcaption></figure>'
    )
