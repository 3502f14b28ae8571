"""Transformers against their publishers' in torch: live, and by activations torch once gave."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial
from seeded import seeded_pictures, seeded_state_dict
from torch_references import first_difference
from transformer_references import fused, reference, run_reference, write_hub_folder

from shapjax.backbones import Backbone, bert, clip, dinov2, load, names, vit
from shapjax.backbones.transformer import TOKENS_AT_ONCE
from shapjax.core.errors import ShapjaxError, WeightsError
from shapjax.games.tokens import TOGETHER, TokenItem, embed_unseen, token_embed

NAMES = (
    *("vit_b_16", "dinov2_vits14", "dinov2_vitb14"),
    *("clip_vit_b_32", "clip_vit_b_16", "minilm_l6"),
)
GOLDEN = Path(__file__).parent / "golden" / "transformers.npz"
TOLERANCE = 1e-4
SHALLOW = 2


@pytest.fixture
def shallow(monkeypatch):
    """Two blocks instead of six or twelve, in every tower."""
    make_shallow(monkeypatch.setattr)


def make_shallow(set_attribute):
    def cut(shape):
        return dataclasses.replace(shape, depth=SHALLOW)

    set_attribute(vit, "BASE", cut(vit.BASE))
    set_attribute(dinov2, "SHAPES", {name: cut(s) for name, s in dinov2.SHAPES.items()})
    set_attribute(clip, "PICTURES", cut(clip.PICTURES))
    set_attribute(clip, "TEXTS", cut(clip.TEXTS))
    set_attribute(bert, "MINILM", cut(bert.MINILM))


def tower_of(name):
    return name if name == "vit_b_16" else name.partition("_")[0]


def texts(end):
    """Two texts by numbers of tokens; the second is shorter and filled up."""
    numbers = np.random.default_rng(0).integers(1000, 3000, (2, 9))
    numbers[0, -1] = numbers[1, 4] = end
    numbers[1, 5:] = 0
    return numbers


@jax.jit
def run(backbone, x):
    return backbone.maps(x), backbone.embed(x)


def close(got, want):
    want = np.asarray(want)
    return np.abs(np.asarray(got) - want).max() <= TOLERANCE * np.abs(want).max()


def check_stages(network, tower, backbone, x, inputs):
    """Ours against torch's, stage by stage; the embedding and torch's result come back."""
    maps, embedding = run(backbone, jnp.asarray(x))
    theirs, result = run_reference(network, tower, maps, inputs)
    assert len(theirs) >= len(maps) - 1
    if tower in ("minilm", "text"):
        # What becomes of padding counts nowhere.
        kept = np.asarray(x != 0)
        maps = {stage: np.asarray(map_)[kept] for stage, map_ in maps.items()}
        theirs = {stage: map_[kept] for stage, map_ in theirs.items()}
    assert first_difference(maps, theirs, TOLERANCE) is None
    return np.asarray(embedding), result


@pytest.mark.slow
@pytest.mark.peers
@pytest.mark.parametrize("name", NAMES)
def test_parity_with_torch(name, tmp_path):
    """Stage by stage, then the embedding, to 1e-4 of the largest entry."""
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    arrays = seeded_state_dict(name)
    network = reference(name, arrays, tmp_path)
    backbone = load(name, arrays if name == "vit_b_16" else tmp_path)
    tower = tower_of(name)
    if name == "minilm_l6":
        x = texts(end=102)
        inputs = {"input_ids": x, "attention_mask": (x != 0).astype(int)}
        embedding, result = check_stages(network, tower, backbone, x, inputs)
        assert close(backbone.head(backbone.features(jnp.asarray(x))), result.pooler_output)
        last, kept = result.last_hidden_state.numpy(), (x != 0)[..., None]
        mean = (last * kept).sum(axis=1) / kept.sum(axis=1)
        assert close(embedding, mean / np.linalg.norm(mean, axis=1, keepdims=True))
        return
    x = seeded_pictures(2, 224)
    pixels = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    if name == "vit_b_16":
        embedding, scores = check_stages(network, tower, backbone, x, inputs={"x": pixels})
        features = backbone.features(jnp.asarray(x))
        assert close(backbone.head(features), scores)
        np.testing.assert_allclose(embedding, features[:, 0], rtol=1e-5, atol=1e-6)
    elif tower == "dinov2":
        embedding, result = check_stages(network, tower, backbone, x, {"pixel_values": pixels})
        assert close(embedding, result.pooler_output)
        narrow = np.ascontiguousarray(pixels[:1, :, :196, :168])
        _, result = run_reference(network, tower, (), {"pixel_values": narrow})
        ours = backbone.features(jnp.asarray(x[:1, :196, :168]))
        assert close(ours, result.last_hidden_state.numpy())
    else:
        numbers = texts(end=clip.END)
        inputs = {"pixel_values": pixels, "input_ids": numbers}
        pictures, result = check_stages(network, tower, backbone, x, inputs)
        assert close(
            pictures / np.linalg.norm(pictures, axis=1, keepdims=True), result.image_embeds
        )
        words, _ = check_stages(network, "text", backbone.text, numbers, inputs)
        assert close(words / np.linalg.norm(words, axis=1, keepdims=True), result.text_embeds)


def samples(map_, count=8):
    """Entries spread over a map, and its root mean square: [count + 1]."""
    flat = np.asarray(map_, np.float32).ravel()
    chosen = flat[np.linspace(0, flat.size - 1, count).astype(int)]
    return np.append(chosen, np.sqrt(np.mean(flat * flat)))


def golden_inputs(name):
    """What the golden activations are of: one picture, or a text without padding; by towers."""
    pictures = (tower_of(name), seeded_pictures(1, 224))
    if name == "minilm_l6":
        return [("minilm", texts(end=102)[:1])]
    return [pictures, ("text", texts(clip.END)[:1])] if name.startswith("clip") else [pictures]


@pytest.mark.skipif(
    not GOLDEN.exists(), reason="no stored activations; run tests/make_golden_transformers.py"
)
@pytest.mark.parametrize("name", NAMES)
def test_activations_that_torch_gave(name, shallow):
    """Without torch: two blocks of the same seed against stored samples of torch's outputs.

    ``tests/make_golden_transformers.py`` writes them.
    """
    backbone = load(name, seeded_state_dict(name))
    with np.load(GOLDEN) as golden:
        for tower, x in golden_inputs(name):
            one = backbone.text if tower == "text" else backbone
            maps, _ = run(one, jnp.asarray(x))
            stages, values = (golden[f"{name}/{tower}/{part}"] for part in ("stages", "values"))
            assert len(stages) >= SHALLOW + 1
            for stage, want in zip(stages, values, strict=True):
                scale = max(np.abs(want).max(), want[-1])
                assert np.abs(samples(maps[stage]) - want).max() <= TOLERANCE * scale, stage


def test_every_transformer_is_listed():
    assert set(NAMES) <= set(names())


def small(kind, depth):
    """A transformer of few channels."""
    base = {vit.VisionTransformer: vit.BASE, bert.Bert: bert.MINILM}[kind]
    shape = dataclasses.replace(base, width=8, heads=2, depth=depth)
    return Backbone(kind.__name__, None, *nnx.split(kind(shape, rngs=nnx.Rngs(0))))


def test_stages_and_layers_come_in_the_order_in_which_they_run():
    """Out of traces too (here without compiling), which sort the names of plain dictionaries."""
    deep = small(vit.VisionTransformer, depth=12)
    maps = jax.eval_shape(Backbone.maps, deep, jnp.zeros((1, 224, 224, 3)))
    assert list(maps) == ["tokens", *(f"blocks.{place}" for place in range(12)), "last"]
    layers = functools.partial(Backbone.maps, inner=True)
    inner = jax.eval_shape(layers, small(bert.Bert, depth=1), jnp.asarray(texts(end=102)))
    attention = [f"attention.{part}" for part in ("query", "key", "value", "out")]
    block = [*attention, "attention", "norm1", "widen", "narrow", "norm2"]
    assert list(inner) == [
        *("words", "norm", "tokens", *(f"blocks.0.{layer}" for layer in block)),
        *("blocks.0", "last"),
    ]


# Layouts.


def same_state(first, second):
    return jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), first.state, second.state))


def test_dinov2_as_its_authors_lay_it_out(shallow):
    hub = seeded_state_dict("dinov2_vits14")
    table = {
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.": "",
        "encoder.layer.": "blocks.",
        "attention.attention": "attn",
        "attention.output.dense": "attn.proj",
        "layer_scale1.lambda1": "ls1.gamma",
        "layer_scale2.lambda1": "ls2.gamma",
        "layernorm": "norm",
    }
    authors = {}
    for name, array in hub.items():
        for theirs, ours in table.items():
            name = name.replace(theirs, ours)
        authors[name] = array
    authors = fused(authors, lambda module, kind: f"{module}.qkv.{kind}")
    assert authors["blocks.0.attn.qkv.weight"].shape == (3 * 384, 384)
    first, second = (load("dinov2_vits14", arrays) for arrays in (hub, authors))
    assert same_state(first, second)
    assert (first.network.offset, second.network.offset) == (0.0, 0.1)
    assert first.preprocessing.resampling == "bicubic"


def test_clip_as_its_authors_lay_it_out(shallow):
    hub = seeded_state_dict("clip_vit_b_32")
    table = {
        "visual_projection.weight": "visual.proj",
        "text_projection.weight": "text_projection",
        "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
        "vision_model.embeddings.patch_embedding": "visual.conv1",
        "vision_model.embeddings.": "visual.",
        "vision_model.pre_layrnorm": "visual.ln_pre",
        "vision_model.post_layernorm": "visual.ln_post",
        "vision_model.encoder.layers": "visual.transformer.resblocks",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.embeddings.": "",
        "text_model.final_layer_norm": "ln_final",
        "text_model.encoder.layers": "transformer.resblocks",
        "self_attn": "attn",
        "layer_norm": "ln_",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    authors = {}
    for name, array in hub.items():
        for theirs, ours in table.items():
            name = name.replace(theirs, ours)
        authors[name] = array.T if name in ("visual.proj", "text_projection") else array
    parts = ("q_proj", "k_proj", "v_proj")
    authors = fused(authors, lambda module, kind: f"{module}.in_proj_{kind}", parts)
    authors["context_length"] = np.array(77)
    assert authors["visual.transformer.resblocks.1.attn.in_proj_bias"].shape == (3 * 768,)
    hub["text_model.embeddings.position_ids"] = np.arange(77)[None]
    assert same_state(*(load("clip_vit_b_32", arrays) for arrays in (hub, authors)))


def test_vit_as_torchvision_lays_it_out_now_and_then(shallow):
    arrays = seeded_state_dict("vit_b_16")
    now = fused(arrays, lambda module, kind: f"{module}.in_proj_{kind}")
    assert now["encoder.layers.encoder_layer_0.self_attention.in_proj_weight"].shape[0] == 2304
    then = {
        name.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): array
        for name, array in now.items()
    }
    loaded = [load("vit_b_16", given) for given in (arrays, now, then)]
    assert same_state(*loaded[:2])
    assert same_state(*loaded[1:])


@pytest.mark.parametrize(
    ("name", "module", "joint", "width"),
    [
        ("vit_b_16", "encoder.layers.encoder_layer_1.self_attention", "in_proj_", 768),
        ("dinov2_vits14", "blocks.1.attn", "qkv.", 384),
        ("clip_vit_b_32", "transformer.resblocks.1.attn", "in_proj_", 512),
    ],
)
def test_faults_of_joint_projections_have_the_files_names(shallow, name, module, joint, width):
    one = {
        "vit_b_16": lambda: {"encoder.ln.weight": np.ones(768)},
        "dinov2_vits14": lambda: {"blocks.0.norm1.weight": np.ones(384)},
        "clip_vit_b_32": lambda: {"visual.proj": np.ones((768, 512))},
    }[name]()
    for shape in ((3 * width, 5), (3 * width + 1, width), ()):
        with pytest.raises(WeightsError) as caught:
            load(name, {**one, f"{module}.{joint}weight": np.ones(shape)})
        message = str(caught.value)
        assert f"{module}.{joint}bias missing" in message
        assert f"{module}.{joint}weight (its part {module}.query.weight) of shape" in message
        assert "key.bias" not in message


def test_every_parameter_is_accounted_for(shallow, tmp_path):
    arrays = seeded_state_dict("minilm_l6")
    broken = {**arrays, "cls.predictions.bias": np.ones(3, np.float32)}
    del broken["encoder.layer.1.attention.output.dense.weight"]
    broken["embeddings.position_ids"] = np.arange(1, 513)  # no mere counter
    with pytest.raises(WeightsError) as caught:
        load("minilm_l6", broken)
    for fault in (
        "encoder.layer.1.attention.output.dense.weight missing",
        "cls.predictions.bias unexpected",
        "embeddings.position_ids unexpected",
    ):
        assert fault in str(caught.value)
    write_hub_folder(tmp_path, {f"bert.{k}": v for k, v in arrays.items()}, {})
    assert same_state(load("minilm_l6", tmp_path), load("minilm_l6", arrays))


def test_a_folder_without_weights_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"expected one of model\.safetensors"):
        load("minilm_l6", tmp_path)


# Positions.


def test_cubic_weights_reproduce_quadratics_inside():
    """A cubic kernel with parameter -3/4 reproduces lines, exactly at samples; rows sum to one."""
    weights = dinov2.cubic(37, 16)
    assert weights.shape == (16, 37)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(dinov2.cubic(9, 9), np.eye(9), atol=1e-6)


@pytest.mark.peers
@pytest.mark.parametrize(("old", "new"), [(37, 16), (16, 37), (5, 5)])
def test_cubic_weights_against_torch(old, new):
    """By size, as transformers asks for it, and by the authors' scale factor."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    table = np.random.default_rng(0).normal(size=(1, 2, old, old)).astype(np.float32)
    given = torch.from_numpy(table)
    scale = ((new + 0.1) / old,) * 2
    for offset, settings in ((0.0, {"size": (new, new)}), (0.1, {"scale_factor": scale})):
        theirs = torch.nn.functional.interpolate(given, mode="bicubic", **settings).numpy()
        weights = dinov2.cubic(old, new, offset)
        ours = np.einsum("rh,bchw,sw->bcrs", weights, table, weights)
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_other_picture_sizes_are_refused_without_positions(shallow):
    backbone = load("vit_b_16", seeded_state_dict("vit_b_16"))
    with pytest.raises(ShapjaxError, match="10 x 14 patches, expected 14 x 14"):
        backbone.features(jnp.zeros((1, 160, 224, 3)))


