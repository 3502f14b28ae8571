"""What the rows of a convergence run say: medians with quantiles, evaluations needed, tables."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

Row = dict[str, Any]

BASELINE = "permutation"
MARKS = (1 / 3, 5 / 6)
"""Where on the baseline's curve the errors lie whose price is printed, from first to last budget.

Families differ by orders of magnitude in what is easy, so no fixed error would suit them all.
"""

QUANTILES = (0.1, 0.5, 0.9)

DEFAULT = "auto"

PLAIN = (
    "kernel-weighting",
    "kernel-direct",
    "kernel-border",
    "permutation",
    "shap-iq",
    "svarm-iq",
    "kernel-shap",
    "leverage-shap",
)
"""Estimators of the papers that fit no surrogate game."""


def current(rows: Sequence[Row]) -> list[Row]:
    """The estimates made, of the games of the latest run of each family."""
    latest = {row["family"]: row["identity"] for row in rows}
    return [
        row for row in rows if row["identity"] == latest[row["family"]] and "refused" not in row
    ]


def summarise(rows: Sequence[Row]) -> list[Row]:
    """One record for each family, method and budget: medians, and 10% and 90% quantiles.

    ``error`` is the MSE over the variance of the exact values (``error_mean`` its mean),
    ``seconds`` the wall time of one
    call of ``shapjax.estimate`` (or of the peer) after compilation, ``cpu_seconds`` that of all
    its threads, ``sweep_seconds`` what an estimate takes of a compiled sweep.
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
            "error_mean": float(np.mean([row["mse"] / row["variance"] for row in group])),
        }
        for name, values in (
            ("mse", [row["mse"] for row in group]),
            ("error", [row["mse"] / row["variance"] for row in group]),
            ("precision", [row["precision"] for row in group]),
            *(
                (name, [row[name] for row in group if name in row])
                for name in ("seconds", "cpu_seconds", "sweep_seconds")
            ),
        ):
            if values:
                low, middle, high = np.quantile(values, QUANTILES)
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


def curve_of(records: Sequence[Row], family: str, method: str) -> list[Row]:
    """The records of one method on one family, by evaluations."""
    found = [r for r in records if (r["family"], r["method"]) == (family, method)]
    return sorted(found, key=lambda r: r["evaluations"])


def marks(records: Sequence[Row], family: str, baseline: str = BASELINE) -> list[Row]:
    """Points of the baseline's curve whose errors are priced; none where it has no curve."""
    curve = curve_of(records, family, baseline)
    return [curve[round(mark * (len(curve) - 1))] for mark in MARKS] if curve else []


def times_fewer(records: Sequence[Row], family: str, method: str, mark: Row) -> str:
    """Evaluations of the baseline at a mark over those the method needs for the same error."""
    curve = curve_of(records, family, method)
    if not curve:
        return ""
    own = price([r["evaluations"] for r in curve], [r["error"] for r in curve], mark["error"])
    return ratio(mark["evaluations"], own)


def ratio(baseline: float, own: Price) -> str:
    """How many times fewer evaluations, in words where it is only known to be more or less."""
    if own.low == own.high:
        return _round(baseline / own.low)
    if math.isinf(own.high):
        return f"< {_round(baseline / own.low)}"
    return f"> {_round(baseline / own.high)}"


def _round(value: float) -> str:
    return f"{value:.2g}" if value < 99.5 else f"{value:,.0f}"


def price_table(
    records: Sequence[Row],
    families: Sequence[str],
    methods: Sequence[str],
    baseline: str = BASELINE,
) -> list[Row]:
    """Evaluations needed, those of the baseline over each method's, one column for each family.

    The baseline's own row says how many evaluations bring it to which error; a cell has the ratio
    for each of those errors.
    """
    table = []
    for method in methods:
        row: Row = {"method": method}
        for family in families:
            found = marks(records, family, baseline)
            if method == baseline:
                cells = [f"{m['evaluations']:,.0f} ({m['error']:.2g})" for m in found]
            else:
                cells = [times_fewer(records, family, method, mark) for mark in found]
            row[family] = " / ".join(cells) if any(cells) else ""
        table.append(row)
    return table


def methods_of(records: Sequence[Row]) -> list[str]:
    """Methods in the order of tables and legends: the baseline first, peers last."""
    names = dict.fromkeys(record["method"] for record in records)
    return sorted(names, key=lambda name: (name != BASELINE, ":" in name, name))


def default_table(records: Sequence[Row], families: Sequence[str]) -> list[Row]:
    """Mean error of ``auto`` by family and budget, and how many times that of others it is.

    The others: the best of this package's estimators that use no surrogate, the best of shapiq's
    of that kind, and the better of its two forms of ProxySHAP. The constant answer has 1.
    """
    errors: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
    for record in records:
        errors[record["family"], record["budget"]][record["method"]] = record["error_mean"]
    table = []
    for (family, budget), found in sorted(errors.items()):
        if family not in families or DEFAULT not in found:
            continue
        peers = {name: error for name, error in found.items() if ":" in name}
        proxies = {name: error for name, error in peers.items() if "ProxySHAP" in name}
        groups = {
            "best kernel or sampling": {
                name: error for name, error in found.items() if name in PLAIN
            },
            "best of shapiq": {n: e for n, e in peers.items() if n not in proxies},
            "shapiq's ProxySHAP": proxies,
        }
        row: Row = {
            "family": family,
            "evaluations": f"{budget:,}",
            DEFAULT: f"{found[DEFAULT]:.2g}",
        }
        for title, group in groups.items():
            row[title] = _beside(group, found[DEFAULT])
        table.append(row)
    return table


def _beside(group: dict[str, float], own: float) -> str:
    """The least error of a group, whose it is, and how many times ours that is."""
    if not group:
        return ""
    name, error = min(group.items(), key=lambda item: item[1])
    times = f"{_round(error / own)}x" if own > 0 else "-"
    return f"{error:.2g} ({name.removeprefix('shapiq: ')}), {times}"


def sweep_table(records: Sequence[Row], family: str) -> list[Row]:
    """Milliseconds of an estimate alone and in a compiled sweep, by every second budget."""
    swept = [
        r for r in records if r["family"] == family and r.keys() >= {"seconds", "sweep_seconds"}
    ]
    found = {(r["method"], r["budget"]): r for r in swept}
    budgets = sorted({r["budget"] for r in swept}, reverse=True)[::2][::-1]
    table = []
    for method in methods_of(swept):
        row: Row = {"method": method}
        for budget in budgets:
            record = found.get((method, budget))
            times = [record[name] for name in ("seconds", "sweep_seconds")] if record else []
            row[f"{budget:,}"] = " / ".join(_milliseconds(time) for time in times)
        table.append(row)
    return table


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
        taken = [record[name] for name in ("seconds", "cpu_seconds") if record and name in record]
        row["ms"] = " / ".join(_milliseconds(seconds) for seconds in taken)
        table.append(row)
    return table


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.2g}" if seconds < 0.0995 else f"{1e3 * seconds:,.0f}"
