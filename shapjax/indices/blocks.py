r"""An index from blocks of coalitions: what one block adds, and what the sum of all blocks means.

A block holds all coalitions whose high players are a fixed set R. Every sum over the supersets of
a small coalition B (see ``worths``) is the sum, over the blocks whose R holds the high
players of B, of the same sum over low players alone; so blocks can be evaluated one after the
other, or on as many devices, and only numbers of the size of the result are ever added up.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.coalitions.enumerate import members_of_size
from shapjax.core.errors import ShapjaxError
from shapjax.indices.halves import Halves, positions, small_ranks

HIGHEST_BY_BLOCKS = 3
"""Highest order that is made block by block."""

Sums = dict[str, jax.Array]
"""Sums over supersets by ``"s b p"``: for an index of size s, coalitions of size b with p high
players, [..., C(high, p), C(low, b - p)]."""


def require_order(order: int, remedy: str) -> None:
    """Refuse an order that blocks cannot make.

    Raises:
        ShapjaxError: the order is above ``HIGHEST_BY_BLOCKS``.
    """
    if order > HIGHEST_BY_BLOCKS:
        raise ShapjaxError(
            f"order is {order}, but at most {HIGHEST_BY_BLOCKS} can be made from blocks of "
            f"coalitions; {remedy}."
        )


def block_sums(values: jax.Array, high_mask: jax.Array, f: jax.Array, order: int) -> Sums:
    """What one block adds to the sums of all blocks.

    Args:
        values: worth of the block's coalitions, by rank of their low players, float [..., 2**low].
        high_mask: the high players of the block, Boolean [high].
        f: weights of ``superset_weights``, float [order + 1, order + 1, n + 1].
        order: of the index, static.
    """
    halves = Halves(values)
    high = len(high_mask)
    here = jax.lax.dynamic_slice_in_dim(f, high_mask.sum(), halves.n + 1, axis=-1)
    held = [high_mask[members_of_size(high, p)].all(axis=1) for p in range(order + 1)]
    sums = {}
    for s, b, p in _terms(order):
        of_low = halves.superset_sums(here[s, b], b - p)[..., None, :]
        sums[f"{s} {b} {p}"] = jnp.where(held[p][:, None], of_low, 0)
    return sums


def no_sums(high: int, low: int, order: int, dtype: Any) -> Sums:
    """The sums of no block at all."""
    return {
        f"{s} {b} {p}": jnp.zeros((math.comb(high, p), math.comb(low, b - p)), dtype)
        for s, b, p in _terms(order)
    }


@functools.partial(jax.jit, static_argnames=("high", "low", "order"))
def coefficients_of(sums: Sums, high: int, low: int, order: int) -> tuple[jax.Array, ...]:
    """Coefficients per size 0..order, float [..., C(n, s)], from the sums of all blocks."""
    n = high + low
    coefficients = []
    for s in range(order + 1):
        by_size = []
        for b in range(s + 1):
            parts = [sums[f"{s} {b} {p}"] for p in range(b + 1)]
            flat = [part.reshape(*part.shape[:-2], -1) for part in parts]
            ranks = [
                (small_ranks(high, p)[:, None] << low | small_ranks(low, b - p)).reshape(-1)
                for p in range(b + 1)
            ]
            places = positions(small_ranks(n, b), np.concatenate(ranks))
            by_size.append(jnp.concatenate(flat, axis=-1)[..., places])
        coefficients.append(over_subsets(by_size, n, s))
    return tuple(coefficients)


def over_subsets(sums: list[jax.Array], n: int, size: int) -> jax.Array:
    """For every S of a size, the sum over its subsets B of what each B has, [..., C(n, size)]."""
    if size > n:
        return sums[0][..., :0]
    members = members_of_size(n, size)
    total: jax.Array | float = 0.0
    for b, of_size in enumerate(sums):
        known = small_ranks(n, b)
        for places in itertools.combinations(range(size), b):
            subsets = (1 << members[:, list(places)]).sum(axis=1, dtype=np.int64)
            total = total + of_size[..., positions(subsets, known)]
    return jnp.asarray(total)


def _terms(order: int) -> Iterator[tuple[int, int, int]]:
    for s in range(order + 1):
        for b in range(s + 1):
            for p in range(b + 1):
                yield s, b, p
