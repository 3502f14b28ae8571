"""Backbones: the registry, filling networks, and SqueezeNet against independent computations."""

import csv
import dataclasses
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from seeded import seeded_state_dict

from shapjax.backbones import Backbone, cache, densenet, load, names, resnet, shares
from shapjax.backbones.filling import CHANNELS_FIRST, fill
from shapjax.backbones.folding import fold
from shapjax.backbones.layers import Affine, BatchNorm, Conv, average_pool_to
from shapjax.backbones.network import Network
from shapjax.backbones.record import IMAGENET, Preprocessing
from shapjax.backbones.registry import ROWS
from shapjax.backbones.squeezenet import CAFFE, SqueezeNet11
from shapjax.core.errors import ShapjaxError, WeightsError
from shapjax.evaluate.published import NETWORKS

DATA = Path(os.environ.get("SHAPJAX_DATA") or Path(__file__).parents[2] / "shared" / "data")
CAFFE_WEIGHTS = DATA / "squeezenet_v1_1_imagenet.npz"
MOBILENET = DATA / "mobilenet_v2_1.0_224_imagenet.npz"
PHOTOS = DATA / "voc_mini"

needs_data = pytest.mark.skipif(
    not (CAFFE_WEIGHTS.exists() and PHOTOS.exists()),
    reason=f"no real weights and photos under {DATA}; set SHAPJAX_DATA",
)

FIRES = {2: (64, 16, 64), 3: (128, 16, 64), 4: (128, 32, 128), 5: (256, 32, 128)}
FIRES |= {6: (256, 48, 192), 7: (384, 48, 192), 8: (384, 64, 256), 9: (512, 64, 256)}
TORCHVISION_INDEX = {2: 3, 3: 4, 4: 6, 5: 7, 6: 9, 7: 10, 8: 11, 9: 12}


def caffe_weights(seed=0):
    """Random weights under Caffe's names, scaled so that activations keep their size."""
    rng = np.random.default_rng(seed)
    shapes = {"conv1": (64, 3, 3, 3), "conv10": (1000, 512, 1, 1)}
    for fire, (inputs, squeezed, expanded) in FIRES.items():
        shapes[f"fire{fire}/squeeze1x1"] = (squeezed, inputs, 1, 1)
        shapes[f"fire{fire}/expand1x1"] = (expanded, squeezed, 1, 1)
        shapes[f"fire{fire}/expand3x3"] = (expanded, squeezed, 3, 3)
    arrays = {}
    for layer, shape in shapes.items():
        scale = np.sqrt(2 / np.prod(shape[1:]))
        arrays[f"{layer}/weight"] = rng.normal(0, scale, shape).astype(np.float32)
        arrays[f"{layer}/bias"] = rng.normal(0, 0.1, shape[0]).astype(np.float32)
    return arrays


def torchvision_names(arrays):
    """The same weights under torchvision's names."""
    layers = {"conv1": "features.0", "conv10": "classifier.1"}
    for fire, index in TORCHVISION_INDEX.items():
        layers[f"fire{fire}/squeeze1x1"] = f"features.{index}.squeeze"
        layers[f"fire{fire}/expand1x1"] = f"features.{index}.expand1x1"
        layers[f"fire{fire}/expand3x3"] = f"features.{index}.expand3x3"
    split = {name: name.rsplit("/", 1) for name in arrays}
    return {f"{layers[layer]}.{kind}": arrays[name] for name, (layer, kind) in split.items()}


# SqueezeNet in plain NumPy, NCHW and float64.


def convolve(x, weight, bias, stride=1, padding=0):
    x = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], (2, 3))
    windows = windows[:, :, ::stride, ::stride]
    return np.einsum("bihwkl,oikl->bohw", windows, weight, optimize=True) + bias[:, None, None]


