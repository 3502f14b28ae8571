"""Textbook definitions of every index in NumPy, coalition by coalition, for a handful of players.

Shares nothing with the package. Coalitions are sorted tuples of players; bit i of a rank is player
i. ``DEFINITIONS[name](game, S, k, p)`` is I(S) for an index of order k.
"""

import functools
import itertools
import math

import numpy as np

# B_0 to B_7, Bernoulli numbers with B_1 = -1/2.
BERNOULLI = (1, -1 / 2, 1 / 6, 0, -1 / 30, 0, 1 / 42, 0)


def rank(coalition):
    return sum(1 << i for i in coalition)


def coalitions_of(players, *sizes):
    return [c for s in sizes for c in itertools.combinations(players, s)]


def all_coalitions(players):
    return coalitions_of(players, *range(len(players) + 1))


class Game:
    def __init__(self, values):
        self.values = np.asarray(values, np.float64)
        self.n = len(self.values).bit_length() - 1
        self.derivatives = {}
        self.fits = {}

    def v(self, coalition):
        return self.values[rank(coalition)]

    def derivative(self, S, T):
        """Sum over L in S of (-1)^(|S|-|L|) v(T + L), for disjoint S and T, T a rank."""
        if (S, T) not in self.derivatives:
            self.derivatives[S, T] = sum(
                (-1) ** (len(S) - len(L)) * self.values[T | rank(L)] for L in all_coalitions(S)
            )
        return self.derivatives[S, T]

    def marginal(self, S, T):
        return self.values[T | rank(S)] - self.values[T]

    def mean_derivative(self, S, chances):
        return sum(chances[T] * self.derivative(S, T) for T in np.flatnonzero(chances))

    def mean_marginal(self, S, chances):
        return sum(chances[T] * self.marginal(S, T) for T in np.flatnonzero(chances))


# Chances of the coalition T that S meets, float [2**n], for several ways of meeting.


@functools.cache
def orders(n):
    return np.array(list(itertools.permutations(range(n))))


@functools.cache
def prefixes(n):
    """Rank of the first j players of every order, int [n!, n+1]."""
    ranks = np.cumsum(1 << orders(n), axis=1)
    return np.concatenate([np.zeros((len(ranks), 1), int), ranks], axis=1)


def frequency(ranks, n):
    return np.bincount(ranks, minlength=1 << n) / len(ranks)


def places(n, S):
    """When each member of S arrives in every order, int [n!, |S|]."""
    return np.argsort(orders(n), axis=1)[:, list(S)]


@functools.cache
def before_all_of(n, S):
    """Those who came before every member of S."""
    first = places(n, S).min(axis=1)
    return frequency(prefixes(n)[np.arange(len(first)), first], n)


@functools.cache
def when_complete(n, S):
    """Those besides S in the first coalition of a maximal chain that contains S."""
    last = places(n, S).max(axis=1, initial=-1) + 1
    return frequency(prefixes(n)[np.arange(len(last)), last] & ~rank(S), n)


@functools.cache
def before_merged(n, S):
    """Those who came before S where S arrives as one player."""
    others = [i for i in range(n) if i not in S]
    met = prefixes(len(others) + 1)
    arrival = np.argsort(orders(len(others) + 1), axis=1)[:, len(others)]
    packed = met[np.arange(len(arrival)), arrival]
    ranks = sum((((packed >> j) & 1) << i for j, i in enumerate(others)), 0 * packed)
    return frequency(ranks, n)


def independent(n, S, p):
    """Every player outside S is there with probability p."""
    chances = np.zeros(1 << n)
    for T in all_coalitions([i for i in range(n) if i not in S]):
        chances[rank(T)] = p ** len(T) * (1 - p) ** (n - len(S) - len(T))
    return chances


@functools.cache
def reached_by_jumps(n, k):
    """Chance that a coalition is ever there, at most k players arriving at once, by rank.

    From every coalition the next arrivals are drawn uniformly.
    """
    reached = np.zeros(1 << n)
    reached[0] = 1
    for T in all_coalitions(range(n)):
        steps = coalitions_of([i for i in range(n) if i not in T], *range(1, k + 1))
        for step in steps:
            reached[rank(T) | rank(step)] += reached[rank(T)] / len(steps)
    return reached


@functools.cache
def before_jump(n, k, S):
    """Chance that T is there and exactly S arrives next."""
    chances = np.zeros(1 << n)
    for T in all_coalitions([i for i in range(n) if i not in S]):
        left = n - len(T)
        steps = sum(math.comb(left, s) for s in range(1, k + 1))
        chances[rank(T)] = reached_by_jumps(n, k)[rank(T)] / steps
    return chances


# Indices.


def moebius(game, S, k, p):
    return game.derivative(S, 0)


def co_moebius(game, S, k, p):
    return game.derivative(S, (1 << game.n) - 1 - rank(S))


def shapley(game, S, k, p):
    if not S:
        return game.v(())
    return game.mean_marginal(S, before_all_of(game.n, S))


