r"""What one item brings to every pair it may belong to: computed once, kept, used against others.

For a similarity :math:`\langle a(S_q), b(S_r) \rangle` all that a pair needs of an item are mean
discrete derivatives of its own embedding by size, and how uncertain they are where its masks were
not all encoded. The embedding is then a Gaussian process with vector values,

.. math:: \operatorname{cov}(a_c(S), a_d(T)) = \sigma(|S|) \sigma(|T|) k(S, T)\, \Sigma_{cd},

so that the posterior covariance of derivatives is one table over players and sizes, times the
covariance :math:`\Sigma` of the channels, which the whitened residuals estimate.
"""

from __future__ import annotations

import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import solve_triangular

from shapjax.coalitions.enumerate import members_of_size
from shapjax.core.checks import one_of, whole_number
from shapjax.core.errors import ShapjaxError, ValueFunctionError
from shapjax.core.interactions import load_npz, save_npz
from shapjax.core.memory import require_memory
from shapjax.core.precision import precision_scope
from shapjax.core.worths import DEFAULT_CHUNK, require_finite
from shapjax.estimators.distinct import distinct_coalitions
from shapjax.estimators.gaussian_process import Process, fit_process
from shapjax.estimators.product_kernel import derivative_tables

Embed = Callable[[Any], Any]
"""Boolean masks [B, n] to embeddings [B, C], normalised already where the game is a cosine."""

TERMS = ("cross", "all")
"""Pairs across, or those of one side as well."""

BLOCK = 1 << 23
"""Numbers in the covariances of derivatives with the masks seen that are held at a time."""

_OPTIONAL = ("pairs", "channels", "spread_means", "spread_singles", "spread_pairs")


