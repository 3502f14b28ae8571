"""Metrics of explanations on cases worked by hand."""

import numpy as np
import pytest

import shapjax as sj
from shapjax.evaluate import metrics


def grey(values):
    """A picture [H, W, 3] of grey values."""
    return np.repeat(np.asarray(values, float)[..., None], 3, axis=2)


def brightness(pictures):
    """A similarity that can be counted by hand: the mean of the red channel."""
    return pictures[..., 0].mean(axis=(1, 2))


HEAT = np.array([[4.0, 1.0], [3.0, 2.0]])


def test_ranks_and_ties_in_reading_order():
    np.testing.assert_array_equal(metrics.ranks(HEAT), [[0, 3], [1, 2]])
    tied = np.array([[1.0, 2.0], [2.0, 1.0]])
    np.testing.assert_array_equal(metrics.ranks(tied), [[2, 0], [1, 3]])
    # Exactly as many as asked for, though three pixels share the second place.
    found = metrics.top_pixels(np.array([[5.0, 1.0], [1.0, 1.0]]), 2)
    np.testing.assert_array_equal(found, [[True, True], [False, False]])


def test_a_map_that_is_equal_everywhere_is_scored_in_reading_order():
    np.testing.assert_array_equal(metrics.ranks(np.zeros((2, 2))), [[0, 1], [2, 3]])
    assert metrics.top_share(np.zeros((10, 10)), 0.3).sum() == 30
    assert metrics.top_share(np.zeros((10, 10)), 0.3)[:3].all()


def test_shares_are_rounded_to_whole_pixels():
    # 0.3 of 9 pixels is 2.7.
    assert metrics.top_share(np.arange(9.0).reshape(3, 3), 0.3).sum() == 3
    assert not metrics.top_share(HEAT, 0.0).any()
    assert metrics.top_share(HEAT, 1.0).all()


@pytest.mark.parametrize(
    ("heat", "share", "message"),
    [
        (np.array([[np.nan, 1.0]]), 0.3, "1 entries that are no numbers"),
        (np.zeros(4), 0.3, "expected finite numbers"),
        (HEAT, 1.5, "from 0 to 1"),
    ],
)
def test_maps_that_rank_nothing_are_refused(heat, share, message):
    with pytest.raises(sj.ShapjaxError, match=message):
        metrics.top_share(heat, share)


def test_maps_of_any_real_dtype_are_ranked_alike():
    shown = [[3, 2], [1, 0]]
    np.testing.assert_array_equal(metrics.ranks(np.array([[0, 5], [6, 9]], np.uint8)), shown)
    # Equal in reading order; the lowest whole number has no opposite of its own.
    np.testing.assert_array_equal(metrics.ranks(np.array([[False, True]])), [[1, 0]])
    np.testing.assert_array_equal(metrics.ranks(np.array([[-(2**31), 1]], np.int32)), [[1, 0]])


def of_a_similarity(pictures, *others):
    return np.zeros(len(pictures))


PICTURES = (grey(HEAT), grey(HEAT))
BLANKS = (grey(np.zeros((2, 2))), grey(np.zeros((2, 2))))
MASK = np.array([[True, False], [False, False]])


def test_masks_may_be_of_the_numbers_0_and_1():
    shown = []

    def similarity(queries, others):
        shown.append((queries, others))
        return np.zeros(1)

    for kind in (bool, np.uint8, int, float):
        mask, found = MASK.astype(kind), (~MASK).astype(kind)
        metrics.second_order_faithfulness(similarity, PICTURES, BLANKS, mask, found)
        np.testing.assert_equal(shown[-1], shown[0])
        assert metrics.mean_iou(mask, found) == 0
        assert metrics.pointing_game(HEAT, found, mask) == 1
        blank = metrics.censored(PICTURES[0], mask, BLANKS[0])
        np.testing.assert_array_equal(blank[..., 0], [[0, 1], [3, 2]])


ROW = np.ones((1, 3))
LARGE = MASK * 7
EMPTY = np.full((2, 2), np.nan)
BOTH = (PICTURES, BLANKS)


