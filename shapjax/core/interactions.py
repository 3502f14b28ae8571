"""The result type: one number for every coalition of up to ``order`` players."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import math
import operator
import os
import zipfile
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from shapjax.core.checks import whole_number
from shapjax.core.errors import MemoryRefused, ShapjaxError
from shapjax.core.files import write_whole
from shapjax.core.memory import require_memory

Array = jax.Array | np.ndarray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Interactions:
    """Interaction indices of a game, for all coalitions of at most ``order`` players.

    A pytree: it passes through ``jit``, ``vmap`` and ``grad``. Leading axes of the coefficients
    are a batch of games.

    Attributes:
        coefficients: ``coefficients[k]`` is [..., C(n, k)], the coalitions of size k in
            lexicographic order (that of ``itertools.combinations``), in units of the game.
        index: name of the index, for example ``"STII"``.
        n_players: number of players n.
        standard_errors: like ``coefficients``, one standard error for each; None when exact or
            not known.
        stats: what an estimator reports about itself (evaluations, residual, ...).
    """

    coefficients: tuple[Array, ...]
    index: str = dataclasses.field(metadata={"static": True})
    n_players: int = dataclasses.field(metadata={"static": True})
    standard_errors: tuple[Array, ...] | None = None
    stats: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def order(self) -> int:
        """Size of the largest coalitions that have a coefficient."""
        return len(self.coefficients) - 1

    @property
    def empty(self) -> Array:
        """Coefficient of the empty coalition, [...]."""
        return self.coefficients[0][..., 0]

    @property
    def singles(self) -> Array:
        """Coefficients of the players alone, [..., n]."""
        return self.of_size(1)

    @property
    def pairs(self) -> Array:
        """Coefficients of the pairs as a symmetric matrix with zero diagonal, [..., n, n]."""
        flat = self.of_size(2)
        n = self.n_players
        rows, columns = np.triu_indices(n, 1)
        if isinstance(flat, np.ndarray):
            out = np.zeros((*flat.shape[:-1], n, n), flat.dtype)
            out[..., rows, columns] = flat
            out[..., columns, rows] = flat
            return out
        out = jnp.zeros((*flat.shape[:-1], n, n), flat.dtype)
        return out.at[..., rows, columns].set(flat).at[..., columns, rows].set(flat)

    def of_size(self, size: int) -> Array:
        """Coefficients of all coalitions of ``size`` players, lexicographic, [..., C(n, size)].

        Raises:
            ShapjaxError: these interactions have no coefficients of that size.
        """
        size = whole_number(size, "size", low=0)
        if size > self.order:
            raise ShapjaxError(
                f"size is {size}, but these interactions hold sizes 0 to {self.order}; "
                "ask for a larger order."
            )
        return self.coefficients[size]

    def __getitem__(self, coalition: int | Iterable[int]) -> Array:
        """Coefficient of one coalition, given as a player or an iterable of players."""
        members = list(coalition) if isinstance(coalition, Iterable) else [coalition]
        numbers = all(hasattr(m, "__index__") and not isinstance(m, bool) for m in members)
        players = sorted(operator.index(member) for member in members) if numbers else []
        distinct = numbers and len(set(players)) == len(players)
        if not distinct or (players and not 0 <= players[0] <= players[-1] < self.n_players):
            raise ShapjaxError(
                f"coalition is {coalition!r}, expected distinct players from 0 to "
                f"{self.n_players - 1}."
            )
        return self.of_size(len(players))[..., lexicographic_rank(players, self.n_players)]

    # Indexing is by coalition, so the old sequence protocol must not count up through it.
    __iter__ = None
    __contains__ = None
    __array_ufunc__ = None

    def items(self, size: int) -> Iterable[tuple[tuple[int, ...], Array]]:
        """Pairs of (coalition, coefficient) for all coalitions of ``size`` players."""
        coefficients = self.of_size(size)
        coalitions = itertools.combinations(range(self.n_players), size)
        return ((c, coefficients[..., rank]) for rank, c in enumerate(coalitions))

    def __add__(self, other: Interactions) -> Interactions:
        """Coefficient by coefficient; standard errors and statistics are dropped."""
        return self._combine(other, operator.add)

    def __radd__(self, other: Any) -> Interactions:
        """So that ``sum`` works, which starts from 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __sub__(self, other: Interactions) -> Interactions:
        """Coefficient by coefficient; standard errors and statistics are dropped."""
        return self._combine(other, operator.sub)

    def __mul__(self, factor: Any) -> Interactions:
        """Every coefficient (and standard error) times a scalar."""
        if isinstance(factor, Interactions):
            return NotImplemented
        errors = self.standard_errors
        return Interactions(
            tuple(c * factor for c in self.coefficients),
            self.index,
            self.n_players,
            None if errors is None else tuple(e * abs(factor) for e in errors),
        )

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> Interactions:
        """Every coefficient (and standard error) divided by a scalar."""
        errors = self.standard_errors
        return Interactions(
            tuple(c / divisor for c in self.coefficients),
            self.index,
            self.n_players,
            None if errors is None else tuple(e / abs(divisor) for e in errors),
        )

    def __neg__(self) -> Interactions:
        """Every coefficient negated."""
        return self * -1

    def _combine(self, other: Any, op: Callable[[Any, Any], Any]) -> Interactions:
        if not isinstance(other, Interactions):
            return NotImplemented
        mine = (self.index, self.order, self.n_players)
        theirs = (other.index, other.order, other.n_players)
        if mine != theirs:
            raise ShapjaxError(
                f"cannot combine interactions of (index, order, players) {mine} and {theirs}; "
                "compute both with the same arguments."
            )
        both = zip(self.coefficients, other.coefficients, strict=True)
        return Interactions(tuple(op(a, b) for a, b in both), self.index, self.n_players)

    def to_shapiq(self) -> Any:
        """The same as a ``shapiq.InteractionValues``, of which shapiq draws its plots.

        Raises:
            ShapjaxError: shapiq is not installed, or this is a batch of games.
        """
        from shapjax.core.exports import to_shapiq

        return to_shapiq(self)

    def to_shap(self) -> Any:
        """The same as a ``shap.Explanation``: values [n], or [n, n] at second order.

        As in shap's interaction values, a matrix holds the players alone on its diagonal and
        half of each pair on both sides of it; all of it sums to v(N) - v(empty).

        Raises:
            ShapjaxError: shap is not installed, this is a batch of games, or of another order.
        """
        from shapjax.core.exports import to_shap

        return to_shap(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to ``path`` as an npz archive (no pickle), whole or not at all."""
        save_npz(path, self.to_arrays())

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Interactions:
        """Read what ``save`` wrote.

        Raises:
            ShapjaxError: the file cannot be read or is not such an archive.
        """
        return Interactions.from_arrays(load_npz(path), str(path))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The whole content as named arrays, for an npz archive; bfloat16 becomes float32."""
        stats = {key: np.asarray(value).tolist() for key, value in self.stats.items()}
        header = {"index": self.index, "n_players": self.n_players, "stats": stats}
        arrays = {"header": np.array(json.dumps(header))}
        for name, parts in (("size", self.coefficients), ("standard_error", self.standard_errors)):
            for size, part in enumerate(parts or ()):
                array = np.asarray(part)
                arrays[f"{name}_{size}"] = (
                    array if array.dtype.kind == "f" else array.astype(np.float32)
                )
        return arrays

    @staticmethod
    def from_arrays(arrays: dict[str, np.ndarray], source: str) -> Interactions:
        """The inverse of ``to_arrays``; ``source`` names the file in messages."""
        try:
            header = json.loads(str(arrays["header"]))
            index, n, stats = str(header["index"]), int(header["n_players"]), header["stats"]
            sizes = range(sum(name.startswith("size_") for name in arrays))
            coefficients = tuple(arrays[f"size_{k}"] for k in sizes)
            errors = None
            if "standard_error_0" in arrays:
                errors = tuple(arrays[f"standard_error_{k}"] for k in sizes)
            fits = bool(coefficients) and all(
                part.dtype.kind == "f" and part.shape[-1] == math.comb(n, k)
                for parts in (coefficients, errors or ())
                for k, part in enumerate(parts)
            )
        # A header may be any JSON: numbers without bound, lists without bottom.
        except (KeyError, ValueError, TypeError, IndexError, OverflowError, RecursionError):
            fits = False
        if not fits:
            raise ShapjaxError(
                f"{source} is an npz archive but does not hold interactions; "
                "give a file written by Interactions.save."
            )
        return Interactions(coefficients, index, n, errors, stats)

    def __repr__(self) -> str:
        lines = [f"Interactions(index={self.index!r}, order={self.order}, n={self.n_players})"]
        if any(isinstance(c, Tracer) for c in self.coefficients):
            return lines[0]
        batch = self.coefficients[0].shape[:-1]
        if batch:
            return f"{lines[0][:-1]}, batch={batch})"
        for size, coefficients in enumerate(self.coefficients):
            values = np.asarray(coefficients)
            if not values.size:
                continue
            lines.append(f"  size {size}: {values.size} coefficients, sum {values.sum():.6g}")
            strongest = np.argsort(-np.abs(values), kind="stable")[:3]
            for rank in strongest if size else ():
                members = _unrank(int(rank), self.n_players, size)
                lines.append(f"    {members}: {values[rank]:+.6g}")
        lines += [f"  {key}: {value}" for key, value in self.stats.items()]
        return "\n".join(lines)


def lexicographic_rank(players: list[int], n: int) -> int:
    """Position of a sorted coalition among ``itertools.combinations(range(n), len(players))``."""
    rank, previous, size = 0, -1, len(players)
    for place, player in enumerate(players):
        skipped = range(previous + 1, player)
        rank += sum(math.comb(n - 1 - first, size - place - 1) for first in skipped)
        previous = player
    return rank


def _unrank(rank: int, n: int, size: int) -> tuple[int, ...]:
    """The coalition at a lexicographic position: the inverse of ``lexicographic_rank``."""
    players: list[int] = []
    player = 0
    while len(players) < size:
        starting_here = math.comb(n - 1 - player, size - len(players) - 1)
        if rank < starting_here:
            players.append(player)
        else:
            rank -= starting_here
        player += 1
    return tuple(players)


def save_npz(path: str | os.PathLike[str], arrays: dict[str, np.ndarray]) -> None:
    """Write arrays to an npz archive, whole or not at all.

    Raises:
        ShapjaxError: the place cannot be written.
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    write_whole(path, buffer.getvalue())


def load_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read an npz archive without unpickling anything.

    Raises:
        ShapjaxError: the file is missing, unreadable or not an npz archive of plain arrays, or
            unfolds to more than memory holds.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unfolded = sum(entry.file_size for entry in archive.infolist())
        require_memory(unfolded, f"the unfolded content of {path}", "give another file")
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray):  # NumPy gives what is no array as its bytes
                raise ValueError(f"{name!r} is no array")
        return arrays
    except MemoryRefused:
        raise
    except Exception as error:  # a damaged archive may fail anywhere in zipfile, zlib or NumPy
        raise ShapjaxError(f"cannot read {path} as an npz archive ({error}).") from None
