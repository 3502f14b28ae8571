"""Exact indices of value functions block by block: same numbers, and the same bits when resumed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import shapjax as sj
from shapjax.core.interactions import load_npz
from shapjax.games.pooled import cosine_game, gram_matrices
from shapjax.indices import exact, streaming


@pytest.fixture(autouse=True)
def _always_stream(monkeypatch):
    monkeypatch.setattr(exact, "TABLE_PLAYERS", -1)
    monkeypatch.setattr(streaming, "BLOCK_PLAYERS", 6)


def features_game(n, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    sides = [rng.random((1 + count, 8)).astype(dtype) for count in (n // 2, n - n // 2)]
    return cosine_game(gram_matrices(*map(jnp.asarray, sides)))


def on_the_host(n):
    weights = np.linspace(-1, 1, n)
    return lambda masks: np.tanh(np.asarray(masks) @ weights)


def from_table(game, index, order, n):
    ranks = np.arange(1 << n)[:, None] >> np.arange(n) & 1 == 1
    with jax.enable_x64(True):
        values = np.asarray(game(ranks), float)
        return jax.tree.map(np.asarray, sj.interactions(values, index, order))


def assert_close(found, want, atol):
    assert (found.index, found.order) == (want.index, want.order)
    for mine, slow in zip(found.coefficients, want.coefficients, strict=True):
        np.testing.assert_allclose(mine, slow, rtol=0, atol=atol)


@pytest.mark.parametrize("n", [0, 1, 2, 9])
@pytest.mark.parametrize("chunk_size", [1, 100])
def test_a_python_function_in_float64(n, chunk_size):
    game = on_the_host(n)
    for index, order in (("STII", min(2, max(n, 1))), ("SV", 1), ("SGV", 1)):
        found = sj.interactions(game, index, order, n_players=n, chunk_size=chunk_size)
        assert isinstance(found.coefficients[-1], np.ndarray)
        assert found.coefficients[-1].dtype == np.float64
        assert_close(found, from_table(game, index, order, n), 1e-14)


@pytest.mark.parametrize(("index", "order"), [("SV", 1), ("FSII", 3), ("CHGV", 2)])
def test_a_jax_function(x64, index, order):
    n = 12
    game = features_game(n, np.float64)
    found = sj.interactions(game, index, order, n_players=n)
    assert isinstance(found.coefficients[-1], jax.Array)
    assert_close(found, from_table(game, index, order, n), 1e-13)


def test_a_block_is_compiled_once_whatever_the_data():
    traces = []

    def worth(offset, masks):
        traces.append(masks.shape)
        return masks.sum(axis=1) * offset

    for offset in (1.0, 2.0):
        found = sj.interactions(Partial(worth, jnp.float32(offset)), "SV", n_players=9)
        np.testing.assert_allclose(found.singles, offset, rtol=1e-6)
    assert len(traces) == 2, "the probes and the block, once each"


def test_float32_sums_lose_no_digits():
    """2**16 blocks of one coalition: summed plainly, the error would grow to 1e-4."""
    n = 16
    weights = np.linspace(0.1, 1, n).astype(np.float32)
    game = lambda masks: masks.astype(np.float32) @ weights  # noqa: E731
    found = sj.interactions(game, "SV", n_players=n, chunk_size=16)
    assert found.singles.dtype == np.float32
    np.testing.assert_allclose(found.singles, weights, rtol=0, atol=3e-6)


def test_progress_counts_coalitions():
    seen = []
    sj.interactions(
        features_game(8), "SV", n_players=8, chunk_size=8, progress=lambda *a: seen.append(a)
    )
    assert seen == [(64, 256), (128, 256), (192, 256), (256, 256)]


class Stop(KeyboardInterrupt):
    pass


@pytest.mark.parametrize("game", [features_game(10), on_the_host(10)], ids=["jax", "python"])
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, game):
    arguments = {"index": "k-SII", "order": 2, "n_players": 10, "chunk_size": 32}
    whole = sj.interactions(game, **arguments)
    checkpoint = tmp_path / "sums.npz"
    done = []

    def stop(count, total):
        done.append(count)
        if len(done) in (3, 5):
            raise Stop

    for _ in range(2):
        with pytest.raises(Stop):
            sj.interactions(game, **arguments, checkpoint=checkpoint, progress=stop)
        assert int(load_npz(checkpoint)["block"]) == len(done)
    resumed = sj.interactions(game, **arguments, checkpoint=checkpoint, progress=stop)
    assert done == sorted(set(done)), "no block is evaluated twice"
    for a, b in zip(whole.coefficients, resumed.coefficients, strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    again = sj.interactions(game, **arguments, checkpoint=checkpoint, progress=stop)
    assert done[-1] == 1 << 10
    np.testing.assert_array_equal(again.pairs, whole.pairs)


def test_checkpoints_of_something_else_are_refused(tmp_path):
    path = tmp_path / "sums.npz"
    call = {"index": "SV", "n_players": 8, "checkpoint": path}
    sj.interactions(features_game(8), **call)
    for game, changed in (
        (features_game(8, seed=1), {}),
        (features_game(8), {"index": "BV"}),
        (features_game(8), {"index": "STII"}),
        (features_game(8), {"chunk_size": 128}),
        (features_game(9), {"n_players": 9}),
        (on_the_host(8), {}),
    ):
        with pytest.raises(sj.ShapjaxError, match="belongs to another"):
            sj.interactions(game, **{**call, **changed})
    path.write_bytes(b"not an archive")
    with pytest.raises(sj.ShapjaxError, match="npz archive"):
        sj.interactions(features_game(8), **call)


def test_bad_values_are_named():
    nan_at = np.array([1, 0, 1, 0, 0, 0, 0, 1], bool)

    def jax_game(masks):
        return jnp.where((masks == nan_at).all(axis=1), jnp.nan, 1.0)

    def host_game(masks):
        return np.where((np.asarray(masks) == nan_at).all(axis=1), np.nan, 1.0)

    for game in (jax.jit(jax_game), host_game):
        with pytest.raises(sj.ValueFunctionError, match=r"\[0, 2, 7\]"):
            sj.interactions(game, "SV", n_players=8, chunk_size=16)
    with pytest.raises(sj.ValueFunctionError, match="shape"):
        sj.interactions(Partial(lambda masks: masks), "SV", n_players=8)


def test_ranks_beyond_32_bits():
    """The first blocks of 40 players: high players are never packed into a device integer."""
    seen = []

    def game(masks):
        seen.append(np.asarray(masks))
        return np.zeros(len(masks))

    def stop(count, total):
        assert total == 1 << 40
        if count == 3 << 10:
            raise Stop

    with pytest.raises(Stop):
        sj.interactions(game, "SV", n_players=40, progress=stop)
    assert seen[-1].shape == (1024, 40)
    np.testing.assert_array_equal(np.flatnonzero(seen[-1].all(axis=0)), [11])


def test_what_cannot_be_streamed_is_refused(tmp_path):
    game = on_the_host(60)
    with pytest.raises(sj.MemoryRefused, match=r"needs .* available; .*streamed"):
        sj.interactions(game, "SV", n_players=60)
    with pytest.raises(sj.MemoryRefused, match="at most 3 is streamed"):
        sj.interactions(on_the_host(45), "STII", 4, n_players=45)
    with pytest.raises(sj.ShapjaxError, match="order is 4"):
        sj.interactions(on_the_host(8), "STII", 4, n_players=8, checkpoint=tmp_path / "c.npz")
    with pytest.raises(sj.ShapjaxError, match="checkpoint"):
        sj.interactions(np.zeros(8, np.float32), checkpoint=tmp_path / "c.npz")
