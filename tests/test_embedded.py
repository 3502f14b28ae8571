import dataclasses
import json
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax.backbones import shapjax_tiny as tiny
from shapjax.backbones.loading import load
from shapjax.core.errors import WeightsError
from shapjax.training import crops, measures, scenes, train_embedded
from shapjax.training.nt_xent import dense_nt_xent, nt_xent, sample

COARSE = np.stack(np.meshgrid(range(8), range(8), indexing="ij"), axis=-1).astype(np.float32)


@pytest.fixture(scope="module")
def backbone():
    return load(tiny.NAME)


def noise(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_weights_are_under_a_megabyte():
    assert tiny.EMBEDDED.stat().st_size < 1_000_000


def test_features_are_non_negative_local_and_repeatable(backbone):
    x = noise(0, 2, 128, 128, 3)
    features = backbone.features(x)
    assert features.shape == (2, 8, 8, 128)
    assert features.dtype == jnp.float32
    assert (features >= 0).all()
    assert (features == backbone.features(x)).all()
    np.testing.assert_allclose(backbone.head(features), backbone.embed(x), rtol=1e-6)


@pytest.mark.parametrize("row", [0, 3, 7])
def test_a_location_sees_only_the_sixty_pixels_around_its_cell(backbone, row):
    x = jnp.asarray(noise(1, 1, 128, 128, 3))
    seen = jax.grad(lambda x: backbone.features(x)[0, row, 4].sum())(x)
    rows = np.flatnonzero(np.abs(seen[0]).sum(axis=(1, 2)))
    centre = row * 16 + 8
    assert rows.min() == max(0, centre - 30)
    assert rows.max() == min(127, centre + 29)


def test_loading_never_runs_the_initialiser(monkeypatch):
    def refuse(*_):
        raise AssertionError("the initialiser drew random numbers")

    monkeypatch.setattr(jax.random, "bits", refuse)
    assert load(tiny.NAME).name == "shapjax_tiny"
    for leaf in jax.tree.leaves(load(tiny.NAME).state):
        assert isinstance(leaf, jax.Array)


def test_weights_survive_saving(backbone, tmp_path):
    tiny.save_weights(tmp_path / "again.npz", backbone.state)
    again = load(tiny.NAME, tmp_path / "again.npz")
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), again.state, backbone.state))


def test_names_are_dotted_paths():
    assert "stem.conv.kernel" in np.load(tiny.EMBEDDED)


@pytest.mark.parametrize("damage", ["missing", "surplus", "shape"])
def test_unfitting_weights_are_refused(tmp_path, damage):
    arrays = dict(np.load(tiny.EMBEDDED))
    kernel = arrays.pop("out.conv.kernel")
    if damage == "surplus":
        arrays |= {"out.conv.kernel": kernel, "other": kernel}
    if damage == "shape":
        arrays["out.conv.kernel"] = kernel[..., 1:]
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(WeightsError, match=r"out\.conv\.kernel|other"):
        load(tiny.NAME, tmp_path / "bad.npz")


def plain_contrast(first, second, temperature):
    """Equation 1 of Chen et al. 2020 by loops, with dot products for s."""
    z = np.concatenate([first, second]).astype(float)
    n = len(first)
    total = 0.0
    for i in range(2 * n):
        weight = {k: np.exp(z[i] @ z[k] / temperature) for k in range(2 * n) if k != i}
        total -= np.log(weight[(i + n) % (2 * n)] / sum(weight.values()))
    return total / (2 * n)


def plain_nt_xent(first, second, temperature):
    first, second = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second))
    return plain_contrast(first, second, temperature)


def test_nt_xent_is_equation_one_of_chen_et_al():
    first, second = noise(2, 5, 7), noise(3, 5, 7)
    expected = plain_nt_xent(first, second, 0.5)
    assert float(nt_xent(first, second, 0.5)) == pytest.approx(expected, rel=1e-5)


def test_invalid_pairs_take_no_part():
    first, second = noise(4, 6, 7), noise(5, 6, 7)
    valid = np.array([True, False, True, True, False, True])
    expected = plain_nt_xent(first[valid], second[valid], 0.2)
    assert float(nt_xent(first, second, 0.2, valid)) == pytest.approx(expected, rel=1e-5)


def test_no_valid_pair_costs_nothing_and_has_a_gradient():
    nothing = jnp.zeros(4, bool)
    loss, slope = jax.value_and_grad(nt_xent)(noise(6, 4, 3), noise(7, 4, 3), 0.1, nothing)
    assert loss == 0
    assert (slope == 0).all()


def test_dense_loss_pairs_locations_by_the_match():
    second = noise(8, 1, 8, 8, 5)
    first = np.roll(second, 1, axis=2)
    match = (COARSE + np.array([0, 1]))[None]
    valid = match[..., 1] <= 7
    views = [
        (x / np.sqrt((x**2).sum(axis=-1).mean()))[valid]
        for x in (np.asarray(sample(first, match)), second)
    ]
    expected = plain_contrast(*views, 0.3)
    loss = dense_nt_xent(first, second, match, valid, 0.3)
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_sampling_is_bilinear():
    features = noise(9, 1, 8, 8, 2)
    at = np.array([[[2.0, 3.0], [2.25, 3.5], [-1.0, 9.0]]])
    got = sample(features, at)
    f = features[0]
    between = 0.75 * (f[2, 3] + f[2, 4]) / 2 + 0.25 * (f[3, 3] + f[3, 4]) / 2
    np.testing.assert_allclose(got[0], [f[2, 3], between, f[0, 7]], rtol=1e-5)


