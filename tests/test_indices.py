"""Every index against its textbook definition, by hand, and against the axioms it satisfies."""

import functools
import itertools
import math

import brute_force
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shapjax as sj
from shapjax.indices.weights import index_and_order, weight_table

NAMES = tuple(sj.index_names())
VALUES = ("SV", "BV")
WITH_P = ("BV", "BII", "FBII", "BGV")
GENERALISED = ("SGV", "BGV", "CHGV", "IGV", "EGV", "JointSV")
SHARING = tuple(name for name in NAMES if name not in GENERALISED)
EFFICIENT = ("SV", "STII", "k-SII", "FSII", "JointSV")


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def eager():
    """Compiling every index at every order would take minutes; one operation at a time will do."""
    with jax.disable_jit():
        yield


def game(n, seed=0):
    return np.random.default_rng([n, seed]).standard_normal(1 << n)


def orders_of(name, n):
    return (1,) if name in VALUES else range(1, n + 1)


def probabilities_of(name, n):
    return (None, 0.3) if name in WITH_P and n < 7 else (None,)


def assert_same(got, want, **tolerance):
    assert len(got) == len(want)
    for mine, theirs in zip(got, want, strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, **tolerance)


# Definitions.


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("name", NAMES)
def test_index_equals_its_textbook_definition_at_every_order(eager, name, n):
    worth = brute_force.Game(game(n))
    for k, p in itertools.product(orders_of(name, n), probabilities_of(name, n)):
        found = sj.interactions(worth.values, name, k, p=p)
        want = brute_force.by_definition(worth, name, k, 0.5 if p is None else p)
        assert_same(found.coefficients, want, rtol=0, atol=1e-10)


