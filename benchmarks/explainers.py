"""Two figures on the explanation methods, and the numbers in them.

    python benchmarks/explainers.py dummy [--json]      GradCAM breaks the dummy axiom (A.4)
    python benchmarks/explainers.py reference [--json]  sampled methods against Gram SAM

``dummy``: a similarity that ignores the left half of the retrieved picture,
d(x, y) = cos(GAP(x), GAP(y M)); the share of the absolute credit that each method gives that
half. ``reference``: mean squared error of the cross pairs of the built-in stereo pair (64 + 64
locations, cosine, blurred background) over their variance, against evaluations and seconds; the
reference is Gram SAM at 40,000 coalitions with a key of its own.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from skimage import data
from tables import print_records

import shapjax as sj
from shapjax.explainers.activation_maps import gradcam
from shapjax.explainers.gradients import pooled_cosine
from shapjax.explainers.gram_sam import gram_sam
from shapjax.explainers.ig_sam import ig_sam
from shapjax.explainers.integrated_jacobians import integrated_jacobians
from shapjax.games.pooled import cosine_game, gram_matrices, pooled_rows, unmasked_row

FIGURES = Path(__file__).parent / "figures"
BUDGETS = (1_000, 3_000, 10_000, 40_000)


def dummy() -> list[dict[str, Any]]:
    """Draw the counterexample of A.4 on the built-in pair."""
    left, right, _ = data.stereo_motorcycle()
    model = sj.backbones.load("shapjax_tiny")
    match = sj.similarity_game(model, left, right).match
    x, y = jnp.asarray(match.feature_maps(), float)
    rows, columns = y.shape[:2]
    seen = (jnp.arange(columns) >= columns // 2)[None, :, None]
    zero = jnp.zeros_like(y)

    def blind(features: jax.Array) -> jax.Array:
        return pooled_cosine(x.mean(axis=(0, 1)), (features * seen).mean(axis=(0, 1)))

    grams = gram_matrices(unmasked_row(x), pooled_rows(y * seen, zero))
    key = jax.random.key(0)
    maps = {
        "GradCAM": gradcam(blind, y, zero),
        "IG SAM": ig_sam(grams, budget=5_000, key=key).singles,
        "Kernel SAM": sj.estimate(
            cosine_game(grams), rows * columns, index="SV", budget=5_000, key=0
        ).singles,
        "Gram SAM": gram_sam(grams, budget=5_000, key=key).singles,
    }
    shown = {name: np.asarray(values).reshape(rows, columns) for name, values in maps.items()}
    draw_dummy(right, shown)
    return [
        {
            "method": name,
            "left_half": round(float(np.abs(v[:, : columns // 2]).sum() / np.abs(v).sum()), 4),
        }
        for name, v in shown.items()
    ]


def draw_dummy(picture: np.ndarray, maps: dict[str, np.ndarray]) -> None:
    """One panel for each method, over the picture whose left half plays no part."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = picture.shape[:2]
    figure = Figure(figsize=(3.0 * len(maps), 3.0 * height / width + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, values) in zip(figure.subplots(1, len(maps)), maps.items(), strict=True):
        limit = np.abs(values).max()
        axes.imshow(picture.mean(axis=2), cmap="gray", extent=(0, width, height, 0))
        axes.imshow(
            values, cmap="RdBu_r", vmin=-limit, vmax=limit, alpha=0.65, extent=(0, width, height, 0)
        )
        axes.axvline(width / 2, color="black", linewidth=1, linestyle="--")
        axes.set_title(name, fontsize=10)
        axes.set_axis_off()
    figure.savefig(FIGURES / "dummy.png", dpi=110)


def reference() -> list[dict[str, Any]]:
    """Hold sampled methods against Gram SAM on one cosine game."""
    left, right, _ = data.stereo_motorcycle()
    model = sj.backbones.load("shapjax_tiny")
    game = sj.similarity_game(model, left, right)
    assert game.grams is not None
    n_query = game.n_query
    truth = cross(gram_sam(game.grams, budget=40_000, key=jax.random.key(99)), n_query)
    maps = jnp.asarray(game.match.feature_maps(), float)
    blanks = [jnp.asarray(game.match.feature_blanks(side)[0], float) for side in (0, 1)]
    towers = [pooled_rows(m, b) for m, b in zip(maps, blanks, strict=True)]
    grams = game.grams

    def estimated(method: str) -> Any:
        return lambda budget, seed: sj.estimate(
            game.value_fn, game.n_players, budget=budget, method=method, key=seed, chunk_size=4096
        )

    methods: dict[str, Any] = {
        "gram-sam": lambda budget, seed: gram_sam(grams, budget=budget, key=jax.random.key(seed)),
        "kernel-sam (kernel-direct)": estimated("kernel-direct"),
        "kernel-weighting": estimated("kernel-weighting"),
        "permutation": estimated("permutation"),
        "ig-sam (another index)": lambda budget, seed: ig_sam(
            grams, budget=budget, key=jax.random.key(seed)
        ),
    }
    records = []
    for name, run in methods.items():
        for budget in BUDGETS:
            try:
                jax.block_until_ready(run(budget, 0).coefficients)
            except sj.ShapjaxError:
                continue
            begun = time.perf_counter()
            found = run(budget, 1)
            jax.block_until_ready(found.coefficients)
            seconds = time.perf_counter() - begun
            records.append(record(name, found, truth, n_query, seconds))
    begun = time.perf_counter()
    found = integrated_jacobians(*towers, nodes=64)
    jax.block_until_ready(found.coefficients)
    records.append(
        record("integrated-jacobians (another index)", found, truth, n_query, 0.0)
        | {"evaluations": 64, "seconds": round(time.perf_counter() - begun, 3)}
    )
    draw_reference(records)
    return records


def cross(found: sj.Interactions, n_query: int) -> np.ndarray:
    """Cross pairs [nq, nr]."""
    return np.asarray(found.pairs)[:n_query, n_query:]


def record(
    name: str, found: sj.Interactions, truth: np.ndarray, n_query: int, seconds: float
) -> dict[str, Any]:
    """Error of the cross pairs, over their variance, and how well they are ordered."""
    pairs = cross(found, n_query)
    return {
        "method": name,
        "evaluations": int(found.stats.get("evaluations", 0)),
        "seconds": round(seconds, 3),
        "relative_mse": float(f"{np.mean((pairs - truth) ** 2) / np.var(truth):.2g}"),
        "correlation": round(float(np.corrcoef(pairs.ravel(), truth.ravel())[0, 1]), 4),
    }


def draw_reference(records: list[dict[str, Any]]) -> None:
    """Error against evaluations, and against seconds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, along in zip(panels, ("evaluations", "seconds"), strict=True):
        for name in dict.fromkeys(r["method"] for r in records):
            own = [r for r in records if r["method"] == name]
            axes.loglog(
                [r[along] for r in own], [r["relative_mse"] for r in own], "o-", label=name, ms=3
            )
        axes.axhline(1, color="grey", linewidth=0.8, linestyle=":")
        axes.set_xlabel(along)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("MSE of cross pairs / their variance")
    panels[1].legend(fontsize=7, loc="center right")
    figure.savefig(FIGURES / "reference.png", dpi=110)


def main() -> None:
    """Draw one figure and print its numbers as a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figure", choices=("dummy", "reference"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    FIGURES.mkdir(exist_ok=True)
    print_records({"dummy": dummy, "reference": reference}[options.figure](), as_json=options.json)


if __name__ == "__main__":
    main()
