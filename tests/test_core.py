from __future__ import annotations

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

import shapjax as sj
from shapjax.core.errors import ShapjaxError

GLOVE = np.array([0.0, 0, 0, 1, 0, 1, 0, 1])  # player 0 has a left glove, 1 and 2 a right one each
MAJORITY = np.array([0.0, 0, 0, 1, 0, 1, 1, 1])


def masks_of(n):
    return (np.arange(1 << n)[:, None] >> np.arange(n) & 1).astype(float)


def bankruptcy(estate, claims):
    """What is left of an estate for a coalition once all others are paid in full."""
    inside = masks_of(len(claims)) @ claims
    return np.maximum(estate - (sum(claims) - inside), 0)


def weighted_voting(quota, weights):
    return (masks_of(len(weights)) @ weights >= quota).astype(float)


def excesses(values, x):
    """Those of all coalitions other than the empty and the grand one."""
    return (values - values[0] - masks_of(len(x)) @ x)[1:-1]


def smallest_worst_excess(values):
    """One linear program with a row for every coalition."""
    n = len(values).bit_length() - 1
    rows = masks_of(n)[1:-1]
    return linprog(
        np.append(np.zeros(n), 1),
        A_ub=-np.column_stack([rows, np.ones(len(rows))]),
        b_ub=-(values - values[0])[1:-1],
        A_eq=np.append(np.ones(n), 0)[None],
        b_eq=[values[-1] - values[0]],
        bounds=(None, None),
    ).fun


def kohlberg(values, x, imputations):
    """Whether x is the nucleolus, by Kohlberg's criterion; nothing is optimised over payoffs.

    At every level, any transfer y with y(N) = 0 that leaves no coalition above that level (and no
    player at its lower bound) worse off must leave each of those coalitions as it was.
    """
    n = len(x)
    excess, rows = excesses(values, x), masks_of(n)[1:-1]
    at_bound = rows[:0]
    if imputations:
        alone = (values - values[0])[1 << np.arange(n)]
        at_bound = np.eye(n)[x <= alone + 1e-7]
    for level in np.unique(excess.round(6)):
        loud = rows[excess >= level - 2e-6]
        gain = linprog(
            -loud.sum(axis=0),
            A_ub=-np.vstack([loud, at_bound]),
            b_ub=np.zeros(len(loud) + len(at_bound)),
            A_eq=np.ones((1, n)),
            b_eq=[0],
            bounds=(-1, 1),
        )
        if -gain.fun > 1e-7:
            return False
    return True


def random_games():
    draw = np.random.default_rng(0)
    games = [draw.normal(size=1 << n) for n in (2, 3, 4, 5, 6)]
    games += [draw.integers(0, 4, 1 << n).astype(float) for n in (3, 4, 5, 6)]
    games += [weighted_voting(9, np.array([5, 4, 3, 2, 2, 1]))]
    games += [bankruptcy(17.0, np.array([3.0, 5.0, 8.0, 8.0, 11.0]))]
    for n in (3, 4, 5, 6):  # many coalitions tie in these
        games += [draw.integers(0, 3, 1 << n).astype(float)]
        games += [weighted_voting(int(draw.integers(3, 12)), draw.integers(1, 5, n))]
        games += [bankruptcy(float(draw.integers(1, 30)), draw.integers(1, 12, n).astype(float))]
    convex = masks_of(6) @ draw.uniform(0, 1, 6)
    return [*games, convex**2, np.zeros(16), masks_of(4) @ [1.0, 2, 3, 4]]


GAMES = random_games()


def test_core_of_the_glove_game():
    assert sj.in_core(GLOVE, [1, 0, 0]) == (True, 0.0, (1,))
    check = sj.in_core(GLOVE, [0.5, 0.5, 0])
    assert not check.in_core
    assert check.excess == 0.5
    assert check.coalition == (0, 2)
    # Fine for all coalitions, but shares out more than there is.
    assert not sj.in_core(GLOVE, [1, 1, 1]).in_core
    np.testing.assert_allclose(sj.nucleolus(GLOVE), [1, 0, 0], atol=1e-9)
    least = sj.least_core(GLOVE)
    np.testing.assert_allclose(least.payoff, [1, 0, 0], atol=1e-8)
    assert least.excess == pytest.approx(0, abs=1e-9)


def test_majority_has_no_core():
    check = sj.in_core(MAJORITY, np.full(3, 1 / 3))
    assert not check.in_core
    assert check.excess == pytest.approx(1 / 3)
    assert check.coalition == (0, 1)
    np.testing.assert_allclose(sj.nucleolus(MAJORITY), np.full(3, 1 / 3), atol=1e-9)
    assert sj.least_core(MAJORITY).excess == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("estate", "awards"),
    [(100, (100 / 3, 100 / 3, 100 / 3)), (200, (50, 75, 75)), (300, (50, 100, 150))],
)
def test_bankruptcy_games_of_the_talmud(estate, awards):
    # Aumann and Maschler 1985.
    game = bankruptcy(estate, np.array([100.0, 200, 300]))
    np.testing.assert_allclose(sj.nucleolus(game), awards, rtol=1e-9)
    assert sj.in_core(game, awards).in_core


