"""All that the command writes about one pair: archives, figures, the page and the summary."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from shapjax.core.errors import ShapjaxError
from shapjax.core.files import write_whole
from shapjax.explainers.explanation import Explanation, Side
from shapjax.explainers.exports import part_names
from shapjax.explainers.methods import METHODS
from shapjax.report.figures import save_correspondence, save_heat_map
from shapjax.report.layouts import save_counterfactual, save_methods, save_regions
from shapjax.report.matrix import save_matrix
from shapjax.report.page import View, views, write_page
from shapjax.report.text_page import write_text_page

_ARCHIVES = ("explanation.npz", "explanation_query.npz")
_DRAWN = ("heat_query", "heat_retrieved", "correspondence", "regions", "counterfactual", "matrix")
_FIGURES = (*_DRAWN, "methods")

ENDINGS = ("png", "svg", "pdf")
"""Formats of figures."""


def _archive(name: str, method: str) -> str:
    """An archive's name where several methods have one each."""
    return f"{name.removesuffix('.npz')}-{method}.npz"


OUTPUTS = (
    "summary.json",
    "report.html",
    *(f"{name}.{ending}" for name in _FIGURES for ending in ENDINGS),
    *(
        Path(own).with_suffix(ending).name
        for name in _ARCHIVES
        for own in (name, *(_archive(name, method) for method in METHODS))
        for ending in (".npz", ".json")
    ),
)
"""Names of the files that may be written."""


class Pair(NamedTuple):
    """Two items, each a picture or a text, and what to call them.

    Attributes:
        query: what was searched with.
        retrieved: what was found.
        query_name: what to call the query.
        retrieved_name: what to call the found one.
        rather_than: the one picture that might have been found instead, where there is one.
    """

    query: Image.Image | str
    retrieved: Image.Image | str
    query_name: str
    retrieved_name: str
    rather_than: Image.Image | None = None


def writable_folder(folder: Path, outputs: Sequence[str] = OUTPUTS) -> Path:
    """The folder, made if absent and tried before any work begins.

    Args:
        folder: where to write.
        outputs: names of the files to come.

    Raises:
        ShapjaxError: it cannot be written, or holds a folder named as an output.
    """
    if any((folder / name).is_dir() for name in outputs):
        raise ShapjaxError(
            f"{folder} holds a folder named as an output; choose another with --out."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ShapjaxError(
            f"cannot write into {folder} ({error.strerror}); choose another folder with --out."
        ) from None
    return folder


def write_outputs(
    out: Path,
    pair: Pair,
    explanations: Sequence[Explanation],
    summary: Mapping[str, Any],
    *,
    ending: str = "png",
    as_json: bool = False,
) -> None:
    """Write everything about a pair; nothing of an earlier run stays beside it.

    Args:
        out: a writable folder.
        pair: what was explained.
        explanations: in the order of ``write_page``, the retrieved picture's first.
        summary: of the run; ``"methods"`` in it is not shown on the page, which has its own.
        ending: format of the figures, one of ``ENDINGS``.
        as_json: whether to write explanations as JSON beside the archives.

    Raises:
        ShapjaxError: a file cannot be written.
    """
    for name in OUTPUTS:
        (out / name).unlink(missing_ok=True)
    shown = views(explanations)
    for view in shown:
        for name, explanation in zip(_ARCHIVES, view, strict=False):
            own = name if len(shown) == 1 else _archive(name, view[0].method)
            explanation.save(out / own)
            if as_json:
                content = explanation.to_json().encode()
                write_whole((out / own).with_suffix(".json"), content)
    figure = {name: out / f"{name}.{ending}" for name in _FIGURES}
    rows = {key: value for key, value in summary.items() if key != "methods"}
    if isinstance(pair.query, str) or isinstance(pair.retrieved, str):
        (view,) = shown
        _draw_texts(figure, pair, view)
        also = view[1] if len(view) == 2 else None
        write_text_page(view[0], out / "report.html", summary=rows, also=also)
    else:
        if len(shown) > 1:
            save_methods([(pair.query, pair.retrieved, explanations)], figure["methods"])
        else:
            _draw_pictures(figure, pair, shown[0])
        write_page(
            explanations,
            pair.query,
            pair.retrieved,
            out / "report.html",
            query_name=pair.query_name,
            retrieved_name=pair.retrieved_name,
            summary=rows,
        )
    # Last, so that a folder with a summary is a whole one.
    write_whole(out / "summary.json", json.dumps(summary, indent=2).encode() + b"\n")


def _draw_texts(path: Mapping[str, Path], pair: Pair, view: View) -> None:
    """Two texts, or a text and a picture."""
    found, other = view[0], view[-1]
    items: tuple[tuple[Side, Explanation, Image.Image | str], ...] = (
        ("query", other, pair.query),
        ("retrieved", found, pair.retrieved),
    )
    for side, own, item in items:
        if isinstance(item, str):
            names = part_names(own, side)
            save_matrix(own.heat(side)[None], [""], names, path[f"heat_{side}"], label="credit")
        else:
            save_heat_map(own, side, item, path[f"heat_{side}"])
    if found.order == 2:
        rows, columns = (part_names(found, side) for side, _, _ in items)
        what = "interaction of query part (row) and retrieved part"
        save_matrix(found.cross, rows, columns, path["matrix"], label=what)


def _draw_pictures(path: Mapping[str, Path], pair: Pair, view: View) -> None:
    found, other = view[0], view[-1]
    query, retrieved, *_ = pair
    assert not isinstance(query, str)
    assert not isinstance(retrieved, str)
    if other.query_players is not None:
        save_heat_map(other, "query", query, path["heat_query"])
    save_heat_map(found, "retrieved", retrieved, path["heat_retrieved"])
    if found.order == 2:
        save_correspondence(found, query, retrieved, path["correspondence"])
        save_regions(found, query, retrieved, path["regions"])
    if pair.rather_than is not None:
        save_counterfactual(found, query, retrieved, pair.rather_than, path["counterfactual"])
