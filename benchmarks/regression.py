"""The solver of the kernel regression beside dense ones: seconds, error, memory.

    python benchmarks/regression.py [--players N] [--rows R] [--quick] [--json]

The game is a random three-layer ReLU network; the rows are drawn by Kernel-Direct. Each line is
measured in a process of its own: seconds are the median of three warm runs (one run for the dense
solvers and the two largest lines), what compiling the program takes before them is ``compile``, and
memory is the peak beyond what the process held before it solved. The error is relative to the
normal equations of the whole design in float64, and ``ratio`` is how many times longer
``torch.linalg.lstsq`` took on the same rows; it is left out, and said so, where PyTorch is absent.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tables import print_records

from shapjax.coalitions.enumerate import members_of_size
from shapjax.estimators.regression import fit_eliminated
from shapjax.estimators.sampling import kernel_direct

MIB = 1 << 20
BATCH = 8
NORMAL, TORCH = "normal equations, float64", "torch.linalg.lstsq, float64"
Found = tuple[dict[str, Any], np.ndarray]


def network_values(masks: np.ndarray, seed: int = 0, width: int = 50) -> np.ndarray:
    """Worth of each coalition under a Glorot ReLU network, float64 [rows]."""
    rng = np.random.default_rng(seed)
    x = masks.astype(float)
    for size in (width, width, 1):
        x = x @ rng.normal(scale=np.sqrt(2 / (x.shape[1] + size)), size=(x.shape[1], size))
        x = np.maximum(x, 0) if size > 1 else x
    return x[:, 0]


def drawn(n: int, rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks, values (those of the constrained coalitions first) and weights of a problem."""
    plan = kernel_direct(jax.random.key(seed), n, 2, rows)
    free = np.asarray(plan.free)
    values = network_values(np.concatenate([plan.constrained, free]), seed)
    return free, values, np.asarray(plan.weights)


