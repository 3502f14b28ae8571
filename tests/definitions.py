"""Textbook definitions in plain Python, sharing no code with the package (n <= 6)."""

import itertools
import math


def subsets(players):
    players = list(players)
    for size in range(len(players) + 1):
        yield from (frozenset(c) for c in itertools.combinations(players, size))


def table_to_game(values):
    """Worth by coalition, from a list by rank (bit i = player i)."""
    return lambda coalition: values[sum(1 << player for player in coalition)]


def dividend(game, coalition):
    return sum((-1) ** (len(coalition) - len(t)) * game(t) for t in subsets(coalition))


def derivative(game, coalition, context):
    """Discrete derivative of the game in all players of a coalition, at a disjoint context."""
    return sum(
        (-1) ** (len(coalition) - len(part)) * game(context | part) for part in subsets(coalition)
    )


def shapley_by_permutations(game, n):
    values = [0.0] * n
    for order in itertools.permutations(range(n)):
        present = frozenset()
        for player in order:
            values[player] += game(present | {player}) - game(present)
            present |= {player}
    return [value / math.factorial(n) for value in values]


def shapley_taylor(game, n, coalition, order):
    """Sundararajan et al. 2020: by random orderings, the top order at the first of its members.

    Below the top order the dividend; at the top order k/n times the weighted sum of discrete
    derivatives over contexts, weights 1/C(n-1, |T|).
    """
    if len(coalition) < order:
        return derivative(game, coalition, frozenset())
    others = set(range(n)) - coalition
    return (
        order
        / n
        * sum(derivative(game, coalition, t) / math.comb(n - 1, len(t)) for t in subsets(others))
    )
