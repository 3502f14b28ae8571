"""Writing files whole or not at all, and text that any terminal or font can show."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shapjax.core.errors import ShapjaxError

_JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Write through a file beside the target, so that a reader never sees half of it.

    When this returns it is on the disk, under its name.

    Raises:
        ShapjaxError: the place cannot be written.
    """
    _write_beside(Path(path), content, os.replace)


def write_first(path: str | os.PathLike[str], content: bytes) -> None:
    """Write whole, unless the file is there: of several processes one is the first.

    Raises:
        ShapjaxError: the place cannot be written.
    """

    def put(beside: Path, target: Path) -> None:
        try:
            os.link(beside, target)
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links: a reader may see half of it
            with contextlib.suppress(FileExistsError):
                _write_synced(target, content, "xb")

    _write_beside(Path(path), content, put)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Bring the names in a folder onto the disk, so that new files outlast a power cut.

    Raises:
        OSError: the disk fails or is full; systems that cannot sync folders raise nothing.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
            raise


def _write_beside(target: Path, content: bytes, put: Callable[[Path, Path], Any]) -> None:
    """Write a file beside the target, onto the disk, and ``put`` it there."""
    # Hosts that share the folder may have one number for their processes.
    beside = target.with_name(f".shapjax-{os.urandom(8).hex()}.part")
    try:
        try:
            _write_synced(beside, content, "wb")
            put(beside, target)
        finally:
            beside.unlink(missing_ok=True)
        sync_folder(target.parent)
    except OSError as error:
        raise ShapjaxError(
            f"cannot write {target} ({error.strerror or error}); choose a writable folder."
        ) from None


def _write_synced(path: Path, content: bytes, mode: str) -> None:
    with path.open(mode) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def printable(text: object) -> str:
    """``text`` as one encodable line: control and direction-changing characters replaced."""
    encodable = str(text).encode("utf-8", "replace").decode("utf-8")
    return "".join(
        c if c.isprintable() or c in _JOINERS else "\N{REPLACEMENT CHARACTER}" for c in encodable
    )