class TowerPart(NamedTuple):
    """What one item brings to any pair: compute it once, reuse it against every other item.

    Attributes:
        derivatives: mean of a(S + i) - a(S) over the S of size u without i, float64
            [n (u), n (i), C].
        empty: embedding of the empty mask, float64 [C].
        singles: a({i}) - a(empty), float64 [n, C].
        encodes: masks encoded.
        exact: whether all 2**n of them were.
        pairs: mean of the second derivative of players i and j over the S of size u without
            them, float64 [n-1 (u), C(n, 2), C]; None where only cross pairs were asked for.
        channels: a root R of the channels' covariance R^T R, float64 [r, C]; None where exact,
            as are the following.
        spread_means: posterior covariance, over that of the channels, of the mean embedding at
            two sizes, float64 [n+1, n+1].
        spread_singles: of ``derivatives`` at two sizes, float64 [n (i), n, n].
        spread_pairs: of ``pairs`` at two sizes, float64 [C(n, 2), n-1, n-1].
    """

    derivatives: np.ndarray
    empty: np.ndarray
    singles: np.ndarray
    encodes: int
    exact: bool
    pairs: np.ndarray | None = None
    channels: np.ndarray | None = None
    spread_means: np.ndarray | None = None
    spread_singles: np.ndarray | None = None
    spread_pairs: np.ndarray | None = None

    @property
    def n_players(self) -> int:
        """Number of players n."""
        return len(self.singles)

    @property
    def means(self) -> np.ndarray:
        """Mean embedding over the masks of each size, float64 [n+1, C]."""
        # A random player added to a random mask of size u gives a random mask of size u + 1.
        steps = self.derivatives.mean(axis=1) if self.n_players else self.singles
        return np.concatenate([self.empty[None], steps]).cumsum(axis=0)

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return sum(array.nbytes for array in self if isinstance(array, np.ndarray))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to ``path`` as an npz archive (no pickle), whole or not at all."""
        held = self._asdict().items()
        save_npz(path, {name: np.asarray(value) for name, value in held if value is not None})

    @staticmethod
    def load(path: str | os.PathLike[str]) -> TowerPart:
        """Read what ``save`` wrote.

        Raises:
            ShapjaxError: the file cannot be read or is not such an archive.
        """
        arrays = load_npz(path)
        try:
            held: dict[str, Any] = {name: arrays[name] for name in TowerPart._fields[:5]}
            held |= {name: arrays[name] for name in _OPTIONAL if name in arrays}
            held |= {"encodes": int(held["encodes"]), "exact": bool(held["exact"])}
            part = TowerPart(**held)
            fits = {name: held[name].shape for name in held if name not in ("encodes", "exact")}
            fits = fits == {name: _shapes(part)[name] for name in fits}
        except (KeyError, ValueError, TypeError, IndexError):
            fits = False
        if not fits:
            raise ShapjaxError(
                f"{path} is an npz archive but does not hold a tower's part; give a file written "
                "by TowerPart.save."
            )
        return part


def tower_part(
    embed: Embed,
    n_players: int,
    budget: int,
    key: jax.Array,
    *,
    terms: str = "cross",
    chunk_size: int = DEFAULT_CHUNK,
) -> TowerPart:
    """One item's part of every pair it may belong to.

    With a budget of 2**n all masks are encoded and the part is exact; below, a Gaussian process
    with vector values is fitted to distinct masks and its posterior read.

    Args:
        embed: masks [B, n] to embeddings [B, C].
        n_players: n.
        budget: the most masks encoded; at least n + 2, or 2**n.
        key: PRNG key.
        terms: ``"cross"`` for pairs across; ``"all"`` for pairs of this item's players as well.
        chunk_size: masks per call.

    Returns:
        TowerPart, whose size does not depend on the budget: n**2 C numbers, n**3 C / 2 with the
        item's own pairs.

    Raises:
        ShapjaxError: the budget is below n + 2 and below 2**n, or the terms are unknown.
        ValueFunctionError: the tower misbehaved.
        MemoryRefused: the masks, the part or a kernel matrix do not fit into memory.
    """
    n = whole_number(n_players, "n_players", low=1)
    order = 1 + TERMS.index(one_of(terms, TERMS, "terms"))
    budget = whole_number(budget, "budget", low=0)
    masks = distinct_coalitions(key, n, min(2, n), budget, _size_law(n))
    values = _encode(embed, masks, whole_number(chunk_size, "chunk_size", low=1))
    most = math.comb(n, order)
    require_memory(
        8 * most * (3 * n * values.shape[1] + 3 * len(masks) + 2 * n * n),
        f"the derivatives of {n} players by {values.shape[1]} channels",
        "merge some players",
    )
    sizes = masks.sum(axis=1)
    empty = values[sizes == 0][0]
    alone = masks[sizes == 1].argmax(axis=1)
    singles = values[sizes == 1][np.argsort(alone)] - empty
    exact = len(masks) == 1 << n
    with precision_scope(np.float64):
        read = _enumerated if exact else _fitted
        found = read(masks, values, min(order, n))
    if order > n:
        found["pairs"] = np.zeros((0, 0, values.shape[1]))
    return TowerPart(empty=empty, singles=singles, encodes=len(masks), exact=exact, **found)


class TowerCache:
    """Parts of items kept, so that no item is encoded twice.

    An entry belongs to an item, a model, players and a background, each named by any hashable
    value that the caller finds fitting; it serves as long as it has the encodes and the terms
    asked for. The entries used longest ago go first. Threads may share a cache.
    """

    def __init__(self, most_bytes: int = 1 << 30) -> None:
        """An empty cache.

        Args:
            most_bytes: the most that its parts take together; a part larger than that is not kept.

        Raises:
            ShapjaxError: that is no whole number, or negative.
        """
        self.most_bytes = whole_number(most_bytes, "most_bytes", low=0)
        self.nbytes = self.hits = self.misses = 0
        self._parts: OrderedDict[Hashable, TowerPart] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._parts)

    def part(
        self,
        embed: Embed,
        n_players: int,
        budget: int,
        key: jax.Array,
        *,
        item: Hashable,
        model: Hashable,
        players: Hashable,
        background: Hashable,
        terms: str = "cross",
        chunk_size: int = DEFAULT_CHUNK,
    ) -> TowerPart:
        """``tower_part``, or what it gave before for the same four names.

        Args:
            embed: as for ``tower_part``, likewise what is not named here.
            n_players: n.
            budget: the most masks encoded; a part of fewer encodes is made anew.
            key: PRNG key; of no effect where the part is kept already.
            item: which item, for example a hash of the picture.
            model: which model encodes it.
            players: how the item is cut into players, for example ``("grid", 7)``.
            background: what replaces a player that is missing.
            terms: ``"cross"`` or ``"all"``; a part without its own pairs is made anew for them.
            chunk_size: masks per call.

        Returns:
            TowerPart with read-only arrays.

        Raises:
            ShapjaxError: a name is not hashable, or as ``tower_part``.
        """
        n = whole_number(n_players, "n_players", low=1)
        wanted = min(whole_number(budget, "budget", low=0), 1 << n)
        one_of(terms, TERMS, "terms")
        name = (item, model, players, background, n)
        try:
            hash(name)
        except TypeError as error:
            raise ShapjaxError(
                f"item, model, players and background name a cached part, but {error}; give "
                "strings, numbers or tuples of them."
            ) from None
        with self._lock:
            part = self._parts.get(name)
            if part is not None and _serves(part, wanted, terms):
                self._parts.move_to_end(name)
                self.hits += 1
                return part
            self.misses += 1
        part = tower_part(embed, n, wanted, key, terms=terms, chunk_size=chunk_size)
        for array in part:
            if isinstance(array, np.ndarray):
                array.flags.writeable = False
        with self._lock:
            self._keep(name, part)
        return part

    def clear(self) -> None:
        """Forget all parts."""
        with self._lock:
            self._parts.clear()
            self.nbytes = 0

    def _keep(self, name: Hashable, part: TowerPart) -> None:
        replaced = self._parts.pop(name, None)
        self.nbytes -= replaced.nbytes if replaced is not None else 0
        if part.nbytes > self.most_bytes:
            return
        self._parts[name] = part
        self.nbytes += part.nbytes
        while self.nbytes > self.most_bytes:
            self.nbytes -= self._parts.popitem(last=False)[1].nbytes


def _serves(part: TowerPart, wanted: int, terms: str) -> bool:
    return part.encodes >= wanted and (terms == "cross" or part.pairs is not None)


def _shapes(part: TowerPart) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays that a part of as many players, channels and rows may hold."""
    n, channels = part.singles.shape
    pairs, others = math.comb(n, 2), max(n - 1, 0)
    rows = 0 if part.channels is None else len(part.channels)
    return {
        "derivatives": (n, n, channels),
        "empty": (channels,),
        "singles": (n, channels),
        "pairs": (others, pairs, channels),
        "channels": (rows, channels),
        "spread_means": (n + 1, n + 1),
        "spread_singles": (n, n, n),
        "spread_pairs": (pairs, others, others),
    }


