"""98 players: errors, intervals and time where no exact index and no dense kernel matrix exist.

    python benchmarks/large_game.py --pictures FOLDER --squeezenet WEIGHTS
        [--budgets 500 2000 20000] [--games 2] [--methods auto kernel-direct] [--json]
    python benchmarks/large_game.py --quick

Games are cosines of pooled SqueezeNet features of consecutive pairs of the pictures, 7x7 locations
a side. Error is the MSE of the pair terms (Shapley-Taylor) over their variance, against Gram SAM
at 48,000 coalitions; the constant answer has 1. Every game is estimated twice and the second time
is given, without compilation. ``--quick`` needs no files: one game of random features.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tables import print_records

import shapjax as sj
from shapjax.explainers.gram_sam import gram_sam
from shapjax.games.pooled import Grams, cosine_game
from shapjax.games.similarity import similarity_game

SIDE = 7
PLAYERS = 2 * SIDE**2


def resampled(grams: Grams) -> Grams:
    """The game of feature maps of 14x14 locations brought bilinearly to 7x7 players a side."""
    side = np.asarray(jax.image.resize(jnp.eye(2 * SIDE), (SIDE, 2 * SIDE), "linear"))
    # A row is a location's share of the mean: fewer locations have larger shares.
    grouping = np.zeros((SIDE**2 + 1, 4 * SIDE**2 + 1))
    grouping[0, 0], grouping[1:, 1:] = 1, 4 * np.kron(side, side)
    return Grams(*(grouping @ np.asarray(g) @ grouping.T for g in grams))


def cosines(
    folder: str, weights: str, count: int, coarsen: Callable[[Grams], Grams]
) -> list[Grams]:
    """Games of consecutive pairs of the pictures of a folder, of fewer players."""
    backbone = sj.backbones.load("squeezenet1_1", weights=weights)
    pictures = sorted(Path(folder).glob("*.jpg"))
    found = []
    for place in range(count):
        grams = similarity_game(backbone, *pictures[2 * place : 2 * place + 2]).grams
        assert grams is not None
        found.append(coarsen(grams))
    return found


def random_features(seed: int, channels: int = 64) -> Grams:
    """The game of two maps of random features that are smooth in the plane."""
    rng = np.random.default_rng(seed)
    place = np.stack(np.meshgrid(*[np.arange(SIDE)] * 2), -1).reshape(-1, 2)
    near = np.exp(-((place[:, None] - place) ** 2).sum(-1) / 4)
    rows = [
        np.vstack([np.zeros(channels), np.maximum(near @ rng.normal(size=(SIDE**2, channels)), 0)])
        for _ in range(2)
    ]
    return Grams(*(a @ b.T for a, b in ((rows[0], rows[0]), rows, (rows[1], rows[1]))))


def error(found: np.ndarray, exact: np.ndarray) -> float:
    """MSE over the variance of the truth."""
    return float(((np.asarray(found) - exact) ** 2).mean() / exact.var())


def measure(name: str, grams: Grams, exact: np.ndarray, method: str, budget: int) -> dict:
    """One record: error, coverage of the 95% intervals, and the time of a second estimate."""
    game = cosine_game(grams)
    for attempt in range(2):
        begun, cpu = time.perf_counter(), time.process_time()
        found = sj.estimate(game, PLAYERS, budget=budget, method=method, key=attempt)
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    pairs, errors = found.of_size(2), found.standard_errors
    inside = errors and np.mean(np.abs(pairs - exact) <= 1.96 * np.asarray(errors[2]))
    return {
        "game": name,
        "evaluations": budget,
        "method": method,
        "error": float(f"{error(pairs, exact):.2g}"),
        "95% interval covers": "" if inside is None else round(float(inside), 2),
        "seconds": round(seconds, 1),
        "CPU seconds": round(cpu, 1),
    }


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one game, one small budget")
    parser.add_argument("--pictures", metavar="FOLDER")
    parser.add_argument("--squeezenet", metavar="WEIGHTS")
    parser.add_argument("--budgets", type=int, nargs="+", default=[500, 2000, 4000, 20_000])
    parser.add_argument("--games", type=int, default=2)
    parser.add_argument("--methods", nargs="+", default=["auto", "kernel-direct"])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    if options.quick:
        options.budgets = [500]
        games = {"random features": random_features(0)}
    elif options.pictures and options.squeezenet:
        found = cosines(options.pictures, options.squeezenet, options.games, resampled)
        games = {f"photographs {2 * k} and {2 * k + 1}": g for k, g in enumerate(found)}
    else:
        parser.error("give --pictures and --squeezenet, or --quick")
    records = []
    for name, grams in games.items():
        budget = 4000 if options.quick else 48_000
        exact = np.asarray(gram_sam(grams, budget=budget, key=jax.random.key(7)).coefficients[2])
        records += [
            measure(name, grams, exact, method, budget)
            for budget in options.budgets
            for method in options.methods
        ]
    print_records(records, as_json=options.json)


if __name__ == "__main__":
    main()
