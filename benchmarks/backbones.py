"""Speed and parity of the backbones, beside torch with the same weights in the same run.

    python benchmarks/backbones.py [--names NAME ...] [--batches N ...] [--dtypes f32 bf16]
                                   [--torch eager channels_last compiled] [--threads N]
                                   [--clock wall|cpu] [--out FILE] [--again] [--json]
    python benchmarks/backbones.py --masked [--names NAME ...]

Every row is kept in a file as soon as it is measured: a run that was interrupted goes on where it
stopped, and all the rows asked for are printed in the end. Weights are made from a seed, since
speed does not depend on them.

Columns: ``parity``, the largest difference from torch's (or transformers') maps over all stages of
the network on one picture, as a share of the largest entry of the map; ``images/s`` up to the
publisher's output, the best of a few warm runs, taken in turn with torch's so that both meet the
same load (for MiniLM texts of 256 tokens a second); ``times``, that over torch's with channels
last, or on a GPU, where torch then runs as well, over the fastest of its ways asked for; compile
seconds, and what XLA plans to hold (weights, input, output and temporary buffers).
``--clock cpu`` counts CPU seconds of one thread instead of the wall's, which other work on the
machine disturbs less.

``--masked`` measures what masking adds: the game of one picture's superpixels, from masks to
worths as ``shapjax.evaluate`` runs it, beside the bare network on pictures that are on the device
already, in the same chunks; ``pictures`` is the same game where every masked picture is made,
whose first convolution the game otherwise adds up from what each player changes, and ``times`` how
much faster that is. For transformers the players are patches that are dropped, coalitions of every
size equally likely: ``times`` is how much faster that is than hiding them in the attention of whole
sequences.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from results import Results
from tables import print_records

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

WAYS = ("eager", "channels_last", "compiled")

OUT = Path("shapjax-out/backbones.jsonl")

KEY = ("what", "network", "dtype", "batch", "beside")
"""What tells one measurement from another; ``beside`` names torch's ways, the clock and a GPU."""

MASKED = ("shapjax_tiny", "resnet50", "squeezenet1_1", "mobilenet_v2", "densenet121", "vgg11")


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", nargs="+", help="backbones; all of them by default")
    parser.add_argument("--batches", nargs="+", type=int, default=[32], metavar="N")
    parser.add_argument("--dtypes", nargs="+", default=["f32"], choices=("f32", "bf16"))
    parser.add_argument("--torch", nargs="*", default=["channels_last"], choices=WAYS)
    parser.add_argument("--masked", action="store_true", help="what masking adds to the network")
    parser.add_argument("--repeats", type=int, default=5, metavar="N")
    parser.add_argument("--threads", type=int, metavar="N", help="1 or, by default, all")
    parser.add_argument("--clock", default="wall", choices=("wall", "cpu"))
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE", help=f"by default {OUT}")
    parser.add_argument("--again", action="store_true", help="measure anew what is in the file")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.clock == "cpu":
        options.threads = 1
    if options.threads == 1:
        # Read when JAX starts, so before it is imported.
        flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    import jax

    from shapjax import backbones

    results = Results(options.out, KEY)
    beside = " ".join(sorted(options.torch)) + f", {options.clock}, {options.threads or 'all'}"
    if jax.default_backend() != "cpu":
        beside += f", {jax.default_backend()}"
    records = []
    for name in options.names or (MASKED if options.masked else backbones.names()):
        for dtype in options.dtypes:
            what = "masking" if options.masked else "speed"
            key = {"what": what, "network": name, "dtype": dtype, "beside": beside}
            found = {row["batch"]: row for row in results.rows(**key)}
            missing = [b for b in options.batches if options.again or b not in found]
            if missing:
                run = masked if options.masked else measure
                for record in run(name, dtype, missing, options):
                    results.append([{**key, **record}])
                    print(f"{name} {dtype} {record['batch']}", file=sys.stderr, flush=True)
            rows = {row["batch"]: row for row in results.rows(**key)}
            records += [rows[batch] for batch in options.batches]
    results.close()
    hidden = {"what", "beside"} | ({"dtype"} if options.dtypes == ["f32"] else set())
    shown = [{k: v for k, v in row.items() if k not in hidden} for row in records]
    print_records(shown, as_json=options.json)