def _size_law(n: int) -> np.ndarray:
    """Shares of the sizes of masks that keep a player with probability p, for p of density 2(1-p).

    That is how much a derivative of the tower at p weighs in a pair. The kernel of the joint game
    would spend two thirds of the masks on two players, where one tower hardly differs from its
    singles.
    """
    return np.arange(n + 1.0, 0, -1)


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
    require_finite(embed, values, masks)
    return values


def _enumerated(masks: np.ndarray, values: np.ndarray, order: int) -> dict[str, np.ndarray]:
    """Derivatives by size from all 2**n embeddings, in any order of the rows."""
    n = masks.shape[1]
    z, rows = jnp.asarray(masks, jnp.float64), jnp.asarray(values)
    found = {}
    for s in range(1, order + 1):
        # A derivative at a U of size u weighs masks of size u + c that hold c of the players.
        tables = np.zeros((n - s + 1, n + 1, s + 1))
        for u in range(n - s + 1):
            c = np.arange(s + 1)
            tables[u, u + c, c] = (-1.0) ** (s - c) / math.comb(n - s, u)
        members = jnp.asarray(members_of_size(n, s))
        read = _read_derivatives(z, rows, jnp.asarray(tables), members)
        found["derivatives" if s == 1 else "pairs"] = np.asarray(read)
    return found


