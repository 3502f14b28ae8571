"""Properties over shapes, dtypes, numbers of players and budgets, drawn by hypothesis."""

import math

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import shapjax as sj
from shapjax.evaluate import metrics
from shapjax.explainers.batch import explained_maps
from shapjax.games.feature_pairs import FeaturePair
from shapjax.games.images import load_image

FAST = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
COMPILED = settings(
    max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)

SAMPLERS = ("permutation", "shap-iq", "svarm-iq")
KERNELS = ("kernel-direct", "kernel-weighting")

INDICES = st.sampled_from([("SV", 1), ("STII", 1), ("STII", 2), ("STII", 3)])
DTYPES = st.sampled_from([np.float32, np.float64, np.int32, np.bool_])
ANY_GAME = {
    "n": st.integers(1, 7),
    "index": INDICES,
    "budget": st.integers(0, 140),
    "dtype": DTYPES,
    "seed": st.integers(0, 1000),
}


@FAST
@given(method=st.sampled_from(SAMPLERS), **ANY_GAME)
def test_an_estimate_keeps_its_budget_and_is_exact_when_that_covers_everything(
    n, method, index, budget, dtype, seed
):
    require_budget_kept(n, method, index, budget, dtype, seed)


@settings(COMPILED, max_examples=16)
@given(
    method=st.sampled_from(KERNELS),
    index=st.sampled_from([("SV", 1), ("STII", 2)]),
    # Each number of rows is compiled anew: too few, some, and all coalitions.
    budget=st.sampled_from([1, 13, 16]),
    seed=st.integers(0, 1000),
)
def test_a_kernel_regression_does_likewise(method, index, budget, seed):
    require_budget_kept(4, method, index, budget, np.float32, seed)


@pytest.mark.slow
@FAST
@given(method=st.sampled_from(KERNELS), **ANY_GAME)
def test_a_kernel_regression_of_any_size_does_likewise(n, method, index, budget, dtype, seed):
    require_budget_kept(n, method, index, budget, dtype, seed)


def require_budget_kept(n, method, index, budget, dtype, seed):
    name, order = index
    table = np.random.default_rng(seed).integers(0, 2, 1 << n).astype(dtype)
    asked = []

    def game(masks):
        asked.append(len(masks))
        return table[masks @ (1 << np.arange(n))]

    refused = None
    try:
        found = sj.estimate(
            game, n, name, order, budget, method, key=seed, traceable=False, chunk_size=16
        )
    except sj.ShapjaxError as error:
        refused = str(error)
    if refused is not None:
        # Only an order above the players, or a budget below what the method starts with.
        assert order > n or ("budget" in refused and budget < 1 << n)
        return
    assert sum(asked) <= budget
    assert found.stats["evaluations"] <= budget
    for size, part in enumerate(found.coefficients):
        assert part.shape == (math.comb(n, size),)
        assert np.isfinite(part).all()
        assert part.dtype == (np.float32 if dtype == np.float32 else np.float64)
    if budget >= 1 << n:
        exact = sj.interactions(table.astype(np.float32), name, order)
        for part, other in zip(found.coefficients, exact.coefficients, strict=True):
            np.testing.assert_allclose(part, other, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "order", "efficient"),
    [
        ("sam", 2, False),
        ("vesm", 1, False),
        pytest.param("gram-sam", 2, True, marks=pytest.mark.slow),
        pytest.param("kernel-sam", 1, True, marks=pytest.mark.slow),
    ],
)
@COMPILED
@given(
    height=st.integers(1, 3),
    width=st.integers(1, 3),
    channels=st.integers(1, 4),
    backgrounds=st.integers(1, 2),
    budget=st.integers(90, 130),
    pairs=st.integers(1, 3),
    dtype=st.sampled_from([np.float16, np.float32]),
)
def test_pairs_of_maps_of_any_shape(
    method, order, efficient, height, width, channels, backgrounds, budget, pairs, dtype
):
    rng = np.random.default_rng(budget)
    maps = rng.random((2, pairs, height, width, channels)).astype(dtype)
    blanks = rng.random((2, pairs, backgrounds, height, width, channels)).astype(dtype)
    first = None if order == 1 else blanks[0]
    keys = jax.random.split(jax.random.key(budget), pairs)
    found, similarity, finite = explained_maps(
        FeaturePair(maps[0], maps[1], first, blanks[1]),
        keys,
        method=method,
        order=order,
        budget=budget * backgrounds,
    )
    n = height * width * order
    assert [part.shape for part in found.coefficients] == [
        (pairs, math.comb(n, size)) for size in range(order + 1)
    ]
    assert np.asarray(finite).all()
    assert (np.abs(similarity) <= 1 + 1e-5).all()
    assert all(np.isfinite(part).all() for part in found.coefficients)
    if efficient:
        total = sum(np.asarray(part).sum(axis=1) for part in found.coefficients[1:])
        gain = found.stats["v_grand"] - found.stats["v_empty"]
        np.testing.assert_allclose(total, gain, atol=1e-4)
    assert (np.asarray(found.stats["evaluations"]) <= budget * backgrounds).all()


