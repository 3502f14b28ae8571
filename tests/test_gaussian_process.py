"""The Gaussian process on coalitions: its plan, the index of its mean, its errors."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from games_for_tests import game_of

import shapjax as sj
from shapjax.coalitions.enumerate import all_masks
from shapjax.estimators import truncated_process
from shapjax.estimators.distinct import distinct_coalitions
from shapjax.estimators.gaussian_process import (
    SELECTION_ROWS,
    fit_process,
    index_of_values,
    posterior,
    posterior_errors,
    prior_variances,
    read_process,
)
from shapjax.estimators.multilinear import (
    MOST_PLAYERS,
    node_rule,
    prior_variances_at_nodes,
    read_at_nodes,
)
from shapjax.estimators.player_rates import _information
from shapjax.estimators.product_kernel import (
    Kernel,
    derivative_weights,
    index_tables,
    kernel_matrix,
    read_index,
)
from shapjax.estimators.shrinkage import held_out_factor, shrink
from shapjax.estimators.truncated_process import (
    columns,
    count_columns,
    fit_gathered,
    gather,
    read_truncated,
    spectrum_of,
    truncated_errors,
)
from shapjax.indices.weights import index_and_order

INDICES = [("STII", 1), ("STII", 2), ("STII", 3), ("SII", 2), ("BII", 2), ("FSII", 2), ("SGV", 2)]


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def network(n, seed, width=20):
    rng = np.random.default_rng(seed)
    shapes = [(n, width), (width, width), (width, 1)]
    layers = [rng.normal(scale=np.sqrt(2 / sum(s)), size=s) for s in shapes]

    def value(masks):
        hidden = np.maximum(np.maximum(np.asarray(masks, float) @ layers[0], 0) @ layers[1], 0)
        return (hidden @ layers[2])[:, 0]

    return value


@pytest.fixture(scope="module", params=["one rate", "own rates"])
def process(request):
    with jax.enable_x64(True):
        masks = distinct_coalitions(jax.random.key(0), 10, 2, 100)
        rng = np.random.default_rng(0)
        detail = 0.1 * rng.normal(size=100)
        values = (network(10, 0)(masks) + detail) * np.exp(0.2 * masks.sum(axis=1))
        if request.param == "one rate":
            return fit_process(masks, values[:, None])
        arguments = (jnp.asarray(masks, float), jnp.asarray(values), jnp.arange(100))
        index, order = index_and_order("STII", 2, 10)
        return jax.tree.map(np.asarray, posterior(*arguments, index=index, order=order).process)


@pytest.fixture(scope="module")
def posterior_table(process):
    """Posterior mean and covariance of every worth, from the model's formula alone."""
    z = np.asarray(process.z)
    every = np.asarray(all_masks(10), float)
    rate, share = process.kernel
    assert share > 0, "else the rough part of the kernel is not tested"

    def covariance(a, b):
        distance = ((a[:, None, :] != b[None, :, :]) * rate).sum(axis=-1)
        return (1 - share) * np.exp(-distance) + share * np.exp(-8 * distance)

    scale = process.scale[every.sum(axis=1).astype(int)]
    cross = covariance(every, z) * scale[:, None]
    mean = process.sizes[every.sum(axis=1).astype(int), 0] + cross @ np.asarray(process.beta)[:, 0]
    own = covariance(every, every) * scale * scale[:, None]
    noisy = covariance(z, z) + 1e-7 * np.eye(len(z))
    return mean, process.variance * (own - cross @ np.linalg.solve(noisy, cross.T))


