"""What ``shapjax evaluate`` does."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shapjax.core.bars import Bar
from shapjax.core.errors import ShapjaxError

if TYPE_CHECKING:
    from shapjax.evaluate.cluster import Place

PATIENCE = 300

SHOWN = 20
"""Failed rows that are listed at the end; the others are counted."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    from shapjax import backbones
    from shapjax.evaluate.datasets import DATASETS

    command.set_defaults(run=evaluate)
    command.add_argument("--dataset", required=True, choices=tuple(DATASETS))
    command.add_argument("--root", required=True, metavar="DIR", help="folder of the data set")
    command.add_argument(
        "--backbones",
        nargs="+",
        default=[backbones.names()[0]],
        choices=backbones.names(),
        metavar="NAME",
        help="networks to explain",
    )
    command.add_argument(
        "--weights",
        nargs="+",
        default=[],
        metavar="PATH",
        help="weights of the backbones, in their order; - for its own or published ones",
    )
    command.add_argument(
        "--methods",
        nargs="+",
        default=["paper"],
        metavar="all|paper|NAME",
        help="paper: those of the paper's tables, and gram-sam",
    )
    command.add_argument("--orders", nargs="+", type=int, choices=(1, 2), default=[1, 2])
    command.add_argument(
        "--pairs",
        default="all",
        metavar="N|all|CSV",
        help="pairs to mine, or those that an earlier run wrote",
    )
    command.add_argument(
        "--paired-by",
        metavar="NAME",
        help="which of the backbones finds the pairs; by default the first",
    )
    command.add_argument(
        "--budget",
        type=int,
        metavar="N",
        help="most evaluations of methods on feature maps; the paper's by default",
    )
    command.add_argument(
        "--superpixel-budget",
        type=int,
        metavar="N",
        help="most evaluations of methods that run the network on each coalition; likewise",
    )
    command.add_argument(
        "--broken",
        choices=("fail", "skip"),
        default="fail",
        help="what happens when pictures or masks are missing or damaged",
    )
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of the random numbers")
    command.add_argument(
        "--out", default="shapjax-evaluate", metavar="DIR", help="folder of results, or of a run "
        "that was ended and goes on"
    )  # fmt: skip
    command.add_argument(
        "--with",
        dest="others",
        nargs="+",
        default=[],
        metavar="DIR",
        help="other finished runs on this data set, whose rows the tables show too",
    )
    command.add_argument(
        "--coordinator",
        metavar="HOST:PORT|auto",
        help="where process 0 listens; auto: as SLURM, Kubernetes or a TPU pod has it",
    )
    command.add_argument("--processes", type=int, metavar="N", help="that share the pairs")
    command.add_argument("--process", type=int, metavar="I", help="which of them this is, from 0")
    command.add_argument(
        "--patience",
        type=int,
        default=PATIENCE,
        metavar="SECONDS",
        help="how long processes wait for one another to begin, then for process 0 to find the "
        "pairs, and process 0 for a new row of another one before it writes the tables",
    )
    command.add_argument("--quiet", action="store_true", help="show no progress")


