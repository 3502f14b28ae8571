r"""How small the error can be: of estimators that know what they cannot know.

    python benchmarks/limit.py [--budgets 250 1000] [--order 1] [--seeds 5] [--search] [--json]
    python benchmarks/limit.py --family superpixels [--known 1000] [the same]

Without a family, the best linear estimator on ReLU networks that knows their law.

Wide three-layer Glorot ReLU networks of the masks are a Gaussian process whose covariance is known
(the arc-cosine kernel of Cho & Saul 2009, twice). Its posterior mean, given the worths of some
coalitions, has the least expected squared error of all linear estimators from those coalitions;
what is left is the trace of a posterior covariance and needs no simulation. Printed is that trace
for the pair terms (Shapley-Taylor; with ``--order 1`` for the Shapley values) about their mean,
over their variance a priori: for the coalitions that ``auto``
draws, and with ``--search`` for the best number of coalitions by size that a coordinate search
finds. An estimator that does not know the law cannot be expected below it.

Of a family of games whose law nobody knows, the Gaussian process of ``auto`` on the coalitions
that ``auto`` draws, uncorrected, but with its kernel fitted to ``--known`` other coalitions of the
same game: what a better choice of kernel could still gain.
"""

from __future__ import annotations

import argparse
import itertools
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from games import PLAYERS, families
from tables import print_records

import shapjax as sj
from shapjax.coalitions.enumerate import all_masks, members_of_size
from shapjax.estimators.auto import draw_design
from shapjax.estimators.gaussian_process import choose_kernel, fit_at, read_process
from shapjax.indices.weights import index_and_order, weight_table
from shapjax.indices.worths import worth_weights

DEPTH = 2


