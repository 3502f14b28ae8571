"""Figures of a convergence run: medians with bands from the 10% to the 90% quantile."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from games import Family
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter
from peers_shapiq import PREFIX
from summary import methods_of

Row = dict[str, Any]

PAPER = {
    "relu-networks": "ICLR 2022, fig. 5",
    "boolean": "ICLR 2022, fig. 10",
    "random-integers": "2021 preprint, fig. 7",
}
PAPER_METHODS = ("permutation-by-sets", "kernel-weighting", "kernel-direct")

FLOOR = 1e-6
"""Errors below this share of the variance are rounding; the axis ends there."""

# Okabe & Ito's colours, which stay apart under every common colour vision deficiency; what is
# left after eight is told by the marker.
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#7A5195",
    "#8C6D31",
)
MARKERS = "osD^vPX*<>hp"


class Style(NamedTuple):
    """How a method is drawn."""

    colour: str
    marker: str
    line: str


def styles(methods: Sequence[str]) -> dict[str, Style]:
    """A style for each method: baselines in black and grey, peers dashed."""
    fixed = {
        "permutation": Style("#000000", "o", "-"),
        "permutation-by-sets": Style("#777777", "s", "-"),
        "kernel-direct": Style(COLOURS[0], "o", "-"),
        "kernel-weighting": Style(COLOURS[5], "D", "-"),
        "gaussian-process": Style(COLOURS[1], "o", "-"),
        "svarm-iq": Style(COLOURS[2], "v", "-"),
        "shap-iq": Style(COLOURS[3], "^", "-"),
        "kernel-border": Style(COLOURS[4], "P", "-"),
    }
    twins = {
        f"{PREFIX}permutation": "permutation-by-sets",
        f"{PREFIX}SHAP-IQ": "shap-iq",
        f"{PREFIX}SHAP-IQ, paired": "shap-iq",
        f"{PREFIX}SVARM-IQ": "svarm-iq",
        f"{PREFIX}SVARM-IQ, paired": "svarm-iq",
    }
    found, others = {}, 0
    for method in methods:
        if method in fixed:
            found[method] = fixed[method]
        elif method in twins:
            line = ":" if "paired" in method else "--"
            found[method] = fixed[twins[method]]._replace(line=line)
        else:
            line = "--" if method.startswith(PREFIX) else "-"
            place = others % (2 * len(MARKERS))
            found[method] = Style(
                COLOURS[(6 + others) % len(COLOURS)], MARKERS[(place + 5) % len(MARKERS)], line
            )
            others += 1
    return found


def draw(records: Sequence[Row], families: Mapping[str, Family], folder: Path) -> list[Path]:
    """Draw what the records allow; the files written."""
    folder.mkdir(parents=True, exist_ok=True)
    present = {record["family"] for record in records}
    paper = [name for name in PAPER if name in present and name in families]
    others = [name for name in families if name in present and name not in PAPER]
    found = []
    if paper:
        found.append(folder / "convergence_paper.png")
        _paper(records, families, paper, found[-1])
    if others:
        found.append(folder / "convergence_families.png")
        _others(records, families, others, found[-1])
    return found


def draw_paper(records: Sequence[Row], family: Family, path: Path) -> None:
    """One figure of the paper: its estimators on one family."""
    theirs = [r for r in records if r["family"] == family.name and r["method"] in PAPER_METHODS]
    style = styles(methods_of(theirs))
    figure, axes = plt.subplots(figsize=(5.6, 4.4), squeeze=False, layout="constrained")
    (axis,) = axes.flat
    _curves(axis, theirs, "mse", style)
    axis.set_title(f"{PAPER[family.name]}: {family.title.split(' (')[0]}")
    axis.set(xlabel="evaluations", ylabel="mean squared error")
    _finish(figure, axes, style, path)


def _paper(
    records: Sequence[Row], families: Mapping[str, Family], names: Sequence[str], path: Path
) -> None:
    """The paper's figures, its estimators above, all of them below."""
    style = styles(methods_of(records))
    figure, axes = _grid(len(names), sharex="col", sharey="col")
    for column, name in zip(axes.T, names, strict=True):
        of_family = [record for record in records if record["family"] == name]
        theirs = [record for record in of_family if record["method"] in PAPER_METHODS]
        _curves(column[0], theirs, "mse", style)
        _curves(column[1], of_family, "mse", style)
        variance = max(record["mse"] / record["error"] for record in of_family)
        _cut(column[1], FLOOR * variance)
        column[0].set_title(f"{PAPER[name]}: {families[name].title.split(' (')[0]}")
        column[1].set_title("the same games, every estimator")
        column[1].set_xlabel("evaluations")
    for row in axes:
        row[0].set_ylabel("mean squared error")
    _finish(figure, axes, style, path)


def _others(
    records: Sequence[Row], families: Mapping[str, Family], names: Sequence[str], path: Path
) -> None:
    """Error and precision of the other families."""
    style = styles(methods_of(records))
    figure, axes = _grid(len(names), sharex="col")
    for column, name in zip(axes.T, names, strict=True):
        of_family = [record for record in records if record["family"] == name]
        _curves(column[0], of_family, "error", style)
        _cut(column[0], FLOOR)
        _curves(column[1], of_family, "precision", style)
        column[0].set_title(families[name].title)
        column[1].set(xlabel="evaluations", yscale="linear", ylim=(0, 1.02))
    axes[0, 0].set_ylabel("mean squared error / variance")
    axes[1, 0].set_ylabel("precision of the strongest")
    _finish(figure, axes, style, path)


def _grid(columns: int, **shared: Any) -> tuple[Figure, np.ndarray]:
    """Two rows of axes."""
    size = (4.2 * max(columns, 2), 7.6)
    return plt.subplots(2, columns, figsize=size, squeeze=False, layout="constrained", **shared)


def _curves(axis: Axes, records: Sequence[Row], value: str, style: Mapping[str, Style]) -> None:
    for method in methods_of(records):
        curve = [r for r in records if r["method"] == method]
        curve.sort(key=lambda r: r["evaluations"])
        x = [r["evaluations"] for r in curve]
        look = style[method]
        peer = method.startswith(PREFIX)
        axis.plot(
            x,
            [r[value] for r in curve],
            color=look.colour,
            linestyle=look.line,
            marker=None if peer else look.marker,
            markersize=4,
            linewidth=1.2 if peer else 1.6,
            label=method,
        )
        if not peer:
            low, high = ([r[f"{value}_{end}"] for r in curve] for end in ("low", "high"))
            axis.fill_between(
                x,
                low,
                high,
                color=look.colour,
                alpha=0.12 if len(records) < 30 else 0.06,
                linewidth=0,
            )
    axis.set(xscale="log", yscale="log")
    axis.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def _cut(axis: Axes, floor: float) -> None:
    axis.set_ylim(bottom=max(axis.get_ylim()[0], floor))


def _finish(figure: Figure, axes: np.ndarray, style: Mapping[str, Style], path: Path) -> None:
    """One legend below, for what the axes hold; then the file."""
    handles = {}
    for axis in axes.flat:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    names = [name for name in style if name in handles]
    for axis in axes.flat:
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_formatter(NullFormatter())
        low, high = axis.get_xlim()
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        steps = (1, 3) if high > 20 * low else (1, 2, 3, 5)
        ticks = [step * 10.0**decade for decade in decades for step in steps]
        axis.set_xticks([tick for tick in ticks if low <= tick <= high])
    columns = max(2, int(figure.get_figwidth() // 2.5))
    figure.legend(
        [handles[name] for name in names],
        names,
        loc="outside lower center",
        ncol=columns,
        frameon=False,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)