@pytest.mark.parametrize(
    ("metric", "given", "message"),
    [
        (metrics.faithfulness, (of_a_similarity, PICTURES[0], ROW, PICTURES[0]), r"a map .*\(1, 3"),
        (metrics.deletion, (of_a_similarity, PICTURES[0], ROW, PICTURES[0]), r"a map .*\(1, 3"),
        (metrics.insertion, (of_a_similarity, PICTURES[0], EMPTY, PICTURES[0]), "4 entries"),
        (metrics.pointing_game, (EMPTY, MASK), "a map .* 4 entries that are no numbers"),
        (metrics.pointing_game, (HEAT, ROW), r"a mask has shape \(1, 3\)"),
        (metrics.pointing_game, (HEAT, MASK, LARGE), "1 entries other than 0 and 1"),
        (metrics.iou, (LARGE, MASK), "1 entries other than 0 and 1"),
        (metrics.mean_iou, (MASK, MASK, ROW), r"expected Boolean \(2, 2\)"),
        (metrics.censored, (PICTURES[0], ROW, PICTURES[0]), r"a mask has shape \(1, 3\)"),
        (
            metrics.second_order_faithfulness,
            (of_a_similarity, *BOTH, MASK, LARGE),
            "1 entries other than 0 and 1",
        ),
        (metrics.second_order_faithfulness, (of_a_similarity, *BOTH, ROW, MASK), "a mask has"),
    ],
)
def test_maps_and_masks_that_do_not_fit_are_refused(metric, given, message):
    with pytest.raises(sj.ShapjaxError, match=message):
        metric(*given)


def test_first_order_faithfulness():
    picture, blank = grey([[1.0, 0.8], [0.4, 0.2]]), grey(np.zeros((2, 2)))
    # A quarter of four pixels: the upper left goes, and the mean falls by 1 / 4.
    found = metrics.faithfulness(brightness, picture, HEAT, blank, share=0.25)
    assert found == pytest.approx(0.25)
    # Half of them: also the lower left.
    found = metrics.faithfulness(brightness, picture, HEAT, blank, share=0.5)
    assert found == pytest.approx((1.0 + 0.4) / 4)
    # v1 replaces by the mean colour, 0.6: the upper left falls from 1 to 0.6.
    found = metrics.faithfulness(brightness, picture, HEAT, grey(np.full((2, 2), 0.6)), share=0.25)
    assert found == pytest.approx(0.1)


def test_second_order_faithfulness_keeps_the_object_and_what_it_was_projected_to():
    query, retrieved = grey([[1.0, 1.0], [0.0, 0.0]]), grey([[0.0, 1.0], [0.0, 1.0]])
    blanks = grey(np.full((2, 2), 0.5)), grey(np.zeros((2, 2)))
    seen = []

    def similarity(queries, others):
        seen.extend([queries[0, ..., 0], others[0, ..., 0]])
        return np.array([0.7])

    mask = np.array([[True, False], [False, False]])
    found = np.array([[False, True], [False, False]])
    score = metrics.second_order_faithfulness(similarity, (query, retrieved), blanks, mask, found)
    assert score == pytest.approx(0.7)
    np.testing.assert_array_equal(seen[0], [[1.0, 0.5], [0.5, 0.5]])
    np.testing.assert_array_equal(seen[1], [[0.0, 1.0], [0.0, 0.0]])
    empty = np.zeros((2, 2), bool)
    for pair in ((empty, found), (mask, empty)):
        assert np.isnan(
            metrics.second_order_faithfulness(similarity, (query, retrieved), blanks, *pair)
        )


TRUE = np.array([[1, 1, 0, 0]], bool)


def test_mean_iou_by_hand():
    found = np.array([[0, 1, 1, 0]], bool)
    # The object: 1 of 3 pixels; the rest: 1 of 3.
    assert metrics.iou(found, TRUE) == pytest.approx(1 / 3)
    assert metrics.mean_iou(found, TRUE) == pytest.approx(1 / 3)
    assert metrics.mean_iou(TRUE, TRUE) == 1
    assert metrics.mean_iou(np.array([[1, 0, 0, 0]], bool), TRUE) == pytest.approx(
        (1 / 2 + 2 / 3) / 2
    )


