"""The worths learned of one game: kept, so that nothing is evaluated twice."""

from __future__ import annotations

import os

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.core.checks import MAX_PLAYERS, whole_number
from shapjax.core.errors import ShapjaxError
from shapjax.core.interactions import load_npz, save_npz
from shapjax.core.precision import float_array

Array = jax.Array | np.ndarray


class Evaluations:
    """Distinct coalitions of one game and their worth, in the order of their evaluation.

    Given to ``shapjax.estimate``, it serves what it holds and keeps what is new: a later estimate
    of the same game, of whatever index, method or budget, evaluates only coalitions that none
    before it has. A run that fails or is interrupted leaves in it what had been evaluated.

    Attributes:
        n_players: n; 0 before the first coalition.
    """

    def __init__(self) -> None:
        self.n_players = 0
        self._packed = np.zeros((0, 0), np.uint8)
        self._values: Array | None = None

    def __len__(self) -> int:
        return len(self._packed)

    @property
    def masks(self) -> np.ndarray:
        """The coalitions, Boolean [M, n]."""
        return np.unpackbits(self._packed, axis=1, count=self.n_players).astype(bool)

    @property
    def values(self) -> Array:
        """Their worth, [M]: a JAX array from a JAX function, a NumPy array from any other."""
        return np.zeros(0, np.float32) if self._values is None else self._values

    def locate(self, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where each coalition is, or will be once the new ones are added in their order.

        Args:
            masks: Boolean [M, n].

        Returns:
            Positions, int [M]; and the rows of masks that are new, each once, int [new].

        Raises:
            ShapjaxError: the coalitions held are those of another number of players.
        """
        if self.n_players not in (0, masks.shape[1]):
            raise ShapjaxError(
                f"the evaluations are of a game of {self.n_players} players, not of "
                f"{masks.shape[1]}; give those of the same game, or none."
            )
        packed = np.packbits(masks, axis=1)
        old = len(self)
        known = np.concatenate([self._packed, packed]) if old else packed
        keys = np.ascontiguousarray(known).view(np.dtype((np.void, known.shape[1]))).ravel()
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        new = np.sort(first[first >= old])
        place = np.where(first < old, first, old + np.searchsorted(new, first))
        return place[inverse[old:]], new - old

    def add(self, masks: np.ndarray, values: Array) -> None:
        """Keep new coalitions.

        Args:
            masks: Boolean [M, n], distinct and not held.
            values: their worth, [M].
        """
        packed = np.packbits(masks, axis=1)
        if self._values is None:
            self.n_players, self._packed, self._values = masks.shape[1], packed, values
            return
        join = jnp.concatenate if isinstance(self._values, jax.Array) else np.concatenate
        self._packed = np.concatenate([self._packed, packed])
        self._values = join([self._values, values])  # pyright: ignore[reportArgumentType]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to ``path`` as an npz archive (no pickle), whole or not at all."""
        values = np.asarray(self.values)
        if values.dtype.kind != "f":  # bfloat16 and its like are no types of an npz archive
            values = values.astype(np.float32)
        traced = np.array(isinstance(self._values, jax.Array))
        n = np.array(self.n_players)
        save_npz(path, {"n_players": n, "packed": self._packed, "values": values, "traced": traced})

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Evaluations:
        """Read what ``save`` wrote.

        Raises:
            ShapjaxError: the file cannot be read or does not hold evaluations, or its float64
                values of a JAX function need JAX's 64-bit mode.
        """
        arrays = load_npz(path)
        try:
            n = whole_number(arrays["n_players"].item(), "n_players", low=0, high=MAX_PLAYERS)
            packed, values = arrays["packed"], arrays["values"]
            traced = arrays["traced"].item() is True
            width = -(-n // 8)
            fits = packed.dtype == np.uint8 and packed.shape == (len(values), width)
            fits = fits and values.ndim == 1 and values.dtype.kind == "f"
            fits = fits and bool(np.isfinite(values).all())
        except (KeyError, ValueError, TypeError, ShapjaxError):
            fits = False
        if not fits:
            raise ShapjaxError(
                f"{path} is an npz archive but does not hold evaluations; "
                "give a file written by Evaluations.save."
            )
        found = Evaluations()
        if len(values):
            found.n_players, found._packed = n, packed
            found._values = (
                float_array(values, f"{path}, values of a JAX function,") if traced else values
            )
        return found

    def __repr__(self) -> str:
        return f"Evaluations({len(self)} coalitions of {self.n_players} players)"