@pytest.mark.parametrize(("index", "order"), INDICES)
def test_the_index_is_that_of_the_posterior_mean(process, posterior_table, index, order):
    cardinal, order = index_and_order(index, order, 10)
    exact = sj.interactions(posterior_table[0], index, order)
    found = read_process(process, cardinal, order)
    for a, b in zip(found, exact.coefficients, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


@pytest.mark.parametrize(("index", "order"), [("STII", 2), ("SII", 2), ("SGV", 1)])
def test_the_errors_are_those_of_the_posterior_covariance(process, posterior_table, index, order):
    cardinal, order = index_and_order(index, order, 10)
    once = sj.interactions(jnp.asarray(posterior_table[1]), index, order)
    errors = posterior_errors(process, cardinal, order)
    for s in range(order + 1):
        twice = sj.interactions(jnp.asarray(once.of_size(s)).T, index, order).of_size(s)
        variance = np.diagonal(np.asarray(twice))
        np.testing.assert_allclose(errors[s] ** 2, variance, atol=1e-7 * process.variance)


@pytest.mark.parametrize(
    ("index", "order"),
    [pytest.param("STII", 3, marks=pytest.mark.slow), ("FSII", 2), ("SGV", 2)],
)
def test_nodes_and_tables_give_the_same_index(index, order):
    rng, n = np.random.default_rng(0), 12
    cardinal, order = index_and_order(index, order, n)
    z, beta = jnp.asarray(rng.random((30, n)) < 0.5, float), jnp.asarray(rng.normal(size=30))
    kernel, growth = Kernel(0.2, 0.1), -0.1
    scale = np.exp(growth * np.arange(n + 1))
    tables = index_tables(cardinal, order, n, kernel, scale)
    found = read_at_nodes(z, beta, kernel, growth, cardinal, order)
    for a, b in zip(found, read_index(z, beta, tables), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-11)
    found = prior_variances_at_nodes(kernel, growth, cardinal, order, n)
    for a, b in zip(found, prior_variances(cardinal, order, tables, scale), strict=True):
        np.testing.assert_allclose(a, np.broadcast_to(b, a.shape), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("index", "order"), INDICES)
def test_the_rule_is_exact_for_every_index(index, order):
    n = MOST_PLAYERS
    cardinal, order = index_and_order(index, order, n)
    rule = node_rule(cardinal, order, n)
    t = rule.nodes[:, None]
    for own, row in zip(rule.weights, derivative_weights(cardinal, order, n), strict=True):
        u = np.arange(len(row))
        bernstein = scipy.special.comb(u[-1], u) * t**u * (1 - t) ** (u[-1] - u)
        np.testing.assert_allclose(own @ bernstein, row, atol=1e-9)


def test_the_likelihood_climbs_by_its_own_gradient():
    rng = np.random.default_rng(0)
    z = jnp.asarray(np.unique(rng.random((60, 7)) < 0.5, axis=0), float)
    values = jnp.asarray(rng.normal(size=(len(z), 2)))
    basis = jax.nn.one_hot(z.sum(axis=1).astype(int), 8)
    present = np.asarray(basis).any(axis=0)

    def likelihood(logs):
        matrix = kernel_matrix(z, z, Kernel(jnp.exp(logs), 0.2)) + 1e-7 * jnp.eye(len(z))
        used = basis[:, present]
        inverse = jnp.linalg.inv(matrix)
        gram = used.T @ inverse @ used
        rest = inverse - inverse @ used @ jnp.linalg.solve(gram, used.T @ inverse)
        freedom = 2 * (len(z) - used.shape[1])
        determinants = jnp.linalg.slogdet(matrix)[1] + jnp.linalg.slogdet(gram)[1]
        return -0.5 * freedom * jnp.log(jnp.trace(values.T @ rest @ values)) - determinants

    logs = jnp.asarray(rng.uniform(-2, -0.5, 7))
    found = jax.jit(_information)(z, values, basis, Kernel(jnp.exp(logs), 0.2), 1e-7)
    value, gradient = jax.jit(jax.value_and_grad(likelihood))(logs)
    np.testing.assert_allclose(found.likelihood, value, rtol=1e-9)
    np.testing.assert_allclose(found.gradient, gradient, rtol=1e-6)
    assert np.linalg.eigvalsh(found.information).min() > -1e-9


def test_a_player_that_changes_nothing_gets_a_low_rate():
    masks = distinct_coalitions(jax.random.key(0), 10, 2, 200)
    values = network(9, 0)(masks[:, :9])
    found = index_of_values(masks, values, *index_and_order("STII", 2, 10))
    rates = np.array(found.stats["rate"])
    assert rates[9] < 0.7 * rates[:9].min()


def test_a_kernel_function_by_hand():
    # Two players, T = {0}, r = 1/2: v = r, 1, r^2, r for {}, {0}, {1}, {0, 1}.
    index, order = index_and_order("STII", 2, 2)
    tables = index_tables(index, order, 2, Kernel(math.log(2)))
    found = read_index(jnp.array([[1.0, 0.0]]), jnp.ones(1), [jnp.asarray(t) for t in tables])
    np.testing.assert_allclose(found[0], [0.5])
    np.testing.assert_allclose(found[1], [0.5, -0.25])
    np.testing.assert_allclose(found[2], [-0.25])


def test_the_kernel_is_a_mixture_of_powers_of_the_distance():
    rng = np.random.default_rng(0)
    a, b = rng.random((5, 7)) < 0.5, rng.random((4, 7)) < 0.5
    distances = np.array([[(x ^ y).sum() for y in b] for x in a])
    found = kernel_matrix(*(jnp.asarray(m, float) for m in (a, b)), Kernel(0.3, 0.25))
    expected = 0.75 * np.exp(-0.3 * distances) + 0.25 * np.exp(-2.4 * distances)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(("n", "order"), [(1, 1), (4, 2), (9, 2), (9, 3), (15, 2), (40, 1)])
def test_the_plan_keeps_the_budget_and_repeats_nothing(n, order):
    least = sum(math.comb(n, s) for s in range(order)) + 1
    for budget in (least, least + 7, 3 * least, 400):
        masks = distinct_coalitions(jax.random.key(1), n, order, budget)
        assert masks.shape == (min(budget, 2**n), n)
        assert len(np.unique(masks, axis=0)) == len(masks)
        counts = np.bincount(masks.sum(axis=1), minlength=n + 1)
        for size in [*range(order), n]:
            assert counts[size] == math.comb(n, size)


def test_drawn_coalitions_are_uniform_within_their_size():
    masks = np.concatenate([distinct_coalitions(jax.random.key(s), 12, 2, 120) for s in range(200)])
    drawn = masks[masks.sum(axis=1) == 5]
    pairs = np.array([drawn[:, i] & drawn[:, j] for i, j in itertools.combinations(range(12), 2)])
    share = 5 * 4 / (12 * 11)
    z = (pairs.mean(axis=1) - share) / math.sqrt(share * (1 - share) / len(drawn))
    # 66 normal deviates exceed 4.5 with probability below 1e-3.
    assert np.abs(z).max() < 4.5


def test_over_all_coalitions_it_is_exact():
    values = np.random.default_rng(3).normal(size=2**7)
    exact = sj.interactions(values, "STII", 2)
    found = sj.estimate(
        game_of(values), 7, budget=10**6, method="gaussian-process", key=jax.random.key(0)
    )
    assert found.stats["evaluations"] == 2**7
    for a, b in zip(found.coefficients, exact.coefficients, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_it_is_efficient_and_passes_through_what_it_has_seen():
    game = network(9, 4)
    found = sj.estimate(game, 9, budget=120, method="gaussian-process", key=0)
    singles = game(np.eye(9, dtype=bool)) - game(np.zeros((1, 9), bool))
    np.testing.assert_allclose(found.singles, singles, atol=1e-4)
    total = sum(part.sum() for part in found.coefficients)
    np.testing.assert_allclose(total, game(np.ones((1, 9), bool))[0], atol=1e-4)


def test_on_networks_it_errs_by_a_tenth_of_the_variance_and_says_so():
    ours, covered = [], []
    for seed in range(3):
        game = network(12, seed)
        exact = np.asarray(sj.interactions(game(np.asarray(all_masks(12)))).coefficients[2])
        found = sj.estimate(
            game, 12, budget=400, method="gaussian-process", key=jax.random.key(seed)
        )
        ours.append(((found.coefficients[2] - exact) ** 2).mean() / exact.var())
        assert found.standard_errors is not None
        covered.append(np.abs(found.coefficients[2] - exact) < 1.96 * found.standard_errors[2])
    # Kernel-Direct errs by the variance itself at this budget (benchmarks/large_game.py).
    assert np.mean(ours) < 0.1
    assert 0.85 < np.mean(covered) <= 1


def test_on_boolean_polynomials_it_beats_the_constant_answer():
    rng = np.random.default_rng(5)
    values = np.asarray(sj.zeta(rng.uniform(0, 10, size=2**12)))
    exact = np.asarray(sj.interactions(values).coefficients[2])
    found = sj.estimate(
        game_of(values), 12, budget=400, method="gaussian-process", key=jax.random.key(0)
    )
    assert ((found.coefficients[2] - exact) ** 2).mean() < 0.7 * exact.var()


def test_values_without_spread_give_nothing_but_their_level():
    masks = distinct_coalitions(jax.random.key(0), 6, 2, 40)
    found = index_of_values(masks, np.full(40, 3.0), *index_and_order("STII", 2, 6))
    np.testing.assert_allclose(found.empty, 3)
    np.testing.assert_allclose(found.singles, 0, atol=1e-9)
    np.testing.assert_allclose(found.pairs, 0, atol=1e-9)


def test_where_errors_exceed_the_spread_held_out_coalitions_decide():
    masks = distinct_coalitions(jax.random.key(0), 12, 2, 300)
    first, second = np.triu_indices(12, 1)
    pairs = np.random.default_rng(0).normal(size=66)
    values = 1 + (masks[:, first] & masks[:, second]) @ pairs
    scale = np.ones(13)
    assert held_out_factor(masks, values, scale, lambda m, v: pairs) == pytest.approx(1)
    assert held_out_factor(masks, values, scale, lambda m, v: 2 * pairs) == pytest.approx(0.5)
    assert held_out_factor(masks, values, scale, lambda m, v: -pairs) == 0
    shrunk, factor = shrink(pairs, 2 * np.ones(66), lambda: 0.25)
    assert factor == 0.25
    np.testing.assert_allclose(shrunk.sum(), pairs.sum())
    assert shrink(pairs, 0.1 * np.ones(66))[1] == 1


def test_too_much_is_refused():
    key = jax.random.key(0)
    with pytest.raises(sj.ShapjaxError, match="budget is 5"):
        sj.estimate(network(9, 0), 9, budget=5, method="gaussian-process", key=key)
    with pytest.raises(sj.MemoryRefused, match="kernel matrix"):
        sj.estimate(network(20, 0), 20, budget=500_000, method="gaussian-process", key=key)


@pytest.mark.parametrize(("rate", "centre"), [(0.2, 0.0), (0.2, 0.3), (1.5, 0.5)])
def test_the_spectrum_of_the_kernel_is_complete_and_its_tail_is_what_is_cut(rate, centre):
    n, every = 7, np.asarray(all_masks(7))
    sizes, cut = every.sum(axis=1), 2
    spectrum = spectrum_of(n, rate, centre, cut)
    full = columns(jnp.asarray(every, float), n, jnp.asarray(spectrum.eta))
    full = np.concatenate([np.ones((2**n, 1)), full], axis=1) * spectrum.scale[sizes][:, None]
    distance = (every[:, None, :] != every[None, :, :]).sum(axis=-1)
    np.testing.assert_allclose(full @ full.T, np.exp(-rate * distance), atol=1e-12)
    kept = 1 + count_columns(n, cut)
    np.testing.assert_allclose((full[:, kept:] ** 2).sum(axis=1), spectrum.tail[sizes], atol=1e-13)


@pytest.fixture(scope="module", params=[2, 3])
def truncated(request):
    """A truncation fitted to two of three groups of rows, its table of posterior means, and more.

    The columns at every coalition, and the rows fitted to. Its Gram matrices have several strips.
    """
    n = 8
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as patch:
        patch.setattr(truncated_process, "STRIP", 16)
        masks = distinct_coalitions(jax.random.key(0), n, 2, 90)
        values = network(n, 1)(masks) + np.random.default_rng(0).normal(size=90)
        growth = np.exp(0.05 * np.arange(n + 1))
        groups = np.random.default_rng(1).integers(3, size=90)
        groups[[0, -1]] = 0
        gathered = gather(masks, values, 0.2, growth, request.param, 1e-7, groups)
        process = fit_gathered(gathered, [0, 2])
        masks, values = masks[groups != 1], values[groups != 1]
        assert np.bincount(masks.sum(axis=1), minlength=n + 1).all()
        every = np.asarray(all_masks(n))
        sizes = every.sum(axis=1)
        full = columns(jnp.asarray(every, float), n, jnp.asarray(process.spectrum.eta))
        full = np.concatenate([np.ones((2**n, 1)), full], axis=1)
        full *= (process.spectrum.scale * growth)[sizes][:, None]
        theta = np.concatenate(process.theta)
        return process, process.sizes[sizes] + full[:, : len(theta)] @ theta, full, masks, values


@pytest.mark.parametrize(("index", "order"), INDICES)
def test_the_truncation_is_read_exactly(truncated, index, order):
    process, table, full, _, _ = truncated
    cardinal, order = index_and_order(index, order, 8)
    exact = sj.interactions(table, index, order)
    for a, b in zip(read_truncated(process, cardinal, order), exact.coefficients, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)
    tables = index_tables(cardinal, order, 8, Kernel(0.2), process.growth)
    prior = prior_variances(cardinal, order, tables, jnp.asarray(process.growth))
    errors = truncated_errors(process, cardinal, order, [float(x) for x in prior])
    covariance = np.linalg.inv(np.asarray(process.factor) @ np.asarray(process.factor).T)
    kept = slice(1, len(covariance) + 1)
    indices = sj.interactions(jnp.asarray(full.T), index, order)
    for s in range(order + 1):
        own = np.asarray(indices.of_size(s)).reshape(full.shape[1], -1)
        variance = np.einsum("fa,fg,ga->a", own[kept], covariance, own[kept])
        variance += (own[kept.stop :] ** 2).sum(axis=0) + own[0] ** 2
        np.testing.assert_allclose(errors[s] ** 2, process.variance * variance, atol=1e-7)


def test_the_truncation_is_the_regression_on_its_columns(truncated):
    process, _, _, masks, values = truncated
    spectrum, sizes = process.spectrum, masks.sum(axis=1)
    order = len(process.theta) - 1
    design = np.asarray(columns(jnp.asarray(masks, float), order, jnp.asarray(spectrum.eta)))
    design = design * spectrum.scale[sizes][:, None]
    free = np.eye(9)[sizes]
    noise = spectrum.tail[sizes] + 1e-7
    # Generalised least squares on the marginal covariance, by its formula.
    inverse = np.linalg.inv(design @ design.T + np.diag(noise))
    target = values / process.growth[sizes]
    level = np.linalg.solve(free.T @ inverse @ free, free.T @ inverse @ target)
    theta = design.T @ inverse @ (target - free @ level)
    np.testing.assert_allclose(np.concatenate(process.theta[1:]), theta, atol=1e-8)
    rest = target - free @ level
    np.testing.assert_allclose(
        process.variance, rest @ inverse @ rest / (len(masks) - 9), rtol=1e-6
    )


def test_many_games_are_one_call():
    cardinal, order = index_and_order("STII", 2, 6)
    masks = [distinct_coalitions(jax.random.key(s), 6, 2, 40) for s in range(3)]
    values = [network(6, s)(m) for s, m in enumerate(masks)]
    assert len(masks[0]) < SELECTION_ROWS
    one = functools.partial(posterior, chosen=jnp.arange(40), index=cardinal, order=order)
    found = jax.jit(jax.vmap(one))(jnp.asarray(np.stack(masks), float), jnp.asarray(values))
    for place, (own, worth) in enumerate(zip(masks, values, strict=True)):
        alone = index_of_values(own, worth, cardinal, order)
        np.testing.assert_allclose(found.errors[2][place], alone.standard_errors[2], rtol=1e-6)
        shrunk = np.asarray(found.coefficients[2][place])
        factor = alone.stats["shrinkage"][2]
        shrunk = shrunk.mean() + factor * (shrunk - shrunk.mean())
        np.testing.assert_allclose(shrunk, alone.coefficients[2], rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_beyond_the_matrix_the_estimate_still_comes_close():
    n, rng = 24, np.random.default_rng(0)
    first, second = np.triu_indices(n, 1)
    pairs = rng.normal(size=len(first))
    game = lambda masks: (masks[:, first] & masks[:, second]) @ pairs  # noqa: E731
    found = sj.estimate(game, n, budget=5500, method="gaussian-process", key=0)
    assert found.stats["truncated"] == 3
    np.testing.assert_allclose(found.coefficients[2], pairs, atol=0.02)
