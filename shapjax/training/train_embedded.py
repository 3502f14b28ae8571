"""Trains the embedded backbone and writes its weights and the log of what was measured.

Run as ``python -m shapjax.training.train_embedded``; ``--quick`` is a smoke test. The network is
trained with the NT-Xent loss (Chen et al. 2020), on pooled features of pairs of views and on
their corresponding locations, over photographs that scikit-image ships and over drawn scenes.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import multiprocessing
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tqdm import tqdm

from shapjax.backbones.loading import load
from shapjax.backbones.record import Backbone
from shapjax.backbones.shapjax_tiny import (
    EMBEDDED,
    NAME,
    PREPROCESSING,
    ShapjaxTiny,
    save_weights,
)
from shapjax.training import crops, measures
from shapjax.training.nt_xent import dense_nt_xent, nt_xent
from shapjax.training.scenes import scene_pair

LOG = Path(__file__).parent / "embedded_log.json"
AHEAD = 4
CURVE_POINTS = 30


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a training run depends on.

    Attributes:
        seed: of the initial weights and of the training data.
        measure_seed: of the galleries on which the features are measured.
        steps: gradient steps.
        photograph_pairs: pairs of crops of photographs in a batch.
        scene_pairs: pairs of views of drawn scenes in a batch.
        gallery: pairs in each gallery of the measures.
        peak_rate: learning rate after the warm-up; a cosine takes it to zero.
        warmup: fraction of the steps.
        decay: decoupled weight decay.
        temperature: of the loss on pooled features.
        dense_temperature: of the loss on locations.
        dense_weight: of the loss on locations, against 1 for pooled features.
    """

    seed: int = 0
    measure_seed: int = 1000
    steps: int = 1400
    photograph_pairs: int = 12
    scene_pairs: int = 6
    gallery: int = 200
    peak_rate: float = 3e-3
    warmup: float = 0.05
    decay: float = 1e-4
    temperature: float = 0.1
    dense_temperature: float = 0.2
    dense_weight: float = 1.0

    def quick(self) -> Settings:
        """The same run, cut down to a smoke test."""
        return dataclasses.replace(self, steps=3, photograph_pairs=4, scene_pairs=4, gallery=20)


def initial(seed: int) -> Backbone:
    """The backbone before training."""
    graphdef, state = nnx.split(ShapjaxTiny(rngs=nnx.Rngs(seed)))
    return Backbone(NAME, PREPROCESSING, graphdef, state)


def train(settings: Settings, batches: Iterator[crops.Pairs]) -> tuple[Backbone, list[float]]:
    """The trained backbone and the loss of every step.

    Args:
        settings: of the run.
        batches: at least ``settings.steps`` batches.
    """
    backbone = initial(settings.seed)
    optimiser = make_optimiser(settings)
    step = make_step(settings, optimiser)
    memory = optimiser.init(backbone.state)
    losses = []
    progress = tqdm(range(settings.steps), desc="training", unit="step", mininterval=5)
    for _ in progress:
        backbone, memory, loss = step(backbone, memory, dataclasses.astuple(next(batches)))
        losses.append(float(loss))
        progress.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
    return backbone, losses


def make_optimiser(settings: Settings) -> optax.GradientTransformation:
    """AdamW under a warm-up and a cosine schedule."""
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=settings.peak_rate,
        warmup_steps=max(1, int(settings.warmup * settings.steps)),
        decay_steps=settings.steps,
    )
    return optax.adamw(schedule, weight_decay=settings.decay)


def make_step(settings: Settings, optimiser: optax.GradientTransformation) -> Callable[..., Any]:
    """The jitted gradient step: (backbone, memory, batch) to (backbone, memory, loss)."""

    @jax.jit
    def step(backbone, memory, batch):
        loss, gradient = jax.value_and_grad(batch_loss, allow_int=True)(backbone, batch, settings)
        updates, memory = optimiser.update(gradient.state, memory, backbone.state)
        state = optax.apply_updates(backbone.state, updates)
        return dataclasses.replace(backbone, state=state), memory, loss

    return step


