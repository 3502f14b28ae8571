"""Coalitions as Boolean masks [rows, n] and as ranks; bit i of a rank is player i."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.core.checks import whole_number
from shapjax.core.errors import ShapjaxError
from shapjax.core.memory import require_memory

MAX_RANK_PLAYERS = 30
"""Most players whose ranks fit the int32 that JAX uses for indices."""


def all_masks(n_players: int) -> jax.Array:
    """All 2**n coalitions, Boolean [2**n, n]; row r holds the coalition of rank r.

    Raises:
        MemoryRefused: the masks do not fit into memory.
        ShapjaxError: n_players is not between 0 and 30.
    """
    n = whole_number(n_players, "n_players", low=0)
    require_memory(
        (1 << n) * max(n, 1),
        f"the list of all 2^{n} coalitions",
        "estimate with a budget of coalitions (shapjax.estimate) instead of enumerating them",
    )
    if n > MAX_RANK_PLAYERS:
        raise ShapjaxError(
            f"n_players is {n}, but at most {MAX_RANK_PLAYERS} can be enumerated in one table; "
            "use shapjax.estimate."
        )
    return unrank(jnp.arange(1 << n, dtype=jnp.int32), n)


def unrank(ranks: jax.Array, n_players: int) -> jax.Array:
    """Masks of ranks: int [...] to Boolean [..., n]."""
    return (ranks[..., None] >> jnp.arange(n_players, dtype=ranks.dtype)) & 1 == 1


def ranks_of_size(n_players: int, size: int) -> np.ndarray:
    """Ranks of all coalitions of one size in lexicographic order, int64 [C(n, size)].

    Made at trace time; meant for the small sizes whose coefficients are kept.
    """
    members = members_of_size(n_players, size)
    return (np.int64(1) << members).sum(axis=1, dtype=np.int64)


def members_of_size(n_players: int, size: int) -> np.ndarray:
    """Players of all coalitions of one size, lexicographic, int64 [C(n, size), size]."""
    count = math.comb(n_players, size)
    require_memory(
        8 * count * max(size, 1),
        f"the list of {count} coalitions of size {size}",
        "ask for a lower order",
    )
    flat = itertools.chain.from_iterable(itertools.combinations(range(n_players), size))
    return np.fromiter(flat, np.int64, count * size).reshape(count, size)


def masks_of_size(n_players: int, size: int) -> np.ndarray:
    """Masks of all coalitions of one size, lexicographic, Boolean [C(n, size), n]."""
    members = members_of_size(n_players, size)
    masks = np.zeros((len(members), n_players), bool)
    np.put_along_axis(masks, members, True, axis=1)
    return masks


def sizes_of_ranks(n_players: int) -> jax.Array:
    """Size of every coalition, by rank, int32 [2**n]."""
    return jax.lax.population_count(jnp.arange(1 << n_players, dtype=jnp.int32))
