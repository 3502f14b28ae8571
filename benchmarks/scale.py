"""Pairs per second against devices, pairs and budget; and what a TPU pod would make of it.

    python benchmarks/scale.py [--methods sam gram-sam] [--pairs 100 1000 10000]
        [--budgets 200 1000] [--devices 1 2] [--from maps files] [--json]
    python benchmarks/scale.py --plan [--json]
    python benchmarks/scale.py --torch [--resnet50 WEIGHTS] [--json]
    python benchmarks/scale.py --quick

Pairs from ``maps`` are feature maps of 7x7 locations and 64 channels, made from the pair's number
when its chunk is begun, so that they take no memory. Those from ``files`` go all the way: JPEG
files of 500 x 375 are read, resized, blurred, seen by the embedded network and explained by
``explain_stream``. Every row is a process of its own: ``seconds`` are those after the first chunk,
which compiles, ``last tenth`` is the cost of a pair among the last tenth of them, so that a cost
that grows would show whatever else the machine does, ``growth`` is how much the peak of the memory
of the process rose from then on, MiB. ``--devices`` are virtual ones of the CPU, which share its
cores.

``--plan`` prints what is known of chips, what a pair asks for, and what follows, from this
machine's measured share of its own speed in matrix products and the time a core takes to read a
picture (see docs/scale.md). ``--torch`` puts Kernel SAM at 40,000 coalitions and Kernel SHAP at
20,000 with ResNet50 beside the same in PyTorch, on a GPU.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count, islice
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from PIL import Image
from skimage.data import astronaut
from tables import print_records

import shapjax as sj
from shapjax.explainers.batch import TOGETHER, explain_stream, explained_maps, pair_keys
from shapjax.explainers.explain import METHODS
from shapjax.explainers.features import FEATURE_METHODS
from shapjax.games.backgrounds import background
from shapjax.games.feature_pairs import FeaturePair

SIDE, CHANNELS = 7, 64
FILES = 16
PLAYERS = 2 * SIDE**2


@jax.jit
@jax.vmap
def synthetic(place: jax.Array) -> FeaturePair:
    """The maps of a pair from its number: rectified noise, the blanks at a third of it."""
    key = jax.random.fold_in(jax.random.key(0), place)
    maps = jax.nn.relu(jax.random.normal(key, (2, SIDE, SIDE, CHANNELS), jnp.float32))
    return FeaturePair(maps[0], maps[1], maps[:1] / 3, maps[1:] / 3)


def photograph() -> Image.Image:
    """A photograph of the size and about the bytes of Pascal VOC's."""
    return Image.fromarray(astronaut()).resize((500, 375))


def sums_of_maps(method: str, budget: int, mesh: Mesh | None, width: int) -> Iterator[float]:
    """The sum of the pair terms of each chunk of synthetic pairs, without end."""
    key = jax.random.key(0)
    for first in count(0, width):
        places = np.arange(first, first + width)
        found, _, finite = explained_maps(
            synthetic(jnp.asarray(places)),
            pair_keys(key, places.tolist()),
            method=method,
            order=2,
            budget=budget,
            mesh=mesh,
        )
        assert np.asarray(finite).all()
        yield float(np.asarray(found.coefficients[2]).sum())


def sums_of_files(method: str, budget: int, mesh: Mesh | None, width: int) -> Iterator[float]:
    """The same of pairs of files, seen by the embedded network."""
    takes = None if METHODS[method].budgets is None else budget
    with tempfile.TemporaryDirectory() as folder:
        for place in range(FILES):
            photograph().rotate(place).save(f"{folder}/{place}.jpg", quality=90)
        files = [f"{folder}/{place}.jpg" for place in range(FILES)]
        pairs = ((files[i % FILES], files[(i + 1) % FILES]) for i in count())
        found = explain_stream(
            sj.backbones.load("shapjax_tiny"), pairs, method=method, budget=takes, mesh=mesh
        )
        while True:
            yield sum(_sum_of_pairs(one) for one in islice(found, width))


def _sum_of_pairs(one: sj.Explanation | sj.Failure) -> float:
    assert isinstance(one, sj.Explanation)
    return float(one.interactions.pairs.sum())


SOURCES = {"maps": sums_of_maps, "files": sums_of_files}


