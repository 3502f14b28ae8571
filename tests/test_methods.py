"""Each method is what it says: closed forms, brute force and axioms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import shapjax as sj
from shapjax.explainers.activation_maps import gradcam, vesm
from shapjax.explainers.gradients import integrated_gradients, legendre, pooled_cosine
from shapjax.explainers.ig_sam import ig_sam, on_path, path_integral
from shapjax.explainers.integrated_jacobians import integrated_jacobians
from shapjax.explainers.methods import _squared_differences
from shapjax.explainers.partition_shap import Rectangle, partition_shap
from shapjax.explainers.windows import (
    Windows,
    joint_sbsm,
    outside,
    painted,
    sbsm,
    shares,
    sliding_windows,
)
from shapjax.games.pooled import (
    Grams,
    cosine_game,
    dot_game,
    gram_matrices,
    pooled_rows,
    unmasked_row,
)


def feature_maps(seed, height, width, channels=16):
    rng = np.random.default_rng(seed)
    maps = np.maximum(rng.normal(size=(2, height, width, channels)), 0)
    return jnp.asarray(maps[0]), jnp.asarray(0.4 * maps[1])


def feature_rows(seed, height, width):
    return pooled_rows(*feature_maps(seed, height, width))


@pytest.fixture
def second_order(x64):
    return gram_matrices(feature_rows(0, 2, 3), feature_rows(1, 3, 2))


@pytest.fixture
def first_order(x64):
    whole = unmasked_row(jnp.asarray(np.random.default_rng(2).random((2, 2, 16))))
    return gram_matrices(whole, feature_rows(3, 3, 4))


def path(nodes, order):
    return on_path(*map(jnp.asarray, legendre(nodes)), order)


def worths(game, n):
    ends = np.stack([np.zeros(n, bool), np.ones(n, bool)])
    return np.asarray(game(ends))


@pytest.fixture(scope="module")
def tiny():
    return sj.backbones.load("shapjax_tiny")


@pytest.fixture(scope="module")
def pictures():
    from skimage import data

    left, right, _ = data.stereo_motorcycle()
    return left[::4, ::4], right[::4, ::4]


# IG SAM


def test_ig_sam_is_the_integrated_gradient_of_the_soft_mask(first_order):
    game = cosine_game(first_order)
    (found,) = path_integral(first_order, *path(40, 1), order=1)
    plain = integrated_gradients(lambda m: game(m[None])[0], jnp.ones(12), jnp.zeros(12), 40)
    np.testing.assert_allclose(found, plain, atol=1e-12)
    empty, grand = worths(game, 12)
    np.testing.assert_allclose(found.sum(), grand - empty, atol=1e-12)


def test_ig_sam_is_integrated_hessians_of_the_soft_mask(second_order):
    """Against a double integral over alpha and beta of JAX's own Hessian."""
    game = cosine_game(second_order)
    soft = lambda m: game(m[None])[0]  # noqa: E731
    t, w = legendre(24)
    a, b = (x.ravel() for x in np.meshgrid(t, t))
    weight = np.outer(w, w).ravel()
    points = jnp.asarray(a * b)[:, None] * jnp.ones(12)
    hessians = jax.jit(jax.vmap(jax.hessian(soft)))(points)
    slopes = jax.jit(jax.vmap(jax.grad(soft)))(points)
    matrix = jnp.einsum("b,bij->ij", weight * a * b, hessians) + jnp.diag(weight @ slopes)
    singles, pairs = path_integral(second_order, *path(200, 2), order=2)
    np.testing.assert_allclose(singles, jnp.diagonal(matrix), atol=1e-7)
    np.testing.assert_allclose(pairs, 2 * matrix[np.triu_indices(12, 1)], atol=1e-7)
    empty, grand = worths(game, 12)
    np.testing.assert_allclose(singles.sum() + pairs.sum(), grand - empty, atol=1e-7)


