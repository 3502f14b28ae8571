"""The page of an explanation in a real browser: what a reader does, and what they then see."""

from __future__ import annotations

import base64
import dataclasses
import os
import re

import chromium
import numpy as np
import pytest
import report_cases as cases

from shapjax.core.colors import paint, scale_limit
from shapjax.core.interactions import Interactions
from shapjax.explainers.transport import project, region_shares
from shapjax.report.page import write_page

pytestmark = pytest.mark.skipif(chromium.find() is None, reason="no Chromium or Chrome is here")

EXPLANATION = cases.second_order()
CROSS = EXPLANATION.cross


@pytest.fixture(scope="module")
def browser():
    with chromium.Chromium(chromium.find()) as started:
        yield started


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    return written(tmp_path_factory.mktemp("page") / "page.html", EXPLANATION)


def written(path, explanations, *, names=("query.png", "retrieved.png")):
    write_page(
        explanations,
        *cases.pictures(),
        path,
        query_name=names[0],
        retrieved_name=names[1],
        summary=cases.SUMMARY,
    )
    return path.as_uri()


def box(tab, side):
    """Left, top, width and height of a picture in the viewport."""
    return tab.js(
        f"(b => [b.left, b.top, b.width, b.height])"
        f"(document.querySelector('#{side} .picture').getBoundingClientRect())"
    )


def spot(tab, side, player):
    """Where in the viewport one player's innermost pixel lies."""
    labels = EXPLANATION.players(side)
    y, x = np.nonzero(labels == player)
    nearest = np.argmin((x - x.mean()) ** 2 + (y - y.mean()) ** 2)
    left, top, width, height = box(tab, side)
    return (
        left + (x[nearest] + 0.5) / labels.shape[1] * width,
        top + (y[nearest] + 0.5) / labels.shape[0] * height,
    )


def canvas(tab, side, selector=None):
    """Colours of a picture's heat canvas, uint8 [H, W, 3]."""
    # Read from a copy: reading the page's own canvas over and over draws a warning on the test.
    text = tab.js(
        f"(c => {{ const copy = new OffscreenCanvas(c.width, c.height);"
        f" const context = copy.getContext('2d', {{ willReadFrequently: true }});"
        f" context.drawImage(c, 0, 0);"
        f" const d = context.getImageData(0, 0, c.width, c.height).data;"
        f" return btoa(Array.from(d, v => String.fromCharCode(v)).join('')); }})"
        f"(document.querySelector('{selector or f'#{side} canvas'}'))"
    )
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(cases.SIZE, cases.SIZE, 4)[
        ..., :3
    ]


def heated(tab, side):
    return tab.js(f"document.querySelector('#{side} .picture').classList.contains('heated')")


def readout(tab, side):
    return tab.js(f"document.querySelector('#{side} .readout').textContent")


def last_number(text):
    return float(re.findall(r"[+−][\d.]+(?:e−\d+)?", text)[-1].replace("−", "-"))


def shown_heat(values, side):
    return paint(values, scale_limit(values))[EXPLANATION.players(side)]


def assert_quiet(tab):
    """Nothing in the console, no dialog, and no request that leaves the machine."""
    noise = tab.of_kind(
        "Runtime.exceptionThrown",
        "Runtime.consoleAPICalled",
        "Log.entryAdded",
        "Page.javascriptDialogOpening",
    )
    assert noise == []
    requests = tab.of_kind("Network.requestWillBeSent")
    urls = [request["request"]["url"] for request in requests]
    assert urls
    assert all(url.startswith(("file:", "data:")) for url in urls)


def test_heat_of_both_pictures_without_a_pointer(browser, url):
    tab = browser.open(url)
    both = np.concatenate([EXPLANATION.heat("query"), EXPLANATION.heat("retrieved")])
    for side in ("query", "retrieved"):
        expected = paint(EXPLANATION.heat(side), scale_limit(both))[EXPLANATION.players(side)]
        np.testing.assert_array_equal(canvas(tab, side), expected)
        total = EXPLANATION.heat(side).sum()
        assert last_number(readout(tab, side)) == pytest.approx(total, rel=5e-3)
    assert_quiet(tab)


