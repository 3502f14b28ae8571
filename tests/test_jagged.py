from __future__ import annotations

import functools
import itertools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import shapjax as sj
from shapjax import families, sharing
from shapjax.core.errors import DtypeError, MemoryRefused, ShapjaxError

RULES = {"push_down": sharing.push_down, "maximal_members": sharing.maximal_members}


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def random_values(n, seed=0, batch=()):
    return np.random.default_rng(seed).normal(size=(*batch, 1 << n))


def coalitions(n):
    return [c for s in range(n + 1) for c in itertools.combinations(range(n), s)]


def rank(coalition):
    return sum(1 << p for p in coalition)


def random_family(n, seed, share=0.4):
    """Every player alone, and a random choice of the larger coalitions."""
    draw = np.random.default_rng(seed)
    larger = [c for c in coalitions(n) if len(c) > 1]
    return [(p,) for p in range(n)] + [c for c in larger if draw.random() < share]


def player_weights(n):
    return [Fraction(2 * p + 1, 3) for p in range(n)]


# The literal definitions, in exact arithmetic.


def exact_dividends(values, n):
    worth = {frozenset(c): Fraction(float(values[rank(c)])) for c in coalitions(n)}
    return {s: sum((-1) ** (len(s) - len(t)) * worth[t] for t in worth if t <= s) for s in worth}


def give_down(dividends, family, weights):
    """Largest first, a coalition outside the family gives all it has to those one player below."""
    credit = dict(dividends)
    for giver in sorted(dividends, key=len, reverse=True):
        if giver in family:
            continue
        total = sum(weights[p] for p in giver)
        for player in giver:
            credit[giver - {player}] += credit[giver] * weights[player] / total
        credit[giver] = Fraction(0)
    return credit


def give_to_maximal(dividends, family):
    credit = {s: d if s in family else Fraction(0) for s, d in dividends.items()}
    for giver in dividends.keys() - family:
        inside = [s for s in family if s <= giver]
        maximal = [s for s in inside if not any(s < t for t in inside)]
        for s in maximal:
            credit[s] += dividends[giver] / len(maximal)
    return credit


def by_definition(values, n, listed, rule):
    family = {frozenset(c) for c in listed} | {frozenset()}
    dividends = exact_dividends(values, n)
    if rule == "maximal_members":
        return give_to_maximal(dividends, family)
    weights = player_weights(n) if rule == "weighted" else [Fraction(1)] * n
    return give_down(dividends, family, weights)


def weighted(n):
    numbers = np.array([float(w) for w in player_weights(n)])
    return functools.partial(sharing.push_down, weights=lambda masks: numbers)


def assert_equals_definition(result, expected, **tolerance):
    result = jax.tree.map(np.asarray, result)
    for coalition, credit in expected.items():
        if len(coalition) <= result.order:
            got = result[sorted(coalition)]
            np.testing.assert_allclose(got, float(credit), **tolerance, err_msg=str(coalition))
        else:
            assert credit == 0


@pytest.mark.parametrize("rule", ["push_down", "maximal_members", "weighted"])
@pytest.mark.parametrize("n", [1, 3, 4, 5])
def test_random_families_by_the_literal_definition(n, rule):
    for seed in range(2):
        values, family = random_values(n, seed), random_family(n, seed + 10)
        result = sj.jagged(values, family, RULES[rule] if rule in RULES else weighted(n))
        assert_equals_definition(
            result, by_definition(values, n, family, rule), rtol=1e-12, atol=1e-13
        )


def test_weights_that_depend_on_the_coalition():
    # A coalition of three or more never lets player 0 go; pairs split three to one.
    def weights(masks):
        given = np.where(np.arange(4) == 0, 0.0, 1.0) * np.ones(masks.shape)
        pairs = masks.sum(1) == 2
        first = masks & (np.cumsum(masks, 1) == 1)
        given[pairs] = np.where(first[pairs], 3.0, 1.0)
        return given

    values = np.zeros(16)
    values[15] = 24.0  # one dividend of 24, of all four players
    rule = functools.partial(sharing.push_down, weights=weights)
    result = sj.jagged(values, families.singletons(), rule)
    # 8 each to 012, 013, 023; of 012, 4 each to 01 and 02; so 8 to each of 01, 02, 03.
    # A pair 0p gives 3/4 to the coalition without 0, 1/4 to the one without p.
    np.testing.assert_allclose(result.singles, [6.0, 6.0, 6.0, 6.0])
    pairs = sj.jagged(values, families.up_to(2), rule).pairs
    np.testing.assert_allclose(pairs, 8.0 * (np.add.outer([1, 0, 0, 0], [1, 0, 0, 0]) == 1))


