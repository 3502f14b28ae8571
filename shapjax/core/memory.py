"""Think before allocating: refuse what cannot fit, and say what would."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

import jax

from shapjax.core.errors import MemoryRefused


def bytes_available() -> int:
    """Memory this process may still take on the host, bytes: the smaller of RAM and cgroup."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        free = 2**63
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists():
        text = limit.read_text().strip()
        if text != "max":
            free = min(free, int(text) - int(used.read_text()))
    return max(free, 0)


def format_bytes(count: int) -> str:
    """``count`` bytes with a binary prefix, three significant digits."""
    if count < 1024:
        return f"{count} B"
    # Integers may exceed float's range (2**2000 coalitions), so the exponent comes first.
    exponent = min((count.bit_length() - 1) // 10, 8)
    unit = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"][exponent]
    whole = count >> (10 * exponent)
    if whole >= 10**6:
        return f"about 2^{math.floor(math.log2(whole)) + 10 * exponent} B"
    return f"{count / 1024**exponent:.3g} {unit}"


def require_memory(count: int, what: str, remedy: str) -> None:
    """Refuse an allocation that this machine cannot hold.

    Args:
        count: bytes needed at the peak.
        what: the thing to be allocated, for the message.
        remedy: what to do instead, for the message.

    Raises:
        MemoryRefused: more than nine tenths of the available memory would be taken.
    """
    available = bytes_available()
    if 10 * count > 9 * available:
        raise MemoryRefused(
            f"{what} needs {format_bytes(count)} but only {format_bytes(available)} are "
            f"available; {remedy}."
        )


@contextlib.contextmanager
def memory_of_devices() -> Iterator[None]:
    """Memory of a device that runs out becomes an error like others.

    Raises:
        MemoryRefused: it ran out.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise MemoryRefused(
            "the device's memory ran out; lower the budget, or free some first."
        ) from None