@pytest.mark.parametrize(
    ("side", "other", "player"), [("query", "retrieved", 0), ("retrieved", "query", 3)]
)
def test_pointing_shows_the_row_in_the_other_picture(browser, url, side, other, player):
    tab = browser.open(url)
    before = canvas(tab, other)
    tab.mouse(*spot(tab, side, player))
    row = CROSS[player] if side == "query" else CROSS[:, player]
    after = canvas(tab, other)
    assert np.any(before != after)
    np.testing.assert_array_equal(after, shown_heat(row, other))
    assert heated(tab, other)
    assert not heated(tab, side)
    assert f"part {row.argmax()}:" in readout(tab, other)
    assert last_number(readout(tab, other)) == pytest.approx(row.max(), rel=5e-3)
    credit = EXPLANATION.heat(side)[player]
    assert last_number(readout(tab, side)) == pytest.approx(credit, rel=5e-3)
    assert tab.js(f"document.querySelector('#{side} .line').getAttribute('d')")

    tab.mouse(5, 5)
    np.testing.assert_array_equal(canvas(tab, other), before)
    assert_quiet(tab)


def test_scale_is_labelled_with_its_limit(browser, url):
    tab = browser.open(url)
    tab.mouse(*spot(tab, "query", 0))
    high = tab.js("document.querySelector('.high').textContent")
    assert last_number(high) == pytest.approx(scale_limit(CROSS[0]))
    tab.mouse(*spot(tab, "query", 9))
    left, top = tab.js(
        "(b => [b.left + 5, b.top + 5])"
        "(document.querySelector('.shared input').getBoundingClientRect())"
    )
    tab.mouse(left, top, click=True)
    tab.mouse(*spot(tab, "query", 9))
    high = tab.js("document.querySelector('.high').textContent")
    assert last_number(high) == pytest.approx(scale_limit(CROSS))


def test_held_part_reads_its_pairs(browser, url):
    tab = browser.open(url)
    tab.mouse(*spot(tab, "query", 6), click=True)
    for probe in (2, 7):
        tab.mouse(*spot(tab, "retrieved", probe))
        assert readout(tab, "retrieved").startswith(f"with part {probe}:")
        assert last_number(readout(tab, "retrieved")) == pytest.approx(CROSS[6, probe], rel=5e-3)
    tab.mouse(5, 5)
    assert tab.js("shapjax.state().player") == 6
    tab.mouse(5, 5, click=True)
    assert tab.js("shapjax.state().player") is None


def test_part_without_counterpart_says_so(browser, url):
    tab = browser.open(url)
    tab.mouse(*spot(tab, "query", 5))
    assert readout(tab, "retrieved") == "no part here speaks for the match"
    assert not tab.js("document.querySelector('#retrieved .line').getAttribute('d')")


def test_keyboard_walks_over_the_players(browser, url):
    tab = browser.open(url)
    tab.key("Tab")
    assert tab.js("shapjax.state().player") == int(EXPLANATION.heat("query").argmax())
    tab.js("shapjax.select('query', 5)")
    for key, player in [
        ("ArrowRight", 6),
        ("ArrowDown", 10),
        ("ArrowLeft", 9),
        ("ArrowUp", 5),
        ("ArrowLeft", 4),
        ("ArrowLeft", 4),
    ]:
        tab.key(key)
        assert tab.js("shapjax.state().player") == player
    np.testing.assert_array_equal(canvas(tab, "retrieved"), shown_heat(CROSS[4], "retrieved"))
    tab.key("Escape")
    assert tab.js("shapjax.state().player") is None
    assert_quiet(tab)