SHAPES = st.tuples(st.integers(1, 8), st.integers(1, 8))


@FAST
@given(
    data=st.data(),
    shape=SHAPES,
    kind=st.sampled_from([np.float32, np.float64, np.int32, np.uint8, np.bool_]),
)
def test_a_share_of_the_highest_pixels_is_as_large_as_it_says(data, shape, kind):
    elements = st.floats(-9, 9, width=32) if np.dtype(kind).kind == "f" else None
    heat = data.draw(arrays(kind, shape, elements=elements))
    share = data.draw(st.floats(0, 1))
    chosen = metrics.top_share(heat, share)
    assert chosen.sum() == round(share * heat.size)
    if chosen.any() and not chosen.all():
        assert heat[chosen].min() >= heat[~chosen].max()
    assert sorted(metrics.ranks(heat).ravel()) == list(range(heat.size))
    # The order of pixels is all that counts.
    np.testing.assert_array_equal(metrics.ranks(heat.astype(float) * 2), metrics.ranks(heat))


@FAST
@given(data=st.data(), shape=SHAPES)
def test_overlaps_lie_between_nothing_and_everything(data, shape):
    found, true, void = (data.draw(arrays(bool, shape)) for _ in range(3))
    kind = data.draw(st.sampled_from([np.uint8, np.int32, np.float32]))
    numbers = [mask.astype(kind) for mask in (found, true, void)]
    np.testing.assert_equal(metrics.mean_iou(*numbers), metrics.mean_iou(found, true, void))
    for one in (metrics.iou(found, true, void), metrics.mean_iou(found, true, void)):
        assert math.isnan(one) == (not (true & ~void).any())
        assert math.isnan(one) or 0 <= one <= 1
    if (true & ~void).any():
        assert metrics.iou(true, true, void) == 1
        assert metrics.mean_iou(true, true, void) == 1


@FAST
@given(data=st.data(), side=st.integers(1, 6), steps=st.integers(1, 12))
def test_curves_begin_and_end_where_they_must(data, side, steps):
    heat = data.draw(arrays(np.float64, (side, side), elements=st.floats(-1, 1)))
    picture, blank = np.ones((side, side, 3)), np.zeros((side, side, 3))

    def mean(pictures):
        return pictures.mean(axis=(1, 2, 3))

    down = metrics.deletion(mean, picture, heat, blank, steps=steps)
    up = metrics.insertion(mean, picture, heat, blank, steps=steps)
    assert (down.similarities[0], down.similarities[-1]) == (1, 0)
    np.testing.assert_allclose(down.similarities + up.similarities, 1)
    assert (np.diff(up.similarities) >= 0).all()
    np.testing.assert_allclose(down.area + up.area, 1)


def fits(value, dtype):
    """Whether an array can hold a number."""
    if dtype.kind == "f":
        return True
    return math.isfinite(value) and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max


@FAST
@given(
    data=st.data(),
    shape=st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)),
    flat=st.booleans(),
    kind=st.sampled_from(["u1", "u2", "i4", "f4", "f8", "f2", "?", "c8", "O", "U3"]),
)
def test_any_array_is_a_picture_or_refused(data, shape, flat, kind):
    shape = shape[:2] if flat else shape
    array = np.zeros(shape, kind)
    if np.dtype(kind).kind in "uif" and array.size:
        value = data.draw(st.sampled_from([0, 1, 1, math.nan, math.inf, -1, 300]))
        if fits(value, array.dtype):
            array.flat[0] = value
    try:
        image = load_image(array)
    except sj.ImageError:
        return
    assert array.dtype.kind != "f" or (array.min() >= 0 and array.max() <= 1)
    assert image.mode == "RGB"
    assert image.size == shape[1::-1]
