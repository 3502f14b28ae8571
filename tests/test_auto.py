"""The default estimator: its coalitions, what it corrects and when, what it never does.

Statistical tests have fixed keys; their bounds would fail by chance, under other keys, less than
once in 10,000.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from games_for_tests import game_of

import shapjax as sj
from shapjax.coalitions.enumerate import all_masks
from shapjax.core.errors import ShapjaxError
from shapjax.estimators import auto as module
from shapjax.estimators.auto import counts_by_size, draw_design, is_odd
from shapjax.estimators.distinct import draw_distinct
from shapjax.estimators.residual import correct, halves, index_of_rest
from shapjax.indices.weights import index_and_order, weight_table
from shapjax.indices.worths import worth_weights

INDICES = [("SV", 1), ("BV", 1), ("STII", 2), ("STII", 3), ("SII", 2), ("BII", 2), ("k-SII", 3)]


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def weights_of(index, order, n):
    cardinal, order = index_and_order(index, order, n)
    return worth_weights(weight_table(cardinal, order, n), cardinal.form)


def truth_of(values, index, order):
    return [np.asarray(c) for c in sj.interactions(values, index, order).coefficients]


def boolean_polynomial(n, seed):
    return np.asarray(sj.zeta(np.random.default_rng(seed).uniform(0, 10, 2**n)))


def adversaries(n):
    every = np.asarray(all_masks(n))
    rng = np.random.default_rng(3)
    weights = rng.uniform(size=n)
    return {
        "random table": rng.normal(size=2**n),
        "unanimity": every[:, [1, 4, 6]].all(axis=1) * 1.0,
        "majority": (every.sum(axis=1) > n // 2) * 1.0,
        "weighted vote": (every @ weights > weights.sum() / 2) * 1.0,
        "parity": (-1.0) ** every[:, [0, 2, 3, 7]].sum(axis=1),
        "largest member": (every * weights).max(axis=1),
        "constant": np.ones(2**n),
    }


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("index", [*sj.index_names()])
def test_over_all_coalitions_it_is_exact(index, n):
    values = np.random.default_rng(n).normal(size=2**n)
    p = 0.3 if index_needs_p(index) else None
    orders = [1] if index in ("SV", "BV") else [k for k in (1, 2, 3) if k <= n]
    for order in orders:
        try:
            exact = sj.interactions(values, index, order, p=p)
        except ShapjaxError:
            continue
        found = sj.estimate(
            game_of(values), n, index, order, budget=2**n, method="auto", key=0, p=p
        )
        for a, b in zip(found.coefficients, exact.coefficients, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-9)
        assert found.stats["decision"].startswith("exact")


def index_needs_p(index):
    try:
        sj.interactions(np.zeros(4), index, 1)
    except ShapjaxError as error:
        return "p" in str(error)
    return False


@pytest.mark.parametrize(("index", "order"), INDICES)
def test_the_design_keeps_the_budget_and_repeats_nothing(index, order):
    for n in (5, 8, 9, 40):
        weights = weights_of(index, order, n)
        for budget in (2, 3, 7, 20, 31, 200):
            if budget >= 2**n:
                continue
            masks, units = draw_design(weights, budget, np.random.default_rng(budget))
            assert budget - n - 2 < len(masks) <= budget
            assert len(np.unique(masks, axis=0)) == len(masks) == len(units)
            assert not masks[0].any()
            assert masks[-1].all()
            if is_odd(weights):
                rows = {tuple(m) for m in masks}
                assert rows == {tuple(~m) for m in masks}
                for unit in np.unique(units):
                    one, other = masks[units == unit]
                    assert (one == ~other).all()


def test_the_shapley_and_the_banzhaf_value_are_odd():
    for index, order in INDICES:
        assert is_odd(weights_of(index, order, 7)) == (index in ("SV", "BV"))
    assert not is_odd(weights_of("CHII", 2, 7))


def test_sizes_at_the_ends_are_whole_where_they_matter():
    counts = counts_by_size(weights_of("STII", 2, 15), 500, np.random.default_rng(0))
    assert list(counts[[0, 1, 2, 14, 15]]) == [1, 15, 105, 15, 1]
    # Every coalition matters alike to the Banzhaf index.
    counts = counts_by_size(weights_of("BII", 2, 15), 500, np.random.default_rng(0))
    assert counts[2] < 20
    assert counts.sum() == 500


LONG = [which for which in INDICES if which[0] in ("SII", "BII", "BV") or which[1] == 3]
"""What takes long to compile, beside others of its kind."""


@pytest.mark.parametrize(
    ("index", "order"),
    [pytest.param(*which, marks=[pytest.mark.slow] if which in LONG else []) for which in INDICES],
)
def test_the_budget_is_never_exceeded_and_tiny_ones_serve(index, order):
    n, asked = 8, 0
    values = boolean_polynomial(n, 0)

    def value(masks):
        nonlocal asked
        asked += len(masks)
        return game_of(values)(masks)

    for budget in (2, 13):
        asked = 0
        found = sj.estimate(
            value, n, index, order, budget=budget, method="auto", key=1, traceable=False
        )
        assert asked == found.stats["evaluations"] <= budget
        assert all(np.isfinite(part).all() for part in found.coefficients)
        assert found.standard_errors is not None
        assert all(np.isfinite(part).all() for part in found.standard_errors)
        if index in ("SV", "STII", "k-SII"):
            total = sum(part.sum() for part in found.coefficients[1:])
            np.testing.assert_allclose(total, values[-1] - values[0], rtol=1e-6)


def test_bad_input_is_refused():
    game = game_of(np.zeros(2**6))
    with pytest.raises(ShapjaxError, match=r"budget is 1.*give at least 2"):
        sj.estimate(game, 6, budget=1, method="auto", key=0)
    with pytest.raises(ShapjaxError, match="correction"):
        sj.estimate(game, 6, budget=20, method="auto", key=0, correction="often")
    with pytest.raises(ShapjaxError, match="no option of auto"):
        sj.estimate(game, 6, budget=20, method="auto", key=0, other=1)


@pytest.mark.parametrize(
    ("index", "order", "skill"),
    [("STII", 2, "hopeless"), ("SV", 1, "wrong"), ("STII", 2, "wrong"), ("STII", 3, "wrong")],
)
def test_corrected_estimates_are_unbiased_and_know_their_variance(index, order, skill):
    n, draws = 6, 300
    rng = np.random.default_rng(0)
    values = boolean_polynomial(n, 1) / 100
    wrong = values + rng.normal(size=2**n) if skill == "wrong" else np.zeros(2**n)
    truth, weights = truth_of(values, index, order), weights_of(index, order, n)

    # The index is linear: its columns are those of the games that are 1 at one coalition.
    columns = [
        np.stack(c, 1) for c in zip(*(truth_of(e, index, order) for e in np.eye(2**n)), strict=True)
    ]

    def fit(masks, seen):
        # It interpolates what it saw, as the process does.
        table = wrong.copy()
        table[masks @ (1 << np.arange(n))] = seen
        return [c @ table for c in columns], game_of(wrong)

    # Two draws of each size in each half, so that no part of the game stays unseen.
    counts = np.array([min(math.comb(n, t), 6) for t in range(n + 1)])
    found, variances = [], []
    for _ in range(draws):
        masks = draw_distinct(counts, rng)
        worths = game_of(values)(masks)
        units = np.arange(len(masks))
        groups = halves(masks, units, rng)
        others = {half: groups != half for half in (1, 2)}
        result = correct(
            masks,
            worths,
            units,
            groups,
            weights,
            lambda half, others=others, masks=masks, worths=worths: fit(
                masks[others[half]], worths[others[half]]
            ),
        )
        assert result.complete
        found.append(result.estimates[order])
        variances.append(result.variances[order])
    error = np.mean(found, axis=0) - truth[order]
    spread = np.std(found, axis=0)
    # At most 35 coefficients: one beyond 5 standard errors has a chance below 1e-4.
    assert (np.abs(error) <= 5 * spread / math.sqrt(draws) + 1e-9).all()
    ratio = np.mean(variances) / np.mean(spread**2)
    assert 0.7 < ratio < 1.6


def test_what_is_left_is_exact_when_all_of_it_is_seen():
    n, rng = 6, np.random.default_rng(2)
    every = np.asarray(all_masks(n))
    known = rng.random(2**n) < 0.5
    values = np.where(known, 0, rng.normal(size=2**n))
    counts = np.bincount(every[known].sum(axis=1), minlength=n + 1)
    for index, order in INDICES:
        weights = weights_of(index, order, n)
        parts, variances, complete = index_of_rest(every[~known], values[~known], counts, weights)
        assert complete
        for a, b in zip(parts[1:], truth_of(values, index, order)[1:], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-9)
        assert all((v == 0).all() for v in variances)


def test_it_leaves_a_right_surrogate_alone_and_corrects_a_wrong_one(monkeypatch):
    n = 9
    values = boolean_polynomial(n, 4)
    truth = truth_of(values, "STII", 2)[2]

    def run(budget):
        found = sj.estimate(game_of(values), n, budget=budget, method="auto", key=0)
        return np.asarray(found.of_size(2)), found.stats

    _, stats = run(250)
    assert stats["correction"][2] == 0
    assert "leaves nothing" in stats["decision"]
    own = module.index_and_refits

    def astray(*arguments):
        found, refit = own(*arguments)
        shift = 20 * np.random.default_rng(0).normal(size=36)
        parts = (*found.coefficients[:2], found.coefficients[2] + shift)
        return dataclasses.replace(found, coefficients=parts), refit

    monkeypatch.setattr(module, "index_and_refits", astray)
    shares, errors = [], []
    for budget in (250, 480):
        found, stats = run(budget)
        shares.append(stats["correction"][2])
        errors.append(((found - truth) ** 2).mean())
    assert shares == sorted(shares)
    assert shares[-1] > 0.9
    assert "corrected by" in stats["decision"]
    assert errors[-1] < 0.1 * 400


def test_the_options_correct_always_and_never():
    n = 8
    values = adversaries(n)["weighted vote"]
    game, truth = game_of(values), truth_of(values, "SV", 1)[1]
    always, never, default = (
        sj.estimate(game, n, "SV", budget=120, method="auto", key=0, **options)
        for options in ({"correction": "always"}, {"correction": "never"}, {})
    )
    assert always.stats["correction"] == [1.0, 1.0]
    assert never.stats["correction"] == [0.0, 0.0]
    assert never.stats["explained"] is None
    assert 0 <= default.stats["correction"][1] <= 1
    assert np.abs(np.asarray(always.singles) - np.asarray(never.singles)).max() > 1e-6
    for found in (always, never, default):
        assert np.abs(np.asarray(found.singles) - truth).max() < 0.1


@pytest.mark.parametrize("name", list(adversaries(9)))
def test_it_is_never_worse_than_answering_zero(name):
    values = adversaries(9)[name]
    for index, order, budget in (("STII", 2, 60), ("STII", 2, 250), ("SV", 1, 60)):
        truth = truth_of(values, index, order)[order]
        errors = []
        for key in range(2):
            found = sj.estimate(
                game_of(values), 9, index, order, budget=budget, method="auto", key=key
            )
            errors.append(((np.asarray(found.of_size(order)) - truth) ** 2).mean())
        assert np.mean(errors) <= (truth**2).mean() + 1e-12


def test_on_boolean_polynomials_it_beats_the_constant_answer():
    for budget in (60, 250):
        errors = []
        for seed in range(3):
            values = boolean_polynomial(9, seed)
            truth = truth_of(values, "STII", 2)[2]
            found = sj.estimate(game_of(values), 9, budget=budget, method="auto", key=seed)
            errors.append(((np.asarray(found.of_size(2)) - truth) ** 2).mean() / truth.var())
        assert np.mean(errors) < 1


def test_it_serves_float32_games_without_the_64_bit_mode():
    with jax.enable_x64(False):
        found = sj.estimate(
            lambda masks: jnp.sum(masks, axis=1, dtype=jnp.float32) ** 2,
            6,
            budget=30,
            method="auto",
            key=0,
        )
        assert found.of_size(2).dtype == np.float32
        np.testing.assert_allclose(found.of_size(2), 2.0, atol=1e-3)
