from __future__ import annotations

import itertools
import math

import jax
import numpy as np
import pytest

import shapjax as sj
from shapjax.core.errors import DtypeError, ShapjaxError


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def random_values(n, seed=0, batch=()):
    return np.random.default_rng(seed).normal(size=(*batch, 1 << n))


def rank(coalition):
    return sum(1 << p for p in coalition)


def mean_over_orders(values, n, chance_of):
    """Marginal contributions, averaged over the orders of the players with given chances."""
    result, total = np.zeros(n), 0.0
    for order in itertools.permutations(range(n)):
        chance = chance_of(order)
        if chance:
            for place, player in enumerate(order):
                before = rank(order[:place])
                result[player] += chance * (values[before | 1 << player] - values[before])
            total += chance
    return result / total


def owen_by_orders(values, n, partition):
    """All orders in which the members of each group come together are equally likely."""

    def together(order):
        return all(
            (places := sorted(order.index(p) for p in group))[-1] - places[0] == len(group) - 1
            for group in partition
        )

    return mean_over_orders(values, n, together)


def weighted_by_orders(values, n, weights):
    """From the last place to the first, players are drawn in proportion to their weights."""

    def chance(order):
        return math.prod(
            weights[order[place]] / sum(weights[p] for p in order[: place + 1])
            for place in range(n)
        )

    return mean_over_orders(values, n, chance)


def myerson_by_definition(values, n, edges):
    def components(coalition):
        left, found = set(coalition), []
        while left:
            part, grown = set(), {min(left)}
            while part != grown:
                part = grown
                grown = part | {
                    b for e in edges for a, b in (e, e[::-1]) if a in part and b in left
                }
            found.append(part)
            left -= part
        return found

    restricted = np.zeros(1 << n)
    for r in range(1 << n):
        parts = components([p for p in range(n) if r >> p & 1])
        restricted[r] = values[0] + sum(values[rank(c)] - values[0] for c in parts)
    return mean_over_orders(restricted, n, lambda order: 1)


@pytest.mark.parametrize(
    ("n", "partition"),
    [
        (1, [[0]]),
        (3, [[2], [1, 0]]),
        (5, [[0, 3], [4, 1], [2]]),
        (6, [[5, 0, 2], [1], [4, 3]]),
    ],
)
def test_owen_by_orders_that_keep_groups_together(n, partition):
    values = random_values(n)
    expected = owen_by_orders(values, n, partition)
    np.testing.assert_allclose(sj.owen_value(values, partition), expected, atol=1e-13)


def test_owen_by_dividends():
    # A dividend goes in equal parts to the groups it meets, and within each to its members there.
    n, partition = 8, [[0, 1, 2], [3, 4], [5], [6, 7]]
    values = random_values(n)
    expected = np.zeros(n)
    for r, dividend in enumerate(np.asarray(sj.moebius(values))):
        met = [m for m in ([p for p in g if r >> p & 1] for g in partition) if m]
        for members in met:
            expected[members] += dividend / len(met) / len(members)
    np.testing.assert_allclose(sj.owen_value(values, partition), expected, atol=1e-12)


def test_owen_by_hand():
    # Majority of three, players 0 and 1 in a group. Orders that keep it together: 012, 102, 201,
    # 210. The pivots are 1, 0, 0, 1: the group takes all.
    majority = np.array([0.0, 0, 0, 1, 0, 1, 1, 1])
    np.testing.assert_allclose(sj.owen_value(majority, [[0, 1], [2]]), [0.5, 0.5, 0.0])


@pytest.mark.parametrize(
    ("n", "edges"),
    [
        (1, []),
        (4, [(0, 2), (2, 1)]),
        (5, [(4, 0), (0, 3), (3, 1), (1, 2)]),
        (6, [(0, 1), (1, 2), (2, 0), (3, 5)]),
    ],
)
def test_myerson_by_definition(n, edges):
    values = random_values(n)
    expected = myerson_by_definition(values, n, edges)
    np.testing.assert_allclose(sj.myerson_value(values, edges), expected, atol=1e-13)


def test_myerson_is_fair_and_efficient_by_component():
    n, edges = 7, [(0, 1), (1, 2), (2, 3), (0, 3), (4, 5)]
    values = random_values(n)
    value = sj.myerson_value(values, edges)
    for component in ([0, 1, 2, 3], [4, 5], [6]):
        gain = values[rank(component)] - values[0]
        assert float(value[np.array(component)].sum()) == pytest.approx(gain, abs=1e-12)
    # Both ends of an edge lose the same when it is cut.
    cut = sj.myerson_value(values, [e for e in edges if e != (1, 2)])
    assert float(value[1] - cut[1]) == pytest.approx(float(value[2] - cut[2]), abs=1e-12)


