"""Rows of results that outlive the process: appended, synced, resumed and merged.

A folder holds ``manifest.json``, the plan of the run, and for each shard a file of one JSON line
for each row, which is on the disk before the next row begins. A process that is killed while it
writes leaves a torn last line, which is dropped when the file is opened again. A line that is
damaged otherwise stays where it is, is told by a warning and does not count, so that its row is
computed again and stands further down. Of a finished shard the same rows are also written by
column, ``rows-00000-of-00001.npz``, from which lines that were lost are written again when the
shard is opened.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from shapjax.core.checks import whole_number
from shapjax.core.errors import MemoryRefused, ShapjaxError
from shapjax.core.files import sync_folder, write_first
from shapjax.core.interactions import load_npz, save_npz
from shapjax.evaluate.plan import MANIFEST, read_plan, require_same
from shapjax.evaluate.rows import (
    Key,
    Row,
    columns,
    key_of,
    line_of,
    rows_of_columns,
    rows_of_lines,
)

SHOWN = 5
"""Damaged lines that a warning names; the others it counts."""

SHARD = re.compile(r"rows-\d{5}-of-\d{5}\.(jsonl|npz)")


class Store:
    """The rows of one shard, open for appending."""

    def __init__(self, folder: Path, file: int, path: Path, size: int, done: set[Key]) -> None:
        self._folder, self._file, self._path, self._size = folder, file, path, size
        self._done = done

    @staticmethod
    def open(
        folder: str | os.PathLike[str],
        plan: dict[str, Any],
        *,
        shard: int = 0,
        shards: int = 1,
        again_failed: bool = False,
    ) -> Store:
        """Begin a run, or go on with it.

        Args:
            folder: made if it is not there.
            plan: what the rows depend on, as JSON, the same for all shards of a run; and ``TOLD``.
            shard: which shard this process writes, from 0.
            shards: how many there are. It may differ from an earlier run's, whose rows count too.
            again_failed: rows with an error do not count as done.

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
            sync_folder(place.parent)
        except OSError as error:
            raise _unwritable(place, error) from None
        # Looked for in this order, since another process writes its rows after the manifest.
        orphans = bool(_files(place))
        if not manifest.exists():
            if orphans:
                raise ShapjaxError(
                    f"{place} has rows but no {MANIFEST}, so nobody knows of what; choose another "
                    "folder."
                )
            write_first(manifest, json.dumps(plan, indent=2).encode() + b"\n")
        # Also after writing it: another process may have been the first.
        require_same(read_plan(place), plan, place)
        path = path_of_shard(place, shard, shards)
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise _unwritable(path, error) from None
        try:
            sync_folder(place)
            _lock(file, path)
            size = _mend(file)
            size += _restore(file, path, size)
            # The other shards of as many are of other pairs, and no business of this one.
            foreign = [one for one in _files(place) if not one.stem.endswith(f"-of-{shards:05}")]
            rows = _merged([path, *foreign])
        except BaseException as error:
            os.close(file)  # and with it the lock
            if isinstance(error, OSError):
                raise _unwritable(path, error) from None
            raise
        done = {key_of(row) for row in rows if not again_failed or row["error"] is None}
        return Store(place, file, path, size, done)

    def done(self) -> set[Key]:
        """Keys of the rows that need not be computed: of this shard, or by another sharding."""
        return self._done

    def rows(self) -> list[Row]:
        """The rows of this shard, each key once, in the order in which they were written."""
        return _merged([self._path])

    def append(self, row: Row) -> None:
        """Write a row; when this returns it is on the disk.

        Raises:
            ShapjaxError: it cannot be written; the rows before it are kept whole.
        """
        line = line_of(row)
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


def path_of_shard(folder: str | os.PathLike[str], shard: int, shards: int) -> Path:
    """The file of a shard's lines."""
    return Path(folder) / f"rows-{shard:05}-of-{shards:05}.jsonl"


def read(folder: str | os.PathLike[str]) -> list[Row]:
    """The rows of all shards, each key once, sorted by backbone, pair, method and order.

    A shard is read from its lines, or from its columns where only those were brought along. A
    damaged line does not count; a warning names it unless it is a last one without an end.

    Raises:
        ShapjaxError: the folder or a file cannot be read.
    """
    found = _merged(_files(Path(folder)))
    return sorted(found, key=lambda r: (r["backbone"], r["pair"], r["method"], r["order"]))


def _files(place: Path) -> list[Path]:
    """A file of each shard, its lines where they are there."""
    try:
        paths = sorted(path for path in place.iterdir() if SHARD.fullmatch(path.name))
    except OSError as error:
        raise _unreadable(place, error) from None
    lines = {path.stem for path in paths if path.suffix == ".jsonl"}
    return [path for path in paths if path.suffix == ".jsonl" or path.stem not in lines]


def _merged(paths: list[Path]) -> list[Row]:
    """The rows of shards, each key once."""
    return each_once(row for path in paths for row in _rows_of(path))


def each_once(rows: Iterable[Row]) -> list[Row]:
    """The first row of each key; one that failed gives way to a later one."""
    found: dict[Key, Row] = {}
    for row in rows:
        known = found.get(key_of(row))
        if known is None or known["error"] is not None:
            found[key_of(row)] = row
    return list(found.values())


def _rows_of(path: Path) -> list[Row]:
    """The rows of a file of lines or of columns, with a warning of what is damaged."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None
    if path.suffix == ".jsonl":
        rows, damaged = rows_of_lines(content)
    else:
        try:
            rows, damaged = rows_of_columns(load_npz(path))
        except MemoryRefused:
            raise
        except ValueError:
            rows, damaged = [], ["all"]
    if damaged:
        shown = ", ".join(map(str, damaged[:SHOWN])) + ", ..." * (len(damaged) > SHOWN)
        warnings.warn(
            f"{path} has damaged lines ({shown}), which do not count: their rows are computed "
            "again when the run goes on.",
            stacklevel=2,
        )
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
    lost = [row for row in _rows_of(by_column) if key_of(row) not in there]
    lines = b"".join(map(line_of, lost))
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


def _unreadable(path: Path, error: OSError) -> ShapjaxError:
    return ShapjaxError(f"cannot read {path} ({error.strerror or error}); make it readable.")


def _unwritable(path: Path, error: OSError) -> ShapjaxError:
    return ShapjaxError(
        f"cannot write {path} ({error.strerror or error}); all finished rows are kept: make room "
        "or choose a writable folder, and run again."
    )