def test_keyboard_reads_pairs_of_a_held_part(browser, url):
    tab = browser.open(url)
    tab.key("Tab")
    tab.key("Enter")
    tab.key("Tab")
    state = tab.js("shapjax.state()")
    player, probe = (int(EXPLANATION.heat(side).argmax()) for side in ("query", "retrieved"))
    assert (state["side"], state["player"], state["probe"]) == ("query", player, probe)
    assert last_number(readout(tab, "retrieved")) == pytest.approx(CROSS[player, probe], rel=5e-3)


def test_script_hook_holds_the_numbers(browser, url):
    tab = browser.open(url)
    assert tab.js("Array.from(shapjax.explanation.cross)") == pytest.approx(CROSS.ravel().tolist())
    tab.js("shapjax.select('retrieved', 2)")
    state = tab.js("shapjax.state()")
    assert (state["side"], state["player"]) == ("retrieved", 2)
    assert state["counterpart"] == CROSS[:, 2].argmax()
    assert state["value"] == pytest.approx(CROSS[:, 2].max())
    with pytest.raises(RuntimeError, match="no player"):
        tab.js("shapjax.select('query', 16)")


@pytest.mark.parametrize("dark", [False, True])
def test_phone_shows_both_pictures_and_answers_a_tap(browser, url, dark):
    tab = browser.open(url, width=390, height=844, phone=True, dark=dark)
    assert tab.js("document.documentElement.scrollWidth") <= 390
    (_, query_top, _, query_height), (_, top, _, height) = box(tab, "query"), box(tab, "retrieved")
    assert query_top + query_height < top
    assert top + height < 844
    tab.tap(*spot(tab, "query", 0))
    np.testing.assert_array_equal(canvas(tab, "retrieved"), shown_heat(CROSS[0], "retrieved"))
    tab.tap(*spot(tab, "retrieved", 3))
    np.testing.assert_array_equal(canvas(tab, "query"), shown_heat(CROSS[:, 3], "query"))
    # A second tap holds the part; the next one across reads the pair.
    tab.tap(*spot(tab, "retrieved", 3))
    tab.tap(*spot(tab, "query", 10))
    assert last_number(readout(tab, "query")) == pytest.approx(CROSS[10, 3], rel=5e-3)
    assert_quiet(tab)


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_in_light_and_dark(browser, url, dark):
    tab = browser.open(url, dark=dark)
    for element in ("body", ".hint", "th", ".name"):
        paper, ink = (
            [float(v) for v in re.findall(r"[\d.]+", color)[:3]]
            for color in (
                tab.js("getComputedStyle(document.body).backgroundColor"),
                tab.js(f"getComputedStyle(document.querySelector('{element}')).color"),
            )
        )
        assert (np.mean(paper) < 128) == dark
        assert contrast(paper, ink) > 4.5


def contrast(one, other):
    """Contrast ratio of two sRGB colours as WCAG defines it."""

    def luminance(color):
        c = np.array(color) / 255
        linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_first_order_page_reads_credit(browser, tmp_path):
    query, retrieved = cases.first_order("query"), cases.first_order("retrieved")
    tab = browser.open(written(tmp_path / "both.html", [query, retrieved]))
    before = canvas(tab, "retrieved")
    tab.mouse(*spot(tab, "query", 6))
    assert last_number(readout(tab, "query")) == pytest.approx(query.heat("query")[6], rel=5e-3)
    np.testing.assert_array_equal(canvas(tab, "retrieved"), before)
    assert heated(tab, "query")
    assert_quiet(tab)

    tab = browser.open(written(tmp_path / "one.html", retrieved))
    tab.mouse(*spot(tab, "retrieved", 2))
    credit = retrieved.heat("retrieved")[2]
    assert last_number(readout(tab, "retrieved")) == pytest.approx(credit, rel=5e-3)
    assert not heated(tab, "query")
    tab.mouse(*spot(tab, "query", 2))
    assert_quiet(tab)


