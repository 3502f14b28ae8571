"""The fast kernels against the slow path through all dividends, and what JAX does with them."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import shapjax as sj
from shapjax.indices import kernels
from shapjax.indices.halves import small_ranks
from shapjax.indices.weights import index_and_order, weight_table
from shapjax.indices.worths import worth_weights
from shapjax.transforms.butterfly import step_by_step
from shapjax.transforms.moebius import superset_sums


@pytest.fixture(autouse=True)
def _double(x64):
    """Everything here is in float64 unless it says otherwise."""


def random_table(n, lead=()):
    return np.random.default_rng(n).standard_normal((*lead, 1 << n))


def slow_moebius(values):
    values = np.array(values)
    for player in range(values.shape[-1].bit_length() - 1):
        pairs = values.reshape(-1, 2, 1 << player)
        pairs[:, 1] -= pairs[:, 0]
    return values


def slow_dividends(values, row, s):
    n, ranks = len(row) - 1, np.arange(values.shape[-1])
    shares = row[np.bitwise_count(ranks)] * slow_moebius(values)
    own = small_ranks(n, s)
    return shares @ ((ranks[:, None] & own) == own)


def slow_marginals(values, row, s):
    """Every coalition without S, one matrix for each sign."""
    n, ranks = len(row) - 1, np.arange(values.shape[-1])[:, None]
    own = small_ranks(n, s)
    apart = (ranks & own) == 0
    weight = np.where(apart, row[np.bitwise_count(ranks)], 0) * (s > 0)
    joined = np.take_along_axis(values[..., None], (ranks | own)[None], axis=-2)
    return (weight * (joined - values[..., None])).sum(axis=-2)


@pytest.fixture(params=["matrix", "halves"])
def route(request, monkeypatch):
    if request.param == "halves":
        monkeypatch.setattr(kernels, "LARGEST_MATRIX", -1)


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize(("n", "order"), [(1, 1), (2, 2), (4, 3), (7, 3)])
@pytest.mark.parametrize("form", ["dividends", "marginals"])
def test_random_weights_equal_the_slow_path(n, order, form):
    rng = np.random.default_rng(n)
    weights = np.triu(rng.standard_normal((order + 1, n + 1)))
    if form == "marginals":
        weights = np.fliplr(weights)
    values = random_table(n, (2,))
    found = jax.jit(lambda v: kernels.share(v, weights, form))(values)
    slow = slow_dividends if form == "dividends" else slow_marginals
    for s, mine in enumerate(found):
        want = slow(values, weights[s], s)
        np.testing.assert_allclose(mine, want, rtol=0, atol=1e-13 * max(np.abs(want).max(), 1))


@pytest.mark.parametrize("name", ["SV", "SII", "STII", "k-SII", "FSII", "kADD-SHAP", "FBII"])
def test_twelve_digits_at_thirteen_players(name):
    """Against fractions, since dividends of floats lose digits themselves."""
    n = 13
    values = np.random.default_rng(1).integers(-1000, 1000, 1 << n)
    index, order = index_and_order(name, None, n)
    weights = weight_table(index, order, n)
    found = sj.interactions(values.astype(float), name)
    dividends = slow_moebius(values.astype(object))
    for s in range(1, order + 1):
        ranks = small_ranks(n, s)
        for place in (0, len(ranks) // 2, len(ranks) - 1):
            held = np.flatnonzero(np.arange(1 << n) & ranks[place] == ranks[place])
            sizes = np.bitwise_count(held)
            want = sum(weights[s, t] * d for t, d in zip(sizes, dividends[held], strict=True))
            assert abs(found.of_size(s)[place] - float(want)) < 1e-12 * 1000


def test_float_weights_are_taken_for_the_fractions_they_round():
    index, order = index_and_order("FSII", 3, 20)
    exact = weight_table(index, order, 20)
    rounded = worth_weights(exact.astype(float))
    assert (rounded == worth_weights(exact)).all()


def test_the_highest_orders_take_the_transforms():
    values = random_table(6)
    for order in (4, 6):
        found = sj.interactions(values, "STII", order)
        np.testing.assert_allclose(found.of_size(3), slow_moebius(values)[small_ranks(6, 3)])
        total = sum(float(found.of_size(s).sum()) for s in range(1, order + 1))
        assert total == pytest.approx(values[-1] - values[0], abs=1e-12)


@pytest.mark.parametrize("n", [0, 1, 5, 13])
def test_batches_equal_loops(n):
    values = random_table(n, (2, 3))
    order = min(2, max(n, 1))
    together = sj.interactions(values, "SII", order)
    mapped = jax.vmap(jax.vmap(lambda v: sj.interactions(v, "SII", order)), 1, 1)(values)
    alone = sj.interactions(values[1, 2], "SII", order)
    for a, b, c in zip(*(x.coefficients for x in (together, mapped, alone)), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-13)
        np.testing.assert_allclose(a[1, 2], c, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("n", "order"), [(0, 1), (1, 1), (2, 2), (5, 1), (5, 3), (5, 4), (13, 1), (13, 2)]
)
def test_derivatives_are_the_index_of_the_direction(n, order):
    """Forward and backward, against central differences: exact for a linear map."""
    values, direction = random_table(n), np.cos(np.arange(1 << n))

    def flat(v):
        return jnp.concatenate(sj.interactions(v, "k-SII", order).coefficients)

    moved = jax.jvp(flat, (values,), (direction,))[1]
    differences = (flat(values + direction) - flat(values - direction)) / 2
    np.testing.assert_allclose(moved, differences, rtol=0, atol=1e-12 * 2**n)
    pull = np.sin(np.arange(len(moved)))
    gradient = jax.grad(lambda v: flat(v) @ pull)(values)
    assert float(gradient @ direction) == pytest.approx(float(pull @ moved), rel=1e-11, abs=1e-11)


@pytest.mark.parametrize(("n", "lead"), [(3, (2,)), (13, (10,)), (17, ())])
def test_transforms_of_every_size_of_block(n, lead):
    """Within one block, several games to a block, several blocks to a game."""
    values = random_table(n, lead)
    want = slow_moebius(values)
    atol = 1e-14 * 2**n
    found = sj.moebius(values)
    np.testing.assert_allclose(found, want, rtol=0, atol=atol)
    np.testing.assert_allclose(sj.zeta(found), values, rtol=0, atol=atol)
    if lead:
        np.testing.assert_array_equal(jax.jit(jax.vmap(sj.moebius))(values), found)
    # The transpose of the zeta transform sums over supersets.
    gradient = jax.grad(lambda v: (sj.zeta(v) * want).sum())(values)
    np.testing.assert_array_equal(gradient, superset_sums(want))


def test_transform_inside_other_transformations():
    values = random_table(4, (3,))
    hessian = jax.hessian(lambda v: (sj.moebius(v) ** 2).sum())(values[0])
    matrix = slow_moebius(np.eye(16)).T
    np.testing.assert_allclose(hessian, 2 * matrix.T @ matrix)
    scanned = jax.lax.map(sj.moebius, jnp.asarray(values))
    np.testing.assert_allclose(scanned, slow_moebius(values), atol=1e-14)
    np.testing.assert_allclose(jax.jacfwd(sj.moebius)(values[0]), matrix)


def test_any_step_may_replace_the_matrix():
    flags = np.zeros(32, np.uint8)
    flags[0b00110] = 1
    held = step_by_step(jnp.asarray(flags), lambda without, with_: (without, without | with_))
    np.testing.assert_array_equal(held, np.arange(32) & 0b00110 == 0b00110)


@pytest.mark.parametrize("n", [2, 5, 13])
def test_float32_is_kept(n):
    values = random_table(n).astype(np.float32)
    for index, order in (("SV", 1), ("k-SII", 2)):
        found = sj.interactions(values, index, order)
        want = sj.interactions(values.astype(float), index, order)
        for mine, exact in zip(found.coefficients, want.coefficients, strict=True):
            assert mine.dtype == np.float32
            np.testing.assert_allclose(mine, exact, rtol=0, atol=2e-6 * max(1, n))


@pytest.mark.parametrize("x64_on", [True, False])
def test_compensated_dividends_keep_every_digit_of_float32(x64_on):
    """A smooth game: of the smallest dividends the plain transform has no correct digit."""
    n = 14
    values = np.exp(np.bitwise_count(np.arange(1 << n)) / 3).astype(np.float32)
    want = slow_moebius(values.astype(float))
    with jax.enable_x64(x64_on):
        plain = np.asarray(sj.moebius(values))
        better = np.asarray(jax.jit(lambda v: sj.moebius(v, compensated=True))(values))
    assert better.dtype == np.float32
    np.testing.assert_allclose(better, want, rtol=1e-6, atol=1e-12)
    assert np.abs(plain - want).max() > 100 * np.abs(better - want).max()


def test_the_benchmark_runs():
    script = Path(__file__).parent.parent / "benchmarks" / "exact.py"
    command = [sys.executable, str(script), "--quick", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    rows = json.loads(result.stdout)
    assert {"SV, order 1, n = 10", "STII, order 2, value function, n = 21"} <= {
        row.get("what") for row in rows
    }
    assert "coalitions, peak" in result.stderr