def test_sampled_ig_sam_agrees_with_the_integral(second_order, first_order):
    for grams, order in ((second_order, 2), (first_order, 1)):
        found = ig_sam(grams, budget=2002, key=jax.random.key(0))
        assert found.stats["evaluations"] <= 2002
        assert found.index == ("IG" if order == 1 else "IH")
        sure = path_integral(grams, *path(400, order), order=order)
        for part, error, truth in zip(
            found.coefficients[1:], found.standard_errors[1:], sure, strict=True
        ):
            z = np.asarray((part - truth) / error)
            assert np.mean(z**2) < 4
            assert np.abs(z).max() < 7
        empty, grand = worths(cosine_game(grams), 12)
        total = sum(c.sum() for c in found.coefficients[1:])
        np.testing.assert_allclose(total, grand - empty, atol=1e-5)
    with pytest.raises(sj.ShapjaxError, match="at least 22"):
        ig_sam(first_order, budget=21, key=jax.random.key(0))


def test_ig_sam_gives_a_dummy_nothing(x64):
    rows = feature_rows(4, 2, 3).at[3].set(0)  # player 2 looks like its background
    grams = gram_matrices(rows, feature_rows(5, 2, 3))
    found = ig_sam(grams, budget=500, key=jax.random.key(0))
    np.testing.assert_allclose(found.pairs[2], 0, atol=1e-14)
    np.testing.assert_allclose(found.singles[2], 0, atol=1e-14)


def test_integrated_hessians_are_half_of_shapley_taylor_in_a_dot_game(second_order):
    """A.14, by enumeration: the constant is the integral of 2 alpha beta, one half."""

    def unit(gram):  # a squared norm of one, whatever the mask: the cosine is the dot product
        return jnp.zeros_like(gram).at[0, 0].set(1)

    dot = Grams(unit(second_order.qq), second_order.qr, unit(second_order.rr))
    _, pairs = path_integral(dot, *path(200, 2), order=2)
    exact = sj.interactions(dot_game(second_order), n_players=12)
    np.testing.assert_allclose(pairs, 0.5 * exact.of_size(2), atol=1e-7)


# GradCAM and VESM


def test_gradcam_is_one_sample_of_integrated_gradients_where_gradients_are_invariant(x64):
    """Proposition 4.2, with a background."""
    x, background = feature_maps(0, 3, 4)
    other = jnp.asarray(np.random.default_rng(1).random(16))
    similarity = lambda y: pooled_cosine(y.mean(axis=(0, 1)), other)  # noqa: E731
    one_sample = ((x - background) * jax.grad(similarity)(x)).sum(axis=-1)
    np.testing.assert_allclose(gradcam(similarity, x, background), one_sample, atol=1e-14)


def blind_on_the_left(x, y):
    """The game of A.4: cos(GAP(x), GAP(y M)), M zero on the left half of y."""
    seen = jnp.arange(y.shape[1])[None, :, None] >= y.shape[1] // 2
    return pooled_cosine(x.mean(axis=(0, 1)), jnp.where(seen, y, 0).mean(axis=(0, 1)))


def test_gradcam_breaks_the_dummy_axiom_and_ig_sam_and_kernel_sam_do_not(x64):
    x, y = feature_maps(0, 2, 4)[0], feature_maps(1, 2, 4)[0]
    background = feature_maps(2, 2, 4)[1]
    found = gradcam(lambda z: blind_on_the_left(x, z), y, jnp.zeros_like(y))
    assert np.abs(found[:, :2]).max() > 0.3 * np.abs(found).max()
    hidden = jnp.arange(4)[None, :, None] < 2
    rows = pooled_rows(jnp.where(hidden, 0, y), jnp.where(hidden, 0, background))
    grams = gram_matrices(unmasked_row(x), rows)
    np.testing.assert_allclose(
        cosine_game(grams)(np.ones((1, 8), bool))[0], blind_on_the_left(x, y), atol=1e-12
    )
    (integrated,) = path_integral(grams, *path(40, 1), order=1)
    options = {"index": "SV", "method": "kernel-direct", "key": 0}
    kernel = sj.estimate(cosine_game(grams), 8, budget=2**8, **options).singles
    for values in (integrated, kernel):
        values = np.asarray(values).reshape(2, 4)
        assert np.abs(values[:, :2]).max() < 1e-10
        assert np.abs(values[:, 2:]).max() > 0.02