def test_every_name_has_a_definition_here():
    assert set(brute_force.DEFINITIONS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_compiled_and_value_function_give_what_one_operation_at_a_time_gives(name):
    values = game(3)
    order = 1 if name in VALUES else 2
    compiled = sj.interactions(values, name, order)
    of_function = sj.interactions(
        lambda masks: jnp.asarray(values)[masks @ (1 << jnp.arange(3))], name, order, n_players=3
    )
    with jax.disable_jit():
        eager = sj.interactions(values, name, order)
    assert compiled.index == eager.index == of_function.index == name
    assert_same(compiled.coefficients, eager.coefficients, rtol=0, atol=1e-14)
    assert_same(of_function.coefficients, eager.coefficients, rtol=0, atol=1e-14)


# A left glove (player 0) and two right gloves (1, 2): a pair is worth 1. The dividends are 1 for
# {0, 1} and {0, 2}, -1 for {0, 1, 2}. What follows was worked out from them by hand.

GLOVES = np.array([0, 0, 0, 1, 0, 1, 0, 1.0])
BY_HAND = {
    ("Moebius", None): ([0], [0, 0, 0], [1, 1, 0]),
    ("Co-Moebius", None): ([1], [1, 0, 0], [0, 0, -1]),
    ("SV", None): ([0], [2 / 3, 1 / 6, 1 / 6]),
    ("BV", None): ([0], [3 / 4, 1 / 4, 1 / 4]),
    ("BV", 0.3): ([0], [0.51, 0.21, 0.21]),
    ("SII", None): ([5 / 12], [2 / 3, 1 / 6, 1 / 6], [1 / 2, 1 / 2, -1 / 2]),
    ("BII", None): ([3 / 8], [3 / 4, 1 / 4, 1 / 4], [1 / 2, 1 / 2, -1 / 2]),
    ("BII", 0.3): ([0.153], [0.51, 0.21, 0.21], [0.7, 0.7, -0.3]),
    ("CHII", None): ([0], [2 / 3, 1 / 6, 1 / 6], [1 / 3, 1 / 3, -2 / 3]),
    ("STII", None): ([0], [0, 0, 0], [2 / 3, 2 / 3, -1 / 3]),
    ("k-SII", None): ([0], [1 / 6, 1 / 6, 1 / 6], [1 / 2, 1 / 2, -1 / 2]),
    ("FSII", None): ([0], [1 / 6, 1 / 6, 1 / 6], [1 / 2, 1 / 2, -1 / 2]),
    ("FBII", None): ([-1 / 8], [1 / 4, 1 / 4, 1 / 4], [1 / 2, 1 / 2, -1 / 2]),
    ("kADD-SHAP", None): ([5 / 12], [2 / 3, 1 / 6, 1 / 6], [1 / 2, 1 / 2, -1 / 2]),
    ("SGV", None): ([0], [2 / 3, 1 / 6, 1 / 6], [1, 1, 1 / 2]),
    ("BGV", None): ([0], [3 / 4, 1 / 4, 1 / 4], [1, 1, 1 / 2]),
    ("BGV", 0.3): ([0], [0.51, 0.21, 0.21], [1, 1, 0.3]),
    ("CHGV", None): ([0], [2 / 3, 1 / 6, 1 / 6], [1, 1, 2 / 3]),
    ("IGV", None): ([0], [0, 0, 0], [1, 1, 0]),
    ("EGV", None): ([0], [1, 0, 0], [1, 1, 1]),
    ("JointSV", None): ([0], [7 / 18, 1 / 18, 1 / 18], [2 / 9, 2 / 9, 1 / 18]),
}


@pytest.mark.parametrize(("name", "p"), BY_HAND)
def test_gloves_by_hand(eager, name, p):
    found = sj.interactions(GLOVES, name, p=p)
    want = [np.array(row, float) for row in BY_HAND[name, p]]
    assert_same(found.coefficients, want, rtol=0, atol=1e-15)


def test_gloves_by_hand_cover_every_name():
    assert {name for name, _ in BY_HAND} == set(NAMES)


# Axioms.

SEEDS = st.integers(0, 10**6)
axiom = settings(max_examples=25, deadline=None)


def eagerly(test):
    """Inside, because a fixture of one function would be shared by all examples."""

    @functools.wraps(test)
    def wrapped(*arguments, **named):
        with jax.enable_x64(True), jax.disable_jit():
            test(*arguments, **named)

    return wrapped


@st.composite
def cases(draw, names=NAMES, n=4):
    name = draw(st.sampled_from(names))
    return name, draw(st.sampled_from(orders_of(name, n))), game(n, draw(SEEDS))


@axiom
@given(cases(), SEEDS, st.floats(-3, 3))
@eagerly
def test_linear(case, seed, factor):
    name, k, v = case
    w = game(4, seed)
    both = sj.interactions(v + factor * w, name, k)
    parts = sj.interactions(v, name, k) + factor * sj.interactions(w, name, k)
    assert_same(both.coefficients, parts.coefficients, rtol=0, atol=1e-12)


@axiom
@given(cases(), st.permutations(range(4)))
@eagerly
def test_relabelling_players_relabels_the_coefficients(case, new_name):
    name, k, v = case
    renamed = np.empty_like(v)
    for rank in range(16):
        renamed[sum(1 << new_name[i] for i in range(4) if rank >> i & 1)] = v[rank]
    before, after = sj.interactions(v, name, k), sj.interactions(renamed, name, k)
    for size in range(k + 1):
        for coalition, value in before.items(size):
            assert abs(after[[new_name[i] for i in coalition]] - value) < 1e-12


def with_dummy(rest, worth):
    """The game of ``rest`` and a last player who adds ``worth`` to everyone."""
    return np.concatenate([rest, rest + worth])


@axiom
@given(cases(SHARING, n=3), st.floats(-3, 3))
@eagerly
def test_a_dummy_gets_its_worth_and_interacts_with_nobody(case, worth):
    name, k, rest = case
    found = sj.interactions(with_dummy(rest, worth), name, k)
    for size in range(1, k + 1):
        for coalition, value in found.items(size):
            if 3 in coalition:
                assert abs(value - (worth if size == 1 else 0)) < 1e-12


@axiom
@given(cases(GENERALISED, n=3))
@eagerly
def test_a_null_player_gets_nothing_and_adds_nothing_to_a_generalised_value(case):
    name, k, rest = case
    found = sj.interactions(with_dummy(rest, 0.0), name, k + 1)
    assert abs(found[3]) < 1e-12
    # Chaining and joint values ask how large S is, not only what it does.
    if name not in ("CHGV", "JointSV"):
        for size in range(1, k + 1):
            for coalition, value in found.items(size):
                if 3 not in coalition:
                    assert abs(found[(*coalition, 3)] - value) < 1e-12


@axiom
@given(cases(EFFICIENT))
@eagerly
def test_efficient(case):
    name, k, v = case
    found = sj.interactions(v, name, k)
    assert abs(sum(c.sum() for c in found.coefficients[1:]) - (v[-1] - v[0])) < 1e-12


@axiom
@given(st.integers(1, 4), SEEDS)
@eagerly
def test_shapley_taylor_gives_down_equal_parts_of_the_next_order(k, seed):
    """psi_k(S) = d(S) + 1/(k+1) sum over j of psi_(k+1)(S + j), |S| = k."""
    v = game(5, seed)
    dividends = sj.interactions(v, "Moebius", k)
    here, above = sj.interactions(v, "STII", k), sj.interactions(v, "STII", k + 1)
    for coalition, value in here.items(k):
        given_down = sum(above[(*coalition, j)] for j in range(5) if j not in coalition)
        assert abs(value - dividends[coalition] - given_down / (k + 1)) < 1e-12


@pytest.mark.parametrize("name", ["STII", "k-SII", "FSII", "FBII"])
def test_at_order_n_only_dividends_are_left(eager, name):
    found = sj.interactions(game(4), name, 4)
    dividends = sj.interactions(game(4), "Moebius", 4)
    assert_same(found.coefficients, dividends.coefficients, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["SV", "SII", "CHII", "STII", "k-SII", "FSII", "kADD-SHAP"])
def test_at_order_one_only_the_shapley_value_is_left(eager, name):
    found = sj.interactions(game(5), name, 1)
    np.testing.assert_allclose(found.singles, sj.shapley_value(game(5)), rtol=0, atol=1e-14)


def test_probability_runs_from_dividends_to_co_dividends(eager):
    v = game(4)
    for p, name in ((0, "Moebius"), (1, "Co-Moebius")):
        assert_same(
            sj.interactions(v, "BII", 4, p=p).coefficients,
            sj.interactions(v, name, 4).coefficients,
            rtol=0,
            atol=1e-13,
        )


# Differentiation, batches, precision.


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_finite_differences(eager, name):
    k = 1 if name in VALUES else 2

    def energy(values):
        coefficients = sj.interactions(values, name, k).coefficients
        return sum(jnp.sum(jnp.sin(c) * jnp.arange(1.0, c.size + 1)) for c in coefficients)

    v, towards, step = game(3), game(3, 1), 1e-5
    difference = (energy(v + step * towards) - energy(v - step * towards)) / (2 * step)
    _, forward = jax.jvp(energy, (v,), (towards,))
    backward = jax.grad(energy)(v) @ towards
    np.testing.assert_allclose([forward, backward], difference, rtol=1e-7)


def test_gradients_pass_through_compiled_code():
    v, towards = game(3), game(3, 1)
    _, tangent = jax.jvp(lambda x: sj.interactions(x, "k-SII", 2).pairs, (v,), (towards,))
    np.testing.assert_allclose(
        tangent, sj.interactions(towards, "k-SII", 2).pairs, rtol=0, atol=1e-14
    )
    gradient = jax.grad(lambda x: sj.interactions(x, "SGV", 2)[0, 1])(v)
    assert abs(gradient @ towards - sj.interactions(towards, "SGV", 2)[0, 1]) < 1e-14


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_a_loop(eager, name):
    k = 1 if name in VALUES else 2
    batch = np.stack([game(3, seed) for seed in range(3)])
    whole = sj.interactions(batch[:, None], name, k)
    mapped = jax.vmap(lambda v: sj.interactions(v, name, k))(batch)
    loop = [sj.interactions(v, name, k) for v in batch]
    for size in range(k + 1):
        want = [one.of_size(size) for one in loop]
        np.testing.assert_allclose(whole.of_size(size)[:, 0], want, rtol=0, atol=1e-15)
        np.testing.assert_allclose(mapped.of_size(size), want, rtol=0, atol=1e-15)


@pytest.mark.parametrize("x64", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_single_precision_stays_single(eager, name, x64):
    k = 1 if name in VALUES else 2
    exact = sj.interactions(game(3), name, k)
    with jax.enable_x64(x64):
        found = sj.interactions(game(3).astype(np.float32), name, k)
        assert all(c.dtype == np.float32 for c in found.coefficients)
    assert_same(found.coefficients, exact.coefficients, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_no_players(eager, name):
    found = sj.interactions([3.0], name)
    assert found.order == 1
    assert found.singles.shape == (0,)
    assert found.empty == (0 if name in GENERALISED else 3)


def test_weights_are_exact_at_thirty_players():
    """Bernoulli numbers and binomials of this size cancel in floating point; fractions do not."""
    n = 30
    for name in ("k-SII", "FSII", "STII"):
        for k in (2, 7, 30):
            table = weight_table(*index_and_order(name, k, n), n)
            for t in range(1, n + 1):
                assert sum(table[s, t] * math.comb(t, s) for s in range(1, k + 1)) == 1
                if t <= k:
                    assert list(table[:, t]) == [int(s == t) for s in range(k + 1)]


# Weights of one's own.


def test_own_weights_in_each_form(eager):
    """The Shapley interaction index and value, given by their weights in all three forms."""
    n, k = 4, 3

    def mean(s, t, k, n):
        return 1 / ((n - s + 1) * math.comb(n - s, t)) if t <= n - s else 0.0

    v = game(n)
    sii, sgv = sj.interactions(v, "SII", k), sj.interactions(v, "SGV", k)
    own = sj.CardinalIndex("mine", lambda s, t, k, n: 1 / (t - s + 1))
    rows = [[mean(s, t, k, n) for t in range(n + 1)] for s in range(k + 1)]
    for index in (
        own,
        sj.CardinalIndex("mine", mean, form="derivatives"),
        sj.CardinalIndex("mine", rows, form="derivatives"),
    ):
        found = sj.interactions(v, index, k)
        assert found.index == "mine"
        assert_same(found.coefficients, sii.coefficients, rtol=0, atol=1e-14)
    for weight in (mean, np.array(rows)):
        found = sj.interactions(v, sj.CardinalIndex("mine", weight, form="marginals"), k)
        assert_same(found.coefficients, sgv.coefficients, rtol=0, atol=1e-14)


def test_a_probabilistic_value_from_its_weights_by_size(eager):
    """Each player's contribution to coalitions of exactly one other player."""
    v = brute_force.Game(game(4))
    third = [[1, 0, 0, 0, 0], [0, 1 / 3, 0, 0, 0]]
    found = sj.interactions(v.values, sj.CardinalIndex("second", third, form="derivatives"))
    want = [np.mean([v.marginal((i,), 1 << j) for j in range(4) if j != i]) for i in range(4)]
    np.testing.assert_allclose(found.singles, want, rtol=0, atol=1e-15)
    assert found.order == 1
    assert found.empty == v.values[0]


def test_equal_arrays_of_weights_are_one_index():
    first, second = (sj.CardinalIndex("a", [[1, 0], [0, 1.0]]) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)


def test_a_function_of_weights_is_asked_once_per_shape():
    asked = []

    def weight(s, t, k, n):
        asked.append((s, t))
        return 1.0

    index = sj.CardinalIndex("mine", weight)
    sj.interactions(game(2), index, 1)
    before = len(asked)
    sj.interactions(game(2, 1), index, 1)
    assert len(asked) == before > 0


# Names, labels, errors.


def test_names_say_what_they_mean():
    for name, meaning in sj.index_names().items():
        assert len(meaning) > 30, name
        assert "\n" not in meaning


def test_label_carries_the_probability():
    assert sj.interactions(GLOVES, "BV", p=0.3).index == "BV(p=0.3)"
    assert sj.interactions(GLOVES, "BV", p=0.5).index == "BV"
    assert sj.interactions(GLOVES, "BV", p=np.float64(0.25)).index == "BV(p=0.25)"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"index": "Shapely"}, "'Shapely', expected one of Moebius, .*STII.*JointSV"),
        ({"index": None}, "index is None"),
        ({"index": "SV", "order": 2}, "order of SV is 2, .* between 1 and 1"),
        ({"index": "SII", "order": 4}, "order of SII is 4, .* between 1 and 3"),
        ({"index": "SII", "order": 0}, "order of SII is 0"),
        ({"index": "STII", "p": 0.3}, "STII has no parameter p"),
        ({"index": "BII", "p": 1.5}, "p is 1.5, .* between 0 and 1"),
        ({"index": "BII", "p": float("nan")}, "p is nan"),
        ({"index": "BII", "p": "0.3"}, "p is '0.3'"),
        ({"index": sj.CardinalIndex("x", [[1, 0], [0, 1]])}, "2 columns, .* give 4"),
        ({"index": sj.CardinalIndex("x", np.eye(4)[:2]), "order": 2}, "between 1 and 1"),
        ({"index": sj.CardinalIndex("x", lambda s, t, k, n: np.inf)}, "weight.0, 0. of x is inf"),
        ({"index": sj.CardinalIndex("x", lambda s, t, k, n: None)}, "is None, expected a finite"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(sj.ShapjaxError, match=words):
        sj.interactions(GLOVES, **arguments)


def test_p_must_be_static():
    with pytest.raises(sj.ShapjaxError, match="static"):
        jax.jit(lambda p: sj.interactions(GLOVES, "BV", p=p).singles)(0.3)


@pytest.mark.parametrize("weight", [3.0, [1, 2], [[1, 2]], [["a"], ["b"]], None, [[1], [1, 2]]])
def test_bad_weights(weight):
    with pytest.raises(sj.ShapjaxError, match="weight of x is neither"):
        sj.CardinalIndex("x", weight)


def test_unknown_form():
    with pytest.raises(sj.ShapjaxError, match="form is 'values', expected one of dividends"):
        sj.CardinalIndex("x", np.eye(3), form="values")


@pytest.mark.parametrize("index", ["FSII", sj.CardinalIndex("STII", np.eye(4))])
def test_estimate_refuses_what_it_cannot_estimate(index):
    with pytest.raises(sj.ShapjaxError, match="estimates only STII and SV"):
        sj.estimate(lambda masks: masks.sum(axis=1), 3, index, method="kernel-direct", key=0)
