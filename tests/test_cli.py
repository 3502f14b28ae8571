"""The command: what it writes, and how bad input ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_images import png_header_only
from test_report import Parsed, decoded
from toy_network import bright, toy, toy_transformer

import shapjax as sj
from shapjax.cli import main

rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    from skimage import data

    folder = tmp_path_factory.mktemp("pair")
    left, right, _ = data.stereo_motorcycle()
    paths = [str(folder / "left.png"), str(folder / "right.jpg")]
    Image.fromarray(left[::5, ::5]).save(paths[0])
    Image.fromarray(right[::5, ::5]).save(paths[1])
    return paths


@pytest.fixture
def undrawn(monkeypatch):
    """No figures, which take most of the time, where a test looks at none."""
    monkeypatch.setattr("shapjax.report.outputs._draw_pictures", lambda *_: None)


def run(*arguments, expected=0):
    assert main(["explain", *map(str, arguments)]) == expected


def test_no_arguments_explain_the_built_in_pair(tmp_path):
    """As a user runs it: a process of its own."""
    result = subprocess.run(
        [sys.executable, "-m", "shapjax.cli", "explain", "--out", tmp_path / "out"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert "report.html" in result.stdout
    assert "gram-sam" in result.stderr  # progress
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {
        "explanation.npz",
        "summary.json",
        "heat_query.png",
        "heat_retrieved.png",
        "correspondence.png",
        "regions.png",
        "report.html",
    }
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    found = sj.Explanation.load(tmp_path / "out" / "explanation.npz")
    for key in ("similarity", "v_grand", "v_empty", "inefficiency", "evaluations"):
        assert summary[key] == pytest.approx(getattr(found, key))
    assert summary["seed"] == 0
    assert summary["seconds"] > 0
    assert {"shapjax", "jax", "numpy"} <= set(summary["versions"])
    assert summary["similarity"] > 0.9
    assert found.interactions.singles.dtype == np.float64


def test_first_order_draws_both_pictures(tmp_path, pair):
    run(*pair, "--order", 1, "--method", "sam", "--out", tmp_path, "--quiet")
    found = sj.Explanation.load(tmp_path / "explanation.npz")
    other = sj.Explanation.load(tmp_path / "explanation_query.npz")
    assert found.query_players is None
    assert other.retrieved_players is None
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["query_side"]["v_empty"] == pytest.approx(other.v_empty)
    for name in ("heat_query.png", "heat_retrieved.png"):
        assert Image.open(tmp_path / name).size[0] > 300


def test_options_reach_the_explanation(tmp_path, pair, undrawn):
    arguments = ["--method", "kernel-shap", "--budget", 130, "--seed", 5, "--background", "mean"]
    run(*pair, *arguments, "--out", tmp_path, "--quiet")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["evaluations"] == 130
    assert (summary["seed"], summary["background"]) == (5, "mean")
    expected = sj.explain(
        sj.backbones.load("shapjax_tiny"),
        *pair,
        method="kernel-shap",
        budget=130,
        key=5,
        background="mean",
    )
    found = sj.Explanation.load(tmp_path / "explanation.npz")
    np.testing.assert_allclose(found.cross, expected.cross, atol=1e-6)


def test_a_picture_may_be_the_background(tmp_path, pair, undrawn):
    other = tmp_path / "other.png"
    Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8)).save(other)
    run(*pair, "--method", "sam", "--background", other, "--out", tmp_path / "a", "--quiet")
    run(*pair, "--method", "sam", "--out", tmp_path / "b", "--quiet")
    worths = [
        json.loads((tmp_path / d / "summary.json").read_text())["v_empty"] for d in ("a", "b")
    ]
    # One background for both pictures is perfectly similar to itself.
    assert worths[0] == pytest.approx(1, abs=1e-6)
    assert worths[1] < 0.9999999


def test_why_this_one_rather_than_that_one(tmp_path, pair):
    other = tmp_path / "other.png"
    Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8)).save(other)
    arguments = ["--method", "sam", "--rather-than", other, "--quiet"]
    run(*pair, *arguments, "--order", 1, "--out", tmp_path / "a")
    assert not (tmp_path / "a" / "heat_query.png").exists()  # only the retrieved picture plays
    assert Image.open(tmp_path / "a" / "counterfactual.png").size[0] > 600
    run(*pair, *arguments, "--out", tmp_path / "b")
    model = sj.backbones.load("shapjax_tiny")
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    against = sj.similarity_game(model, pair[0], other).similarity
    assert summary["rather_than"] == str(other)
    assert summary["v_empty"] == pytest.approx(against, abs=1e-5)
    assert summary["v_grand"] == pytest.approx(summary["similarity"], abs=1e-5)


def test_regions_of_one_s_own_are_explained_by_two_towers(tmp_path, pair):
    labels = tmp_path / "labels.png"
    Image.fromarray(np.kron(np.arange(3, dtype=np.uint8), np.ones((9, 9), np.uint8))).save(labels)
    arguments = ["--players", "2x2", "--query-players", labels, "--budget", 24]
    backgrounds = ["--background", "blur", "--background", "mean"]
    run(*pair, *arguments, *backgrounds, "--out", tmp_path / "out", "--quiet")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["method"], summary["evaluations"]) == ("two-tower", 24)
    assert (summary["n_query"], summary["n_retrieved"]) == (3, 4)
    assert summary["background"] == ["blur", "mean"]
    assert summary["inefficiency"] < 1e-5


def test_patches_are_left_out(tmp_path, pair, monkeypatch):
    """The usual files, of the explanation that the library gives."""
    model = toy_transformer()
    monkeypatch.setattr(sj.backbones, "load", lambda *_, **__: model)
    options = ["--backbone", "vit_b_16", "--background", "drop"]
    run(*pair, *options, "--out", tmp_path, "--quiet")
    drawn = {"heat_query.png", "heat_retrieved.png", "correspondence.png", "regions.png"}
    assert drawn | {"report.html"} <= {path.name for path in tmp_path.iterdir()}
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["method"], summary["background"]) == ("two-tower", "drop")
    found = sj.Explanation.load(tmp_path / "explanation.npz")
    expected = sj.explain(model, *pair, background="drop")
    np.testing.assert_allclose(found.cross, expected.cross, atol=1e-6)


def test_methods_are_compared_on_one_page(tmp_path, pair, capsys):
    arguments = ["--methods", "sam,gram-sam,gradcam", "--budget", 400, "--out", tmp_path]
    run(*pair, *arguments)
    assert "gradcam" in capsys.readouterr().out
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "summary.json",
        "report.html",
        "methods.png",
        "explanation-sam.npz",
        "explanation-gram-sam.npz",
        "explanation-gradcam.npz",
        "explanation_query-gradcam.npz",
    }
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary["methods"]) == ["sam", "gram-sam", "gradcam"]
    for name, order in (("sam", 2), ("gram-sam", 2), ("gradcam", 1)):
        found = sj.Explanation.load(tmp_path / f"explanation-{name}.npz")
        numbers = summary["methods"][name]
        assert (found.method, found.order, numbers["order"]) == (name, order, order)
        assert numbers["inefficiency"] == pytest.approx(found.inefficiency)
    assert summary["methods"]["gram-sam"]["evaluations"] <= 400
    # The page holds the numbers that are saved.
    data = Parsed((tmp_path / "report.html").read_text("utf-8")).data
    for method in data["methods"][:2]:
        found = sj.Explanation.load(tmp_path / f"explanation-{method['method']}.npz")
        np.testing.assert_array_equal(
            decoded(method["cross"], "<f4"), found.cross.ravel().astype(np.float32)
        )
    # One method afterwards leaves nothing of the comparison.
    run(*pair, "--method", "vesm", "--figures", "svg", "--json", "--out", tmp_path, "--quiet")
    content = json.loads((tmp_path / "explanation.json").read_text())
    assert content["method"] == "vesm"
    names = {path.name for path in tmp_path.iterdir()}
    assert {"explanation.npz", "explanation_query.npz", "heat_query.svg"} <= names
    assert "methods.png" not in names


def test_every_method_goes_by_its_name(tmp_path, pair, monkeypatch):
    """What the command asks ``explain`` for; at second order where the method has it."""
    from shapjax.explainers.methods import METHODS

    names = "sbsm vesm lime kernel-shap partition-shap ig gradcam sam ig-sam kernel-sam gram-sam"
    assert {*names.split(), "two-tower"} <= set(METHODS)
    asked = []

    def stop(*_, method, order, **__):
        asked.append((method, order))
        raise KeyboardInterrupt

    monkeypatch.setattr("shapjax.explainers.explain.explain", stop)
    monkeypatch.setattr("shapjax.cli._model", lambda options: None)
    for option in ("--method", "--methods"):
        for name in METHODS:
            run(*pair, option, name, "--out", tmp_path, "--quiet", expected=130)
    assert asked == 2 * [(name, 2 if record.players[1] else 1) for name, record in METHODS.items()]


def test_bilinear_forms_and_errors_are_asked_for(tmp_path, pair, monkeypatch, capsys):
    asked = []

    def stop(*_, method, bilinear, errors, **__):
        asked.append((method, bilinear, errors))
        raise KeyboardInterrupt

    run(*pair, "--method", "sam", "--bilinear", "--out", tmp_path, "--quiet", expected=2)
    assert "no bilinear form" in capsys.readouterr().err
    monkeypatch.setattr("shapjax.explainers.explain.explain", stop)
    monkeypatch.setattr("shapjax.cli._model", lambda options: None)
    common = (*pair, "--out", tmp_path, "--quiet")
    run(*common, "--method", "lime", "--bilinear", expected=130)
    run(*common, "--method", "lime", "--errors", expected=130)
    # Among several, the others are what they always are.
    run(*common, "--methods", "sam,lime", "--bilinear", expected=130)
    assert asked == [("lime", True, False), ("lime", False, True), ("sam", False, False)]


@pytest.mark.slow
def test_all_methods_stand_on_one_page(tmp_path, monkeypatch):
    """Nothing is left out, by a network that costs nothing but the programs."""
    from shapjax.explainers.methods import METHODS

    paths = [str(tmp_path / f"{name}.png") for name in ("query", "retrieved")]
    for path, picture in zip(paths, bright(2), strict=True):
        Image.fromarray(picture).save(path)
    monkeypatch.setattr("shapjax.cli._model", lambda options: toy())
    run(*paths, "--methods", "all", "--budget", 200, "--out", tmp_path / "out", "--quiet")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert set(summary["methods"]) == set(METHODS)
    assert "left_out" not in summary
    data = Parsed((tmp_path / "out" / "report.html").read_text("utf-8")).data
    assert [one["method"] for one in data["methods"]] == list(summary["methods"])
    assert Image.open(tmp_path / "out" / "methods.png").size[0] > 600


def test_all_methods_leave_out_what_the_options_rule_out(tmp_path, pair):
    arguments = ["--methods", "all", "--order", 1, "--players", "1x2", "--budget", 4]
    run(*pair, *arguments, "--out", tmp_path, "--quiet")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary["methods"]) == ["two-tower", "lime", "kernel-shap", "kernel-sam"]
    assert "players is" in summary["left_out"]["sam"]


def unusual_pictures(folder):
    colours = rng.integers(0, 255, (30, 50, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    pictures = {
        "one_pixel.png": (Image.new("RGB", (1, 1), "red"), {}),
        "grey.png": (Image.fromarray(colours[..., 0]), {}),
        "rgba.png": (Image.fromarray(np.dstack([colours, colours[..., 0]])), {}),
        "cmyk.jpg": (Image.fromarray(colours).convert("CMYK"), {}),
        "turned.jpg": (Image.fromarray(colours), {"exif": exif}),
        "deep.png": (Image.fromarray(colours[..., 0].astype(np.uint16) * 257), {}),
        "<script>alert(1)<&script>'\".png": (Image.fromarray(colours), {}),
    }
    for name, (image, options) in pictures.items():
        image.save(folder / name, **options)
        yield folder / name


def test_unusual_pictures_are_explained(tmp_path, pair, request):
    (tmp_path / "in").mkdir()
    for path in unusual_pictures(tmp_path / "in"):
        # Superpixels of one pixel are the extreme; for other counts a solver would be compiled.
        method = "kernel-shap" if path.name == "one_pixel.png" else "gram-sam"
        run(path, path, "--method", method, "--budget", 400, "--out", tmp_path / "o", "--quiet")
        if path.name == "rgba.png":  # what is drawn is RGB by now; one pixel and grey were
            request.getfixturevalue("undrawn")
        summary = json.loads((tmp_path / "o" / "summary.json").read_text())
        assert summary["similarity"] == pytest.approx(1, abs=1e-5)  # the same file twice
        assert summary["query"] == path.name
        assert "<script>alert" not in (tmp_path / "o" / "report.html").read_text()
    run(tmp_path / "in" / "grey.png", pair[0], "--out", tmp_path / "o", "--quiet")


def failing(tmp_path, pair):
    """(arguments, what the sentence must mention)."""
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "cut.jpg").write_bytes(Path(pair[1]).read_bytes()[:700])
    (tmp_path / "bomb.png").write_bytes(png_header_only(20_000, 10_000))
    (tmp_path / "file").write_text("")
    (tmp_path / "page.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "w.npz").write_bytes(b"nonsense")
    left, right = pair
    yield [tmp_path / "absent.png", right], "does not exist"
    yield [left, tmp_path], "is a folder"
    yield [tmp_path / "text.png", right], "not a picture"
    yield [left, tmp_path / "cut.jpg"], "damaged"
    yield [left, tmp_path / "bomb.png"], "megapixels"
    yield [left], "expected QUERY and RETRIEVED"
    yield [left, right, "--out", tmp_path / "file"], "cannot write"
    yield [left, right, "--out", "/proc/shapjax"], "cannot write"
    yield [left, right, "--budget", 100, "--method", "kernel-sam"], "at least 130"
    yield [left, right, "--budget", 0], "at least"
    yield [left, right, "--budget", -5], "budget"
    yield [left, right, "--budget", 10**13, "--method", "kernel-sam"], "available"
    regions = ["--players", "superpixels", "--method", "gram-sam"]
    yield [left, right, *regions], "kernel-shap"
    yield [left, right, "--method", "sam", "--budget", 10], "closed form"
    yield [left, right, "--seed", -1], "seed"
    yield [left, right, "--out", ""], "--out is empty"
    yield [left, "x" * 300], "File name too long"
    yield [left, tmp_path / "pipe"], "not a regular file"
    yield [left, tmp_path / "page.eps"], "not a picture"
    yield [left, right, "--background", "sky"], "does not exist"
    yield [left, right, "--background", "drop"], "no tokens to leave out"
    yield [left, right, "--backbone", "resnet50_cub_margin"], "weights"
    yield [left, right, "--methods", "sam,magic"], "magic"
    yield ["a dog", "a cat", "--text", "--methods", "all"], "two-tower"
    yield [left, right, "--methods", "sam,vesm", "--order", 2], "only order 1"
    yield [left, right, "--methods", "all", "--background", "sky"], "no method explains this"
    yield [left, right, "--rather-than", tmp_path / "none.png"], "none.png"
    yield [left, right, "--weights", tmp_path / "w.npz"], "w.npz"
    yield [left, right, "--weights", tmp_path / "none.pth"], "none.pth"


def test_bad_input_ends_with_one_sentence_and_code_2(tmp_path, pair, capsys):
    for arguments, mention in failing(tmp_path, pair):
        out = [] if "--out" in arguments else ["--out", tmp_path / "out"]
        run(*arguments, *out, expected=2)
        captured = capsys.readouterr()
        last = captured.err.strip().splitlines()[-1]
        assert last.startswith("shapjax: error: "), captured.err
        assert mention in last, last
        assert "Traceback" not in captured.err
        assert captured.out == ""
    assert not any((tmp_path / "out").iterdir())


def test_nothing_of_an_earlier_run_stays(tmp_path, pair):
    run(*pair, "--method", "sam", "--order", 1, "--out", tmp_path, "--quiet")
    (tmp_path / "notes.txt").write_text("the user's own")
    run(*pair, "--method", "sam", "--out", tmp_path, "--quiet")
    names = {path.name for path in tmp_path.iterdir()}
    assert "explanation_query.npz" not in names
    assert {"correspondence.png", "notes.txt"} <= names


def test_a_reader_that_goes_away_is_no_traceback(tmp_path, pair):
    shell = (
        'set -o pipefail; "$0" -m shapjax.cli explain "$1" "$2" --method sam --order 1 --out "$3"'
    )
    for sink in (" | true", " > /dev/full"):
        result = subprocess.run(
            ["bash", "-c", shell + sink, sys.executable, *pair, str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
        )
        assert "Traceback" not in result.stderr
    assert (tmp_path / "summary.json").exists()


def test_unknown_options_exit_with_2(capsys):
    for arguments in (["--method", "magic"], ["--order", "3"], ["--budget", "many"]):
        with pytest.raises(SystemExit) as caught:
            run(*arguments)
        assert caught.value.code == 2
    assert "invalid choice" in capsys.readouterr().err


def test_interruption_is_quiet(tmp_path, pair, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("shapjax.explainers.explain.explain", interrupted)
    run(*pair, "--out", tmp_path, expected=130)
    assert "interrupted" in capsys.readouterr().err
