"""Jagged projections: the credit of a game on any family of coalitions."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from shapjax.coalitions.enumerate import ranks_of_size
from shapjax.coalitions.families import membership
from shapjax.core.checks import players_of_table
from shapjax.core.errors import ShapjaxError
from shapjax.core.interactions import Interactions
from shapjax.core.memory import require_memory
from shapjax.core.precision import float_array
from shapjax.transforms.moebius import moebius
from shapjax.transforms.sharing import Rule, push_down


def jagged(values: jax.Array, family: Any, sharing: Rule = push_down) -> Interactions:
    r"""Credit of the coalitions of a family: all dividends, shared out among its members.

    A member S holds its own dividend :math:`d(S)` and what the coalitions outside the family give
    it. With all coalitions of at most k players this is the Shapley-Taylor index of order k, with
    the players alone the Shapley value, with the pairs across two sides the cross-linear scheme.
    Members other than the empty coalition sum to :math:`v(N) - v(\emptyset)` if the rule gives
    away all of a dividend, as those of ``shapjax.sharing`` do.

    Args:
        values: worth v of every coalition, float [..., 2**n]; bit i of the rank is player i.
        family: coalitions as an iterable of tuples of players, Boolean masks [m, n] or integer
            ranks; or a function of masks, Boolean [B, n] to Boolean [B], such as those that
            ``shapjax.families`` makes. It must hold every player alone; the empty coalition always
            belongs to it and keeps :math:`d(\emptyset)`. Never traced.
        sharing: ``rule(dividends, member) -> coefficients``; see ``shapjax.sharing``, whose
            ``push_down`` and ``maximal_members`` are two of them.

    Returns:
        Interactions up to the size of the largest member, zero for coalitions outside the family,
        in the dtype of the values.

    Raises:
        ShapjaxError: not a family of these players, a player alone is missing, or the rule
            returned a wrong shape or left credit outside the family.
        DtypeError: float64 values while JAX's 64-bit mode is off.
        MemoryRefused: the working tables do not fit into memory.

    Cost: that of the rule, O(n 2**n) for ``push_down``; beside it one look at every coalition to
    find the members.

    Source: Hamilton et al. 2021 (v1), section 4.3; for Shapley-Taylor Sundararajan et al. 2020.
    """
    table = float_array(values, "values")
    n = players_of_table(table.shape, "values")
    require_memory(
        6 * table.size * table.dtype.itemsize + (16 << n),
        f"sharing the dividends of 2^{n} coalitions",
        "use fewer players or a smaller batch of games",
    )
    member = membership(family, n)
    member[0] = True
    for player in range(n):
        if not member[1 << player]:
            raise ShapjaxError(
                f"family lacks player {player} alone, so some credit could not come to rest; add "
                "all coalitions of one player (shapjax.families.union with families.singletons())."
            )
    coefficients = sharing(moebius(table), member)
    _require_within(coefficients, table.shape, member)
    largest = int(np.bitwise_count(np.flatnonzero(member)).max())
    by_size = (coefficients[..., ranks_of_size(n, size)] for size in range(max(largest, 1) + 1))
    return Interactions(tuple(by_size), "jagged", n)


def _require_within(coefficients: Any, shape: tuple[int, ...], member: np.ndarray) -> None:
    if getattr(coefficients, "shape", None) != shape:
        raise ShapjaxError(
            f"the sharing rule returned shape {getattr(coefficients, 'shape', None)} for dividends "
            f"of shape {shape}, expected the same."
        )
    if isinstance(coefficients, Tracer):
        return
    outside = np.flatnonzero(
        ~member & (np.asarray(coefficients) != 0).reshape(-1, *member.shape).any(0)
    )
    if outside.size:
        players = np.flatnonzero(outside[0] >> np.arange(len(member).bit_length() - 1) & 1)
        raise ShapjaxError(
            f"the sharing rule left credit on {outside.size} coalitions outside the family (the "
            f"first is {tuple(players.tolist())}); give it to members, and return zero there."
        )