def test_least_core_by_hand():
    # Claims 100, 200, 300 on 300: with excess -50 each player has at least 50, so player 0 exactly
    # 50 (1 and 2 are worth 200 and must have 250); then the even split of the rest.
    least = sj.least_core(bankruptcy(300, np.array([100.0, 200, 300])))
    assert least.excess == pytest.approx(-50)
    np.testing.assert_allclose(least.payoff, [50, 125, 125], atol=1e-5)


def test_the_bound_of_an_imputation_matters():
    # Players 0 and 1 are worth 4 together, player 2 is worth 1 alone, all three 4. Player 2 must
    # get 1, and 0 and 1 share 3. Without the bound, 2 may pay: excesses 4 - x0 - x1 and 1 - x2 sum
    # to 1 and are equal at 1/2, which leaves 1/2 to player 2.
    game = np.array([0.0, 0, 0, 4, 1, 1, 1, 4])
    np.testing.assert_allclose(sj.nucleolus(game), [1.5, 1.5, 1], atol=1e-9)
    np.testing.assert_allclose(sj.nucleolus(game, imputations=False), [1.75, 1.75, 0.5], atol=1e-9)


@pytest.mark.parametrize("game", GAMES, ids=range(len(GAMES)))
def test_random_games(game):
    n = len(game).bit_length() - 1
    total, scale = game[-1] - game[0], max(np.abs(game).max(), 1)
    least = sj.least_core(game)
    # The excess: against one program with all rows. The payoff attains it ...
    assert least.excess == pytest.approx(smallest_worst_excess(game), abs=1e-7 * scale)
    assert least.payoff.sum() == pytest.approx(total, abs=1e-9 * scale)
    assert excesses(game, least.payoff).max() <= least.excess + 1e-8 * scale
    # ... and is the shortest: no payoff of the least core has a smaller product with it.
    rows = masks_of(n)[1:-1]
    shortest = linprog(
        least.payoff,
        A_ub=-rows,
        b_ub=-((game - game[0])[1:-1] - least.excess - 1e-9),
        A_eq=np.ones((1, n)),
        b_eq=[total],
        bounds=(None, None),
    )
    assert shortest.fun >= least.payoff @ least.payoff - 1e-6 * scale**2

    pre = sj.nucleolus(game, imputations=False)
    assert pre.sum() == pytest.approx(total, abs=1e-8 * scale)
    assert excesses(game, pre).max() == pytest.approx(least.excess, abs=1e-7 * scale)
    assert kohlberg(game, pre, imputations=False)
    alone = (game - game[0])[1 << np.arange(n)]
    if alone.sum() <= total:
        nucleolus = sj.nucleolus(game)
        assert (nucleolus >= alone - 1e-8 * scale).all()
        assert kohlberg(game, nucleolus, imputations=True)
    else:
        with pytest.raises(ShapjaxError, match="no imputation"):
            sj.nucleolus(game)


def test_kohlberg_tells_others_apart():
    game = bankruptcy(300, np.array([100.0, 200, 300]))
    assert kohlberg(game, np.array([50.0, 100, 150]), True)
    assert not kohlberg(game, np.array([50.0, 125, 125]), True)


def test_symmetry_and_units():
    game = GAMES[4]
    order = np.array([2, 0, 5, 1, 3, 4])
    moved = game[(masks_of(6)[:, order] @ (1 << np.arange(6))).astype(int)]
    # In the moved game, the player order[i] stands where player i stood.
    inverse = np.argsort(order)
    for solve in (lambda v: sj.nucleolus(v, imputations=False), lambda v: sj.least_core(v).payoff):
        np.testing.assert_allclose(solve(moved), solve(game)[inverse], atol=1e-7)
        np.testing.assert_allclose(solve(1e6 * game + 3), 1e6 * solve(game), atol=0.1)


def test_more_players_than_one_program_would_like():
    for n, solve in ((10, sj.nucleolus), (12, lambda v: sj.least_core(v).payoff)):
        weights = np.arange(1.0, n + 1)
        square = (masks_of(n) @ weights) ** 2  # convex, so the core is not empty
        payoff = solve(square)
        assert sj.in_core(square, payoff, tolerance=1e-8).in_core


def test_one_player_and_the_precision_of_the_host():
    assert sj.in_core([1.0, 3.0], [2.0]) == (True, -np.inf, ())
    assert sj.least_core([1.0, 3.0]).payoff.tolist() == [2.0]
    assert sj.nucleolus([1.0, 3.0]).tolist() == [2.0]
    assert sj.nucleolus(jnp.asarray(GLOVE, jnp.float32)).dtype == np.float64


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sj.in_core(GLOVE, [1, 0]), "expected \\(3,\\)"),
        (lambda: sj.in_core(GLOVE, [np.nan, 0, 0]), "NaN"),
        (lambda: sj.in_core(GLOVE[:5], [1, 0, 0]), "values"),
        (lambda: sj.least_core(np.zeros((2, 8))), "one game at a time"),
        (lambda: sj.least_core(np.array([0, np.inf])), "NaN or infinity"),
        (lambda: sj.least_core(np.array([0, 1j])), "real numbers"),
        (lambda: sj.least_core(np.zeros(1)), "at least 1"),
        (lambda: sj.least_core(np.zeros(1 << 15)), "at most 14"),
        (lambda: sj.nucleolus(np.zeros(1 << 15)), "at most 14"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ShapjaxError, match=message):
        call()


def test_scipy_is_imported_only_when_needed():
    code = (
        "import sys, shapjax.indices.core; "
        "sys.exit(any(name.startswith('scipy.optimize') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
