"""The figure that holds methods against Gram SAM, on a small budget."""

import json
import sys
from pathlib import Path

import jax
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import explainers


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
