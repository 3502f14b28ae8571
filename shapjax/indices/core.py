"""Payoffs that no coalition objects to: the core, the least core and the nucleolus.

All of it runs on the host in float64, on one game at a time. Linear programs start from a few
coalitions and take in those that object most, found by one look at the whole table, until none
is left: the optimum is that over all coalitions, with small programs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from shapjax.core.checks import players_of_table, whole_number
from shapjax.core.errors import ShapjaxError
from shapjax.core.memory import require_memory

MAX_PLAYERS = 14
"""Most players of ``least_core`` and ``nucleolus``."""

_TIGHT = 1e-9  # in units of the largest worth: what counts as no excess
_DUAL = 1e-6  # the multipliers of n + 1 rows sum to one, so the largest is well above this


class CoreCheck(NamedTuple):
    """Whether a payoff is in the core, and who objects most.

    Attributes:
        in_core: the payoff shares out exactly v(N), and no coalition is worth more than it gets.
        excess: largest v(S) - x(S) over coalitions S other than the empty and the grand one, in
            units of the game; -inf with one player.
        coalition: the players of a coalition with that excess (the one of lowest rank).
    """

    in_core: bool
    excess: float
    coalition: tuple[int, ...]


class LeastCore(NamedTuple):
    """The least core.

    Attributes:
        payoff: its payoff of least sum of squares, float64 [n].
        excess: the largest excess of any coalition in it, in units of the game; the core is not
            empty exactly if it is at most 0. -inf with one player.
    """

    payoff: np.ndarray
    excess: float


def in_core(values: Any, payoff: Any, *, tolerance: float = _TIGHT) -> CoreCheck:
    r"""Whether a payoff is in the core of a game.

    The core: :math:`x(N) = v(N)` and :math:`x(S) \ge v(S)` for all S, where
    :math:`x(S) = \sum_{i \in S} x_i` and v(empty) is subtracted from every worth first.

    Args:
        values: worth of every coalition, [2**n]; bit i of the rank is player i.
        payoff: what each player gets, [n], in units of the game.
        tolerance: what to forgive, in units of the largest absolute worth.

    Returns:
        CoreCheck.

    Raises:
        ShapjaxError: wrong shape, or a number that is not finite.

    Cost: O(2**n), in float64 on the host.

    Source: Gillies 1959.
    """
    worth, n, scale = _game(values)
    x = _real(payoff, "payoff")
    if x.shape != (n,):
        raise ShapjaxError(f"payoff has shape {x.shape}, expected ({n},): one per player.")
    excess = worth - _sums(x / scale)
    shared = bool(abs(excess[-1]) <= tolerance)
    if n < 2:
        return CoreCheck(shared, -np.inf, ())
    rank = 1 + int(np.argmax(excess[1:-1]))
    coalition = tuple(np.flatnonzero(rank >> np.arange(n) & 1).tolist())
    return CoreCheck(
        shared and bool(excess[rank] <= tolerance), float(excess[rank] * scale), coalition
    )


def least_core(values: Any) -> LeastCore:
    r"""The egalitarian least core.

    Among the payoffs with :math:`x(N) = v(N)` whose largest excess :math:`v(S) - x(S)`, over
    coalitions other than the empty and the grand one, is least, the one with the least
    :math:`\sum_i x_i^2`; v(empty) is subtracted from every worth first.

    Args:
        values: worth of every coalition, [2**n], 1 <= n <= 14; bit i of the rank is player i.

    Returns:
        LeastCore, exact to about 1e-8 of the largest worth.

    Raises:
        ShapjaxError: wrong shape, too many players, a number that is not finite, or a solver that
            gave up.
        MemoryRefused: the working tables do not fit into memory.

    Cost: depends on the game: linear programs of some hundreds of rows where few coalitions
    matter, of up to half of all 2**n where many nearly do (five seconds at n = 14).

    Source: Maschler, Peleg and Shapley 1979; the egalitarian choice, Yan and Procaccia 2021.
    """
    worth, n, scale = _game(values, MAX_PLAYERS)
    if n == 1:
        return LeastCore(worth[1:] * scale, -np.inf)
    grand = len(worth) - 1
    program = _Program(worth, n, np.full(n, -np.inf))
    _, excess, tight = program.smallest_worst_excess({grand: worth[grand]})
    fixed = {grand: worth[grand]} | {rank: worth[rank] - excess for rank in tight}
    return LeastCore(program.least_squares(fixed, excess) * scale, float(excess * scale))


def nucleolus(values: Any, *, imputations: bool = True) -> np.ndarray:
    r"""The nucleolus: the payoff whose excesses, sorted from the largest, are least in order.

    One linear program for the least largest excess; the coalitions that have it in every optimum
    (a positive multiplier tells) are fixed there; then the same for the coalitions whose payoff
    is not yet determined by those fixed (a rank test), until the payoff is.

    Args:
        values: worth of every coalition, [2**n], 1 <= n <= 14; bit i of the rank is player i;
            v(empty) is subtracted from every worth first.
        imputations: whether every player must get at least v({i}); else the prenucleolus.

    Returns:
        float64 [n], sums to v(N) - v(empty); exact to about 1e-8 of the largest worth.

    Raises:
        ShapjaxError: wrong shape, too many players, a number that is not finite, no imputation
            (the players alone are worth more than all together), or a solver that gave up.
        MemoryRefused: the working tables do not fit into memory.

    Cost: at most n - 1 stages, each as ``least_core``.

    Source: Schmeidler 1969; Maschler, Peleg and Shapley 1979.
    """
    worth, n, scale = _game(values, MAX_PLAYERS)
    grand = len(worth) - 1
    alone = worth[1 << np.arange(n)]
    if imputations and alone.sum() > worth[grand] + _TIGHT:
        raise ShapjaxError(
            f"the players alone are worth {alone.sum() * scale:.6g}, more than the "
            f"{worth[grand] * scale:.6g} of all together, so there is no imputation; pass "
            "imputations=False for the prenucleolus."
        )
    program = _Program(worth, n, alone if imputations else np.full(n, -np.inf))
    fixed = {grand: worth[grand]}
    while len(fixed) < n:
        _, excess, tight = program.smallest_worst_excess(fixed)
        for rank in tight:
            # Coalitions that depend on those fixed are fixed with them.
            if np.linalg.matrix_rank(program.rows([*fixed, rank])) > len(fixed):
                fixed[rank] = worth[rank] - excess
    return np.linalg.solve(program.rows(fixed), np.array(list(fixed.values()))) * scale


class _Program:
    """The linear programs over one game, which share the coalitions taken in so far."""

    def __init__(self, worth: np.ndarray, n: int, at_least: np.ndarray) -> None:
        self.worth, self.n, self.at_least = worth, n, at_least
        singles = 1 << np.arange(n)
        self.taken = np.unique(np.concatenate([singles, len(worth) - 1 - singles]))

    def rows(self, ranks: Any) -> np.ndarray:
        """Masks of coalitions as float64 [B, n]."""
        return (np.array(list(ranks), np.int64)[:, None] >> np.arange(self.n) & 1).astype(float)

    def smallest_worst_excess(self, fixed: dict[int, float]) -> tuple[np.ndarray, float, list[int]]:
        """Minimise the largest excess of the coalitions that ``fixed`` does not determine.

        Args:
            fixed: the payoff x(S) of some coalitions, by rank.

        Returns:
            A payoff, its excess, and coalitions that have that excess in every optimum.
        """
        from scipy.optimize import linprog  # heavy, and few need it

        free = self._undetermined(fixed)
        # With each coalition its complement, or the excess would have no lower bound.
        if not free[self.taken].any():
            rank = int(np.argmax(free))
            self.taken = np.append(self.taken, [rank, len(self.worth) - 1 - rank])
        while True:
            ranks = self.taken[free[self.taken]]
            result = linprog(
                np.append(np.zeros(self.n), 1.0),
                A_ub=-np.column_stack([self.rows(ranks), np.ones(len(ranks))]),
                b_ub=-self.worth[ranks],
                A_eq=np.column_stack([self.rows(fixed), np.zeros(len(fixed))]),
                b_eq=np.array(list(fixed.values())),
                bounds=[(low, None) for low in self.at_least] + [(None, None)],
                method="highs",
                options={
                    "primal_feasibility_tolerance": 1e-10,
                    "dual_feasibility_tolerance": 1e-10,
                },
            )
            if result.status != 0:
                raise ShapjaxError(f"the linear program solver gave up ({result.message}).")
            x, excess = result.x[:-1], float(result.x[-1])
            over = np.where(free, self.worth - _sums(x) - excess, -np.inf)
            if not self._take_worst(over):
                return x, excess, ranks[-result.ineqlin.marginals > _DUAL].tolist()

    def least_squares(self, fixed: dict[int, float], excess: float) -> np.ndarray:
        """The payoff of least sum of squares with ``fixed`` payoffs and no larger excess."""
        from scipy.optimize import nnls

        particular, basis = self._solutions(fixed)
        if not basis.shape[1]:
            return particular
        free = self._undetermined(fixed)
        while True:
            ranks = self.taken[free[self.taken]]
            # The solver needs some room where the least core has no interior.
            needed = self.worth[ranks] - excess - _TIGHT - self.rows(ranks) @ particular
            slopes = self.rows(ranks) @ basis
            # The shortest y with slopes @ y >= needed, by its dual: the residual of a least-squares
            # problem in non-negative multipliers (least distance programming, Lawson and Hanson
            # 1974, chapter 23). A residual of zero would mean that there is no such y.
            system = np.vstack([slopes.T, needed])
            target = np.append(np.zeros(basis.shape[1]), 1.0)
            try:
                multipliers, _ = nnls(system, target, maxiter=100 * len(ranks))
            except RuntimeError as error:
                raise ShapjaxError(f"the least-squares solver gave up ({error}).") from None
            residual = system @ multipliers - target
            share = -residual[:-1] / residual[-1]
            x = particular + basis @ share
            if not self._take_worst(np.where(free, self.worth - _sums(x) - excess, -np.inf)):
                return x

    def _solutions(self, fixed: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
        """All payoffs with what is fixed: the shortest, and an orthonormal basis of the rest."""
        left, singular, right = np.linalg.svd(self.rows(fixed))
        rank = int((singular > 1e-9 * singular[0]).sum())
        target = left.T[:rank] @ np.array(list(fixed.values()))
        return right[:rank].T @ (target / singular[:rank]), right[rank:].T

    def _undetermined(self, fixed: dict[int, float]) -> np.ndarray:
        """Coalitions whose payoff the fixed ones leave open, Boolean [2**n]."""
        _, basis = self._solutions(fixed)
        return np.any(np.abs(_sums(basis)) > 1e-9, axis=1)

    def _take_worst(self, over: np.ndarray) -> bool:
        """Take in the coalitions that are most over; whether there were new ones."""
        count = min(2 * self.n, len(over))
        worst = np.argpartition(over, -count)[-count:]
        worst = worst[over[worst] > _TIGHT]
        new = np.setdiff1d(worst, self.taken)
        self.taken = np.union1d(self.taken, np.append(new, len(self.worth) - 1 - new))
        return bool(new.size)


def _game(values: Any, most: int | None = None) -> tuple[np.ndarray, int, float]:
    """Worth above the empty coalition's, float64 [2**n], in units of its largest; n; the unit."""
    table = _real(values, "values")
    if table.ndim != 1:
        raise ShapjaxError(f"values has shape {table.shape}, expected [2**n]: one game at a time.")
    n = whole_number(players_of_table(table.shape, "values"), "the number of players", low=1)
    if most is not None:
        if n > most:
            raise ShapjaxError(f"the game has {n} players, but this is made for at most {most}.")
        require_memory(
            8 * (2 * n + 6) << n, f"the excesses of all 2^{n} coalitions", "use fewer players"
        )
    worth = table - table[0]
    scale = float(np.abs(worth).max()) or 1.0
    return worth / scale, n, scale


def _real(x: Any, name: str) -> np.ndarray:
    try:
        numbers = np.asarray(x).astype(np.float64, casting="same_kind")
    except (TypeError, ValueError):
        raise ShapjaxError(f"{name} is not an array of real numbers (or is traced).") from None
    if not np.isfinite(numbers).all():
        raise ShapjaxError(f"{name} holds NaN or infinity.")
    return numbers


def _sums(parts: np.ndarray) -> np.ndarray:
    """Sums over all coalitions: [n, ...] to [2**n, ...]."""
    sums = np.zeros((1, *parts.shape[1:]))
    for part in parts:
        sums = np.concatenate([sums, sums + part])
    return sums
