"""Rows of results that outlive the process: appended, synced, resumed and merged.

A folder holds ``manifest.json``, the plan of the run, and for each shard a file of one JSON line
for each row, which is on the disk before the next row begins. A process that is killed while it
writes leaves a torn last line, which is dropped when the file is opened again. Of a finished
shard the same rows are also written by column, ``rows-00000-of-00001.npz``, from which lines that
were lost are written again when the shard is opened.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from shapjax.core.checks import whole_number
from shapjax.core.errors import ShapjaxError
from shapjax.core.files import write_whole
from shapjax.core.interactions import load_npz, save_npz

Row = dict[str, Any]
"""One result: ``KEY`` and whatever was measured; numbers, texts and None."""

Key = tuple[str, str, str, int]

KEY = ("pair", "backbone", "method", "order")

MANIFEST = "manifest.json"

SHARD = re.compile(r"rows-\d{5}-of-\d{5}\.(jsonl|npz)")


def key_of(row: Row) -> Key:
    """What a row is known by: pair, backbone, method and order."""
    pair, backbone, method, order = (row[name] for name in KEY)
    return pair, backbone, method, order


class Store:
    """The rows of one shard, open for appending."""

    def __init__(self, folder: Path, file: int, path: Path, size: int, done: set[Key]) -> None:
        self._folder, self._file, self._path, self._size = folder, file, path, size
        self._done = done

    @staticmethod
    def open(
        folder: str | os.PathLike[str], plan: dict[str, Any], *, shard: int = 0, shards: int = 1
    ) -> Store:
        """Begin a run, or go on with it.

        Args:
            folder: made if it is not there.
            plan: what the rows depend on, as JSON; the same for all shards of a run.
            shard: which shard this process writes, from 0.
            shards: how many there are. It may differ from an earlier run's, whose rows count too.

        Raises:
            ShapjaxError: the folder has another plan, cannot be written, or is in use.
        """
        shards = whole_number(shards, "shards", low=1, high=99_999)
        shard = whole_number(shard, "shard", low=0, high=shards - 1)
        place = Path(folder)
        plan = json.loads(json.dumps(plan))
        manifest = place / MANIFEST
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(place, error) from None
        # Looked for in this order, since another process writes its rows after the manifest.
        orphans = any(SHARD.fullmatch(path.name) for path in place.iterdir())
        if manifest.exists():
            _require_same(read_plan(place), plan, place)
        elif orphans:
            raise ShapjaxError(
                f"{place} has rows but no {MANIFEST}, so nobody knows of what; choose another "
                "folder."
            )
        else:
            write_whole(manifest, json.dumps(plan, indent=2).encode() + b"\n")
        path = place / f"rows-{shard:05}-of-{shards:05}.jsonl"
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            _lock(file, path)
            size = _mend(file)
            size += _restore(file, path, size)
        except OSError as error:
            raise _unwritable(path, error) from None
        # The other shards of as many are of other pairs, and no business of this one.
        foreign = [one for one in _files(place) if not one.stem.endswith(f"-of-{shards:05}")]
        done = {key_of(row) for row in _merged([path, *foreign])}
        return Store(place, file, path, size, done)

    def done(self) -> set[Key]:
        """Keys of the rows that need not be computed: of this shard, or by another sharding."""
        return self._done

    def rows(self) -> list[Row]:
        """The rows of this shard, in the order in which they were written."""
        return _rows_of(self._path)

    def append(self, row: Row) -> None:
        """Write a row; when this returns it is on the disk.

        Raises:
            ShapjaxError: it cannot be written; the rows before it are kept whole.
        """
        line = _line(row)
        try:
            _write(self._file, line, self._size)
        except OSError as error:
            raise _unwritable(self._path, error) from None
        self._size += len(line)
        self._done.add(key_of(row))

    def finish(self) -> Path:
        """Write the shard's rows by column as well; the path of that file.

        Raises:
            ShapjaxError: it cannot be written.
        """
        path = self._path.with_suffix(".npz")
        save_npz(path, columns(self.rows()))
        return path

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_plan(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The plan of a run.

    Raises:
        ShapjaxError: there is none, or it is damaged.
    """
    path = Path(folder) / MANIFEST
    try:
        plan = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "damaged JSON"
        raise ShapjaxError(
            f"{path} cannot be read as the plan of a run ({reason}); choose another folder."
        ) from None
    return plan


def read(folder: str | os.PathLike[str]) -> list[Row]:
    """The rows of all shards, each key once, sorted by backbone, pair, method and order.

    A shard is read from its lines, or from its columns where only those were brought along.

    Raises:
        ShapjaxError: a file cannot be read, or a line other than a torn last one is damaged.
    """
    found = _merged(_files(Path(folder)))
    return sorted(found, key=lambda r: (r["backbone"], r["pair"], r["method"], r["order"]))


