r"""SBSM: a window of background slides over a picture, and what similarity drops shows.

A window k that lowers the similarity has the positive weight
:math:`w_k = \max(d(q, r) - d(\text{masked}), 0)`. The signs printed in the paper's eqs. 10 and
11 disagree with the text beside them; this is the sign of the text, for which censoring what
matters gets a positive weight.

First order: a pixel has the mean weight of the windows over it. Second order: windows on both
pictures at once; a query part has the mean, over the pairs whose query window covers it, of the
weight times the retrieved window. Its row is thus the weighted mean of the retrieved windows drawn
with windows over it (A.11), times the mean weight there, so that rows keep their importance.

Both are means over windows drawn at random, so that their standard errors come without another
evaluation: of a mean without replacement at first order (Cochran 1977, section 2.6), which is
zero where all windows are drawn; of a ratio of means at second order (section 6.4).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.core.checks import whole_number
from shapjax.core.memory import require_memory
from shapjax.core.worths import Progress, ValueFunction, worths

WINDOW = 20
"""Side of a window, in pixels of a 224-pixel picture (Hamilton et al. 2022, A.2)."""

STRIDE = 3
"""Step between windows, in pixels of a 224-pixel picture."""


class Windows(NamedTuple):
    """Square windows on a picture.

    Attributes:
        corners: row and column of each upper left corner, int [W, 2].
        side: pixels.
        size: side of the picture, pixels.
    """

    corners: np.ndarray
    side: int
    size: int


def sliding_windows(size: int) -> Windows:
    """All windows of 20 of 224 pixels at a stride of 3, the last ones flush with the edge."""
    side = max(1, round(WINDOW * size / 224))
    starts = list(range(0, size - side + 1, max(1, round(STRIDE * size / 224))))
    if starts[-1] != size - side:
        starts.append(size - side)
    rows, columns = np.meshgrid(starts, starts, indexing="ij")
    return Windows(np.stack([rows.ravel(), columns.ravel()], axis=1), side, size)


def outside(windows: Windows, chosen: np.ndarray) -> np.ndarray:
    """Pixels that each chosen window leaves as they are, Boolean [B, size * size]."""
    pixel = np.arange(windows.size)
    corners = windows.corners[chosen]
    rows, columns = (
        (pixel >= corners[:, axis, None]) & (pixel < corners[:, axis, None] + windows.side)
        for axis in (0, 1)
    )
    return ~(rows[:, :, None] & columns[:, None, :]).reshape(len(chosen), -1)


def painted(windows: Windows, chosen: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sum of the weights of the chosen windows over each pixel, float64 [size, size]."""
    steps = np.zeros((windows.size + 1, windows.size + 1))
    top, left = windows.corners[chosen].T
    for row, column, sign in ((0, 0, 1), (0, 1, -1), (1, 0, -1), (1, 1, 1)):
        np.add.at(steps, (top + row * windows.side, left + column * windows.side), sign * weights)
    return steps.cumsum(axis=0).cumsum(axis=1)[:-1, :-1]


def shares(windows: Windows, labels: np.ndarray) -> np.ndarray:
    """How much of each player lies in each window, float64 [W, n] in [0, 1].

    Args:
        windows: W of them.
        labels: int [size, size], the player that owns each pixel.
    """
    n = int(labels.max()) + 1
    require_memory(8 * n * len(windows.corners), f"{n} players in all windows", "merge players")
    top, left = windows.corners.T
    found = np.empty((len(windows.corners), n))
    for player in range(n):
        own = np.zeros((windows.size + 1, windows.size + 1))
        own[1:, 1:] = (labels == player).cumsum(axis=0).cumsum(axis=1)
        bottom, right = top + windows.side, left + windows.side
        inside = own[bottom, right] - own[top, right] - own[bottom, left] + own[top, left]
        found[:, player] = inside / own[-1, -1]
    return found


