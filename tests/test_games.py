"""Similarity games against their definitions: mask, pool, compare."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_network import bright, toy

import shapjax as sj
from shapjax.games.backgrounds import background
from shapjax.games.players import grid, superpixels
from shapjax.games.pooled import (
    cosine_game,
    dot_game,
    gram_matrices,
    pooled_rows,
    unmasked_row,
)

rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def tiny():
    return sj.backbones.load("shapjax_tiny")


@pytest.fixture(scope="module")
def pictures():
    skimage_data = pytest.importorskip("skimage.data")
    left, right, _ = skimage_data.stereo_motorcycle()
    return left[::4, ::4], right[::4, ::4]


def masked_pooling(features, blank, mask):
    return np.where(mask.reshape(*features.shape[:2], 1), features, blank).mean(axis=(0, 1))


def cosine(a, b):
    return a @ b / np.sqrt((a @ a) * (b @ b))


def test_gram_form_is_masking_and_pooling(x64):
    x, a = rng.random((2, 3, 2, 11))
    y, b = rng.random((2, 2, 4, 11))
    grams = gram_matrices(pooled_rows(jnp.asarray(x), a), pooled_rows(jnp.asarray(y), b))
    assert (grams.n_query, grams.n_retrieved) == (6, 8)
    masks = rng.random((50, 14)) < 0.5
    pooled = [(masked_pooling(x, a, m[:6]), masked_pooling(y, b, m[6:])) for m in masks]
    np.testing.assert_allclose(dot_game(grams)(masks), [p @ q for p, q in pooled], rtol=1e-12)
    np.testing.assert_allclose(
        cosine_game(grams)(masks), [cosine(p, q) for p, q in pooled], rtol=1e-12
    )


def test_one_side_may_stay_whole(x64):
    x, a = rng.random((2, 3, 2, 11))
    y = rng.random((2, 4, 11))
    grams = gram_matrices(unmasked_row(jnp.asarray(y)), pooled_rows(jnp.asarray(x), a))
    masks = rng.random((20, 6)) < 0.5
    expected = [cosine(y.mean((0, 1)), masked_pooling(x, a, m)) for m in masks]
    np.testing.assert_allclose(cosine_game(grams)(masks), expected, rtol=1e-12)


def test_vanishing_features_are_worth_nothing(x64):
    zero = jnp.zeros((2, 1, 3))
    grams = gram_matrices(pooled_rows(jnp.ones((2, 1, 3)), zero), unmasked_row(jnp.ones((1, 1, 3))))
    np.testing.assert_allclose(cosine_game(grams)(np.eye(2, dtype=bool)), 1, atol=1e-12)
    assert cosine_game(grams)(np.zeros((1, 2), bool))[0] == 0
    gradient = jax.grad(lambda g: cosine_game(g)(jnp.zeros((1, 2), bool))[0])(grams)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(sj.ShapjaxError, match="one shape"):
        pooled_rows(jnp.zeros((2, 2, 3)), jnp.zeros((2, 1, 3)))
    with pytest.raises(sj.ShapjaxError, match="channels"):
        gram_matrices(jnp.zeros((2, 3)), jnp.zeros((2, 4)))


def test_grid_covers_every_pixel_evenly():
    labels = grid(10, 12, 5, 3)
    assert labels.dtype == np.int32
    assert np.bincount(labels.ravel()).tolist() == [8] * 15
    assert labels[0, 0] == 0
    assert labels[9, 11] == 14
    assert labels[0, 4] == 1
    assert set(grid(7, 7, 5, 5).ravel()) == set(range(25))


def test_superpixels_are_numbered_without_gaps(pictures):
    labels = superpixels(np.asarray(pictures[0], np.float32) / 255)
    count = labels.max() + 1
    assert 20 < count <= 60
    assert set(labels.ravel()) == set(range(count))
    assert superpixels(np.zeros((16, 16, 3), np.float32)).min() == 0


def test_backgrounds_by_hand(tiny):
    picture = np.zeros((128, 128, 3), np.float32)
    picture[64, 64] = 1
    blurred = background("blur", picture, tiny)
    # 25 pixels of 224 are 15 of 128.
    assert (blurred[..., 0] > 1e-6).sum() == 15**2
    np.testing.assert_allclose(blurred[64, 64], 1 / 15**2, rtol=1e-4)
    np.testing.assert_allclose(background("mean", picture, tiny), 1 / 128**2, rtol=1e-4)
    assert not background("black", picture, tiny).any()
    other = background(np.full((5, 9, 3), 255, np.uint8), picture, tiny)
    np.testing.assert_array_equal(other, np.ones_like(picture))
    with pytest.raises(sj.ImageError, match="does not exist"):
        background("blurr", picture, tiny)


def test_feature_game_is_the_network_s(tiny, pictures):
    """All worths of a few coalitions, from feature maps masked by hand."""
    game = sj.similarity_game(tiny, *pictures)
    assert game.n_players == 128
    maps = []
    for picture in pictures:
        resized = tiny.resize(sj.load_image(picture), fit="stretch")
        both = np.stack([resized, background("blur", resized, tiny)])
        maps += list(np.asarray(tiny.features(tiny.normalise(both))))
    x, a, y, b = maps
    masks = rng.random((10, 128)) < rng.random((10, 1))
    expected = [cosine(masked_pooling(x, a, m[:64]), masked_pooling(y, b, m[64:])) for m in masks]
    np.testing.assert_allclose(game.value_fn(masks), expected, rtol=2e-5)
    np.testing.assert_allclose(game.similarity, cosine(x.mean((0, 1)), y.mean((0, 1))), rtol=1e-5)


@pytest.mark.parametrize("masked", ["both", "query", "retrieved"])
def test_superpixel_game_runs_the_network_on_masked_pictures(tiny, pictures, masked):
    game = sj.similarity_game(tiny, *pictures, players="superpixels", masked=masked)
    masks = rng.random((5, game.n_players)) < 0.5
    found = np.asarray(game.value_fn(masks))
    n_query = 0 if game.query_players is None else game.query_players.max() + 1
    for mask, worth in zip(masks, found, strict=True):
        embeddings = []
        for picture, labels, own in (
            (pictures[0], game.query_players, mask[:n_query]),
            (pictures[1], game.retrieved_players, mask[n_query:]),
        ):
            rgb = tiny.resize(sj.load_image(picture), fit="stretch")
            if labels is not None:
                rgb = np.where(own[labels][..., None], rgb, background("blur", rgb, tiny))
            embeddings.append(np.asarray(tiny.embed(tiny.normalise(rgb)[None])[0]))
        np.testing.assert_allclose(worth, cosine(*embeddings), rtol=1e-5)


def test_a_network_meets_few_coalitions_at_a_time(monkeypatch):
    """However many come in one call, of one's own or of estimators, 1,024 at a time."""
    from shapjax.games import masked

    game = sj.similarity_game(toy(), *bright(2), players="3x3")
    whole, rows = masked._run, []

    def watched(function, sides, masks):
        rows.append(len(masks[0]))
        return whole(function, sides, masks)

    monkeypatch.setattr(masked, "_run", watched)
    masks = rng.random((150, 18)) < 0.5
    together = game.value_fn(masks)
    assert rows == [masked.NETWORK_CHUNK] * 2 + [32]
    alone = [game.value_fn(part) for part in np.split(masks, [40, 90])]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-6)
    rows.clear()
    np.testing.assert_array_equal(sj.worths(game.value_fn, masks), together)
    assert rows == [masked.NETWORK_CHUNK] * 2 + [32]


