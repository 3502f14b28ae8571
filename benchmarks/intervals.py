"""How often 95% intervals hold the exact pair terms, for every estimator with standard errors.

    python benchmarks/intervals.py [--quick] [--budgets 500 2000] [--seeds 10] [--json]

Games are those of ``games.py`` that need no files: ReLU and tanh networks, Boolean polynomials.
A cell is the mean share of the Shapley-Taylor pair terms within 1.96 standard errors, one game and
one draw of coalitions for each seed.
"""

from __future__ import annotations

import argparse

import games
import jax
import numpy as np
from tables import print_records

import shapjax as sj
from shapjax.core.errors import ShapjaxError

METHODS = ("auto", "gaussian-process", "kernel-direct", "permutation", "shap-iq", "svarm-iq")


def coverage(table: np.ndarray, exact: np.ndarray, method: str, budget: int, seed: int) -> float:
    """Share of the pair terms within their intervals; NaN where there are none."""
    bits = 1 << np.arange(games.PLAYERS)
    try:
        found = sj.estimate(
            lambda masks: table[masks @ bits],
            games.PLAYERS,
            budget=budget,
            method=method,
            key=seed,
            traceable=False,
        )
    except ShapjaxError:
        return float("nan")
    if found.standard_errors is None:
        return float("nan")
    wide = 1.96 * np.asarray(found.standard_errors[2])
    return float(np.mean(np.abs(found.of_size(2) - exact) <= wide))


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, one budget")
    parser.add_argument("--budgets", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.budgets, options.seeds = [500], 1
    jax.config.update("jax_enable_x64", True)
    records = []
    for family in (games.RELU, games.TANH, games.BOOLEAN):
        tables = family.tables(range(options.seeds))
        exact = [np.asarray(sj.interactions(table).of_size(2)) for table in tables]
        for budget in options.budgets:
            record: dict = {"family": family.name, "evaluations": budget}
            for method in METHODS:
                shares = [
                    coverage(*pair, method, budget, seed)
                    for seed, pair in enumerate(zip(tables, exact, strict=True))
                ]
                record[method] = "" if np.isnan(shares).all() else f"{np.nanmean(shares):.2f}"
            records.append(record)
    print_records(records, as_json=options.json)


if __name__ == "__main__":
    main()
