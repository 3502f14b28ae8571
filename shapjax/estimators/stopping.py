"""Budgets that end when the standard errors are small enough."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from shapjax.core.checks import whole_number
from shapjax.core.errors import ShapjaxError
from shapjax.core.interactions import Interactions
from shapjax.estimators.evaluations import Evaluations
from shapjax.estimators.protocol import Problem

GROWTH = 1.5
"""Factor from a budget to the next: what is evaluated in vain stays below a half."""

MOST = 100_000
"""Most evaluations unless told otherwise."""

Run = Callable[[int, Evaluations | None], Interactions]
"""(budget, evaluations held) to an estimate, which adds what is new to those held."""


def until_tolerance(
    run: Run,
    problem: Problem,
    method: str,
    tolerance: float | None,
    max_budget: int | None,
    evaluations: Evaluations | None,
) -> Interactions:
    """Estimate with growing budgets until no standard error exceeds the tolerance.

    Budgets start where there are twice as many evaluations as coefficients. Whether to go on is
    decided by the standard errors, never by the coefficients; as errors are estimates
    themselves, one that is too small by chance ends the search a little too early.

    Raises:
        ShapjaxError: the tolerance is not a positive number, the most evaluations are too few for
            the method, or the method gives no standard errors.
    """
    number = isinstance(tolerance, int | float | np.floating) and not isinstance(tolerance, bool)
    target = float(tolerance) if number and tolerance is not None else math.nan
    if not 0 < target < math.inf:
        raise ShapjaxError(
            f'tolerance is {tolerance!r}, but budget="auto" needs a positive number, the largest '
            "standard error that may be left, in units of the game."
        )
    n, everything = problem.n, 1 << problem.n
    most = MOST if max_budget is None else whole_number(max_budget, "max_budget", low=2)
    most = min(most, everything)
    unknowns = sum(math.comb(n, size) for size in range(problem.order + 1))
    budget = min(2 * unknowns + 2, most)
    known = Evaluations() if evaluations is None else evaluations
    before = len(known)
    while True:
        found = run(budget, known)
        errors = found.standard_errors
        if errors is None and found.stats.get("underdetermined"):
            # Coefficients are open still, so that they may be anything.
            errors = (np.inf, np.inf)
        if errors is None:
            raise ShapjaxError(
                f'{method} gives no standard errors, which budget="auto" needs; choose another '
                "method, or a budget."
            )
        largest = max(float(np.max(part, initial=0)) for part in errors[1:])
        if largest <= target or budget >= most:
            break
        budget = min(math.ceil(GROWTH * budget), most)
    stats = {
        **found.stats,
        "new_evaluations": len(known) - before,
        "converged": largest <= target,
        "largest_error": largest,
    }
    return dataclasses.replace(found, stats=stats)
