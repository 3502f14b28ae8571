r"""What a region of one picture corresponds to in the other: credit of pairs as transport.

A second-order explanation is a matrix A of query parts x retrieved parts. A region with the
share q_i of each part is projected by :math:`r = A^\top q`, and back by :math:`q = A r`. A
transport plan moves the query's first-order map onto the retrieved picture's (each picture's
positive credit, made to sum to one) along the pairs of most credit:

.. math:: \max_P \; \langle A, P \rangle + \varepsilon H(P), \quad P 1 = m_q, \; P^\top 1 = m_r,

H the entropy, which Sinkhorn's scaling of :math:`\exp(A / \varepsilon)` solves.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from shapjax.core.checks import one_of, whole_number
from shapjax.core.errors import ShapjaxError
from shapjax.explainers.explanation import Explanation, Side
from shapjax.games.players import stretch

STEPS = 10_000
"""Most rounds of Sinkhorn's scaling."""


def sinkhorn(
    kernel: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    *,
    tolerance: float = 1e-9,
    steps: int = STEPS,
) -> np.ndarray:
    """A non-negative matrix scaled by rows and columns to given sums.

    Of all matrices with these sums it is the nearest to the kernel in relative entropy.

    Args:
        kernel: [m, n], non-negative; where it is 0 the plan is 0.
        rows: sums of the rows, [m], non-negative.
        columns: sums of the columns, [n], with the same total.
        tolerance: largest error of a sum that is accepted, relative to the total.
        steps: most rounds.

    Returns:
        float64 [m, n].

    Raises:
        ShapjaxError: shapes or totals do not go together, an entry is negative, or the zeros of
            the kernel leave no matrix with these sums.

    Source: Sinkhorn and Knopp 1967; Cuturi 2013.
    """
    kernel, rows, columns = (np.asarray(a, np.float64) for a in (kernel, rows, columns))
    if kernel.shape != (*rows.shape, *columns.shape) or kernel.ndim != 2:
        raise ShapjaxError(
            f"kernel, rows and columns have shapes {kernel.shape}, {rows.shape} and "
            f"{columns.shape}, expected [m, n], [m] and [n]."
        )
    if not all((a >= 0).all() and np.isfinite(a).all() for a in (kernel, rows, columns)):
        raise ShapjaxError("kernel, rows and columns must be non-negative numbers; clip them.")
    total = rows.sum()
    if not np.isclose(total, columns.sum()) or total <= 0:
        raise ShapjaxError(
            f"rows sum to {total:.6g} and columns to {columns.sum():.6g}, expected one positive "
            "total; scale them."
        )
    left, right = np.ones_like(rows), np.ones_like(columns)
    error = np.inf
    # Where no plan exists the scales run off to infinity; the error then says so.
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(whole_number(steps, "steps", low=1)):
            left = _ratio(rows, kernel @ right)
            right = _ratio(columns, kernel.T @ left)
            error = np.abs(left * (kernel @ right) - rows).max() / total
            if not error > tolerance:
                break
        plan = left[:, None] * kernel * right
        short = np.abs(plan.sum(axis=0) - columns).max() / total
    if not max(error, short) <= max(tolerance, 1e-6):
        raise ShapjaxError(
            f"no plan with these sums was found in {steps} steps (an error of "
            f"{max(error, short):.1g} is left); raise the temperature, or let the kernel have "
            "fewer zeros."
        )
    return plan


def transport_plan(explanation: Explanation, *, temperature: float = 0.1) -> np.ndarray:
    """The explanation as a joint distribution over pairs of parts.

    Its rows sum to the query's first-order map and its columns to the retrieved picture's: the
    positive credit of each part over that of all.

    Args:
        explanation: of second order.
        temperature: weight of the entropy, over the largest credit of a pair in size; smaller
            is sharper.

    Returns:
        float64 [nq, nr], summing to 1.

    Raises:
        ShapjaxError: the explanation is of first order, a picture has no positive credit, or
            the temperature is too low for the scaling to converge.

    Source: v1 of Hamilton et al. (2021), section 4.4; Cuturi 2013 for the entropy.
    """
    cross = np.asarray(explanation.cross, np.float64)
    if not 0.01 <= temperature < np.inf:
        raise ShapjaxError(f"temperature is {temperature!r}, expected at least 0.01.")
    maps = []
    for side in ("query", "retrieved"):
        heat = np.maximum(np.asarray(explanation.heat(side), np.float64), 0)
        if heat.sum() <= 0:
            raise ShapjaxError(
                f"no part of the {side} picture has positive credit, so there is nothing to "
                "transport; project without plan=True."
            )
        maps.append(heat / heat.sum())
    scale = temperature * max(float(np.abs(cross).max()), np.finfo(float).tiny)
    return sinkhorn(np.exp((cross - cross.max()) / scale), *maps)


