"""Which pairs a run of ``shapjax evaluate`` has: mined, listed, or those that it began with."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shapjax import backbones
from shapjax.backbones.record import Backbone
from shapjax.backbones.tokeniser import TextPreprocessing
from shapjax.core.bars import Bar
from shapjax.core.checks import one_of, whole_number
from shapjax.core.errors import ShapjaxError
from shapjax.core.files import printable
from shapjax.evaluate.cluster import Place, seen_by_others, wait_for_pairs
from shapjax.evaluate.datasets.record import DataSet
from shapjax.evaluate.mining import mine_pairs
from shapjax.evaluate.pairs import (
    PAIRS,
    Pair,
    digest_of_pairs,
    pairs_of_shard,
    read_pairs,
    whole_pairs,
)
from shapjax.evaluate.plan import read_plan
from shapjax.evaluate.store import path_of_shard


def load_network(name: str, weights: str | None) -> Backbone:
    """A backbone that sees pictures.

    Raises:
        ShapjaxError: it reads texts; or see ``backbones.load``.
    """
    model = backbones.load(name, weights=weights)
    if isinstance(model.preprocessing, TextPreprocessing):
        raise ShapjaxError(f"{name} reads texts, expected a network of pictures; name another.")
    return model


def mined_by(options: argparse.Namespace, weights: Mapping[str, str]) -> dict[str, Any] | None:
    """How the pairs of the command are found, for the manifest; None: they are listed.

    Args:
        options: of the command.
        weights: of the networks that are explained, by name.

    Raises:
        ShapjaxError: there is no such network, or no such number of pairs.
    """
    asked = options.pairs
    if asked != "all" and not re.fullmatch("[0-9]{1,18}", asked):
        if options.paired_by is not None:
            raise ShapjaxError(
                f"--paired-by finds pairs, but {asked} lists them; leave one of the two out."
            )
        return None
    name, _, path = (options.paired_by or options.backbones[0]).partition("=")
    one_of(name, backbones.names(), "paired-by")
    path = path or weights.get(name, "")
    return {
        "pairs": None if asked == "all" else whole_number(int(asked), "pairs", low=1),
        "by": name,
        "weights": str(Path(path).resolve()) if Path(path).is_file() else path,
    }


def pairs_of(
    options: argparse.Namespace,
    dataset: DataSet,
    models: Mapping[str, Backbone],
    mined: dict[str, Any] | None,
    place: Place,
) -> list[Pair]:
    """The pairs of the run. Process 0 finds them, and the others wait for its list.

    They are found, and their files looked at, once: a run that goes on has the list that it began
    with, and what broke since then makes failed rows.

    Args:
        options: of the command.
        dataset: that is explained.
        models: networks that are explained, by name.
        mined: how pairs are found, from ``mined_by``.
        place: of this process.

    Raises:
        ShapjaxError: there are none, or files are missing or broken and not to be skipped.
    """
    if options.resume is not None and mined is None:
        return read_pairs(options.pairs, dataset)
    listed = read_pairs(options.pairs, dataset) if mined is None else []
    begun = _begun(options, dataset, listed, mined, place)
    if begun:
        return begun
    if listed and options.broken == "fail":
        _open(options, dataset, pairs_of_shard(listed, *place))
        return listed
    if place.process != 0:
        there = Path(options.out) / PAIRS
        wait_for_pairs(there, patience=options.patience)
        return read_pairs(there, dataset)
    if mined is None:
        return _open(options, dataset, listed)
    return _mine(options, dataset, models, mined, place)


def _begun(
    options: argparse.Namespace,
    dataset: DataSet,
    listed: list[Pair],
    mined: dict[str, Any] | None,
    place: Place,
) -> list[Pair]:
    """The list of a run in the folder that began as this one is asked for; none: it has not."""
    folder = Path(options.out)
    try:
        plan, pairs = read_plan(folder), read_pairs(folder / PAIRS, dataset)
    except ShapjaxError:  # nothing is there, or what this command cannot go on with
        return []
    if plan.get("pairs") != digest_of_pairs(pairs):
        return []
    if mined is not None:
        return pairs if plan.get("mined") == mined else []
    own, given = ({pair.id for pair in some} for some in (pairs, listed))
    if options.broken == "skip":
        return pairs if own <= given else []
    # Where broken files are fatal each process opens those of its own pairs, before their rows.
    return pairs if own == given and path_of_shard(folder, *place).exists() else []


def _open(options: argparse.Namespace, dataset: DataSet, pairs: list[Pair]) -> list[Pair]:
    """Those whose files can be read; what is skipped is told."""
    with Bar("opening", options.quiet, "pictures", resumes=True) as bar:
        whole, skipped = whole_pairs(pairs, dataset, broken=options.broken, progress=bar.update)
    _tell(skipped)
    if pairs and not whole:
        raise ShapjaxError(f"no pair of {options.pairs} can be read; mend its files.")
    return whole


def _mine(
    options: argparse.Namespace,
    dataset: DataSet,
    models: Mapping[str, Backbone],
    mined: dict[str, Any],
    place: Place,
) -> list[Pair]:
    name = mined["by"]
    explained = name in models and "=" not in (options.paired_by or "")
    model = models[name] if explained else load_network(name, mined["weights"] or None)
    with Bar("pairing", options.quiet, "files", resumes=True) as bar:
        tell = bar.update if place.processes == 1 else seen_by_others(options.out, bar.update)
        found = mine_pairs(
            dataset,
            model,
            count=mined["pairs"],
            seed=options.seed,
            broken=options.broken,
            progress=tell,
        )
    _tell(found.broken)
    return found.pairs


def _tell(skipped: Mapping[Path, str]) -> None:
    for path, reason in skipped.items():
        print(f"shapjax: skipped {printable(path)}: {printable(reason)}", file=sys.stderr)