def banzhaf(game, S, k, p):
    return game.mean_marginal(S, independent(game.n, S, p)) if S else game.v(())


def shapley_interaction(game, S, k, p):
    return game.mean_derivative(S, before_merged(game.n, S))


def banzhaf_interaction(game, S, k, p):
    return game.mean_derivative(S, independent(game.n, S, p))


def chaining(game, S, k, p):
    return game.mean_derivative(S, when_complete(game.n, S))


def shapley_taylor(game, S, k, p):
    if len(S) < k:
        return game.derivative(S, 0)
    return game.mean_derivative(S, before_all_of(game.n, S))


def n_shapley(game, S, k, p):
    """Bordt & von Luxburg 2023, the recursion over orders, for sets of at most k players."""
    if not S:
        return game.v(())
    if len(S) == k:
        return shapley_interaction(game, S, k, p)
    others = [i for i in range(game.n) if i not in S]
    added = sum(
        shapley_interaction(game, tuple(sorted(S + K)), k, p)
        for K in coalitions_of(others, k - len(S))
    )
    return n_shapley(game, S, k - 1, p) + BERNOULLI[k - len(S)] * added


def faithful_shapley(game, S, k, p):
    return fitted(game, k, product, shapley_kernel(game.n), exact_ends=True)[S]


def k_additive(game, S, k, p):
    return fitted(game, k, gamma, shapley_kernel(game.n), exact_ends=True)[S]


def faithful_banzhaf(game, S, k, p):
    weights = [p**s * (1 - p) ** (game.n - s) for s in range(game.n + 1)]
    return fitted(game, k, product, weights, exact_ends=False)[S]


def shapley_kernel(n):
    return [0, *((n - 1) / (math.comb(n, s) * s * (n - s)) for s in range(1, n)), 0]


def product(size, common):
    """Product over a set of ``size`` players, ``common`` of which are present."""
    return float(common == size)


def gamma(size, common):
    """What the interaction of a set of ``size`` players adds (Pelegrina et al. 2023)."""
    return sum(math.comb(common, j) * BERNOULLI[size - j] for j in range(common + 1))


def fitted(game, k, column, weights, exact_ends):
    """Coefficients of a least-squares fit of all sets of at most k players, by set."""
    key = (k, column, *weights)
    if key not in game.fits:
        game.fits[key] = solve(game, k, column, weights, exact_ends)
    return game.fits[key]


def solve(game, k, column, weights, exact_ends):
    sizes = range(game.n + 1)
    values = np.array([[column(s, c) if c <= s else 0.0 for c in sizes] for s in sizes])
    unknowns = coalitions_of(range(game.n), *range(k + 1))
    present = np.arange(1 << game.n)[:, None] >> np.arange(game.n) & 1
    wanted = np.array([[i in S for i in range(game.n)] for S in unknowns]).astype(int)
    design = values[wanted.sum(axis=1), present @ wanted.T]
    root = np.sqrt(weights)[present.sum(axis=1)]
    start, free = np.zeros(len(unknowns)), np.eye(len(unknowns))
    if exact_ends:
        ends = design[[0, -1]]
        start = np.linalg.lstsq(ends, game.values[[0, -1]], rcond=None)[0]
        free = np.linalg.svd(ends)[2][2:].T
    inner = root[:, None] * (design @ free)
    rest = root * (game.values - design @ start)
    solution = start + free @ np.linalg.lstsq(inner, rest, rcond=None)[0]
    return dict(zip(unknowns, solution, strict=True))


def shapley_generalised(game, S, k, p):
    return game.mean_marginal(S, before_merged(game.n, S))


def banzhaf_generalised(game, S, k, p):
    return game.mean_marginal(S, independent(game.n, S, p))


def chaining_generalised(game, S, k, p):
    return game.mean_marginal(S, when_complete(game.n, S))


def internal(game, S, k, p):
    return game.v(S) - game.v(())


def external(game, S, k, p):
    everyone = range(game.n)
    return game.v(everyone) - game.v([i for i in everyone if i not in S])


def joint_shapley(game, S, k, p):
    return game.mean_marginal(S, before_jump(game.n, k, S)) if S else 0.0


DEFINITIONS = {
    "Moebius": moebius,
    "Co-Moebius": co_moebius,
    "SV": shapley,
    "BV": banzhaf,
    "SII": shapley_interaction,
    "BII": banzhaf_interaction,
    "CHII": chaining,
    "STII": shapley_taylor,
    "k-SII": n_shapley,
    "FSII": faithful_shapley,
    "FBII": faithful_banzhaf,
    "kADD-SHAP": k_additive,
    "SGV": shapley_generalised,
    "BGV": banzhaf_generalised,
    "CHGV": chaining_generalised,
    "IGV": internal,
    "EGV": external,
    "JointSV": joint_shapley,
}


def by_definition(game, name, k, p=0.5):
    """I(S) for every S of at most k players: per size a vector, lexicographic."""
    define = DEFINITIONS[name]
    return [
        np.array([define(game, S, k, p) for S in itertools.combinations(range(game.n), size)])
        for size in range(k + 1)
    ]