def _fitted(masks: np.ndarray, values: np.ndarray, order: int) -> dict[str, np.ndarray]:
    """Derivatives by size of the posterior mean, and their posterior covariances."""
    n = masks.shape[1]
    process = fit_process(masks, values)
    found = {"channels": _channel_root(process)}
    for s, name in enumerate(("means", "singles", "pairs")[: order + 1]):
        tables = _tables(n, s, process.kernel, process.scale)
        members = members_of_size(n, s)
        steps = np.stack([np.convolve(row, _signs(s)) for row in np.eye(n - s + 1)])
        spread = _posterior_covariance(process, np.asarray(tables), members, steps)
        found[f"spread_{name}"] = spread if s else spread[0]
        if s:
            read = _read_derivatives(process.z, process.beta, tables, jnp.asarray(members))
            level = (steps @ process.sizes)[:, None, :]
            found["derivatives" if s == 1 else name] = np.asarray(read) + level
    return found


_tables = jax.jit(derivative_tables, static_argnums=(0, 1))


def _signs(s: int) -> np.ndarray:
    """Weights of a derivative of a function of the size, by how many of s are in, [s+1]."""
    return np.array([(-1) ** (s - c) * math.comb(s, c) for c in range(s + 1)], float)


def _channel_root(process: Process) -> np.ndarray:
    """A root of the channels' covariance, from the whitened residuals, float64 [r, C]."""
    rest = np.asarray(process.factor.T @ process.beta)
    freedom = max(len(rest) - len(np.unique(process.z.sum(axis=1))), 1)
    if len(rest) > rest.shape[1]:
        rest = np.asarray(np.linalg.qr(rest, mode="r"))
    return rest / math.sqrt(freedom)


@jax.jit
def _read_derivatives(
    z: jax.Array, rows: jax.Array, tables: jax.Array, members: jax.Array
) -> jax.Array:
    """Sum over masks of the table's entry times the mask's row, [sizes, members, C]."""
    sizes = z.sum(axis=1).astype(jnp.int32)[:, None]
    counts = z[:, members].sum(axis=-1).astype(jnp.int32)
    return jax.lax.map(lambda table: table[sizes, counts].T @ rows, tables)


def _posterior_covariance(
    process: Process, tables: np.ndarray, members: np.ndarray, steps: np.ndarray
) -> np.ndarray:
    """Covariance of mean derivatives at two sizes, over the channels' own.

    That of universal kriging: what the function of the size may be is uncertain as well.

    Args:
        process: the fitted process.
        tables: mean derivatives of the kernel functions, [sizes, n+1, s+1].
        members: players of each coalition of size s, int [P, s].
        steps: the derivatives of a function of the size, [sizes, n+1].

    Returns:
        float64 [P, sizes, sizes].
    """
    z, n = np.asarray(process.z), process.z.shape[1]
    sizes = z.sum(axis=1).astype(int)
    count, s = tables.shape[0], tables.shape[2] - 1
    present = np.unique(sizes)
    basis = (sizes[:, None] == present) * np.exp(-process.growth * sizes)[:, None]
    white = solve_triangular(process.factor, basis, lower=True)
    root = np.linalg.cholesky(white.T @ white)
    # A size that no mask has lies between its neighbours.
    between = np.stack([np.interp(np.arange(n + 1), present, e) for e in np.eye(len(present))])
    level = between @ steps.T
    u = np.arange(count)
    prior = sum(
        sign * tables[:, u + c, c] * process.scale[u + c] for c, sign in enumerate(_signs(s))
    )
    out = np.empty((len(members), count, count))
    block = max(BLOCK // (len(z) * count), 1)
    for start in range(0, len(members), block):
        own = members[start : start + block]
        held = z[:, own].sum(axis=-1).astype(int).T
        # Rows [P, sizes, M] of covariances with what was seen, whitened.
        known = np.moveaxis(tables[:, sizes, held], 0, 1)
        seen = solve_triangular(process.factor, known.reshape(-1, len(z)).T, lower=True)
        left = np.tile(level, len(own)) - white.T @ seen
        left = solve_triangular(root, left, lower=True)
        seen, left = (np.moveaxis(x.reshape(-1, len(own), count), 1, 0) for x in (seen, left))
        explained = np.swapaxes(seen, 1, 2) @ seen - np.swapaxes(left, 1, 2) @ left
        out[start : start + block] = prior - explained
    return out
