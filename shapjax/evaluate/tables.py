"""The paper's tables from rows of results: means, standard errors, and what was published.

Of seconds the median is shown in place of the mean: one pair that waited minutes for other work on
the machine would make the mean its own. Mean and standard error, as the papers have them, stand
beside it in the table of commas.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shapjax.core.files import write_whole
from shapjax.evaluate.published import (
    METHODS_OF_PAPER,
    NETWORKS,
    Key,
    Published,
    published,
)
from shapjax.evaluate.rows import Row

METRICS: dict[tuple[str, int], str] = {
    ("faithfulness", 1): "Faithfulness, first order (higher is better)",
    ("inefficiency", 1): "Inefficiency, first order (0 is best)",
    ("deletion", 1): "Area under deletion (lower is better)",
    ("insertion", 1): "Area under insertion (higher is better)",
    ("pointing", 1): "Pointing game (higher is better)",
    ("faithfulness_v1", 1): "Faithfulness of v1, first order (higher is better)",
    ("seconds", 1): "Median seconds, first order",
    ("faithfulness", 2): "Faithfulness, second order (higher is better)",
    ("mean_iou", 2): "mIoU, second order (higher is better)",
    ("inefficiency", 2): "Inefficiency, second order (0 is best)",
    ("distance_v1", 2): "Distance of v1, second order (lower is better)",
    ("seconds", 2): "Median seconds, second order",
}
"""Every metric that is printed, by name and order, in the order of printing."""


class Cell(NamedTuple):
    """A number of a table: one of ours, or one that the paper prints for a network of its own.

    Attributes:
        metric: key of ``METRICS``, with the order.
        order: 1 or 2.
        network: the backbone, by our name or, of the paper's numbers, the paper's.
        method: name.
        mean: over pairs; None of the paper's numbers.
        standard_error: of the mean; None without one and with fewer than two pairs.
        median: over pairs, of seconds alone; else None.
        count: pairs; 0 of the paper's numbers.
        published: what the paper prints for the same network, method and metric.
    """

    metric: str
    order: int
    network: str
    method: str
    mean: float | None
    standard_error: float | None
    median: float | None
    count: int
    published: Published | None


def summarise(rows: Sequence[Row], dataset: str) -> list[Cell]:
    """Mean and standard error of every metric, backbone, method and order; of seconds the median.

    After those of a metric come the paper's numbers for it, under its own names of networks.

    Pairs for which a metric is not defined are left out of it. Of seconds the first
    explanation of each kind in a process, which is compiled, is left out where there are others.

    Args:
        rows: from ``run`` or ``store.read``.
        dataset: name, which says what was published.
    """
    known = published(dataset)
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["backbone"], row["method"], row["order"]), []).append(row)
    cells: list[Cell] = []
    for metric, order in METRICS:
        ours: list[Cell] = []
        for (network, method, own), group in groups.items():
            values = [row[metric] for row in counted(group, metric)] if own == order else []
            if values:
                theirs = known.get((metric, order, NETWORKS.get(network, ""), method))
                ours.append(_measured((metric, order, network, method), values, theirs))
        if ours:
            cells += ours
            cells += [
                Cell(*key, None, None, None, 0, number)
                for key, number in known.items()
                if key[:2] == (metric, order)
            ]
    return cells


def _measured(key: Key, values: list[float], theirs: Published | None) -> Cell:
    count = len(values)
    median = float(np.median(values)) if key[0] == "seconds" else None
    return Cell(*key, *mean_and_error(values), median, count, theirs)


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean of numbers, and its standard error; None of a single one."""
    count = len(values)
    error = float(np.std(values, ddof=1)) / math.sqrt(count) if count > 1 else None
    return float(np.mean(values)), error


def counted(group: Sequence[Row], metric: str) -> list[Row]:
    """Those rows of one network, method and order that count for a metric (see ``summarise``)."""
    if metric == "seconds" and any(row.get("warm") for row in group):
        group = [row for row in group if row.get("warm")]
    return [row for row in group if row.get(metric) is not None]


def pair_counts(rows: Sequence[Row]) -> list[str]:
    """A line for each network: its pairs, and which methods had fewer or failed at some."""
    networks: dict[str, dict[tuple[str, int], list[Row]]] = {}
    for row in rows:
        groups = networks.setdefault(row["backbone"], {})
        groups.setdefault((row["method"], row["order"]), []).append(row)
    lines = []
    for network, groups in networks.items():
        total = len({row["pair"] for group in groups.values() for row in group})
        alike: dict[tuple[int, str], list[str]] = {}
        for (method, order), group in sorted(groups.items(), key=lambda item: item[0][1]):
            failed = sum(row["error"] is not None for row in group)
            said = ([f"{len(group)} pairs"] if len(group) < total else []) + (
                [f"{failed} failed"] if failed else []
            )
            if said:
                alike.setdefault((order, ", ".join(said)), []).append(method)
        others = [
            f"{', '.join(methods)} of order {order}: {said}"
            for (order, said), methods in alike.items()
        ]
        lines.append(f"{'; '.join([f'{network}: {total} pairs', *others])}.")
    return lines