def test_vesm_by_its_formulas(x64):
    """In NumPy, the score's gradient by hand: (w - f (f w)) / (|u| h w) at every location."""
    x = np.asarray(feature_maps(3, 3, 4)[0])
    other = np.random.default_rng(4).random(16)
    u = x.mean(axis=(0, 1))
    f, g = u / np.linalg.norm(u), other / np.linalg.norm(other)
    w = 1 - np.abs(f - g)
    channel = (w - f * (f @ w)) / np.linalg.norm(u) / 12
    expected = np.maximum((x * channel).sum(axis=-1), 0)
    np.testing.assert_allclose(vesm(jnp.asarray(x), jnp.asarray(other)), expected, atol=1e-14)


# SBSM


def test_windows_slide_over_the_whole_picture():
    windows = sliding_windows(224)
    assert windows.side == 20
    assert len(windows.corners) == 69**2
    np.testing.assert_array_equal(windows.corners[1] - windows.corners[0], [0, 3])
    small = sliding_windows(128)
    assert painted(small, np.arange(len(small.corners)), np.ones(len(small.corners))).min() >= 1


def toy_pixels(size):
    """A similarity that reads the pixels of one square, and one that pairs two squares."""
    y, x = np.mgrid[:size, :size]
    square = ((y >= 4) & (y < 8) & (x >= 6) & (x < 10)).ravel()
    return square


def test_sbsm_by_its_formulas():
    """Eq. 10 window by window in NumPy; by hand: what matters gets a positive weight."""
    size, square = 16, toy_pixels(16)
    game = jax.jit(lambda masks: (masks * square).sum(axis=1) / 16.0)
    found, errors, evaluations = sbsm(game, size, budget=5000, key=jax.random.key(0), chunk_size=8)
    windows = sliding_windows(size)
    total, covered = np.zeros((size, size)), np.zeros((size, size))
    for top, left in windows.corners:
        mask = np.zeros((size, size))
        mask[top : top + windows.side, left : left + windows.side] = 1
        kept = (1 - mask).ravel() * square
        total += max(1.0 - kept.sum() / 16, 0) * mask
        covered += mask
    assert evaluations == len(windows.corners) + 1
    np.testing.assert_allclose(found, total / covered, atol=1e-6)
    assert not errors.any()  # all windows were drawn
    assert found[5, 7] > 0
    assert np.unravel_index(found.argmax(), found.shape)[0] in range(4, 8)
    assert found[15, 0] == 0
    # A similarity that hiding raises has no part that matters.
    rising = jax.jit(lambda masks: 1.0 - (masks * square).sum(axis=1))
    assert not sbsm(rising, size, budget=5000, key=jax.random.key(0))[0].any()
    few, _, evaluations = sbsm(game, size, budget=101, key=jax.random.key(0))
    assert evaluations == 101
    assert (few > 0).any()


def test_joint_sbsm_by_its_formulas():
    """Eq. 11 with pixels as players: projecting a pixel, pair of windows by pair of windows."""
    size, square = 12, toy_pixels(12)

    def game(masks):
        shown_q, shown_r = masks[:, : size**2] * square, masks[:, size**2 :] * square
        return shown_q.sum(axis=1) * shown_r.sum(axis=1) / 256.0

    pixels = np.arange(size**2).reshape(size, size)
    key = jax.random.key(3)
    found, _, evaluations = joint_sbsm(
        jax.jit(game), pixels, pixels, budget=41, key=key, chunk_size=8
    )
    assert evaluations == 41
    windows = sliding_windows(size)
    drawn = jax.random.randint(key, (2, 40), 0, len(windows.corners), jnp.int32)
    first, second = np.asarray(drawn)
    masks = 1 - np.stack([outside(windows, first), outside(windows, second)])
    both = np.concatenate([1 - masks[0], 1 - masks[1]], axis=1)
    weights = np.maximum(1.0 - np.asarray(game(both)), 0)
    for pixel in (0, 40, 70, 143):
        over = masks[0][:, pixel] == 1
        if over.any():
            mean = weights[over].mean()
            row = (weights[over, None] * masks[1][over]).mean(axis=0)
            np.testing.assert_allclose(found[pixel], row, atol=1e-6)
            if mean > 0:  # the weighted mean of A.11, times the mean weight
                weighted = weights[over] @ masks[1][over] / weights[over].sum()
                np.testing.assert_allclose(found[pixel], mean * weighted, atol=1e-6)
        else:
            assert not found[pixel].any()
    # Larger parts: a part partly covered counts in part.
    halves = (np.arange(size)[:, None] >= 6) * np.ones((1, size), int)
    windows = Windows(np.array([[3, 0], [6, 6]]), 6, size)
    np.testing.assert_allclose(shares(windows, halves), [[0.25, 0.25], [0, 0.5]])


