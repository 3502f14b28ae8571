"""Speed of the backbones, beside torch with the same weights in the same run.

    python benchmarks/backbones.py [--names NAME ...] [--batches N ...] [--dtypes f32 bf16]
                                   [--torch eager channels_last compiled] [--threads N]
                                   [--clock wall|cpu] [--json]

Weights are made from a seed, since speed does not depend on them. Columns: ``parity``, the largest
difference of the features from torch's as a share of their largest entry; ``images/s`` up to the
publisher's output, the best of a few warm runs, taken in turn with torch's so that both meet the
same load;
``times``, that over torch's with channels last; compile seconds, and what XLA plans to hold
(weights, input, output and temporary buffers). ``--clock cpu`` counts CPU seconds of one thread
instead of the wall's, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tables import print_records

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

WAYS = ("eager", "channels_last", "compiled")


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", nargs="+", help="backbones; all of them by default")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32], metavar="N")
    parser.add_argument("--dtypes", nargs="+", default=["f32"], choices=("f32", "bf16"))
    parser.add_argument("--torch", nargs="*", default=list(WAYS), choices=WAYS)
    parser.add_argument("--repeats", type=int, default=5, metavar="N")
    parser.add_argument("--threads", type=int, metavar="N", help="1 or, by default, all")
    parser.add_argument("--clock", default="wall", choices=("wall", "cpu"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.clock == "cpu":
        options.threads = 1
    if options.threads == 1:
        # Read when JAX starts, so before it is imported.
        flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    from shapjax import backbones

    records = []
    for name in options.names or backbones.names():
        for dtype in options.dtypes:
            for record in measure(name, dtype, options):
                records.append(record)
                print(f"{name} {dtype} {record['batch']}", file=sys.stderr, flush=True)
    print_records(records, as_json=options.json)


def measure(name: str, dtype: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One record for each batch size of a backbone."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from shapjax import backbones
    from shapjax.backbones.registry import ROWS

    network, arrays = torch_network(name, options)
    backbone = initial(name) if arrays is None else backbones.load(name, arrays)
    kind = {"f32": jnp.float32, "bf16": jnp.bfloat16}[dtype]
    cast = jax.tree.map(lambda leaf: leaf.astype(kind), backbone)
    published = next(iter(ROWS[name].published.values()), None)
    records = []
    for batch in options.batches:
        inputs = inputs_of(backbone, batch)
        x = jnp.asarray(inputs, kind if inputs.dtype == np.float32 else None)
        begin = time.perf_counter()
        run = jax.jit(lambda net, x: net.head(net.features(x))).lower(cast, x).compile()
        compile_seconds = time.perf_counter() - begin
        runs: dict[str, Callable[[], Any]] = {
            "images/s": functools.partial(lambda run, x: run(cast, x).block_until_ready(), run, x)
        }
        parity = ""
        if network is not None:
            for way in options.torch:
                runs[f"torch {way}"] = torch_run(network, inputs, dtype, way, options.threads)
            if batch == min(options.batches) and dtype == "f32":
                ours = np.asarray(backbone.features(x[:1]))
                parity = difference(name, network, ours, inputs[:1])
        seconds = best_seconds(runs, options)
        record = {
            "network": name,
            "weights": published.file if published else ROWS[name].wanted or "the package",
            "dtype": dtype,
            "batch": batch,
            "parity": parity,
            **{key: float(f"{batch / value:.3g}") for key, value in seconds.items()},
        }
        if "torch channels_last" in seconds:
            record["times"] = round(seconds["torch channels_last"] / seconds["images/s"], 2)
        plan = run.memory_analysis()
        planned = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
        record |= {"compile s": round(compile_seconds, 1), "MiB": round(planned / 2**20)}
        records.append(record)
    return records


def best_seconds(
    runs: dict[str, Callable[[], Any]], options: argparse.Namespace
) -> dict[str, float]:
    """Seconds of each run, the best of several, in turn."""
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    for run in runs.values():
        run()
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(options.repeats):
        for key, run in runs.items():
            begin = clock()
            run()
            best[key] = min(best[key], clock() - begin)
    return best


def initial(name: str) -> Any:
    """The backbone as its initialiser leaves it, where there is no state dict to give it."""
    import importlib

    from flax import nnx

    from shapjax.backbones.folding import fold
    from shapjax.backbones.record import Backbone
    from shapjax.backbones.registry import ROWS

    layout = importlib.import_module(f"shapjax.backbones.{ROWS[name].module}").layout(name, ())
    network = fold(layout.factory())
    network.eval()
    return Backbone(name, layout.preprocessing, *nnx.split(network))


def inputs_of(backbone: Any, batch: int) -> Any:
    """Pictures, float32 [B, S, S, 3], or the numbers of tokens, int32 [B, T]."""
    import numpy as np
    from seeded import seeded_pictures

    if hasattr(backbone.preprocessing, "size"):
        return seeded_pictures(batch, backbone.preprocessing.size)
    shape = batch, backbone.preprocessing.length
    return np.random.default_rng(0).integers(1, 1000, shape, np.int32)


def torch_network(name: str, options: argparse.Namespace) -> tuple[Any, Any]:
    """The publisher's network in torch and its state dict, or None where there is none."""
    if not options.torch:
        return None, None
    try:
        import torch_references

        return torch_references.reference(name) if torch_references.has(name) else (None, None)
    except ImportError:
        return None, None


def torch_run(
    network: Any, inputs: Any, dtype: str, way: str, threads: int | None
) -> Callable[[], Any]:
    """A call of torch's network on the same pictures."""
    import copy

    import torch

    torch.set_num_threads(threads or os.cpu_count() or 1)
    kind = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
    network = copy.deepcopy(network).to(kind)
    x = torch.from_numpy(inputs.transpose(0, 3, 1, 2).copy()).to(kind)
    if way != "eager":
        network = network.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    if way == "compiled":
        network = torch.compile(network)

    def run() -> None:
        with torch.inference_mode():
            network(x)

    return run


def difference(name: str, network: Any, ours: Any, inputs: Any) -> str:
    """Largest difference of the features, as a share of the largest entry."""
    import numpy as np
    import torch_references

    theirs = torch_references.features(name, network, inputs)
    return f"{np.abs(ours - theirs).max() / np.abs(theirs).max():.0e}"


if __name__ == "__main__":
    main()
