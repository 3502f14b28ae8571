"""Families of coalitions: which coalitions may hold credit.

A family is a plain function of coalitions, Boolean masks [B, n] to Boolean [B]; it needs not know
n. The helpers below make the common ones, and any function of masks is as good. A list of
coalitions (tuples of players, Boolean masks [m, n], or ranks) is accepted wherever a family is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from shapjax.coalitions.enumerate import MAX_RANK_PLAYERS
from shapjax.coalitions.graphs import Edges, first_component, neighbours_of
from shapjax.core.checks import whole_number
from shapjax.core.errors import ShapjaxError
from shapjax.core.memory import require_memory

Family = Callable[[np.ndarray], Any]
"""Whether each coalition belongs to the family: Boolean masks [B, n] to Boolean [B]."""

_CHUNK_BITS = 16


def up_to(size: int) -> Family:
    """All coalitions of at most ``size`` players: Shapley-Taylor's family of that order."""
    largest = whole_number(size, "size", low=1)
    return lambda masks: masks.sum(axis=1) <= largest


def singletons() -> Family:
    """Every player alone: the family of the Shapley value."""
    return up_to(1)


def cross_pairs(left: Iterable[int], right: Iterable[int]) -> Family:
    """Every player alone, and every pair with one player on each side.

    Source: the cross-linear scheme, v1 (Hamilton et al. 2021), section 4.3.

    Raises:
        ShapjaxError: a player is on both sides, or (when used) not in the game.
    """
    left, right = _players(left, "left"), _players(right, "right")
    if set(left) & set(right):
        raise ShapjaxError(f"left and right share the players {sorted(set(left) & set(right))}.")

    def member(masks: np.ndarray) -> np.ndarray:
        _require_players(left + right, masks.shape[1])
        crossing = masks[:, left].any(axis=1) & masks[:, right].any(axis=1)
        sizes = masks.sum(axis=1)
        return (sizes <= 1) | ((sizes == 2) & crossing)

    return member


def within_graph(edges: Edges, size: int | None = None) -> Family:
    """All coalitions of at most ``size`` players that are connected in a graph.

    Args:
        edges: undirected, pairs of players; a player without an edge stays alone.
        size: largest number of players; None for connected coalitions of any size.
    """
    edges = tuple(tuple(edge) if isinstance(edge, Iterable) else (edge,) for edge in edges)
    largest = None if size is None else whole_number(size, "size", low=1)

    def member(masks: np.ndarray) -> np.ndarray:
        n = masks.shape[1]
        neighbours = neighbours_of(edges, n)
        fits = masks.sum(axis=1) <= (n if largest is None else largest)
        ranks = ranks_of_masks(masks[fits])
        fits[fits] = first_component(ranks, neighbours) == ranks
        return fits

    return member


def explicit(coalitions: Any) -> Family:
    """Exactly the coalitions that are listed.

    Args:
        coalitions: iterable of coalitions, each an iterable of players; or a Boolean array
            [m, n] of masks; or integers, the ranks (bit i is player i).

    Raises:
        ShapjaxError: something listed is not a coalition, or (when used) not of the game.
    """
    try:
        listed = np.asarray(coalitions) if hasattr(coalitions, "dtype") else coalitions
        if isinstance(listed, np.ndarray) and listed.dtype.kind == "b":
            return _of_masks(listed)
        ranks = [_rank(coalition) for coalition in listed]
    except TypeError:
        raise ShapjaxError(
            f"family is {coalitions!r}, expected a function of masks or a list of coalitions that "
            "is not traced."
        ) from None

    def member(masks: np.ndarray) -> np.ndarray:
        n = masks.shape[1]
        highest = max(ranks, default=0)
        if highest >> n:
            raise ShapjaxError(
                f"family lists a coalition with player {highest.bit_length() - 1}, but the players "
                f"of this game are 0 to {n - 1}."
            )
        return np.isin(ranks_of_masks(masks), np.array(ranks, np.int64))

    return member


