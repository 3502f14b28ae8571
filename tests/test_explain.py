"""The four methods against exact enumeration and closed forms."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_network import bright, toy_transformer

import shapjax as sj
from shapjax.explainers.gram_sam import gram_sam, pair_derivatives, single_derivatives
from shapjax.explainers.sam import dot_interactions, sam
from shapjax.games.pooled import (
    cosine_game,
    dot_game,
    gram_matrices,
    pooled_rows,
    unmasked_row,
)


def feature_rows(seed, height, width, dtype=jnp.float64):
    rng = np.random.default_rng(seed)
    maps = np.maximum(rng.normal(size=(2, height, width, 16)), 0)
    return pooled_rows(jnp.asarray(maps[0], dtype), jnp.asarray(0.4 * maps[1], dtype))


@pytest.fixture
def second_order(x64):
    return gram_matrices(feature_rows(0, 2, 3), feature_rows(1, 3, 2))


@pytest.fixture
def first_order(x64):
    whole = unmasked_row(jnp.asarray(np.random.default_rng(2).random((2, 2, 16))))
    return gram_matrices(whole, feature_rows(3, 3, 4))


def brute_force(game, masks, players):
    """Sum over coalitions of the discrete derivative in ``players``, by evaluating corners."""
    total = 0.0
    for corner in itertools.product((0, 1), repeat=len(players)):
        changed = masks.copy()
        changed[:, players] = corner
        total += (-1) ** (len(players) - sum(corner)) * np.asarray(game(changed)).sum()
    return total


def test_gram_derivatives_are_differences_of_worths(second_order, first_order):
    rng = np.random.default_rng(0)
    masks = rng.random((6, 12)) < 0.5
    game = cosine_game(second_order)
    pairs = itertools.combinations(range(12), 2)
    expected = [brute_force(game, masks, list(pair)) for pair in pairs]
    np.testing.assert_allclose(pair_derivatives(second_order, masks), expected, atol=1e-12)
    for grams in (first_order, second_order):
        game = cosine_game(grams)
        expected = [brute_force(game, masks, [player]) for player in range(12)]
        np.testing.assert_allclose(single_derivatives(grams, masks), expected, atol=1e-12)


def test_gram_sam_is_exact_to_sampling_error(second_order, first_order):
    """Standardised errors: their mean square is near one, none beyond 7 standard errors.

    With ten groups the errors follow Student's law of nine degrees of freedom, whose mean
    square is 9/7 and which exceeds 7 with probability 6e-5 a coefficient.
    """
    for grams, order in ((second_order, 2), (first_order, 1)):
        exact = sj.interactions(cosine_game(grams), n_players=12, order=order)
        found = gram_sam(grams, budget=20_000, key=jax.random.key(0))
        assert found.stats["evaluations"] <= 20_000
        assert found.index == ("STII" if order == 2 else "SV")
        for below in range(order):
            np.testing.assert_allclose(found.of_size(below), exact.of_size(below), atol=1e-12)
        error = np.asarray(found.of_size(order) - exact.of_size(order))
        z = error / np.asarray(found.standard_errors[order])
        assert np.mean(z**2) < 4
        assert np.abs(z).max() < 7
        total = sum(c.sum() for c in found.coefficients)
        whole = cosine_game(grams)(np.ones((1, 12), bool))[0]
        np.testing.assert_allclose(total, whole, atol=1e-12)
        assert np.mean(error**2) < 1e-3 * np.var(np.asarray(exact.of_size(order)))


def test_gram_sam_keeps_to_its_budget(second_order):
    for budget in (26, 27, 100, 4999):
        found = gram_sam(second_order, budget=budget, key=jax.random.key(0))
        assert found.stats["evaluations"] <= budget
    with pytest.raises(sj.ShapjaxError, match="at least 26"):
        gram_sam(second_order, budget=25, key=jax.random.key(0))


def test_gram_sam_gives_a_dummy_nothing(x64):
    rows = feature_rows(4, 2, 3).at[3].set(0)  # player 2 looks like its background
    grams = gram_matrices(rows, feature_rows(5, 2, 3))
    found = gram_sam(grams, budget=2000, key=jax.random.key(0))
    np.testing.assert_allclose(found.pairs[2], 0, atol=1e-14)
    np.testing.assert_allclose(found.singles[2], 0, atol=1e-14)


def test_sam_is_exact_for_the_dot_game(second_order, first_order):
    """Propositions 4.1 and 5.1, backgrounds included, by enumerating 2**12 coalitions."""
    for grams, order in ((second_order, 2), (first_order, 1)):
        exact = sj.interactions(dot_game(grams), n_players=12, order=order)
        for a, b in zip(dot_interactions(grams.qr).coefficients, exact.coefficients, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12)


def test_sam_is_in_units_of_cosine(second_order):
    found = sam(second_order)
    total = sum(c.sum() for c in found.coefficients)
    whole = cosine_game(second_order)(np.ones((1, 12), bool))[0]
    np.testing.assert_allclose(total, whole, atol=1e-12)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("kind", ["cosine", "dot"])
def test_kernel_sam_is_exact_at_full_budget_and_converges(second_order, first_order, kind, order):
    """In the dot game to SAM, by propositions 4.1 and 5.1."""
    grams = second_order if order == 2 else first_order
    game = (cosine_game if kind == "cosine" else dot_game)(grams)
    exact = np.asarray(sj.interactions(game, n_players=12, order=order).of_size(order))
    if kind == "dot":
        exact = dot_interactions(grams.qr).of_size(order)
    options = {"index": "STII" if order == 2 else "SV", "order": order, "method": "kernel-direct"}
    estimated = [
        sj.estimate(game, 12, budget=budget, key=1, refits=0, **options).of_size(order)
        for budget in (200, 3200, 4096)
    ]
    errors = [np.mean((found - exact) ** 2) / np.var(exact) for found in estimated]
    # A dot game is linear or quadratic, which the regression's own model holds from the start.
    assert errors[1] < errors[0] / 8 or errors[0] < 1e-16
    assert errors[2] < 1e-16


@pytest.fixture(scope="module")
def tiny():
    return sj.backbones.load("shapjax_tiny")


@pytest.fixture(scope="module")
def pictures():
    from skimage import data

    left, right, _ = data.stereo_motorcycle()
    return left[::4, ::4], right[::4, ::4]


@pytest.mark.parametrize("method", ["sam", "gram-sam", "kernel-sam", "kernel-shap"])
@pytest.mark.parametrize("order", [1, 2])
def test_every_method_explains_at_both_orders(tiny, pictures, method, order, tmp_path):
    budget = {"sam": None, "kernel-shap": 150}.get(method, 1500)
    found = sj.explain(tiny, *pictures, method=method, order=order, budget=budget)
    assert (found.method, found.order, found.backbone) == (method, order, "shapjax_tiny")
    assert found.evaluations <= (budget or 2)
    sums = sum(c.sum() for c in found.interactions.coefficients[1:])
    expected = abs(sums - (found.v_grand - found.v_empty))
    np.testing.assert_allclose(found.inefficiency, expected, atol=1e-9)
    if method.startswith("kernel"):
        assert found.inefficiency < 1e-5
    errors = found.interactions.standard_errors
    # At first order those of regressions cost little; at second 1,500 rows are fewer than pairs.
    assert (errors is not None) == (method == "gram-sam" or (method != "sam" and order == 1))
    assert found.heat_map("retrieved").shape == (128, 128)
    if order == 2:
        assert found.cross.shape == (found.n_query, found.n_retrieved)
        np.testing.assert_allclose(
            found.credit.sum(), sums, atol=1e-5
        )  # sharing pairs loses nothing
    else:
        assert found.query_players is None
        with pytest.raises(sj.ShapjaxError, match="no players"):
            found.heat("query")
        with pytest.raises(sj.ShapjaxError, match="first-order"):
            _ = found.cross
    found.save(tmp_path / "e.npz")
    back = sj.Explanation.load(tmp_path / "e.npz")
    np.testing.assert_array_equal(back.heat("retrieved"), found.heat("retrieved"))
    for own, saved in zip(errors or (), back.interactions.standard_errors or (), strict=True):
        np.testing.assert_array_equal(saved, own)
    assert (back.method, back.v_grand, back.seconds) == (method, found.v_grand, found.seconds)


def test_the_query_may_play_at_first_order(tiny, pictures):
    found = sj.explain(tiny, *pictures, order=1, side="query", budget=300)
    swapped = sj.explain(tiny, *pictures[::-1], order=1, side="retrieved", budget=300)
    assert found.retrieved_players is None
    np.testing.assert_allclose(found.heat("query"), swapped.heat("retrieved"), atol=1e-6)


def test_credit_of_pairs_is_the_shapley_value(x64, second_order):
    game = cosine_game(second_order)
    found = sj.interactions(game, n_players=12)
    labels = np.arange(6).reshape(2, 3)
    explanation = sj.Explanation("", "", found, labels, labels, 0, 0, 0, 0, 0)
    values = sj.interactions(game, "SV", n_players=12).singles
    np.testing.assert_allclose(explanation.credit, values, atol=1e-12)


@pytest.mark.parametrize("method", ["gram-sam", "kernel-sam"])
def test_progress_is_shown(tiny, pictures, method):
    calls = []
    sj.explain(
        tiny, *pictures, method=method, budget=1500, progress=lambda *args: calls.append(args)
    )
    assert calls
    assert calls[-1][0] == calls[-1][1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "magic"}, "gram-sam"),
        ({"order": 3}, "between 1 and 2"),
        ({"side": "left"}, "query, retrieved"),
        ({"side": "query"}, "both items"),
        ({"method": "gram-sam", "players": "superpixels"}, "kernel-shap"),
        ({"method": "vesm"}, "only order 1"),
        ({"method": "integrated-jacobians", "order": 1}, "only order 2"),
        ({"method": "vesm", "order": 1, "background": "blur"}, "no background"),
        ({"order": 1, "side": "query", "rather_than": "x.png"}, "only the query plays"),
        ({"players": "pixels", "method": "kernel-shap"}, "players is"),
        ({"players": "huge.png"}, "expected one of"),
        ({"players": (0, 3)}, "rows of the grid"),
        ({"players": {"query": "grid"}}, "one for 'query' and one for"),
        ({"background": []}, "empty list"),
        ({"background": "zero", "players": "grid"}, "black"),
        ({"background": {"query": ["blur", "mean"], "retrieved": ["mean"] * 3}}, "2 and 3"),
        ({"method": "sam", "budget": 10}, "closed form"),
        ({"budget": 3}, "at least"),
        ({"method": "kernel-sam", "budget": 3}, "at least"),
        ({"background": "nowhere.png"}, "does not exist"),
    ],
)
def test_bad_arguments_end_in_one_sentence(tiny, pictures, arguments, message):
    with pytest.raises(sj.ShapjaxError, match=message):
        sj.explain(tiny, *pictures, **arguments)


@pytest.mark.parametrize("order", [1, 2])
def test_patches_are_left_out(order, tmp_path):
    """Through ``explain``: the players, values and pictures of ``parts`` and ``explain_parts``."""
    model, pictures = toy_transformer(), bright(2)
    found = sj.explain(model, *pictures, background="drop", order=order)
    sides = [sj.parts(model, x, players="grid", background="drop") for x in pictures]
    expected = sj.explain_parts(*sides, order=order)
    assert (found.method, found.n_retrieved) == ("two-tower", 4)
    assert found.query_players is None or order == 2
    np.testing.assert_array_equal(found.credit, expected.credit)
    np.testing.assert_array_equal(found.retrieved_players, sides[1].labels)
    np.testing.assert_array_equal([found.query_picture, found.retrieved_picture], pictures)
    # Whole pictures and none of their patches, by the network itself.
    whole, empty = (
        [np.asarray(side(np.full((1, 4), shown)))[0] for side in sides] for shown in (True, False)
    )
    for ends, worth in ((whole, found.v_grand), (empty, found.v_empty)):
        cosine = ends[0] @ ends[1] / np.linalg.norm(ends[0]) / np.linalg.norm(ends[1])
        assert order == 1 or worth == pytest.approx(cosine, abs=1e-5)
    found.save(tmp_path / "explanation.npz")
    again = sj.Explanation.load(tmp_path / "explanation.npz")
    np.testing.assert_array_equal(again.query_picture, pictures[0])


def test_one_picture_may_lose_patches_and_the_other_be_blurred():
    model, pictures = toy_transformer(), bright(2)
    background = {"query": "drop", "retrieved": "blur"}
    found = sj.explain(model, *pictures, background=background)
    sides = [
        sj.parts(model, x, players="grid", background=background[side])
        for x, side in zip(pictures, background, strict=True)
    ]
    np.testing.assert_array_equal(found.cross, sj.explain_parts(*sides).cross)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "kernel-shap"}, "method kernel-shap .* two-tower explains"),
        ({"bilinear": True}, "bilinear"),
        ({"order": 1, "rather_than": "x.png"}, "rather_than"),
        ({"players": "superpixels"}, "whole patches"),
        ({"order": 1, "side": "left"}, "query, retrieved"),
        ({"background": ["drop", "blur"]}, "without other backgrounds"),
    ],
)
def test_what_does_not_go_with_leaving_patches_out(arguments, message):
    with pytest.raises(sj.ShapjaxError, match=message):
        sj.explain(toy_transformer(), *bright(2), **{"background": "drop", **arguments})


def test_a_network_without_tokens_leaves_none_out(tiny, pictures):
    with pytest.raises(sj.ShapjaxError, match="no tokens to leave out"):
        sj.explain(tiny, *pictures, players="grid", background="drop")


def test_not_an_explanation(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    with pytest.raises(sj.ShapjaxError, match="not an explanation"):
        sj.Explanation.load(tmp_path / "x.npz")