def test_hostile_names_do_nothing(browser, tmp_path):
    names = ("".join(cases.HOSTILE_NAMES), "'\"><svg onload=alert(1)>" + "x" * 500)
    explanation = dataclasses.replace(EXPLANATION, method="</script><script>alert(3)</script>")
    url = written(tmp_path / "#odd 'name' <b>.html", explanation, names=names)
    tab = browser.open(url)
    tab.mouse(*spot(tab, "query", 0))
    np.testing.assert_array_equal(canvas(tab, "retrieved"), shown_heat(CROSS[0], "retrieved"))
    assert tab.js("document.scripts.length") == 2
    assert tab.js("document.documentElement.scrollWidth") <= 1280
    assert_quiet(tab)


def test_page_cannot_reach_the_network(browser, url):
    tab = browser.open(url)
    refused = tab.js("fetch('http://127.0.0.1:9/').then(() => 'sent', e => e.name)")
    assert refused == "TypeError"
    entries = [entry["entry"]["text"] for entry in tab.of_kind("Log.entryAdded")]
    assert any("Content Security Policy" in text for text in entries)


def test_many_parts_are_drawn_within_a_few_frames(browser, tmp_path):
    n, size = 400, 227
    random = np.random.default_rng(0)
    flat = random.normal(size=n * (2 * n - 1)).astype(np.float32)
    coefficients = (np.zeros(1, np.float32), np.zeros(2 * n, np.float32), flat)
    labels = cases.ragged_labels(n, size)
    explanation = dataclasses.replace(
        EXPLANATION,
        interactions=Interactions(coefficients, "STII", 2 * n),
        query_players=labels,
        retrieved_players=labels,
    )
    tab = browser.open(written(tmp_path / "large.html", explanation))
    milliseconds = tab.js(
        "(() => { const times = []; for (let p = 0; p < 60; p += 1) {"
        " const start = performance.now(); shapjax.select('query', p);"
        " times.push(performance.now() - start); }"
        " return times.sort((a, b) => a - b)[30]; })()"
    )
    # About 2 ms where nothing else runs; the bound only has to catch a change of order.
    assert milliseconds < 60


# Boxes


def corners(tab, side, fractions):
    left, top, width, height = box(tab, side)
    x0, y0, x1, y1 = fractions
    return (left + x0 * width, top + y0 * height), (left + x1 * width, top + y1 * height)


@pytest.mark.parametrize("phone", [False, True])
@pytest.mark.parametrize("side", ["query", "retrieved"])
def test_a_dragged_box_is_projected(browser, url, side, phone):
    """What arrives is what ``shapjax.project`` says, on the canvas and in numbers."""
    other = "retrieved" if side == "query" else "query"
    tab = browser.open(url, **({"width": 390, "height": 844, "phone": True} if phone else {}))
    tab.drag(*corners(tab, side, (0.2, 0.3, 0.7, 0.55)))
    state = tab.js("shapjax.state()")
    assert (state["side"], state["player"], state["held"]) == (side, None, True)
    np.testing.assert_allclose(state["box"], (0.2, 0.3, 0.7, 0.55), atol=0.01)
    arrived = project(EXPLANATION, source=side, box=state["box"])
    labels = EXPLANATION.players(other)
    np.testing.assert_allclose(np.array(state["arriving"])[labels], arrived, atol=1e-7)
    np.testing.assert_array_equal(canvas(tab, other), paint(arrived, state["limit"]))
    assert readout(tab, side).startswith("box over ")
    shares = region_shares(EXPLANATION, side, box=state["box"])
    credit = shares @ EXPLANATION.heat(side)
    assert last_number(readout(tab, side)) == pytest.approx(credit, rel=5e-3)
    # It stays while a part across is read, and goes with a touch elsewhere.
    place = spot(tab, other, 2)
    tab.tap(*place) if phone else tab.mouse(*place)
    assert readout(tab, other).startswith("with part 2:")
    assert last_number(readout(tab, other)) == pytest.approx(arrived[labels == 2][0], rel=5e-3)
    tab.tap(5, 5) if phone else tab.mouse(5, 5, click=True)
    assert tab.js("shapjax.state().box") is None
    assert_quiet(tab)


