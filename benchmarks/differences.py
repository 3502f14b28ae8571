"""Methods of finished runs against one another, by differences within pairs.

    python benchmarks/differences.py [DIR ...] [--against sam gram-sam] [--json]

``DIR`` are folders that ``shapjax evaluate`` wrote; by default those whose tables the README shows,
kept in ``docs/evaluation``. A number is what a method has more than the one it is held against,
the mean over the pairs that both explained with its standard error.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tables import markdown, print_records

from shapjax.core.checks import one_of
from shapjax.core.errors import ShapjaxError
from shapjax.evaluate.differences import Difference, differences
from shapjax.evaluate.plan import MANIFEST, read_plan, require_one_table
from shapjax.evaluate.rows import Row
from shapjax.evaluate.store import each_once, read
from shapjax.evaluate.tables import METRICS

KEPT = Path(__file__).parents[1] / "docs" / "evaluation"
"""Runs whose tables the README shows."""

SHOWN = (("faithfulness", 1), ("faithfulness", 2), ("mean_iou", 2))


def rows_of(folders: list[Path]) -> list[Row]:
    """The rows of runs that may stand in one table, each once."""
    require_one_table([(folder, read_plan(folder)) for folder in folders])
    return each_once(row for folder in folders for row in read(folder))


def found_in(rows: list[Row], against: list[str]) -> dict[tuple[str, int, str], list[Difference]]:
    """What is between methods, by metric, order and the one that the others are held against."""
    there = {(row["method"], row["order"]) for row in rows if row["error"] is None}
    for method in against:
        one_of(method, sorted({name for name, _ in there}), "against")
    return {
        (metric, order, method): differences(rows, method, metric, order)
        for metric, order in SHOWN
        for method in against
        if (method, order) in there
    }


def tables(between: dict[tuple[str, int, str], list[Difference]]) -> str:
    """A table for each metric and method: a line for each network, a column for each method."""
    parts = []
    for (metric, order, method), found in between.items():
        lines = {one.network: {"network": one.network} for one in found}
        for one in found:
            error = "" if one.standard_error is None else f" ± {one.standard_error:.3f}"
            lines[one.network][one.method] = f"{one.mean:+.3f}{error}"
        title = METRICS[metric, order].split(" (")[0]
        parts.append(f"**{title}, less that of {method}**\n\n{markdown(list(lines.values()))}")
    return "\n\n".join(parts)


def main() -> None:
    """Read the runs and print what is between their methods."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, metavar="DIR")
    parser.add_argument("--against", nargs="+", default=["sam", "gram-sam"], metavar="METHOD")
    parser.add_argument("--json", action="store_true", help="print records instead of tables")
    options = parser.parse_args()
    folders = options.folders or sorted(place.parent for place in KEPT.glob(f"*/{MANIFEST}"))
    try:
        found = found_in(rows_of(folders), options.against)
    except ShapjaxError as error:
        parser.error(str(error))
    if options.json:
        records = [
            {"metric": metric, "order": order, "against": method, **one._asdict()}
            for (metric, order, method), some in found.items()
            for one in some
        ]
        print_records(records, as_json=True)
    else:
        print(tables(found))


if __name__ == "__main__":
    main()