def markdown(cells: Sequence[Cell], counts: Sequence[str] = ()) -> str:
    """One table for each metric: a line for each network, a column for each method.

    Lines in italics are the paper's numbers for its own networks, in the digits that it prints.

    Args:
        cells: from ``summarise``.
        counts: lines under the tables, from ``pair_counts``.
    """
    parts = []
    for title, methods, lines in _tables(cells):
        rule = "|".join("---" for _ in range(len(methods) + 1))
        rows = [f"**{title}**", "", f"| network | {' | '.join(methods)} |", f"|{rule}|"]
        for network, texts, ours in lines:
            shown = network if ours else f"*{network}*"
            values = [text if ours or not text else f"*{text}*" for text in texts]
            rows.append(f"| {shown} | {' | '.join(values)} |")
        parts.append("\n".join(rows))
    return "\n\n".join([*parts, *counts]) + "\n"


def latex(cells: Sequence[Cell]) -> str:
    """The tables of ``markdown`` as LaTeX, one ``tabular`` for each metric."""
    parts = []
    for title, methods, lines in _tables(cells):
        rows = [
            r"\begin{table}",
            rf"\caption{{{_tex(title)}}}",
            rf"\begin{{tabular}}{{l{'r' * len(methods)}}}",
            rf"network & {' & '.join(methods)} \\ \hline",
        ]
        for network, texts, ours in lines:
            shown = _tex(network) if ours else rf"\emph{{{_tex(network)}}}"
            rows.append(rf"{shown} & {' & '.join(map(_tex, texts))} \\")
        rows += [r"\end{tabular}", r"\end{table}"]
        parts.append("\n".join(rows))
    return "\n\n".join(parts) + "\n"


def comma_separated(cells: Sequence[Cell]) -> str:
    """One line for each cell, with all digits; the paper's means have columns of their own."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*Cell._fields[:-1], "published", "published_standard_error"])
    for cell in cells:
        theirs = cell.published or (None, None)
        table.writerow([*cell[:-1], *theirs])
    return text.getvalue()


def write_tables(
    folder: str | os.PathLike[str], rows: Sequence[Row], dataset: str
) -> dict[str, Path]:
    """Write ``tables.md``, ``tables.csv`` and ``tables.tex``; their paths by ending.

    Raises:
        ShapjaxError: the folder cannot be written.
    """
    cells = summarise(rows, dataset)
    written = {
        "md": markdown(cells, pair_counts(rows)),
        "csv": comma_separated(cells),
        "tex": latex(cells),
    }
    paths = {ending: Path(folder) / f"tables.{ending}" for ending in written}
    for ending, text in written.items():
        write_whole(paths[ending], text.encode())
    return paths


Line = tuple[str, list[str], bool]
"""A network as it is shown, its number by each method as text, and whether it is ours."""


def _tables(cells: Sequence[Cell]) -> list[tuple[str, list[str], list[Line]]]:
    """Title, methods and lines of each metric that has a number, ours above the paper's."""
    found = []
    for key, title in METRICS.items():
        known = [cell for cell in cells if (cell.metric, cell.order) == key]
        methods = in_order({cell.method for cell in known})
        lines = [
            *_lines([cell for cell in known if cell.count], methods, ours=True),
            *_lines([cell for cell in known if not cell.count], methods, ours=False),
        ]
        if lines:
            found.append((title, methods, lines))
    return found


def _lines(cells: Sequence[Cell], methods: Sequence[str], *, ours: bool) -> list[Line]:
    """A line for each network, blank where a method has no number."""
    texts = {(cell.network, cell.method): _text(cell) for cell in cells}
    said = {
        cell.network: f", published{' mean' if cell.metric == 'seconds' else ''}" for cell in cells
    }
    return [
        (
            network if ours else network + theirs,
            [texts.get((network, method), "") for method in methods],
            ours,
        )
        for network, theirs in said.items()
    ]


def in_order(methods: set[str]) -> list[str]:
    """The paper's columns in its order, then the others by name."""
    return [name for name in METHODS_OF_PAPER if name in methods] + sorted(
        methods - set(METHODS_OF_PAPER)
    )


def _text(cell: Cell) -> str:
    if cell.median is not None:
        return _number(cell.median, None)
    if cell.mean is not None:
        return _number(cell.mean, cell.standard_error)
    return "" if cell.published is None else " ± ".join(filter(None, cell.published))


def _number(value: float, error: float | None) -> str:
    digits = 2 if abs(value) < 10 else 1
    # Seconds of the fast methods would be all zeros.
    digits = 3 if 0 < abs(value) < 0.1 and (error or 0) < 0.005 else digits
    shown = f"{value:.{digits}f}"
    return shown if error is None else f"{shown} ± {error:.{digits}f}"


def _tex(text: str) -> str:
    return text.replace("_", r"\_").replace("±", r"$\pm$")