def explain_all(
    method: str, pairs: int, budget: int, devices: int, source: str = "maps"
) -> dict[str, Any]:
    """Explain pairs in chunks in this process; one record."""
    mesh = jax.make_mesh((devices,), ("pairs",)) if devices > 1 else None
    width = TOGETHER * devices
    sums = SOURCES[source](method, budget, mesh, width)
    total = next(sums)
    begun = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    chunks = -(-pairs // width)
    ends = [begun]
    for value in islice(sums, chunks):
        total += value
        ends.append(time.perf_counter())
    seconds, last = ends[-1] - begun, max(1, chunks // 10)
    counted = width * chunks
    done = counted + width
    return {
        "method": method,
        "from": source,
        "devices": devices,
        "budget": "" if METHODS[method].budgets is None else budget,
        "pairs": counted,
        "seconds": round(seconds, 2),
        "pairs a second": round(counted / seconds, 1),
        "ms a pair": round(1e3 * seconds / counted, 3),
        "last tenth": round(1e3 * (ends[-1] - ends[-1 - last]) / (last * width), 3),
        "growth": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) >> 10,
        "mean of pairs": float(f"{total / done:.4g}"),
    }


def in_process(
    method: str, pairs: int, budget: int, devices: int, source: str = "maps"
) -> dict[str, Any]:
    """The same in a process of its own, with so many virtual devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    numbers = map(str, (pairs, budget, devices))
    command = [sys.executable, __file__, "--work", method, source, *numbers]
    environment = {**os.environ, "XLA_FLAGS": flags}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode:
        raise SystemExit(result.stderr[-3000:])
    return json.loads(result.stdout)


class Chip(NamedTuple):
    """A TPU chip as its maker describes it.

    Attributes:
        name: generation.
        bf16: matrix products in bfloat16, FLOP a second.
        memory: bytes a second between the chip and its memory.
        dollars: list price of an hour on demand in a region of the United States, 2025.
    """

    name: str
    bf16: float
    memory: float
    dollars: float


CHIPS = (
    Chip("v5e", 197e12, 819e9, 1.20),
    Chip("v5p", 459e12, 2765e9, 4.20),
    Chip("v6e", 918e12, 1640e9, 2.70),
)

NETWORK_FLOP = 2 * 4.09e9
"""Of ResNet-50 for a picture of 224 x 224 (He et al. 2016: 3.8e9 multiplications and additions
without the last revision's strides; torchvision: 4.09e9)."""

NETWORK_SHARE = 0.4
"""Of a chip's peak that a convolutional network in large batches gets: an assumption, at the lower
end of what MLPerf's ResNet-50 submissions show."""

PASSES = 6
"""Products in bfloat16 that one in float32 is made of on a TPU (precision "highest")."""

PICTURE = 224 * 224 * 3 * 4
JPEG = 110e3
"""Bytes of a file of Pascal VOC, mean."""


class Load(NamedTuple):
    """What a pair asks for at second order on 7x7 + 7x7 locations, or superpixels.

    Attributes:
        name: the method and its budget.
        pictures: that the network sees.
        flop: of the explanation itself.
        memory: bytes that the explanation moves between a chip and its memory.
    """

    name: str
    pictures: int
    flop: float
    memory: float


def gram_sam_flop(coalitions: int, side: int) -> float:
    """Products and additions of Gram SAM: four products across, 12 for each pair of one side."""
    return coalitions * (8 * side**2 + 2 * 12 * 4 * side**2 + 6 * side**2)


def kernel_flop(coalitions: int, players: int, steps: int) -> float:
    """Worths from Gram matrices, then two passes over the design in each step of the solver."""
    return coalitions * (1.5 * players**2 + 4 * steps * players**2)


def loads(steps: int) -> list[Load]:
    """What is planned; ``steps`` are those of the solver of the kernel regression."""
    side, n = SIDE**2, PLAYERS
    whole = 4  # both pictures, and the blur of both
    return [
        Load("sam", whole, 2 * side**2 * 2048, 4 * n**2),
        Load("gram-sam, 5,000", whole, gram_sam_flop(5_000, side), 5_000 * n * 40),
        Load("kernel-sam, 40,000", whole, kernel_flop(40_000, n, steps), 40_000 * n * 8 * steps),
        Load("two-tower, 2,000", 2_000, 1e9, 2_000 * 2048 * 4),
        Load("kernel-shap, 20,000", 40_000, kernel_flop(20_000, 100, steps), 0),
    ]


def measured_share(pairs: int = 64) -> tuple[float, float, int]:
    """This machine's FLOP a second in products, the share of it of Gram SAM, the solver's steps."""
    x = jnp.ones((1024, 1024), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    product(x).block_until_ready()
    begun = time.perf_counter()
    for _ in range(20):
        product(x).block_until_ready()
    peak = 20 * 2 * 1024**3 / (time.perf_counter() - begun)
    record = explain_all("gram-sam", pairs, 1000, 1)
    rate = gram_sam_flop(1000, SIDE**2) * record["pairs a second"]
    maps = synthetic(jnp.arange(1))
    found, _, _ = explained_maps(
        maps, jax.random.split(jax.random.key(0), 1), method="kernel-sam", order=2, budget=40_000
    )
    return peak, rate / peak, int(np.asarray(found.stats["steps"])[0])


def read_seconds(times: int = 30) -> float:
    """Seconds of a core from a JPEG file of a photograph to the network's input and its blur."""
    file = io.BytesIO()
    photograph().save(file, "JPEG", quality=90)
    model = sj.backbones.load("shapjax_tiny")
    begun = time.process_time()
    for _ in range(times):
        file.seek(0)
        rgb = model.resize(sj.load_image(Image.open(file)), fit="stretch")
        background("blur", rgb, model)
    return (time.process_time() - begun) / times


def plan(share: float, steps: int, read: float) -> list[dict[str, Any]]:
    """A record for each method and chip.

    Args:
        share: of a chip's peak in products that the explanation gets.
        steps: of the solver of the kernel regression.
        read: seconds of a host's core for a picture.
    """
    records = []
    for load in loads(steps):
        network = load.pictures * NETWORK_FLOP
        moved = 2 * JPEG, 4 * PICTURE if load.pictures == 4 else 2 * PICTURE + load.pictures * 64
        for chip in CHIPS:
            seconds = {
                "network": network / (NETWORK_SHARE * chip.bf16),
                "arithmetic": load.flop / (share * chip.bf16 / PASSES),
                "memory": load.memory / chip.memory,
            }
            # The explanation is bound by the slower of both; the network comes before it.
            each = seconds["network"] + max(seconds["arithmetic"], seconds["memory"])
            bound = max(seconds, key=lambda name: seconds[name])
            records.append(
                {
                    "method, budget": load.name,
                    "chip": chip.name,
                    "GFLOP network": round(network / 1e9),
                    "GFLOP explanation": float(f"{load.flop / 1e9:.2g}"),
                    "MB read": float(f"{moved[0] / 1e6:.2g}"),
                    "MB to chip": float(f"{moved[1] / 1e6:.2g}"),
                    "bound by": bound,
                    "pairs/s, chip": float(f"{1 / each:.3g}"),
                    "cores to read, chip": float(f"{2 * read / each:.2g}"),
                    "pairs/s, 256 chips": float(f"{256 / each:.3g}"),
                    "hours of a million, 256": float(f"{1e6 * each / 256 / 3600:.2g}"),
                    "$ a million": float(f"{1e6 * each / 3600 * chip.dollars:.3g}"),
                }
            )
    return records


def main() -> None:
    """Print a table, or JSON."""
    if sys.argv[1:2] == ["--work"]:
        method, source, *numbers = sys.argv[2:]
        pairs, budget, devices = map(int, numbers)
        print(json.dumps(explain_all(method, pairs, budget, devices, source)))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--methods", nargs="+", choices=list(FEATURE_METHODS), default=["sam", "gram-sam"]
    )
    parser.add_argument("--pairs", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--budgets", type=int, nargs="+", default=[200, 1_000])
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--from", nargs="+", choices=list(SOURCES), default=list(SOURCES))
    parser.add_argument("--plan", action="store_true", help="a TPU pod, from published figures")
    parser.add_argument("--torch", action="store_true", help="beside PyTorch, on a GPU")
    parser.add_argument("--resnet50", metavar="WEIGHTS", help="of ResNet50, for --torch")
    parser.add_argument("--quick", action="store_true", help="few pairs")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.plan:
        (peak, share, steps), read = measured_share(), read_seconds()
        print(
            f"this machine: {peak / 1e9:.0f} GFLOP/s in float32 products, of which Gram SAM gets "
            f"{share:.0%}; {steps} steps of the solver of Kernel SAM; {1e3 * read:.1f} ms of a "
            "core to read, resize and blur a picture",
            file=sys.stderr,
        )
        print_records(plan(share, steps, read), as_json=options.json)
        return
    if options.torch:
        from scale_torch import compare

        print_records(compare(options.resnet50), as_json=options.json)
        return
    if options.quick:
        options.methods, options.pairs = ["sam"], [16, 32]
        options.budgets, options.devices = [200], [1, 2]
    records = []
    for method in options.methods:
        budgets = options.budgets if method != "sam" else options.budgets[:1]
        for place, budget in enumerate(budgets):
            for devices in options.devices:
                # Pairs grow at the first budget and on one device; the rest is one middle size.
                grow = place == 0 and devices == options.devices[0]
                sizes = options.pairs if grow else options.pairs[:2][-1:]
                records += [
                    in_process(method, pairs, budget, devices, source)
                    for source in vars(options)["from"]
                    for pairs in sizes
                ]
    print_records(records, as_json=options.json)


if __name__ == "__main__":
    main()
