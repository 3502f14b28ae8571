r"""Cross pairs of a similarity game from encodes of each tower alone.

Where the worth is a dot product of two embeddings, :math:`v(S) = \langle a(S_q), b(S_r)\rangle`,
the second-order Shapley-Taylor index of a query player i and a retrieved player j separates:

.. math:: \psi_{ij} = \int_0^1 2 (1 - p)\, \langle dA_i(p), dB_j(p) \rangle\, dp,

with :math:`dA_i(p)` the mean of :math:`a(S + i) - a(S)` over masks that keep every other player
with probability p: one vector for each player, from its own tower. The integrand is a polynomial
of degree n - 1, so ceil(n/2) Gauss-Legendre nodes take the integral exactly. Encodes add where
evaluations of the game would multiply, and a tower encoded once serves against any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.core.checks import whole_number
from shapjax.core.errors import ShapjaxError, ValueFunctionError
from shapjax.core.evaluate import DEFAULT_CHUNK
from shapjax.core.memory import require_memory
from shapjax.core.precision import precision_scope
from shapjax.estimators.distinct import distinct_coalitions
from shapjax.estimators.gaussian_process import fit_process
from shapjax.estimators.product_kernel import derivative_tables

Embed = Callable[[Any], Any]
"""Boolean masks [B, n] to embeddings [B, C], normalised already where the game is a cosine."""


class Tower(NamedTuple):
    """What one item brings to any pair: compute it once, reuse it against every other item.

    Attributes:
        derivatives: mean of a(S + i) - a(S) over the S of size u without i, float64
            [n (u), n (i), C].
        empty: embedding of the empty mask, float64 [C].
        singles: a({i}) - a(empty), float64 [n, C].
        encodes: masks encoded.
        exact: whether all 2**n of them were.
    """

    derivatives: np.ndarray
    empty: np.ndarray
    singles: np.ndarray
    encodes: int
    exact: bool


class TwoTower(NamedTuple):
    """Terms of a two-tower game that its towers yield.

    Attributes:
        cross: second-order Shapley-Taylor index of every query and retrieved player, float64
            [nq, nr].
        query: dividends of the query's players alone, float64 [nq].
        retrieved: of the retrieved item's players, float64 [nr].
        encodes: masks encoded, both towers together.
        exact: whether both towers were enumerated.
    """

    cross: np.ndarray
    query: np.ndarray
    retrieved: np.ndarray
    encodes: int
    exact: bool


def estimate_two_tower(
    embed_query: Embed,
    embed_retrieved: Embed,
    n_query: int,
    n_retrieved: int,
    budget: int = 256,
    *,
    key: jax.Array,
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
        chunk_size: masks per call.

    Returns:
        TwoTower, in units of the game.

    Raises:
        ShapjaxError: the budget is below n + 2 encodes of each tower, or the embeddings differ
            in length.
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
        encode_tower(embed, n, share, tower_key, chunk_size=chunk_size)
        for embed, n, share, tower_key in zip(
            (embed_query, embed_retrieved), counts, shares, keys, strict=True
        )
    )
    return cross_pairs(query, retrieved)


def split_budget(budget: int, n_query: int, n_retrieved: int) -> tuple[int, int]:
    """Encodes of each tower, in proportion to its players; what one cannot use goes across."""
    query = min(budget * n_query // (n_query + n_retrieved), 1 << n_query)
    retrieved = min(budget - query, 1 << n_retrieved)
    return min(budget - retrieved, 1 << n_query), retrieved


def encode_tower(
    embed: Embed,
    n_players: int,
    budget: int,
    key: jax.Array,
    *,
    chunk_size: int = DEFAULT_CHUNK,
) -> Tower:
    """One item's part of every pair it may belong to.

    With a budget of 2**n all masks are encoded and the derivatives are exact; below, a Gaussian
    process with vector values is fitted to distinct masks and its posterior mean read.

    Args:
        embed: masks [B, n] to embeddings [B, C].
        n_players: n.
        budget: the most masks encoded; at least n + 2, or 2**n.
        key: PRNG key.
        chunk_size: masks per call.

    Returns:
        Tower of the size n**2 C, whatever the budget.

    Raises:
        As ``estimate_two_tower``.
    """
    n = whole_number(n_players, "n_players", low=1)
    masks = distinct_coalitions(key, n, min(2, n), budget)
    values = _encode(embed, masks, whole_number(chunk_size, "chunk_size", low=1))
    require_memory(
        8 * 4 * n * n * values.shape[1], f"the derivatives of {n} players", "merge some players"
    )
    sizes = masks.sum(axis=1)
    empty = values[sizes == 0][0]
    alone = masks[sizes == 1].argmax(axis=1)
    singles = values[sizes == 1][np.argsort(alone)] - empty
    exact = len(masks) == 1 << n
    with precision_scope(np.float64):
        derivatives = (_enumerated if exact else _fitted)(masks, values)
    return Tower(derivatives, empty, singles, len(masks), exact)


def cross_pairs(query: Tower, retrieved: Tower) -> TwoTower:
    """The terms of a pair of items from their towers.

    Raises:
        ShapjaxError: the embeddings differ in length.
    """
    lengths = query.empty.shape[0], retrieved.empty.shape[0]
    if lengths[0] != lengths[1]:
        raise ShapjaxError(
            f"the query's embeddings have {lengths[0]} numbers and the retrieved item's "
            f"{lengths[1]}, expected the same; use one embedding space for both."
        )
    n = len(query.singles) + len(retrieved.singles)
    nodes, weights = np.polynomial.legendre.leggauss(-(-n // 2))
    p, weights = (nodes + 1) / 2, weights / 2 * (1 - nodes)
    a, b = _at_nodes(query, p), _at_nodes(retrieved, p)
    cross = np.tensordot(weights[:, None, None] * a, b, ((0, 2), (0, 2)))
    return TwoTower(
        cross,
        query.singles @ retrieved.empty,
        retrieved.singles @ query.empty,
        query.encodes + retrieved.encodes,
        query.exact and retrieved.exact,
    )


def _at_nodes(tower: Tower, p: np.ndarray) -> np.ndarray:
    """dA_i(p): binomial means of the derivatives by size, float64 [nodes, n, C]."""
    others = len(tower.singles) - 1
    u = np.arange(others + 1)
    counts = np.array([math.comb(others, int(size)) for size in u], np.float64)
    law = counts * p[:, None] ** u * (1 - p[:, None]) ** (others - u)
    return np.tensordot(law, tower.derivatives, 1)


def _encode(embed: Embed, masks: np.ndarray, chunk_size: int) -> np.ndarray:
    """Embeddings of all masks, float64 [M, C]."""
    parts = []
    for start in range(0, len(masks), chunk_size):
        chunk = masks[start : start + chunk_size]
        part = np.asarray(embed(chunk))
        if part.ndim != 2 or len(part) != len(chunk) or part.dtype.kind not in "fiub":
            raise ValueFunctionError(
                f"a tower returned shape {part.shape} and dtype {part.dtype} for {len(chunk)} "
                f"masks, expected real numbers of shape ({len(chunk)}, C)."
            )
        parts.append(part.astype(np.float64))
    values = np.concatenate(parts)
    if not np.isfinite(values).all():
        raise ValueFunctionError("a tower returned NaN or infinity; make every embedding finite.")
    return values


def _enumerated(masks: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Derivatives by size from all 2**n embeddings, in any order of the rows."""
    n = masks.shape[1]
    sizes = masks.sum(axis=1)
    # A mask of size s with player i is S + i for |S| = s - 1; one without is S for |S| = s.
    out = np.empty((n, n, values.shape[1]))
    for u in range(n):
        with_, without = sizes == u + 1, sizes == u
        joined = masks[with_].T.astype(float) @ values[with_]
        left = (~masks[without]).T.astype(float) @ values[without]
        out[u] = (joined - left) / math.comb(n - 1, u)
    return out


def _fitted(masks: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Derivatives by size of the posterior mean of a process with vector values."""
    n = masks.shape[1]
    process = fit_process(masks, values)
    tables = jnp.asarray(derivative_tables(n, 1, process.rate, process.scale))
    found = _read_derivatives(process.z, process.beta, tables)
    return np.asarray(found) + (process.sizes[1:] - process.sizes[:-1])[:, None, :]


@jax.jit
def _read_derivatives(z: jax.Array, beta: jax.Array, tables: jax.Array) -> jax.Array:
    """Mean derivatives of sum_m beta_m k(., T_m) for every size and player, [n, n, C]."""
    sizes = z.sum(axis=1).astype(jnp.int32)

    def of_size(table: jax.Array) -> jax.Array:
        rows = table[sizes]
        step = (z * (rows[:, 1] - rows[:, 0])[:, None]).T @ beta
        return step + rows[:, 0] @ beta

    return jax.lax.map(of_size, tables)