def measure(
    name: str, dtype: str, batches: list[int], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """One record for each batch size of a backbone."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from shapjax import backbones
    from shapjax.backbones.registry import ROWS

    network, arrays = torch_network(name, options)
    backbone = backbones.load(name, arrays)
    kind = {"f32": jnp.float32, "bf16": jnp.bfloat16}[dtype]
    cast = jax.tree.map(lambda leaf: leaf.astype(kind), backbone)
    row = ROWS[name]
    published = next(iter(row.published.values()), None)
    unpublished = "given" if row.wanted else "in the package"
    parity = ""
    if network is not None and dtype == "f32":
        parity = f"{difference(name, network, backbone):.0e}"
    records = []
    for batch in batches:
        inputs = inputs_of(backbone, batch)
        x = jnp.asarray(inputs, kind if inputs.dtype == np.float32 else None)
        begin = time.perf_counter()
        run = jax.jit(lambda net, x: net.head(net.features(x))).lower(cast, x).compile()
        compile_seconds = time.perf_counter() - begin
        runs: dict[str, Callable[[], Any]] = {
            "images/s": functools.partial(lambda run, x: run(cast, x).block_until_ready(), run, x)
        }
        if network is not None:
            for way in options.torch:
                runs[f"torch {way}"] = torch_run(name, network, inputs, dtype, way, options.threads)
        seconds = best_seconds(runs, options)
        record = {
            "batch": batch,
            "weights": published.url.removeprefix("https://") if published else unpublished,
            "parity": parity,
            **{key: float(f"{batch / value:.3g}") for key, value in seconds.items()},
        }
        other = torchs_seconds(seconds, jax.default_backend())
        if other is not None:
            record["times"] = round(other / seconds["images/s"], 2)
        plan = run.memory_analysis()
        planned = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
        record |= {"compile s": round(compile_seconds, 1), "MiB": round(planned / 2**20)}
        records.append(record)
    return records


def masked(
    name: str, dtype: str, batches: list[int], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """What masking one picture adds to the network, over chunks of each size."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.tree_util import Partial
    from seeded import seeded_pictures, seeded_state_dict
    from skimage import data

    from shapjax import backbones, parts, worths
    from shapjax.games.masked import MaskedPicture, masked_game
    from shapjax.games.similarity import similarity_game
    from shapjax.games.tokens import embed_unseen

    if dtype != "f32":
        raise SystemExit("games run their networks in float32; leave --dtypes out.")
    given = None if name == backbones.names()[0] else seeded_state_dict(name)
    backbone = backbones.load(name, given)
    left, right, _ = data.stereo_motorcycle()
    games: dict[str, Any]
    if hasattr(backbone.network, "encode"):
        side = parts(backbone, left, players="grid", background="drop")
        ways = {"game": side.embed, "hidden": Partial(embed_unseen, *side.embed.args)}
        games = {key: Partial(sum_of, way) for key, way in ways.items()}
        players = side.n_players
    else:
        game = similarity_game(backbone, left, right, players="superpixels", masked="retrieved")
        sides = [
            side._replace(stem=None) if isinstance(side, MaskedPicture) else side
            for side in game.value_fn.sides
        ]
        games = {"game": game.value_fn, "pictures": masked_game(backbone, *sides)}
        players = game.n_players
    embed = jax.jit(lambda net, x: net.embed(x))
    rng = np.random.default_rng(0)
    records = []
    for batch in batches:
        x = jnp.asarray(seeded_pictures(batch, backbone.preprocessing.size))
        chunks = max(2, -(-64 // batch))
        shares = rng.random((chunks * batch, 1)) if "hidden" in games else 0.5
        masks = rng.random((chunks * batch, players)) < shares

        def bare(x: Any = x, chunks: int = chunks) -> None:
            for _ in range(chunks):
                embed(backbone, x).block_until_ready()

        def run(value_fn: Any, masks: Any = masks, batch: int = batch) -> None:
            jax.block_until_ready(worths(value_fn, masks, chunk_size=batch))

        runs = {key: functools.partial(run, value_fn) for key, value_fn in games.items()}
        seconds = best_seconds({"bare": bare, **runs}, options)
        rates = {key: float(f"{len(masks) / value:.3g}") for key, value in seconds.items()}
        record = {
            "batch": batch,
            "players": players,
            "network, images/s": rates["bare"],
            "game, coalitions/s": rates["game"],
            "overhead": f"{seconds['game'] / seconds['bare'] - 1:.1%}",
        }
        (other,) = seconds.keys() - {"bare", "game"}
        record |= {
            f"{other}, coalitions/s": rates[other],
            "times": round(seconds[other] / seconds["game"], 2),
        }
        records.append(record)
    return records


def sum_of(embed: Any, masks: Any) -> Any:
    """Worths [B] that cost no more than the embeddings they are sums of."""
    return embed(masks).sum(axis=1)


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


def inputs_of(backbone: Any, batch: int) -> Any:
    """Pictures, float32 [B, S, S, 3], or the numbers of tokens, int32 [B, T]."""
    import numpy as np
    from seeded import seeded_pictures

    if hasattr(backbone.preprocessing, "size"):
        return seeded_pictures(batch, backbone.preprocessing.size)
    shape = batch, backbone.preprocessing.length
    return np.random.default_rng(0).integers(1, 1000, shape, np.int32)


def torch_network(name: str, options: argparse.Namespace) -> tuple[Any, Any]:
    """The publisher's network in torch, or None where there is none here, and a state dict."""
    from seeded import seeded_state_dict

    from shapjax import backbones

    if name == backbones.names()[0]:
        return None, None  # Its weights come with the package, and nobody else has it.
    arrays = seeded_state_dict(name)
    if not options.torch:
        return None, arrays
    try:
        import torch_references
        import transformer_references

        if name not in transformer_references.NAMES and torch_references.has(name):
            return torch_references.reference(name, arrays)
        with tempfile.TemporaryDirectory() as folder:
            return transformer_references.reference(name, arrays, Path(folder)), arrays
    except ImportError:
        return None, arrays


def torchs_seconds(seconds: dict[str, float], backend: str) -> float | None:
    """What ``times`` is over: torch with channels last on CPU, its fastest way elsewhere.

    Args:
        seconds: of each run by its name; torch's begin with ``"torch "``.
        backend: JAX's.
    """
    if backend == "cpu":
        return seconds.get("torch channels_last")
    return min((value for key, value in seconds.items() if key.startswith("torch ")), default=None)


def torch_device() -> str:
    """Where torch runs: on JAX's kind of device.

    Raises:
        SystemExit: JAX runs on a GPU that this torch cannot use.
    """
    import jax
    import torch

    if jax.default_backend() != "gpu":
        return "cpu"
    if not torch.cuda.is_available():
        raise SystemExit(
            "JAX runs on a GPU and this torch has none, expected both on one device; install "
            "torch for CUDA, set JAX_PLATFORMS=cpu, or give --torch without ways."
        )
    return "cuda"


def torch_run(
    name: str, network: Any, inputs: Any, dtype: str, way: str, threads: int | None
) -> Callable[[], Any]:
    """A call of torch's network on the same pictures or texts."""
    import copy

    import torch

    torch.set_num_threads(threads or os.cpu_count() or 1)
    kind = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
    device = torch_device()
    network = copy.deepcopy(network).to(device, kind)
    if inputs.ndim == 2:
        x = torch.from_numpy(inputs).to(device, torch.int64)
    else:
        x = torch.from_numpy(inputs.transpose(0, 3, 1, 2).copy()).to(device, kind)
    if way != "eager":
        network = network.to(memory_format=torch.channels_last)
        if inputs.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
    call = network.get_image_features if name.startswith("clip") else network
    if way == "compiled":
        call = torch.compile(call)

    def run() -> None:
        with torch.inference_mode():
            call(x)
        if device == "cuda":
            # It returns before the device is done.
            torch.cuda.synchronize()

    return run


def difference(name: str, network: Any, backbone: Any) -> float:
    """Largest difference from torch's maps over all stages, as a share of a map's largest entry."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import torch_references
    import transformer_references

    x = inputs_of(backbone, 1)
    maps = jax.jit(lambda net, x: net.maps(x))(backbone, jnp.asarray(x))
    if name in transformer_references.NAMES:
        tower = name if name == "vit_b_16" else name.partition("_")[0]
        given = transformer_references.arguments(name, x)
        theirs, _ = transformer_references.run_reference(network, tower, maps, given)
    else:
        theirs, _ = torch_references.run_reference(name, network, x, maps)
    # Where a map has fewer channels (the new ones of a dense block) they are the last of ours.
    pairs = [(np.asarray(maps[key])[..., -want.shape[-1] :], want) for key, want in theirs.items()]
    return max(float(np.abs(ours - want).max() / np.abs(want).max()) for ours, want in pairs)


if __name__ == "__main__":
    main()
