"""Every network against its publisher's in torch: live, and by activations torch once gave."""

import functools
import importlib
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from seeded import seeded_pictures, seeded_state_dict
from torch_references import (
    features,
    first_difference,
    reference,
    run_reference,
    torchvision_models,
)

from shapjax.backbones import Backbone, load, names
from shapjax.backbones.record import IMAGENET
from shapjax.backbones.registry import ROWS

GOLDEN = Path(__file__).parent / "golden" / "backbones.npz"
SIDE = 64
CONVOLUTIONAL = (
    "resnet18",
    "resnet50",
    "resnet101",
    "vgg11",
    "vgg11_bn",
    "vgg16",
    "densenet121",
    "squeezenet1_1",
    "mobilenet_v2",
    "moco_v2",
    "resnet50_cub_margin",
    "convnext_tiny",
)
LARGER = ("resnet101", "vgg16")
"""The same blocks as those of a smaller network above, only more of them."""
TOLERANCE = 1e-4


# Most of the time goes into compiling; that of what users run is left to the slow tests.
@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def run(backbone, x):
    """Maps, embedding and head, in one program."""
    maps = backbone.maps(x)
    return maps, backbone.embed(x), backbone.head(next(reversed(maps.values())))


def close(got, want):
    return np.abs(np.asarray(got) - want).max() <= TOLERANCE * np.abs(want).max()


@pytest.mark.peers
def test_addresses_and_crops_are_torchvisions():
    """Every file of torchvision's that the registry names, against what torchvision says itself."""
    models = torchvision_models()
    checked = 0
    for name, row in ROWS.items():
        for weights, published in row.published.items():
            if published.url.startswith("https://download.pytorch.org/"):
                theirs = models.get_model_weights(name)[weights.upper()]
                crop = theirs.transforms()
                ours = published.preprocessing or IMAGENET
                assert published.url == theirs.url
                assert published.digest == f"sha256:{theirs.url[-12:-4]}"
                assert ([ours.size], [ours.resize]) == (crop.crop_size, crop.resize_size)
                assert crop.interpolation.value == ours.resampling
                assert (tuple(crop.mean), tuple(crop.std)) == (ours.mean, ours.std)
                checked += 1
    assert checked == 14


@pytest.mark.peers
@pytest.mark.parametrize("shape", [(300, 401), (500, 231), (120, 160)])
def test_pixels_are_torchvisions(shape):
    """Every record of torchvision's files, on pictures larger and smaller than its size."""
    models = torchvision_models()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8))
    seen = set()
    for name, row in ROWS.items():
        for weights, published in row.published.items():
            ours = published.preprocessing or IMAGENET
            if published.url.startswith("https://download.pytorch.org/") and ours not in seen:
                seen.add(ours)
                theirs = models.get_model_weights(name)[weights.upper()].transforms()(image)
                expected = theirs.numpy().transpose(1, 2, 0)
                np.testing.assert_allclose(ours.prepare(image), expected, atol=1e-5)
    assert seen


CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENETS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.peers
@pytest.mark.parametrize("shape", [(300, 401), (500, 231), (120, 160)])
@pytest.mark.parametrize(
    ("name", "names", "resize", "statistics"),
    [
        ("clip_vit_b_32", ["visual.proj"], 224, CLIP),
        ("dinov2_vits14", ["blocks.0.norm1.weight"], 256, IMAGENETS),
    ],
)
def test_pixels_are_those_of_publishers_transforms(name, names, resize, statistics, shape):
    """``_transform`` of openai/CLIP, ``make_classification_eval_transform`` of DINOv2."""
    torchvision_models()
    from torchvision import transforms

    module = importlib.import_module(f"shapjax.backbones.{ROWS[name].module}")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8))
    theirs = transforms.Compose(
        [
            transforms.Resize(resize, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(*statistics),
        ]
    )(image)
    ours = module.layout(name, names).preprocessing.prepare(image)
    np.testing.assert_allclose(ours, theirs.numpy().transpose(1, 2, 0), atol=1e-5)


def test_every_convolutional_network_is_listed():
    assert set(CONVOLUTIONAL) <= set(names())


@pytest.mark.slow
@pytest.mark.peers
@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_parity_with_torch(name):
    """Stage by stage, then features, embedding and head, to 1e-4 of the largest entry."""
    pytest.importorskip("torch", reason="torch is not installed")
    network, arrays = reference(name)
    x = seeded_pictures(2, SIDE)
    maps, embedding, output = jax.jit(run.__wrapped__)(load(name, arrays), jnp.asarray(x))
    theirs, their_output = run_reference(name, network, x, maps)
    # The last stages of these two are no modules in torch.
    assert len(theirs) == len(maps) - (name in ("densenet121", "resnet50_cub_margin"))
    assert first_difference(maps, theirs, TOLERANCE) is None

    ours = next(reversed(maps.values()))
    last = features(name, network, x)
    assert close(ours, last)
    if name == "resnet50_cub_margin":
        # The reference ends in the projection of the pooled map; the authors normalise it.
        their_output = their_output / np.linalg.norm(their_output, axis=1, keepdims=True)
        assert close(embedding, their_output)
    else:
        assert close(embedding, last.mean(axis=(1, 2)))
    assert close(output, their_output)


@pytest.mark.peers
def test_layers_inside_blocks_are_torchs():
    """Every convolution with the norm that it absorbed, against torch's norm."""
    pytest.importorskip("torch", reason="torch is not installed")
    network, arrays = reference("resnet18")
    x = seeded_pictures(2, SIDE)
    maps = load("resnet18", arrays).maps(jnp.asarray(x), inner=True)
    norms = {
        name: name.replace("conv", "bn").replace("downsample.0", "downsample.1")
        for name in maps
        if re.search(r"conv\d$|downsample\.0$", name)
    }
    found, _ = run_reference("resnet18", network, x, norms.values())
    assert len(found) == len(norms) == 20
    theirs = {name: found[norm] for name, norm in norms.items()}
    assert first_difference({name: maps[name] for name in norms}, theirs) is None


def test_layers_inside_blocks_by_name():
    """A residual block's output is the rectified sum of its last layer's and its input."""
    backbone = load("resnet18", seeded_state_dict("resnet18"))
    x = jnp.asarray(seeded_pictures(1, 32))
    plain, maps = backbone.maps(x), backbone.maps(x, inner=True)
    assert [name for name in maps if name in plain] == list(plain)
    assert len(maps) == len(plain) + 20, "a stage or one of the convolutions"
    order = list(maps)
    assert order[:5] == ["conv1", "relu", "maxpool", "layer1.0.conv1", "layer1.0.conv2"]
    block = order.index("layer2.0.conv1")
    assert order[block : block + 4] == [
        *("layer2.0.conv1", "layer2.0.conv2", "layer2.0.downsample.0", "layer2.0"),
    ]
    np.testing.assert_allclose(
        maps["layer1.0"], np.maximum(maps["layer1.0.conv2"] + maps["maxpool"], 0), atol=1e-5
    )
    shapes = jax.eval_shape(lambda backbone, x: backbone.maps(x, inner=True), backbone, x)
    assert list(shapes) == order
    assert shapes["layer2.0.conv1"].shape == maps["layer2.0.conv1"].shape == (1, 4, 4, 128)


def test_the_diagnostic_names_the_first_layer_that_differs():
    arrays = seeded_state_dict("resnet18")
    broken = dict(arrays)
    broken["layer2.1.conv1.weight"] = 1.01 * arrays["layer2.1.conv1.weight"]
    x = jnp.asarray(seeded_pictures(1, 32))
    for inner, culprit in ((False, "layer2.1"), (True, "layer2.1.conv1")):
        maps = jax.jit(Backbone.maps, static_argnames="inner")
        good, bad = (maps(load("resnet18", given), x, inner=inner) for given in (arrays, broken))
        good = {name: np.asarray(value) for name, value in good.items()}
        assert first_difference(good, good) is None
        name, error = first_difference(bad, good)
        assert name == culprit
        assert 1e-4 < error < 1


def samples(map_, count=8):
    """Entries spread over a map, and its root mean square: [count + 1]."""
    flat = np.asarray(map_, np.float32).ravel()
    chosen = flat[np.linspace(0, flat.size - 1, count).astype(int)]
    return np.append(chosen, np.sqrt(np.mean(flat * flat)))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in LARGER else ())
        for name in CONVOLUTIONAL
    ],
)
def test_activations_that_torch_gave(name):
    """Without torch: the same state dict from its seed, against stored samples of torch's maps.

    ``tests/make_golden_backbones.py`` writes them.
    """
    with np.load(GOLDEN) as golden:
        stages, values = golden[f"{name}/stages"], golden[f"{name}/values"]
    x = jnp.asarray(seeded_pictures(1, SIDE))
    maps, _, output = run(load(name, seeded_state_dict(name)), x)
    maps["output"] = output
    for stage, want in zip(stages, values, strict=True):
        got = samples(maps[stage])
        scale = max(np.abs(want).max(), want[-1])
        assert np.abs(got - want).max() <= TOLERANCE * scale, stage
