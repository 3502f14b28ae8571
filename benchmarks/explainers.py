"""Two figures on the explanation methods, and the numbers in them.

    python benchmarks/explainers.py dummy [QUERY RETRIEVED] [--json]   GradCAM breaks an axiom (A.4)
    python benchmarks/explainers.py reference [--json]        sampled methods against Gram SAM

``dummy``: a similarity that ignores the left half of the retrieved picture,
d(x, y) = cos(GAP(x), GAP(y M)), with a background (blurred by default); the share of the absolute
credit that each method gives that half, which is zero by the dummy axiom. ``reference``: mean
squared error of the cross pairs of the built-in stereo pair (16 + 16 locations, cosine, blurred
background) over their variance, against evaluations and seconds; the reference is Gram SAM at
40,000 coalitions with a key of its own.
"""

from __future__ import annotations

import argparse
import sys
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
from shapjax.report.layouts import save_methods

FIGURES = Path(__file__).parent / "figures"
BUDGETS = (1_000, 3_000, 10_000, 40_000)
KERNEL_BUDGETS = (5_000, 40_000, 320_000)


def dummy(query: str | None, retrieved: str | None, background: str) -> list[dict[str, Any]]:
    """Draw the counterexample of A.4 on a pair of pictures, the built-in one by default."""
    left, right, _ = data.stereo_motorcycle()
    pictures = [sj.load_image(left), sj.load_image(right)]
    if query is not None and retrieved is not None:
        pictures = [sj.load_image(query), sj.load_image(retrieved)]
    model = sj.backbones.load("shapjax_tiny")
    whole = sj.similarity_game(model, *pictures, masked="retrieved", background=background)
    match = whole.match
    x, y = jnp.asarray(match.feature_maps(), float)
    blank = jnp.asarray(match.feature_blanks(1)[0], float)
    rows, columns = y.shape[:2]
    seen = (jnp.arange(columns) >= columns // 2)[None, :, None]

    def blind(features: jax.Array) -> jax.Array:
        return pooled_cosine(x.mean(axis=(0, 1)), (features * seen).mean(axis=(0, 1)))

    grams = gram_matrices(unmasked_row(x), pooled_rows(y * seen, blank * seen))
    game = cosine_game(grams)
    empty, grand = np.asarray(game(np.arange(2)[:, None].astype(bool).repeat(rows * columns, 1)))

    def kernel(budget: int) -> sj.Interactions:
        options = {"index": "SV", "method": "kernel-direct", "key": 0}
        return sj.estimate(game, rows * columns, budget=budget, **options)

    key = jax.random.key(0)
    found: dict[str, tuple[Any, int]] = {
        "GradCAM": (gradcam(blind, y, blank), 1),
        "IG SAM": (ig_sam(grams, budget=5_000, key=key).singles, 5_000),
        "Gram SAM": (gram_sam(grams, budget=5_000, key=key).singles, 5_000),
    }
    for budget in KERNEL_BUDGETS:
        found[f"Kernel SAM, {budget:,}"] = (kernel(budget).singles, budget)
    explanations, records = [], []
    for name, (values, budget) in found.items():
        singles = np.asarray(values, np.float64).ravel()
        credit = np.abs(singles.reshape(rows, columns))
        interactions = sj.Interactions((np.array([empty]), singles), "SV", rows * columns)
        ends = (float(grand), float(grand), float(empty), budget, 0.0)
        explanations.append(
            sj.Explanation(name, model.name, interactions, None, whole.retrieved_players, *ends)
        )
        share = float(credit[:, : columns // 2].sum() / credit.sum())
        records.append({"method": name, "evaluations": budget, "left_half": round(share, 4)})
    save_methods([(*pictures, explanations)], FIGURES / "dummy.jpg", line=0.5)
    return records


def reference() -> list[dict[str, Any]]:
    """Hold sampled methods against Gram SAM on one cosine game."""
    left, right, _ = data.stereo_motorcycle()
    model = sj.backbones.load("shapjax_tiny")
    game = sj.similarity_game(model, left, right)
    # Four cells of the map are one player: 16 + 16, which the kernels can afford 40,000 rows for.
    towers = []
    for side, features in enumerate(game.match.feature_maps()):
        both = jnp.stack([features, game.match.feature_blanks(side)[0]])
        _, height, width, channels = both.shape
        cells = both.reshape(2, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
        towers.append(pooled_rows(*jnp.asarray(cells, float)))
    grams = gram_matrices(*towers)
    play = cosine_game(grams)
    n_query = grams.n_query
    n_players = n_query + grams.n_retrieved
    truth = cross(gram_sam(grams, budget=40_000, key=jax.random.key(99)), n_query)

    def estimated(method: str, **options: Any) -> Any:
        # Kernel SAM as explain calls it, without refits for standard errors.
        return lambda budget, seed: sj.estimate(
            play, n_players, budget=budget, method=method, key=seed, chunk_size=4096, **options
        )

    methods: dict[str, Any] = {
        "gram-sam": lambda budget, seed: gram_sam(grams, budget=budget, key=jax.random.key(seed)),
        "kernel-sam": estimated("kernel-direct", refits=0),
        "kernel-weighting": estimated("kernel-weighting", refits=0),
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
            print(records[-1], file=sys.stderr)
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
    parser.add_argument("pictures", nargs="*", metavar="QUERY RETRIEVED", help="for dummy")
    parser.add_argument("--background", default="blur", help="of dummy: blur, mean, zero, ...")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    FIGURES.mkdir(exist_ok=True)
    if options.figure == "reference":
        records = reference()
    else:
        if len(options.pictures) not in (0, 2):
            parser.error("give two pictures, or none for the built-in pair")
        records = dummy(*(options.pictures or (None, None)), options.background)
    print_records(records, as_json=options.json)


if __name__ == "__main__":
    main()
