"""Tables from a coalition to its parts, and sums over rows of products of members."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.coalitions.enumerate import members_of_size

Array = Any
"""Of NumPy or of JAX: what is returned is of the kind given."""

CHUNK_ELEMENTS = 1 << 22
"""Entries of a block of the design that exist at the same time."""


def positions(members: np.ndarray, n: int) -> np.ndarray:
    """Lexicographic position of sorted coalitions among those of their size, int64 [...].

    Args:
        members: players, int [..., size].
        n: number of players.
    """
    size = members.shape[-1]
    after = np.array(
        [[math.comb(n - 1 - i, size - place) for i in range(n)] for place in range(size)],
        np.int64,
    ).reshape(size, n)
    skipped = sum((after[j, members[..., j]] for j in range(size)), np.int64(0))
    return math.comb(n, size) - 1 - np.broadcast_to(skipped, members.shape[:-1])


def parts_of_size(n: int, size: int, part: int) -> np.ndarray:
    """Positions of all parts of ``part`` players of every coalition of ``size`` players.

    Returns:
        int64 [C(n, size), C(size, part)]; the parts of a coalition are in lexicographic order of
        the places of their members.
    """
    members = members_of_size(n, size)
    places = members_of_size(size, part)
    return positions(members[:, places], n)


def summed_to_parts(part: np.ndarray, n: int, size: int, to: int) -> np.ndarray:
    """For every coalition of ``to`` players the sum over those of ``size`` that hold it.

    Args:
        part: float64 [..., C(n, size)].
        n: number of players.
        size: of the coalitions summed.
        to: at most ``size``.

    Returns:
        float64 [..., C(n, to)].
    """
    # The axis that is added to goes first, and the batch after it.
    found = np.zeros((math.comb(n, to), *part.shape[:-1]))
    np.add.at(found, parts_of_size(n, size, to), np.moveaxis(part, -1, 0)[:, None])
    return np.moveaxis(found, 0, -1)


def dividends_below(values: Array, n: int, order: int) -> tuple[Array, ...]:
    """Harsanyi dividends of the coalitions below a size, per size float [C(n, size)].

    Args:
        values: their worth, sizes 0 to order-1, lexicographic, float [sum of C(n, size)].
        n: number of players.
        order: the size; static.
    """
    dividends: list[Array] = []
    start = 0
    for size in range(order):
        stop = start + math.comb(n, size)
        own = values[start:stop]
        for part, known in enumerate(dividends):
            own = own - known[parts_of_size(n, size, part)].sum(axis=1)
        dividends.append(own)
        start = stop
    return tuple(dividends)


def polynomial_at(z: jax.Array, parts: tuple[jax.Array, ...]) -> jax.Array:
    """A polynomial in the masks: the sum of the coefficients of all parts of each coalition.

    Args:
        z: masks as numbers, float [rows, n].
        parts: coefficients per size 0, 1, ..., float [C(n, size)].

    Returns:
        float [rows].
    """
    found = jnp.broadcast_to(parts[0], z.shape[:1])
    for size, part in enumerate(parts[1:], start=1):
        found = found + (z @ part if size == 1 else Products(z, size).apply(part))
    return found


class Products:
    """The matrix of products of members, [rows, C(n, size)], applied without being formed.

    A column is the product over the members of a coalition of z. Columns are made in blocks of
    about ``CHUNK_ELEMENTS`` entries, so that memory stays O(rows n).
    """

    def __init__(self, z: jax.Array, size: int) -> None:
        """``z`` is float [rows, n]; ``size``, at least 1, is static."""
        rows, n = z.shape
        self.count = math.comb(n, size)
        width = max(1, min(self.count, CHUNK_ELEMENTS // max(rows, 1)))
        blocks = -(-self.count // width)
        # The last block is filled with a player who is never there.
        members = np.full((blocks * width, size), n, np.int32)
        members[: self.count] = members_of_size(n, size)
        self._members = members.reshape(blocks, width, size)
        self._players = jnp.concatenate([z.T, jnp.zeros((1, rows), z.dtype)])

    def _columns(self, members: jax.Array) -> jax.Array:
        columns = self._players[members[:, 0]]
        for place in range(1, members.shape[1]):
            columns = columns * self._players[members[:, place]]
        return columns

    def apply(self, a: jax.Array) -> jax.Array:
        """Coefficients [C(n, size)] to rows [rows]."""
        blocks, width, _ = self._members.shape
        padded = jnp.pad(a, (0, blocks * width - self.count)).reshape(blocks, width)

        def add(total: jax.Array, block: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            members, coefficients = block
            return total + coefficients @ self._columns(members), None

        nothing = jnp.zeros(self._players.shape[1], self._players.dtype)
        return jax.lax.scan(add, nothing, (jnp.asarray(self._members), padded))[0]

    def adjoint(self, r: jax.Array) -> jax.Array:
        """Rows [rows] to coefficients [C(n, size)]: the transpose of ``apply``."""
        sums = jax.lax.map(lambda m: self._columns(m) @ r, jnp.asarray(self._members))
        return sums.reshape(-1)[: self.count]
