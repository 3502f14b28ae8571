"""The commands that take backbones by name: ``shapjax explain``, and the benchmark of their speed.

The networks are those of the registry with fewer layers and smaller pictures, so that each takes
seconds; their weights come from a seed, since nothing can be downloaded here.
"""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from seeded import seeded_state_dict
from test_text import WORDS
from test_transformers import make_shallow

import shapjax as sj
from shapjax import cli
from shapjax.backbones import clip, convnext, densenet, mobilenet, names, resnet, squeezenet, vgg
from shapjax.report import outputs

PICTURES = [name for name in names() if name != "minilm_l6"]
FEW = ("shapjax_tiny", "resnet18", "squeezenet1_1", "dinov2_vits14", "clip_vit_b_32")
"""One of every kind; the others are marked slow."""

SIDE = 64


@pytest.fixture
def small(monkeypatch):
    """Fewer layers in every network, and pictures of 64 x 64 where the network takes any size."""
    make_shallow(monkeypatch.setattr)
    for module in (convnext, densenet, mobilenet, resnet, squeezenet, vgg):
        preprocessing = dataclasses.replace(module.IMAGENET, size=SIDE, resize=SIDE)
        monkeypatch.setattr(module, "IMAGENET", preprocessing)
    monkeypatch.setattr(resnet, "DEPTHS", dict.fromkeys(resnet.DEPTHS, (1, 1, 1, 1)))
    monkeypatch.setattr(densenet, "DEPTHS", (2, 2, 2, 2))
    monkeypatch.setattr(convnext, "DEPTHS", (1, 1, 1, 1))
    monkeypatch.setattr(
        vgg, "WIDTHS", dict.fromkeys(vgg.WIDTHS, ((64,), (64,), (64,), (64,), (64,)))
    )
    monkeypatch.setattr(vgg, "HIDDEN", 64)
    monkeypatch.setattr(clip, "VOCABULARY", 64)
    # What is drawn has tests of its own.
    monkeypatch.setattr(outputs, "_draw_pictures", lambda *_: None)


@pytest.mark.parametrize(
    "name", [p if p in FEW else pytest.param(p, marks=pytest.mark.slow) for p in PICTURES]
)
def test_every_network_explains_two_pictures(name, small, tmp_path):
    rng = np.random.default_rng(0)
    pictures = [tmp_path / f"{side}.png" for side in ("query", "retrieved")]
    for path in pictures:
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)).save(path)
    weights = ["--weights", str(tmp_path / "weights.safetensors")]
    if name == names()[0]:
        weights = []  # It brings its own.
    else:
        state = {key: np.asarray(value) for key, value in seeded_state_dict(name).items()}
        save_file(state, weights[1], {"format": "pt"})
    arguments = [*map(str, pictures), "--backbone", name, *weights, "--method", "sam", "--quiet"]
    assert cli.main(["explain", *arguments, "--out", str(tmp_path / "out")]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["backbone"], summary["method"]) == (name, "sam")
    found = sj.Explanation.load(tmp_path / "out" / "explanation.npz")
    assert found.n_query == found.n_retrieved > 1
    assert np.isfinite(found.cross).all()
    assert np.abs(found.cross).max() > 0


def test_the_network_of_texts_explains_two_texts(small, tmp_path):
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    save_file(seeded_state_dict("minilm_l6"), tmp_path / "model.safetensors", {"format": "pt"})
    arguments = ["a man is eating", "the dog", "--text", "--backbone", "minilm_l6"]
    arguments += ["--weights", str(tmp_path), "--quiet", "--out", str(tmp_path / "out")]
    assert cli.main(["explain", *arguments]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["backbone"], summary["n_query"], summary["n_retrieved"]) == ("minilm_l6", 4, 2)
    assert summary["inefficiency"] < 1e-6


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    """``benchmarks/backbones.py`` as a function of its arguments, which prints JSON."""
    folder = Path(__file__).parents[1] / "benchmarks"
    monkeypatch.syspath_prepend(folder)
    spec = importlib.util.spec_from_file_location("benchmark_of_backbones", folder / "backbones.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    always = ["--out", str(tmp_path / "rows.jsonl"), "--names", names()[0], "--json"]
    always += ["--batches", "2", "--torch", "--repeats", "1"]

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["backbones.py", *always, *arguments])
        module.main()

    return run, module, monkeypatch


def test_the_benchmark_measures_once_and_keeps_its_rows(benchmark, capsys):
    run, module, monkeypatch = benchmark
    run()
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["network"], row["weights"], row["batch"]) == (names()[0], "in the package", 2)
    assert row["images/s"] > 0
    assert row["MiB"] > 0
    monkeypatch.setattr(module, "measure", None)
    run()
    assert json.loads(capsys.readouterr().out) == [row]


def test_the_benchmark_holds_torch_against_jax_on_one_kind_of_device(benchmark):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    _, module, monkeypatch = benchmark
    for backend, cuda, device in (("cpu", True, "cpu"), ("gpu", True, "cuda")):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        assert module.torch_device() == device
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="JAX runs on a GPU and this torch has none"):
        module.torch_device()


def test_a_run_of_torch_has_network_and_pictures_on_its_device(benchmark):
    """On a device of torch's that computes nothing, in place of a GPU."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    _, module, monkeypatch = benchmark
    events = []

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3))

        def forward(self, x):
            assert x.device == self.weight.device
            events.append((x.device.type, x.dtype, tuple(x.shape)))

    monkeypatch.setattr(module, "torch_device", lambda: "meta")
    x = np.ones((2, 4, 5, 3), np.float32)
    module.torch_run("resnet18", Network(), x, "bf16", "channels_last", 1)()
    assert events == [("meta", torch.bfloat16, (2, 3, 4, 5))]


def test_times_are_over_torchs_fastest_way_on_a_gpu(benchmark):
    _, module, _ = benchmark
    seconds = {"images/s": 0.1, "torch eager": 3.0, "torch channels_last": 2.0}
    compiled = {**seconds, "torch compiled": 1.0}
    assert module.torchs_seconds(compiled, "cpu") == 2.0
    assert module.torchs_seconds(compiled, "gpu") == 1.0
    assert module.torchs_seconds(seconds, "gpu") == 2.0
    assert module.torchs_seconds({"images/s": 0.1}, "gpu") is None
    assert module.torchs_seconds({"images/s": 0.1, "torch eager": 3.0}, "cpu") is None


def test_the_benchmark_of_masking(benchmark, capsys):
    run, _, _ = benchmark
    run("--masked")
    (row,) = json.loads(capsys.readouterr().out)
    assert row["game, coalitions/s"] > 0
    assert row["pictures, coalitions/s"] > 0
    assert row["times"] > 0
    assert row["overhead"].endswith("%")