@pytest.mark.parametrize(
    ("n", "orders"), [(1, [1]), (2, [1, 2]), (4, [2, 3]), (6, [6]), (9, [1, 3])]
)
@pytest.mark.parametrize("rule", RULES.values())
def test_all_sizes_up_to_k_are_shapley_taylor(n, orders, rule):
    values = random_values(n, n)
    for k in orders:
        ours = sj.jagged(values, families.up_to(k), rule)
        theirs = sj.interactions(values, "STII", k)
        assert ours.order == k
        for a, b in zip(ours.coefficients, theirs.coefficients, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12)


def test_no_players():
    for rule in RULES.values():
        assert float(sj.jagged(np.array([2.5]), families.singletons(), rule).empty) == 2.5


def test_players_alone_are_shapley_and_all_coalitions_are_the_dividends():
    values = random_values(7)
    singles = sj.jagged(values, families.singletons()).singles
    np.testing.assert_allclose(singles, sj.shapley_value(values), atol=1e-13)
    everything = jax.tree.map(np.asarray, sj.jagged(values, families.up_to(7)))
    dividends = np.asarray(sj.moebius(values))
    for c in coalitions(7):
        assert everything[c] == dividends[rank(c)]


@pytest.mark.parametrize(("left", "right"), [(2, 1), (4, 5)])
def test_cross_pairs_are_the_cross_linear_scheme(left, right):
    n = left + right
    values = random_values(n, 5)
    ours = sj.jagged(values, families.cross_pairs(range(left), range(left, n)))
    taylor = sj.interactions(values, "STII", 2)
    crossing = np.zeros((n, n), bool)
    crossing[:left, left:] = crossing[left:, :left] = True
    np.testing.assert_allclose(ours.pairs, np.where(crossing, taylor.pairs, 0), atol=1e-12)
    half = np.where(crossing, 0, taylor.pairs).sum(axis=1) / 2
    np.testing.assert_allclose(ours.singles, taylor.singles + half, atol=1e-12)


def test_two_ways_to_keep_mixed_credit_on_the_cross_pairs():
    # Never letting the last player of a side go leads, by symmetry, to an even split among the
    # cross pairs: the rule of maximal members, by other means.
    left = np.arange(5) < 2

    def weights(masks):
        here, there = (masks & left).sum(1, keepdims=True), (masks & ~left).sum(1, keepdims=True)
        mixed = (here > 0) & (there > 0)
        return np.where(mixed, np.where(left, here, there) > 1, True).astype(float) + (
            masks.sum(1, keepdims=True) == 2
        )

    values, family = random_values(5), families.cross_pairs([0, 1], [2, 3, 4])
    one = sj.jagged(values, family, functools.partial(sharing.push_down, weights=weights))
    two = sj.jagged(values, family, sharing.maximal_members)
    np.testing.assert_allclose(one.pairs, two.pairs, atol=1e-13)
    np.testing.assert_allclose(one.singles, two.singles, atol=1e-13)


def test_hand_worked_graph():
    # A path 0 - 1 - 2 and the game 6 for all three: its dividend goes 2 each to 01, 12 and 02;
    # 02 is not connected and gives 1 each to its players.
    values = np.zeros(8)
    values[7] = 6.0
    result = sj.jagged(values, families.within_graph([(0, 1), (1, 2)], 2))
    np.testing.assert_allclose(result.singles, [1, 0, 1])
    np.testing.assert_allclose(result.of_size(2), [2, 0, 2])
    result = sj.jagged(values, families.within_graph([(0, 1), (1, 2)], 2), sharing.maximal_members)
    np.testing.assert_allclose(result.singles, [0, 0, 0])
    np.testing.assert_allclose(result.of_size(2), [3, 0, 3])


@pytest.mark.parametrize("rule", RULES.values())
def test_any_family_shares_everything(rule):
    n = 8
    values, family = random_values(n), random_family(n, 1, share=0.1)
    result = jax.tree.map(np.asarray, sj.jagged(values, family, rule))
    total = sum(float(c.sum()) for c in result.coefficients[1:])
    assert total == pytest.approx(values[-1] - values[0], abs=1e-12)
    assert float(result.empty) == values[0]
    members = set(family)
    for c in coalitions(n):
        if 0 < len(c) <= result.order and c not in members:
            assert float(result[c]) == 0