def evaluate(options: argparse.Namespace) -> None:
    """Mine pairs, explain and measure them, and write the tables."""
    import jax

    from shapjax.core.files import printable
    from shapjax.evaluate.cluster import join, wait_for_rows
    from shapjax.evaluate.datasets import open_dataset
    from shapjax.evaluate.run import keys_of, run
    from shapjax.evaluate.store import rows_of_run
    from shapjax.evaluate.tables import write_tables

    settings = _settings(options)
    place = join(options.coordinator, options.processes, options.process, patience=options.patience)
    dataset = open_dataset(options.dataset, options.root)
    # As in the other commands: networks stay in float32, games do not.
    jax.config.update("jax_enable_x64", True)
    models = _models(options)
    pairs = _pairs(options, dataset, models, place)
    with _bars(options.quiet) as tell:
        rows = run(
            dataset,
            pairs,
            models,
            settings,
            options.out,
            shard=place.process,
            shards=place.processes,
            progress=tell,
        )
    if place.process != 0:
        return
    if place.processes > 1:
        keys = keys_of(pairs, models, settings)
        with Bar("waiting for the others", options.quiet, "rows", resumes=True) as bar:
            rows, missing = wait_for_rows(
                options.out, keys, patience=options.patience, progress=bar.update
            )
        if missing:
            print(
                f"shapjax: {len(missing)} of {len(keys)} rows have not come; start the processes "
                "that ended with the same --processes and --process, then this one again.",
                file=sys.stderr,
            )
    for other in options.others:
        rows += rows_of_run(other, dataset.name)
    paths = write_tables(options.out, rows, dataset.name)
    failed = [row for row in rows if row["error"] is not None]
    for row in failed[:SHOWN]:
        name = f"{row['pair']}, {row['backbone']}, {row['method']} of order {row['order']}"
        print(f"shapjax: failed {printable(name)}: {printable(row['error'])}", file=sys.stderr)
    if len(failed) > SHOWN:
        print(f"shapjax: and {len(failed) - SHOWN} more failed.", file=sys.stderr)
    if not options.quiet:
        print(paths["md"].read_text(encoding="utf-8"))
        print(f"{len(rows) - len(failed)} rows; written: {printable(paths['md'])}")


@contextlib.contextmanager
def _bars(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each kind of row, one after another: the time left is by the mean of its kind."""
    shown: dict[str, Bar] = {}
    with contextlib.ExitStack() as stack:

        def tell(what: str, done: int, total: int) -> None:
            if what not in shown:
                stack.close()
                bar = Bar(f"explaining by {what}", quiet, "rows", resumes=True)
                shown[what] = stack.enter_context(bar)
            shown[what].update(done, total)

        yield tell


def _settings(options: argparse.Namespace) -> Any:
    from shapjax.evaluate.published import METHODS_OF_PAPER
    from shapjax.evaluate.run import Settings
    from shapjax.explainers.explain import METHODS

    groups = {"all": tuple(METHODS), "paper": (*METHODS_OF_PAPER, "gram-sam")}
    methods = [name for asked in options.methods for name in groups.get(asked, (asked,))]
    return Settings(
        tuple(dict.fromkeys(methods)),
        tuple(options.orders),
        options.seed,
        options.budget,
        options.superpixel_budget,
    )


def _models(options: argparse.Namespace) -> dict[str, Any]:
    from shapjax import backbones

    names, weights = options.backbones, options.weights
    if len(set(names)) < len(names) or len(weights) > len(names):
        raise ShapjaxError(
            f"got {len(names)} backbones and {len(weights)} weights, expected each backbone once "
            "and no more weights than backbones."
        )
    padded = weights + ["-"] * (len(names) - len(weights))
    return {
        name: backbones.load(name, weights=None if path == "-" else path)
        for name, path in zip(names, padded, strict=True)
    }


def _pairs(
    options: argparse.Namespace, dataset: Any, models: dict[str, Any], place: Place
) -> list[Any]:
    """The pairs of the run: a given list, or what process 0 mines and the others wait for."""
    from shapjax.core.checks import one_of, whole_number
    from shapjax.core.files import printable
    from shapjax.evaluate.cluster import seen_by_others, wait_for_pairs
    from shapjax.evaluate.mining import PAIRS, mine_pairs, read_pairs

    asked = options.pairs
    if asked != "all" and not asked.isdigit():
        return read_pairs(Path(asked), dataset, broken=options.broken)
    if place.process != 0:
        there = Path(options.out) / PAIRS
        wait_for_pairs(there, patience=options.patience)
        return read_pairs(there, dataset, broken=options.broken, opened=False)
    count = None if asked == "all" else whole_number(int(asked), "pairs", low=1)
    by = one_of(options.paired_by or next(iter(models)), tuple(models), "paired-by")
    with Bar("pairing", options.quiet, "files", resumes=True) as bar:
        tell = bar.update if place.processes == 1 else seen_by_others(options.out, bar.update)
        mined = mine_pairs(
            dataset,
            models[by],
            count=count,
            seed=options.seed,
            broken=options.broken,
            progress=tell,
        )
    for path, reason in mined.broken.items():
        print(f"shapjax: skipped {printable(path)}: {printable(reason)}", file=sys.stderr)
    return mined.pairs
