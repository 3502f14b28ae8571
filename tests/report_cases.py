"""Synthetic explanations with known numbers, for the tests of the report."""

from __future__ import annotations

import numpy as np
from PIL import Image

from shapjax.core.interactions import Interactions
from shapjax.explainers.explanation import Explanation

SIZE = 60
SIDE_PLAYERS = {"query": 16, "retrieved": 9}

HOSTILE_NAMES = [
    "<script>alert(1)</script>.png",
    "</script><img src=x onerror=alert(1)>",
    "\"onfocus='alert(1)' autofocus $script ${data} $$",
    "abc\u202egnp.exe \u2028\u2029 \x00\n.png",
    "caf\udce9 &amp; 图片.png",
]


def grid_labels() -> np.ndarray:
    """4 x 4 cells, as feature-grid players are."""
    cell = np.arange(SIZE) * 4 // SIZE
    return (cell[:, None] * 4 + cell).astype(np.int32)


def ragged_labels(n: int = SIDE_PLAYERS["retrieved"], size: int = SIZE) -> np.ndarray:
    """Nearest-seed regions of n random seeds, irregular as superpixels are."""
    seeds = np.random.default_rng(0).uniform(0, size, (n, 2))
    pixels = np.stack(np.mgrid[:size, :size], -1)[:, :, None]
    return np.argmin(((pixels - seeds) ** 2).sum(-1), axis=-1).astype(np.int32)


def second_order() -> Explanation:
    nq, nr = SIDE_PLAYERS.values()
    n = nq + nr
    random = np.random.default_rng(1)
    pairs = np.zeros((n, n))
    pairs[:nq, nq:] = random.normal(0.002, 0.01, (nq, nr))
    pairs[0, nq + 3] = 0.05
    pairs[5, nq:] = -np.abs(pairs[5, nq:])  # A query part without any counterpart.
    flat = pairs[np.triu_indices(n, 1)]
    coefficients = (np.zeros(1), random.normal(0, 0.01, n), flat)
    return _explanation("stii", coefficients, grid_labels(), ragged_labels())


def first_order(side: str) -> Explanation:
    heat = np.random.default_rng(2).normal(0.01, 0.02, SIDE_PLAYERS[side])
    query = grid_labels() if side == "query" else None
    retrieved = ragged_labels() if side == "retrieved" else None
    return _explanation("shapley", (np.zeros(1), heat), query, retrieved)


def _explanation(method, coefficients, query_players, retrieved_players) -> Explanation:
    coefficients = tuple(c.astype(np.float32) for c in coefficients)
    n = len(coefficients[1])
    return Explanation(
        method=method,
        backbone="alexnet",
        interactions=Interactions(coefficients, method.upper(), n),
        query_players=query_players,
        retrieved_players=retrieved_players,
        similarity=0.8125,
        v_grand=0.8125,
        v_empty=0.03125,
        evaluations=20000,
        seconds=41.7,
    )


def pictures() -> tuple[Image.Image, Image.Image]:
    """A wide and a tall picture, neither blank."""
    ramp = np.linspace(0, 255, 120).astype(np.uint8)
    wide = np.stack([np.tile(ramp, (80, 1))] * 3, -1)
    tall = np.stack([np.tile(ramp[:, None], (1, 90)), np.full((120, 90), 90, np.uint8)] * 2, -1)
    return Image.fromarray(wide), Image.fromarray(np.ascontiguousarray(tall[..., :3]))


SUMMARY = {
    "similarity": 0.8125,
    "v(N)": 0.8125,
    "v(empty)": -0.03125,
    "evaluations": 20000,
    "<b>method</b>": "</td><script>alert(2)</script>",
}
