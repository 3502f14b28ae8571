"""A folder of pictures as vectors: embedded once, kept, and searched for the nearest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from shapjax.backbones.record import Backbone, Preprocessing
from shapjax.core.checks import whole_number
from shapjax.core.errors import ImageError, ShapjaxError
from shapjax.core.interactions import load_npz, save_npz
from shapjax.core.stream import stream
from shapjax.core.worths import Progress
from shapjax.games.backgrounds import BATCH
from shapjax.games.images import load_image
from shapjax.games.match import Picture, embeddings_of, not_finite

CHECKPOINT = 512
"""New pictures from which on the store is written again."""

GROWTH = 0.25
"""Share of the pictures stored that the new ones must reach as well: each writing is of the whole
store, so that all of them together write about five times the store and not its square."""


class EmbeddedFolder(NamedTuple):
    """The pictures of a folder and their vectors.

    Attributes:
        files: readable pictures, in order of their names.
        vectors: of length one, float32 [N, C], one for each file.
        unreadable: file and reason of those that were skipped.
    """

    files: tuple[Path, ...]
    vectors: np.ndarray
    unreadable: dict[Path, str]


class Hit(NamedTuple):
    """A picture that was found.

    Attributes:
        path: where it is.
        similarity: cosine with the query.
    """

    path: Path
    similarity: float


class Search(NamedTuple):
    """What a search found.

    Attributes:
        hits: the nearest pictures, nearest first.
        searched: how many pictures were compared.
        unreadable: file and reason of those that were skipped.
    """

    hits: list[Hit]
    searched: int
    unreadable: dict[Path, str]


def search(
    backbone: Backbone,
    query: Picture,
    folder: str | os.PathLike[str],
    *,
    top: int = 10,
    progress: Progress | None = None,
) -> Search:
    """The pictures of a folder that are nearest to a query.

    Pictures are embedded once: see ``embed_folder``. The query itself, where the folder holds
    it, is not among them.

    Args:
        backbone: compares by the cosine of its embeddings.
        query: path, PIL image or array.
        folder: searched with all folders in it.
        top: how many to find; all, where there are fewer.
        progress: called with (done, total) while pictures are embedded.

    Raises:
        ShapjaxError: top is not a positive whole number, or see ``embed_folder``.
        ImageError: the query cannot be read, or no picture can.
    """
    top = whole_number(top, "top", low=1)
    if not isinstance(backbone.preprocessing, Preprocessing):
        raise ShapjaxError(f"{backbone.name} reads texts, expected a backbone of pictures.")
    picture = backbone.resize(load_image(query), fit="stretch")
    there = embed_folder(backbone, folder, progress=progress)
    similarities = there.vectors @ _vectors(backbone, [picture])[0]
    own = Path(query).resolve() if isinstance(query, str | os.PathLike) else None
    ranked = np.argsort(-similarities, kind="stable")
    hits = [Hit(there.files[place], float(similarities[place])) for place in ranked.tolist()]
    hits = [hit for hit in hits[: top + 1] if hit.path.resolve() != own][:top]
    return Search(hits, len(there.files), there.unreadable)


def embed_folder(
    backbone: Backbone,
    folder: str | os.PathLike[str],
    *,
    files: Sequence[Path] | None = None,
    progress: Progress | None = None,
) -> EmbeddedFolder:
    """Vectors of all pictures in a folder and the folders in it.

    They are kept under ``$SHAPJAX_CACHE``; pictures that have neither changed nor are new are
    not read again, and an interrupted run goes on, less at most a fifth of its work (or 512
    pictures).

    Args:
        backbone: the network; its weights are a part of what the store is known by.
        folder: where the pictures are.
        files: those of them that are wanted; by default all.
        progress: called with (done, total) pictures.

    Raises:
        ShapjaxError: it is not a folder, or the store cannot be written.
        ImageError: no picture in it can be read.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ShapjaxError(f"{root} is not a folder, expected one with pictures; name another.")
    files = _pictures_under(root) if files is None else files
    if not files:
        raise ImageError(f"{root} holds no pictures, expected some; name another folder.")
    store = _store(backbone, root)
    stamps = {str(file.relative_to(root)): _stamp(file) for file in files}
    known = {
        name: entry
        for name, entry in _read(store).items()
        if name in stamps and entry.stamp == stamps[name]
    }
    missing = [name for name in stamps if name not in known]
    stored = len(known)
    for start in range(0, len(missing), BATCH):
        if progress is not None:
            progress(len(known), len(stamps))
        known |= _embedded(backbone, root, missing[start : start + BATCH], stamps)
        if len(known) - stored >= max(CHECKPOINT, GROWTH * stored) or len(known) == len(stamps):
            _write(store, known)
            stored = len(known)
    if progress is not None:
        progress(len(stamps), len(stamps))
    readable = {n: known[n].vector for n in stamps if known[n].vector is not None}
    unreadable = {root / n: known[n].reason for n in stamps if known[n].vector is None}
    if not readable:
        reason = next(iter(unreadable.values()))
        raise ImageError(f"{root} holds no picture that can be read; the first: {reason}")
    vectors = np.stack([vector for vector in readable.values() if vector is not None])
    return EmbeddedFolder(tuple(root / name for name in readable), vectors, unreadable)


