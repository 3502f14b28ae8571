"""Coalitions on a graph of players: who can reach whom within a coalition."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from shapjax.core.checks import whole_number
from shapjax.core.errors import ShapjaxError

Edges = Iterable[Iterable[int]]
"""Undirected edges, each a pair of players."""


def neighbours_of(edges: Edges, n_players: int) -> list[int]:
    """The neighbours of every player, each a coalition's rank.

    Raises:
        ShapjaxError: an edge is not a pair of two different players of the game.
    """
    neighbours = [0] * n_players
    for edge in edges:
        ends = tuple(edge) if isinstance(edge, Iterable) else (edge,)
        if len(ends) != 2 or ends[0] == ends[1]:
            raise ShapjaxError(f"edge is {edge!r}, expected a pair of two different players.")
        i, j = (whole_number(p, "a player of an edge", low=0, high=n_players - 1) for p in ends)
        neighbours[i] |= 1 << j
        neighbours[j] |= 1 << i
    return neighbours


def first_component(ranks: np.ndarray, neighbours: list[int]) -> np.ndarray:
    """The connected part of each coalition that holds its lowest player.

    Args:
        ranks: coalitions, int64 [B].
        neighbours: those of every player, as ranks.

    Returns:
        Ranks, int64 [B]; equal to ``ranks`` where (and only where) the coalition is connected.
    """
    reached = ranks & -ranks
    while True:
        before = reached
        for player, near in enumerate(neighbours):
            reached = reached | (-(reached >> player & 1) & near & ranks)
        if np.array_equal(before, reached):
            return reached