def test_myerson_by_hand():
    # Any two or three players are worth 6; player 1 is between the others. 0 and 2 alone together
    # cannot: v^g is 6 on {0,1}, {1,2} and all, dividends 6, 6 and -6: 3-2, 3+3-2, 3-2.
    values = np.array([0.0, 0, 0, 6, 0, 6, 6, 6])
    np.testing.assert_allclose(sj.myerson_value(values, [(0, 1), (1, 2)]), [1, 4, 1])


@pytest.mark.parametrize("n", [1, 3, 6])
def test_weighted_shapley_by_weighted_orders(n):
    values = random_values(n)
    weights = np.random.default_rng(1).uniform(0.2, 3.0, n)
    expected = weighted_by_orders(values, n, weights)
    np.testing.assert_allclose(sj.weighted_shapley_value(values, weights), expected, atol=1e-12)


def test_weighted_shapley_by_hand():
    # All three together are worth 12 and no fewer anything: 12 in proportion to the weights.
    values = np.zeros(8)
    values[7] = 12.0
    np.testing.assert_allclose(sj.weighted_shapley_value(values, [1, 2, 3]), [2, 4, 6])


def test_trivial_structures_give_the_shapley_value():
    n = 7
    values = random_values(n)
    expected = sj.shapley_value(values)
    everyone = list(itertools.combinations(range(n), 2))
    for value in (
        sj.owen_value(values, [range(n)]),
        sj.owen_value(values, [[p] for p in range(n)]),
        sj.myerson_value(values, everyone),
        sj.weighted_shapley_value(values, np.full(n, 0.3)),
    ):
        np.testing.assert_allclose(value, expected, atol=1e-12)


CASES = {
    "owen": lambda v: sj.owen_value(v, [[0, 2], [1, 3]]),
    "myerson": lambda v: sj.myerson_value(v, [(0, 1), (1, 3)]),
    "weighted": lambda v: sj.weighted_shapley_value(v, [1.0, 2.0, 0.5, 1.5]),
}


@pytest.mark.parametrize("value", CASES.values(), ids=CASES)
def test_batches_jit_vmap_grad_and_precision(value):
    values = random_values(4, 0, (2, 3))
    whole = value(values)
    assert whole.shape == (2, 3, 4)
    np.testing.assert_allclose(whole[1, 2], value(values[1, 2]), atol=1e-14)
    np.testing.assert_allclose(jax.jit(value)(values), whole, atol=1e-14)
    np.testing.assert_allclose(jax.jit(jax.vmap(value))(values), whole, atol=1e-14)
    # Linear in the values: the Jacobian applied to them gives the value back.
    jacobian = jax.jit(jax.jacrev(value))(values[0, 0])
    np.testing.assert_allclose(jacobian @ values[0, 0], whole[0, 0], atol=1e-13)
    with jax.enable_x64(False):
        single = value(values.astype(np.float32))
        assert single.dtype == np.float32
        np.testing.assert_allclose(single, np.asarray(whole), atol=1e-5)
        with pytest.raises(DtypeError):
            value(values)


def test_weights_have_a_gradient():
    values, weights, step = random_values(3), np.array([1.0, 2.0, 0.7]), 1e-6
    slope = jax.jit(jax.jacrev(lambda w: sj.weighted_shapley_value(values, w)))(weights)
    for p, e in enumerate(np.eye(3)):
        up = sj.weighted_shapley_value(values, weights + step * e)
        down = sj.weighted_shapley_value(values, weights - step * e)
        np.testing.assert_allclose(slope[:, p], (up - down) / (2 * step), atol=1e-8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v: sj.owen_value(v, [[0, 1]]), "exactly one group"),
        (lambda v: sj.owen_value(v, [[0, 1], [1, 2]]), "exactly one group"),
        (lambda v: sj.owen_value(v, [[0, 1], [2, 3]]), "between 0 and 2"),
        (lambda v: sj.owen_value(v, [0, 1, 2]), "list of groups"),
        (lambda v: sj.owen_value(v[:6], [[0, 1, 2]]), "values"),
        (lambda v: sj.myerson_value(v, [(0, 3)]), "between 0 and 2"),
        (lambda v: sj.myerson_value(v, [(0, 0)]), "pair of two different"),
        (lambda v: sj.weighted_shapley_value(v, [1, 2]), "expected \\(3,\\)"),
        (lambda v: sj.weighted_shapley_value(v, [1, 0, 2]), "positive"),
        (lambda v: sj.weighted_shapley_value(v, [1, np.inf, 2]), "positive"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ShapjaxError, match=message):
        call(np.zeros(8))
