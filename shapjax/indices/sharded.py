"""Transforms and indices of a table that is spread over the devices of a mesh.

The table is cut along its last axis, so the device number is the high bits of the rank. What
concerns low players needs no communication: transforms exchange one shard per high player with
the partner that differs in that player, indices add up numbers of the size of the result.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from shapjax.core.checks import players_of_table
from shapjax.core.errors import ShapjaxError
from shapjax.core.interactions import Interactions
from shapjax.core.precision import float_array
from shapjax.indices.blocks import block_sums, coefficients_of, require_order
from shapjax.indices.cardinal import CardinalIndex
from shapjax.indices.weights import index_and_order, weight_table
from shapjax.indices.worths import superset_weights, worth_weights
from shapjax.transforms import moebius as transforms


def shard(table: jax.Array, mesh: Mesh) -> jax.Array:
    """Spread a table [..., 2**n] over all devices of a mesh by its last axis.

    Raises:
        ShapjaxError: the devices are not a power of two, or more than there are coalitions.
    """
    table = float_array(table, "table")
    n = players_of_table(table.shape, "table")
    if mesh.size & (mesh.size - 1) or mesh.size > 1 << n:
        raise ShapjaxError(
            f"the mesh has {mesh.size} devices, expected a power of two of at most 2^{n} to "
            f"cut the table of {n} players."
        )
    return jax.device_put(table, NamedSharding(mesh, _spec(table.ndim, mesh)))


def moebius(values: jax.Array, mesh: Mesh) -> jax.Array:
    """``shapjax.moebius`` of a table spread over a mesh; the dividends are spread the same way.

    Args:
        values: float [..., 2**n], moved to ``shard(values, mesh)`` if it is elsewhere.
        mesh: 2**m devices; all of its axes together cut the table.

    Raises:
        ShapjaxError, DtypeError: as ``shard`` and ``shapjax.moebius``.

    Communication: every device sends at most m times its own shard.
    """
    return _transform(shard(values, mesh), mesh, -1)


def zeta(dividends: jax.Array, mesh: Mesh) -> jax.Array:
    """``shapjax.zeta`` of a table spread over a mesh; as ``moebius`` here."""
    return _transform(shard(dividends, mesh), mesh, 1)


def interactions(
    values: jax.Array,
    mesh: Mesh,
    index: str | CardinalIndex = "STII",
    order: int | None = None,
    *,
    p: float | None = None,
) -> Interactions:
    """``shapjax.interactions`` of a table spread over a mesh, up to order 3.

    Args:
        values: float [..., 2**n], moved to ``shard(values, mesh)`` if it is elsewhere.
        mesh: 2**m devices; all of its axes together cut the table.
        index, order, p: as in ``shapjax.interactions``.

    Returns:
        Interactions, the same on every device.

    Raises:
        ShapjaxError, DtypeError: as ``shard`` and ``shapjax.interactions``, or order above 3.

    Communication: one sum over all devices of numbers of the size of the result.
    """
    table = shard(values, mesh)
    cardinal, order = index_and_order(index, order, players_of_table(table.shape, "values"), p)
    require_order(order, "lower it, or use shapjax.interactions on one device")
    return _interactions(table, mesh, cardinal, order)


def shapley_value(values: jax.Array, mesh: Mesh) -> jax.Array:
    """``shapjax.shapley_value`` of a table spread over a mesh, [..., n]; as ``interactions``."""
    return jnp.asarray(interactions(values, mesh, "SV", 1).singles)


@functools.partial(jax.jit, static_argnames=("mesh", "sign"))
def _transform(table: jax.Array, mesh: Mesh, sign: int) -> jax.Array:
    local = transforms.moebius if sign < 0 else transforms.zeta

    def on_shard(part: jax.Array) -> jax.Array:
        part = local(part)
        for bit in range(mesh.size.bit_length() - 1):
            lacking = [device for device in range(mesh.size) if not device >> bit & 1]
            # Devices that lack the player send and receive nothing, that is zeros.
            part += sign * jax.lax.ppermute(
                part, mesh.axis_names, [(device, device | 1 << bit) for device in lacking]
            )
        return part

    return _by_shard(on_shard, table, mesh, _spec(table.ndim, mesh))


@functools.partial(jax.jit, static_argnames=("mesh", "index", "order"))
def _interactions(table: jax.Array, mesh: Mesh, index: CardinalIndex, order: int) -> Interactions:
    n, high = players_of_table(table.shape, "values"), mesh.size.bit_length() - 1
    gamma = worth_weights(weight_table(index, order, n), index.form)
    f = jnp.asarray(superset_weights(gamma), table.dtype)

    def on_shard(part: jax.Array) -> dict[str, jax.Array]:
        device = jax.lax.axis_index(mesh.axis_names)
        high_mask = (device >> jnp.arange(high)) & 1 == 1
        return jax.lax.psum(block_sums(part, high_mask, f, order), mesh.axis_names)

    sums = _by_shard(on_shard, table, mesh, PartitionSpec())
    return Interactions(coefficients_of(sums, high, n - high, order), index.label, n)


def _by_shard(on_shard: Callable, table: jax.Array, mesh: Mesh, out: PartitionSpec):
    spec = _spec(table.ndim, mesh)
    return jax.shard_map(on_shard, mesh=mesh, in_specs=spec, out_specs=out, check_vma=False)(table)


def _spec(ndim: int, mesh: Mesh) -> PartitionSpec:
    return PartitionSpec(*[None] * (ndim - 1), mesh.axis_names)
