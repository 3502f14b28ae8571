"""The first convolution of masked pictures as a sum over players."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from seeded import seeded_pictures, seeded_state_dict
from test_backbones_parity import CONVOLUTIONAL

from shapjax import backbones
from shapjax.backbones.layers import Conv
from shapjax.backbones.network import Opening
from shapjax.backbones.record import Backbone
from shapjax.backbones.shapjax_tiny import PREPROCESSING, ShapjaxTiny
from shapjax.games import stem
from shapjax.games.masked import MaskedPicture, embed_masked, tower
from shapjax.games.similarity import similarity_game


def tiles(side, cell):
    """Square players of ``cell`` pixels, int [side, side]."""
    at = np.arange(side) // cell
    return at[:, None] * (at[-1] + 1) + at


def pictures(side, blanks, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.random((side, side, 3), np.float32),
        rng.random((blanks, side, side, 3), np.float32),
    )


@pytest.mark.parametrize(
    ("side", "stride", "padding"),
    [(3, 2, "VALID"), (3, 2, "SAME"), (3, 1, 1), (7, 2, 3), (8, 4, 2), (4, 4, "VALID"), (1, 1, 0)],
)
@pytest.mark.parametrize("bias", [True, False])
def test_the_sum_is_the_convolution_of_the_masked_picture(side, stride, padding, bias):
    layer = Conv(3, 5, (side, side), stride, padding=padding, use_bias=bias, rngs=nnx.Rngs(0))
    if bias:
        layer.bias = nnx.Param(jnp.arange(5.0))
    labels = tiles(30, 9)
    picture, blanks = (jnp.asarray(x) for x in pictures(30, 1))
    found = stem.stem_of(Opening(layer, None), picture, blanks, labels)
    masks = np.random.default_rng(1).random((20, labels.max() + 1)) < 0.5
    masks[0], masks[1] = False, True
    masked = jnp.where(masks[:, labels][..., None], picture, blanks[0])
    np.testing.assert_allclose(found.opened(jnp.asarray(masks)), layer(masked), atol=2e-5)
    np.testing.assert_allclose(found.opened(jnp.asarray(masks[:1]))[0], layer(blanks)[0], atol=2e-5)


@pytest.mark.parametrize(
    ("labels", "terms"),
    [
        (np.zeros((8, 8), int), 6),
        (tiles(8, 4), 6),
        (np.arange(64).reshape(8, 8) // 2 % 16, 6),  # Six in a window, two pixels each.
        (np.where(np.arange(64).reshape(8, 8) % 8 < 4, np.arange(64).reshape(8, 8), 0), None),
        (np.arange(64).reshape(8, 8), None),  # Nine in a window of nine pixels.
        (np.where(np.arange(64).reshape(8, 8) % 9, 0, np.arange(64).reshape(8, 8)), 6),
    ],
)
def test_a_window_has_few_players_or_pictures_are_masked(labels, terms):
    layer = Conv(3, 2, (3, 3), padding=1, rngs=nnx.Rngs(0))
    picture, blanks = pictures(8, 1)
    found = stem.stem_of(Opening(layer, None), jnp.asarray(picture), jnp.asarray(blanks), labels)
    assert (None if found is None else len(found.owners)) == terms


def test_what_no_sum_serves(monkeypatch):
    picture, blanks = (jnp.asarray(x) for x in pictures(8, 3))
    half = Conv(3, 2, (3, 3), param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    assert stem.stem_of(Opening(half, None), picture, blanks, tiles(8, 4)) is None
    dilated = Conv(3, 2, (3, 3), padding=1, kernel_dilation=2, rngs=nnx.Rngs(0))
    assert stem.stem_of(Opening(dilated, None), picture, blanks, tiles(8, 4)) is None
    grouped = Conv(3, 3, (3, 3), padding=1, feature_group_count=3, rngs=nnx.Rngs(0))
    assert stem.stem_of(Opening(grouped, None), picture, blanks, tiles(8, 4)) is None
    layer = Conv(3, 2, (3, 3), padding=1, rngs=nnx.Rngs(0))
    # Three backgrounds, each with itself and six changes of 8 x 8 x 2 float32.
    monkeypatch.setattr(stem, "MOST_BYTES", 3 * 7 * 8 * 8 * 2 * 4)
    assert stem.stem_of(Opening(layer, None), picture, blanks, tiles(8, 4)) is not None
    monkeypatch.setattr(stem, "MOST_BYTES", 3 * 7 * 8 * 8 * 2 * 4 - 1)
    assert stem.stem_of(Opening(layer, None), picture, blanks, tiles(8, 4)) is None


def test_towers_average_over_backgrounds():
    model = backbones.load("shapjax_tiny")
    picture, blanks = pictures(128, 2)
    side = MaskedPicture.of(model, picture, blanks, tiles(128, 40))
    # More than run together.
    masks = np.random.default_rng(2).random((130, side.n_players)) < 0.5
    assert side.stem is not None
    plain = tower(model, side._replace(stem=None))(masks)
    np.testing.assert_allclose(tower(model, side)(masks), plain, atol=1e-6)


def test_a_network_that_embeds_in_its_own_way_runs_on_masked_pictures():
    class Other(ShapjaxTiny):
        def embed(self, x):
            return self.features(x).max(axis=(1, 2))

    model = Backbone("other", PREPROCESSING, *nnx.split(Other(rngs=nnx.Rngs(0))))
    picture, blanks = pictures(128, 1)
    side = MaskedPicture.of(model, picture, blanks, tiles(128, 64))
    assert side.stem is None
    masks = jnp.asarray([[True] * 4])
    np.testing.assert_allclose(embed_masked(model, side, masks), model.embed(side.picture[None]))


def test_a_picture_cut_otherwise_has_no_stem():
    model = backbones.load("shapjax_tiny")
    picture, blanks = pictures(128, 1)
    side = MaskedPicture.of(model, picture, blanks, tiles(128, 32))
    merged = side.relabelled(side.labels // 4)
    assert merged.n_players == 4
    plain = side._replace(labels=side.labels // 4, stem=None)
    masks = jnp.asarray(np.eye(4, dtype=bool))
    np.testing.assert_array_equal(*(embed_masked(model, s, masks) for s in (merged, plain)))


def test_a_game_holds_arrays_alone():
    """Nothing but masks comes from the host, coalition after coalition."""
    model = backbones.load("shapjax_tiny")
    rng = np.random.default_rng(0)
    crops = [rng.integers(0, 256, (128, 128, 3), np.uint8) for _ in range(2)]
    game = similarity_game(model, *crops, players="2x2").value_fn
    leaves = jax.tree.leaves((game.sides, game._function))
    assert leaves
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)


FEW = ("shapjax_tiny", "resnet18", "squeezenet1_1")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in FEW else [pytest.mark.slow])
        for name in ("shapjax_tiny", *CONVOLUTIONAL)
    ],
)
def test_embeddings_of_every_network_with_an_opening(name):
    arrays = None if name == "shapjax_tiny" else seeded_state_dict(name)
    model = backbones.load(name, arrays)
    size = model.preprocessing.size
    picture, blank = 0.2 * seeded_pictures(2, size) + 0.5
    side = MaskedPicture.of(model, picture, blank[None], tiles(size, 50))
    assert side.stem is not None
    n = side.n_players
    masks = jnp.asarray(np.stack([np.arange(n) % 2 == 0, np.ones(n, bool)]))
    embed = jax.jit(embed_masked)
    with_stem, plain = (embed(model, s, masks) for s in (side, side._replace(stem=None)))
    np.testing.assert_allclose(with_stem, plain, atol=1e-5 * np.abs(plain).max())
    whole = model.embed(model.normalise(jnp.asarray(picture))[None])[0]
    np.testing.assert_allclose(with_stem[1], whole, atol=1e-5 * np.abs(whole).max())
