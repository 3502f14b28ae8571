"""Standard errors of explanations against exact indices: how often their intervals hold."""

import jax
import numpy as np
import pytest
from games_for_tests import assert_covered
from toy_network import toy

import shapjax as sj
from shapjax.explainers.towers import across
from shapjax.explainers.windows import joint_sbsm, sbsm, shares, sliding_windows


def cells(seed):
    """A picture of 4 x 4 cells of bright colours, uint8 [16, 16, 3]."""
    colors = np.random.default_rng(seed).choice([40, 255], (4, 4, 3))
    return colors.repeat(4, axis=0).repeat(4, axis=1).astype(np.uint8)


@pytest.mark.parametrize(
    ("method", "order", "players", "budget"),
    [
        ("kernel-shap", 1, "3x3", 110),
        ("kernel-shap", 2, "2x2", 120),
        ("kernel-sam", 2, "features", 120),
        ("lime", 1, "3x3", 110),
        ("lime", 2, "2x2", 120),
        ("two-tower", 1, "3x3", 110),
        ("two-tower", 2, "3x3", 200),
        ("fixlip", 2, "3x3", 10_000),
    ],
)
def test_intervals_hold_the_exact_index(method, order, players, budget):
    """Of 95% intervals at least 90%, over 20 seeds; what holds 90% fails once in 1e6.

    LIME's truth is what it finds from all coalitions, the penalty being its own.
    """
    options = {"method": method, "order": order, "players": players, "errors": True}
    options |= {"background": np.full((16, 16, 3), (255, 40, 40), np.uint8)}
    pair = cells(0), cells(1)
    network = toy(side=2 if players == "features" else 4)
    exact = sj.explain(network, *pair, budget=1 << 18, **options).interactions
    assert not any(part.any() for part in exact.standard_errors)
    found = [
        sj.explain(network, *pair, budget=budget, key=seed, **options).interactions
        for seed in range(20)
    ]
    assert_covered(found, exact)


def test_sbsm_knows_what_the_windows_left_out_may_change():
    """Against all windows, of a game whose windows differ much."""
    size, windows = 64, sliding_windows(64)
    weights = np.random.default_rng(0).exponential(size=size**2)
    game = jax.jit(lambda masks: masks @ weights / weights.sum())
    count = len(windows.corners)
    options = {"budget": count + 1, "chunk_size": 512}
    exact, errors, _ = sbsm(game, size, key=jax.random.key(0), **options)
    assert not errors.any()
    options["budget"] = 1 + count // 2
    found = [maps(*sbsm(game, size, key=jax.random.key(seed), **options)[:2]) for seed in range(12)]
    # The corners have so few windows that 1.96 is too little: a border of two pixels covers 92%.
    assert_covered(found, maps(exact, errors))


def maps(values, errors):
    def flat(values):
        return np.zeros(1), values.ravel()

    return sj.Interactions(flat(values), "SBSM", values.size, flat(errors))


def test_joint_sbsm_knows_what_other_pairs_of_windows_would_say():
    """Against all pairs of windows of 12 x 12 pixels on 3 x 3 parts."""
    size, windows = 12, sliding_windows(12)
    rng = np.random.default_rng(0)
    a, b = rng.exponential(size=(2, size**2))
    a, b = a / a.sum(), b / b.sum()

    @jax.jit
    def game(masks):
        return (masks[:, : size**2] @ a) * (masks[:, size**2 :] @ b)

    parts = (np.arange(size)[:, None] // 4) * 3 + np.arange(size) // 4
    over = shares(windows, parts)
    hidden = [windows_on(windows, size) @ x for x in (a, b)]
    drops = 1 - np.outer(1 - hidden[0], 1 - hidden[1])
    exact = over.T @ drops @ over / (over.sum(axis=0)[:, None] * len(windows.corners))
    found = []
    for seed in range(30):
        cross, errors, _ = joint_sbsm(game, parts, parts, budget=301, key=jax.random.key(seed))
        found.append(pairs(cross, errors))
    assert_covered(found, pairs(exact, np.zeros_like(exact)))


def windows_on(windows, size):
    rows, columns = np.divmod(np.arange(size**2), size)
    top, left = windows.corners.T[:, :, None]
    inside = (rows >= top) & (rows < top + windows.side)
    return inside & (columns >= left) & (columns < left + windows.side)


def pairs(cross, errors):
    n = sum(cross.shape)
    parts = [(np.zeros(1), np.zeros(n), across(values)) for values in (cross, errors)]
    return sj.Interactions(parts[0], "SBSM", n, parts[1])
