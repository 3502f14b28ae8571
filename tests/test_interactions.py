"""The result type."""

import contextlib
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import shapjax as sj
from shapjax.core.interactions import _unrank, lexicographic_rank


@pytest.fixture
def found():
    values = np.random.default_rng(0).normal(size=32).astype(np.float32)
    return sj.interactions(values, order=3)


def test_order_is_that_of_combinations():
    for n, size in [(5, 0), (5, 2), (6, 3), (4, 4)]:
        for rank, coalition in enumerate(itertools.combinations(range(n), size)):
            assert lexicographic_rank(list(coalition), n) == rank
            assert _unrank(rank, n, size) == coalition


def test_look_up(found):
    assert (found.order, found.n_players, found.index) == (3, 5, "STII")
    assert found[(3, 1)] == found[1, 3] == found.pairs[1, 3] == found.pairs[3, 1]
    assert found[()] == found.empty
    assert found[2] == found[(2,)] == found.singles[2]
    assert dict(found.items(3))[0, 2, 4] == found[{4, 2, 0}]
    assert np.all(np.diagonal(found.pairs) == 0)
    assert [found.of_size(k).shape for k in range(4)] == [(math.comb(5, k),) for k in range(4)]


@pytest.mark.parametrize(
    "bad", [(0, 0), (5,), (-1, 2), (0, 1, 2, 3), "ab", 1.5, slice(0, 2), (True, False)]
)
def test_wrong_coalitions_are_refused(found, bad):
    with pytest.raises(sj.ShapjaxError):
        found[bad]


def test_arithmetic(found):
    twice = found + found
    np.testing.assert_allclose(twice.pairs, (2 * found).pairs)
    np.testing.assert_allclose((twice - found).singles, found.singles)
    np.testing.assert_allclose((-found / 2).empty, -0.5 * found.empty)
    np.testing.assert_allclose(sum([found, found]).pairs, twice.pairs)
    with pytest.raises(TypeError):
        list(found)
    with pytest.raises(sj.ShapjaxError, match="combine"):
        found + sj.interactions(np.zeros(32, np.float32), order=2)


def test_numpy_and_jax_pairs_agree(found):
    host = jax.tree.map(np.asarray, found)
    assert isinstance(host.pairs, np.ndarray)
    np.testing.assert_array_equal(host.pairs, found.pairs)


def test_save_and_load(found, tmp_path):
    estimate = sj.estimate(lambda m: m.sum(1) * 1.0, 6, budget=40, key=0)
    for one in (found, estimate):
        path = tmp_path / "x.npz"
        one.save(path)
        back = sj.Interactions.load(path)
        assert (back.index, back.n_players, back.order) == (one.index, one.n_players, one.order)
        assert back.stats == one.stats
        for a, b in zip(back.coefficients, one.coefficients, strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype


def test_unreadable_files_are_refused(tmp_path, found):
    path = tmp_path / "x.npz"
    with pytest.raises(sj.ShapjaxError):
        sj.Interactions.load(path)
    for content in (b"", b"PK\x03\x04 nonsense", b"\x80\x04K\x01."):
        path.write_bytes(content)
        with pytest.raises(sj.ShapjaxError):
            sj.Interactions.load(path)
    np.savez(path, a=np.arange(3))
    with pytest.raises(sj.ShapjaxError, match="does not hold interactions"):
        sj.Interactions.load(path)
    np.savez(path, header=np.array([{}], dtype=object))
    with pytest.raises(sj.ShapjaxError):
        sj.Interactions.load(path)
    with pytest.raises(sj.ShapjaxError, match="cannot write"):
        found.save(tmp_path / "absent" / "x.npz")


def test_damage_is_named(tmp_path, found):
    path = tmp_path / "x.npz"
    found.save(path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 23):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        # Some bytes are padding or dates; whatever is noticed must be one of our errors.
        with contextlib.suppress(sj.ShapjaxError):
            sj.Interactions.load(path)
    np.save(tmp_path / "y.npy", np.zeros(3))
    with pytest.raises(sj.ShapjaxError):
        sj.Interactions.load(tmp_path / "y.npy")


def test_bfloat16_is_saved_as_float32(tmp_path):
    sj.interactions(np.zeros(4, jnp.bfloat16)).save(tmp_path / "x.npz")
    assert sj.Interactions.load(tmp_path / "x.npz").singles.dtype == np.float32


def test_repr_reads_well(found):
    text = repr(found)
    assert "index='STII', order=3, n=5" in text
    assert "size 2: 10 coefficients" in text
    assert "batch=(2,)" in repr(sj.interactions(np.zeros((2, 8), np.float32)))


def test_is_a_pytree(found):
    doubled = jax.jit(lambda x: jax.tree.map(lambda a: 2 * a, x))(found)
    np.testing.assert_allclose(doubled.pairs, 2 * found.pairs)
