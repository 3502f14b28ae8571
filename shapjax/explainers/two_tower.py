r"""Two towers: second-order credit of masked pictures from encodes of each picture alone.

The similarity of masked pictures is a dot product of what each tower makes of its own mask, so
the cross pairs separate (``shapjax.estimators.two_tower``), and so does the Shapley value of a
query part,

.. math:: \varphi_i = \int_0^1 \langle dA_i(p), B(p) \rangle\, dp,

B(p) the mean embedding of the other picture when its parts are kept with probability p. The
result is the cross-linear projection: cross pairs are those of Shapley-Taylor, a part alone has
its dividend and half of all pairs on its own side, that is its Shapley value without half of its
cross pairs.
"""

from __future__ import annotations

import math

import jax
import numpy as np

from shapjax.estimators.two_tower import Embed, Tower, cross_pairs, encode_tower, split_budget
from shapjax.explainers.gradients import legendre


def first_order_tower(tower: Tower, other: np.ndarray) -> np.ndarray:
    """Shapley values of one picture's parts against the other's embedding, float64 [n].

    Args:
        tower: of the picture whose parts play.
        other: embedding of the other picture, [C].
    """
    # All sizes weigh alike: a part joins after u others with probability 1 / n.
    return tower.derivatives.mean(axis=0) @ other


def second_order_towers(query: Tower, retrieved: Tower) -> tuple[np.ndarray, np.ndarray]:
    """The cross-linear projection of the game of two towers.

    Returns:
        Parts alone, float64 [nq + nr], and cross pairs [nq, nr].
    """
    cross = cross_pairs(query, retrieved).cross
    n = len(query.singles) + len(retrieved.singles)
    p, weight = legendre(-(-n // 2))

    def values(own: Tower, other: Tower) -> np.ndarray:
        joining = _binomial(own.derivatives, p)
        met = _binomial(mean_by_size(other), p)
        return np.einsum("p,pic,pc->i", weight, joining, met, optimize=True)

    alone = [
        values(query, retrieved) - 0.5 * cross.sum(axis=1),
        values(retrieved, query) - 0.5 * cross.sum(axis=0),
    ]
    return np.concatenate(alone), cross


def mean_by_size(tower: Tower) -> np.ndarray:
    """Mean embedding over masks of each size, float64 [n + 1, C]."""
    # From one size to the next it grows by the mean derivative over parts.
    steps = np.concatenate([tower.empty[None], tower.derivatives.mean(axis=1)])
    return steps.cumsum(axis=0)


def _binomial(by_size: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Means over a binomial size, [sizes, ...] to [nodes, ...]."""
    most = len(by_size) - 1
    u = np.arange(most + 1)
    counts = np.array([float(math.comb(most, int(size))) for size in u])
    law = counts * p[:, None] ** u * (1 - p[:, None]) ** (most - u)
    return np.tensordot(law, by_size, 1)


def encode_towers(
    embeds: list[Embed], players: list[int], budget: int, key: jax.Array, chunk_size: int
) -> list[Tower]:
    """One tower, or two that share the budget in proportion to their players."""
    shares = [budget] if len(players) == 1 else split_budget(budget, players[0], players[1])
    keys = jax.random.split(key, len(players))
    return [
        encode_tower(embed, n, share, own, chunk_size=chunk_size)
        for embed, n, share, own in zip(embeds, players, shares, keys, strict=True)
    ]