# Partition SHAP


def tree_orders(part):
    """All orders of pixels in which every rectangle's pixels stand together, by its halves."""
    if part.pixels == 1:
        return [[(part.top, part.left)]]
    a, b = (tree_orders(half) for half in part.halves())
    return [x + y for x in a for y in b] + [y + x for x in a for y in b]


def test_partition_shap_is_the_mean_over_orders_of_the_hierarchy():
    table = np.random.default_rng(0).random(2**8)
    game = lambda masks: table[masks @ (1 << np.arange(8))]  # noqa: E731
    expected = np.zeros((2, 4))
    orders = tree_orders(Rectangle(0, 2, 0, 4))
    assert len(orders) == 2**7
    for order in orders:
        mask = np.zeros((2, 4), bool)
        for pixel in order:
            before = table[mask.ravel() @ (1 << np.arange(8))]
            mask[pixel] = True
            expected[pixel] += (table[mask.ravel() @ (1 << np.arange(8))] - before) / 128
    found, stats = partition_shap(game, 2, 4, budget=10_000)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert stats["evaluations"] == 2 + 2 * (1 + 4 + 16)
    for budget in (4, 5, 20, 30):
        found, stats = partition_shap(game, 2, 4, budget=budget, chunk_size=4)
        assert stats["evaluations"] <= budget
        np.testing.assert_allclose(found.sum(), table[-1] - table[0], atol=1e-12)


# Integrated gradients on pixels, integrated Jacobians


def test_integrated_gradients_of_a_cubic(x64):
    """Of a b^2 from (0, 0) to (2, 3): a third and two thirds of 18."""
    found = integrated_gradients(lambda z: z[0] * z[1] ** 2, jnp.array([2.0, 3.0]), jnp.zeros(2), 3)
    np.testing.assert_allclose(found, [6, 12], atol=1e-12)


def test_integrated_jacobians_are_of_the_embeddings(x64):
    query, retrieved = feature_rows(0, 2, 3), feature_rows(1, 3, 2)
    found = integrated_jacobians(query, retrieved, nodes=40)

    def unit(mask, rows):
        u = rows[0] + mask @ rows[1:]
        return u / jnp.linalg.norm(u)

    def mean_jacobian(rows):
        t, w = legendre(40)
        points = jnp.asarray(t)[:, None] * jnp.ones(6)
        return jnp.einsum("b,bci->ic", w, jax.vmap(jax.jacobian(unit), (0, None))(points, rows))

    cross = mean_jacobian(query) @ mean_jacobian(retrieved).T
    np.testing.assert_allclose(found.pairs[:6, 6:], cross, atol=1e-12)
    assert not found.pairs[:6, :6].any()
    empty, grand = worths(cosine_game(gram_matrices(query, retrieved)), 12)
    total = sum(c.sum() for c in found.coefficients[1:])
    np.testing.assert_allclose(total, grand - empty, atol=1e-10)


# Two towers