class _Entry(NamedTuple):
    """What is known of a file: its size and time, and its vector or why it has none."""

    stamp: tuple[int, int]
    vector: np.ndarray | None
    reason: str


def _pictures_under(root: Path) -> list[Path]:
    from PIL import Image

    endings = set(Image.registered_extensions())
    found = [path for path in root.rglob("*") if path.suffix.lower() in endings]
    return sorted(path for path in found if path.is_file())


def _stamp(file: Path) -> tuple[int, int]:
    about = file.stat()
    return about.st_size, about.st_mtime_ns


def _embedded(
    backbone: Backbone, root: Path, names: list[str], stamps: dict[str, tuple[int, int]]
) -> dict[str, _Entry]:
    found: dict[str, _Entry] = {}
    pictures: dict[str, np.ndarray] = {}

    def read(name: str) -> np.ndarray:
        return backbone.resize(load_image(root / name), fit="stretch")

    for name, picture in stream(read, names):
        if isinstance(picture, ShapjaxError):
            found[name] = _Entry(stamps[name], None, str(picture))
        else:
            pictures[name] = picture
    vectors = _vectors(backbone, list(pictures.values())) if pictures else ()
    for name, vector in zip(pictures, vectors, strict=True):
        if np.isfinite(vector).all():
            found[name] = _Entry(stamps[name], vector, "")
        else:
            reason = str(not_finite(backbone, pictures[name], name))
            found[name] = _Entry(stamps[name], None, reason)
    return found


def _vectors(backbone: Backbone, pictures: list[np.ndarray]) -> np.ndarray:
    """Unit embeddings of at most BATCH pictures, by one compiled program."""
    batch = np.zeros((BATCH, *pictures[0].shape), np.float32)
    batch[: len(pictures)] = pictures
    found = np.asarray(embeddings_of(backbone, batch), np.float32)[: len(pictures)]
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    return found / np.maximum(norms, np.finfo(np.float32).tiny)


def _store(backbone: Backbone, root: Path) -> Path:
    """The file for this folder and these weights; its folder is made."""
    from shapjax.backbones.cache import made_folder

    about = f"{root.resolve()}\n{digest_of(backbone)}"
    return made_folder("folders") / f"{hashlib.sha256(about.encode()).hexdigest()[:32]}.npz"


def digest_of(backbone: Backbone) -> str:
    """32 hexadecimal digits that a network, its weights and its preprocessing are known by."""
    digest = hashlib.sha256(f"{backbone.name}\n{backbone.preprocessing}".encode())
    for leaf in jax.tree.leaves(backbone.state):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:32]


def _write(store: Path, known: dict[str, _Entry]) -> None:
    rows = [entry.vector for entry in known.values() if entry.vector is not None]
    table = [
        [name, *entry.stamp, entry.vector is not None, entry.reason]
        for name, entry in known.items()
    ]
    vectors = np.stack(rows) if rows else np.zeros((0, 0), np.float32)
    save_npz(store, {"files": np.array(json.dumps(table)), "vectors": vectors})


def _read(store: Path) -> dict[str, _Entry]:
    """What was kept; nothing where there is no store, or one that is damaged."""
    if not store.exists():
        return {}
    try:
        arrays = load_npz(store)
        table = json.loads(str(arrays["files"]))
        rows = iter(arrays["vectors"])
        return {
            name: _Entry((size, time), next(rows) if readable else None, reason)
            for name, size, time, readable, reason in table
        }
    except (ShapjaxError, KeyError, ValueError, TypeError, StopIteration, RuntimeError):
        return {}
