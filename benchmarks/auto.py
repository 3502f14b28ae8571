"""``method="auto"`` beside the other estimators of this package, at the same budget.

    python benchmarks/auto.py [--quick] [--tuning] [--budgets 250 500] [--games 4] [--json]
        [--order 2] [--pictures FOLDER --squeezenet WEIGHTS]

Error is the MSE of the terms of the top order (Shapley-Taylor; order 1 is the Shapley value) over
the variance of the true ones, 15 players, a mean over games; the constant answer has 1. Families:
three-layer Glorot ReLU networks; Boolean polynomials; and, where pictures and weights are given,
the cosine of pooled SqueezeNet features of pairs of pictures, with 8 + 7 groups of locations or
8 + 7 superpixels as players.

What the estimator fixes by hand (which sizes are taken whole, how the others are drawn, when it
corrects) was set on the games that ``--tuning`` prints: networks and Boolean polynomials with seeds
from 100 on, and later pairs of pictures than those reported.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from games import grouped
from gaussian_process import PLAYERS, QUERY, boolean, error, network
from tables import print_records

import shapjax as sj
from shapjax.backbones.record import Backbone
from shapjax.coalitions.enumerate import all_masks
from shapjax.games.backgrounds import background
from shapjax.games.images import load_image
from shapjax.games.pooled import cosine_game
from shapjax.games.similarity import similarity_game

METHODS = ("kernel-direct", "permutation", "shap-iq", "svarm-iq", "gaussian-process", "auto")


def superpixel_table(backbone: Backbone, pair: list[Path]) -> np.ndarray:
    """Cosine of the masked pictures for all coalitions: the towers are encoded apart."""
    game = similarity_game(backbone, *pair, players="superpixels")
    sides = []
    for picture, count, side in zip(
        pair, (QUERY, PLAYERS - QUERY), ("query", "retrieved"), strict=True
    ):
        labels = getattr(game, f"{side}_players")
        # Neighbouring superpixels are numbered alike: groups of them are the players.
        owner = labels * count // (labels.max() + 1)
        shown = np.asarray(all_masks(count))[:, owner][..., None]
        rgb = np.asarray(backbone.resize(load_image(picture), fit="stretch"))
        blank = background("blur", rgb, backbone)
        embed = jax.jit(lambda x: backbone.embed(backbone.normalise(x)))
        rows = np.concatenate(
            [
                np.asarray(embed(jnp.asarray(np.where(shown[i : i + 32], rgb, blank))))
                for i in range(0, len(shown), 32)
            ]
        ).astype(np.float64)
        sides.append(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    return (sides[1] @ sides[0].T).reshape(-1)


def tables(options: argparse.Namespace) -> dict[str, list[np.ndarray]]:
    """Worths of all coalitions, per family."""
    every = np.asarray(all_masks(PLAYERS))
    first = 100 if options.tuning else 0
    seeds = range(first, first + options.games)
    found = {
        "ReLU networks": [network(seed)(every) for seed in seeds],
        "Boolean polynomials": [boolean(seed)(every) for seed in seeds],
    }
    if options.pictures and options.squeezenet:
        backbone = sj.backbones.load("squeezenet1_1", weights=options.squeezenet)
        pictures = sorted(Path(options.pictures).glob("*.jpg"))
        first = 50 if options.tuning else 0
        pairs = [pictures[2 * k : 2 * k + 2] for k in range(first, first + options.games)]
        found["cosine of photographs"] = [
            np.asarray(cosine_game(grouped(grams, QUERY, PLAYERS - QUERY))(jnp.asarray(every)))
            for grams in (similarity_game(backbone, *pair).grams for pair in pairs)
            if grams is not None
        ]
        found["superpixels of photographs"] = [superpixel_table(backbone, pair) for pair in pairs]
    return found


def compare(family: str, games: list[np.ndarray], budget: int, order: int) -> dict:
    """One record: errors of every method, and what auto says of itself."""
    record: dict = {"family": family, "evaluations": budget, "games": len(games)}
    seconds, covered = [], []
    for method in METHODS:
        errors = []
        for seed, table in enumerate(games):
            index = "STII" if order > 1 else "SV"
            truth = np.asarray(sj.interactions(table, index, order).coefficients[order])
            begun = time.process_time()
            found = sj.estimate(
                lambda masks, table=table: table[masks @ (1 << np.arange(PLAYERS))],
                PLAYERS,
                index,
                order,
                budget=budget,
                method=method,
                key=seed,
                traceable=False,
            )
            errors.append(error(found.of_size(order), truth))
            if method == "auto":
                seconds.append(time.process_time() - begun)
                assert found.standard_errors is not None
                wide = 1.96 * np.asarray(found.standard_errors[order])
                covered.append(np.mean(np.abs(found.of_size(order) - truth) <= wide + 1e-12))
        record[method] = float(f"{np.mean(errors):.2g}")
    record["95% interval covers"] = round(float(np.mean(covered)), 2)
    record["CPU seconds"] = round(float(np.median(seconds)), 2)
    return record


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one game, one budget")
    parser.add_argument("--tuning", action="store_true", help="the games it was tuned on")
    parser.add_argument("--budgets", type=int, nargs="+", default=[250, 500, 1000, 2000, 4000])
    parser.add_argument("--games", type=int, default=4)
    parser.add_argument("--order", type=int, default=2)
    parser.add_argument("--pictures", metavar="FOLDER", help="photographs, with --squeezenet")
    parser.add_argument("--squeezenet", metavar="WEIGHTS")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    if options.quick:
        options.games, options.budgets = 1, [250]
    records = [
        compare(family, games, budget, options.order)
        for family, games in tables(options).items()
        for budget in options.budgets
    ]
    print_records(records, as_json=options.json)


if __name__ == "__main__":
    main()
