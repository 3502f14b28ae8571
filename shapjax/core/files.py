"""Writing files whole or not at all, and text that any terminal or font can show."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shapjax.core.errors import ShapjaxError

_JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Write through a file beside the target, so that a reader never sees half of it.

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
            with contextlib.suppress(FileExistsError), target.open("xb") as file:
                file.write(content)

    _write_beside(Path(path), content, put)


def _write_beside(target: Path, content: bytes, put: Callable[[Path, Path], Any]) -> None:
    """Write a file beside the target, and ``put`` it there."""
    beside = target.with_name(f".shapjax-{os.getpid()}-{id(content):x}.part")
    try:
        try:
            beside.write_bytes(content)
            put(beside, target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise ShapjaxError(
            f"cannot write {target} ({error.strerror or error}); choose a writable folder."
        ) from None


def printable(text: object) -> str:
    """``text`` as one encodable line: control and direction-changing characters replaced."""
    encodable = str(text).encode("utf-8", "replace").decode("utf-8")
    return "".join(
        c if c.isprintable() or c in _JOINERS else "\N{REPLACEMENT CHARACTER}" for c in encodable
    )
