"""The paper's figures are redrawn, from drawn scenes and few evaluations."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import convergence_figures
import figures

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """No data, so that scenes are drawn, and a cache of the test's own."""
    monkeypatch.setenv("SHAPJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SHAPJAX_DATA", str(tmp_path / "no data"))


@pytest.fixture
def sheets(monkeypatch):
    """Every figure that is written from here on."""
    found = []
    save = Figure.savefig

    def kept(self, *arguments, **options):
        found.append(self)
        return save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", kept)
    return found


def drawn(out, *numbers):
    """The pictures that are written for these figures, RGB."""
    only = [] if set(numbers) == set(figures.FIGURES) else ["--only", *map(str, numbers)]
    assert figures.main(["--quick", "--out", str(out), *only]) == 0
    paths = {int(path.stem.removeprefix("figure_")): path for path in out.glob("figure_*.png")}
    assert set(paths) == set(numbers)
    return {number: np.asarray(Image.open(path).convert("RGB")) for number, path in paths.items()}


def inside(sheet, pixels, axes):
    """What is drawn between the borders of axes, without the borders."""
    box = axes.get_position()
    height, width = pixels.shape[:2]
    rows = slice(round((1 - box.y1) * height) + 2, round((1 - box.y0) * height) - 2)
    return pixels[rows, round(box.x0 * width) + 2 : round(box.x1 * width) - 2].astype(int)


def assert_panels(sheet, pixels, count):
    """So many pictures, all in colour and no two alike."""
    panels = [axes for axes in sheet.axes if axes.images]
    assert len(panels) == count
    for axes in panels:
        seen = inside(sheet, pixels, axes)
        assert min(seen.shape[:2]) > 80
        assert np.ptp(seen, axis=2).max() > 50, "no colour"
        assert seen.std(axis=(0, 1)).max() > 5, "one colour"
    images = [np.asarray(axes.images[0].get_array()) for axes in panels]
    for place, image in enumerate(images):
        assert not any(np.array_equal(image, other) for other in images[:place])


def assert_curves(sheet, pixels):
    """Errors of every estimator of the paper, in colours; a quick one may have but one point."""
    (axes,) = sheet.axes
    errors = {line.get_label(): np.asarray(line.get_ydata()) for line in axes.lines}
    assert errors.keys() == set(convergence_figures.PAPER_METHODS)
    assert all(np.isfinite(values).all() and values.min() > 0 for values in errors.values())
    assert all(errors[name][-1] < errors[name][0] for name in ("kernel-direct", "kernel-weighting"))
    assert np.ptp(inside(sheet, pixels, axes), axis=2).max() > 50


def test_figures_of_pairs(tmp_path, monkeypatch, sheets):
    # The methods that run the network many times are left to the slow test.
    monkeypatch.setattr(figures, "METHODS", ("vesm", "sam"))
    pictures = drawn(tmp_path, 3, 9)
    assert_panels(sheets[0], pictures[3], 4)
    assert_panels(sheets[1], pictures[9], 2 + 2)


def test_figures_of_a_method_and_of_convergence(tmp_path, monkeypatch, sheets):
    """The rest but 4, which another test draws, from fewer methods."""
    monkeypatch.setattr(figures, "METHODS", ("gradcam", "sam"))
    kernels = ("kernel-weighting", "kernel-direct")
    monkeypatch.setattr(convergence_figures, "PAPER_METHODS", kernels)
    pictures = drawn(tmp_path, 2, 5, 8, 10)
    assert_panels(sheets[0], pictures[2], 2 + 2)
    assert_panels(sheets[1], pictures[8], 2 + 4)
    for sheet, number in zip(sheets[2:], (5, 10), strict=True):
        assert_curves(sheet, pictures[number])


@pytest.mark.slow
def test_every_figure(tmp_path, sheets):
    pictures = drawn(tmp_path, *figures.FIGURES)
    # Two pictures beside all methods of the paper and Integrated Gradients; kernels of one budget.
    panels = {2: 2 + 10, 3: 4, 4: 2, 8: 2 + 4, 9: 2 + 10}
    for sheet, (number, count) in zip(sheets[: len(panels)], panels.items(), strict=True):
        assert_panels(sheet, pictures[number], count)
    for sheet, number in zip(sheets[len(panels) :], (5, 10), strict=True):
        assert_curves(sheet, pictures[number])


def test_as_a_module_with_nothing_said_it_draws_the_photographs_at_hand(tmp_path):
    photographs = tmp_path / "data" / "voc_mini" / "JPEGImages"
    photographs.mkdir(parents=True)
    figures.write_scenes(photographs, 2)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "SHAPJAX_DATA": str(tmp_path / "data"),
    }
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.figures", "--quick", "--only", "4"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    (path,) = (tmp_path / figures.OUT).iterdir()
    assert path.name == "figure_4.png"
    coloured = np.ptp(np.asarray(Image.open(path).convert("RGB")).astype(int), axis=2) > 50
    # Regions are painted over both pictures, side by side.
    assert all(half.mean() > 0.3 for half in np.array_split(coloured, 2, axis=1))


def test_too_few_pictures(tmp_path, capsys):
    (tmp_path / "few").mkdir()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "few" / "a.png")
    arguments = ["--out", str(tmp_path / "out"), "--pictures", str(tmp_path / "few")]
    assert figures.main(arguments) == 2
    assert "expected at least 3" in capsys.readouterr().err