@pytest.mark.parametrize(("name", "end"), [("dinov2_vits14", None), ("minilm_l6", 102)])
def test_large_batches_run_some_at_a_time(shallow, name, end):
    """Against the stages, which run whole."""
    backbone = load(name, seeded_state_dict(name))
    if end is None:
        x = seeded_pictures(6, 224)
    else:
        x = np.tile(texts(end), (6, 60))[:, :512].astype(np.int32)
    expected = run(backbone, x)[0]["last"]
    assert len(x) * expected.shape[1] > TOKENS_AT_ONCE
    got = jax.jit(lambda backbone, x: backbone.features(x))(backbone, x)
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


# Players.


def test_dropped_patches_are_left_out(shallow):
    """The definition: the network runs on the patches that stay, with their own positions."""
    from PIL import Image

    import shapjax as sj

    backbone = load("dinov2_vits14", seeded_state_dict("dinov2_vits14"))
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    players = np.arange(16 * 16).reshape(16, 16) // 64  # four bands of rows
    side = sj.parts(backbone, Image.fromarray(pixels), players=players, background="drop")
    masks = np.array([[True, False, True, False], [False] * 4, [True] * 4])
    got = jax.jit(lambda embed, masks: embed(masks))(side.embed, masks)
    x = backbone.preprocess(Image.fromarray(pixels), fit="stretch")[None]

    @jax.jit
    def alone(backbone, x, places):
        network = backbone.network
        return network.pool(network.encode(network.tokens(x)[:, places]))[0]

    for mask, vector in zip(masks, got, strict=True):
        keep = np.concatenate([[True], mask[players.ravel()]])
        expected = alone(backbone, x, np.flatnonzero(keep))
        np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got[2], run(backbone, x)[1][0], rtol=1e-4, atol=1e-5)
    with pytest.raises(ShapjaxError, match="whole patches"):
        sj.parts(backbone, Image.fromarray(pixels), background="drop")


