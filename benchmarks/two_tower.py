"""Two towers beside Kernel-Direct: error of the cross pairs at the same number of encodes.

    python benchmarks/two_tower.py [--quick] [--json] [--pictures FOLDER --squeezenet WEIGHTS]

An encode is one masked item through its tower. Kernel-Direct evaluates pairs of masks, two encodes
each, so that E encodes are E/2 evaluations; the two towers share E between them. Error is the MSE
over the variance of the true cross pairs, a mean over games; the ratio is Kernel-Direct's over
ours, the geometric mean over games. The 95% interval is two-tower's own.

Games: cosines of normalised sums of random rows, 8 + 7 players, and, where pictures and weights
are given, cosines of pooled SqueezeNet features of consecutive pairs of them: 8 + 7 groups of
locations against all 2**15 worths, and 7x7 + 7x7 locations against a reference that samples each
node of the integral for either tower (unbiased, since the towers' draws are independent). Two
references of their own draws each say how far it may be trusted.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from games import grouped
from large_game import cosines, error, resampled
from tables import print_records

import shapjax as sj
from shapjax.coalitions.enumerate import all_masks
from shapjax.games.pooled import Grams, cosine_game

QUERY, RETRIEVED = 8, 7
SAMPLES = 1000


class Towers(NamedTuple):
    """A game of two towers of normalised sums of rows.

    Attributes:
        query: background, then one row for each player, float64 [1 + nq, C].
        retrieved: float64 [1 + nr, C].
        cross: the true cross pairs, float64 [nq, nr].
        noise: error of these, over their variance.
    """

    query: np.ndarray
    retrieved: np.ndarray
    cross: np.ndarray
    noise: float


def embedding(rows: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A tower of masked, pooled and normalised rows."""

    def embed(masks: np.ndarray) -> np.ndarray:
        pooled = rows[0] + np.asarray(masks, float) @ rows[1:]
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)

    return embed


def roots(grams: Grams) -> tuple[np.ndarray, np.ndarray]:
    """Rows of each side with these Gram matrices: a root of the joint one."""
    joint = np.block([[grams.qq, grams.qr], [grams.qr.T, grams.rr]])
    values, vectors = np.linalg.eigh(joint)
    rows = vectors * np.sqrt(np.maximum(values, 0))
    return rows[: len(grams.qq)], rows[len(grams.qq) :]


def enumerated(rows: tuple[np.ndarray, np.ndarray]) -> Towers:
    """The game with its pairs from all worths."""
    nq, nr = (len(part) - 1 for part in rows)
    masks = np.asarray(all_masks(nq + nr))
    a, b = embedding(rows[0])(masks[:, :nq]), embedding(rows[1])(masks[:, nq:])
    pairs = np.asarray(sj.interactions((a * b).sum(axis=1)).pairs)
    return Towers(*rows, pairs[:nq, nq:], 0.0)


def sampled(rows: tuple[np.ndarray, np.ndarray], seed: int) -> Towers:
    """The game with its pairs from samples of each tower at each node."""
    n = sum(len(part) - 1 for part in rows)
    nodes, weights = np.polynomial.legendre.leggauss(-(-n // 2))
    p, weights = (nodes + 1) / 2, weights / 2 * (1 - nodes)
    halves = []
    for half in range(2):
        rng = np.random.default_rng([seed, half])
        total = np.zeros((len(rows[0]) - 1, len(rows[1]) - 1))
        for chance, weight in zip(p, weights, strict=True):
            total += weight * (_steps(rows[0], chance, rng) @ _steps(rows[1], chance, rng).T)
        halves.append(total)
    cross = (halves[0] + halves[1]) / 2
    return Towers(*rows, cross, float(((halves[0] - halves[1]) ** 2).mean() / 4 / cross.var()))


def _steps(rows: np.ndarray, p: float, rng: np.random.Generator) -> np.ndarray:
    """Mean change of the embedding by each player, at one node, [n, C]."""
    n = len(rows) - 1
    half = rng.random((SAMPLES // 2, n))
    # Antithetic: a uniform number and its mirror image.
    z = np.concatenate([half, 1 - half]) < p
    pooled = rows[0] + z @ rows[1:]
    out = np.empty((n, rows.shape[1]))
    for i in range(n):
        without = pooled - z[:, i, None] * rows[1 + i]
        joined = without + rows[1 + i]
        lengths = [np.linalg.norm(x, axis=1, keepdims=True) for x in (joined, without)]
        out[i] = (joined / lengths[0] - without / lengths[1]).mean(axis=0)
    return out


def random_rows(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the size of pooled features: positive, one background each."""
    rng = np.random.default_rng(seed)
    return tuple(rng.exponential(size=(n + 1, 16)) for n in (QUERY, RETRIEVED))  # pyright: ignore


def compare(family: str, games: list[Towers], budgets: tuple[int, ...]) -> list[dict]:
    """One record for each number of encodes."""
    records = []
    for budget in budgets:
        ours, kernel, covered, seconds = [], [], [], []
        for seed, game in enumerate(games):
            nq, nr = game.cross.shape
            a, b = embedding(game.query), embedding(game.retrieved)
            begun = time.process_time()
            found = sj.estimate_two_tower(a, b, nq, nr, budget, key=jax.random.key(seed))
            seconds.append(time.process_time() - begun)
            ours.append(error(found.cross, game.cross))
            off = np.abs(found.cross - game.cross)
            covered.append(np.mean(off <= 1.96 * found.standard_errors + 1e-12))
            q, r = game.query, game.retrieved
            worth = cosine_game(Grams(*(jnp.asarray(x) for x in (q @ q.T, q @ r.T, r @ r.T))))
            direct = sj.estimate(worth, nq + nr, budget=budget // 2, key=seed).pairs
            kernel.append(error(np.asarray(direct)[:nq, nq:], game.cross))
        ratio = np.exp(np.mean(np.log(np.array(kernel) / np.array(ours))))
        records.append(
            {
                "family": family,
                "encodes": budget,
                "games": len(games),
                "Kernel-Direct": float(f"{np.mean(kernel):.2g}"),
                "two-tower": float(f"{np.mean(ours):.2g}"),
                "worst game": float(f"{np.max(ours):.2g}"),
                "ratio": float(f"{ratio:.2g}"),
                "95% interval covers": round(float(np.mean(covered)), 2),
                "reference's error": float(f"{np.mean([game.noise for game in games]):.1g}"),
                "CPU seconds": round(float(np.median(seconds)), 1),
            }
        )
    return records


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer games and budgets")
    parser.add_argument("--pictures", metavar="FOLDER", help="photographs, with --squeezenet")
    parser.add_argument("--squeezenet", metavar="WEIGHTS")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    count, budgets = (2, (96,)) if options.quick else (6, (64, 96, 192, 288))
    games = [enumerated(random_rows(seed)) for seed in range(count)]
    records = compare("random rows, 8+7", games, budgets)
    if options.pictures and options.squeezenet:
        given = options.pictures, options.squeezenet
        few = cosines(*given, count, functools.partial(grouped, query=QUERY, retrieved=RETRIEVED))
        games = [enumerated(roots(grams)) for grams in few]
        records += compare("photographs, 8+7", games, budgets)
        many = cosines(*given, 1 if options.quick else 3, resampled)
        games = [sampled(roots(grams), seed) for seed, grams in enumerate(many)]
        budgets = (400,) if options.quick else (400, 1000)
        records += compare("photographs, 7x7+7x7", games, budgets)
    print_records(records, as_json=options.json)


if __name__ == "__main__":
    main()
