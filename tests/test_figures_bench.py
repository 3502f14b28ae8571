"""The paper's figures are redrawn, from drawn scenes and few evaluations."""

import sys
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import figures


def drawn(tmp_path, *arguments):
    assert figures.main(["--quick", "--out", str(tmp_path), *arguments]) == 0
    found = {path.stem for path in tmp_path.glob("figure_*.png")}
    for name in found:
        image = Image.open(tmp_path / f"{name}.png").convert("L")
        assert min(image.size) > 250
        assert image.getextrema()[0] < 60 < 240 < image.getextrema()[1]
    return found


def test_figures_of_pairs(tmp_path, monkeypatch):
    monkeypatch.setenv("SHAPJAX_CACHE", str(tmp_path / "cache"))
    # The methods that run the network on masked pictures are left to the slow test.
    monkeypatch.setattr(figures, "METHODS", ("vesm", "sam"))
    numbers = (3, 9)
    found = drawn(tmp_path, "--only", *map(str, numbers))
    assert found == {f"figure_{number}" for number in numbers}


@pytest.mark.slow
def test_every_figure(tmp_path, monkeypatch):
    monkeypatch.setenv("SHAPJAX_CACHE", str(tmp_path / "cache"))
    assert drawn(tmp_path) == {f"figure_{number}" for number in figures.FIGURES}


def test_too_few_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SHAPJAX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "few").mkdir()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "few" / "a.png")
    arguments = ["--out", str(tmp_path / "out"), "--pictures", str(tmp_path / "few")]
    assert figures.main(arguments) == 2
    assert "expected at least 3" in capsys.readouterr().err
