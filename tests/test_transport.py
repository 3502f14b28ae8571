"""Projecting regions and labels from one picture to the other."""

import numpy as np
import pytest

import shapjax as sj
from shapjax.explainers.towers import across
from shapjax.explainers.transport import region_shares, sinkhorn
from shapjax.games.players import grid


def explanation(cross, singles=None, sizes=((2, 2), (2, 2))):
    cross = np.asarray(cross, float)
    labels = [grid(8, 8, *size) for size in sizes]
    n = sum(cross.shape)
    alone = np.zeros(n) if singles is None else singles
    found = sj.Interactions((np.zeros(1), alone, across(cross)), "STII", n)
    return sj.Explanation("", "", found, *labels, 1.0, 1.0, 0.0, 1, 0.0)


@pytest.fixture
def swap():
    """Left columns of the query match right columns of the retrieved picture, and conversely."""
    return explanation(np.eye(4)[[1, 0, 3, 2]])


def test_sinkhorn_finds_the_plan_with_the_right_odds():
    """A plan keeps the kernel's cross ratios; two by two its corner solves a quadratic."""
    kernel = np.array([[1.0, 2.0], [3.0, 4.0]])
    plan = sinkhorn(kernel, np.array([0.4, 0.6]), np.array([0.3, 0.7]))
    np.testing.assert_allclose(plan.sum(axis=1), [0.4, 0.6], atol=1e-9)
    np.testing.assert_allclose(plan.sum(axis=0), [0.3, 0.7], atol=1e-9)
    # x (0.3 + x) / ((0.4 - x) (0.3 - x)) = 1 * 4 / (2 * 3)
    x = max(np.roots([1 - 2 / 3, 0.3 + 2 / 3 * 0.7, -2 / 3 * 0.12]))
    np.testing.assert_allclose(plan[0, 0], x, atol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1.0]], [1.0, 2.0], [3.0]), "expected \\[m, n\\]"),
        (([[-1.0]], [1.0], [1.0]), "non-negative"),
        (([[1.0]], [1.0], [2.0]), "one positive total"),
        ((np.eye(2), [0.5, 0.5], [0.1, 0.9]), "no plan"),
    ],
)
def test_sinkhorn_refuses(arguments, message):
    with pytest.raises(sj.ShapjaxError, match=message):
        sinkhorn(*arguments, steps=50)


def test_a_plan_has_the_first_order_maps_as_sums():
    rng = np.random.default_rng(0)
    why = explanation(rng.random((4, 6)) - 0.2, rng.random(10), ((2, 2), (2, 3)))
    plan = sj.transport_plan(why)
    for axis, side in ((1, "query"), (0, "retrieved")):
        heat = np.maximum(why.heat(side), 0)
        np.testing.assert_allclose(plan.sum(axis=axis), heat / heat.sum(), atol=1e-7)
    assert (plan >= 0).all()
    # It moves more credit than any mixing of the maps, and the more the cooler it is.
    free = np.outer(plan.sum(axis=1), plan.sum(axis=0))
    warm = sj.transport_plan(why, temperature=1.0)
    assert (free * why.cross).sum() < (warm * why.cross).sum() < (plan * why.cross).sum()
    from scipy.optimize import linprog

    sums = [np.kron(np.eye(4), np.ones(6)), np.kron(np.ones(4), np.eye(6))]
    limits = np.concatenate([plan.sum(axis=1), plan.sum(axis=0)])
    best = -linprog(-why.cross.ravel(), A_eq=np.vstack(sums), b_eq=limits).fun
    cool = sj.transport_plan(why, temperature=0.02)
    np.testing.assert_allclose((cool * why.cross).sum(), best, rtol=0.01)
    with pytest.raises(sj.ShapjaxError, match="nothing to transport"):
        sj.transport_plan(explanation(-np.ones((4, 4))))
    with pytest.raises(sj.ShapjaxError, match=r"at least 0\.01"):
        sj.transport_plan(why, temperature=0)


def test_regions_are_projected_there_and_back(swap):
    left = np.zeros((8, 8))
    left[:, :4] = 1
    for region in ({"mask": left.astype(bool)}, {"mask": left[::4, ::4]}, {"box": (0, 0, 0.5, 1)}):
        arrived = sj.project(swap, **region)
        np.testing.assert_allclose(arrived, 1 - left)
        np.testing.assert_allclose(sj.project(swap, source="retrieved", mask=arrived), left)
        moved = sj.project(swap, **region, plan=True)
        np.testing.assert_allclose(moved, (1 - left) / 4, atol=1e-4)
    corner = sj.project(swap, point=(0.9, 0.1))
    np.testing.assert_allclose(corner, left * (np.arange(8) < 4)[:, None])
    np.testing.assert_allclose(
        region_shares(swap, "query", box=(0.25, 0.25, 0.625, 1)), [0.25, 0.125, 0.5, 0.25]
    )


def test_labels_are_propagated(swap):
    labels = np.array([[5, 2], [5, 9]], np.uint8)
    moved = sj.propagate_labels(swap, labels)
    assert moved.dtype == np.uint8
    np.testing.assert_array_equal(moved[::4, ::4], [[2, 5], [9, 5]])
    back = sj.propagate_labels(swap, moved, source="retrieved")
    np.testing.assert_array_equal(back[::4, ::4], labels)
    np.testing.assert_array_equal(sj.propagate_labels(swap, labels, plan=True), moved)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "one region"),
        ({"point": (0, 0), "box": (0, 0, 1, 1)}, "one region"),
        ({"point": (0, 2)}, "fractions"),
        ({"box": (0, 0, 1)}, "fractions"),
        ({"box": (1, 0, 0, 1)}, "left < right"),
        ({"mask": np.zeros((3, 3), bool)}, "covers no part"),
        ({"mask": np.full((3, 3), 2)}, "in \\[0, 1\\]"),
        ({"mask": "x"}, "Booleans"),
        ({"point": (0, 0), "source": "left"}, "query, retrieved"),
    ],
)
def test_bad_regions(swap, arguments, message):
    with pytest.raises(sj.ShapjaxError, match=message):
        sj.project(swap, **arguments)


def test_labels_must_be_whole_numbers(swap):
    with pytest.raises(sj.ShapjaxError, match="whole numbers"):
        sj.propagate_labels(swap, np.zeros((2, 2)))
