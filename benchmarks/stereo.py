"""How often a location's strongest correspondence is the true one, on the stereo motorcycle pair.

    python benchmarks/stereo.py [--squeezenet WEIGHTS] [--methods NAME ...] [--json]

scikit-image ships the pair with its disparity: the point of the left picture at column x is seen
in the right one at x - disparity. For every location of the left feature map the strongest entry
of its row of the second-order explanation is held against the location of the true counterpart;
it counts when both are the same cell or neighbours (also diagonally). Chance is the mean share of
cells that would count.
"""

from __future__ import annotations

import argparse

import numpy as np
from skimage import data
from tables import print_records

import shapjax as sj


def true_cells(disparity: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Column of the counterpart of every left cell, float [rows, columns]; NaN where unknown.

    A cell is stretched from the picture, so it moves by its median disparity.
    """
    height, width = disparity.shape
    y = np.arange(height) * rows // height
    x = np.arange(width) * columns // width
    found = np.full((rows, columns), np.nan)
    for row in range(rows):
        for column in range(columns):
            cell = disparity[np.ix_(y == row, x == column)]
            known = cell[np.isfinite(cell)]
            if known.size:
                middle = (column + 0.5) * width / columns - np.median(known)
                found[row, column] = np.floor(middle * columns / width)
    found[found < 0] = np.nan
    return found


def score(cross: np.ndarray, truth: np.ndarray) -> tuple[float, float, int]:
    """Share of cells whose strongest counterpart is within one cell of the truth, and chance."""
    rows, columns = truth.shape
    hits, chances = [], []
    for row, column in np.argwhere(np.isfinite(truth)):
        near_row = np.abs(np.arange(rows) - row) <= 1
        near_column = np.abs(np.arange(columns) - truth[row, column]) <= 1
        near = np.outer(near_row, near_column).ravel()
        hits.append(near[np.argmax(cross[row * columns + column])])
        chances.append(near.mean())
    return float(np.mean(hits)), float(np.mean(chances)), len(hits)


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--squeezenet", metavar="WEIGHTS", help="also SqueezeNet 1.1")
    parser.add_argument("--methods", nargs="+", default=["sam", "gram-sam", "kernel-sam"])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    left, right, disparity = data.stereo_motorcycle()
    models = [sj.backbones.load("shapjax_tiny")]
    if options.squeezenet:
        models.append(sj.backbones.load("squeezenet1_1", weights=options.squeezenet))
    records = []
    for model in models:
        for method in options.methods:
            found = sj.explain(model, left, right, method=method)
            side = round(found.n_query**0.5)
            hit, chance, cells = score(found.cross, true_cells(disparity, side, side))
            records.append(
                {
                    "backbone": model.name,
                    "method": method,
                    "map": f"{side}x{side}",
                    "within_one_cell": round(hit, 3),
                    "chance": round(chance, 3),
                    "cells": cells,
                    "seconds": round(found.seconds, 1),
                }
            )
    print_records(records, as_json=options.json)


if __name__ == "__main__":
    main()