def test_two_towers_are_the_cross_linear_projection(tiny, pictures):
    """Against all 2^7 coalitions; with half of the pairs, parts have their Shapley values."""
    options = {"players": {"query": "2x2", "retrieved": "1x3"}}
    game = sj.similarity_game(tiny, *pictures, **options)
    ranks = np.arange(2**7)
    table = sj.worths(game.value_fn, (ranks[:, None] >> np.arange(7)) & 1 == 1, chunk_size=64)
    exact = sj.interactions(np.asarray(table), "STII", order=2)
    found = sj.explain(tiny, *pictures, budget=2**4 + 2**3, **options)
    assert found.method == "two-tower"
    assert found.evaluations == 2**4 + 2**3
    np.testing.assert_allclose(found.cross, exact.pairs[:4, 4:], atol=2e-6)
    np.testing.assert_allclose(found.credit, sj.shapley_value(np.asarray(table)), atol=2e-6)
    same = np.arange(7)[:, None] // 4 == np.arange(7) // 4
    alone = exact.singles + 0.5 * (exact.pairs * same).sum(axis=1)
    np.testing.assert_allclose(found.interactions.singles, alone, atol=2e-6)
    assert found.inefficiency < 1e-5
    kinds = ["blur", "black"]
    first = [
        sj.explain(tiny, *pictures, order=1, players="1x2", budget=4, background=b)
        for b in (*kinds, kinds)
    ]
    for one in first:
        assert one.inefficiency < 1e-5
    mean = (first[0].heat("retrieved") + first[1].heat("retrieved")) / 2
    np.testing.assert_allclose(first[2].heat("retrieved"), mean, atol=1e-6)


def test_fixlip_and_lime_estimate_the_game_of_the_masked_pictures(tiny, pictures):
    """FIxLIP at full budget is FBII of all 2^6 coalitions; LIME's weight falls with the pixels."""
    options = {"players": {"query": "2x2", "retrieved": "1x2"}, "budget": 2**6}
    game = sj.similarity_game(tiny, *pictures, players=options["players"])
    masks = (np.arange(2**6)[:, None] >> np.arange(6)) & 1 == 1
    table = np.asarray(sj.worths(game.value_fn, masks, chunk_size=64))
    exact = sj.interactions(table, "FBII", order=2)
    found = sj.explain(tiny, *pictures, method="fixlip", **options)
    np.testing.assert_allclose(found.cross, exact.pairs[:4, 4:], atol=2e-6)
    assert found.evaluations == 64
    for order in (1, 2):
        found = sj.explain(
            tiny, *pictures, method="lime", order=order, players="2x2", budget=2 ** (4 * order)
        )
        assert found.n_retrieved == 4
        assert np.ptp(found.heat("retrieved")) > 0


# The one signature


@pytest.mark.parametrize(
    ("method", "budget"),
    [
        ("sbsm", 100),
        ("vesm", None),
        ("gradcam", None),
        ("ig", 5),
        ("ig-sam", 500),
        ("partition-shap", 130),
    ],
)
def test_first_order_methods_explain(tiny, pictures, method, budget, tmp_path):
    found = sj.explain(tiny, *pictures, method=method, order=1, budget=budget)
    assert found.heat_map("retrieved").shape == (128, 128)
    assert np.isfinite(found.heat_map("retrieved")).all()
    assert np.ptp(found.heat_map("retrieved")) > 0
    assert found.evaluations <= (budget or 2)
    if method in ("partition-shap", "ig-sam"):
        assert found.inefficiency < 5e-3
    if method == "ig":
        assert found.inefficiency < 0.02
    if method in ("sbsm", "vesm"):
        assert found.heat("retrieved").min() >= 0
    found.save(tmp_path / "e.npz")
    back = sj.Explanation.load(tmp_path / "e.npz")
    np.testing.assert_array_equal(back.heat("retrieved"), found.heat("retrieved"))


@pytest.mark.parametrize(
    ("method", "budget", "players"),
    [("sbsm", 130, None), ("ig-sam", 500, None), ("integrated-jacobians", 32, None)],
)
def test_second_order_methods_explain(tiny, pictures, method, budget, players):
    found = sj.explain(tiny, *pictures, method=method, budget=budget, players=players)
    assert found.cross.shape == (64, 64)
    assert found.evaluations <= budget
    if method != "sbsm":
        assert found.inefficiency < 2e-3


