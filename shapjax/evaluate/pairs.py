"""Pairs of pictures to explain, as a list that is written, read again and checked."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from shapjax.core.errors import ShapjaxError
from shapjax.core.files import write_whole
from shapjax.core.stream import stream
from shapjax.core.worths import Progress
from shapjax.evaluate.datasets.record import DataSet, Item, report_broken
from shapjax.games.images import load_image

PAIRS = "pairs.csv"
"""The list of pairs in the folder of a run."""

COLUMNS = ("validation", "training", "category", "similarity")


class Pair(NamedTuple):
    """A match to explain.

    Attributes:
        validation: name of the picture whose maps are judged: the retrieved one.
        training: name of its neighbour: the query.
        category: name of the class that both show.
        similarity: cosine of the features by which they were paired.
    """

    validation: str
    training: str
    category: str
    similarity: float

    @property
    def id(self) -> str:
        """What the pair is known by, whatever the order and the number of pairs."""
        return f"{self.validation}|{self.training}|{self.category}"


def digest_of_pairs(pairs: Sequence[Pair]) -> str:
    """16 hexadecimal digits that a set of pairs is known by, whatever their order."""
    text = "\n".join(sorted(pair.id for pair in pairs))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def pairs_of_shard(pairs: Sequence[Pair], shard: int, shards: int) -> list[Pair]:
    """Every ``shards``-th pair by name, from that in the place ``shard``, in the list's order.

    The same ones however the list is ordered, and of any two shards as many but for one.
    """
    own = set(sorted(pair.id for pair in pairs)[shard::shards])
    return [pair for pair in pairs if pair.id in own]


def write_pairs(path: str | os.PathLike[str], pairs: Sequence[Pair]) -> None:
    """Write pairs as a table of commas with a header.

    Raises:
        ShapjaxError: the place cannot be written.
    """
    lines = io.StringIO()
    table = csv.writer(lines, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows(pairs)
    write_whole(path, lines.getvalue().encode())


def read_pairs(path: str | os.PathLike[str], dataset: DataSet) -> list[Pair]:
    """Read what ``write_pairs`` wrote; no file of a picture is looked at.

    Args:
        path: the table.
        dataset: that the pairs are of.

    Raises:
        ShapjaxError: it cannot be read, is no table of pairs, or names pictures or classes that
            the data set has not.
    """
    try:
        rows = list(csv.reader(io.StringIO(Path(path).read_text(encoding="utf-8"))))
        header, rows = tuple(rows[0]), rows[1:]
        pairs = [Pair(a, b, category, float(cosine)) for a, b, category, cosine in rows]
    except (OSError, ValueError, IndexError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ShapjaxError(
            f"{path} cannot be read as a table of pairs ({reason}); expected the columns "
            f"{', '.join(COLUMNS)}."
        ) from None
    known = [{item.name for item in part} for part in (dataset.validation, dataset.training)]
    strange = {
        name
        for pair in pairs
        for name, names in zip(pair[:2], known, strict=True)
        if name not in names
    }
    strange |= {pair.category for pair in pairs} - set(dataset.classes.values())
    if header != COLUMNS or strange or not pairs:
        raise ShapjaxError(
            f"{path} has {len(pairs)} pairs, of which {len(strange)} names "
            f"({', '.join(sorted(strange)[:5])}) are not of {dataset.root}; give pairs that were "
            "mined from this data set."
        )
    return pairs


def whole_pairs(
    pairs: Sequence[Pair],
    dataset: DataSet,
    *,
    broken: str = "fail",
    progress: Progress | None = None,
) -> tuple[list[Pair], dict[Path, str]]:
    """Those pairs whose pictures and masks can be read; each file is opened once.

    Args:
        pairs: of the data set.
        dataset: from ``open_dataset``.
        broken: what happens if files are missing or broken: ``"fail"``, or ``"skip"`` their pairs.
        progress: called with (done, total) pictures, each with its mask.

    Returns:
        The pairs, and file and reason of what was skipped.

    Raises:
        ImageError: files are missing or broken, and not to be skipped.
    """
    items = [{i.name: i for i in part} for part in (dataset.validation, dataset.training)]
    both = [(items[0][pair.validation], items[1][pair.training]) for pair in pairs]
    used = list(dict.fromkeys(item for two in both for item in two))
    missing = missing_files(used)
    bad = dict(missing)

    def read(item: Item) -> dict[Path, str]:
        return _unreadable(dataset, item, missing)

    for done, (_, found) in enumerate(stream(read, used), start=1):
        assert not isinstance(found, ShapjaxError)  # it hands on none
        bad |= found
        if progress is not None:
            progress(done, len(used))
    report_broken(bad, broken)
    whole = [
        pair
        for pair, two in zip(pairs, both, strict=True)
        if not any(file in bad for item in two for file in (item.image, item.mask))
    ]
    return whole, bad


def missing_files(items: Iterable[Item]) -> dict[Path, str]:
    """Files of pictures that are not there, or whose rows no text could name, with the reason."""
    reasons: dict[Path, str] = {}
    for item in items:
        for file in filter(None, (item.image, item.mask)):
            if not _is_text(item.name):
                reasons[file] = "its name is not UTF-8; rename it"
            elif not file.is_file():
                reasons[file] = "does not exist"
    return dict(sorted(reasons.items()))


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unreadable(dataset: DataSet, item: Item, known: dict[Path, str]) -> dict[Path, str]:
    """Files of a picture that cannot be read, with the reason, but those known.

    One try of each, so that one file's error hides no other's.
    """
    found = {}
    tries = (
        (item.mask, lambda: dataset.read_labels(item)),
        (item.image, lambda: load_image(item.image)),
    )
    for file, load in tries:
        if file is None or file in known:
            continue
        try:
            load()
        except ShapjaxError as error:
            found[file] = str(error)
    return found
