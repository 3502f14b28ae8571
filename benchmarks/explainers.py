"""Two figures on the explanation methods, and the numbers in them.

    python benchmarks/explainers.py dummy [QUERY RETRIEVED] [--json]   GradCAM breaks an axiom (A.4)
    python benchmarks/explainers.py reference [--quick] [--json]     methods against Gram SAM

``dummy``: a similarity that ignores the left half of the retrieved picture,
d(x, y) = cos(GAP(x), GAP(y M)), with a background (blurred by default); the share of the absolute
credit that each method gives that half, which is zero by the dummy axiom.

``reference``: mean squared error of the values of the retrieved picture's locations (order 1) and
of the cross pairs (order 2) over their variance, against evaluations and seconds; cosine games of
two pairs of photographs with 16 players a side and a blurred background, means over three seeds.
The reference is Gram SAM at 400,000 coalitions with a key of its own; its error is given as its
standard errors say, and as it is: 16 + 16 players are few enough to encode every mask of either
picture, from which ``two-tower`` is exact. ``95% intervals hold``: the share of a method's
intervals with the reference in them, the reference's own error added; a run's errors go together,
so that three seeds tell it to about a tenth only.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from skimage import data
from tables import print_records

import shapjax as sj
from shapjax.backbones.record import Backbone
from shapjax.explainers.activation_maps import gradcam
from shapjax.explainers.gradients import pooled_cosine
from shapjax.explainers.gram_sam import gram_sam
from shapjax.explainers.ig_sam import ig_sam
from shapjax.explainers.integrated_jacobians import integrated_jacobians
from shapjax.explainers.sam import sam
from shapjax.explainers.towers import play_towers
from shapjax.games.pooled import Grams, cosine_game, gram_matrices, pooled_rows, unmasked_row
from shapjax.report.layouts import save_methods

FIGURES = Path(__file__).parent / "figures"
KERNEL_BUDGETS = (5_000, 40_000, 320_000)

REFERENCE = "the reference, as it reports"
EXACT = "the reference, by all encodes"
LONG, QUICK = 400_000, 4_000
"""Coalitions of the reference."""
SEEDS = 3
BUDGETS = (1_000, 3_000, 10_000, 40_000)
SAMPLED = {"two-tower": (100, 300, 1_000, 2_000), "permutation": BUDGETS[:3], "ig-sam": BUDGETS[:2]}
"""Budgets of their own; two-tower counts encodes, each of one picture."""
CLOSED = {"sam": (1,), "integrated-jacobians": (64,)}
OTHER = ("sam", "ig-sam", "integrated-jacobians")
"""Methods whose index is another one: their error does not vanish."""


def dummy(
    model: Backbone,
    pair: tuple[Any, Any],
    background: str,
    path: Path,
    kernel_budgets: tuple[int, ...] = KERNEL_BUDGETS,
) -> list[dict[str, Any]]:
    """Draw the counterexample of A.4 on a pair of pictures."""
    pictures = [sj.load_image(picture) for picture in pair]
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
    for budget in kernel_budgets:
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
    save_methods([(*pictures, explanations)], path, line=columns // 2 / columns)
    return records


class Held(NamedTuple):
    """A game of one pair of pictures, and what a long run of Gram SAM finds in it.

    Attributes:
        rows: of either picture, float64 [1 + n, C]; a picture that does not play has one.
        grams: their Gram matrices.
        truth: the cross pairs, or at first order the values, flat.
        errors: standard errors of these.
    """

    rows: tuple[jax.Array, jax.Array]
    grams: Grams
    truth: np.ndarray
    errors: np.ndarray


Run = Callable[[Held, int, int], sj.Interactions]
"""(game, budget, seed) to interactions."""


def reference(*, quick: bool, out: Path) -> list[dict[str, Any]]:
    """Hold the methods against a long run of Gram SAM, at both orders."""
    pairs = maps_of_pairs()[: 1 if quick else None]
    seeds = 1 if quick else SEEDS
    records = []
    for order in (1, 2):
        games = [hold(maps, order, QUICK if quick else LONG) for maps in pairs]
        noise = np.mean([np.mean(game.errors**2) / game.truth.var() for game in games])
        shown = {"evaluations": QUICK if quick else LONG, "error": float(f"{noise:.2g}")}
        records.append({"order": order, "method": REFERENCE, **shown})
        if not quick:
            records.append({"order": order, "method": EXACT, **against_exact(games)})
        for name, run in estimators(order).items():
            own = CLOSED.get(name, SAMPLED.get(name, BUDGETS))
            for budget in own[: 1 if quick else None]:
                records.append(
                    {"order": order, "method": name, **compare(run, budget, games, seeds)}
                )
                print(records[-1], file=sys.stderr)
    draw_reference(records, out)
    return records


def maps_of_pairs() -> list[list[tuple[jax.Array, jax.Array]]]:
    """Of each pair of pictures, both maps with those of their backgrounds, float64 [4, 4, C]."""
    left, right, _ = data.stereo_motorcycle()
    model = sj.backbones.load("shapjax_tiny")
    found = []
    for pair in ((left, right), (data.chelsea(), data.coffee())):
        match = sj.similarity_game(model, *pair).match
        sides = []
        for side, features in enumerate(match.feature_maps()):
            both = jnp.asarray(jnp.stack([features, match.feature_blanks(side)[0]]), float)
            _, height, width, channels = both.shape
            # Four cells are one player: so few that the kernels' budgets are ample.
            cells = both.reshape(2, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
            sides.append((cells[0], cells[1]))
        found.append(sides)
    return found


def hold(maps: list[tuple[jax.Array, jax.Array]], order: int, budget: int) -> Held:
    """The game of one pair; at first order the retrieved picture plays."""
    (query, query_blank), retrieved = maps
    rows = pooled_rows(query, query_blank) if order == 2 else unmasked_row(query)
    both = rows, pooled_rows(*retrieved)
    grams = gram_matrices(*both)
    found = gram_sam(grams, budget=budget, key=jax.random.key(99))
    assert found.standard_errors is not None
    errors = top_terms(found.standard_errors, grams)
    return Held(both, grams, top_terms(found.coefficients, grams), errors)


def top_terms(parts: Any, grams: Grams) -> np.ndarray:
    """Values of the players at first order, else cross pairs, flat."""
    n_query, n = grams.n_query, grams.n_query + grams.n_retrieved
    if not n_query:
        return np.asarray(parts[1])
    matrix = np.zeros((n, n))
    matrix[np.triu_indices(n, 1)] = np.asarray(parts[2])
    return matrix[:n_query, n_query:].ravel()


def estimators(order: int) -> dict[str, Run]:
    """Methods by name."""

    def estimated(method: str, **options: Any) -> Run:
        index = "STII" if order == 2 else "SV"
        settings = {"index": index, "order": order, "method": method, "chunk_size": 4096, **options}

        def run(game: Held, budget: int, seed: int) -> sj.Interactions:
            players = game.grams.n_query + game.grams.n_retrieved
            play = cosine_game(game.grams)
            return sj.estimate(play, players, budget=budget, key=seed, **settings)

        return run

    def sampled(find: Callable[..., sj.Interactions]) -> Run:
        return lambda game, budget, seed: find(game.grams, budget=budget, key=jax.random.key(seed))

    def towers(game: Held, budget: int, seed: int) -> sj.Interactions:
        units = [unit_tower(np.asarray(rows)) for rows in game.rows]
        return play_towers(units, budget, jax.random.key(seed), chunk_size=4096)

    found: dict[str, Run] = {
        "gram-sam": sampled(gram_sam),
        "two-tower": towers,
        # As explain calls it, without refits for standard errors; kernel-shap with features as
        # players is the same.
        "kernel-sam": estimated("kernel-direct", refits=0),
        "kernel-weighting": estimated("kernel-weighting", refits=0),
        "permutation": estimated("permutation"),
        "ig-sam": sampled(ig_sam),
        "sam": lambda game, budget, seed: sam(game.grams),
    }
    if order == 2:
        found["integrated-jacobians"] = lambda game, budget, seed: integrated_jacobians(
            *game.rows, nodes=budget
        )
    else:
        del found["kernel-weighting"]  # Of pairs alone.
    return found


def unit_tower(rows: np.ndarray) -> Any:
    """A tower of masked, pooled and normalised rows; its one vector if nothing plays."""
    players = len(rows) - 1
    if not players:
        return rows[0] / np.linalg.norm(rows[0])

    def embed(masks: np.ndarray) -> np.ndarray:
        pooled = rows[0] + np.asarray(masks, float) @ rows[1:]
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)

    return embed, players


def compare(run: Run, budget: int, games: list[Held], seeds: int) -> dict[str, Any]:
    """Means over games and seeds: MSE over variance, correlation, seconds; interval coverage."""
    errors, correlations, seconds, held = [], [], [], []
    if seeds > 1:
        jax.block_until_ready(run(games[0], budget, 0))  # Compiles.
    for game in games:
        for seed in range(1, seeds + 1):
            begun = time.perf_counter()
            found = jax.block_until_ready(run(game, budget, seed))
            seconds.append(time.perf_counter() - begun)
            values = top_terms(found.coefficients, game.grams)
            errors.append(np.mean((values - game.truth) ** 2) / game.truth.var())
            correlations.append(np.corrcoef(values, game.truth)[0, 1])
            if found.standard_errors is not None and found.index in ("SV", "STII"):
                spread = np.hypot(top_terms(found.standard_errors, game.grams), game.errors)
                held.append(np.mean(np.abs(values - game.truth) < 1.96 * spread))
    return {
        "evaluations": int(found.stats.get("evaluations", budget)),
        "seconds": float(f"{np.mean(seconds):.2g}"),
        "error": float(f"{np.mean(errors):.2g}"),
        "correlation": round(float(np.mean(correlations)), 4),
        "95% intervals hold": round(float(np.mean(held)), 2) if held else "",
    }


def against_exact(games: list[Held]) -> dict[str, Any]:
    """The reference's true error: two towers encode every mask of either picture."""
    errors = []
    for game in games:
        units = [unit_tower(np.asarray(rows)) for rows in game.rows]
        encodes = sum(1 << len(rows) - 1 for rows in game.rows if len(rows) > 1)
        found = play_towers(units, encodes, jax.random.key(0), chunk_size=1 << 14)
        exact = top_terms(found.coefficients, game.grams)
        errors.append(np.mean((game.truth - exact) ** 2) / exact.var())
    return {"evaluations": encodes, "error": float(f"{np.mean(errors):.2g}")}


