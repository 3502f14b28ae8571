"""What ``shapjax evaluate`` does."""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from shapjax.core.bars import Bar
from shapjax.core.errors import ShapjaxError

PATIENCE = 300

SHOWN = 20
"""Failed rows that are listed at the end; the others are counted."""


class Setting(argparse.Action):
    """Stores a value, and that it was given: what ``--resume`` takes from the run."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Called by argparse for each option that it finds."""
        setattr(namespace, self.dest, values)
        namespace.given = (*namespace.given, option_string)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    from shapjax import backbones
    from shapjax.evaluate.datasets import DATASETS

    command.set_defaults(run=evaluate, given=())
    setting = functools.partial(command.add_argument, action=Setting)
    setting("--dataset", choices=tuple(DATASETS))
    setting("--root", metavar="DIR", help="folder of the data set")
    setting(
        "--backbones",
        nargs="+",
        default=[backbones.names()[0]],
        choices=backbones.names(),
        metavar="NAME",
        help="networks to explain",
    )
    setting(
        "--weights",
        nargs="+",
        default=[],
        metavar="PATH",
        help="weights of the backbones, in their order; - for its own or published ones",
    )
    setting(
        "--methods",
        nargs="+",
        default=["paper"],
        metavar="all|paper|NAME",
        help="paper: those of the paper's tables, and gram-sam",
    )
    setting("--orders", nargs="+", type=int, choices=(1, 2), default=[1, 2])
    setting(
        "--pairs",
        default="all",
        metavar="N|all|CSV",
        help="pairs to mine, or those that an earlier run wrote",
    )
    setting(
        "--paired-by",
        metavar="NAME[=PATH]",
        help="network that finds the pairs, and weights for it, whether it is explained or not; "
        "by default the first of the backbones",
    )
    setting(
        "--budget",
        type=int,
        metavar="N",
        help="most evaluations of methods on feature maps; the paper's by default",
    )
    setting(
        "--superpixel-budget",
        type=int,
        metavar="N",
        help="most evaluations of methods that run the network on each coalition; likewise",
    )
    setting(
        "--broken",
        choices=("fail", "skip"),
        default="fail",
        help="what happens when pictures or masks are missing or damaged",
    )
    setting("--seed", type=int, default=0, metavar="N", help="of the random numbers")
    setting(
        "--out", default="shapjax-evaluate", metavar="DIR", help="folder of results, or of a run "
        "that was ended and goes on"
    )  # fmt: skip
    command.add_argument(
        "--resume",
        metavar="DIR",
        help="go on with the run in DIR by its own settings and pairs; beside it no setting is "
        "given, but what says which process this is and what is shown",
    )
    command.add_argument(
        "--again-failed",
        action="store_true",
        help="try pairs again that failed, as when files are mended",
    )
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
    from shapjax.evaluate.pairing import mined_by, pairs_of
    from shapjax.evaluate.plan import read_plan, require_one_table
    from shapjax.evaluate.run import keys_of, plan_of, run
    from shapjax.evaluate.store import each_once, read
    from shapjax.evaluate.tables import write_tables

    options = _whole(options)
    settings = _settings(options)
    place = join(options.coordinator, options.processes, options.process, patience=options.patience)
    dataset = open_dataset(options.dataset, options.root)
    # As in the other commands: networks stay in float32, games do not.
    jax.config.update("jax_enable_x64", True)
    weights = _weights(options)
    mined = mined_by(options, weights)
    models = _models(options, weights)
    if options.others and place.process == 0:  # before hours of work, not after them
        plan = plan_of(dataset, [], models, settings)
        others = [(folder, read_plan(folder)) for folder in options.others]
        require_one_table([(options.out, plan), *others])
    pairs = pairs_of(options, dataset, models, mined, place)
    with _bars(options.quiet) as tell:
        rows = run(
            dataset,
            pairs,
            models,
            settings,
            options.out,
            shard=place.process,
            shards=place.processes,
            again_failed=options.again_failed,
            weights=weights,
            mined=mined,
            progress=tell,
        )
    if place.process != 0:
        return
    missing = set()
    if place.processes > 1:
        keys = keys_of(pairs, models, settings)
        with Bar("waiting for the others", options.quiet, "rows", resumes=True) as bar:
            rows, missing = wait_for_rows(
                options.out, keys, patience=options.patience, progress=bar.update
            )
    rows = each_once([*rows, *(row for folder in options.others for row in read(folder))])
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
    if missing:
        raise ShapjaxError(
            f"{len(missing)} rows have not come, and the tables are without them; "
            "start the processes that ended with the same --processes and --process, then this "
            "one again."
        )


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


def _whole(options: argparse.Namespace) -> argparse.Namespace:
    """The options with all settings, given or of a run that goes on."""
    from shapjax.evaluate.resume import resumed

    if options.resume is not None:
        return resumed(options)
    if options.dataset is None or options.root is None:
        raise ShapjaxError(
            "--dataset or --root is missing; name the data set and its folder, or with --resume "
            "the folder of a run."
        )
    return options


def _weights(options: argparse.Namespace) -> dict[str, str]:
    """The weights that are given, by the name of their network; paths as any folder has them."""
    names, weights = options.backbones, options.weights
    if len(set(names)) < len(names) or len(weights) > len(names):
        raise ShapjaxError(
            f"got {len(names)} backbones and {len(weights)} weights, expected each backbone once "
            "and no more weights than backbones."
        )
    given = {name: path for name, path in zip(names, weights, strict=False) if path != "-"}
    return {
        name: str(Path(path).resolve()) if Path(path).exists() else path
        for name, path in given.items()
    }


def _models(options: argparse.Namespace, weights: dict[str, str]) -> dict[str, Any]:
    from shapjax.evaluate.pairing import load_network

    return {name: load_network(name, weights.get(name)) for name in options.backbones}
