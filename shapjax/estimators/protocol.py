"""What an estimator is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from shapjax.core.errors import ShapjaxError
from shapjax.indices.cardinal import CardinalIndex
from shapjax.indices.rows import INDICES

Array = jax.Array | np.ndarray


class Problem(NamedTuple):
    """What is to be estimated.

    Attributes:
        n: number of players.
        index: the index, its p included.
        order: size of the largest coalitions.
        key: the PRNG key; the only source of chance an estimator uses.
    """

    n: int
    index: CardinalIndex
    order: int
    key: jax.Array

    def require_index(self, method: str, *names: str) -> None:
        """Refuse an index that is not among those named, whatever its p.

        Raises:
            ShapjaxError: it is another one.
        """
        same = [INDICES[n] if INDICES[n].p is None else INDICES[n].with_p(self._p) for n in names]
        if self.index not in same:
            raise ShapjaxError(
                f"index is {self.index.label}, but {method} estimates only "
                f"{' and '.join(names)}; svarm-iq estimates every index, and "
                "shapjax.interactions computes it exactly."
            )

    @property
    def _p(self) -> float:
        return 0.5 if self.index.p is None else self.index.p


class Answer(NamedTuple):
    """What an estimator found.

    Attributes:
        coefficients: per size s = 0..order, [C(n, s)], the coalitions in lexicographic order.
        standard_errors: likewise, or None where they are not known.
        stats: what the estimator reports about itself.
    """

    coefficients: tuple[Array, ...]
    standard_errors: tuple[Array, ...] | None
    stats: dict[str, Any]


Estimator = Callable[..., Answer]
"""A function of a problem and an oracle, its options being keyword-only arguments.

It asks the oracle for the worth of coalitions (``oracle.left`` says of how many it still may),
draws chance from ``problem.key`` alone, and refuses what it cannot estimate before it asks for
anything. Coefficients may be float64 whatever the values are: ``estimate`` returns them in the
kind and precision of the values (at least float32).
"""
