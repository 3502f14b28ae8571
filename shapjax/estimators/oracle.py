"""How an estimator learns what coalitions are worth: counted, and never beyond the budget."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.core.errors import ShapjaxError
from shapjax.core.evaluate import DEFAULT_CHUNK, Progress, ValueFunction, evaluate

Array = jax.Array | np.ndarray


class Oracle:
    """The worth of coalitions, within a budget.

    A coalition asked for twice is evaluated once and costs one, unless the caller declines the
    cache. The budget counts evaluations.

    Attributes:
        budget: the most evaluations there may be.
        spent: evaluations so far.
        dtype: of the values, float32 before the first one.
        traced: whether the values are JAX arrays; False before the first one.
    """

    def __init__(
        self,
        value_fn: ValueFunction,
        n_players: int,
        budget: int,
        *,
        chunk_size: int = DEFAULT_CHUNK,
        traceable: bool | None = None,
        progress: Progress | None = None,
    ) -> None:
        """See ``shapjax.evaluate`` for the arguments it shares with this."""
        self.budget, self.spent = budget, 0
        self.dtype, self.traced = np.dtype(np.float32), False
        self._value_fn, self._n = value_fn, n_players
        self._chunk_size, self._traceable, self._progress = chunk_size, traceable, progress
        self._keys: np.ndarray | None = None
        self._values: Any = None

    @property
    def left(self) -> int:
        """Evaluations that the budget still allows."""
        return self.budget - self.spent

    def __call__(self, masks: Any, *, cached: bool = True) -> Array:
        """Worth of each coalition, Boolean [M, n] to [M].

        Args:
            masks: the coalitions.
            cached: whether what was asked for before is remembered; without it every row is
                evaluated, and none is remembered.

        Returns:
            A JAX array from a JAX function, a NumPy array from any other.

        Raises:
            ShapjaxError: the budget does not allow it (then nothing was evaluated), or the masks
                have the wrong shape.
            ValueFunctionError: the value function misbehaved.
        """
        masks = np.asarray(masks)
        if masks.ndim != 2 or masks.dtype != bool or masks.shape[1] != self._n:
            raise ShapjaxError(
                f"masks have shape {masks.shape} and dtype {masks.dtype}, expected Boolean "
                f"[M, {self._n}]."
            )
        if not cached:
            return self._evaluate(masks)
        keys = _keys(masks)
        known = keys if self._keys is None else np.concatenate([self._keys, keys])
        old = len(known) - len(keys)
        _, first, inverse = np.unique(known, return_index=True, return_inverse=True)
        new = np.sort(first[first >= old])
        if new.size:
            values = self._evaluate(masks[new - old])
            join = jnp.concatenate if self.traced else np.concatenate
            self._values = values if self._keys is None else join([self._values, values])
            self._keys = known[np.concatenate([np.arange(old), new])]
        place = np.where(first < old, first, old + np.searchsorted(new, first))
        return self._values[place[inverse[old:]]]

    def _evaluate(self, masks: np.ndarray) -> Array:
        if len(masks) > self.left:
            raise ShapjaxError(
                f"the estimator asked for {len(masks)} evaluations where {self.left} of a budget "
                f"of {self.budget} are left; give a larger budget."
            )
        total, before, report = min(self.budget, 1 << self._n), self.spent, self._progress
        values = evaluate(
            self._value_fn,
            masks,
            chunk_size=self._chunk_size,
            traceable=self._traceable,
            progress=None if report is None else lambda done, _: report(before + done, total),
        )
        self.spent += len(masks)
        self.dtype, self.traced = values.dtype, isinstance(values, jax.Array)
        self._remember_kind()
        return values

    def _remember_kind(self) -> None:
        """Later calls need not find out again, nor compile again."""
        self._traceable = self.traced
        compiled = isinstance(self._value_fn, jax.tree_util.Partial | jax.stages.Wrapped)
        if self.traced and not compiled:
            # A new function: what the user's closes over may have changed since an earlier call.
            plain = self._value_fn
            self._value_fn = jax.jit(lambda masks: plain(masks))


def _keys(masks: np.ndarray) -> np.ndarray:
    """A sortable key for each coalition: its bits, packed, [M]."""
    packed = np.packbits(masks, axis=1)
    return np.ascontiguousarray(packed).view(np.dtype((np.void, packed.shape[1]))).ravel()
