"""How an estimator learns what coalitions are worth: counted, and never beyond the budget."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from shapjax.core.checks import whole_number
from shapjax.core.errors import ShapjaxError
from shapjax.core.worths import DEFAULT_CHUNK, Progress, ValueFunction, is_compiled, worths
from shapjax.estimators.evaluations import Array, Evaluations

SEGMENT = 16
"""Chunks after which what was evaluated is put away."""


class Oracle:
    """The worth of coalitions, within a budget.

    No coalition is evaluated twice, be it asked for again or held by earlier evaluations. What
    earlier evaluations hold costs as much as what they do not: an estimate depends on the key and
    the budget alone, not on what happened to be known.

    Attributes:
        budget: the most that may be spent.
        spent: coalitions asked for so far.
        evaluated: how many were evaluated.
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
        evaluations: Evaluations | None = None,
    ) -> None:
        """See ``shapjax.core.worths`` for the arguments it shares with this.

        ``evaluations`` are those of earlier runs, to which the new ones are added.
        """
        self.budget, self.spent, self.evaluated = budget, 0, 0
        self.dtype, self.traced = np.dtype(np.float32), False
        self._value_fn, self._n = value_fn, n_players
        self._chunk_size = whole_number(chunk_size, "chunk_size", low=1)
        self._traceable, self._progress = traceable, progress
        self._known = Evaluations() if evaluations is None else evaluations
        self._asked = np.zeros(len(self._known), bool)
        if len(self._known):
            self._remember_kind(self._known.values)

    @property
    def left(self) -> int:
        """What the budget still allows."""
        return self.budget - self.spent

    def __call__(self, masks: Any, *, cached: bool = True) -> Array:
        """Worth of each coalition, Boolean [M, n] to [M].

        Args:
            masks: the coalitions.
            cached: whether a coalition that this run asks for again is free; if not, every row
                costs one.

        Returns:
            A JAX array from a JAX function, a NumPy array from any other.

        Raises:
            ShapjaxError: the budget does not allow it (then nothing was evaluated), or the masks
                have the wrong shape, or the earlier evaluations another number of players.
            ValueFunctionError: the value function misbehaved.
        """
        masks = np.asarray(masks)
        if masks.ndim != 2 or masks.dtype != bool or masks.shape[1] != self._n:
            raise ShapjaxError(
                f"masks have shape {masks.shape} and dtype {masks.dtype}, expected Boolean "
                f"[M, {self._n}]."
            )
        places, new = self._known.locate(masks)
        asked = np.concatenate([self._asked, np.zeros(len(new), bool)])
        cost = len(np.unique(places[~asked[places]])) if cached else len(masks)
        if cost > self.left:
            raise ShapjaxError(
                f"the estimator asked for {cost} evaluations where {self.left} of a budget "
                f"of {self.budget} are left; give a larger budget."
            )
        # A segment at a time, so that what was evaluated before a failure is kept.
        for start in range(0, len(new), SEGMENT * self._chunk_size):
            self._learn(masks[new[start : start + SEGMENT * self._chunk_size]], start)
        self.spent += cost
        if self._progress is not None and cost > len(new):
            self._progress(self.spent, min(self.budget, 1 << self._n))
        asked[places] = True
        self._asked = asked
        return self._known.values[places]

    def _learn(self, masks: np.ndarray, start: int) -> None:
        total, before, report = min(self.budget, 1 << self._n), self.spent + start, self._progress
        values = worths(
            self._value_fn,
            masks,
            chunk_size=self._chunk_size,
            traceable=self._traceable,
            progress=None if report is None else lambda done, _: report(before + done, total),
        )
        self._known.add(masks, values)
        self._asked = np.concatenate([self._asked, np.zeros(len(masks), bool)])
        self.evaluated += len(masks)
        self._remember_kind(values)

    def _remember_kind(self, values: Array) -> None:
        """Later calls need not find out again, nor compile again."""
        self.dtype, self.traced = np.dtype(values.dtype), isinstance(values, jax.Array)
        self._traceable = self.traced
        if self.traced and not is_compiled(self._value_fn):
            # A new function: what the user's closes over may have changed since an earlier call.
            plain = self._value_fn
            self._value_fn = jax.jit(lambda masks: plain(masks))
