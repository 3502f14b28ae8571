"""One self-contained page for many pairs, which loads each as it comes into view."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from shapjax.core.colors import COLORS, FAINT, scale_limit
from shapjax.core.errors import ShapjaxError
from shapjax.core.files import printable, write_whole
from shapjax.explainers.explanation import Explanation, Side
from shapjax.games.images import load_image
from shapjax.report.page import (
    _base64,
    _data_uri,
    _document,
    _json_for_html,
    _resource,
    _row,
    _shown,
)

_PAGE = re.compile(r"[\w-]+(/[\w-]+)*\.html")
_SIDES: tuple[Side, Side] = ("query", "retrieved")
_THUMBNAIL = 256  # Pixels on the long side.
_CELLS = 64  # Most rows and columns of a label map that is drawn this small.
_WHOLE = 127  # The largest whole number that stands for the end of the scale.


class GalleryPair(NamedTuple):
    """A pair in a gallery.

    Attributes:
        explanation: of either order.
        query: path, PIL image or array; one object for several pairs is stored once.
        retrieved: likewise.
        query_name: what to call the query.
        retrieved_name: what to call the retrieved picture.
        page: address of the pair's own page relative to the gallery, where it has one.
    """

    explanation: Explanation
    query: Any
    retrieved: Any
    query_name: str
    retrieved_name: str
    page: str | None = None


def write_gallery(
    pairs: Iterable[GalleryPair],
    path: str | os.PathLike[str],
    *,
    title: str,
    summary: Mapping[str, Any],
) -> None:
    """Write an HTML file that needs no network and no other file.

    The pairs are sorted by similarity, inefficiency or name, as the reader likes. Pictures and
    heat are unfolded when they come into view, so that 1,000 pairs scroll as 10 do. Heat is
    stored in 255 steps of each pair's own scale and on at most 64 x 64 cells, which is what
    small pictures show; similarity and inefficiency are stored whole. Of all cards the Tab key
    reaches one; from it arrow keys, Home and End reach the others, Enter or Space opens its page.

    Args:
        pairs: at least one; an iterator's pictures are read one at a time.
        path: where to write.
        title: heading of the page.
        summary: names and values for the table at the foot, in order.

    Raises:
        ShapjaxError: there are no pairs, a page is no path below the gallery, or the file
            cannot be written.
        ImageError: a picture cannot be read.
    """
    pictures: dict[Any, int] = {}
    maps: dict[tuple[tuple[int, ...], str], int] = {}
    scripts: list[str] = []
    cards: list[dict[str, Any]] = []
    kept: list[Any] = []  # What identity is remembered of must stay alive.
    for pair in pairs:
        places = []
        for source in (pair.query, pair.retrieved):
            name = os.fspath(source) if isinstance(source, str | os.PathLike) else id(source)
            if name not in pictures:
                kept.append(source)
                pictures[name] = len(pictures)
                thumbnail = load_image(source)
                uri = _data_uri(thumbnail, _THUMBNAIL)
                ratio = round(thumbnail.width / thumbnail.height, 4)
                content = {"ratio": ratio, "uri": uri}
                scripts.append(_script(f"picture-{pictures[name]}", content))
            places.append(pictures[name])
        scripts.append(_script(f"pair-{len(cards)}", _heat(pair.explanation, maps)))
        cards.append(_card(pair, places))
    if not cards:
        raise ShapjaxError("there are no pairs to show; give at least one.")
    data = {
        "cards": cards,
        "maps": [{"shape": list(shape), "labels": labels} for shape, labels in maps],
        "colors": _base64(COLORS, "u1"),
    }
    style = _resource("page.css") + _resource("gallery.css") + f":root{{--faint:{FAINT};}}\n"
    script = _resource("gallery.js")
    opens = any(card["page"] is not None for card in cards)
    values = {
        "title": html.escape(printable(title)),
        "count": f"{len(cards):,}",
        "keys": "arrow keys move from pair to pair" + ", Enter opens one" * opens,
        "contents": "\n".join(scripts),
        "rows": "\n".join(_row(key, value) for key, value in summary.items()),
    }
    page = _document("gallery.html", values["title"], style, script, data, values)
    write_whole(path, page.encode("utf-8"))


def _card(pair: GalleryPair, places: list[int]) -> dict[str, Any]:
    """What is known of a pair before it comes into view."""
    explanation = pair.explanation
    if pair.page is not None and not _PAGE.fullmatch(pair.page):
        raise ShapjaxError(
            f"page is {pair.page!r}, expected a path below the gallery, such as pairs/0001.html."
        )
    return {
        "pictures": places,
        "names": [printable(pair.query_name), printable(pair.retrieved_name)],
        "method": printable(explanation.method),
        "similarity": explanation.similarity,
        "inefficiency": explanation.inefficiency,
        "words": [_shown(explanation.similarity), _shown(float(f"{explanation.inefficiency:.2g}"))],
        "page": pair.page,
    }


def _heat(explanation: Explanation, maps: dict[tuple[tuple[int, ...], str], int]) -> dict[str, Any]:
    """Label maps, credit and interactions as gallery.js reads them."""
    found: dict[str, Any] = {"order": explanation.order}
    seen: dict[str, np.ndarray] = {}
    heats: dict[Side, np.ndarray] = {}
    for side in _SIDES:
        labels = explanation.query_players if side == "query" else explanation.retrieved_players
        if labels is None:
            found[side] = None
            continue
        # Parts too small to be drawn are left out, and the others numbered anew.
        seen[side], small = np.unique(_subsampled(labels), return_inverse=True)
        small = small.reshape(_subsampled(labels).shape)
        place = maps.setdefault((small.shape, _base64(small, "<u2")), len(maps))
        heats[side] = explanation.heat(side)
        found[side] = {"map": place}
    limit = scale_limit(np.concatenate(list(heats.values())))
    found["limit"] = limit
    for side, heat in heats.items():
        found[side]["heat"] = _steps(heat[seen[side]], limit)
    if explanation.order >= 2:
        limit = scale_limit(explanation.cross)
        cross = explanation.cross[np.ix_(seen["query"], seen["retrieved"])]
        found |= {"cross": _steps(cross, limit), "cross_limit": limit}
    return found


def _subsampled(labels: np.ndarray) -> np.ndarray:
    rows, columns = (
        (np.arange(min(size, _CELLS)) + 0.5) * size / min(size, _CELLS) for size in labels.shape
    )
    return labels[np.ix_(rows.astype(int), columns.astype(int))]


def _steps(values: np.ndarray, limit: float) -> str:
    return _base64(np.round(np.clip(values / limit, -1, 1) * _WHOLE), "i1")


def _script(name: str, content: Any) -> str:
    return f'<script type="application/json" id="{name}">{_json_for_html(content)}</script>'