def covariance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Covariance of a wide ReLU network at masks a and b, up to a factor, float64 [A, B]."""
    inner, own, other = a @ b.T, a.sum(axis=1), b.sum(axis=1)
    for _ in range(DEPTH):
        norms = np.sqrt(np.outer(own, other))
        cosine = np.divide(inner, norms, out=np.zeros_like(norms), where=norms > 0)
        angle = np.arccos(np.clip(cosine, -1, 1))
        inner = norms * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / np.pi
    return inner


class Limit:
    """Posterior variance of the top terms of an order for any coalitions."""

    def __init__(self, order: int) -> None:
        """Prepare the covariance of the terms with every worth."""
        index, order = index_and_order("STII" if order > 1 else "SV", order, PLAYERS)
        self.weights = worth_weights(weight_table(index, order, PLAYERS), index.form)
        self.every = np.asarray(all_masks(PLAYERS), float)
        self.sizes = self.every.sum(axis=1).astype(int)
        members = members_of_size(PLAYERS, order)
        table = np.array(self.weights[order], float)[:, : order + 1]
        inside = self.every[:, members].sum(axis=-1).astype(int)
        columns = table[self.sizes[:, None], inside].T
        self.columns = columns - columns.mean(axis=0)
        step = 4096
        self.cross = np.concatenate(
            [
                self.columns @ covariance(self.every, self.every[start : start + step])
                for start in range(0, len(self.every), step)
            ],
            axis=1,
        )
        self.prior = np.einsum("ps,ps->", self.cross, self.columns)

    def of_rows(self, rows: np.ndarray) -> float:
        """Expected squared error over the variance, given the worths of some coalitions."""
        matrix = covariance(self.every[rows], self.every[rows])
        matrix += 1e-9 * np.trace(matrix) / len(rows) * np.eye(len(rows))
        seen = self.cross[:, rows]
        return 1 - np.sum(seen * np.linalg.solve(matrix, seen.T).T) / self.prior

    def of_counts(self, counts: np.ndarray, seeds: int) -> float:
        """The mean over uniform draws of so many coalitions of each size."""
        found = []
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            rows = [
                rng.choice(np.flatnonzero(self.sizes == size), count, replace=False)
                for size, count in enumerate(counts)
            ]
            found.append(self.of_rows(np.concatenate(rows)))
        return float(np.mean(found))

    def search(self, counts: np.ndarray, seeds: int) -> np.ndarray:
        """Counts by size that no exchange of coalitions between two sizes improves."""
        counts, step = counts.copy(), 20
        best = self.of_counts(counts, seeds)
        while step >= 5:
            improved = False
            for source, target in itertools.permutations(range(1, PLAYERS), 2):
                moved = min(step, int(counts[source]))
                changed = counts.copy()
                changed[source] -= moved
                changed[target] += moved
                if not moved or changed[target] > math.comb(PLAYERS, target):
                    continue
                value = self.of_counts(changed, seeds)
                if value < best - 1e-4:
                    best, counts, improved = value, changed, True
            if not improved:
                step //= 2
        return counts


def with_known_kernel(table: np.ndarray, budget: int, seed: int, options: Any) -> float:
    """Error over variance of the process whose kernel was fitted to other coalitions too."""
    name = "STII" if options.order > 1 else "SV"
    index, order = index_and_order(name, options.order, PLAYERS)
    weights = worth_weights(weight_table(index, order, PLAYERS), index.form)
    rng = np.random.default_rng(seed)
    every, bits = np.asarray(all_masks(PLAYERS)), 1 << np.arange(PLAYERS)
    known = rng.choice(len(every), options.known, replace=False)
    ends = np.array([0, len(every) - 1])
    rows = np.unique(np.concatenate([known, ends]))
    kernel, growth = choose_kernel(jnp.asarray(every[rows], float), jnp.asarray(table[rows, None]))
    masks, _ = draw_design(weights, budget, rng)
    process = fit_at(
        jnp.asarray(masks, float), jnp.asarray(table[masks @ bits][:, None]), kernel, growth
    )
    found = read_process(process, index, order)[order]
    exact = np.asarray(sj.interactions(table, name, order).of_size(order))
    return float(np.mean((np.asarray(found) - exact) ** 2) / exact.var())


def of_family(options: argparse.Namespace) -> list[dict[str, object]]:
    """Errors with a known kernel, by budget."""
    found, missing = families(options.out / "games")
    if options.family not in found:
        raise SystemExit(missing.get(options.family, f"families are {', '.join(found)}."))
    tables = np.asarray(found[options.family].tables(range(options.seeds)), float)
    records = []
    for budget in options.budgets:
        errors = [
            with_known_kernel(table, budget, seed, options) for seed, table in enumerate(tables)
        ]
        records.append({"evaluations": budget, "kernel known": float(f"{np.mean(errors):.3g}")})
    return records


def of_networks(options: argparse.Namespace) -> list[dict[str, object]]:
    """Limits of estimators that know the law of the networks, by budget."""
    limit = Limit(options.order)
    bits, records = 1 << np.arange(PLAYERS), []
    for budget in options.budgets:
        designs = [
            draw_design(limit.weights, budget, np.random.default_rng(seed))[0]
            for seed in range(options.seeds)
        ]
        found = np.mean([limit.of_rows(masks @ bits) for masks in designs])
        record = {"evaluations": budget, "coalitions of auto": float(f"{found:.3g}")}
        if options.search:
            counts = np.bincount(designs[0].sum(axis=1), minlength=PLAYERS + 1)
            best = limit.search(counts, 2)
            record["best counts found"] = float(f"{limit.of_counts(best, options.seeds):.3g}")
            record["counts by size"] = " ".join(str(count) for count in best)
        records.append(record)
    return records


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budgets", type=int, nargs="+", default=[250, 500, 1000])
    parser.add_argument("--order", type=int, default=2, choices=(1, 2, 3))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--family", help="games by name, with the kernel known")
    parser.add_argument("--known", type=int, default=1000, help="coalitions it is fitted to")
    parser.add_argument("--out", type=Path, default=Path("convergence"), help="keeps the games")
    parser.add_argument("--search", action="store_true", help="look for better counts; minutes")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with jax.enable_x64(True):
        records = of_family(options) if options.family else of_networks(options)
    print_records(records, as_json=options.json)


if __name__ == "__main__":
    main()