def batch_loss(backbone: Backbone, batch: Sequence[jax.Array], settings: Settings) -> jax.Array:
    """NT-Xent of pooled features plus NT-Xent of corresponding locations, a scalar.

    Both act on the features themselves, without a projector between, since the package compares
    these very features by dot products. It compares locations by how they differ from the same
    locations blurred, so the term on locations is centred likewise.

    Args:
        backbone: being trained.
        batch: first, second, match and valid as in :class:`shapjax.training.crops.Pairs`.
        settings: of the run.
    """
    first, second, match, valid = batch
    views = jnp.concatenate([first, second]).astype(jnp.float32) / 255
    features = backbone.features(backbone.normalise(views))
    blurred = backbone.features(backbone.normalise(measures.box_blur(views)))
    here, there = jnp.split(features.mean(axis=(1, 2)), 2)
    pooled = nt_xent(here, there, settings.temperature)
    here, there = jnp.split(features - blurred, 2)
    dense = dense_nt_xent(here, there, match, valid, settings.dense_temperature)
    return pooled + settings.dense_weight * dense


def make_batch(settings: Settings, photographs: Sequence, index: int) -> crops.Pairs:
    """The batch of one step; it depends on the seed and the index alone."""
    rng = np.random.default_rng((settings.seed, index))
    chosen = rng.integers(len(photographs), size=settings.photograph_pairs)
    pairs = [crops.crop_pair(rng, photographs[i]) for i in chosen]
    # Every other scene is papered with photographs, so that natural textures move in layers too.
    pairs += [
        scene_pair(rng, photographs if index % 2 else ()) for index in range(settings.scene_pairs)
    ]
    return crops.stack(pairs)


