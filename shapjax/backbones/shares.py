"""A batch in shares: what is computed of few inputs stays near the core, in little memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def on_cpu_by_shares(run: Callable[..., jax.Array], most: int, *inputs: Any) -> jax.Array:
    """What ``run`` makes of a batch; on CPU as ``by_shares`` does it.

    ``run`` is traced twice. Devices that share a batch get their shares by ``shard_map``: under a
    plain ``jit`` the shares would gather it.

    Args:
        run: see ``by_shares``.
        most: inputs that run together, or one for each core where there are more cores.
        inputs: see ``by_shares``.
    """
    most = max(most, cores())
    if len(jax.tree.leaves(inputs)[0]) <= most:
        return run(*inputs)

    def shared(*inputs: Any) -> jax.Array:
        return by_shares(run, most, *inputs)

    return jax.lax.platform_dependent(*inputs, cpu=shared, default=run)


def cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Only Linux tells.
        return os.cpu_count() or 1


def by_shares(run: Callable[..., jax.Array], most: int, *inputs: Any) -> jax.Array:
    """What ``run`` makes of a batch, in equal shares one after the other.

    Args:
        run: maps arrays [B, ...] to one [B, ...], every entry by itself.
        most: inputs in a share; fewer than one counts as one.
        inputs: arrays [B, ...], or None.
    """
    batch = len(jax.tree.leaves(inputs)[0])
    shares = -(-batch // max(1, most))
    if shares <= 1:
        return run(*inputs)
    together = -(-batch // shares)

    def cut(x: jax.Array) -> jax.Array:
        # The last share is filled up with a copy, not with zeros, whose derivative may be none.
        margins = [(0, shares * together - batch), *[(0, 0)] * (x.ndim - 1)]
        return jnp.pad(x, margins, mode="edge").reshape(shares, together, *x.shape[1:])

    found = jax.lax.map(lambda some: run(*some), jax.tree.map(cut, inputs))
    return found.reshape(shares * together, *found.shape[2:])[:batch]
