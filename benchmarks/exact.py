"""The exact engine: beside the copy of its table, beside shapiq, and without a table at all.

    python benchmarks/exact.py [--json] [--quick]

Medians of warm runs, float64 on CPU. Copies are warm ``np.copyto`` of the same bytes, timed in
turn with what they are compared to. shapiq's rows give its ExactComputer the table, so its time is
its own; they are left out where shapiq is not installed. MiB is what XLA plans to hold, result
included and the table itself not; for the stream it is how much the process's peak grows after the
first block. On Linux the script starts itself again with GLIBC_TUNABLES=glibc.malloc.hugetlb=1,
which gives JAX's arrays the huge pages that NumPy's have; other programs profit from it too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tables import print_records

import shapjax as sj
from shapjax.games.pooled import cosine_game, gram_matrices

INDICES = (("SV", 1), ("STII", 2), ("k-SII", 2), ("k-SII", 3), ("FSII", 2), ("FSII", 3))
SHAPIQ_CAN = (("SV", 1), ("STII", 2), ("k-SII", 2))


WARM = 5
"""Runs before the counted ones: the first few of a large table still meet new memory."""


def seconds_of(function: Callable[[], Any], runs: int) -> float:
    """Median of warm runs."""
    function()
    taken = []
    for _ in range(runs):
        begun = time.perf_counter()
        jax.block_until_ready(function())
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def measured(name: str, function: Callable, values: jax.Array, runs: int) -> dict[str, Any]:
    """One row: time, copies, compilation and memory of ``function(values)``."""
    begun = time.perf_counter()
    compiled = jax.jit(function).lower(values).compile()
    compilation = time.perf_counter() - begun
    source = np.asarray(values)
    target = np.empty_like(source)
    times, copies = [], []
    for _ in range(WARM):
        jax.block_until_ready(compiled(values))
        np.copyto(target, source)
    for _ in range(runs):
        copies.append(seconds_of(lambda: np.copyto(target, source), 1))
        begun = time.perf_counter()
        jax.block_until_ready(compiled(values))
        times.append(time.perf_counter() - begun)
    memory = compiled.memory_analysis()
    held = (memory.temp_size_in_bytes + memory.output_size_in_bytes) if memory else 0
    ours, copy = statistics.median(times), statistics.median(copies)
    return {
        "what": name,
        "ms": round(1e3 * ours, 2),
        "copies": round(ours / copy, 2),
        "compile s": round(compilation, 2),
        "MiB": round(held / 2**20, 1),
    }


def large_tables(n: int, small: int, runs: int) -> list[dict[str, Any]]:
    """One table of 2**n against as many bytes of games of ``small`` players under vmap."""
    values = jnp.asarray(np.random.default_rng(0).random(1 << n))
    games = values.reshape(-1, 1 << small)
    rows = []
    for name, function in (
        ("Shapley values", sj.shapley_value),
        ("STII, order 2", sj.interactions),
        ("dividends", sj.moebius),
    ):
        one = measured(f"{name}, n = {n}", function, values, runs)
        batch = measured(
            f"{name}, {len(games)} games of n = {small}", jax.vmap(function), games, runs
        )
        batch["throughput"] = f"{one['ms'] / batch['ms']:.0%} of n = {n}"
        rows += [one, batch]
    return rows


def beside_shapiq(n: int, runs: int) -> list[dict[str, Any]]:
    """Every index of order up to 3 from a value table, ours beside shapiq's where it has it."""
    table = np.random.default_rng(1).random(1 << n)
    values = jnp.asarray(table)
    rows = []
    for index, order in INDICES:
        row = measured(
            f"{index}, order {order}, n = {n}",
            lambda v, index=index, order=order: sj.interactions(v, index, order),
            values,
            runs,
        )
        if (index, order) in SHAPIQ_CAN and n <= 16:
            theirs = shapiq_seconds(table, n, index, order)
            if theirs is not None:
                row["shapiq s"] = round(theirs, 3)
                row["times faster"] = round(1e3 * theirs / row["ms"])
        rows.append(row)
    return rows


