"""What the rows of a convergence run say: medians with quantiles, evaluations needed, tables."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

Row = dict[str, Any]

BASELINE = "permutation"
LEVELS = (0.1, 0.01)
"""Errors (MSE over the variance of the exact values) whose price is printed."""

QUANTILES = (0.1, 0.5, 0.9)


def current(rows: Sequence[Row]) -> list[Row]:
    """The estimates made, of the games of the latest run of each family."""
    latest = {row["family"]: row["identity"] for row in rows}
    return [
        row for row in rows if row["identity"] == latest[row["family"]] and "refused" not in row
    ]


def summarise(rows: Sequence[Row]) -> list[Row]:
    """One record for each family, method and budget: medians, and 10% and 90% quantiles.

    ``error`` is the MSE over the variance of the exact values, ``seconds`` the wall time of one
    call of ``shapjax.estimate`` (or of the peer) after compilation, ``sweep_seconds`` what an
    estimate takes of a compiled sweep.
    """
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in current(rows):
        groups[row["family"], row["method"], row["index"], row["order"], row["budget"]].append(row)
    records = []
    for (family, method, index, order, budget), group in groups.items():
        record = {
            "family": family,
            "method": method,
            "index": index,
            "order": order,
            "budget": budget,
            "seeds": len(group),
            "evaluations": float(np.median([row["evaluations"] for row in group])),
        }
        for name, values in (
            ("mse", [row["mse"] for row in group]),
            ("error", [row["mse"] / row["variance"] for row in group]),
            ("precision", [row["precision"] for row in group]),
            ("seconds", [row["seconds"] for row in group]),
            ("sweep_seconds", [row.get("sweep_seconds") for row in group]),
        ):
            known = [value for value in values if value is not None]
            if known:
                low, middle, high = np.quantile(known, QUANTILES)
                record |= {name: middle, f"{name}_low": low, f"{name}_high": high}
        records.append(record)
    return sorted(records, key=lambda r: (r["family"], r["method"], r["budget"]))


class Price(NamedTuple):
    """Evaluations at which an error is reached.

    Attributes:
        low: it takes at least so many.
        high: and at most so many, infinity where the largest budget does not suffice.
    """

    low: float
    high: float


def price(evaluations: Sequence[float], errors: Sequence[float], level: float) -> Price:
    """Evaluations until the error first falls to ``level``, interpolated on logarithmic axes.

    Args:
        evaluations: increasing.
        errors: the error at each.
        level: the error wanted.

    Returns:
        Both ends agree where the level is crossed between two of the points.
    """
    for place, error in enumerate(errors):
        if error > level:
            continue
        if place == 0:
            return Price(0.0, float(evaluations[0]))
        # An error of zero has no logarithm; any tiny one is beyond every level.
        logs = np.log([max(errors[place], 1e-300), errors[place - 1]])
        found = np.interp(
            math.log(level), logs, np.log([evaluations[place], evaluations[place - 1]])
        )
        return Price(math.exp(found), math.exp(found))
    return Price(float(evaluations[-1]), math.inf)


def prices(records: Sequence[Row], level: float) -> dict[tuple[str, str], Price]:
    """The price of a level for every (family, method)."""
    curves: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for record in records:
        curves[record["family"], record["method"]].append(record)
    found = {}
    for place, curve in curves.items():
        curve.sort(key=lambda r: r["evaluations"])
        found[place] = price([r["evaluations"] for r in curve], [r["error"] for r in curve], level)
    return found


def ratio(baseline: Price, own: Price) -> str:
    """How many times fewer evaluations, in words where an end is open."""
    low = baseline.low / own.high if own.high else math.inf
    high = baseline.high / own.low if own.low else math.inf
    if low == high:
        return _round(low)
    if low > 0 and math.isinf(high):
        return f"> {_round(low)}"
    return f"< {_round(high)}" if low == 0 and math.isfinite(high) and high > 0 else ""


def _round(value: float) -> str:
    return f"{value:.2g}" if value < 99.5 else f"{value:,.0f}"


def price_table(records: Sequence[Row], families: Sequence[str]) -> list[Row]:
    """Evaluations needed, permutation over each method, one column for each family.

    A cell has the ratio at each of ``LEVELS``; the baseline's own row has its evaluations.
    """
    by_level = [prices(records, level) for level in LEVELS]
    table = []
    for method in methods_of(records):
        row: Row = {"method": method}
        for family in families:
            cells = []
            for found in by_level:
                own, base = found.get((family, method)), found.get((family, BASELINE))
                if own is None or base is None:
                    continue
                cells.append(_evaluations(own) if method == BASELINE else ratio(base, own) or "?")
            row[family] = " / ".join(cells)
        table.append(row)
    return table


def _evaluations(found: Price) -> str:
    if math.isinf(found.high):
        return f"> {found.low:,.0f}"
    return f"{'' if found.low else '< '}{found.high:,.0f}"


def methods_of(records: Sequence[Row]) -> list[str]:
    """Methods in the order of tables and legends: the baseline first, peers last."""
    names = dict.fromkeys(record["method"] for record in records)
    return sorted(names, key=lambda name: (name != BASELINE, ":" in name, name))


def detail_table(
    records: Sequence[Row], families: Sequence[str], at: dict[str, int], timed: str
) -> list[Row]:
    """Error and precision at one budget of each family, and wall time on one of them.

    Args:
        records: from ``summarise``.
        families: columns.
        at: the budget of each family.
        timed: family whose wall time at its budget is given.
    """
    found = {(r["family"], r["method"], r["budget"]): r for r in records}
    table = []
    for method in methods_of(records):
        row: Row = {"method": method}
        for family in families:
            record = found.get((family, method, at[family]))
            row[f"{family}, {at[family]:,}"] = (
                f"{record['error']:.2g} / {record['precision']:.0%}" if record else ""
            )
        record = found.get((timed, method, at[timed]))
        row["ms"] = f"{1e3 * record['seconds']:.3g}" if record and "seconds" in record else ""
        table.append(row)
    return table