@pytest.mark.parametrize("rule", RULES.values())
def test_axioms_for_a_symmetric_family(rule):
    n = 6
    family = families.cross_pairs([0, 1, 2], [3, 4, 5])
    values = random_values(n)
    # A dummy: player 5 adds the same to every coalition.
    dummy = np.concatenate([values[:32], values[:32] + 0.75])
    result = sj.jagged(dummy, family, rule)
    assert float(result[5]) == pytest.approx(0.75)
    np.testing.assert_allclose(result.pairs[5], 0, atol=1e-13)
    # Symmetry: swapping players 0 and 1 swaps their credit.
    ranks = np.arange(64)
    swapped = (ranks & ~3) | (ranks & 1) << 1 | (ranks >> 1) & 1
    one, two = sj.jagged(values, family, rule), sj.jagged(values[swapped], family, rule)
    np.testing.assert_allclose(two.singles, one.singles[np.array([1, 0, 2, 3, 4, 5])], atol=1e-13)
    # Linearity.
    other = random_values(n, 1)
    both = sj.jagged(2 * values - other, family, rule)
    apart = 2 * one - sj.jagged(other, family, rule)
    np.testing.assert_allclose(both.pairs, apart.pairs, atol=1e-12)


@pytest.mark.parametrize("rule", RULES.values())
def test_batches_jit_vmap_and_grad(rule):
    n = 4
    values = random_values(n, 3, (2, 3))
    family = random_family(n, 7)
    whole = sj.jagged(values, family, rule)
    assert whole.singles.shape == (2, 3, n)
    single = sj.jagged(values[1, 2], family, rule)
    compiled = jax.jit(lambda v: sj.jagged(v, family, rule))(values)
    mapped = jax.jit(jax.vmap(lambda v: sj.jagged(v, family, rule)))(values)
    for size in range(whole.order + 1):
        np.testing.assert_allclose(whole.of_size(size)[1, 2], single.of_size(size), atol=1e-14)
        np.testing.assert_allclose(compiled.of_size(size), whole.of_size(size), atol=1e-14)
        np.testing.assert_allclose(mapped.of_size(size), whole.of_size(size), atol=1e-14)

    @jax.jit
    def loss(v):
        return sum((c**2).sum() for c in sj.jagged(v, family, rule).coefficients)

    direction = random_values(n, 4)
    slope = jax.jit(jax.grad(loss))(values[0, 0]) @ direction
    step = 1e-6
    rise = loss(values[0, 0] + step * direction) - loss(values[0, 0] - step * direction)
    assert float(slope) == pytest.approx(float(rise) / (2 * step), rel=1e-6)


def test_gradient_with_respect_to_the_weights_of_a_rule():
    values = random_values(4)

    def first(weights):
        rule = functools.partial(sharing.push_down, weights=lambda masks: weights)
        return sj.jagged(values, families.singletons(), rule).singles[0]

    at, step = jnp.array([1.0, 2.0, 0.5, 1.5]), 1e-6
    rise = [first(at + step * e) - first(at - step * e) for e in np.eye(4)]
    np.testing.assert_allclose(jax.jit(jax.grad(first))(at), np.array(rise) / (2 * step), rtol=1e-6)


@pytest.mark.parametrize("rule", RULES.values())
def test_float32(rule):
    values = random_values(8).astype(np.float32)
    exact = np.asarray(sj.jagged(values.astype(np.float64), families.up_to(2), rule).pairs)
    with jax.enable_x64(False):
        ours = sj.jagged(values, families.up_to(2), rule)
        assert ours.pairs.dtype == np.float32
        np.testing.assert_allclose(ours.pairs, exact, atol=1e-5)
        with pytest.raises(DtypeError, match="64-bit"):
            sj.jagged(values.astype(np.float64), families.up_to(2), rule)