def test_sam_equals_the_shapley_values_of_its_dot_game_with_backgrounds(tiny, pictures):
    """Both orders from the network's own features, by propositions 4.1 and 5.1 (in float32)."""
    game = sj.similarity_game(tiny, *pictures)
    maps = np.asarray(game.match.feature_maps(), np.float64)
    blanks = [np.asarray(game.match.feature_blanks(side)[0], np.float64) for side in (0, 1)]
    found = sj.explain(tiny, *pictures, method="sam")
    norms = np.prod([np.linalg.norm(m.mean(axis=(0, 1))) for m in maps])
    rows = [(m - b).reshape(64, -1) for m, b in zip(maps, blanks, strict=True)]
    np.testing.assert_allclose(found.cross, rows[0] @ rows[1].T / 64**2 / norms, atol=1e-6)
    first = sj.explain(tiny, *pictures, method="sam", order=1)
    alone = rows[1] @ maps[0].mean(axis=(0, 1)) / 64 / norms
    np.testing.assert_allclose(first.heat("retrieved"), alone, atol=1e-6)


# Players and backgrounds


def test_players_may_be_a_grid_or_a_label_map_of_one_s_own(tiny, pictures, tmp_path):
    from PIL import Image

    own = np.zeros((60, 90), np.int64)
    own[:, 45:] = 7
    own[30:, 45:] = 3
    Image.fromarray(own.astype(np.uint8)).save(tmp_path / "own.png")
    color = np.zeros((60, 90, 3), np.uint8)
    color[own == 7] = (255, 0, 0)
    color[own == 3] = (0, 9, 0)
    Image.fromarray(color).save(tmp_path / "color.png")
    expected = np.zeros((128, 128), int)
    expected[:, 64:] = 2
    expected[64:, 64:] = 1
    for kind in (own, own.astype(np.uint8), tmp_path / "own.png", str(tmp_path / "color.png")):
        players = {"query": "2x3", "retrieved": kind}
        game = sj.similarity_game(tiny, *pictures, players=players)
        assert game.query_players.max() == 5
        np.testing.assert_array_equal(game.retrieved_players, expected)
    found = sj.explain(
        tiny, *pictures, method="kernel-shap", players={"query": (2, 3), "retrieved": own},
        budget=2**9,
    )  # fmt: skip
    assert found.cross.shape == (6, 3)
    assert found.inefficiency < 1e-5
    for wrong, message in (
        (own.astype(float), "whole numbers"),
        (np.arange(300**2).reshape(300, 300), "cover no pixel"),
        ("no.png", "expected one of"),
        (3.5, "expected one of"),
        ((1, 2, 3), "two numbers"),
    ):
        with pytest.raises(sj.ShapjaxError, match=message):
            sj.similarity_game(tiny, *pictures, players={"query": "grid", "retrieved": wrong})


def test_several_backgrounds_are_averaged(tiny, pictures):
    kinds = ["blur", np.ascontiguousarray(pictures[0][::-1])]
    masks = np.random.default_rng(0).random((4, 128)) < 0.5
    alone = [sj.similarity_game(tiny, *pictures, background=kind).value_fn(masks) for kind in kinds]
    together = sj.similarity_game(tiny, *pictures, background=kinds)
    np.testing.assert_allclose(
        sj.worths(together.value_fn, masks), np.mean(alone, axis=0), atol=1e-7
    )
    own = {"query": "black", "retrieved": kinds}
    assert sj.similarity_game(tiny, *pictures, background=own).grams.qr.shape == (2, 65, 65)
    parts = [sj.explain(tiny, *pictures, method="sam", background=kind) for kind in kinds]
    found = sj.explain(tiny, *pictures, method="sam", background=kinds)
    np.testing.assert_allclose(found.cross, np.mean([p.cross for p in parts], axis=0), atol=1e-6)
    assert found.evaluations == 2
    found = sj.explain(tiny, *pictures, background=kinds, order=1, budget=300)
    assert found.evaluations <= 300
    assert found.inefficiency < 1e-5
    regions = sj.similarity_game(tiny, *pictures, players="2x2", background=kinds)
    few = np.random.default_rng(1).random((3, 8)) < 0.5
    alone = [
        sj.worths(sj.similarity_game(tiny, *pictures, players="2x2", background=kind).value_fn, few)
        for kind in kinds
    ]
    np.testing.assert_allclose(sj.worths(regions.value_fn, few), np.mean(alone, axis=0), atol=1e-6)


