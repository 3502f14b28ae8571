"""The kernel regression at 100 players: float32 beside float64, matrix-free beside dense.

    python benchmarks/regression.py [--players N] [--rows R] [--dense] [--json]

The game is a random three-layer ReLU network; the rows are drawn by Kernel-Direct. ``--dense``
also solves the same rows by normal equations in NumPy float64 (the design is formed), as a
reference for the error and the time. Timings are medians of three warm runs.
"""

from __future__ import annotations

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from tables import print_records

from shapjax.coalitions.enumerate import members_of_size
from shapjax.estimators.regression import Fit, fit_eliminated
from shapjax.estimators.sampling import kernel_direct


def network_values(masks: np.ndarray, seed: int = 0, width: int = 50) -> np.ndarray:
    """Worth of each coalition under a Glorot ReLU network, float64 [rows]."""
    rng = np.random.default_rng(seed)
    x = masks.astype(float)
    for size in (width, width, 1):
        x = x @ rng.normal(scale=np.sqrt(2 / (x.shape[1] + size)), size=(x.shape[1], size))
        x = np.maximum(x, 0) if size > 1 else x
    return x[:, 0]


def dense_pairs(free: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Pair terms by the normal equations of the whole design, the constraint by a multiplier."""
    rows, n = free.shape
    empty, singles, grand = values[0], values[1 : n + 1] - values[0], values[n + 1]
    design = free[:, members_of_size(n, 2)].all(axis=-1).astype(float)
    count = design.shape[1]
    system = np.ones((count + 1, count + 1))
    system[:count, :count] = design.T @ design
    system[count, count] = 0
    right = design.T @ (values[-rows:] - empty - free @ singles)
    return np.linalg.solve(system, np.append(right, grand - empty - singles.sum()))[:-1]


def timed(function) -> tuple[Fit, float, float]:
    """Result, median of three warm runs and the first run, seconds."""
    seconds = []
    for _ in range(4):
        begun = time.perf_counter()
        result = jax.block_until_ready(function())
        seconds.append(time.perf_counter() - begun)
    return result, statistics.median(seconds[1:]), seconds[0]


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--players", type=int, default=100)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dense", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    plan = kernel_direct(jax.random.key(0), options.players, 2, options.rows)
    free = np.asarray(plan.free)
    values = network_values(np.concatenate([plan.constrained, free]))
    records, pairs = [], {}
    for dtype in (np.float64, np.float32):
        with jax.enable_x64(True):
            inputs = (jnp.asarray(free), *(jnp.asarray(x, dtype) for x in (values, plan.weights)))
            fit, warm, first = timed(lambda inputs=inputs: fit_eliminated(*inputs, order=2))
            pairs[np.dtype(dtype).name] = np.asarray(fit.coefficients[2], np.float64)
        records.append(
            {
                "solver": f"matrix-free, {np.dtype(dtype).name}",
                "seconds": round(warm, 2),
                "first run": round(first, 2),
                "steps": int(fit.steps),
            }
        )
    reference = pairs["float64"]
    if options.dense:
        begun = time.perf_counter()
        reference = dense_pairs(free, values)
        seconds = time.perf_counter() - begun
        records.append({"solver": "normal equations, float64", "seconds": round(seconds, 2)})
    for record, found in zip(records, pairs.values(), strict=False):
        error = np.linalg.norm(found - reference) / np.linalg.norm(reference)
        record["relative difference"] = float(f"{error:.2g}")
    print_records(records, as_json=options.json)


if __name__ == "__main__":
    main()
