"""FIxLIP: the regression on a grid of masks of two items."""

import numpy as np
import pytest
from games_for_tests import assert_covered, estimates, exact, smooth_game, table_game

import shapjax as sj
from shapjax.coalitions.enumerate import members_of_size
from shapjax.estimators.distinct import generator_of
from shapjax.estimators.estimate import as_key
from shapjax.estimators.faithful import binomial_law, weighted_rows
from shapjax.estimators.fixlip import grid_of


@pytest.mark.parametrize(("n_query", "p"), [(3, 0.3), (1, 0.5), (5, 0.7)])
def test_over_all_coalitions_it_is_faithful_banzhaf(n_query, p):
    values, game = table_game(6)
    found = sj.estimate(game, 6, "FBII", 2, 64, "fixlip", key=0, p=p, n_query=n_query)
    for a, b in zip(found.coefficients, exact(values, "FBII", 2, p).coefficients, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)
    assert not any(part.any() for part in found.standard_errors)
    cross = sj.estimate(
        game, 6, "FBII", 2, 64, "fixlip", key=0, p=p, n_query=n_query, pairs="cross"
    )
    both = (slice(None, n_query), slice(n_query, None))
    np.testing.assert_allclose(cross.pairs[both], found.pairs[both], atol=1e-9)


@pytest.mark.parametrize("pairs", ["all", "cross"])
def test_it_is_the_least_squares_of_its_rows(pairs):
    """Against a dense solve over the rows of the grid, whose weights are products."""
    n, n_query, p, budget = 8, 3, 0.4, 8 * 25
    _, game = table_game(n)
    rows = []

    def seen(masks):
        rows.append(np.asarray(masks))
        return game(masks)

    found = sj.estimate(seen, n, "FBII", 2, budget, "fixlip", key=0, p=p, n_query=3, pairs=pairs)
    masks, generator = np.concatenate(rows), generator_of(as_key(0))
    assert len(masks) == found.stats["evaluations"] == 8 * found.stats["retrieved_masks"]
    weights = [
        weighted_rows(generator, size, count, binomial_law(size, p))[1]
        for size, count in zip((n_query, n - n_query), grid_of(budget, 3, 5), strict=True)
    ]
    root = np.sqrt(np.outer(*weights).ravel())
    chosen = members_of_size(n, 2)
    if pairs == "cross":
        chosen = chosen[(chosen[:, 0] < n_query) & (chosen[:, 1] >= n_query)]
    design = [np.ones((len(masks), 1)), masks, masks[:, chosen].all(-1)]
    design = np.concatenate(design, axis=1).astype(float)
    expected = np.linalg.lstsq(root[:, None] * design, root * game(masks), rcond=None)[0]
    matrix = np.zeros((n, n))
    matrix[chosen[:, 0], chosen[:, 1]] = expected[n + 1 :]
    np.testing.assert_allclose(found.empty, expected[0], atol=1e-9)
    np.testing.assert_allclose(found.singles, expected[1 : n + 1], atol=1e-9)
    np.testing.assert_allclose(np.triu(found.pairs), matrix, atol=1e-9)


def test_it_is_consistent_and_its_intervals_cover():
    """Eightfold budget, a quarter of the mean squared error across items at most: it falls with the
    masks of each item too, which are fewer than eightfold. Intervals of 95%: less than 85% of 40
    is a failure (few masks are clusters), and what covers 85% fails once in 1e6."""
    n, n_query = 12, 6
    values, game = smooth_game(n)
    truth = exact(values, "FBII", 2)

    def found_at(budget):
        return estimates(game, n, "FBII", 2, budget, "fixlip", 40, n_query=n_query)

    def error(found):
        both = (slice(None, n_query), slice(n_query, None))
        return np.mean([(x.pairs[both] - truth.pairs[both]) ** 2 for x in found])

    few, many = found_at(250), found_at(2000)
    assert error(many) < error(few) / 4
    assert_covered(found_at(900), truth, least=0.85)


@pytest.mark.parametrize("budget", [4, 5, 37, 1000, 5000])
def test_the_grid_fits_the_budget(budget):
    for sizes in ((1, 11), (6, 6), (9, 3)):
        rows, columns = grid_of(budget, *sizes)
        assert 2 <= rows <= 2 ** sizes[0]
        assert 2 <= columns <= 2 ** sizes[1]
        assert rows * columns <= budget
    assert grid_of(2**12, 9, 3) == (2**9, 2**3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give n_query"),
        ({"n_query": 0}, "n_query"),
        ({"n_query": 6}, "n_query"),
        ({"n_query": 3, "index": "FSII"}, "only FBII"),
        ({"n_query": 3, "order": 1}, "about pairs"),
        ({"n_query": 3, "p": 0.0}, "strictly between"),
        ({"n_query": 3, "pairs": "same"}, "all, cross"),
        ({"n_query": 3, "budget": 3}, "at least 4"),
    ],
)
def test_bad_arguments(arguments, message):
    arguments = {"index": "FBII", "budget": 30, "key": 0, **arguments}
    with pytest.raises(sj.ShapjaxError, match=message):
        sj.estimate(table_game(6)[1], 6, method="fixlip", **arguments)
