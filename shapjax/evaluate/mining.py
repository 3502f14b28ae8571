r"""Pairs of pictures to explain: each validation picture with its nearest of the same class.

For a validation picture a class over 5% of its pixels is drawn, and its conditional nearest
neighbour is the training picture with the largest cosine of features among those that contain
that class (Hamilton et al. 2022, A.2). Void pixels belong to no class and count among all pixels.
Where pictures have classes but no masks, the class of the picture is taken.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.backbones.record import Backbone
from shapjax.core.errors import ShapjaxError
from shapjax.core.files import write_whole
from shapjax.core.stream import stream
from shapjax.core.worths import Progress
from shapjax.evaluate.datasets.record import DataSet, Item, report_broken
from shapjax.evaluate.pairs import Pair, missing_files
from shapjax.games.folder import embed_folder

LEAST = 0.05
"""Share of a validation picture's pixels that a class to be drawn is over."""

QUERIES, ROWS = 256, 4096
"""Validation and training pictures that are compared at a time, by one compiled program."""

CHECKPOINT = 2048
"""Masks between two writings of the cache."""


class Mined(NamedTuple):
    """The pairs of a data set, and what stood in the way.

    Attributes:
        pairs: in the order in which they were drawn.
        broken: file and reason of those that were skipped.
        alone: validation pictures without a class that is large enough or has a neighbour.
    """

    pairs: list[Pair]
    broken: dict[Path, str]
    alone: list[str]


def mine_pairs(
    dataset: DataSet,
    backbone: Backbone,
    *,
    count: int | None = None,
    seed: int = 0,
    broken: str = "fail",
    progress: Progress | None = None,
) -> Mined:
    """Validation pictures with their conditional nearest neighbours.

    Features and sizes of classes are computed once and kept under ``$SHAPJAX_CACHE``. Which
    pictures and classes are drawn depends on the seed and each picture's own name alone.

    Args:
        dataset: from ``open_dataset``.
        backbone: whose embeddings are compared (the paper: MoCo v2).
        count: how many pairs, drawn from all; by default all.
        seed: of the draws.
        broken: ``"fail"``, all missing and broken files in one error; or ``"skip"``.
        progress: called with (done, total) pictures and then masks.

    Raises:
        ImageError: files are missing or broken, and not to be skipped.
        ShapjaxError: no picture has a neighbour, or the cache cannot be written.
    """
    items = dataset.items
    bad = missing_files(items)
    vectors, unreadable = _vectors(backbone, dataset, bad, progress)
    counts, unread = _class_counts(dataset, bad, progress)
    bad |= unreadable | unread
    report_broken(bad, broken)
    whole = [item for item in dataset.training if item in vectors and item in counts]
    drawn = sorted(
        (item for item in dataset.validation if item in vectors and item in counts),
        key=lambda item: (stable_hash(f"{seed}|order|{item.name}"), item.name),
    )
    places = {item: place for place, item in enumerate(whole)}
    members = _members(whole, counts)
    chosen: list[tuple[Item, int]] = []
    alone: list[str] = []
    for item in drawn:
        if count is not None and len(chosen) == count:
            break
        number = _draw(item, counts[item], members, item in places, seed)
        if number is None:
            alone.append(item.name)
        else:
            chosen.append((item, number))
    if not chosen:
        raise ShapjaxError(
            f"no validation picture of {dataset.root} has a class over {LEAST:.0%} of its pixels "
            "with another picture that shows it; check the masks."
        )
    best, cosines = conditional_neighbours(
        np.stack([vectors[item] for item, _ in chosen]),
        np.stack([vectors[item] for item in whole]),
        members,
        np.array([number for _, number in chosen]),
        np.array([places.get(item, -1) for item, _ in chosen]),
    )
    pairs = [
        Pair(item.name, whole[at].name, dataset.classes[number], round(float(cosine), 6))
        for (item, number), at, cosine in zip(chosen, best, cosines, strict=True)
    ]
    return Mined(pairs, bad, alone)


