"""Partition SHAP: Owen values over a hierarchy of squares of pixels.

A rectangle is halved across its longer side, down to single pixels. The credit of a rectangle,
v(C + whole) - v(C) in a context C of other rectangles, is shared among its halves A and B as in
a game of two players, v(C + A) - v(C) without B and v(C + A + B) - v(C + B) with it, half and
half; each half is then divided in both contexts. The most valuable rectangles are divided first;
when the budget ends, what is left undivided is spread evenly over its pixels.
"""

from __future__ import annotations

import heapq
import itertools
from typing import NamedTuple

import numpy as np

from shapjax.core.checks import whole_number
from shapjax.core.worths import Progress, ValueFunction, worths


class Rectangle(NamedTuple):
    """Rows top to bottom and columns left to right of a picture, the latter ones excluded."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def pixels(self) -> int:
        """How many pixels it has."""
        return (self.bottom - self.top) * (self.right - self.left)

    def halves(self) -> tuple[Rectangle, Rectangle]:
        """Both halves, divided across the longer side (rows where both are equal)."""
        top, bottom, left, right = self
        if bottom - top >= right - left:
            middle = (top + bottom) // 2
            return Rectangle(top, middle, left, right), Rectangle(middle, bottom, left, right)
        middle = (left + right) // 2
        return Rectangle(top, bottom, left, middle), Rectangle(top, bottom, middle, right)


class _Task(NamedTuple):
    """A rectangle in a context.

    Attributes:
        context: pixels that are shown already, bits packed, uint8 [ceil(H W / 8)].
        without: worth of the context.
        whole: worth of the context with the rectangle.
        rectangle: whose credit is to be shared.
        weight: share of this context among those of the rectangle.
    """

    context: np.ndarray
    without: float
    whole: float
    rectangle: Rectangle
    weight: float


def partition_shap(
    pixel_game: ValueFunction,
    height: int,
    width: int,
    *,
    budget: int,
    chunk_size: int = 64,
    progress: Progress | None = None,
) -> tuple[np.ndarray, dict[str, float]]:
    """Owen values of pixels over a hierarchy of halved rectangles.

    Args:
        pixel_game: worth of masks over pixels, row by row, Boolean [B, height * width] to [B].
        height, width: of the picture, pixels.
        budget: the most evaluations, both ends included.
        chunk_size: masked pictures per call; rectangles of one call are divided together, so
            that it also decides which are.
        progress: called with (done, most).

    Returns:
        Values, float64 [height, width], in units of the game, efficient at any budget; and
        ``evaluations``, ``v_empty``, ``v_grand``.

    Raises:
        ShapjaxError: the budget is below 4.

    Cost: two evaluations a division; the queue holds height * width / 8 bytes for each.

    Source: Owen 1977; the budgeted descent is that of the shap package's partition explainer
        (Lundberg).
    """
    budget = whole_number(budget, "budget", low=4)
    n = height * width
    together = max(1, chunk_size // 2)
    ends = np.stack([np.zeros(n, bool), np.ones(n, bool)])
    v_empty, v_grand = np.asarray(worths(pixel_game, ends), np.float64).tolist()
    spent = 2
    values = np.zeros((height, width))
    ties = itertools.count()
    nothing = np.packbits(ends[0])
    first = _Task(nothing, v_empty, v_grand, Rectangle(0, height, 0, width), 1.0)
    queue: list[tuple[float, int, _Task]] = [(0.0, next(ties), first)]
    while queue:
        batch: list[_Task] = []
        room = min(together, (budget - spent) // 2)
        while queue and len(batch) < room:
            task = heapq.heappop(queue)[2]
            if task.rectangle.pixels == 1:
                _give(values, task)
            else:
                batch.append(task)
        if not batch:
            break
        found = _worths_of_halves(pixel_game, batch, height, width, chunk_size)
        spent += 2 * len(batch)
        for task, (a, b) in zip(batch, found, strict=True):
            for child in _children(task, float(a), float(b), height, width):
                gain = abs(child.whole - child.without) * child.weight
                heapq.heappush(queue, (-gain, next(ties), child))
        if progress is not None:
            progress(spent, budget)
    for _, _, task in queue:
        _give(values, task)
    return values, {"evaluations": spent, "v_empty": v_empty, "v_grand": v_grand}


def _give(values: np.ndarray, task: _Task) -> None:
    top, bottom, left, right = task.rectangle
    gain = (task.whole - task.without) * task.weight
    values[top:bottom, left:right] += gain / task.rectangle.pixels


def _children(task: _Task, with_a: float, with_b: float, height: int, width: int) -> list[_Task]:
    """Both halves, each in the context without and with the other."""
    a, b = task.rectangle.halves()
    half = task.weight / 2
    shown_a, shown_b = (_shown(task.context, part, height, width) for part in (a, b))
    return [
        _Task(task.context, task.without, with_a, a, half),
        _Task(task.context, task.without, with_b, b, half),
        _Task(np.packbits(shown_b), with_b, task.whole, a, half),
        _Task(np.packbits(shown_a), with_a, task.whole, b, half),
    ]


def _shown(context: np.ndarray, part: Rectangle, height: int, width: int) -> np.ndarray:
    """The context with a rectangle, Boolean [height * width]."""
    mask = np.unpackbits(context, count=height * width).astype(bool).reshape(height, width)
    mask[part.top : part.bottom, part.left : part.right] = True
    return mask.ravel()


def _worths_of_halves(
    game: ValueFunction, batch: list[_Task], height: int, width: int, chunk_size: int
) -> np.ndarray:
    """Worth of each context with either half, float64 [tasks, 2]."""
    masks = [
        _shown(task.context, part, height, width)
        for task in batch
        for part in task.rectangle.halves()
    ]
    # Padded to one shape, that a compiled game is not compiled anew as the queue fills.
    blank = [np.zeros(height * width, bool)] * (max(chunk_size, 2) - len(masks))
    found = worths(game, np.stack([*masks, *blank]), chunk_size=max(chunk_size, 2))
    return np.asarray(found, np.float64)[: len(masks)].reshape(-1, 2)