def _files(place: Path) -> list[Path]:
    """A file of each shard, its lines where they are there."""
    paths = sorted(path for path in place.iterdir() if SHARD.fullmatch(path.name))
    lines = {path.stem for path in paths if path.suffix == ".jsonl"}
    return [path for path in paths if path.suffix == ".jsonl" or path.stem not in lines]


def _merged(paths: list[Path]) -> list[Row]:
    """The rows of shards, each key once."""
    found: dict[Key, Row] = {}
    for path in paths:
        rows = _rows_of(path) if path.suffix == ".jsonl" else rows_of(load_npz(path))
        for row in rows:
            found.setdefault(key_of(row), row)
    return list(found.values())


def rows_of_run(folder: str | os.PathLike[str], dataset: str) -> list[Row]:
    """The rows of a run on a data set of that name.

    Raises:
        ShapjaxError: the folder has no run, or one on another data set; or see ``read``.
    """
    plan = read_plan(folder)
    if plan.get("dataset") != dataset:
        raise ShapjaxError(
            f"{folder} holds a run on {plan.get('dataset')}, expected {dataset}; name another."
        )
    return read(folder)


def columns(rows: list[Row]) -> dict[str, np.ndarray]:
    """Rows as one array for each column, [rows]; a missing number is NaN, a missing text empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    table: dict[str, np.ndarray] = {}
    for name in names:
        values = [row.get(name) for row in rows]
        kinds = {type(value) for value in values if value is not None}
        if kinds <= {str}:
            table[name] = np.array([value or "" for value in values], np.str_)
        elif kinds <= {bool} and None not in values:
            table[name] = np.array(values, bool)
        elif kinds <= {int} and None not in values:
            table[name] = np.array(values, np.int64)
        else:
            table[name] = np.array([np.nan if v is None else float(v) for v in values])
    return table


def rows_of(table: dict[str, np.ndarray]) -> list[Row]:
    """The inverse of ``columns``; NaN and empty texts come back as None."""
    rows = []
    for values in zip(*(array.tolist() for array in table.values()), strict=True):
        row = dict(zip(table, values, strict=True))
        rows.append({name: None if v in ("",) or v != v else v for name, v in row.items()})
    return rows


def _rows_of(path: Path) -> list[Row]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ShapjaxError(f"cannot read {path} ({error.strerror}).") from None
    rows = []
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
            key_of(row)
        except (ValueError, KeyError, TypeError):
            raise ShapjaxError(
                f"line {number} of {path} is damaged; delete that line, and its row is computed "
                "again."
            ) from None
        rows.append(row)
    return rows


def _mend(file: int) -> int:
    """Cut off a torn last line; the length that is left."""
    size = os.fstat(file).st_size
    content = os.pread(file, size, 0)
    whole = content.rfind(b"\n") + 1
    if whole < size:
        os.ftruncate(file, whole)
        os.fsync(file)
    return whole


def _line(row: Row) -> bytes:
    return json.dumps(row, allow_nan=False).encode() + b"\n"


def _write(file: int, lines: bytes, size: int) -> None:
    """Put lines at the end of a file of that size, onto the disk, or leave it as it was."""
    try:
        if os.pwrite(file, lines, size) < len(lines):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file)
    except OSError:
        with contextlib.suppress(OSError):  # a torn last line is cut off when it is next opened
            os.ftruncate(file, size)
        raise


def _restore(file: int, path: Path, size: int) -> int:
    """Write lines for rows that the shard's columns have alone; how many bytes these are."""
    by_column = path.with_suffix(".npz")
    if not by_column.exists():
        return 0
    there = {key_of(row) for row in _rows_of(path)}
    lost = [row for row in rows_of(load_npz(by_column)) if key_of(row) not in there]
    lines = b"".join(map(_line, lost))
    if lines:
        _write(file, lines, size)
    return len(lines)


def _lock(file: int, path: Path) -> None:
    """Two processes must not write one shard; the lock goes with the process."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ShapjaxError(
            f"{path} is being written by another process; wait for it, or choose another folder."
        ) from None
    except OSError as error:  # some network file systems have no locks
        warnings.warn(
            f"{path} cannot be locked ({error.strerror or error}), so see to it yourself that no "
            "other process writes this shard.",
            stacklevel=3,
        )


def _require_same(old: dict[str, Any], new: dict[str, Any], place: Path) -> None:
    for name in list(dict.fromkeys([*old, *new])):
        if old.get(name) != new.get(name):
            raise ShapjaxError(
                f"{place} holds a run with {name} {json.dumps(old.get(name))}, but now it is "
                f"{json.dumps(new.get(name))}; choose another folder, or ask for the same."
            )


def _unwritable(path: Path, error: OSError) -> ShapjaxError:
    return ShapjaxError(
        f"cannot write {path} ({error.strerror or error}); all finished rows are kept: make room "
        "or choose a writable folder, and run again."
    )
