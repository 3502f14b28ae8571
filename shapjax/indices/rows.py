"""The indices known by name: adding one is adding a row to ``INDICES``.

Every row gives w(s, t) for an order k and n players, as an exact fraction where sums cancel.
"""

from __future__ import annotations

import functools
from fractions import Fraction
from math import comb, factorial

from shapjax.indices.cardinal import CardinalIndex, Weight


def index_names() -> dict[str, str]:
    """Every index that ``interactions`` knows by name, with its meaning and source in one line."""
    return {name: index.meaning for name, index in INDICES.items()}


def _own(s: int, t: int, k: int, n: int) -> int:
    return int(s == t)


def _shapley_taylor(s: int, t: int, k: int, n: int) -> Fraction | int:
    """Below the top order the dividend itself, at the top order 1/C(t, k): ICLR eq. 5."""
    return Fraction(1, comb(t, k)) if s == k else _own(s, t, k, n)


def _shapley(s: int, t: int, k: int, n: int) -> Fraction | int:
    return _shapley_taylor(s, t, 1, n)


def _banzhaf(s: int, t: int, k: int, n: int, p: float) -> float:
    """Every other member of T joins with probability p; the empty coalition keeps v(empty)."""
    return p ** (t - s) if s else _own(s, t, k, n)


def _shapley_interaction(s: int, t: int, k: int, n: int) -> Fraction:
    return Fraction(1, t - s + 1)


def _banzhaf_interaction(s: int, t: int, k: int, n: int, p: float) -> float:
    return p ** (t - s)


def _chaining(s: int, t: int, k: int, n: int) -> Fraction | int:
    """The chance that the last of T to arrive belongs to S; v(empty) for the empty coalition."""
    return Fraction(s, t) if s else _own(s, t, k, n)


def _k_shapley(s: int, t: int, k: int, n: int) -> Fraction | int:
    """Bernoulli numbers times SII; what the empty coalition is left out of is v(empty)."""
    if s == 0:
        return _own(s, t, k, n)
    return _chained(lambda s, r, k, n: bernoulli(r - s), _shapley_interaction, s, t, k, n)


def _faithful_shapley(s: int, t: int, k: int, n: int) -> Fraction | int:
    """Tsai et al. 2023, theorem 19: the dividends above the order are shared among those below."""
    if t <= k:
        return _own(s, t, k, n)
    share = Fraction(s * comb(k, s) * comb(t - 1, k), (k + s) * comb(t + k - 1, k + s))
    return (-1) ** (k - s) * share


def _faithful_banzhaf(s: int, t: int, k: int, n: int, p: float) -> float:
    """The product over T, written in the basis of products of (z_i - p), cut off at degree k."""
    if t <= k:
        return _own(s, t, k, n)
    return (-1) ** (k - s) * comb(t - s - 1, k - s) * p ** (t - s)


def _k_additive(s: int, t: int, k: int, n: int) -> Fraction | int:
    """SII of the k-additive game of best fit, whose dividends are FSII."""
    return _chained(_shapley_interaction, _faithful_shapley, s, t, k, n)


def _chained(outer: Weight, inner: Weight, s: int, t: int, k: int, n: int) -> Fraction | int:
    """Weights of an index of the game whose dividends up to size k are another index.

    Between S and T there are C(t-s, r-s) coalitions of size r.
    """
    return sum(
        comb(t - s, r - s) * outer(s, r, k, n) * inner(r, t, k, n) for r in range(s, min(k, t) + 1)
    )


@functools.cache
def bernoulli(m: int) -> Fraction:
    """The Bernoulli number B_m, with B_1 = -1/2."""
    if m == 0:
        return Fraction(1)
    return -sum((comb(m + 1, j) * bernoulli(j) for j in range(m)), Fraction(0)) / (m + 1)


def _shapley_generalised(s: int, t: int, k: int, n: int) -> Fraction:
    return Fraction(factorial(t) * factorial(n - s - t), factorial(n - s + 1))


def _banzhaf_generalised(s: int, t: int, k: int, n: int, p: float) -> float:
    return p**t * (1 - p) ** (n - s - t)


def _chaining_generalised(s: int, t: int, k: int, n: int) -> Fraction:
    return Fraction(s * factorial(s + t - 1) * factorial(n - s - t), factorial(n))


def _internal(s: int, t: int, k: int, n: int) -> int:
    return int(t == 0)


def _external(s: int, t: int, k: int, n: int) -> int:
    return int(t == n - s)


@functools.cache
def _joint_weights(k: int, n: int) -> tuple[Fraction, ...]:
    """q_0 to q_(n-1): who is there leaves at the rate at which it was reached."""
    q: list[Fraction] = []
    for t in range(n):
        ways = sum(comb(n - t, s) for s in range(1, min(k, n - t) + 1))
        reached = sum((comb(t, r) * q[r] for r in range(max(t - k, 0), t)), Fraction(0))
        q.append((reached if t else 1) / Fraction(ways))
    return tuple(q)


