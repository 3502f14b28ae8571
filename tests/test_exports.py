"""Explanations and interactions as other packages', as JSON and as a notebook shows them."""

import base64
import dataclasses
import io
import json
import sys

import numpy as np
import pytest
import report_cases as cases
from PIL import Image
from test_report import Parsed

import shapjax as sj
from shapjax.core.colors import paint, scale_limit


def with_pictures(explanation):
    picture = np.random.default_rng(0).integers(0, 255, (cases.SIZE, cases.SIZE, 3), np.uint8)
    return dataclasses.replace(explanation, query_picture=picture, retrieved_picture=picture[::-1])


def test_json_holds_the_numbers():
    explanation = cases.second_order()
    content = json.loads(explanation.to_json())
    np.testing.assert_array_equal(content["cross"], explanation.cross)
    np.testing.assert_array_equal(content["credit"], explanation.credit)
    np.testing.assert_array_equal(content["query_players"], explanation.query_players)
    for own, part in zip(
        content["coefficients"], explanation.interactions.coefficients, strict=True
    ):
        np.testing.assert_array_equal(own, part)
    assert content["inefficiency"] == explanation.inefficiency
    assert "standard_errors" not in content
    found = explanation.interactions
    sure = dataclasses.replace(found, standard_errors=tuple(0.1 * p for p in found.coefficients))
    content = json.loads(dataclasses.replace(explanation, interactions=sure).to_json())
    for own, part in zip(content["standard_errors"], sure.standard_errors, strict=True):
        np.testing.assert_array_equal(own, part)
    shown = dataclasses.replace(explanation, interactions=sure)
    assert explanation.cross_errors is None
    np.testing.assert_allclose(shown.cross_errors, 0.1 * shown.cross)
    assert "+0.05 ± 0.005" in shown._repr_html_()
    assert "±" not in explanation._repr_html_()
    first = json.loads(cases.first_order("query").to_json())
    assert first["cross"] is None
    assert first["retrieved_players"] is None


def test_pictures_are_saved(tmp_path):
    explanation = with_pictures(cases.second_order())
    explanation.save(tmp_path / "e.npz")
    back = sj.Explanation.load(tmp_path / "e.npz")
    np.testing.assert_array_equal(back.query_picture, explanation.query_picture)
    np.testing.assert_array_equal(back.retrieved_picture, explanation.retrieved_picture)


def decoded(source):
    content = base64.b64decode(source.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_a_notebook_shows_credit_in_colors():
    explanation = cases.second_order()
    page = Parsed(explanation._repr_html_())
    both = np.concatenate([explanation.heat("query"), explanation.heat("retrieved")])
    for image, side in zip(page.all("img"), ("query", "retrieved"), strict=True):
        expected = paint(explanation.heat(side), scale_limit(both))[explanation.players(side)]
        np.testing.assert_array_equal(decoded(image["src"]), expected)
    words = " ".join(e["text"] for e in page.all("td"))
    assert "query part 0 – retrieved part 3: +0.05" in words
    assert f"{explanation.similarity:.6g}" in words
    pictured = Parsed(with_pictures(explanation)._repr_html_()).all("img")[0]
    assert np.any(decoded(pictured["src"]) != decoded(page.all("img")[0]["src"]))
    assert len(Parsed(cases.first_order("query")._repr_html_()).all("img")) == 1


def test_a_notebook_shows_words_and_escapes_them():
    labels = np.arange(2, dtype=np.int32)[None]
    words = ("<script>alert(1)</script>", "b\u202e")
    found = sj.Interactions((np.zeros(1), np.zeros(4), np.arange(6.0)), "STII", 4)
    explanation = sj.Explanation(
        "two-tower", "<i>net</i>", found, labels, labels, 1.0, 1.0, 0.0, 4, 0.1, words, words
    )
    page = Parsed(explanation._repr_html_())
    assert not page.all("script")
    assert [e["text"] for e in page.all("bdi")][:1] == [words[0]]
    assert "\u202e" not in page.source


@pytest.mark.parametrize("name", ["shapiq", "shap"])
def test_an_absent_package_is_named(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    explanation = with_pictures(cases.second_order())
    with pytest.raises(sj.ShapjaxError, match=f"pip install {name}"):
        getattr(explanation.interactions, f"to_{name}")()
    with pytest.raises(sj.ShapjaxError, match=f"pip install {name}"):
        getattr(explanation, f"to_{name}")()


@pytest.mark.peers
def test_interactions_become_shapiq_s():
    pytest.importorskip("shapiq")
    game = lambda masks: np.tanh(masks @ np.linspace(-1, 1, 6))  # noqa: E731
    exact = sj.interactions(game, n_players=6)
    theirs = exact.to_shapiq()
    assert (theirs.index, theirs.n_players, theirs.max_order) == ("STII", 6, 2)
    assert theirs.baseline_value == pytest.approx(float(exact.empty))
    for size in (1, 2):
        for coalition, value in exact.items(size):
            assert theirs[coalition] == pytest.approx(float(value))
    assert not theirs.estimated
    guess = sj.estimate(game, 6, index="SV", budget=30, key=0)
    assert guess.to_shapiq().estimation_budget == guess.stats["evaluations"]
    # It is theirs in earnest: their own selection of the strongest agrees.
    strongest = max(exact.items(2), key=lambda pair: abs(pair[1]))[0]
    assert strongest in theirs.get_n_order(2).get_top_k(1).dict_values
    batch = sj.interactions(np.random.default_rng(0).random((3, 8), np.float32))
    with pytest.raises(sj.ShapjaxError, match="batch of games"):
        batch.to_shapiq()


@pytest.mark.peers
def test_explanations_become_shap_s():
    shap = pytest.importorskip("shap")
    explanation = with_pictures(cases.second_order())
    theirs = explanation.interactions.to_shap()
    assert isinstance(theirs, shap.Explanation)
    interactions = explanation.interactions
    total = sum(float(np.sum(c)) for c in interactions.coefficients[1:])
    np.testing.assert_allclose(theirs.values.sum(), total, rtol=1e-6)
    np.testing.assert_allclose(np.diag(theirs.values), interactions.singles)
    pictured = explanation.to_shap("query")
    assert pictured.values.shape == pictured.data.shape == (1, cases.SIZE, cases.SIZE, 3)
    np.testing.assert_allclose(pictured.values.sum(), explanation.heat("query").sum(), rtol=1e-6)
    first = cases.first_order("query")
    np.testing.assert_allclose(first.interactions.to_shap().values, first.heat("query"))
    with pytest.raises(sj.ShapjaxError, match="no pictures"):
        first.to_shap("query")
