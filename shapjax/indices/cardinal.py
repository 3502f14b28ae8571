"""What a cardinal index is: weights that depend on the sizes of coalitions alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from fractions import Fraction
from numbers import Rational, Real
from typing import Any

import numpy as np

from shapjax.core.checks import one_of
from shapjax.core.errors import ShapjaxError

Weight = Callable[..., Any]
"""weight(s, t, k, n), and a fifth argument p where the index has one; a number. s is the size of
the coalition that receives, t the size that the form of the index speaks of, k the order."""

FORMS = ("dividends", "derivatives", "marginals")


@dataclasses.dataclass(frozen=True)
class CardinalIndex:
    r"""An index that weighs coalitions by their sizes: one row of weights.

    The form says what is weighed, :math:`s = |S|` and :math:`t = |T|`:

    - ``"dividends"``: :math:`I(S) = \sum_{T \supseteq S} w(s, t)\, d(T)`, d(T) the Harsanyi
      dividends. Every interaction index that is linear, symmetric and blind to dummies has it.
    - ``"derivatives"``: :math:`I(S) = \sum_{T \subseteq N \setminus S} w(s, t)\, \Delta_S v(T)`
      with :math:`\Delta_S v(T) = \sum_{L \subseteq S} (-1)^{|S|-|L|} v(T \cup L)`: the
      cardinal-probabilistic interaction indices, and at s = 1 the probabilistic values.
    - ``"marginals"``: :math:`I(S) = \sum_{T \subseteq N \setminus S} w(s, t)\,
      (v(T \cup S) - v(T))`: the generalised values; the empty coalition gets 0.

    The last two are called probabilistic where :math:`\sum_t \binom{n-s}{t} w(s, t) = 1`, which
    is not required.

    Attributes:
        name: what ``Interactions.index`` will say.
        weight: w as a function (s, t, k, n) to a number, k being the order asked for; or as an
            array w[s, t], float [k+1, n+1], for orders up to k and games of n players, whose
            entries at impossible sizes are ignored. Static: equal arrays compile once, a function
            once for as long as it is the same object.
        meaning: one line for the reader.
        form: ``"dividends"``, ``"derivatives"`` or ``"marginals"``.
        p: probability given to ``weight`` as its fifth argument; None where it takes four.
        highest_order: the highest order that exists; None for n.

    Raises:
        ShapjaxError: an unknown form, or weights that are neither a function nor such an array.

    Source: Fujimoto, Kojadinovic & Marichal 2006 (interaction indices); Marichal, Kojadinovic &
    Fujimoto 2007 (generalised values); Weber 1988 (values).
    """

    name: str
    weight: Weight | Sequence[Sequence[float]] | np.ndarray
    meaning: str = dataclasses.field(default="", compare=False)
    form: str = "dividends"
    p: float | None = None
    highest_order: int | None = None

    def __post_init__(self) -> None:
        one_of(self.form, FORMS, "form")
        if callable(self.weight):
            return
        try:
            rows = np.array(self.weight, np.float64)
        except (TypeError, ValueError):
            rows = np.zeros(0)
        if rows.ndim != 2 or len(rows) < 2:
            raise ShapjaxError(
                f"weight of {self.name} is neither a function (s, t, k, n) nor an array "
                "[k+1, n+1] of numbers with k >= 1."
            )
        # Tuples compare and hash by value, so that equal weights are compiled once.
        object.__setattr__(self, "weight", tuple(tuple(rows[s].tolist()) for s in range(len(rows))))
        object.__setattr__(self, "highest_order", len(rows) - 1)

    @property
    def label(self) -> str:
        """The name with its parameter, such as ``"BV(p=0.3)"``; one half goes unsaid."""
        return self.name if self.p in (None, 0.5) else f"{self.name}(p={self.p})"

    def with_p(self, p: Any) -> CardinalIndex:
        """The same index for another probability.

        Raises:
            ShapjaxError: the index has no such parameter, or it is not a number in [0, 1].
        """
        if self.p is None:
            raise ShapjaxError(f"p is given, but {self.name} has no parameter p; leave it out.")
        probability = float(p) if isinstance(p, Real) else -1.0
        if not 0 <= probability <= 1:
            raise ShapjaxError(f"p is {p!r}, expected a (static) number between 0 and 1.")
        return dataclasses.replace(self, p=probability)

    def at(self, s: int, t: int, order: int, n: int) -> Fraction:
        """The weight w(s, t) of an index of this order in a game of n players, exactly as given.

        Raises:
            ShapjaxError: it is not a finite number, or the array is for another n.
        """
        if callable(self.weight):
            value = self.weight(s, t, order, n, *(() if self.p is None else (self.p,)))
        else:
            if len(self.weight[s]) != n + 1:
                raise ShapjaxError(
                    f"weight of {self.name} has {len(self.weight[s])} columns, but sizes run from "
                    f"0 to {n} in a game of {n} players; give {n + 1}."
                )
            value = self.weight[s][t]
        try:
            return Fraction(value if isinstance(value, Rational) else float(value))
        except (TypeError, ValueError, OverflowError):
            raise ShapjaxError(
                f"weight({s}, {t}) of {self.name} is {value!r}, expected a finite number."
            ) from None