def test_wrong_choices_are_refused(tiny, pictures):
    for arguments in ({"players": "pixel"}, {"masked": "left"}):
        with pytest.raises(sj.ShapjaxError, match="expected one of"):
            sj.similarity_game(tiny, *pictures, **arguments)


def test_a_network_that_gives_nan_is_named(tiny, pictures):
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, tiny)
    with pytest.raises(sj.ShapjaxError, match="shapjax_tiny gives NaN"):
        sj.similarity_game(broken, *pictures)


def test_pictures_cut_otherwise_share_a_program():
    from shapjax.games import masked

    model = sj.backbones.load("shapjax_tiny")
    rng = np.random.default_rng(0)
    query, retrieved = rng.random((2, 64, 64, 3), np.float32)
    masked._run.clear_cache()
    for cells in ("2x3", "4x4", "7x9"):
        game = sj.similarity_game(model, query, retrieved, players=cells).value_fn
        sides = game.sides
        masks = rng.random((5, 2 * sides[0].n_players)) < 0.5
        embeddings = [
            masked.embed_masked(model, side, own)
            for side, own in zip(sides, np.split(masks, 2, axis=1), strict=True)
        ]
        a, b = (e / jnp.linalg.norm(e, axis=1, keepdims=True) for e in embeddings)
        np.testing.assert_allclose(game(masks), (a * b).sum(axis=1), atol=1e-6)
        np.testing.assert_allclose(jax.jit(game)(masks), (a * b).sum(axis=1), atol=1e-6)
        np.testing.assert_allclose(sj.worths(game, masks), game(masks), atol=1e-6)
    assert masked._run._cache_size() == 1