def sbsm(
    pixel_game: ValueFunction,
    size: int,
    *,
    budget: int,
    key: jax.Array,
    chunk_size: int = 64,
    progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray, int]:
    """First-order saliency by sliding windows.

    Args:
        pixel_game: worth of masks over pixels, Boolean [B, size * size] to [B].
        size: side of the picture, pixels.
        budget: the most evaluations, the whole picture's included; too few for all windows, a
            random choice of them is taken.
        key: PRNG key of that choice.
        chunk_size: masked pictures per call.
        progress: called with (done, all).

    Returns:
        Mean weight of the windows over each pixel (0 where there are none), float64
        [size, size], in units of similarity; standard errors of the same shape, in which the
        weights of all windows stand for those over a pixel that has fewer than two; evaluations
        used.

    Raises:
        ShapjaxError: the budget is below 2.

    Source: Dong et al. 2019; Hamilton et al. 2022, A.11 (eq. 10).
    """
    windows = sliding_windows(size)
    count = len(windows.corners)
    budget = whole_number(budget, "budget", low=2)
    chosen = np.arange(count)
    if budget - 1 < count:
        chosen = np.asarray(jax.random.permutation(key, count))[: budget - 1]
    weights = _drops(
        pixel_game,
        np.ones((1, size * size), bool),
        lambda part: outside(windows, chosen[part]),
        len(chosen),
        chunk_size,
        progress,
    )
    covered = np.round(painted(windows, chosen, np.ones(len(chosen))))
    there = np.round(painted(windows, np.arange(count), np.ones(count)))
    mean = painted(windows, chosen, weights) / np.maximum(covered, 1)
    square = painted(windows, chosen, weights**2) / np.maximum(covered, 1)
    spread = np.maximum(square - mean**2, 0) * covered / np.maximum(covered - 1, 1)
    spread = np.where(covered < 2, np.mean(weights**2), spread)
    left_out = 1 - covered / there
    return mean, np.sqrt(spread * left_out / np.maximum(covered, 1)), len(chosen) + 1


def joint_sbsm(
    pixel_game: ValueFunction,
    query_players: np.ndarray,
    retrieved_players: np.ndarray,
    *,
    budget: int,
    key: jax.Array,
    chunk_size: int = 64,
    progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Second-order saliency by pairs of windows at random places.

    Args:
        pixel_game: worth of masks over the pixels of both pictures, query first.
        query_players: int [S, S], the player that owns each pixel; a player may be a pixel.
        retrieved_players: likewise.
        budget: the most evaluations, the whole pictures' included.
        key: PRNG key.
        chunk_size: masked pairs per call.
        progress: called with (done, all).

    Returns:
        Query parts x retrieved parts, float64 [nq, nr], in units of similarity (a part that a
        window covers partly counts in part); standard errors, likewise, in which the mean square
        of all weights stands for parts that fewer than two pairs of windows cover; evaluations
        used.

    Raises:
        ShapjaxError: the budget is below 2.

    Source: Hamilton et al. 2022, A.11 (eq. 11).
    """
    size = len(query_players)
    windows = sliding_windows(size)
    pairs = whole_number(budget, "budget", low=2) - 1
    drawn = jax.random.randint(key, (2, pairs), 0, len(windows.corners), jnp.int32)
    first, second = np.asarray(drawn)
    weights = _drops(
        pixel_game,
        np.ones((1, 2 * size * size), bool),
        lambda part: np.concatenate(
            [outside(windows, first[part]), outside(windows, second[part])], axis=1
        ),
        pairs,
        chunk_size,
        progress,
    )
    over = shares(windows, query_players)
    under = shares(windows, retrieved_players)
    count = np.bincount(first, minlength=len(over))

    def by_query_window(values: np.ndarray) -> np.ndarray:
        """Sums over the pairs that have a query window: equal ones add up, [W, nr]."""
        total = np.zeros((len(over), under.shape[1]))
        np.add.at(total, first, values)
        return total

    drops = weights[:, None] * under[second]
    together, squares = by_query_window(drops), by_query_window(drops**2)
    covered = (count @ over)[:, None]
    safe = np.where(covered > 0, covered, 1)
    cross = over.T @ together / safe
    # Of what each pair adds to the sum, less its share of the ratio.
    square = (
        (over**2).T @ squares
        - 2 * cross * ((over**2).T @ together)
        + cross**2 * (count @ over**2)[:, None]
    )
    met = (count @ (over > 0))[:, None]
    errors = np.sqrt(np.maximum(square, 0) * met / np.maximum(met - 1, 1)) / safe
    # What no pair of windows covered looks certain; the mean square of any pair stands for it.
    guess = np.sqrt(np.mean(weights**2) * np.mean(under**2, axis=0) / np.maximum(met, 1))
    both = (over > 0).T @ by_query_window(under[second] > 0)
    return cross, np.where(both < 2, guess, errors), pairs + 1


def _drops(
    game: ValueFunction,
    whole: np.ndarray,
    masks_of: Callable[[slice], np.ndarray],
    count: int,
    chunk_size: int,
    progress: Progress | None,
) -> np.ndarray:
    """How far each mask lowers the worth of the whole, 0 where it does not; float64 [count]."""
    grand = float(np.asarray(worths(game, whole, traceable=True))[0])
    found = np.empty(count)
    for start in range(0, count, chunk_size):
        # A full chunk that ends at the last mask, so that one shape is compiled.
        first = max(0, min(start, count - chunk_size))
        part = slice(first, min(start + chunk_size, count))
        masks = masks_of(part)
        found[part] = worths(game, masks, chunk_size=len(masks), traceable=True)
        if progress is not None:
            progress(part.stop, count)
    return np.maximum(grand - found, 0)
