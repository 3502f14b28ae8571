"""One run on many hosts: who computes which shard, agreed on once and then left alone.

JAX's distributed runtime tells each process its number (and finds it out from the environment of
SLURM, Open MPI, Kubernetes or a TPU pod). Pairs are independent, so after that handshake processes
let go of each other: none waits for another's result, and one that dies takes no other along, as
it would if they stayed connected. What a process computes is every so many-th pair by name; it
lands in a file of its own (``shapjax.evaluate.store``), from which a process that is started again,
alone or with all others, sees what is left to do.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from shapjax.core.checks import whole_number
from shapjax.core.errors import ShapjaxError
from shapjax.core.files import write_whole
from shapjax.core.worths import Progress
from shapjax.evaluate.rows import Key, Row, key_of
from shapjax.evaluate.store import read

ENVIRONMENT = "auto"
"""The coordinator of a process that finds everything in its environment."""

PAUSE = 1.0
"""Seconds between two looks at what the others have written."""


PAIRING = "pairing.txt"
"""File that says how far process 0 is with the pairs."""


class Place(NamedTuple):
    """Which of how many processes this one is.

    Attributes:
        process: from 0.
        processes: how many there are.
    """

    process: int
    processes: int


def join(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    patience: int = 300,
) -> Place:
    """Find out which process this is, before JAX computes anything.

    Args:
        coordinator: ``HOST:PORT``, where process 0 listens and all others call; ``"auto"``: as the
            environment has it. None: nobody is called, and the numbers are taken as they come, as
            where one process of a run is started again by itself.
        processes: how many there are; None with a coordinator: as the environment has it.
        process: which of them this is, from 0; likewise.
        patience: seconds to wait for the others.

    Returns:
        The place; of a single process without arguments the only one.

    Raises:
        ShapjaxError: the numbers do not fit, the environment is of no cluster, or another process
            did not come in time.
    """
    if processes is not None:
        processes = whole_number(processes, "processes", low=1, high=99_999)
    if process is not None:
        process = whole_number(process, "process", low=0, high=(processes or 100_000) - 1)
    if coordinator is None:
        if (processes is None) != (process is None):
            raise ShapjaxError(
                "got one of processes and process, expected both or neither; "
                "say how many processes there are and which this is."
            )
        return Place(process or 0, processes or 1)
    address = None if coordinator == ENVIRONMENT else coordinator
    if address is not None and not _is_address(address):
        raise ShapjaxError(
            f"coordinator is {coordinator!r}, expected HOST:PORT of process 0, or auto."
        )
    try:
        jax.distributed.initialize(address, processes, process, initialization_timeout=patience)
        found = Place(jax.process_index(), jax.process_count())
        jax.distributed.shutdown()
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:200]
        raise ShapjaxError(
            f"the processes cannot be brought together ({reason}); start all of them within "
            f"{patience} seconds with the same --coordinator, or give --processes and --process."
        ) from None
    return found


def _is_address(text: str) -> bool:
    host, colon, port = text.rpartition(":")
    return bool(host and colon and re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 65_536)


def wait_for_rows(
    folder: str | os.PathLike[str],
    expected: Iterable[Key],
    *,
    patience: float,
    progress: Callable[[int, int], Any] | None = None,
) -> tuple[list[Row], set[Key]]:
    """All rows of a run, once the other processes have written theirs, or what there is by then.

    Args:
        folder: of the run.
        expected: keys of all its rows.
        patience: seconds without a new row after which the others are given up.
        progress: called with (rows there, rows in all).

    Returns:
        The rows, and the keys of those that are missing.
    """
    expected = set(expected)
    seen, since = -1, time.monotonic()
    while True:
        began = time.monotonic()
        rows = read(folder)
        missing = expected - {key_of(row) for row in rows}
        if progress is not None:
            progress(len(expected) - len(missing), len(expected))
        # A clock that is set while the run goes on must not end it: monotonic time alone.
        if len(missing) != seen:
            seen, since = len(missing), time.monotonic()
        if not missing or time.monotonic() - since >= patience:
            return rows, missing
        # Reading all rows may take long, and is not what the disk is for.
        time.sleep(min(max(PAUSE, 10 * (time.monotonic() - began)), patience))


def seen_by_others(folder: str | os.PathLike[str], progress: Progress) -> Progress:
    """Progress of process 0 with the pairs that also keeps the others waiting for them.

    Args:
        folder: of the run; made if it is not there.
        progress: that is called as well.

    Raises:
        ShapjaxError: when called, the folder cannot be written.
    """
    last = -math.inf

    def tell(done: int, total: int) -> None:
        nonlocal last
        progress(done, total)
        if time.monotonic() - last >= PAUSE:
            last = time.monotonic()
            with contextlib.suppress(OSError):  # the next line says it
                Path(folder).mkdir(parents=True, exist_ok=True)
            write_whole(Path(folder) / PAIRING, f"{done} {total}\n".encode())

    return tell


def wait_for_pairs(path: Path, *, patience: float) -> None:
    """Return once process 0 has written its list of pairs.

    Raises:
        ShapjaxError: it did not, nor got on with it, within ``patience`` seconds.
    """
    sign, since = _pairing(path.parent), time.monotonic()
    while not path.exists():
        if (now := _pairing(path.parent)) != sign:
            sign, since = now, time.monotonic()
        if time.monotonic() - since >= patience:
            raise ShapjaxError(
                f"{path} has not come from process 0 within {patience} seconds; start that one, "
                "give more --patience, or each process the same list as --pairs CSV."
            )
        time.sleep(min(PAUSE, patience))


def _pairing(folder: Path) -> bytes:
    """How far process 0 is; nothing where it has not begun."""
    try:
        return (folder / PAIRING).read_bytes()
    except OSError:
        return b""
