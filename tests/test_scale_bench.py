"""The benchmark of scale: chunks are explained, the plan adds up, PyTorch is not needed."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import scale
import scale_torch

from shapjax import interactions
from shapjax.coalitions.enumerate import all_masks
from shapjax.games.pooled import cosine_game


def test_a_row_counts_the_pairs_after_the_first_chunk():
    row = scale.explain_all("sam", 16, 0, 1)
    assert row["pairs"] == 16
    maps = scale.synthetic(np.arange(2))
    again = scale.synthetic(np.arange(1, 2))
    np.testing.assert_array_equal(maps.query[1], again.query[0])


def test_the_readme_has_the_columns_that_are_printed():
    row = scale.explain_all("sam", 8, 0, 1, "files")
    assert (row["from"], row["pairs"]) == ("files", 8)
    assert np.isfinite(row["mean of pairs"])
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    assert f"| {' | '.join(row)} |" in readme
    plan = (Path(__file__).parents[1] / "docs" / "scale.md").read_text()
    (planned, *_) = scale.plan(0.2, 100, scale.read_seconds(2))
    assert f"| {' | '.join(planned)} |" in plan


def test_many_pairs_take_no_more_memory_and_as_many_on_two_devices_are_the_same():
    # A process of its own: the peak of this one may be that of another test.
    many = scale.in_process("sam", 2048, 0, 2)
    assert (many["pairs"], many["devices"]) == (2048, 2)
    # MiB. The maps and backgrounds of all pairs would take 98, their pair terms alone 37.
    assert many["growth"] < 32
    # One chunk of eight pairs goes ahead here, one of sixteen there.
    alone = scale.explain_all("sam", 2056, 0, 1)
    np.testing.assert_allclose(alone["mean of pairs"], many["mean of pairs"], rtol=5e-4)
    few = scale.explain_all("sam", 64, 0, 1)
    np.testing.assert_allclose(few["mean of pairs"], many["mean of pairs"], rtol=0.02)


def test_the_plan_follows_from_its_assumptions():
    rows = scale.plan(0.2, 100, 4e-3)
    assert len(rows) == len(scale.loads(100)) * len(scale.CHIPS)
    for row in rows:
        chip = next(chip for chip in scale.CHIPS if chip.name == row["chip"])
        rate = row["pairs/s, chip"]
        np.testing.assert_allclose(row["pairs/s, 256 chips"], 256 * rate, rtol=0.01)
        # The million's cost is chip-hours times their price, however many chips there are.
        np.testing.assert_allclose(row["$ a million"], 1e6 / rate / 3600 * chip.dollars, rtol=0.01)
        np.testing.assert_allclose(row["cores to read, chip"], 2 * 4e-3 * rate, rtol=0.06)
        assert rate * row["GFLOP network"] * 1e9 <= scale.NETWORK_SHARE * chip.bf16 * 1.01
    # Twice the share cannot make anything slower.
    for slow, fast in zip(rows, scale.plan(0.4, 100, 4e-3), strict=True):
        assert fast["pairs/s, chip"] >= slow["pairs/s, chip"]


def test_without_a_gpu_the_comparison_says_why_it_does_not_run():
    (row,) = scale_torch.compare(None)
    assert "does not run" in row["comparison with PyTorch"]


@pytest.mark.peers
def test_the_regression_in_pytorch_finds_the_pairs_of_a_quadratic_game():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    rng = np.random.default_rng(0)
    free = rng.random((4000, 6)) < 0.5
    free = free[(free.sum(1) >= 2) & (free.sum(1) < 6)]
    pairs = rng.normal(size=(6, 6))
    masks = np.concatenate([scale_torch.constrained_masks(6, 2), free])
    worth = masks @ np.arange(6.0) + np.einsum("bi,ij,bj->b", masks, np.triu(pairs, 1), masks)
    found = scale_torch.solve_torch(torch.as_tensor(free), torch.as_tensor(worth), 6)
    np.testing.assert_allclose(found, pairs[np.triu_indices(6, 1)], atol=1e-4)


@pytest.mark.peers
def test_kernel_sam_in_pytorch_is_ours(monkeypatch):
    """Both are estimates of one index from as many coalitions: they lie equally near to it."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    for name, value in {"SIDE": 3, "CHANNELS": 8, "PAIRS": 2, "KERNEL_SAM": 20_000}.items():
        monkeypatch.setattr(scale_torch, name, value)
    torch.manual_seed(0)
    ours = np.asarray(scale_torch._ours_sam()()[0].coefficients[2])
    theirs = np.asarray(scale_torch._theirs_sam("cpu", scale_torch.KERNEL_SAM)())
    maps = scale_torch.maps()
    for place in range(2):
        game = cosine_game(type(maps)(*(part[place] for part in maps)).grams())
        exact = interactions(np.asarray(game(all_masks(18)), np.float32), "STII", 2).coefficients[2]
        errors = [np.linalg.norm(found[place] - exact) for found in (ours, theirs)]
        assert max(errors) < 0.25 * np.linalg.norm(exact)
        assert max(errors) < 1.3 * min(errors)
