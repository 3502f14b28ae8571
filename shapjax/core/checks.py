"""Static checks shared by every public function."""

from __future__ import annotations

import operator
from typing import Any

from shapjax.core.errors import ShapjaxError

MAX_PLAYERS = 1_000_000
"""Most players whose coalitions can be counted at all; far beyond what memory allows."""


def whole_number(value: Any, name: str, *, low: int, high: int | None = None) -> int:
    """``value`` as a Python int between ``low`` and ``high``, both included.

    Raises:
        ShapjaxError: it is not a whole number, or outside the bounds.
    """
    wanted = f"at least {low}" if high is None else f"between {low} and {high}"
    try:
        number = operator.index(value)
    except TypeError:
        raise ShapjaxError(f"{name} is {value!r}, expected a whole number {wanted}.") from None
    if number < low or (high is not None and number > high):
        shown = number if abs(number) < 10**30 else "astronomically large"
        raise ShapjaxError(f"{name} is {shown}, expected a whole number {wanted}.")
    return number


def players_of_table(shape: tuple[int, ...], name: str) -> int:
    """Number of players n of a table of coalitions of shape [..., 2**n].

    Raises:
        ShapjaxError: the last axis is missing or not a power of two.
    """
    length = shape[-1] if shape else 0
    if length < 1 or length & (length - 1):
        raise ShapjaxError(
            f"{name} has shape {tuple(shape)}, expected [..., 2**n] with the worth of every "
            "coalition of n players along the last axis."
        )
    return length.bit_length() - 1


def one_of(value: Any, choices: tuple[str, ...], name: str) -> str:
    """``value`` if it is one of ``choices``.

    Raises:
        ShapjaxError: it is not.
    """
    if not isinstance(value, str) or value not in choices:
        raise ShapjaxError(f"{name} is {value!r}, expected one of {', '.join(choices)}.")
    return value