def test_a_folder_is_the_mean_of_its_pictures(tiny, pictures, tmp_path):
    from PIL import Image

    for name, picture in zip("ab", pictures, strict=True):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    (tmp_path / "note.txt").write_text("no picture")
    resized = [tiny.resize(sj.load_image(p), fit="stretch") for p in pictures]
    match = sj.similarity_game(tiny, *pictures, background=tmp_path).match
    np.testing.assert_allclose(match.blanks(0)[0], np.mean(resized, axis=0), atol=1e-6)
    features = tiny.features(tiny.normalise(np.stack(resized)))
    np.testing.assert_allclose(match.feature_blanks(1)[0], features.mean(axis=0), atol=1e-5)
    zero = sj.similarity_game(tiny, *pictures, background="zero")
    assert not np.asarray(zero.match.feature_blanks(0)).any()
    (tmp_path / "empty").mkdir()
    with pytest.raises(sj.ImageError, match="holds no pictures"):
        sj.similarity_game(tiny, *pictures, background=tmp_path / "empty")


@pytest.mark.parametrize("players", ["features", "2x2"])
def test_rather_than_says_what_makes_this_one_the_better_match(tiny, pictures, players):
    """All credit sums to d(query, retrieved) - d(query, the other one)."""
    other = np.ascontiguousarray(pictures[1][::-1])
    method = "gram-sam" if players == "features" else "kernel-shap"
    options = {"players": players, "method": method, "budget": 500}
    found = sj.explain(tiny, *pictures, order=1, rather_than=other, **options)
    against = sj.explain(tiny, pictures[0], other, order=1, **options)
    np.testing.assert_allclose(found.v_empty, against.similarity, atol=1e-5)
    difference = found.similarity - against.similarity
    np.testing.assert_allclose(found.heat("retrieved").sum(), difference, atol=1e-5)
    second = sj.explain(tiny, *pictures, rather_than=other, **options)
    np.testing.assert_allclose(second.v_grand, found.similarity, atol=1e-5)
    same = sj.explain(tiny, *pictures, order=1, rather_than=pictures[1], **options)
    np.testing.assert_allclose(same.heat("retrieved"), 0, atol=1e-5)


def test_a_spectrogram_is_a_picture(tiny):
    t = np.linspace(0, 1, 4000)
    tones = [np.sin(2 * np.pi * f * t * (1 + t)) for f in (300, 320)]
    shown = [
        np.log1p(np.abs(np.fft.rfft(x.reshape(40, 100) * np.hanning(100), axis=1))).T for x in tones
    ]
    found = sj.explain(tiny, *[s / s.max() for s in shown], budget=300)
    assert np.isfinite(found.cross).all()
    assert found.cross.shape == (64, 64)


def test_methods_pass_through_vmap(first_order):
    grams = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), first_order)
    keys = jax.random.split(jax.random.key(0), 2)
    many = jax.vmap(lambda g, k: ig_sam(g, budget=100, key=k))(grams, keys)
    one = ig_sam(jax.tree.map(lambda a: a[1], grams), budget=100, key=keys[1])
    np.testing.assert_allclose(many.coefficients[1][1], one.coefficients[1], atol=1e-12)


def test_names_are_complete():
    """All that the paper compares, and more."""
    from shapjax.explainers.explain import METHODS

    first = "sbsm vesm lime kernel-shap partition-shap ig gradcam sam ig-sam kernel-sam gram-sam"
    second = (
        "sbsm lime fixlip kernel-shap sam ig-sam kernel-sam gram-sam two-tower integrated-jacobians"
    )
    for order, names in enumerate((first, second)):
        for name in names.split():
            record = METHODS[name]
            assert record.players[order]
            assert record.budgets is None or record.budgets[order] > 0


