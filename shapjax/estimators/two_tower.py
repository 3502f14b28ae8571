r"""Similarity games of two towers, from encodes of each tower alone.

Where the worth is a dot product of two embeddings, :math:`v(S) = \langle a(S_q), b(S_r)\rangle`,
the second-order Shapley-Taylor index of a query player i and a retrieved player j separates:

.. math:: \psi_{ij} = \int_0^1 2 (1 - p)\, \langle dA_i(p), dB_j(p) \rangle\, dp,

with :math:`dA_i(p)` the mean of :math:`a(S + i) - a(S)` over masks that keep every other player
with probability p: one vector for each player, from its own tower. A pair of one side takes its
mean second derivative there and the mean embedding of the other side. The integrands are
polynomials of degree n - 1, so ceil(n/2) Gauss-Legendre nodes take the integral exactly. Encodes
add where evaluations of the game would multiply, and a tower encoded once serves against any
other.

The towers' errors are independent, so that the variance of a sum of dot products is

.. math:: \sum_{pp'} w_p w_{p'} \left( c_a\, m_b^T \Sigma_a m_b' + c_b\, m_a^T \Sigma_b m_a'
    + c_a c_b \operatorname{tr} \Sigma_a \Sigma_b \right),

m the posterior means at two nodes, c their posterior covariances and Sigma the channels'.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import numpy as np

from shapjax.core.checks import whole_number
from shapjax.core.errors import ShapjaxError
from shapjax.core.interactions import Interactions
from shapjax.core.memory import require_memory
from shapjax.core.worths import DEFAULT_CHUNK
from shapjax.estimators.sampling import binomial
from shapjax.estimators.tower_part import Embed, TowerPart, tower_part


class TwoTower(NamedTuple):
    """Terms of a two-tower game that its towers yield: second-order Shapley-Taylor.

    Attributes:
        cross: of every query and retrieved player, float64 [nq, nr].
        query: dividends of the query's players alone, float64 [nq]; always exact.
        retrieved: of the retrieved item's players, float64 [nr]; always exact.
        encodes: masks encoded, both towers together.
        exact: whether both towers were enumerated.
        v_empty: the worth of the empty coalition.
        standard_errors: posterior standard deviations of ``cross``, float64 [nq, nr]; zero where
            exact.
        query_pairs: pairs of the query's players, symmetric with a zero diagonal, float64
            [nq, nq]; None where the query's part has none, likewise the following.
        query_pair_errors: their standard errors.
        retrieved_pairs: pairs of the retrieved item's players, float64 [nr, nr].
        retrieved_pair_errors: their standard errors.
    """

    cross: np.ndarray
    query: np.ndarray
    retrieved: np.ndarray
    encodes: int
    exact: bool
    v_empty: float
    standard_errors: np.ndarray
    query_pairs: np.ndarray | None = None
    query_pair_errors: np.ndarray | None = None
    retrieved_pairs: np.ndarray | None = None
    retrieved_pair_errors: np.ndarray | None = None

    def interactions(self) -> Interactions:
        """All terms as one index of nq + nr players, the query's first; they sum to v(N).

        Raises:
            ShapjaxError: pairs of one side were not asked for.
        """
        sides = self.query_pairs, self.retrieved_pairs
        errors = self.query_pair_errors, self.retrieved_pair_errors
        if any(part is None for part in sides):
            raise ShapjaxError(
                "all interactions need the pairs of each side, which were not asked for; "
                'give terms="all".'
            )
        n = len(self.query) + len(self.retrieved)
        upper = np.triu_indices(n, 1)
        singles = np.concatenate([self.query, self.retrieved])
        pairs, pair_errors = (
            np.block([[own, across], [across.T, other]])[upper]
            for across, (own, other) in ((self.cross, sides), (self.standard_errors, errors))
        )
        return Interactions(
            (np.array([self.v_empty]), singles, pairs),
            "STII",
            n,
            (np.zeros(1), np.zeros(n), pair_errors),
            {"encodes": self.encodes, "exact": self.exact},
        )


def estimate_two_tower(
    embed_query: Embed,
    embed_retrieved: Embed,
    n_query: int,
    n_retrieved: int,
    budget: int = 256,
    *,
    key: jax.Array,
    terms: str = "cross",
    chunk_size: int = DEFAULT_CHUNK,
) -> TwoTower:
    """All cross pairs of :math:`v(S) = <a(S_q), b(S_r)>` from encodes of each tower alone.

    Args:
        embed_query: masks [B, nq] to embeddings [B, C], any callable.
        embed_retrieved: masks [B, nr] to embeddings [B, C].
        n_query: players on the query.
        n_retrieved: players on the retrieved item.
        budget: the most masks encoded, both towers together; from 2**nq + 2**nr on, all of
            them, and the result is exact.
        key: PRNG key.
        terms: ``"cross"``, or ``"all"`` for the pairs of each side as well.
        chunk_size: masks per call.

    Returns:
        TwoTower, in units of the game.

    Raises:
        ShapjaxError: the budget is below n + 2 encodes of each tower, the embeddings differ in
            length, or the terms are unknown.
        ValueFunctionError: a tower misbehaved.
        MemoryRefused: the masks or a kernel matrix do not fit into memory.
    """
    counts = [
        whole_number(n, name, low=1)
        for n, name in ((n_query, "n_query"), (n_retrieved, "n_retrieved"))
    ]
    shares = split_budget(whole_number(budget, "budget", low=0), *counts)
    keys = jax.random.split(key)
    query, retrieved = (
        tower_part(embed, n, share, part_key, terms=terms, chunk_size=chunk_size)
        for embed, n, share, part_key in zip(
            (embed_query, embed_retrieved), counts, shares, keys, strict=True
        )
    )
    return combine(query, retrieved)


def split_budget(budget: int, n_query: int, n_retrieved: int) -> tuple[int, int]:
    """Encodes of each tower, in proportion to its players; what one cannot use goes across."""
    query = min(budget * n_query // (n_query + n_retrieved), 1 << n_query)
    retrieved = min(budget - query, 1 << n_retrieved)
    return min(budget - retrieved, 1 << n_query), retrieved


def combine(query: TowerPart, retrieved: TowerPart) -> TwoTower:
    """The terms of a pair of items from their parts; pairs of one side where its part has them.

    Raises:
        ShapjaxError: the embeddings differ in length.
        MemoryRefused: the pairs of one side do not fit into memory.
    """
    lengths = query.empty.shape[0], retrieved.empty.shape[0]
    if lengths[0] != lengths[1]:
        raise ShapjaxError(
            f"the query's embeddings have {lengths[0]} numbers and the retrieved item's "
            f"{lengths[1]}, expected the same; use one embedding space for both."
        )
    n = query.n_players + retrieved.n_players
    nodes, weights = np.polynomial.legendre.leggauss(-(-n // 2))
    p, weights = (nodes + 1) / 2, weights / 2 * (1 - nodes)
    derivatives = (
        at_nodes(part, binomial(part.n_players - 1, p), part.derivatives, part.spread_singles)
        for part in (query, retrieved)
    )
    cross, errors = contract(weights, *derivatives)
    sides = []
    for own, other in ((query, retrieved), (retrieved, query)):
        sides += _own_pairs(own, other, p, weights)
    return TwoTower(
        cross,
        query.singles @ retrieved.empty,
        retrieved.singles @ query.empty,
        query.encodes + retrieved.encodes,
        query.exact and retrieved.exact,
        float(query.empty @ retrieved.empty),
        errors,
        *sides,
    )


def _own_pairs(
    own: TowerPart, other: TowerPart, p: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Pairs of one item's players and their errors, [n, n] each."""
    if own.pairs is None:
        return None, None
    count, channels = own.pairs.shape[1:]
    require_memory(
        8 * 2 * count * len(p) * (channels + len(p)),
        f"the second derivatives of {own.n_players} players",
        'merge some players, or leave terms="cross"',
    )
    derivatives = at_nodes(own, binomial(own.n_players - 2, p), own.pairs, own.spread_pairs)
    found = contract(weights, derivatives, mean_at_nodes(other, binomial(other.n_players, p)))
    out = np.zeros((2, own.n_players, own.n_players))
    first, second = np.triu_indices(own.n_players, 1)
    for matrix, part in zip(out, found, strict=True):
        matrix[first, second] = matrix[second, first] = part[:, 0]
    return out[0], out[1]


