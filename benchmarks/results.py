"""Results that survive: one JSON object per line, on the disk before the next one is begun."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from shapjax.core.errors import ShapjaxError
from shapjax.core.files import write_whole

Row = dict[str, Any]

KEY = ("family", "method", "index", "order", "budget", "seed")
"""What tells one estimate from another; of two rows that agree here the later one counts."""


class Results:
    """The rows of a file and those added to it.

    Whatever ends the process, every row that ``append`` returned from is kept: a last line that
    was torn is dropped when the file is opened again.
    """

    def __init__(self, path: Path, key: Sequence[str] = KEY) -> None:
        """Open ``path``, made with its folder where absent.

        Args:
            path: the file.
            key: names of the values that tell one row from another.

        Raises:
            ShapjaxError: it cannot be read or written, or is another kind of file.
        """
        self.path = path
        self._key = key
        self._rows: dict[tuple[Any, ...], Row] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = path.read_bytes() if path.exists() else b""
            whole = content[: content.rfind(b"\n") + 1]
            for line in whole.splitlines():
                row = json.loads(line)
                self._rows[tuple(row[name] for name in self._key)] = row
            self._file = path.open("ab")
            if len(whole) < len(content):
                self._file.truncate(len(whole))
        except OSError as error:
            raise ShapjaxError(
                f"cannot use {path} ({error.strerror or error}); choose another folder with --out."
            ) from None
        except (ValueError, KeyError, TypeError):
            raise ShapjaxError(
                f"{path} does not hold results of this benchmark; choose another folder with --out."
            ) from None

    def append(self, rows: Iterable[Row]) -> None:
        """Add rows, and return when they are on the disk."""
        rows = list(rows)
        self._file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        for row in rows:
            self._rows[tuple(row[name] for name in self._key)] = row

    def rows(self, **wanted: Any) -> list[Row]:
        """Rows with these values, for example ``rows(family="boolean", budget=500)``."""
        return [
            row
            for row in self._rows.values()
            if all(row[name] == value for name, value in wanted.items())
        ]

    def drop(self, unwanted: Callable[[Row], bool]) -> None:
        """Forget rows; the file is replaced whole."""
        kept = {key: row for key, row in self._rows.items() if not unwanted(row)}
        write_whole(self.path, "".join(json.dumps(row) + "\n" for row in kept.values()).encode())
        self._file.close()
        self._rows, self._file = kept, self.path.open("ab")

    def close(self) -> None:
        """Close the file."""
        self._file.close()
