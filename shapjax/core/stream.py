"""Files read ahead of their use: in order, a few at a time, bad ones handed on as errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from shapjax.core.errors import ShapjaxError

T = TypeVar("T")
R = TypeVar("R")

THREADS = 2
"""Threads that decode; Pillow lets go of the interpreter while it does."""

AHEAD = 8
"""Most results that wait for the caller, which bounds the memory they take."""


def stream(
    read: Callable[[T], R], items: Sequence[T], *, threads: int = THREADS, ahead: int = AHEAD
) -> Iterator[tuple[T, R | ShapjaxError]]:
    """Each item with what ``read`` makes of it, in order, by Grain's prefetching threads.

    Args:
        read: called in a thread. A ShapjaxError that it raises is handed on in place of a
            result, so that one broken file does not end the stream; any other error ends it.
        items: what to read; at most ``threads + ahead`` results are held at a time.
        threads: how many read at once.
        ahead: how many results may wait.
    """
    import grain

    def one(item: T) -> tuple[T, R | ShapjaxError]:
        try:
            return item, read(item)
        except ShapjaxError as error:
            return item, error

    if items:
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
        yield from grain.MapDataset.source(items).map(one).to_iter_dataset(options)  # pyright: ignore[reportArgumentType]