def draw_reference(records: list[dict[str, Any]], out: Path) -> None:
    """Error against evaluations, and against seconds, at both orders."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2, sharey="row", sharex="col")
    both = (REFERENCE, EXACT)
    names = list(dict.fromkeys(r["method"] for r in records if r["method"] not in both))
    for order, row in zip((1, 2), panels, strict=True):
        for axes, along in zip(row, ("evaluations", "seconds"), strict=True):
            for place, name in enumerate(names):
                own = [r for r in records if (r["order"], r["method"]) == (order, name)]
                axes.loglog(
                    [r[along] for r in own],
                    [r["error"] for r in own],
                    "--x" if name in OTHER else "-o",
                    color=f"C{place}",
                    label=f"{name} (another index)" if name in OTHER else name,
                    markersize=4,
                )
            (noise,) = (
                r["error"] for r in records if (r["order"], r["method"]) == (order, REFERENCE)
            )
            axes.axhline(noise, color="black", linewidth=0.8, linestyle=":")
            if along == "evaluations":
                axes.annotate(
                    "the reference's own error",
                    (0.02, noise),
                    (0, 3),
                    xycoords=("axes fraction", "data"),
                    textcoords="offset points",
                    fontsize=9,
                )
            axes.axhline(1, color="grey", linewidth=0.8, linestyle=":")
            axes.grid(alpha=0.3)
        row[0].set_ylabel(f"order {order}: MSE / variance")
    panels[1, 0].set_xlabel("evaluations (two-tower: encodes)")
    panels[1, 1].set_xlabel("seconds")
    figure.legend(*panels[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(out / "reference.png", dpi=100)


def main() -> None:
    """Draw one figure and print its numbers as a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figure", choices=("dummy", "reference"))
    parser.add_argument("pictures", nargs="*", metavar="QUERY RETRIEVED", help="for dummy")
    parser.add_argument("--background", default="blur", help="of dummy: blur, mean, zero, ...")
    parser.add_argument("--quick", action="store_true", help="of reference: one pair, one seed")
    parser.add_argument("--out", type=Path, default=FIGURES, metavar="DIR", help="of the figure")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.figure == "reference":
        records = reference(quick=options.quick, out=options.out)
    else:
        if len(options.pictures) not in (0, 2):
            parser.error("give two pictures, or none for the built-in pair")
        model = sj.backbones.load("shapjax_tiny")
        pair = options.pictures or data.stereo_motorcycle()[:2]
        records = dummy(model, tuple(pair), options.background, options.out / "dummy.jpg")
    print_records(records, as_json=options.json)


if __name__ == "__main__":
    main()
