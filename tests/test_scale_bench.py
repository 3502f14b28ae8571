"""The benchmark of scale: chunks are explained, the plan adds up, PyTorch is not needed."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import scale
import scale_torch


def test_a_row_counts_the_pairs_after_the_first_chunk():
    row = scale.explain_all("sam", 16, 0, 1)
    assert row["pairs"] == 16
    assert row["ms a pair"] > 0
    maps = scale.synthetic(np.arange(2))
    again = scale.synthetic(np.arange(1, 2))
    np.testing.assert_array_equal(maps.query[1], again.query[0])


def test_the_plan_follows_from_its_assumptions():
    rows = scale.plan(0.2, 100)
    assert len(rows) == len(scale.loads(100)) * len(scale.CHIPS)
    for row in rows:
        chip = next(chip for chip in scale.CHIPS if chip.name == row["chip"])
        rate = row["pairs/s, chip"]
        np.testing.assert_allclose(row["pairs/s, 256 chips"], 256 * rate, rtol=0.01)
        # The million's cost is chip-hours times their price, however many chips there are.
        np.testing.assert_allclose(
            row["$ a million"], 1e6 / rate / 3600 * chip.dollars, rtol=5e-3, atol=1
        )
        assert rate * row["GFLOP network"] * 1e9 <= scale.NETWORK_SHARE * chip.bf16 * 1.01
    # Twice the share cannot make anything slower.
    for slow, fast in zip(rows, scale.plan(0.4, 100), strict=True):
        assert fast["pairs/s, chip"] >= slow["pairs/s, chip"]


def test_without_a_gpu_the_comparison_says_why_it_does_not_run():
    (row,) = scale_torch.compare(None)
    assert "does not run" in row["comparison with PyTorch"]


@pytest.mark.peers
def test_kernel_sam_in_pytorch_is_ours():
    """Both are estimates of one index: they lie as near to it as each other."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    rng = np.random.default_rng(0)
    free = rng.random((4000, 6)) < 0.5
    free = free[(free.sum(1) >= 2) & (free.sum(1) < 6)]
    pairs = rng.normal(size=(6, 6))
    masks = np.concatenate([scale_torch.constrained_masks(6, 2), free])
    worth = masks @ np.arange(6.0) + np.einsum("bi,ij,bj->b", masks, np.triu(pairs, 1), masks)
    found = scale_torch.solve_torch(torch.as_tensor(free), torch.as_tensor(worth), 6)
    np.testing.assert_allclose(found, pairs[np.triu_indices(6, 1)], atol=1e-4)