def dense_problem(free: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Design, right-hand side and the sum that the pair terms have."""
    rows, n = free.shape
    empty, singles, grand = values[0], values[1 : n + 1] - values[0], values[n + 1]
    design = np.empty((rows, n * (n - 1) // 2))
    for column, (i, j) in enumerate(members_of_size(n, 2)):
        design[:, column] = free[:, i] & free[:, j]
    return design, values[-rows:] - empty - free @ singles, grand - empty - singles.sum()


def by_normal_equations(free: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Pair terms from the Gram matrix of the whole design, the constraint by a multiplier."""
    design, right, total = dense_problem(free, values)
    count = design.shape[1]
    system = np.ones((count + 1, count + 1))
    system[:count, :count] = design.T @ design
    system[count, count] = 0
    return np.linalg.solve(system, np.append(design.T @ right, total))[:-1]


def by_torch(free: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Pair terms by PyTorch's least squares; the last one is eliminated by the known sum."""
    import torch  # pyright: ignore[reportMissingImports]

    design, right, total = dense_problem(free, values)
    last = design[:, -1].copy()
    design -= last[:, None]
    right = right - total * last
    given = (torch.from_numpy(design[:, :-1]), torch.from_numpy(right[:, None]))
    solution = torch.linalg.lstsq(*given).solution[:, 0].numpy()
    return np.append(solution, total - solution.sum())


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def peak_growth(work: Callable[[], Any]) -> tuple[Any, float]:
    """What the work returns, and by how many MiB memory grew at its peak, looked at every 2 ms."""
    before, done = resident(), threading.Event()
    peak = [before]

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = work()
    finally:
        done.set()
        watcher.join()
    return result, (peak[0] - before) / MIB


def matrix_free(dtype: Any, batch: int, n: int, rows: int, repeats: int) -> Found:
    """Figures and pair terms (of the first problem) of the solver, alone or under ``vmap``."""
    jax.config.update("jax_enable_x64", True)
    problems = [drawn(n, rows, seed) for seed in range(max(batch, 1))]
    free, values, weights = (np.stack(part) for part in zip(*problems, strict=True))
    given = (jnp.asarray(free), jnp.asarray(values, dtype), jnp.asarray(weights, dtype))
    solve = functools.partial(fit_eliminated, order=2)
    if batch:
        solve = jax.jit(jax.vmap(solve))
    else:
        given = tuple(part[0] for part in given)
    begun = time.perf_counter()
    solver = jax.jit(solve).lower(*given).compile()
    compiling = time.perf_counter() - begun
    fit, grown = peak_growth(lambda: jax.block_until_ready(solver(*given)))
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(solver(*given))
        seconds.append(time.perf_counter() - begun)
    record = {
        "seconds": round(statistics.median(seconds), 3),
        "compile": round(compiling, 2),
        "MiB": round(grown),
        "steps": int(np.max(fit.steps)),
        "gradient": float(f"{np.max(fit.gradient):.1g}"),
        "smallest": float(f"{np.min(fit.smallest):.2g}"),
    }
    pairs = np.asarray(fit.coefficients[2], np.float64)
    return record, pairs[0] if batch else pairs


def dense(solver: Callable[..., np.ndarray], n: int, rows: int) -> Found:
    """Figures and pair terms of a dense solver."""
    free, values, _ = drawn(n, rows)
    begun = time.perf_counter()
    pairs, grown = peak_growth(lambda: solver(free, values))
    return {"seconds": round(time.perf_counter() - begun, 3), "MiB": round(grown)}, pairs


LARGEST, FEW = "matrix-free, float64, one run", "matrix-free, float64, too few rows"
SOLVERS: dict[str, Callable[[int, int], Found]] = {
    "matrix-free, float64": lambda n, rows: matrix_free(np.float64, 0, n, rows, 3),
    "matrix-free, float32": lambda n, rows: matrix_free(np.float32, 0, n, rows, 3),
    f"matrix-free, float64, vmap of {BATCH}": lambda n, rows: matrix_free(
        np.float64, BATCH, n, rows, 1
    ),
    LARGEST: lambda n, rows: matrix_free(np.float64, 0, n, rows, 1),
    FEW: lambda n, rows: matrix_free(np.float64, 0, n, rows, 1),
    NORMAL: lambda n, rows: dense(by_normal_equations, n, rows),
    TORCH: lambda n, rows: dense(by_torch, n, rows),
}


def measured(solver: str, n: int, rows: int) -> Found:
    """A line of the table and its pair terms, from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "pairs.npy"
        command = [sys.executable, __file__, "--players", str(n), "--rows", str(rows)]
        command += ["--solver", solver, "--out", str(out)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        line = {"players": n, "rows": rows, "solver": solver}
        return {**line, **json.loads(done.stdout)}, np.load(out)


def table(n: int, rows: int, *, quick: bool) -> list[dict[str, Any]]:
    """All lines; without the dense solvers there is nothing to compare with."""
    single = [name for name in SOLVERS if "vmap" not in name and name not in (LARGEST, FEW)]
    if importlib.util.find_spec("torch") is None:
        single.remove(TORCH)
        print("PyTorch is not installed: no line and no ratio for it.", file=sys.stderr)
    found = {name: measured(name, n, rows) for name in single}
    reference = found[NORMAL][1]
    for record, pairs in found.values():
        if record["solver"] != NORMAL:
            error = np.linalg.norm(pairs - reference) / np.linalg.norm(reference)
            record["error"] = float(f"{error:.2g}")
        if TORCH in found and record["solver"] != TORCH:
            ratio = found[TORCH][0]["seconds"] / max(record["seconds"], 1e-3)
            record["ratio"] = float(f"{ratio:.3g}")
    records = [record for record, _ in found.values()]
    batch = next(name for name in SOLVERS if "vmap" in name)
    records.append(measured(batch, n // 2, rows // 10)[0])
    if not quick:
        records.append(measured(LARGEST, 2 * n, 5 * rows)[0])
        records.append(measured(FEW, 4 * n, 2 * rows)[0])
    return records


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--players", type=int, help="default 100, or 30 with --quick")
    parser.add_argument("--rows", type=int, help="default 20000, or 2000 with --quick")
    parser.add_argument("--quick", action="store_true", help="small, and without the largest lines")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--solver", choices=SOLVERS, help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    options = parser.parse_args()
    n = options.players or (30 if options.quick else 100)
    rows = options.rows or (2000 if options.quick else 20_000)
    if options.solver:
        record, pairs = SOLVERS[options.solver](n, rows)
        np.save(options.out, pairs)
        print(json.dumps(record))
    else:
        print_records(table(n, rows, quick=options.quick), as_json=options.json)


if __name__ == "__main__":
    main()