def _joint(s: int, t: int, k: int, n: int) -> Fraction:
    return _joint_weights(k, n)[t]


_ROWS = (
    CardinalIndex("Moebius", _own, "the Harsanyi dividend d(S) (Harsanyi 1963)"),
    CardinalIndex(
        "Co-Moebius",
        lambda s, t, k, n: 1,
        "the sum of the dividends of all T containing S, which is the derivative of v with "
        "respect to S among all others (Grabisch & Roubens 1999)",
    ),
    CardinalIndex(
        "SV",
        _shapley,
        "Shapley value, d(T)/|T| to each member: mean marginal contribution over all orders of "
        "arrival; sums to v(N) - v(empty) (Shapley 1953)",
        highest_order=1,
    ),
    CardinalIndex(
        "BV",
        _banzhaf,
        "Banzhaf value: mean marginal contribution where every other player is present with "
        "probability p = 1/2 or as given (Banzhaf 1965; Marichal & Mathonet 2011)",
        p=0.5,
        highest_order=1,
    ),
    CardinalIndex(
        "SII",
        _shapley_interaction,
        "Shapley interaction index, d(T)/(|T|-|S|+1): mean derivative over a uniform size of "
        "coalition (Grabisch & Roubens 1999)",
    ),
    CardinalIndex(
        "BII",
        _banzhaf_interaction,
        "Banzhaf interaction index, p^(|T|-|S|) d(T): mean derivative where every other player is "
        "present with probability p = 1/2 or as given (Grabisch & Roubens 1999; Marichal & "
        "Mathonet 2011)",
        p=0.5,
    ),
    CardinalIndex(
        "CHII",
        _chaining,
        "chaining interaction index, |S|/|T| d(T): mean derivative at the moment when S becomes "
        "complete (Marichal & Roubens 1999; Fujimoto, Kojadinovic & Marichal 2006)",
    ),
    CardinalIndex(
        "STII",
        _shapley_taylor,
        "Shapley-Taylor interaction index: d(S) below the order k, d(T)/C(|T|, k) at the order; "
        "sizes 1 to k sum to v(N) - v(empty) (Sundararajan, Dhamdhere & Agarwal 2020)",
    ),
    CardinalIndex(
        "k-SII",
        _k_shapley,
        "n-Shapley values: SII aggregated downwards by Bernoulli numbers; sizes 1 to k sum to "
        "v(N) - v(empty) (Bordt & von Luxburg 2023)",
    ),
    CardinalIndex(
        "FSII",
        _faithful_shapley,
        "faithful Shapley interaction index: the polynomial of degree k nearest to v under the "
        "Shapley kernel, exact at the empty and the grand coalition; sizes 1 to k sum to "
        "v(N) - v(empty) (Tsai, Yeh & Ravikumar 2023)",
    ),
    CardinalIndex(
        "FBII",
        _faithful_banzhaf,
        "faithful Banzhaf interaction index: the polynomial of degree k nearest to v where every "
        "player is present with probability p = 1/2 or as given (Tsai, Yeh & Ravikumar 2023; "
        "Marichal & Mathonet 2011)",
        p=0.5,
    ),
    CardinalIndex(
        "kADD-SHAP",
        _k_additive,
        "SII of the k-additive game nearest to v under the Shapley kernel (Pelegrina, Duarte & "
        "Grabisch 2023)",
    ),
    CardinalIndex(
        "SGV",
        _shapley_generalised,
        "Shapley generalised value: mean contribution of S arriving as one, over all orders of "
        "arrival (Marichal 2000; Marichal, Kojadinovic & Fujimoto 2007)",
        form="marginals",
    ),
    CardinalIndex(
        "BGV",
        _banzhaf_generalised,
        "Banzhaf generalised value: mean contribution of S arriving as one where every other "
        "player is present with probability p = 1/2 or as given (Marichal 2000)",
        form="marginals",
        p=0.5,
    ),
    CardinalIndex(
        "CHGV",
        _chaining_generalised,
        "chaining generalised value: mean contribution of S at the moment when it becomes "
        "complete (Marichal, Kojadinovic & Fujimoto 2007)",
        form="marginals",
    ),
    CardinalIndex(
        "IGV",
        _internal,
        "internal generalised value, v(S) - v(empty) (Marichal, Kojadinovic & Fujimoto 2007)",
        form="marginals",
    ),
    CardinalIndex(
        "EGV",
        _external,
        "external generalised value, v(N) - v(N without S) (Marichal, Kojadinovic & Fujimoto 2007)",
        form="marginals",
    ),
    CardinalIndex(
        "JointSV",
        _joint,
        "joint Shapley value: mean contribution of S where up to k players arrive at once; sizes "
        "1 to k sum to v(N) - v(empty) (Harris, Pymar & Rowat 2022)",
        form="marginals",
    ),
)

INDICES: dict[str, CardinalIndex] = {index.name: index for index in _ROWS}