@pytest.mark.parametrize("gallery", ["scenes", "photographs"])
def test_views_depend_on_the_seed_alone(gallery):
    def make(seed):
        if gallery == "scenes":
            return measures.drawn_gallery(seed, 2)
        return measures.photograph_gallery(seed, 2, crops.HELD_OUT_PHOTOGRAPHS)

    one, same, other = make(1), make(1), make(2)
    for name in ("first", "second", "match", "valid"):
        np.testing.assert_array_equal(getattr(one, name), getattr(same, name))
    assert (one.first != other.first).any()


def unlit(rng, view):
    return np.asarray(view)


def colour_at(views, cells):
    """Mean colours of 5 x 5 windows about fractional cells, [N, 3]."""
    y, x = ((cells + 0.5) * 16).astype(int).clip(2, 125).T
    windows = [views[r - 2 : r + 3, c - 2 : c + 3] for r, c in zip(y, x, strict=True)]
    return np.array([window.mean(axis=(0, 1)) for window in windows])


@pytest.mark.parametrize("gallery", ["scenes", "photographs"])
def test_the_match_leads_to_the_same_surface(monkeypatch, gallery):
    monkeypatch.setattr(crops, "augment", unlit)
    monkeypatch.setattr(scenes, "augment", unlit)
    if gallery == "scenes":
        pairs = measures.drawn_gallery(3, 12)
    else:
        pairs = measures.photograph_gallery(3, 12, ["astronaut", "chelsea", "coffee"])
    gaps, strays = [], []
    for first, second, match, valid in zip(*dataclasses.astuple(pairs), strict=True):
        here = colour_at(second, COARSE[valid])
        gaps.append(np.abs(colour_at(first, match[valid]) - here).mean())
        strays.append(np.abs(colour_at(first, COARSE[valid]) - here).mean())
    assert np.mean(gaps) < 0.5 * np.mean(strays)


def test_the_demonstration_pair_is_held_out():
    names = crops.TRAINING_PHOTOGRAPHS + crops.HELD_OUT_PHOTOGRAPHS
    assert not any("motorcycle" in name for name in names)
    assert not set(crops.TRAINING_PHOTOGRAPHS) & set(crops.HELD_OUT_PHOTOGRAPHS)


def test_box_blur_is_the_mean_of_fifteen_by_fifteen_pixels():
    views = noise(10, 1, 128, 128, 3)
    blurred = measures.box_blur(jnp.asarray(views))
    np.testing.assert_allclose(
        blurred[0, 40, 50], views[0, 33:48, 43:58].mean(axis=(0, 1)), atol=1e-5
    )
    bordered = np.pad(views[0], ((7, 7), (7, 7), (0, 0)), mode="edge")
    np.testing.assert_allclose(blurred[0, 0, 127], bordered[:15, 127:].mean(axis=(0, 1)), atol=1e-5)


def test_disparity_leads_left_and_the_unknown_is_left_out():
    disparity = np.full((80, 160), 20.0)
    disparity[:10, 140:] = np.inf
    match, valid = measures.disparity_cells(disparity)
    np.testing.assert_allclose(match[3, 5], [3, 4])
    assert not valid[0, 7]
    assert not valid[:, 0].any()
    assert valid[1:, 1:].all()


def test_training_beats_the_initial_weights_on_held_out_data(backbone):
    untrained = train_embedded.initial(0)
    drawn = measures.drawn_gallery(77, 60)
    photographed = measures.photograph_gallery(77, 60, crops.HELD_OUT_PHOTOGRAPHS)
    for pairs in (drawn, photographed):
        for measure in (
            partial(measures.retrieval, pairs=pairs),
            partial(measures.correspondence, pairs=pairs, describe=measures.features_of),
            partial(measures.correspondence, pairs=pairs, describe=measures.centred),
        ):
            trained = measure(backbone)
            assert trained.rate > 1.15 * measure(untrained).rate
            assert trained.rate > 1.5 * trained.chance


def test_the_log_names_the_weights_that_ship(backbone):
    log = json.loads(train_embedded.LOG.read_text(encoding="utf-8"))
    assert log["file_bytes"] == tiny.EMBEDDED.stat().st_size
    assert log["weights"] == sum(leaf.size for leaf in jax.tree.leaves(backbone.state))
    assert train_embedded.LOG.with_suffix(".md").read_text(
        encoding="utf-8"
    ) == train_embedded.report(log)


def test_the_training_script_runs(tmp_path):
    out = tmp_path / "smoke.npz"
    command = [sys.executable, "-m", "shapjax.training.train_embedded", "--quick", "--out", out]
    subprocess.run(command, check=True, timeout=120, capture_output=True, cwd=tmp_path)
    log = json.loads((tmp_path / "smoke_log.json").read_text(encoding="utf-8"))
    assert log["settings"]["steps"] == 3
    assert np.isfinite([point["loss"] for point in log["loss"]]).all()
    assert (tmp_path / "smoke_log.md").exists()
    assert load(tiny.NAME, out).name == "shapjax_tiny"
