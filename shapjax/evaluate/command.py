"""What ``shapjax evaluate`` does."""

from __future__ import annotations

import argparse
import contextlib
import functools
import re
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
    models = _models(options)
    pairs = _pairs(options, dataset, models, place)
    # Before hours of work, not after them.
    plan = plan_of(dataset, pairs, models, settings, _weights(options))
    others = [(folder, read_plan(folder)) for folder in options.others]
    require_one_table([(options.out, plan), *others])
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
            weights=_weights(options),
            progress=tell,
        )
    if place.process != 0:
        return
    keys, missing = keys_of(pairs, models, settings), set()
    if place.processes > 1:
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
            f"{len(missing)} of {len(keys)} rows have not come, and the tables are without them; "
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


def _models(options: argparse.Namespace) -> dict[str, Any]:
    from shapjax import backbones

    weights = _weights(options)
    return {name: backbones.load(name, weights=weights.get(name)) for name in options.backbones}


def _pairs(
    options: argparse.Namespace, dataset: Any, models: dict[str, Any], place: Place
) -> list[Any]:
    """The pairs of the run: a given list, or what process 0 mines and the others wait for."""
    from shapjax.core.checks import whole_number
    from shapjax.core.files import printable
    from shapjax.evaluate.cluster import seen_by_others, wait_for_pairs
    from shapjax.evaluate.mining import mine_pairs
    from shapjax.evaluate.pairs import PAIRS, read_pairs

    asked = options.pairs
    if asked != "all" and not re.fullmatch("[0-9]{1,18}", asked):
        return _listed(options, dataset, place)
    if place.process != 0:
        there = Path(options.out) / PAIRS
        wait_for_pairs(there, patience=options.patience)
        return read_pairs(there, dataset)
    count = None if asked == "all" else whole_number(int(asked), "pairs", low=1)
    by = _paired_by(options.paired_by, models)
    with Bar("pairing", options.quiet, "files", resumes=True) as bar:
        tell = bar.update if place.processes == 1 else seen_by_others(options.out, bar.update)
        mined = mine_pairs(
            dataset,
            by,
            count=count,
            seed=options.seed,
            broken=options.broken,
            progress=tell,
        )
    for path, reason in mined.broken.items():
        print(f"shapjax: skipped {printable(path)}: {printable(reason)}", file=sys.stderr)
    return mined.pairs


def _paired_by(asked: str | None, models: dict[str, Any]) -> Any:
    """The network that finds the pairs: one of those that are explained, or another."""
    from shapjax import backbones
    from shapjax.core.checks import one_of

    name, _, weights = (asked or next(iter(models))).partition("=")
    if name in models and not weights:
        return models[name]
    return backbones.load(
        one_of(name, tuple(backbones.names()), "paired-by"), weights=weights or None
    )


def _listed(options: argparse.Namespace, dataset: Any, place: Place) -> list[Any]:
    """The pairs of a given list whose files can be read.

    Of pairs that the run has already no file is opened again: what broke since it began makes
    failed rows, and a run that goes on begins at once.
    """
    from shapjax.evaluate.pairs import PAIRS, pairs_of_shard, read_pairs, whole_pairs

    pairs = read_pairs(options.pairs, dataset)
    begun: set[str] = set()
    with contextlib.suppress(ShapjaxError):  # where no run has begun
        begun = {pair.id for pair in read_pairs(Path(options.out) / PAIRS, dataset)}
    # All processes must leave out the same pairs, but where none is left out each has its own.
    looked = pairs if options.broken == "skip" else pairs_of_shard(pairs, *place)
    new = [pair for pair in looked if pair.id not in begun]
    with Bar("opening", options.quiet, "files", resumes=True) as bar:
        whole = whole_pairs(new, dataset, broken=options.broken, progress=bar.update)
    lost = {pair.id for pair in new} - {pair.id for pair in whole}
    if len(lost) == len(pairs):
        raise ShapjaxError(f"no pair of {options.pairs} can be read; mend its files.")
    return [pair for pair in pairs if pair.id not in lost]