def stable_hash(text: str) -> int:
    """A number of 32 bits that is the same in every process and on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def conditional_neighbours(
    queries: np.ndarray,
    rows: np.ndarray,
    members: dict[int, np.ndarray],
    classes: np.ndarray,
    own: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """For each query the row of largest cosine among those that contain its class, exactly.

    Of equal cosines the earlier row is taken.

    Args:
        queries: unit vectors, float32 [Q, C].
        rows: unit vectors, float32 [T, C].
        members: for each class the rows that contain it, whole numbers.
        classes: the class of each query, [Q].
        own: the row that is the query itself and is left out, or -1, [Q].

    Returns:
        Row and cosine of each query, [Q]; the cosine is -inf where no row is allowed.
    """
    best = np.zeros(len(queries), np.int64)
    cosines = np.full(len(queries), -np.inf, np.float32)
    for start in range(0, len(queries), QUERIES):
        some = slice(start, start + QUERIES)
        allowed = np.zeros((len(classes[some]), len(rows)), bool)
        for place, number in enumerate(classes[some].tolist()):
            allowed[place, members[number]] = True
        inside = np.flatnonzero(own[some] >= 0)
        allowed[inside, own[some][inside]] = False
        for first in range(0, len(rows), ROWS):
            part = slice(first, first + ROWS)
            at, cosine = _nearest(
                _padded(queries[some], QUERIES),
                _padded(rows[part], ROWS),
                _padded(_padded(allowed[:, part], QUERIES).T, ROWS).T,
            )
            at, cosine = (np.asarray(found)[: len(allowed)] for found in (at, cosine))
            better = cosine > cosines[some]
            best[some] = np.where(better, first + at, best[some])
            cosines[some] = np.where(better, cosine, cosines[some])
    return best, cosines


@jax.jit
def _nearest(
    queries: jax.Array, rows: jax.Array, allowed: jax.Array
) -> tuple[jax.Array, jax.Array]:
    cosines = jnp.matmul(queries, rows.T, precision=jax.lax.Precision.HIGHEST)
    cosines = jnp.where(allowed, cosines, -jnp.inf)
    return cosines.argmax(axis=1), cosines.max(axis=1)


def _padded(array: np.ndarray, length: int) -> np.ndarray:
    whole = np.zeros((length, *array.shape[1:]), array.dtype)
    whole[: len(array)] = array
    return whole


def _vectors(
    backbone: Backbone, dataset: DataSet, bad: dict[Path, str], progress: Progress | None
) -> tuple[dict[Item, np.ndarray], dict[Path, str]]:
    """Unit features of every picture that can be read."""
    files = {item.image: item for item in dataset.items if item.image not in bad}
    if not files:
        report_broken(bad, "fail")
    there = embed_folder(backbone, dataset.root, files=list(files), progress=progress)
    known = dict(zip(there.files, there.vectors, strict=True))
    vectors = {item: known[item.image] for item in dataset.items if item.image in known}
    return vectors, there.unreadable


def _class_counts(
    dataset: DataSet, bad: dict[Path, str], progress: Progress | None
) -> tuple[dict[Item, dict[int, float]], dict[Path, str]]:
    """Share of the pixels of every class in each item, by class number; and unreadable masks.

    Every mask is read, that of a picture whose class is known too: what is broken is found now.
    """
    from shapjax.backbones.cache import made_folder

    masked = {
        str(item.mask): item
        for item in dataset.items
        if item.mask is not None and item.mask not in bad
    }
    unreadable: dict[Path, str] = {}
    about = f"{dataset.name}\n{dataset.root.resolve()}"
    store = made_folder("masks") / f"{hashlib.sha256(about.encode()).hexdigest()[:32]}.json"
    made_of = _made_of(dataset)
    stamps = {mask: _stamp(Path(mask)) for mask in masked}
    known = {
        mask: kept
        for mask, kept in _read_cache(store, made_of, dataset).items()
        if kept.stamp == stamps.get(mask)
    }
    new = [mask for mask in masked if mask not in known]
    for done, (mask, labels) in enumerate(
        stream(lambda mask: dataset.read_labels(masked[mask]), new), start=1
    ):
        if isinstance(labels, ShapjaxError):
            unreadable[Path(mask)] = str(labels)
        else:
            numbers, pixels = np.unique(labels, return_counts=True)
            found = zip(numbers.tolist(), (pixels / labels.size).tolist(), strict=True)
            own = {number: share for number, share in found if number in dataset.classes}
            known[mask] = _Shares(stamps[mask], own)
        if progress is not None:
            progress(done, len(new))
        if done % CHECKPOINT == 0 or done == len(new):
            write_whole(store, json.dumps({"made_of": made_of, "masks": known}).encode())
    shares: dict[Item, dict[int, float]] = {}
    for item in dataset.items:
        if item.mask is not None and str(item.mask) not in known:
            continue
        if item.classes:
            shares[item] = dict.fromkeys(item.classes, 1.0)
        elif item.mask is not None:
            shares[item] = known[str(item.mask)].shares
    return shares, unreadable


class _Shares(NamedTuple):
    """What is known of a mask: its size and time, and the share of each class's pixels."""

    stamp: list[int]
    shares: dict[int, float]


def _stamp(file: Path) -> list[int]:
    about = file.stat()
    return [about.st_size, about.st_mtime_ns]


def _made_of(dataset: DataSet) -> str:
    """Digest of what shares of classes come from beside the masks' own files."""
    sources = {str(path): _stamp(path) for path in dataset.sources}
    text = json.dumps([sorted(dataset.classes.items()), sources])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _read_cache(store: Path, made_of: str, dataset: DataSet) -> dict[str, _Shares]:
    """What was kept; nothing where it is of other classes or annotations, or damaged."""
    try:
        content = json.loads(store.read_bytes())
        if content["made_of"] != made_of:
            return {}
        known = {
            mask: _Shares(list(stamp), {int(n): float(share) for n, share in shares.items()})
            for mask, (stamp, shares) in content["masks"].items()
        }
    except (OSError, LookupError, TypeError, ValueError, AttributeError, RuntimeError):
        return {}
    sound = all(
        own.shares.keys() <= dataset.classes.keys() and all(0 < v <= 1 for v in own.shares.values())
        for own in known.values()
    )
    return known if sound else {}


def _draw(
    item: Item,
    shares: dict[int, float],
    members: dict[int, np.ndarray],
    own: bool,
    seed: int,
) -> int | None:
    """A class of the picture that is large enough and that another picture shows."""
    able = [
        number
        for number, share in sorted(shares.items())
        if share > LEAST and len(members.get(number, ())) > own
    ]
    if not able:
        return None
    return able[stable_hash(f"{seed}|class|{item.name}") % len(able)]


def _members(whole: list[Item], counts: dict[Item, dict[int, float]]) -> dict[int, np.ndarray]:
    """Places of the pictures that contain each class, by its number."""
    found: dict[int, list[int]] = {}
    for place, item in enumerate(whole):
        for number in counts[item]:
            found.setdefault(number, []).append(place)
    return {number: np.array(places) for number, places in found.items()}