def test_a_user_rule_is_a_plain_function():
    def to_players(dividends, member):  # every dividend straight to its players
        assert isinstance(member, np.ndarray)
        sizes = np.maximum(np.bitwise_count(np.arange(len(member))), 1)
        given = sj.zeta((jnp.where(member, 0, dividends) / sizes)[::-1])[::-1]
        alone = np.bitwise_count(np.arange(len(member))) == 1
        return jnp.where(member, dividends, 0) + jnp.where(alone, given, 0)

    values = random_values(5)
    singles = sj.jagged(values, families.singletons(), to_players).singles
    np.testing.assert_allclose(singles, sj.shapley_value(values), atol=1e-13)


# Families


def test_every_way_to_write_a_family_down():
    n = 4
    listed = [(), (0,), (1,), (2,), (3,), (0, 2), (1, 2, 3)]
    expected = np.zeros(1 << n, bool)
    expected[[rank(c) for c in listed]] = True
    masks = np.array([[p in c for p in range(n)] for c in listed])
    ranks = [rank(c) for c in listed]
    for family in (
        listed,
        {frozenset(c) for c in listed},
        masks,
        jnp.asarray(masks),
        ranks,
        np.array(ranks),
        families.explicit(listed),
        families.union(families.singletons(), [(0, 2)], np.array([14])),
        lambda m: np.isin(m @ (1 << np.arange(n)), ranks),
    ):
        np.testing.assert_array_equal(families.membership(family, n), expected)


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_connected_coalitions_by_search(n):
    draw = np.random.default_rng(n)
    edges = [e for e in itertools.combinations(range(n), 2) if draw.random() < 0.35]

    def connected(coalition):
        seen, found = set(), set(coalition[:1])
        while found - seen:
            seen |= found
            found |= {b for e in edges for a, b in (e, e[::-1]) if a in seen and b in coalition}
        return seen == set(coalition)

    for size in (1, 2, 3, None):
        member = families.membership(families.within_graph(edges, size), n)
        for c in coalitions(n):
            assert member[rank(c)] == (len(c) <= (size or n) and connected(c)), c


def test_sizes_and_chunks_beyond_one():
    member = families.membership(families.up_to(2), 18)
    assert member.sum() == 1 + 18 + math.comb(18, 2)
    assert member[(1 << 17) | 1]


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ([(0,), (1,)], "lacks player 2 alone"),
        ([(0,), (1,), (5,)], "player 5"),
        ([(0, 0)], "distinct"),
        ([(-1,)], "at least 0"),
        ([8], "player 3"),
        (7, "expected a function of masks"),
        ([(0.5,)], "whole number"),
        (["01"], "whole number"),
        (np.ones((2, 4), bool), "masks of 4 players"),
        (np.ones(4, bool), "expected \\[m, n\\]"),
        (lambda masks: masks, "one Boolean for each"),
        (lambda masks: masks[:, 9], "failed"),
        (families.cross_pairs([0], [4]), "player 4"),
        (families.within_graph([(0, 3)], 2), "between 0 and 2"),
        (families.within_graph([(0,)], 2), "pair of two different"),
        (families.within_graph([(1, 1)], 2), "pair of two different"),
    ],
)
def test_families_that_are_refused(family, message):
    with pytest.raises(ShapjaxError, match=message):
        sj.jagged(np.zeros(8), family)


def test_helpers_refuse_at_once():
    with pytest.raises(ShapjaxError, match="size"):
        families.up_to(0)
    with pytest.raises(ShapjaxError, match="share the players"):
        families.cross_pairs([0, 1], [1, 2])


def test_a_family_may_not_be_traced():
    with pytest.raises(ShapjaxError, match="traced"):
        jax.jit(sj.jagged)(np.zeros(8), np.eye(3, dtype=bool))


def test_too_many_players_are_refused_before_allocating():
    with pytest.raises(MemoryRefused, match="fewer players"):
        families.membership(families.singletons(), 60)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda d, member: d[:4], "shape"),
        (lambda d, member: d, "outside the family .*0, 1"),
        (functools.partial(sharing.push_down, weights=lambda m: np.zeros(3)), "all zero"),
        (functools.partial(sharing.push_down, weights=lambda m: -np.ones(3)), "negative"),
        (functools.partial(sharing.push_down, weights=lambda m: np.ones(2)), "shape"),
    ],
)
def test_rules_that_are_refused(rule, message):
    with pytest.raises(ShapjaxError, match=message):
        sj.jagged(random_values(3), families.singletons(), rule)


def test_values_that_are_refused():
    with pytest.raises(ShapjaxError, match="values"):
        sj.jagged(np.zeros(6), families.singletons())
