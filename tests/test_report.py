from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import report_cases as cases
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

from shapjax.core.colors import COLORS, paint, scale_limit, signed
from shapjax.core.errors import ShapjaxError
from shapjax.core.files import printable
from shapjax.core.interactions import Interactions
from shapjax.report.figures import save_correspondence, save_heat_map, spread_parts
from shapjax.report.layouts import (
    _HUES,
    alike_parts,
    save_counterfactual,
    save_methods,
    save_regions,
)
from shapjax.report.page import write_page

QUERY, RETRIEVED = cases.pictures()


def make_page(path, explanation, *, names=("q.png", "r.png"), **kwargs):
    write_page(
        explanation,
        QUERY,
        RETRIEVED,
        path,
        query_name=names[0],
        retrieved_name=names[1],
        summary=cases.SUMMARY,
        **kwargs,
    )
    return Parsed(path.read_text("utf-8"))


def pixels_of(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


class Parsed(HTMLParser):
    """Elements in order, with their attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.source = text
        self.elements = []
        self.current = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.current = {"tag": tag, "text": "", **dict(attrs)}
        self.elements.append(self.current)

    def handle_endtag(self, tag):
        self.current = None

    def handle_data(self, data):
        if self.current is not None:
            self.current["text"] += data

    def all(self, tag):
        return [element for element in self.elements if element["tag"] == tag]

    @property
    def data(self):
        return json.loads(next(s["text"] for s in self.all("script") if s.get("id") == "data"))


def decoded(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype)


# Colours


def test_color_table_is_signed_and_even():
    lab = rgb2lab(COLORS[None] / 255.0)[0]
    lightness, chroma = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
    assert COLORS.shape == (255, 3)
    assert chroma[127] < 1
    assert np.all(np.diff(lightness[:128]) > -0.3)
    assert np.all(np.diff(lightness[127:]) < 0.3)
    assert abs(lightness[0] - lightness[-1]) < 3
    # Steps are coarse against 8-bit rounding, so compare strides of eight entries.
    steps = deltaE_ciede2000(lab[:-8:8], lab[8::8])
    assert steps.max() < 1.8 * steps.min()


@pytest.mark.parametrize(
    "seen_as",
    [
        [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],  # deuteranopia
        [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],  # protanopia
        [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],  # tritanopia
    ],
)
def test_color_ends_differ_without_one_kind_of_cone(seen_as):
    """The matrices of Machado, Oliveira & Fernandes 2009."""
    seen = np.clip(COLORS[[0, -1]] / 255.0 @ np.transpose(seen_as), 0, 1)
    assert deltaE_ciede2000(*rgb2lab(seen[None])[0]) > 40


def test_paint_is_symmetric_and_clips():
    colors = paint(np.array([-3.0, -2.0, 0.0, 2.0, 3.0]), 2.0)
    np.testing.assert_array_equal(colors, COLORS[[0, 0, 127, 254, 254]])


@pytest.mark.parametrize(
    ("largest", "limit"), [(0.0213, 0.025), (0.2, 0.2), (9.5, 10), (1e-7, 1e-7), (0, 1), (-3.1, 4)]
)
def test_scale_limit_is_round(largest, limit):
    assert scale_limit(np.array([0, largest], np.float32)) == pytest.approx(limit)


def test_signed_numbers():
    assert [signed(v) for v in (0.0123456, -2.5e-7, 0.0)] == ["+0.0123", "−2.5e−07", "0"]


# Figures


@pytest.mark.parametrize("side", ["query", "retrieved"])
@pytest.mark.parametrize("order", [1, 2])
def test_heat_map_shows_the_strongest_color(tmp_path, side, order):
    explanation = cases.first_order(side) if order == 1 else cases.second_order()
    path = tmp_path / "heat.png"
    # Over white the heat keeps its exact colours.
    save_heat_map(explanation, side, Image.new("RGB", (90, 40), "white"), path)
    pixels = pixels_of(path).reshape(-1, 3)
    heat = explanation.heat(side)
    for color in paint(heat, scale_limit(heat)):
        assert np.any(np.all(pixels == color, axis=1))


@pytest.mark.parametrize("size", [(1000, 8), (8, 1000), (1, 1)])
def test_figures_of_extreme_pictures(tmp_path, size):
    picture = Image.new("RGB", size, "gray")
    explanation = cases.second_order()
    save_heat_map(explanation, "query", picture, tmp_path / "heat.png", title="a")
    save_correspondence(explanation, picture, picture, tmp_path / "pairs.png")
    for name in ("heat.png", "pairs.png"):
        assert pixels_of(tmp_path / name).std() > 0


@pytest.mark.parametrize("title", ["$\\frac{1$ $$ _^{", "x" * 4000, *cases.HOSTILE_NAMES])
@pytest.mark.filterwarnings("error")
def test_titles_are_harmless_and_leave_the_layout_alone(tmp_path, title):
    explanation = cases.second_order()
    for name, given in (("plain", "plain"), ("other", title)):
        save_heat_map(explanation, "query", QUERY, tmp_path / f"{name}.png", title=given)
    plain, other = (pixels_of(tmp_path / f"{name}.png") for name in ("plain", "other"))
    assert plain.shape == other.shape
    assert other[:, -20:].min() == 255


def test_correspondence_is_drawn(tmp_path):
    path = tmp_path / "pairs.png"
    save_correspondence(cases.second_order(), QUERY, RETRIEVED, path)
    pixels = pixels_of(path)
    assert pixels.shape[1] > 800
    assert np.ptp(pixels.reshape(-1, 3), axis=0).min() > 100


def test_the_colour_bar_is_in_units_of_similarity(tmp_path):
    """With its limits in numbers; an SVG file has them as comments."""
    second, path = cases.second_order(), tmp_path / "x.svg"
    limit = scale_limit(second.heat("query"))
    save_heat_map(second, "query", QUERY, path)
    content = path.read_text("utf-8")
    for text in (signed(-limit), "0", signed(limit), "credit, in units of similarity"):
        assert f"<!-- {text} -->" in content, text
    save_correspondence(second, QUERY, RETRIEVED, path)
    assert "in units of similarity -->" in path.read_text("utf-8")
    save_methods([(QUERY, RETRIEVED, [second])], path)
    assert "in units of similarity -->" in path.read_text("utf-8")


def test_correspondence_needs_pairs(tmp_path):
    with pytest.raises(ShapjaxError, match="order=2"):
        save_correspondence(cases.first_order("query"), QUERY, RETRIEVED, tmp_path / "x.png")


def test_methods_are_laid_out_in_rows(tmp_path):
    """Panels in the colours of their explanations; over several rows where there is one pair."""
    white = Image.new("RGB", (90, 70), "white")
    second, first = cases.second_order(), cases.first_order("retrieved")
    save_methods([(white, white, [second, first])], tmp_path / "one.png")
    pixels = pixels_of(tmp_path / "one.png").reshape(-1, 3)
    for explanation in (second, first):
        heat = explanation.heat("retrieved")
        for color in paint(heat, scale_limit(heat)):
            assert np.any(np.all(pixels == color, axis=1))
    save_methods([(white, white, [second] * 9)], tmp_path / "wrapped.png")
    save_methods([(white, white, [second])] * 2, tmp_path / "two.png")
    one, wrapped, two = (
        pixels_of(tmp_path / f"{name}.png").shape for name in ("one", "wrapped", "two")
    )
    assert wrapped[0] == two[0] > one[0]
    assert wrapped[1] > one[1] > two[1]
    with pytest.raises(ShapjaxError, match="no explanation has players"):
        save_methods([(white, white, [first])], tmp_path / "x.png", side="query")


def test_counterfactual_shows_four_pictures(tmp_path):
    red, green, blue = (Image.new("RGB", (60, 40), name) for name in ("red", "lime", "blue"))
    save_counterfactual(cases.first_order("retrieved"), red, green, blue, tmp_path / "x.png")
    pixels = pixels_of(tmp_path / "x.png")
    places = [np.argwhere(np.all(pixels == c, axis=2)).mean(axis=0) for c in np.eye(3) * 255]
    assert places[0][0] < places[1][0]  # the query above the result
    assert places[0][1] < places[2][1]  # the other candidate beside the query


def test_counterfactual_says_the_numbers(tmp_path):
    """Similarities, and with a sign credit; an SVG file has them as comments."""
    first, second = cases.first_order("retrieved"), cases.second_order()
    nq = cases.SIDE_PLAYERS["query"]
    singles, pairs = np.array(second.interactions.singles), np.array(second.interactions.pairs)
    credit = singles + pairs.sum(axis=1) / 2
    sides = [f"{part.sum():+.3f}".replace("-", "\u2212") for part in (credit[:nq], credit[nq:])]
    for explanation, numbers in (
        (first, ["0.031", "0.812", "+0.781"]),
        (second, ["0.812", *sides]),
    ):
        save_counterfactual(explanation, QUERY, RETRIEVED, QUERY, tmp_path / "x.svg")
        content = (tmp_path / "x.svg").read_text("utf-8")
        for number in numbers:
            assert f"<!-- {number} -->" in content, number


def test_regions_are_carried_over_in_their_colors(tmp_path):
    """Left and right halves that match the other side's: the colours change sides."""
    cross = np.array([[0.0, 1.0], [1.0, 0.0]])
    pairs = np.array([0, *cross[0], *cross[1], 0])
    labels = (np.arange(60)[None, :] >= 30).astype(np.int32) * np.ones((60, 1), np.int32)
    explanation = dataclasses.replace(
        cases.second_order(),
        interactions=Interactions((np.zeros(1), np.zeros(4), pairs), "STII", 4),
        query_players=labels,
        retrieved_players=labels,
    )
    white = Image.new("RGB", (60, 40), "white")
    for regions in (2, labels):
        save_regions(explanation, white, white, tmp_path / "x.png", regions=regions)
        pixels = pixels_of(tmp_path / "x.png")
        middle = pixels.shape[1] / 2
        for color, (left, right) in zip(_HUES[:2], ((0, 3), (1, 2)), strict=True):
            x = np.argwhere(np.all(pixels == color, axis=2))[:, 1]
            spread = np.histogram(x, 4, (0, 2 * middle))[0] > 20_000
            assert set(np.flatnonzero(spread)) == {left, right}, color
    with pytest.raises(ShapjaxError, match="at most 8"):
        save_regions(explanation, white, white, tmp_path / "x.png", regions=np.arange(9)[None])


def test_alike_parts_point_the_same_way():
    rows = np.array([[1.0, 0], [3.0, 0.1], [0, 1.0], [0.1, 0.5], [2.0, 0]])
    np.testing.assert_array_equal(alike_parts(rows, 2), [0, 0, 1, 1, 0])
    assert not alike_parts(np.zeros((3, 2)), 1).any()


def test_spread_parts_are_strong_and_apart():
    labels = cases.grid_labels()
    strength = np.arange(16, 0, -1.0)
    parts = spread_parts(strength, labels, 4)
    assert parts[0] == 0
    assert parts == sorted(parts)
    assert spread_parts(strength, np.zeros((8, 8), int), 6)[0] == 0
    assert len(spread_parts(strength, labels, 40)) == 16


def test_matplotlib_waits_and_pyplot_is_left_alone(tmp_path):
    code = """
import sys, shapjax
assert "matplotlib" not in sys.modules
import report_cases as cases
from shapjax.report.figures import save_heat_map
save_heat_map(cases.second_order(), "query", cases.pictures()[0], sys.argv[1])
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.png")],
        check=True,
        cwd=cases.__file__.rpartition("/")[0],
    )


@pytest.mark.parametrize("name", ["no-such-folder/x.png", "x.mp3", "plain"])
def test_figures_say_what_is_wrong_with_a_path(tmp_path, name):
    with pytest.raises(ShapjaxError, match=r"cannot (write|draw)"):
        save_heat_map(cases.second_order(), "query", QUERY, tmp_path / name)
    assert not list(tmp_path.iterdir())


# Page


def test_page_numbers_equal_the_explanation(tmp_path):
    explanation = cases.second_order()
    data = make_page(tmp_path / "page.html", explanation).data
    (method,) = data["methods"]
    cross = decoded(method["cross"], "<f4").reshape(explanation.cross.shape)
    np.testing.assert_array_equal(cross, explanation.cross.astype(np.float32))
    for side in ("query", "retrieved"):
        given = data["maps"][method[side]["map"]]
        labels = decoded(given["labels"], "<i4").reshape(given["shape"])
        np.testing.assert_array_equal(labels, explanation.players(side))
        heat = decoded(method[side]["heat"], "<f4")
        np.testing.assert_array_equal(heat, explanation.heat(side).astype(np.float32))
    np.testing.assert_array_equal(decoded(data["colors"], "u1").reshape(-1, 3), COLORS)


def test_first_order_page_takes_one_side_or_both(tmp_path):
    query, retrieved = cases.first_order("query"), cases.first_order("retrieved")
    (method,) = make_page(tmp_path / "one.html", query).data["methods"]
    assert method["cross"] is None
    assert method["retrieved"] is None
    (method,) = make_page(tmp_path / "two.html", [query, retrieved]).data["methods"]
    np.testing.assert_array_equal(
        decoded(method["retrieved"]["heat"], "<f4"), retrieved.heat("retrieved").astype(np.float32)
    )
    # Two of the same picture are two to compare.
    assert len(make_page(tmp_path / "three.html", [query, query]).data["methods"]) == 2
    with pytest.raises(ShapjaxError, match="no explanation"):
        make_page(tmp_path / "none.html", [])


def test_page_of_several_methods(tmp_path):
    """One label map for all that share it, and a row of numbers for each."""
    second, query, retrieved = (
        cases.second_order(), cases.first_order("query"), cases.first_order("retrieved"),
    )  # fmt: skip
    page = make_page(tmp_path / "page.html", [second, retrieved, query])
    data = page.data
    assert [m["method"] for m in data["methods"]] == ["stii", "shapley"]
    assert [m["query"]["map"] for m in data["methods"]] == [0, 0]
    assert len(data["maps"]) == 2
    cells = [e["text"] for e in page.all("td")]
    assert cells[:2] == ["2", "16 × 9"]
    assert cells[6:8] == ["1", "16 × 9"]
    assert cells[10] == "40,000"  # both pictures together


def test_page_needs_nothing_from_outside(tmp_path):
    page = make_page(tmp_path / "page.html", cases.second_order())
    for element in page.elements:
        assert element["tag"] not in {"link", "iframe", "object", "embed", "base", "form"}
        assert not {"href", "style", "onload", "srcset"} & set(element)
        assert element.get("src", "data:").startswith("data:image/jpeg;base64,") or not element.get(
            "src"
        )
    without_data = re.sub(r'"[A-Za-z0-9+/=]{40,}"|base64,[A-Za-z0-9+/=]+', "", page.source)
    # Digests in the policy are base64 too.
    without_data = re.sub(r"sha256-[A-Za-z0-9+/=]+", "", without_data)
    for forbidden in ("http:", "https:", "//", "url(", "@import", "import(", "fetch(", "eval("):
        assert forbidden not in without_data


def test_page_policy_admits_only_its_own_script_and_style(tmp_path):
    page = make_page(tmp_path / "page.html", cases.second_order())
    policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for tag, element in (("script", page.all("script")[-1]), ("style", page.all("style")[0])):
        digest = base64.b64encode(hashlib.sha256(element["text"].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


@pytest.mark.parametrize("name", cases.HOSTILE_NAMES)
def test_hostile_names_stay_text(tmp_path, name):
    page = make_page(tmp_path / "page.html", cases.second_order(), names=(name, name[::-1]))
    plain = make_page(tmp_path / "plain.html", cases.second_order())
    assert [e["tag"] for e in page.elements] == [e["tag"] for e in plain.elements]
    assert [set(e) for e in page.elements] == [set(e) for e in plain.elements]
    shown = [e["text"] for e in page.all("bdi")]
    assert printable(name) in shown
    assert printable(name[::-1]) in shown
    assert "\u202e" not in page.source


def test_hostile_method_cannot_end_the_data(tmp_path):
    hostile = "</script><script>alert(1)//\u2028&"
    explanation = cases.second_order()
    object.__setattr__(explanation, "method", hostile)
    page = make_page(tmp_path / "page.html", explanation)
    assert page.data["methods"][0]["method"] == printable(hostile)
    assert len(page.all("script")) == 2
    assert "\u2028" not in page.source


def test_summary_is_a_table(tmp_path):
    page = make_page(tmp_path / "page.html", cases.second_order())
    assert [e["text"] for e in page.all("th")] == list(cases.SUMMARY)
    values = [e["text"] for e in page.all("bdi")][2:]
    assert values == ["0.8125", "0.8125", "−0.03125", "20,000", "</td><script>alert(2)</script>"]


def test_embedded_pictures_are_small(tmp_path):
    path = tmp_path / "page.html"
    large = Image.new("RGB", (3000, 1000), "navy")
    write_page(
        cases.second_order(),
        large,
        RETRIEVED,
        path,
        query_name="q",
        retrieved_name="r",
        summary={},
    )
    source = Parsed(path.read_text("utf-8")).all("img")[0]["src"]
    (tmp_path / "embedded.jpg").write_bytes(base64.b64decode(source.partition(",")[2]))
    assert max(pixels_of(tmp_path / "embedded.jpg").shape) == 800


def test_unwritable_page_is_a_clear_error(tmp_path):
    with pytest.raises(ShapjaxError, match="cannot write"):
        make_page(tmp_path / "none" / "page.html", cases.second_order())