def union(*families: Any) -> Family:
    """The coalitions of any of several families (or lists of coalitions)."""
    parts = [as_family(family) for family in families]
    return lambda masks: np.any([_evaluated(part, masks) for part in parts], axis=0)


def as_family(family: Any) -> Family:
    """``family`` if it is a function already, else the family of the coalitions it lists."""
    return family if callable(family) else explicit(family)


def membership(family: Any, n_players: int) -> np.ndarray:
    """Whether each coalition of n players belongs to the family, by rank, Boolean [2**n].

    Args:
        family: a function of masks, or anything that ``explicit`` takes.
        n_players: n.

    Raises:
        MemoryRefused: a table of 2**n coalitions does not fit into memory.
        ShapjaxError: not a family of these players; or more than 30 of them.
    """
    n = whole_number(n_players, "n_players", low=0)
    rows = 1 << min(n, _CHUNK_BITS)
    require_memory(
        (1 << n) + 16 * rows * n,
        f"the table of which of 2^{n} coalitions belong to the family",
        "use fewer players",
    )
    if n > MAX_RANK_PLAYERS:
        raise ShapjaxError(
            f"n_players is {n}, but a table of coalitions holds at most {MAX_RANK_PLAYERS}."
        )
    member = as_family(family)
    table = np.empty(1 << n, bool)
    for start in range(0, 1 << n, rows):
        ranks = np.arange(start, start + rows)
        table[start : start + rows] = _evaluated(member, (ranks[:, None] >> np.arange(n)) & 1 == 1)
    return table


def ranks_of_masks(masks: np.ndarray) -> np.ndarray:
    """Ranks of coalitions: Boolean [B, n] to int64 [B]."""
    return masks @ (np.int64(1) << np.arange(masks.shape[1]))


def _evaluated(family: Family, masks: np.ndarray) -> np.ndarray:
    try:
        member = np.asarray(family(masks))
    except ShapjaxError:
        raise
    except Exception as error:  # a stranger's function may fail in any way
        raise ShapjaxError(
            f"the family's function failed on masks of shape {masks.shape}: {error!r}."
        ) from error
    if member.shape != masks.shape[:1] or member.dtype != bool:
        raise ShapjaxError(
            f"the family's function returned {member.dtype} of shape {member.shape} for "
            f"{len(masks)} coalitions, expected one Boolean for each."
        )
    return member


def _of_masks(listed: np.ndarray) -> Family:
    if listed.ndim != 2:
        raise ShapjaxError(f"family is a Boolean array of shape {listed.shape}, expected [m, n].")

    def member(masks: np.ndarray) -> np.ndarray:
        n = masks.shape[1]
        if listed.shape[1] != n:
            raise ShapjaxError(
                f"family has masks of {listed.shape[1]} players, but the game has {n}."
            )
        return np.isin(ranks_of_masks(masks), ranks_of_masks(listed))

    return member


def _rank(coalition: Any) -> int:
    """The rank of one listed coalition: the number itself, or the bits of its players."""
    if not isinstance(coalition, Iterable):
        return whole_number(coalition, "a coalition's rank", low=0)
    return sum(1 << player for player in _players(coalition, "a coalition"))


def _players(players: Any, name: str) -> list[int]:
    """Distinct players, sorted."""
    try:
        listed = list(players)
    except TypeError:
        raise ShapjaxError(f"{name} is {players!r}, expected a list of players.") from None
    numbers = sorted(whole_number(p, f"a player of {name}", low=0) for p in listed)
    if len(set(numbers)) != len(numbers) or any(isinstance(p, (bool, np.bool_)) for p in listed):
        raise ShapjaxError(f"{name} is {players!r}, expected distinct players.")
    return numbers


def _require_players(players: list[int], n: int) -> None:
    if players and max(players) >= n:
        raise ShapjaxError(
            f"the family has player {max(players)}, but the players of this game are 0 to {n - 1}."
        )
