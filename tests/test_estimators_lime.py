"""Joint LIME: the lasso it says it solves, and FBII where nothing is penalised."""

import numpy as np
import pytest
from games_for_tests import assert_covered, estimates, exact, smooth_game, table_game

import shapjax as sj
from shapjax.coalitions.enumerate import all_masks, members_of_size


def design(n, order):
    """Products of the members of all coalitions of 1 to ``order`` players, [2**n, unknowns]."""
    masks = np.asarray(all_masks(n)).astype(float)
    sizes = range(1, order + 1)
    return np.concatenate([masks[:, members_of_size(n, s)].prod(-1) for s in sizes], axis=1)


def bilinear(n, n_query):
    """Which columns of the design of order 2 a bilinear form has."""
    first, second = members_of_size(n, 2).T
    return np.concatenate([np.ones(n, bool), (first < n_query) & (second >= n_query)])


def solution_of(found):
    return found.empty, np.concatenate(found.coefficients[1:])


@pytest.mark.parametrize("p", [0.5, 0.8])
def test_without_a_penalty_it_is_faithful_banzhaf(p):
    """LIME's weight of n log(p/(1-p)) per share of players that are gone, in a dense solve."""
    n, order = 6, 2
    values, game = table_game(n)
    found = sj.estimate(game, n, "FBII", order, 2**n, "lime", key=0, p=p, l1=0)
    for a, b in zip(found.coefficients, exact(values, "FBII", order, p).coefficients, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)
    gone = 1 - np.asarray(all_masks(n)).mean(1)
    root = np.exp(-found.stats["locality"] * gone / 2)
    matrix = root[:, None] * np.concatenate([np.ones((2**n, 1)), design(n, order)], axis=1)
    expected = np.linalg.lstsq(matrix, root * values, rcond=None)[0]
    np.testing.assert_allclose(np.concatenate(found.coefficients), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("order", "l1", "p", "options"),
    [
        (1, 0.1, 0.5, {}),
        (2, 0.1, 0.7, {}),
        (2, 0.1, 0.7, {"pairs": "cross", "n_query": 2}),
        (3, 0.3, 0.5, {}),
    ],
)
def test_it_is_the_lasso(order, l1, p, options):
    """The conditions of Karush, Kuhn and Tucker over all coalitions, in NumPy."""
    n = 6
    values, game = table_game(n, seed=order)
    found = sj.estimate(
        game, n, "FBII", order, 2**n, "lime", key=0, p=p, l1=l1, refits=0, **options
    )
    assert found.stats["converged"]
    sizes = np.asarray(all_masks(n)).sum(1)
    weights = p**sizes * (1 - p) ** (n - sizes)
    matrix = design(n, order)
    empty, a = solution_of(found)
    if "n_query" in options:
        there = bilinear(n, options["n_query"])
        assert not a[~there].any()
        matrix, a = matrix[:, there], a[there]
    centred = weights * (values - weights @ values)
    penalty = l1 * np.abs(matrix.T @ centred).max()
    np.testing.assert_allclose(found.stats["penalty"], penalty)
    residual = values - empty - matrix @ a
    np.testing.assert_allclose(weights @ residual, 0, atol=1e-9)
    gradient = matrix.T @ (weights * residual)
    assert np.abs(gradient).max() < penalty * (1 + 1e-3)
    np.testing.assert_allclose(gradient[a != 0], penalty * np.sign(a[a != 0]), rtol=2e-3)
    assert found.stats["nonzero"] == np.count_nonzero(a)
    assert 0 < found.stats["nonzero"] < len(a)
    assert not any(part.any() for part in found.standard_errors)


def test_the_bilinear_form_without_a_penalty():
    """In a dense solve over all coalitions; its pairs across are those of FBII."""
    n, n_query = 6, 2
    values, game = table_game(n)
    options = {"pairs": "cross", "n_query": n_query, "l1": 0}
    found = sj.estimate(game, n, "FBII", 2, 2**n, "lime", key=0, **options)
    there = bilinear(n, n_query)
    matrix = np.concatenate([np.ones((2**n, 1)), design(n, 2)[:, there]], axis=1)
    empty, a = solution_of(found)
    expected = np.linalg.lstsq(matrix, values, rcond=None)[0]
    np.testing.assert_allclose([empty, *a[there]], expected, atol=1e-9)
    pairs = np.where(there[n:], exact(values, "FBII", 2, 0.5).of_size(2), 0)
    np.testing.assert_allclose(found.of_size(2), pairs, atol=1e-9)
    few = sj.estimate(game, n, "FBII", 2, 2 ** (n - 1), "lime", key=0, **options)
    assert few.stats["unknowns"] == len(expected)
    np.testing.assert_array_equal(np.concatenate(few.standard_errors[1:]) > 0, there)