def pool_ceil(x):
    sides = [-(-(side - 3) // 2) + 1 for side in x.shape[2:]]
    result = np.empty((*x.shape[:2], *sides))
    for i in range(sides[0]):
        for j in range(sides[1]):
            window = x[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            result[:, :, i, j] = window.max(axis=(2, 3))
    return result


def squeezenet_in_numpy(arrays, x):
    """Features and scores of NHWC input, in the layout of the package."""

    def layer(x, name, **settings):
        weight, bias = (arrays[f"{name}/{kind}"].astype(np.float64) for kind in ("weight", "bias"))
        return np.maximum(convolve(x, weight, bias, **settings), 0)

    x = layer(np.asarray(x, np.float64).transpose(0, 3, 1, 2), "conv1", stride=2)
    for fire in FIRES:
        x = pool_ceil(x) if fire in (2, 4, 6) else x
        squeezed = layer(x, f"fire{fire}/squeeze1x1")
        wide = layer(squeezed, f"fire{fire}/expand3x3", padding=1)
        x = np.concatenate([layer(squeezed, f"fire{fire}/expand1x1"), wide], axis=1)
    return x.transpose(0, 2, 3, 1), layer(x, "conv10").mean(axis=(2, 3))


def test_squeezenet_against_numpy_in_both_layouts():
    arrays = caffe_weights()
    # 42 makes the first two poolings overhang, 35 the last two: ceil mode matters in each.
    x = np.random.default_rng(1).normal(size=(2, 42, 35, 3)).astype(np.float32)
    features, scores = squeezenet_in_numpy(arrays, x)
    assert features.shape == (2, 2, 2, 512)
    assert (features > 0).mean() > 0.2
    caffe, torchvision = (
        load("squeezenet1_1", given) for given in (arrays, torchvision_names(arrays))
    )
    for net in (caffe, torchvision):
        ours = net.features(jnp.asarray(x))
        np.testing.assert_allclose(ours, features, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(net.head(ours), scores, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(
            net.embed(jnp.asarray(x)), features.mean(axis=(1, 2)), rtol=1e-4, atol=1e-4
        )
    assert caffe.preprocessing == CAFFE
    assert torchvision.preprocessing == IMAGENET


@pytest.mark.parametrize(("stride", "padding"), [(1, "SAME"), (2, 1), (1, "VALID"), (2, "SAME")])
@pytest.mark.parametrize("side", [1, 3, 4])
def test_convolutions_are_those_of_flax(side, stride, padding):
    """Forwards and backwards."""
    padding = side // 2 if padding == 1 else padding
    conv = Conv(6, 5, (side, side), stride, padding=padding, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 9, 8, 6))

    @jax.jit
    def both_ways(run, x):
        y, back = jax.vjp(run, x)
        return y, back(jnp.cos(y))

    ours = both_ways(jax.tree_util.Partial(conv), x)
    flax = both_ways(jax.tree_util.Partial(lambda x: nnx.Conv.__call__(conv, x)), x)
    for got, want in zip(ours, flax, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(("side", "locations"), [(227, 14), (224, 13)])
def test_size_of_the_last_map(side, locations):
    network = nnx.eval_shape(lambda: SqueezeNet11(rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(network)
    x = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    features = jax.eval_shape(lambda s, x: nnx.merge(graphdef, s).features(x), state, x)
    assert features.shape == (1, locations, locations, 512)


def test_preprocessing_is_the_publishers():
    arrays = caffe_weights()
    rgb = np.random.default_rng(0).random((4, 5, 3)).astype(np.float32)
    caffe = load("squeezenet1_1", arrays)
    bgr = 255 * rgb[..., ::-1] - np.array([104, 117, 123])
    np.testing.assert_allclose(caffe.normalise(jnp.asarray(rgb)), bgr, atol=1e-4)
    torchvision = load("squeezenet1_1", torchvision_names(arrays))
    expected = (rgb - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(torchvision.normalise(jnp.asarray(rgb)), expected, atol=1e-5)
    image = Image.new("RGB", (300, 400))
    assert caffe.preprocess(image).shape == (227, 227, 3)
    assert torchvision.preprocess(image).shape == (224, 224, 3)


def test_a_stretched_picture_is_bilinear_between_the_centres_of_its_pixels():
    """Four pixels over two have their centres at -1/4, 1/4, 3/4 and 5/4 of a pixel."""
    image = Image.fromarray(np.array([[0, 64], [128, 192]], np.uint8)).convert("RGB")
    settings = Preprocessing(size=4, resize=9, mean=(0,) * 3, std=(1,) * 3)
    found = settings.pixels(image, fit="stretch")
    expected = [
        [0, 16, 48, 64],
        [32, 48, 80, 96],
        [96, 112, 144, 160],
        [128, 144, 176, 192],
    ]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(np.rint(found * 255), np.stack([expected] * 3, -1))
    # Bilinear whatever the publisher crops with, as the paper has it.
    bicubic = dataclasses.replace(settings, resampling="bicubic")
    np.testing.assert_array_equal(bicubic.pixels(image, fit="stretch"), found)
    # Neither side is cut.
    assert np.ptp(settings.pixels(image.resize((40, 6)), fit="stretch")) > 0.7


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_the_paper_see_224_pixels_a_side(name):
    row = ROWS[name]
    module = importlib.import_module(f"shapjax.backbones.{row.module}")
    own = module.layout(name, ()).preprocessing
    given = [published.preprocessing or own for published in row.published.values()]
    for settings in (own, *given):
        assert settings.size == 224
        assert settings.pixels(Image.new("RGB", (9, 5)), fit="stretch").shape == (224, 224, 3)


def test_two_backbones_share_one_compiled_program():
    first, second = (load("squeezenet1_1", caffe_weights(seed)) for seed in range(2))
    traces = 0

    @jax.jit
    def embed(net: Backbone, x):
        nonlocal traces
        traces += 1
        return net.embed(x)

    x = jnp.ones((1, 35, 35, 3), jnp.float32)
    assert not np.allclose(embed(first, x), embed(second, x))
    assert traces == 1


# The registry.


def test_names_and_unknown_name():
    assert names()[0] == "shapjax_tiny"
    assert {"resnet50", "squeezenet1_1"} <= set(names())
    with pytest.raises(ShapjaxError, match=r"'vgg'.*shapjax_tiny, .*squeezenet1_1"):
        load("vgg")


def test_importing_the_package_leaves_flax_alone():
    code = "import sys, shapjax.backbones; sys.exit('flax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_files_on_the_hub_are_of_fixed_revisions():
    """But for MiniLM's, of which none is known here."""
    moving = {
        name
        for name, row in ROWS.items()
        for published in row.published.values()
        for url in (published.url, *(published.vocabulary or ())[:1])
        if "huggingface.co/" in url and not re.search(r"/resolve/[0-9a-f]{40}/[\w.]+$", url)
    }
    assert moving == {"minilm_l6"}


def test_the_readme_names_the_first_published_files():
    readme = Path(__file__).parents[1] / "README.md"
    if not readme.exists():
        pytest.skip("needs the README of the repository")
    for name, row in ROWS.items():
        for published in list(row.published.values())[:1]:
            url = published.url.removeprefix("https://")
            assert re.search(rf"^\| {name} \| 32 \| {re.escape(url)} \|", readme.read_text(), re.M)


def test_weights_without_a_publisher_are_asked_for():
    with pytest.raises(WeightsError, match=r"resnet50_cub_margin comes without .*Roth et al"):
        load("resnet50_cub_margin")


def test_the_default_backbone_with_given_weights():
    from shapjax.backbones.shapjax_tiny import PREPROCESSING, ShapjaxTiny

    rng = np.random.default_rng(0)
    network = nnx.eval_shape(lambda: ShapjaxTiny(rngs=nnx.Rngs(0)))
    arrays = {
        ".".join(map(str, path)): rng.random(variable.shape).astype(np.float16)
        for path, variable in nnx.to_flat_state(nnx.state(network))
    }
    net = load("shapjax_tiny", arrays)
    assert net.preprocessing == PREPROCESSING
    np.testing.assert_array_equal(
        nnx.merge(net.graphdef, net.state).stem.conv.kernel[...], arrays["stem.conv.kernel"]
    )
    x = jnp.ones((1, PREPROCESSING.size, PREPROCESSING.size, 3), jnp.float32)
    assert net.features(x).dtype == jnp.float32


def test_the_default_backbone_brings_its_weights():
    net = load("shapjax_tiny")
    assert net.name == "shapjax_tiny"
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(net.state))


@pytest.mark.parametrize("given", ["imagenet1k_v3", "best"])
def test_names_of_published_weights_are_listed(given):
    listed = f"got weights '{given}', expected one of imagenet1k_v2, imagenet1k_v1 or"
    with pytest.raises(WeightsError, match=listed):
        load("resnet50", given)


def test_names_of_published_weights_in_either_case(monkeypatch):
    monkeypatch.setattr(cache, "published_backbone", lambda name, module, published: published)
    published = load("resnet50", "IMAGENET1K_V1")
    assert published == ROWS["resnet50"].published["imagenet1k_v1"]


# Publishers' layouts.


def mocos_checkpoint(arrays):
    """As its authors save it: from parallel training, with the momentum encoder and its queue."""
    counter = {"encoder_q.bn1.num_batches_tracked": np.array(7)}
    momentum = {key.replace("encoder_q", "encoder_k"): -value for key, value in arrays.items()}
    queue = {"queue": np.ones((128, 9)), "queue_ptr": np.zeros(1, np.int64)}
    state = {f"module.{k}": v for k, v in {**arrays, **counter, **momentum, **queue}.items()}
    optimizer = {"state": {0: {"momentum_buffer": np.ones(3)}}, "param_groups": [{"lr": 0.03}]}
    return {"epoch": 200, "arch": "resnet50", "state_dict": state, "optimizer": optimizer}


def roths_names(arrays):
    """Their module holds torch's network as ``model`` and lists its layers once more."""
    blocks = {
        f"layer_blocks.{int(name[5]) - 1}{name[6:]}": array
        for name, array in arrays.items()
        if name.startswith("layer")
    }
    return blocks | {f"model.{name}": array for name, array in arrays.items()}


def densenets_old_names(arrays):
    """``norm.1`` where the network has ``norm1``, in dense layers only."""
    return {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name): array
        for name, array in arrays.items()
    }


@pytest.mark.parametrize(
    ("name", "published", "example"),
    [
        ("moco_v2", mocos_checkpoint, "state_dict"),
        ("resnet50_cub_margin", roths_names, "layer_blocks.3.0.conv1.weight"),
        ("densenet121", densenets_old_names, "features.denseblock2.denselayer1.norm.2.weight"),
    ],
)
def test_layouts_of_publishers_files(name, published, example, monkeypatch):
    monkeypatch.setitem(resnet.DEPTHS, "resnet50", (1, 1, 1, 1))
    monkeypatch.setattr(densenet, "DEPTHS", (1, 2, 1, 1))
    arrays = seeded_state_dict(name)
    theirs = published(arrays)
    assert example in theirs
    plain, found = (load(name, given) for given in (arrays, theirs))
    assert plain.graphdef == found.graphdef
    leaves = zip(jax.tree.leaves(plain.state), jax.tree.leaves(found.state), strict=True)
    assert all(np.array_equal(a, b) for a, b in leaves)


# Filling.


class Small(nnx.Module):
    def __init__(self, kernel_init=nnx.initializers.zeros, *, rngs):
        self.depthwise = nnx.Conv(
            4, 4, (3, 3), feature_group_count=4, kernel_init=kernel_init, rngs=rngs
        )
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.linear = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.linear(self.norm(self.depthwise(x)).mean(axis=(1, 2)))


def small_arrays():
    rng = np.random.default_rng(0)
    shapes = {"depthwise.kernel": (4, 1, 3, 3), "linear.kernel": (2, 4)}
    shapes |= {"depthwise.bias": (4,), "linear.bias": (2,)}
    shapes |= {f"norm.{name}": (4,) for name in ("scale", "bias", "mean", "var")}
    return {name: rng.random(shape).astype(np.float32) for name, shape in shapes.items()}


def small_factory():
    return Small(rngs=nnx.Rngs(0))


def test_fill_converts_depthwise_and_linear_and_reads_statistics():
    arrays = small_arrays()
    graphdef, state = fill(small_factory, arrays, axes=CHANNELS_FIRST)
    x = np.random.default_rng(1).random((2, 5, 6, 4)).astype(np.float32)
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    y = np.einsum("bhwckl,ckl->bhwc", windows, arrays["depthwise.kernel"][:, 0])
    y = y + arrays["depthwise.bias"] - arrays["norm.mean"]
    y = y / np.sqrt(arrays["norm.var"] + 1e-5) * arrays["norm.scale"] + arrays["norm.bias"]
    expected = y.mean(axis=(1, 2)) @ arrays["linear.kernel"].T + arrays["linear.bias"]
    np.testing.assert_allclose(nnx.merge(graphdef, state)(x), expected, rtol=1e-5)


def test_fill_never_runs_the_initialiser():
    def initialise(key, shape, dtype, _=None):
        assert isinstance(key, jax.core.Tracer)
        return jnp.zeros(shape, dtype)

    fill(lambda: Small(initialise, rngs=nnx.Rngs(0)), small_arrays(), axes=CHANNELS_FIRST)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, jnp.bfloat16])
def test_fill_casts_to_the_networks_type(dtype):
    arrays = {name: array.astype(dtype) for name, array in small_arrays().items()}
    _, state = fill(small_factory, arrays, axes=CHANNELS_FIRST)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {np.dtype(np.float32)}


def test_fill_lists_every_fault_in_one_message():
    arrays = small_arrays()
    del arrays["linear.bias"]
    arrays["extra"] = np.ones(2)
    arrays["linear.kernel"] = np.ones((4, 2))
    arrays["norm.mean"][1] = np.nan
    arrays["norm.var"] = np.full(4, 1e300)
    with pytest.raises(WeightsError) as caught:
        fill(small_factory, arrays, axes=CHANNELS_FIRST)
    for fault in (
        "5 of the arrays",
        "linear.bias missing",
        "extra unexpected",
        "linear.kernel of shape (4, 2) instead of (2, 4)",
        "norm.mean not finite",
        "norm.var not finite",
    ):
        assert fault in str(caught.value)


def test_fill_lists_forty_faults_by_name_and_a_count():
    with pytest.raises(WeightsError, match=r"53 of the arrays .*\.bias missing.* and 13 more\)"):
        load("squeezenet1_1", {"unknown": np.ones(1)})
    messages = []
    for order in ("abcdef", "fcdeab"):
        with pytest.raises(WeightsError) as caught:
            fill(small_factory, dict.fromkeys(order, np.ones(1)) | small_arrays())
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "a unexpected, b unexpected, c unexpected, d unexpected, depthwise" in messages[0]


def test_counters_are_left_out_beside_norms_only():
    arrays = seeded_state_dict("resnet18")
    counter = np.array(7)
    load("resnet18", arrays | {"bn1.num_batches_tracked": counter})
    with pytest.raises(WeightsError, match=r"\(foo\.num_batches_tracked unexpected\)"):
        load("resnet18", arrays | {"foo.num_batches_tracked": counter})


def test_a_variance_that_cannot_be_folded_is_named(recwarn):
    arrays = seeded_state_dict("resnet18")
    arrays["layer1.0.bn2.running_var"][3] = -0.5
    arrays["layer2.0.downsample.1.running_var"][0] = np.float32(-1e-5)
    with pytest.raises(WeightsError) as caught:
        load("resnet18", arrays)
    assert "layer1.0.bn2.running_var gives no finite factor" in str(caught.value)
    assert "layer2.0.downsample.1.running_var gives no finite factor" in str(caught.value)
    assert not recwarn


def test_files_of_another_network_are_refused():
    arrays = torchvision_names(caffe_weights())
    with pytest.raises(WeightsError, match="fit the network"):
        load("shapjax_tiny", arrays)


class Normalised(nnx.Module):
    FOLDS: ClassVar = {"conv": "norm", "parts.0": "parts.1"}

    def __init__(self, *, rngs):
        self.before = BatchNorm(3)
        self.conv = Conv(3, 6, (3, 3), padding=1, use_bias=False, rngs=rngs)
        self.norm = BatchNorm(6, 1e-3)
        depthwise = Conv(6, 6, (3, 3), padding=1, feature_group_count=6, rngs=rngs)
        self.parts = nnx.List([depthwise, BatchNorm(6)])

    def __call__(self, x):
        return self.parts[1](self.parts[0](nnx.relu(self.norm(self.conv(self.before(x))))))


def test_folding_leaves_the_function_as_it_is():
    rng = np.random.default_rng(0)
    network = Normalised(rngs=nnx.Rngs(0))
    for norm in (network.before, network.norm, network.parts[1]):
        for variable in (norm.scale, norm.bias, norm.mean, norm.var):
            variable[...] = jnp.asarray(rng.uniform(0.5, 2, variable.shape), jnp.float32)
    x = rng.normal(size=(2, 5, 4, 3)).astype(np.float32)
    expected = network(x)
    folded = fold(network)
    np.testing.assert_allclose(folded(x), expected, rtol=1e-5, atol=1e-5)
    left = [type(module) for _, module in nnx.iter_modules(folded)]
    assert BatchNorm not in left
    assert left.count(Affine) == 1


class Cubes(Network):
    """Squares, then cubes; it notes how many pictures each stage is traced with."""

    at_once: ClassVar[int] = 4

    def __init__(self):
        self.power = nnx.Param(jnp.asarray(3.0))
        self.seen = set()

    def stages(self):
        def raised(x):
            self.seen.add(len(x))
            return x ** self.power[...]

        return [("square", lambda x: x * x), ("cube", raised)]


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other devices take whole batches")
@pytest.mark.parametrize(
    ("batch", "cores", "sizes"),
    [(6, 1, {3}), (4, 1, {4}), (9, 1, {3}), (7, 1, {4}), (5, 1, {3}), (16, 8, {8})],
)
def test_pictures_run_in_shares_as_in_one_batch(batch, cores, sizes, monkeypatch):
    monkeypatch.setattr(shares, "cores", lambda: cores)
    x = np.random.default_rng(0).uniform(0.5, 1.5, (batch, 2, 2, 3)).astype(np.float32)
    network = Cubes()
    np.testing.assert_allclose(network.features(jnp.asarray(x)), x**6, rtol=1e-5)
    assert network.seen == sizes
    slope = jax.grad(lambda x: network.features(x).sum())(jnp.asarray(x))
    np.testing.assert_allclose(slope, 6 * x**5, rtol=1e-5)
    mapped = jax.vmap(network.features)(jnp.asarray(x)[None])[0]
    np.testing.assert_allclose(mapped, x**6, rtol=1e-5)


def test_networks_stay_in_single_precision(x64):
    """Where games run in float64, as in the command."""

    def factory():
        return Normalised(rngs=nnx.Rngs(0))

    abstract = nnx.to_flat_state(nnx.state(nnx.eval_shape(factory)))
    graphdef, state = fill(factory, {".".join(map(str, k)): np.ones(v.shape) for k, v in abstract})
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {np.dtype(np.float32)}
    assert nnx.merge(graphdef, state)(jnp.ones((1, 4, 4, 3), np.float32)).dtype == np.float32


@pytest.mark.parametrize("shape", [(7, 7), (14, 14), (5, 3), (9, 16)])
def test_pooling_to_bins_that_cover_the_map(shape):
    x = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype(np.float32)
    height, width = shape
    expected = np.empty((2, 7, 7, 3))
    for i in range(7):
        for j in range(7):
            rows = slice(i * height // 7, -(-(i + 1) * height // 7))
            columns = slice(j * width // 7, -(-(j + 1) * width // 7))
            expected[:, i, j] = x[:, rows, columns].mean(axis=(1, 2))
    np.testing.assert_allclose(average_pool_to(jnp.asarray(x), 7), expected, atol=1e-6)


# Against torch, where it is installed.


def squeezenet_in_torch(weights, x):
    """Features and scores of NCHW input, from a state dict with torchvision's names."""
    import torch
    from torch.nn import functional

    def layer(x, name, **settings):
        x = functional.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], **settings)
        return functional.relu(x)

    x = layer(x, "features.0", stride=2)
    for fire, index in TORCHVISION_INDEX.items():
        if fire in (2, 4, 6):
            x = functional.max_pool2d(x, 3, 2, ceil_mode=True)
        squeezed = layer(x, f"features.{index}.squeeze")
        narrow = layer(squeezed, f"features.{index}.expand1x1")
        wide = layer(squeezed, f"features.{index}.expand3x3", padding=1)
        x = torch.cat([narrow, wide], dim=1)
    return x, layer(x, "classifier.1").mean(dim=(2, 3))


@pytest.mark.peers
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_squeezenet_against_torch_through_a_saved_file(tmp_path, form):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    weights = {
        name: torch.from_numpy(array) for name, array in torchvision_names(caffe_weights()).items()
    }
    path = tmp_path / "squeezenet1_1.pth"
    torch.save(weights, path, _use_new_zipfile_serialization=form == "zip")
    net = load("squeezenet1_1", path)
    x = np.random.default_rng(2).normal(size=(2, 66, 51, 3)).astype(np.float32)
    features, scores = squeezenet_in_torch(
        weights, torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    )
    ours = net.features(jnp.asarray(x))
    np.testing.assert_allclose(ours, features.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(net.head(ours), scores, rtol=1e-4, atol=1e-4)


# Real photos.

# ImageNet's classes of each animal, by words of their labels: the dogs stand in one run of 118,
# from the Chihuahua to the Mexican hairless; the only horse is a sorrel.
DOGS = ("Chihuahua", "Mexican hairless")
LABELS = {
    "cat": ("tabby, tabby cat", "tiger cat", "Persian cat", "Siamese cat, Siamese", "Egyptian cat"),
    "horse": ("sorrel",),
    "sheep": ("ram, tup", "bighorn, bighorn sheep"),
    "cow": ("ox", "water buffalo, water ox", "bison"),
}


def animal_classes():
    lines = (DATA / "imagenet_synset.txt").read_text().splitlines()
    labels = [line.strip().strip("'").split(" ", 1)[1] for line in lines]
    first, last = (labels.index(name) for name in DOGS)
    assert last - first + 1 == 118
    classes = {"dog": set(range(first, last + 1))}
    for animal, starts in LABELS.items():
        classes[animal] = {
            labels.index(label)
            for label in labels
            for start in starts
            if label == start or label.startswith(f"{start},")
        }
        assert len(classes[animal]) == len(starts)
    return classes


def single_animal_photos():
    """Names and animals of the photos with exactly one of the five over 5% of the pixels."""
    animals = {"dog", *LABELS}
    with (PHOTOS / "images.csv").open() as stream:
        for row in csv.DictReader(stream):
            shown = {part.partition(":")[0] for part in row["classes_over_5pct"].split()}
            if len(shown & animals) == 1:
                yield row["image"], *(shown & animals)


def accuracy(net, step=2, first_class=0):
    """Top-1 and top-5 share by coarse labels, and how often nearest neighbours share the animal.

    Of every ``step``-th of the 302 photos with one of the animals, to save time.
    """
    photos = list(single_animal_photos())
    assert len(photos) == 302
    photos = photos[::step]
    classes = animal_classes()

    @jax.jit
    def run(net, rgb):
        features = net.features(net.normalise(rgb))
        return net.head(features)[:, first_class:], features.mean(axis=(1, 2))

    images = [
        Image.open(PHOTOS / "JPEGImages" / f"{name}.jpg").convert("RGB") for name, _ in photos
    ]
    rgb = np.stack([net.resize(image) for image in images])
    count = -(-len(rgb) // 32)
    padded = np.resize(rgb, (32 * count, *rgb.shape[1:]))
    batches = [run(net, chunk) for chunk in np.split(padded, count)]
    scores, pooled = (np.concatenate(part)[: len(photos)] for part in zip(*batches, strict=True))

    top = np.argsort(-scores, axis=1)[:, :5]
    hits = np.array(
        [[c in classes[a] for c in row] for row, (_, a) in zip(top, photos, strict=True)]
    )
    animals = np.array([animal for _, animal in photos])
    directions = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    similarity = directions @ directions.T - 2 * np.eye(len(photos))
    nearest = (animals[similarity.argmax(axis=1)] == animals).mean()
    return (hits[:, 0].mean(), hits.any(axis=1).mean()), nearest


@needs_data
def test_mobilenet_in_tensorflows_layout():
    """The graph beside the weights: every convolution's shape and padding; 7 x 7 x 1280 last."""
    net = load("mobilenet_v2", MOBILENET)
    assert net.preprocessing.size == 224
    rgb = np.array([[[0, 128, 255]]], np.float32) / 255
    expected = (255 * rgb - 128) / 128
    np.testing.assert_allclose(net.normalise(jnp.asarray(rgb)), expected, atol=1e-6)
    graph = json.loads(MOBILENET.with_suffix(".graph.json").read_text())
    shapes = [op["shape"] for op in graph["ops"] if op["op"] == "CONV_2D" and op["act"] == 0]
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    maps = jax.eval_shape(lambda net, x: net.maps(x), net, x)
    projected = [list(maps[f"features.{place}"].shape) for place in range(1, 18)]
    assert projected == shapes[:17]
    assert maps["features.18"].shape == (1, 7, 7, 1280)


@needs_data
def test_squeezenet_on_real_photos():
    """Accuracy by coarse labels, against an independent torch run on more photos.

    MANIFEST.md has top-1 0.547 and top-5 0.727 over 534 photos, of which 302 are here; all 302
    give 0.560 and 0.752. Every other one of them is taken, to save time. The tolerance is three
    standard errors of a share among 151 drawn from 534 without replacement:
    3 sqrt(p (1 - p) / 151 (1 - 151/534)), that is 0.103 and 0.092.
    """
    shares, nearest = accuracy(load("squeezenet1_1", CAFFE_WEIGHTS))
    assert shares[0] == pytest.approx(0.547, abs=0.103)
    assert shares[1] == pytest.approx(0.727, abs=0.092)
    # Nearest neighbours share the animal far more often than the 0.23 of chance.
    assert nearest > 0.5


@needs_data
def test_mobilenet_on_real_photos():
    """As SqueezeNet's; MANIFEST.md has top-1 0.682, top-5 0.865 and nearest neighbours 0.852.

    Three standard errors of a share among 101 drawn from 534:
    3 sqrt(p (1 - p) / 101 (1 - 101/534)), that is 0.126 and 0.092.
    """
    # Class 0 is the background.
    shares, nearest = accuracy(load("mobilenet_v2", MOBILENET), step=3, first_class=1)
    assert shares[0] == pytest.approx(0.682, abs=0.126)
    assert shares[1] == pytest.approx(0.865, abs=0.092)
    assert nearest > 0.7
