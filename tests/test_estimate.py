"""The kernel regression: exact over all coalitions, consistent under sampling."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from definitions import shapley_taylor, table_to_game
from games_for_tests import table_game
from scipy import stats

import shapjax as sj
from shapjax.coalitions.enumerate import members_of_size
from shapjax.estimators.designs import dense_design, design_of_order, gram_table
from shapjax.estimators.regression import fit_eliminated
from shapjax.estimators.sampling import (
    constrained_masks,
    draw_by_size,
    draw_of_sizes,
    kernel,
    kernel_direct,
    kernel_weighting,
    size_law,
)

direct = functools.partial(sj.estimate, method="kernel-direct")


def relu_network(n, seed, width=20):
    keys = jax.random.split(jax.random.key(seed), 3)
    sizes = [(n, width), (width, width), (width, 1)]
    glorot = jax.nn.initializers.glorot_normal()
    layers = [glorot(k, s, jnp.float32) for k, s in zip(keys, sizes, strict=True)]

    def value(layers, masks):
        hidden = jax.nn.relu(jax.nn.relu(masks @ layers[0]) @ layers[1])
        return (hidden @ layers[2])[:, 0]

    return jax.tree_util.Partial(value, layers)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("order", [1, 2])
def test_over_all_coalitions_it_is_exact(n, order):
    if order > n:
        pytest.skip("more players in a pair than in the game")
    values, game = table_game(n)
    with jax.enable_x64(True):
        exact = jax.tree.map(np.asarray, sj.interactions(values, order=order))
    for method in ("kernel-direct", "kernel-weighting"):
        found = sj.estimate(game, n, order=order, budget=2**n, method=method, key=0)
        assert found.of_size(order).dtype == np.float64
        for a, b in zip(found.coefficients, exact.coefficients, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-9)
    # Rows of weight 1e8 are another problem, this far from the constrained one.
    found = direct(game, n, order=order, budget=2**n, key=0, constraints="weight")
    for a, b in zip(found.coefficients, exact.coefficients, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_it_is_exact_by_definition_too():
    values, game = table_game(5, seed=3)
    found = direct(game, 5, budget=32, key=0)
    expected = [
        shapley_taylor(table_to_game(values), 5, frozenset(pair), 2)
        for pair in members_of_size(5, 2).tolist()
    ]
    np.testing.assert_allclose(found.of_size(2), expected, atol=1e-9)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("sampler", [kernel_direct, kernel_weighting])
def test_matrix_free_solver_is_constrained_least_squares(x64, order, sampler):
    """Against the Karush-Kuhn-Tucker system of the same rows, solved densely by NumPy."""
    n, rows = 8, 300
    _, game = table_game(n)
    plan = sampler(jax.random.key(0), n, order, rows)
    free = np.asarray(plan.free)
    values = game(np.concatenate([plan.constrained, free]))
    found = fit_eliminated(plan.free, jnp.asarray(values), jnp.asarray(plan.weights), order=order)

    lower = values[0] + free @ (values[1 : n + 1] - values[0]) * (order == 2)
    known = values[0] + (values[1 : n + 1] - values[0]).sum() * (order == 2)
    top_sum = values[len(plan.constrained) - 1] - known
    design = free[:, members_of_size(n, order)].all(-1).astype(float)
    gram = design.T @ (plan.weights[:, None] * design)
    count = len(gram)
    system = np.block([[gram, np.ones((count, 1))], [np.ones((1, count)), np.zeros((1, 1))]])
    right = np.append(design.T @ (plan.weights * (values[-rows:] - lower)), top_sum)
    expected = np.linalg.solve(system, right)[:-1]
    np.testing.assert_allclose(found.coefficients[order], expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("n", [3, 4, 7])
def test_the_expected_gram_matrix_is_inverted(x64, n):
    law, table = size_law(n, 2), gram_table(n, 2)
    masks = np.array([[rank >> i & 1 for i in range(n)] for rank in range(2**n)], float)
    sizes = masks.sum(1).astype(int)
    probability = law[sizes] / np.array([np.sum(sizes == s) for s in range(n + 1)])[sizes]
    pairs = masks[:, members_of_size(n, 2)].prod(-1)
    spectrum = np.linalg.eigvalsh(pairs.T @ (probability[:, None] * pairs))
    expected = {round(x, 9) for x in law @ table}
    assert {round(x, 9) for x in spectrum} == expected
    design = design_of_order(
        jnp.asarray(masks) * np.sqrt(probability)[:, None] ** 0.5, 2, law @ gram_table(n, 2)
    )
    rng = np.random.default_rng(0)
    zero_sum = rng.normal(size=(n, n))
    zero_sum = (zero_sum + zero_sum.T) * (1 - np.eye(n))
    zero_sum -= zero_sum.sum() / (n * (n - 1)) * (1 - np.eye(n))
    back = design.invert(design.centre(design.adjoint(design.apply(jnp.asarray(zero_sum)))))
    np.testing.assert_allclose(back, zero_sum, atol=1e-10)


def test_dense_design_by_hand(x64):
    z = jnp.asarray([[1.0, 0, 1], [1, 1, 1]])
    members = [members_of_size(3, size) for size in range(3)]
    expected = [[1, 1, 0, 1, 0, 1, 0], [1, 1, 1, 1, 1, 1, 1]]
    np.testing.assert_array_equal(dense_design(z, members), expected)


def test_kernel_by_hand():
    # n = 4, s = 2: 3 / (6 * 1 * 2); s = 3: 3 / (4 * 3 * 1).
    np.testing.assert_allclose(kernel(4, 2), [0, 0, 1 / 4, 1 / 4, 0])
    # Order 1 is the Shapley kernel (n-1) / (C(n,s) s (n-s)).
    np.testing.assert_allclose(kernel(4, 1), [0, 1 / 4, 1 / 8, 1 / 4, 0])
    np.testing.assert_allclose(size_law(4, 2), [0, 0, 3 / 5, 2 / 5, 0])
    assert np.all(np.isfinite(kernel(2000, 2)))


def test_draws_are_uniform_within_a_size():
    """Chi-square at a false-alarm rate of 1e-6 (the seed is fixed all the same)."""
    draws = np.asarray(draw_of_sizes(jax.random.key(5), jnp.full(20_000, 3), 6))
    assert np.all(draws.sum(1) == 3)
    counts = np.unique(draws @ (1 << np.arange(6)), return_counts=True)[1]
    assert len(counts) == 20
    assert stats.chisquare(counts).pvalue > 1e-6


def test_sizes_follow_their_law():
    law = size_law(9, 2)
    draws = np.asarray(draw_by_size(jax.random.key(6), jnp.asarray(law, jnp.float32), rows=20_000))
    counts = np.bincount(draws.sum(1), minlength=10)
    assert counts[law == 0].sum() == 0
    assert stats.chisquare(counts[law > 0], 20_000 * law[law > 0]).pvalue > 1e-6


@pytest.mark.parametrize("method", ["kernel-direct", "kernel-weighting"])
@pytest.mark.parametrize("order", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_errors_shrink_as_the_budget_grows(method, order):
    """Sixteenfold budget: the mean squared error falls at least eightfold, mean of 8 seeds."""
    game = relu_network(10, seed=0)
    exact = np.asarray(sj.interactions(game, n_players=10, order=order).of_size(order))

    def error(budget):
        estimates = [
            sj.estimate(game, 10, order=order, budget=budget, method=method, key=seed)
            for seed in range(8)
        ]
        return np.mean([(np.asarray(e.of_size(order)) - exact) ** 2 for e in estimates])

    small = 60 if order == 2 else 30
    assert error(16 * small) < error(small) / 8


def test_hundred_players_in_float32():
    """Against the same regression in float64: 12,000 rows for 4,950 pairs."""
    n = 100
    plan = kernel_direct(jax.random.key(0), n, 2, 12_000)
    masks = np.concatenate([plan.constrained, np.asarray(plan.free)])
    values = np.asarray(relu_network(n, seed=1, width=50)(masks))
    narrow = fit_eliminated(plan.free, jnp.asarray(values), jnp.ones(12_000), order=2)
    assert narrow.coefficients[2].dtype == jnp.float32
    with jax.enable_x64(True):
        wide = fit_eliminated(
            plan.free, jnp.asarray(values, jnp.float64), jnp.ones(12_000), order=2
        )
        pairs = np.asarray(wide.coefficients[2])
    difference = np.linalg.norm(np.asarray(narrow.coefficients[2]) - pairs)
    assert difference < 1e-3 * np.linalg.norm(pairs)
    assert float(wide.gradient) < 1e-12


def test_budgets_are_never_exceeded():
    n = 7
    for budget in (9, 10, 57, 127, 128, 5000):
        rows = []

        def value(masks, rows=rows):
            rows.append(len(masks))
            return np.asarray(masks).sum(1) ** 2.0

        found = direct(value, n, budget=budget, key=0)
        # A coalition drawn again counts again, as in the paper, but is not evaluated again.
        assert sum(rows) <= found.stats["evaluations"] == min(budget, 2**n)


def test_constraints_alone_give_equal_pairs():
    found = direct(lambda m: np.asarray(m).sum(1) ** 2.0, 6, budget=8, key=0)
    np.testing.assert_allclose(found.of_size(2), 2.0)


def test_too_few_rows_are_said_so_and_still_obey_the_constraints():
    _, game = table_game(8)
    found = direct(game, 8, budget=20, key=0)
    assert found.stats["underdetermined"]
    total = sum(c.sum() for c in found.coefficients[1:])
    np.testing.assert_allclose(total, game(np.ones((1, 8), int))[0] - found.empty, atol=1e-10)
    assert not direct(game, 8, budget=100, key=0).stats["underdetermined"]


def test_keys_decide():
    _, game = table_game(8)
    first, again, other = (direct(game, 8, budget=60, key=k) for k in (1, 1, 2))
    np.testing.assert_array_equal(first.of_size(2), again.of_size(2))
    assert np.abs(first.of_size(2) - other.of_size(2)).max() > 1e-3
    same = direct(game, 8, budget=60, key=jax.random.key(1))
    np.testing.assert_array_equal(first.of_size(2), same.of_size(2))


def test_jax_and_python_functions_agree():
    game = relu_network(9, seed=2)
    traced = direct(game, 9, budget=200, key=0)
    called = direct(lambda m: np.asarray(game(m)), 9, budget=200, key=0, chunk_size=17)
    assert isinstance(called.singles, np.ndarray)
    np.testing.assert_allclose(traced.of_size(2), called.of_size(2), atol=1e-5)


def test_the_fit_is_batched_by_vmap(x64):
    plan = kernel_direct(jax.random.key(0), 7, 2, 60)
    values = np.random.default_rng(0).normal(size=(3, 60 + len(plan.constrained)))
    weights = jnp.ones(60)
    together = jax.vmap(lambda v: fit_eliminated(plan.free, v, weights, order=2))(values)
    for one, v in zip(together.coefficients[2], values, strict=True):
        alone = fit_eliminated(plan.free, jnp.asarray(v), weights, order=2)
        np.testing.assert_allclose(one, alone.coefficients[2], atol=1e-10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": 16}, "at least 17"),
        ({"budget": -1}, "budget"),
        ({"budget": 10.5}, "whole number"),
        ({"method": "magic"}, "kernel-direct, kernel-weighting"),
        ({"index": "magic"}, "index"),
        ({"order": 3}, "at least 122"),
        ({"order": 16}, "order"),
        ({"constraints": "soft"}, "eliminate, weight"),
        ({"key": "x"}, "seed"),
        ({"key": -1}, "seed"),
        ({"key": jnp.zeros(3)}, "one PRNG key"),
        ({"key": jax.random.split(jax.random.key(0))}, "one PRNG key"),
        ({"n_players": 2**70}, "n_players"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"n_players": 0}, "n_players"),
    ],
)
def test_bad_arguments_end_in_one_sentence(arguments, message):
    arguments = {"n_players": 15, "budget": 100, "key": 0, **arguments}
    with pytest.raises(sj.ShapjaxError, match=message) as caught:
        direct(lambda m: np.asarray(m).sum(1) * 1.0, **arguments)
    assert str(caught.value).count("\n") == 0


def test_too_large_is_refused_before_it_is_tried():
    for arguments in ({"budget": 10**12, "n_players": 60}, {"n_players": 10**6, "budget": 10**7}):
        with pytest.raises(sj.MemoryRefused, match="available"):
            direct(lambda m: m.sum(1), key=0, **arguments)
    with pytest.raises(sj.MemoryRefused, match="eliminate"):
        direct(
            lambda m: np.asarray(m).sum(1) * 1.0,
            400,
            budget=40_000,
            key=0,
            constraints="weight",
        )


@pytest.mark.parametrize("scale", [1e-25, 1e-18, 1.0, 1e18])
def test_units_do_not_matter(scale):
    game = relu_network(10, seed=3)

    def scaled(masks):
        return game(masks) * jnp.float32(scale)

    reference = direct(game, 10, budget=600, key=0).of_size(2)
    found = direct(jax.jit(scaled), 10, budget=600, key=0).of_size(2)
    np.testing.assert_allclose(np.asarray(found) / scale, reference, atol=1e-4)


def test_many_players_do_not_underflow_the_kernel():
    """With 1,200 players the kernel leaves float64's range; a linear game has a known answer."""
    rng = np.random.default_rng(0)
    shares = rng.random(1200)
    found = sj.estimate(
        lambda m: np.asarray(m) @ shares, 1200, "SV", budget=3600, method="kernel-weighting", key=0
    )
    np.testing.assert_allclose(found.singles, shares, atol=1e-6)


def test_large_weights_are_refused_where_float64_cannot_hold_them():
    with pytest.raises(sj.ShapjaxError, match="eliminate"):
        sj.estimate(
            lambda m: np.asarray(m).sum(1) * 1.0,
            60,
            budget=2500,
            method="kernel-weighting",
            key=0,
            constraints="weight",
        )


def test_constrained_masks_by_hand():
    expected = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]
    np.testing.assert_array_equal(constrained_masks(3, 2), expected)
