"""Work that fills a device, spread over several: each has a piece of its own at a time."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import jax

from shapjax.core.precision import x64_enabled

T = TypeVar("T")
R = TypeVar("R")


def spread(run: Callable[[int, T], R], items: Iterable[T], devices: Sequence[Any]) -> Iterator[R]:
    """What ``run`` makes of each item, in their order, a few items ahead of the caller.

    Args:
        run: called with the place of a device and an item, in a thread whose arrays are made on
            that device. What it raises ends the work.
        items: may be a generator; read in the caller's thread.
        devices: JAX devices; with one there are no threads, and nothing is made ahead.
    """
    if len(devices) == 1:
        yield from (run(0, item) for item in items)
        return
    idle: queue.SimpleQueue[int] = queue.SimpleQueue()
    for place in range(len(devices)):
        idle.put(place)
    wide = x64_enabled()  # The flag of the caller; a thread has only that of the process.

    def one(item: T) -> R:
        place = idle.get()
        try:
            with jax.default_device(devices[place]), jax.enable_x64(wide):
                return run(place, item)
        finally:
            idle.put(place)

    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(len(devices)) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(one, item))
                # Twice as many as devices, so that none waits for the first in line.
                if len(waiting) >= 2 * len(devices):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
