"""One result after another: what a row must have, and rows as lines of JSON and as columns.

Rows are read back from files that a power cut, a disk or a stranger may have damaged. What is no
row is left out and told: whoever needs it computes it again.
"""

from __future__ import annotations

import json
import math
import re
import sys
from typing import Any, TypeGuard

import numpy as np

from shapjax.core.errors import ShapjaxError

Row = dict[str, Any]
"""One result: ``KEY``, why there are no numbers (``error``) or None, and whatever was measured:
finite numbers, truth values and None."""

Key = tuple[str, str, str, int]

KEY = ("pair", "backbone", "method", "order")

TEXTS = ("pair", "backbone", "method", "error")
"""What is told in words; all else is a number."""

HALF_PAIRS = re.compile("[\ud800-\udfff]")
"""Halves of surrogate pairs, which JSON can spell but no text file can hold."""

LARGEST = 2**63 - 1
"""The largest whole number that a column holds."""


def key_of(row: Row) -> Key:
    """What a row is known by: pair, backbone, method and order."""
    pair, backbone, method, order = (row[name] for name in KEY)
    return pair, backbone, method, order


def is_row(found: Any) -> TypeGuard[Row]:
    """Whether what was read is a row."""
    if not isinstance(found, dict) or not found.keys() >= {*KEY, "error"}:
        return False
    return all(map(_fits, found, found.values()))


def _fits(name: str, value: Any) -> bool:
    if name == "error" and value is None:
        return True
    if name in TEXTS:
        return isinstance(value, str) and value != "" and not HALF_PAIRS.search(value)
    if name == "order":
        return type(value) is int and abs(value) <= LARGEST
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or (isinstance(value, int) and abs(value) <= LARGEST)


def line_of(row: Row) -> bytes:
    """A row as a line of JSON.

    Raises:
        ShapjaxError: it is none, and would not be read back.
    """
    if not is_row(row):
        raise ShapjaxError(
            f"{row!r:.200} is no row, expected the texts pair, backbone and method, a whole number "
            "order, error (a text or None) and finite numbers; mend it."
        )
    return json.dumps(row).encode() + b"\n"


def rows_of_lines(content: bytes) -> tuple[list[Row], list[int]]:
    """The rows of lines, and the numbers, from 1, of lines that are none.

    What follows the last line's end was torn off while it was written, and is not looked at.
    """
    rows: list[Row] = []
    damaged: list[int] = []
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if is_row(found):
            rows.append(found)
        else:
            damaged.append(number)
    return rows, damaged


def columns(rows: list[Row]) -> dict[str, np.ndarray]:
    """Rows as one array for each column, [rows]; a missing number is NaN, a missing text empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    table: dict[str, np.ndarray] = {}
    for name in names:
        values = [row.get(name) for row in rows]
        kinds = {type(value) for value in values if value is not None}
        if name in TEXTS:
            table[name] = np.array([value or "" for value in values], np.str_)
        elif kinds <= {bool} and None not in values:
            table[name] = np.array(values, bool)
        elif kinds <= {int} and None not in values:
            table[name] = np.array(values, np.int64)
        else:
            table[name] = np.array([np.nan if v is None else float(v) for v in values])
    return table


def _has_characters(column: np.ndarray) -> bool:
    """Whether Python can make texts of a column: of other numbers it makes broken ones."""
    if column.dtype.kind != "U":
        return True
    codes = np.ascontiguousarray(column).view(np.uint32)
    codes = codes if column.dtype.isnative else codes.byteswap()
    return bool(codes.max(initial=0) <= sys.maxunicode)


def rows_of_columns(table: dict[str, np.ndarray]) -> tuple[list[Row], list[int]]:
    """The inverse of ``columns``, and the numbers, from 1, of lines that are no rows.

    NaN and empty texts come back as None.

    Raises:
        ValueError: it is no table.
    """
    if any(array.ndim != 1 or array.dtype.kind not in "biufU" for array in table.values()):
        raise ValueError("an array is no column of numbers or texts")
    if not all(map(_has_characters, table.values())):
        raise ValueError("a column of texts has what is no character")
    rows: list[Row] = []
    damaged: list[int] = []
    lines = zip(*(array.tolist() for array in table.values()), strict=True)
    for number, values in enumerate(lines, start=1):
        found = dict(zip(table, values, strict=True))
        found = {name: None if v in ("",) or v != v else v for name, v in found.items()}
        if is_row(found):
            rows.append(found)
        else:
            damaged.append(number)
    return rows, damaged