def region_shares(
    explanation: Explanation,
    side: Side,
    *,
    mask: Any = None,
    box: tuple[float, float, float, float] | None = None,
    point: tuple[float, float] | None = None,
) -> np.ndarray:
    """Share of each part of a picture that a region covers, float64 [n] in [0, 1].

    Args:
        explanation: whose parts.
        side: the picture.
        mask: Boolean, or shares in [0, 1], [H, W] of any size, stretched over the picture.
        box: left, top, right, bottom, in fractions of the picture's width and height.
        point: x and y, likewise; its part is taken whole.

    Raises:
        ShapjaxError: not exactly one region, or one that covers nothing of the picture.
    """
    labels = explanation.players(side)
    if sum(given is not None for given in (mask, box, point)) != 1:
        raise ShapjaxError("expected one region: a mask, a box or a point.")
    height, width = labels.shape
    n = int(labels.max()) + 1
    if point is not None:
        x, y = _fractions(point, 2, "point")
        row, column = min(int(y * height), height - 1), min(int(x * width), width - 1)
        return (np.arange(n) == labels[row, column]).astype(np.float64)
    if box is not None:
        left, top, right, bottom = _fractions(box, 4, "box")
        if not (left < right and top < bottom):
            raise ShapjaxError(f"box is {box}, expected left < right and top < bottom.")
        across, down = _covered(left, right, width), _covered(top, bottom, height)
        shown = down[:, None] * across
    else:
        shown = np.asarray(mask)
        if shown.ndim != 2 or shown.dtype.kind not in "biuf" or 0 in shown.shape:
            raise ShapjaxError(
                f"mask has shape {shown.shape} and dtype {shown.dtype}, expected [H, W] of "
                "Booleans or shares."
            )
        shown = stretch(shown, height, width).astype(np.float64)
        if not (shown.min() >= 0 and shown.max() <= 1):
            raise ShapjaxError("a mask must lie in [0, 1]; make it Boolean.")
    shares = np.bincount(labels.ravel(), shown.ravel(), n) / np.bincount(labels.ravel())
    if not shares.any():
        raise ShapjaxError(f"the region covers no part of the {side} picture; choose another.")
    return shares


def project(
    explanation: Explanation,
    *,
    source: Side = "query",
    mask: Any = None,
    box: tuple[float, float, float, float] | None = None,
    point: tuple[float, float] | None = None,
    plan: bool = False,
) -> np.ndarray:
    """Where a region of one picture goes in the other.

    Args:
        explanation: of second order.
        source: the picture that the region is of.
        mask: Boolean or shares [H, W] of any size, stretched over the picture.
        box: left, top, right, bottom, in fractions of the picture's width and height.
        point: x and y, likewise.
        plan: project by the transport plan instead of the credit of pairs, so that what
            arrives is a part of the other picture's first-order map.

    Returns:
        What arrives at every pixel of the other picture (at the network's input size), float64
        [S, S]: the credit of its part with the region (with ``plan``, mass).

    Raises:
        ShapjaxError: the explanation is of first order, or the region is not one.

    Source: v1 of Hamilton et al. (2021), section 4.4.
    """
    one_of(source, ("query", "retrieved"), "source")
    matrix = transport_plan(explanation) if plan else np.asarray(explanation.cross, np.float64)
    shares = region_shares(explanation, source, mask=mask, box=box, point=point)
    if source == "query":
        return (shares @ matrix)[explanation.players("retrieved")]
    return (matrix @ shares)[explanation.players("query")]


def propagate_labels(
    explanation: Explanation, labels: Any, *, source: Side = "query", plan: bool = False
) -> np.ndarray:
    """A label map of one picture carried over to the other.

    Every label is projected from the pixels that carry it; a part of the other picture takes
    the label that reaches it most strongly for the label's size, so that a large region does not
    win by its size alone.

    Args:
        explanation: of second order.
        labels: whole numbers [H, W] of any size, stretched over the picture.
        source: the picture that they are of.
        plan: as in ``project``.

    Returns:
        Same dtype, [S, S]: the label of every pixel of the other picture, at the network's input
        size.

    Raises:
        ShapjaxError: as ``project``, or the labels are not whole numbers.
    """
    given = np.asarray(labels)
    if given.ndim != 2 or given.dtype.kind not in "biu" or 0 in given.shape:
        raise ShapjaxError(
            f"labels have shape {given.shape} and dtype {given.dtype}, expected whole numbers "
            "[H, W]."
        )
    shown = stretch(given, *explanation.players(source).shape)
    names = np.unique(shown)
    reaching = [
        project(explanation, source=source, mask=shown == name, plan=plan) / (shown == name).sum()
        for name in names
    ]
    return names[np.argmax(reaching, axis=0)]


def _ratio(wanted: np.ndarray, have: np.ndarray) -> np.ndarray:
    """What brings ``have`` to ``wanted``; 0 where there is nothing to scale."""
    return np.divide(wanted, have, out=np.zeros_like(have), where=have > 0)


def _covered(low: float, high: float, size: int) -> np.ndarray:
    """How much of each of ``size`` pixels lies between two fractions of the whole, [size]."""
    pixel = np.arange(size)
    return np.clip(np.minimum(high * size, pixel + 1) - np.maximum(low * size, pixel), 0, 1)


def _fractions(values: Any, count: int, name: str) -> list[float]:
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != count or not all(0 <= number <= 1 for number in numbers):
        raise ShapjaxError(
            f"{name} is {values!r}, expected {count} fractions of the picture, from 0 to 1."
        )
    return numbers