def test_shift_and_arrows_grow_a_box(browser, url):
    tab = browser.open(url)
    tab.key("Tab")
    tab.js("shapjax.select('query', 5)")
    tab.key("ArrowRight", shift=True)
    tab.key("ArrowDown", shift=True)
    np.testing.assert_allclose(tab.js("shapjax.state().box"), (0.25, 0.25, 0.75, 0.75))
    summed = CROSS[[5, 6, 9, 10]].sum(axis=0)
    np.testing.assert_allclose(tab.js("Array.from(shapjax.state().arriving)"), summed, atol=1e-7)
    tab.key("ArrowRight")  # without Shift a part again
    assert tab.js("[shapjax.state().player, shapjax.state().box]") == [11, None]


# Strongest pairs, and values on demand


def set_slider(tab, count):
    tab.js(
        f"(s => {{ s.value = {count}; s.dispatchEvent(new Event('input')); }})"
        "(document.querySelector('.top input'))"
    )
    tab.settle()


def lines(tab):
    return tab.js("document.querySelectorAll('.links .pair').length")


def test_slider_says_how_many_pairs_are_drawn(browser, url):
    tab = browser.open(url)
    for count in (0, 1, 12):
        set_slider(tab, count)
        assert lines(tab) == count
        assert tab.js("document.querySelector('.top output').textContent") == str(count)
    set_slider(tab, 1)
    # From the middle of query part 0 to that of retrieved part 3, the strongest pair.
    ends = tab.js(
        "(p => { const f = document.querySelector('.links').getBoundingClientRect();"
        " return [0, p.getTotalLength()].map(at => p.getPointAtLength(at))"
        " .map(q => [q.x + f.left, q.y + f.top]); })(document.querySelector('.links .pair'))"
    )
    for end, side, player in zip(ends, ("query", "retrieved"), (0, 3), strict=True):
        left, top, width, height = box(tab, side)
        y, x = np.nonzero(EXPLANATION.players(side) == player)
        middle = np.array([x.mean() + 0.5, y.mean() + 0.5]) / cases.SIZE * [width, height]
        np.testing.assert_allclose(end, np.add(middle, (left, top)), atol=0.2)
    set_slider(tab, 20)
    tab.mouse(*spot(tab, "query", 6))
    assert lines(tab) == 9  # every pair of this part
    assert_quiet(tab)


def test_values_are_those_saved(browser, url):
    tab = browser.open(url)
    assert not tab.js("document.querySelector('.values').open")
    tab.js("document.querySelector('.values').open = true")
    set_slider(tab, 40)
    rows = tab.js(
        "Array.from(document.querySelectorAll('.values tbody tr'),"
        " r => Array.from(r.cells, c => c.textContent))"
    )
    assert len(rows) == 40
    order = np.argsort(-np.abs(CROSS.ravel()), kind="stable")[:40]
    for (q, r, value), rank in zip(rows, order, strict=True):
        assert (int(q), int(r)) == divmod(int(rank), CROSS.shape[1])
        assert float(value.replace("−", "-")) == pytest.approx(CROSS[int(q), int(r)], rel=1e-6)


@pytest.mark.parametrize("explanation", [EXPLANATION, cases.first_order("retrieved")])
def test_values_come_with_their_standard_errors(browser, tmp_path, explanation):
    found = explanation.interactions
    errors = tuple(0.1 * np.abs(part) for part in found.coefficients)
    found = dataclasses.replace(found, standard_errors=errors)
    sure = dataclasses.replace(explanation, interactions=found)
    tab = browser.open(written(tmp_path / "page.html", [sure]))
    tab.js("document.querySelector('.values').open = true")
    tab.settle()
    heads = tab.js("Array.from(document.querySelectorAll('.values th'), c => c.textContent)")
    assert heads[3:] == ["standard error"]
    rows = tab.js(
        "Array.from(document.querySelectorAll('.values tbody tr'),"
        " r => Array.from(r.cells, c => c.textContent))"
    )
    assert len(rows) >= 9
    for _, part, value, error in rows:
        assert int(part) >= 0
        number = float(value.replace("−", "-"))
        assert float(error) == pytest.approx(0.1 * abs(number), rel=0.06)