def test_defaults_are_the_paper_s(monkeypatch):
    """Hamilton et al. 2022, A.2: superpixels, budgets, backgrounds (windows and blur elsewhere)."""
    from shapjax.explainers.explain import METHODS
    from shapjax.games.players import superpixels

    asked = {}

    def label(picture, **options):
        asked.update(options)
        return np.zeros(picture.shape[:2], int)

    monkeypatch.setattr("skimage.segmentation.slic", label)
    superpixels(np.zeros((8, 8, 3), np.float32))
    assert asked == {"n_segments": 50, "compactness": 10, "sigma": 3, "start_label": 0}
    for name in ("sbsm", "lime", "kernel-shap"):
        assert METHODS[name].budgets == (5_000, 20_000)
    for name in ("kernel-sam", "ig-sam"):
        assert METHODS[name].budgets == (5_000, 40_000)
    assert METHODS["partition-shap"].budgets[0] == 5_000
    by_mean = {name for name, record in METHODS.items() if record.background == "mean"}
    assert by_mean == {"sbsm", "lime"}
    assert {record.background for record in METHODS.values()} == {"mean", "blur"}


def test_rather_than_several_pictures_and_rather_than_a_folder(tiny, pictures, tmp_path):
    """Credit sums to d(query, retrieved) minus the mean over them, or minus that of their mean."""
    from PIL import Image

    others = [np.ascontiguousarray(pictures[1][::-1]), pictures[0][:, ::-1]]
    for place, other in enumerate(others):
        Image.fromarray(np.ascontiguousarray(other)).save(tmp_path / f"{place}.png")
    against = [sj.similarity_game(tiny, pictures[0], other).similarity for other in others]
    options = {"method": "gram-sam", "order": 1, "budget": 300}
    found = sj.explain(tiny, *pictures, rather_than=others, **options)
    np.testing.assert_allclose(found.v_empty, np.mean(against), atol=1e-5)
    difference = found.similarity - np.mean(against)
    np.testing.assert_allclose(found.heat("retrieved").sum(), difference, atol=1e-5)
    match = sj.similarity_game(tiny, *pictures, background=tmp_path).match
    mean, query = match.feature_blanks(1)[0].mean((0, 1)), match.feature_maps()[0].mean((0, 1))
    expected = pooled_cosine(jnp.asarray(query), jnp.asarray(mean))
    found = sj.explain(tiny, *pictures, rather_than=tmp_path, **options)
    np.testing.assert_allclose(found.v_empty, expected, atol=1e-5)


# LIME


def test_lime_and_fixlip_fit_the_bilinear_form(tiny, pictures):
    """What estimate finds with pairs across alone; every pair within a picture is zero."""
    options = {"order": 2, "players": "2x2", "budget": 60, "bilinear": True}
    game = sj.similarity_game(tiny, *pictures, players="2x2", background="mean")
    n = game.n_players
    for method in ("lime", "fixlip"):
        found = sj.explain(tiny, *pictures, method=method, **options)
        (other,) = sj.explain_pairs(
            tiny, pictures[:1], pictures[1:], method=method, on_error="skip", **options
        )
        full = sj.explain(tiny, *pictures, method=method, **{**options, "bilinear": False})
        pairs = np.asarray(found.interactions.pairs)
        assert n == 8
        assert not pairs[:4, :4].any()
        assert not pairs[4:, 4:].any()
        assert found.cross.any()
        assert np.asarray(full.interactions.pairs)[:4, :4].any()
        assert not np.asarray(other.interactions.pairs)[:4, :4].any()
    hidden = _squared_differences(game)
    expected = sj.estimate(
        game.value_fn, n, "FBII", 2, 60, "lime", key=0, pairs="cross", n_query=4, refits=0,
        distance=lambda masks: ~masks @ hidden,
    )  # fmt: skip
    found = sj.explain(tiny, *pictures, method="lime", **options)
    np.testing.assert_allclose(found.interactions.of_size(2), expected.of_size(2), atol=1e-6)


@pytest.mark.parametrize(("method", "order"), [("lime", 1), ("kernel-shap", 2), ("gram-sam", 2)])
def test_what_has_no_bilinear_form_is_refused(tiny, pictures, method, order):
    with pytest.raises(sj.ShapjaxError, match=r"no bilinear form.*lime or fixlip"):
        sj.explain(tiny, *pictures, method=method, order=order, bilinear=True)