def shapiq_seconds(table: np.ndarray, n: int, index: str, order: int) -> float | None:
    """Time of shapiq's ExactComputer after it has looked all worths up; None without shapiq."""
    try:
        import shapiq
    except ImportError:
        return None
    bits = 1 << np.arange(n)
    computer = shapiq.ExactComputer(lambda m: table[m @ bits], n, evaluate_game=True)
    begun = time.perf_counter()
    computer(index, order)  # pyright: ignore[reportArgumentType]
    return time.perf_counter() - begun


def digits(n: int) -> list[dict[str, Any]]:
    """What float32 loses: error of the dividends of worths in [0, 1], in units of the worths."""
    exact = np.random.default_rng(2).random(1 << n, dtype=np.float32)
    reference = sj.moebius(jnp.asarray(exact, np.float64))
    rows = []
    for name, options in (("plain", {}), ("compensated", {"compensated": True})):
        found = sj.moebius(jnp.asarray(exact), **options)
        error = jnp.abs(found - reference)
        rows.append(
            {
                "float32 dividends": f"{name}, n = {n}",
                "largest error": f"{float(error.max()):.1e}",
                "largest dividend": f"{float(jnp.abs(reference).max()):.1e}",
                "median relative error": f"{float(jnp.median(error / jnp.abs(reference))):.1e}",
            }
        )
    return rows


def peak_kib() -> int:
    """Peak memory of this process; ``ru_maxrss`` would start from the parent's on Linux."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def with_huge_pages() -> None:
    """Start again with huge pages for glibc's memory, as NumPy asks for by itself.

    JAX takes new memory for every result, and first touching it in small pages can cost more than
    the transform.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        environment = {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def stream(n: int) -> dict[str, Any]:
    """STII of order 2 of a GAP-cosine game of n players, float32, in a process of its own."""
    rng = np.random.default_rng(3)
    players = (n // 2, n - n // 2)
    sides = [jnp.asarray(rng.random((1 + count, 64), np.float32)) for count in players]
    game = cosine_game(gram_matrices(*sides))
    peaks: list[int] = []

    def note(done: int, total: int) -> None:
        peaks.append(peak_kib())
        if done % (total // 8) == 0:
            print(f"{done:,} of {total:,} coalitions, peak {peaks[-1] >> 10} MiB", file=sys.stderr)

    plan = {"index": "STII", "order": 2, "n_players": n, "progress": note}
    begun = time.perf_counter()
    sj.interactions(game, **plan)
    seconds = time.perf_counter() - begun
    return {
        "what": f"STII, order 2, value function, n = {n}",
        "ms": round(1e3 * seconds),
        "MiB": round((peaks[-1] - peaks[0]) / 1024, 1),
        "throughput": f"{(1 << n) / seconds / 1e6:.1f} million evaluations a second",
    }


def main() -> None:
    """Print tables, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--stream", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stream:
        print(json.dumps(stream(options.stream)))
        return
    with_huge_pages()
    quick = options.quick
    jax.config.update("jax_enable_x64", True)
    rows = large_tables(*((14, 8, 3) if quick else (24, 12, 9)))
    for n in (10,) if quick else (16, 20):
        rows += beside_shapiq(n, 3 if quick else 15)
    # A process of its own shows the peak of the stream alone.
    child = [sys.executable, __file__, "--stream", "21" if quick else "26"]
    streamed = subprocess.run(child, stdout=subprocess.PIPE, check=True, text=True).stdout
    rows.append(json.loads(streamed))
    lost = digits(14 if quick else 24)
    if options.json:
        print_records(rows + lost, as_json=True)
        return
    print_records(rows, as_json=False)
    print()
    print_records(lost, as_json=False)


if __name__ == "__main__":
    main()