@pytest.mark.parametrize("name", ["dinov2_vits14", "minilm_l6", "clip_vit_b_32 (text)"])
def test_long_sequences_run_by_the_tokens_that_stay(shallow, name):
    """Coalitions of every size, in the caller's order, against whole sequences that hide tokens."""
    backbone = load(name.partition(" ")[0], seeded_state_dict(name.partition(" ")[0]))
    backbone = backbone.text if name.endswith("(text)") else backbone
    rng = np.random.default_rng(0)
    length, width = 75, backbone.network.blocks[0].shape.width
    owners = np.append(-1, rng.permutation(length - 1) // 2)
    tokens = rng.standard_normal((length, width), np.float32)
    item = TokenItem(backbone, jnp.asarray(tokens), None, jnp.asarray(owners))
    players = owners.max() + 1
    masks = np.stack([rng.permutation(players) < size for size in range(players, -1, -2)])
    assert len(masks) % TOGETHER
    dropped = token_embed(item)
    got, expected = jax.jit(lambda masks, *ways: [way(masks) for way in ways])(
        masks, dropped, Partial(embed_unseen, item)
    )
    assert dropped.func is not embed_unseen
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_a_network_without_tokens_drops_nothing():
    import shapjax as sj

    with pytest.raises(ShapjaxError, match="no tokens to leave out"):
        sj.parts(load("shapjax_tiny"), np.zeros((8, 8, 3)), background="drop")


def test_a_shorter_text_in_a_batch_has_the_embedding_it_has_alone(shallow, monkeypatch):
    """Its features do not tell where it ends, so there is no head for them."""
    monkeypatch.setattr(clip, "TEXTS", dataclasses.replace(clip.TEXTS, width=16, heads=2))
    text = Backbone("text", None, *nnx.split(clip.ClipText(rngs=nnx.Rngs(0))))
    numbers = jnp.asarray(texts(clip.END))
    together, alone = text.embed(numbers), text.embed(numbers[1:, :5])
    np.testing.assert_allclose(together[1], alone[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(ShapjaxError, match=r"do not tell where each text ends.*call embed"):
        text.head(text.features(numbers))


def test_only_clip_has_a_tower_for_texts():
    with pytest.raises(ShapjaxError, match="no tower for texts"):
        load("shapjax_tiny").text  # noqa: B018