# Several methods


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A second method with other parts and signs, and one of first order."""
    turned = dataclasses.replace(
        EXPLANATION,
        method="turned",
        interactions=-1.0 * EXPLANATION.interactions,
        query_players=np.ascontiguousarray(cases.grid_labels().T),
    )
    first = [cases.first_order("retrieved"), cases.first_order("query")]
    path = tmp_path_factory.mktemp("several") / "page.html"
    return written(path, [EXPLANATION, turned, *first])


def card_canvas(tab, place, side):
    selector = f".card:nth-child({place + 1}) .picture:nth-child({1 + (side == 'retrieved')})"
    return canvas(tab, side, f"{selector} canvas")


def test_methods_stand_side_by_side_and_follow_the_pointer(browser, several):
    tab = browser.open(several)
    names = tab.js("Array.from(document.querySelectorAll('.card b'), b => b.textContent)")
    assert names == ["stii", "turned", "shapley"]
    tab.mouse(*spot(tab, "query", 1))
    np.testing.assert_array_equal(canvas(tab, "retrieved"), shown_heat(CROSS[1], "retrieved"))
    for place, row in ((0, CROSS[1]), (1, -CROSS[4])):  # the same place is another part there
        np.testing.assert_array_equal(
            card_canvas(tab, place, "retrieved"), shown_heat(row, "retrieved")
        )
    before = card_canvas(tab, 2, "retrieved")
    tab.mouse(*spot(tab, "query", 9))
    np.testing.assert_array_equal(card_canvas(tab, 2, "retrieved"), before)
    assert_quiet(tab)


def test_a_chosen_method_takes_the_large_pictures(browser, several):
    tab = browser.open(several)
    tab.drag(*corners(tab, "query", (0.1, 0.2, 0.4, 0.9)))
    x, y = tab.js(
        "(b => [b.left + 9, b.top + 9])"
        "(document.querySelector('.card:nth-child(2)').getBoundingClientRect())"
    )
    tab.mouse(x, y, click=True)
    state = tab.js("shapjax.state()")
    assert state["method"] == "turned"
    turned = dataclasses.replace(
        EXPLANATION, query_players=np.ascontiguousarray(cases.grid_labels().T)
    )
    arrived = -project(turned, box=state["box"])
    np.testing.assert_allclose(
        np.array(state["arriving"])[EXPLANATION.players("retrieved")], arrived, atol=1e-7
    )
    assert tab.js("document.querySelector('.comparison .shown bdi').textContent") == "turned"
    tab.js("shapjax.show(2)")
    assert tab.js("document.querySelector('.top').hidden")
    assert "credit" in readout(tab, "retrieved")
    with pytest.raises(RuntimeError, match="no method"):
        tab.js("shapjax.show(3)")


@pytest.mark.parametrize("dark", [False, True])
def test_several_methods_fit_a_phone(browser, several, dark):
    tab = browser.open(several, width=390, height=844, phone=True, dark=dark)
    assert tab.js("document.documentElement.scrollWidth") <= 390
    tab.js("document.querySelector('.card:nth-child(2)').scrollIntoView()")
    x, y = tab.js(
        "(b => [b.left + 9, b.top + 9])"
        "(document.querySelector('.card:nth-child(2)').getBoundingClientRect())"
    )
    tab.tap(x, y)
    assert tab.js("shapjax.state().method") == "turned"


def test_one_method_has_no_cards(browser, url):
    tab = browser.open(url)
    assert tab.js("document.querySelector('.methods').hidden")


def test_browser_leaves_nothing_behind():
    with chromium.Chromium(chromium.find()) as browser:
        browser.call("Browser.getVersion")
        group, profile = browser._process.pid, browser._profile
        assert living(group)
    assert not os.path.exists(profile)
    assert not living(group)


def living(group):
    """Processes of a group that still run (zombies wait for their reaper only)."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                state, _, process_group = file.read().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(process_group) == group and state != "Z":
            found.append(int(name))
    return found