def test_the_largest_penalty_leaves_nothing():
    values, game = table_game(5)
    found = sj.estimate(game, 5, "FBII", 2, 32, "lime", key=0, l1=1)
    assert found.stats["nonzero"] == 0
    np.testing.assert_allclose(found.empty, values.mean())


def test_intervals():
    """Without a penalty they cover. With one they say how the coefficients scatter about their own
    mean: a factor of 2 in the mean square is missed by 25 estimates of 45 pairs less than once in
    1e6, were the pairs as good as 8 independent ones."""
    values, game = smooth_game(10)
    options = {"p": 0.6, "l1": 0}
    found = estimates(game, 10, "FBII", 2, 300, "lime", 25, **options)
    assert_covered(found, exact(values, "FBII", 2, 0.6))
    found = estimates(game, 10, "FBII", 2, 300, "lime", 25, p=0.6, l1=0.002)
    pairs = np.array([x.of_size(2) for x in found])
    claimed = np.mean([x.standard_errors[2] ** 2 for x in found])
    assert 0.5 < claimed / pairs.var(axis=0, ddof=1).mean() < 2


def test_a_distance_of_your_own():
    n = 6
    values, game = table_game(n)
    costs = np.linspace(0.1, 1, n)
    found = sj.estimate(
        game, n, "FBII", 2, 2**n, "lime", key=0, l1=0, distance=lambda m: (~m) @ costs
    )
    root = np.exp(-((~np.asarray(all_masks(n))) @ costs) / 2)
    matrix = root[:, None] * np.concatenate([np.ones((2**n, 1)), design(n, 2)], axis=1)
    expected = np.linalg.lstsq(matrix, root * values, rcond=None)[0]
    np.testing.assert_allclose(np.concatenate(found.coefficients), expected, atol=1e-8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"index": "SII"}, "only FBII"),
        ({"l1": 2}, "share between 0 and 1"),
        ({"l1": "much"}, "share between 0 and 1"),
        ({"p": 1.0}, "strictly between"),
        ({"p": 0.6, "distance": np.sum}, "leave one out"),
        ({"distance": lambda m: -m.sum(1)}, "not negative"),
        ({"distance": lambda m: m}, "expected as many"),
        ({"budget": 1}, "at least 2"),
        ({"pairs": "some"}, "all, cross"),
        ({"pairs": "cross"}, "give order=2 and n_query"),
        ({"pairs": "cross", "n_query": 6}, "between 1 and 5"),
        ({"n_query": 3}, "all pairs are fitted"),
    ],
)
def test_bad_arguments(arguments, message):
    arguments = {"index": "FBII", "budget": 30, "key": 0, **arguments}
    with pytest.raises(sj.ShapjaxError, match=message):
        sj.estimate(table_game(6)[1], 6, method="lime", **arguments)


@pytest.mark.peers
def test_against_scikit_learn():
    linear_model = pytest.importorskip(
        "sklearn.linear_model", reason="scikit-learn is not installed"
    )
    n, p = 7, 0.7
    values, game = table_game(n)
    found = sj.estimate(game, n, "FBII", 2, 2**n, "lime", key=0, p=p, l1=0.05)
    sizes = np.asarray(all_masks(n)).sum(1)
    peer = linear_model.Lasso(alpha=found.stats["penalty"], tol=1e-12, max_iter=100_000)
    peer.fit(design(n, 2), values, sample_weight=p**sizes * (1 - p) ** (n - sizes))
    empty, a = solution_of(found)
    np.testing.assert_allclose(a, peer.coef_, atol=1e-4)
    np.testing.assert_allclose(empty, peer.intercept_, atol=1e-4)