def test_void_pixels_are_passed_over():
    found = np.array([[0, 1, 1, 0]], bool)
    void = np.array([[0, 0, 1, 0]], bool)
    # Without the third pixel: the object 1 of 2, the rest 1 of 2.
    assert metrics.mean_iou(found, TRUE, void) == pytest.approx(1 / 2)
    # The highest pixel is void, the next lies on the object.
    heat = np.array([[2.0, 1.0, 9.0, 0.0]])
    assert metrics.pointing_game(heat, TRUE, void) == 1
    assert metrics.pointing_game(heat, TRUE) == 0


def test_void_pixels_are_ranked_and_then_find_nothing():
    """TRUE is the first two pixels: of the two that are kept one is void."""
    void = np.array([[0, 0, 1, 0]], bool)
    found = metrics.top_pixels(np.array([[2.0, 1.0, 9.0, 0.0]]), 2)
    assert found.tolist() == [[True, False, True, False]]
    assert metrics.iou(found, TRUE, void) == 1 / 2
    # Of the rest, pixels 1 and 3 without the void, only the last is there.
    assert metrics.mean_iou(found, TRUE, void) == pytest.approx((1 / 2 + 1 / 2) / 2)


def test_empty_and_full_masks():
    empty, found = np.zeros((1, 4), bool), np.array([[0, 1, 1, 0]], bool)
    assert np.isnan(metrics.mean_iou(found, empty))
    assert np.isnan(metrics.iou(found, TRUE, TRUE))  # the object is void altogether
    assert np.isnan(metrics.pointing_game(HEAT, np.zeros((2, 2), bool)))
    # Nothing but the object: the rest has no union, and the object alone counts.
    assert metrics.mean_iou(~empty, ~empty) == 1


def test_pointing_game_shares_ties():
    heat = np.array([[3.0, 1.0, 3.0, 3.0]])
    assert metrics.pointing_game(heat, TRUE) == pytest.approx(1 / 3)
    assert metrics.pointing_game(np.zeros((1, 4)), TRUE) == pytest.approx(1 / 2)


def test_deletion_and_insertion_curves():
    picture, blank = grey([[1.0, 0.8], [0.4, 0.2]]), grey(np.zeros((2, 2)))
    curve = metrics.deletion(brightness, picture, HEAT, blank, steps=4)
    # In the order of HEAT: 1.0, 0.4, 0.2, 0.8 go.
    np.testing.assert_allclose(curve.shares, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(curve.similarities, [0.6, 0.35, 0.25, 0.2, 0])
    assert curve.area == pytest.approx((0.3 + 0.35 + 0.25 + 0.2) / 4)
    back = metrics.insertion(brightness, picture, HEAT, blank, steps=4)
    np.testing.assert_allclose(back.similarities, [0, 0.25, 0.35, 0.4, 0.6])
    # Brightness is additive, so what is brought back and what is left sum to the whole.
    assert curve.area + back.area == pytest.approx(0.6)


def test_inefficiency_of_both_orders():
    def explanation(coefficients, index):
        n = len(coefficients[1])
        interactions = sj.Interactions(
            tuple(np.asarray(part, float) for part in coefficients), index, n, None, {}
        )
        return sj.Explanation("sam", "net", interactions, None, None, 0.9, 0.8, 0.1, 1, 0.0)

    # 0.1 + 0.2 is 0.4 short of v(N) - v(empty) = 0.7; pairs count as well.
    assert metrics.inefficiency(explanation(([9.0], [0.1, 0.2]), "SV")) == pytest.approx(0.4)
    second = explanation(([9.0], [0.1, 0.2], [0.5]), "STII")
    assert metrics.inefficiency(second) == pytest.approx(0.1)
    assert np.isnan(metrics.inefficiency(explanation(([9.0], [0.1, 0.2]), "VESM")))