class Side(NamedTuple):
    """Vectors of one tower at the nodes p.

    Attributes:
        means: [nodes, I, C].
        spread: their covariance at two nodes over the channels' own, [I, nodes, nodes]; None
            where exact.
        channels: root of the channels' covariance, [r, C].
    """

    means: np.ndarray
    spread: np.ndarray | None
    channels: np.ndarray | None


def at_nodes(
    part: TowerPart, law: np.ndarray, by_size: np.ndarray, spread: np.ndarray | None
) -> Side:
    """Means over sizes, by weights [nodes, sizes], of means [sizes, I, C] that spread as given."""
    return Side(
        np.tensordot(law, by_size, 1),
        None if spread is None else law @ spread @ law.T,
        part.channels,
    )


def mean_at_nodes(part: TowerPart, law: np.ndarray) -> Side:
    """The same of the mean embedding by size, I being 1."""
    spread = part.spread_means
    return at_nodes(part, law, part.means[:, None], None if spread is None else spread[None])


def contract(weights: np.ndarray, a: Side, b: Side) -> tuple[np.ndarray, np.ndarray]:
    """Sums over nodes of weighted dot products, and their standard errors, [I, J] each."""
    found = np.tensordot(weights[:, None, None] * a.means, b.means, ((0, 2), (0, 2)))
    both = np.outer(weights, weights)
    variance = np.zeros(found.shape)
    if a.spread is not None:
        variance += _flat(both * a.spread) @ _flat(_products(b.means, a.channels)).T
    if b.spread is not None:
        variance += _flat(both * _products(a.means, b.channels)) @ _flat(b.spread).T
    if a.spread is not None and b.spread is not None:
        overlap = float(((np.asarray(a.channels) @ np.asarray(b.channels).T) ** 2).sum())
        variance += overlap * _flat(both * a.spread) @ _flat(b.spread).T
    # Rounding may leave a variance of zero a little below it.
    return found, np.sqrt(np.maximum(variance, 0))


def _products(means: np.ndarray, root: np.ndarray | None) -> np.ndarray:
    """m(p)^T R^T R m(p') for every vector, [I, nodes, nodes]."""
    seen = np.swapaxes(means @ np.asarray(root).T, 0, 1)
    return seen @ np.swapaxes(seen, 1, 2)


def _flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(len(array), math.prod(array.shape[1:]))