@contextlib.contextmanager
def background_batches(settings: Settings) -> Iterator[Iterator[crops.Pairs]]:
    """Batches in order, made a few steps ahead by another process that ends with the block."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue(maxsize=AHEAD)
    worker = context.Process(target=_produce, args=(settings, queue), daemon=True)
    worker.start()
    try:
        yield iter(queue.get, None)
    finally:
        worker.terminate()
        worker.join()


def _produce(settings: Settings, queue) -> None:
    try:
        photographs = crops.photographs(crops.TRAINING_PHOTOGRAPHS)
        for index in range(settings.steps):
            queue.put(make_batch(settings, photographs, index))
    finally:
        # However it ends, training must not wait for more.
        queue.put(None)


def steps_within(settings: Settings, minutes: float) -> int:
    """How many steps fit into some minutes, from the speed of a few trial steps."""
    trial = dataclasses.replace(settings, steps=12)
    with background_batches(trial) as batches:
        backbone = initial(trial.seed)
        optimiser = make_optimiser(trial)
        step, memory = make_step(trial, optimiser), optimiser.init(backbone.state)
        ends = []
        for _ in range(trial.steps):
            backbone, memory, loss = step(backbone, memory, dataclasses.astuple(next(batches)))
            loss.block_until_ready()
            ends.append(time.perf_counter())
    per_step = (ends[-1] - ends[AHEAD]) / (trial.steps - 1 - AHEAD)
    return max(1, int(60 * minutes / per_step))


def images_per_second(backbone: Backbone, batch: int = 64, repeats: int = 10) -> float:
    """Feature maps a second on this machine, for normalised input of the given batch size."""
    x = jnp.zeros((batch, PREPROCESSING.size, PREPROCESSING.size, 3))
    features = jax.jit(Backbone.features)
    features(backbone, x).block_until_ready()
    start = time.perf_counter()
    for _ in range(repeats):
        features(backbone, x).block_until_ready()
    return batch * repeats / (time.perf_counter() - start)


def coarse(losses: Sequence[float]) -> list[dict[str, float]]:
    """The loss curve as means over at most 30 equal spans, each under its last step."""
    spans = np.array_split(np.arange(len(losses)), min(CURVE_POINTS, len(losses)))
    return [
        {"step": int(span[-1]) + 1, "loss": round(float(np.mean(np.take(losses, span))), 4)}
        for span in spans
    ]


def run(settings: Settings, out: Path, log: Path) -> dict[str, Any]:
    """Trains, saves the weights, measures the saved file, and writes the log twice.

    Args:
        settings: of the run.
        out: the ``.npz`` file of weights.
        log: the ``.json`` log; a ``.md`` for people is written beside it.

    Returns:
        What the log holds.
    """
    for folder in (out.parent, log.parent):
        folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with background_batches(settings) as batches:
        backbone, losses = train(settings, batches)
    seconds = time.perf_counter() - start
    save_weights(out, backbone.state)
    # What ships is the rounded file, so that is what gets measured.
    trained, untrained = load(NAME, out), initial(settings.seed)
    suite = measures.suite(settings.measure_seed, settings.gallery, crops.HELD_OUT_PHOTOGRAPHS)
    record = {
        "settings": dataclasses.asdict(settings),
        "training_photographs": crops.TRAINING_PHOTOGRAPHS,
        "held_out_photographs": crops.HELD_OUT_PHOTOGRAPHS,
        "machine": f"{multiprocessing.cpu_count()} cores of {platform.machine()}",
        "jax": jax.__version__,
        "training_seconds": round(seconds, 1),
        "weights": sum(leaf.size for leaf in jax.tree.leaves(trained.state)),
        "file_bytes": out.stat().st_size,
        "images_per_second": round(images_per_second(trained)),
        "loss": coarse(losses),
        "measures": {
            name: _compared(measure(trained), measure(untrained)) for name, measure in suite.items()
        },
    }
    log.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    log.with_suffix(".md").write_text(report(record), encoding="utf-8")
    return record


def _compared(trained: measures.Score, untrained: measures.Score) -> dict[str, float]:
    rates = {"trained": trained.rate, "untrained": untrained.rate, "chance": trained.chance}
    return {name: round(rate, 4) for name, rate in rates.items()}


def report(record: dict[str, Any]) -> str:
    """The log for people, Markdown."""
    rows = [
        f"| {name} | {rate['trained']:.1%} | {rate['untrained']:.1%} | {rate['chance']:.1%} |"
        for name, rate in record["measures"].items()
    ]
    curve = [f"| {point['step']} | {point['loss']:.3f} |" for point in record["loss"]]
    settings = [f"- {name}: {value}" for name, value in record["settings"].items()]
    return "\n".join(
        [
            f"# How {NAME} was trained",
            "",
            "Written by `python -m shapjax.training.train_embedded`; every number is of that run.",
            "",
            f"{record['training_seconds']:.0f} seconds of training on {record['machine']} "
            f"with jax {record['jax']}; "
            f"{record['weights']} weights in {record['file_bytes']} bytes; "
            f"{record['images_per_second']} images a second.",
            "",
            f"Photographs trained on: {', '.join(record['training_photographs'])}. "
            f"Held out: {', '.join(record['held_out_photographs'])}, and the stereo motorcycle.",
            "",
            "## How good the features are",
            "",
            f"On {record['settings']['gallery']} unseen pairs of views each. Retrieval: the first "
            "view with the nearest pooled features (cosine) belongs to the second view. "
            "Correspondence: the cell with the largest dot product of features is within one cell "
            "of the true one; centred, of features less those of the box-blurred picture. "
            "The untrained network has the same initial weights and meets the same data.",
            "",
            "| measure | trained | untrained | chance |",
            "|---|---|---|---|",
            *rows,
            "",
            "## Settings",
            "",
            *settings,
            "",
            "## Loss",
            "",
            "| step | mean loss since the row above |",
            "|---|---|",
            *curve,
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the embedded backbone.")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, default=Settings.steps, help="gradient steps")
    length.add_argument("--minutes", type=float, help="as many steps as fit into this time")
    length.add_argument("--quick", action="store_true", help="a smoke test of a few steps")
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--out", type=Path, help="the weights; the log goes beside them")
    options = parser.parse_args(arguments)

    settings = Settings(seed=options.seed, steps=options.steps)
    if options.minutes is not None:
        settings = dataclasses.replace(settings, steps=steps_within(settings, options.minutes))
    if options.quick:
        settings = settings.quick()
    out = options.out or (Path("quick.npz") if options.quick else EMBEDDED)
    log = LOG if out == EMBEDDED else out.with_name(f"{out.stem}_log.json")
    record = run(settings, out, log)
    print(json.dumps(record["measures"], indent=1))


if __name__ == "__main__":
    main()
