"""The figures on the explanation methods, on small budgets."""

import json
import sys
from pathlib import Path

import jax
import pytest
from PIL import Image
from skimage import data

import shapjax as sj

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import explainers


def test_gradcam_breaks_the_dummy_axiom_in_a_figure(tmp_path):
    """A.4 on photographs; what Kernel SAM gives the half that counts for nothing is noise."""
    model = sj.backbones.load("shapjax_tiny")
    pair = data.stereo_motorcycle()[:2]
    path = tmp_path / "dummy.png"
    with jax.enable_x64(True):
        found = explainers.dummy(model, pair, "blur", path, kernel_budgets=(5_000,))
    gradcam, ig_sam, gram_sam, kernel_sam = (record["left_half"] for record in found)
    assert gradcam > 0.4
    assert ig_sam == gram_sam == 0
    assert 0 < kernel_sam < 0.1
    assert Image.open(path).size[0] > 600


def test_the_figure_against_the_reference_is_drawn(tmp_path):
    """From made-up errors."""
    records = []
    for order in (1, 2):
        reference = {"method": explainers.REFERENCE, "evaluations": 400_000, "error": 1e-6}
        records.append({"order": order, **reference})
        for place, name in enumerate(explainers.estimators(order)):
            numbers = {"evaluations": 1_000, "seconds": 0.1, "error": 10.0**-place}
            records.append({"order": order, "method": name, **numbers})
    explainers.draw_reference(records, tmp_path)
    assert Image.open(tmp_path / "reference.png").size[0] > 600


@pytest.mark.slow
def test_methods_are_held_against_gram_sam(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["explainers.py", "reference", "--quick", "--json", "--out", str(tmp_path)]
    )
    with jax.enable_x64(True):
        explainers.main()
    records = json.loads(capsys.readouterr().out)
    errors = {(r["order"], r["method"]): r["error"] for r in records}
    for order in (1, 2):
        assert errors[order, "gram-sam"] < 1e-2 < errors[order, "kernel-sam"]
        assert errors[order, "two-tower"] < errors[order, "kernel-sam"]
        assert errors[order, explainers.REFERENCE] < errors[order, "gram-sam"]
    assert Image.open(tmp_path / "reference.png").size[0] > 600
