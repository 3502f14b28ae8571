"""Putting the arrays of a weight file into a network whose initialiser never runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from shapjax.backbones.folding import fold
from shapjax.backbones.layers import BatchNorm
from shapjax.backbones.record import Backbone
from shapjax.core.errors import WeightsError

CHANNELS_FIRST: dict[int, tuple[int, ...]] = {4: (2, 3, 1, 0), 2: (1, 0)}
"""Axes that take torch's and Caffe's arrays to Flax's, by rank: OIHW to HWIO and OI to IO.

A depthwise convolution (C1HW) becomes HW1C, which Flax reads with ``feature_group_count=C``.
"""

_LISTED = 40

_COUNTER = "num_batches_tracked"
"""How many batches torch's statistics were taken over; it plays no part in inference."""

_IN_TORCH = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "mean": "running_mean",
    "var": "running_var",
}


def torch_name(path: str) -> str:
    """The name in a torch state dict of a variable whose module has the same path there."""
    module, _, leaf = path.rpartition(".")
    return f"{module}.{_IN_TORCH.get(leaf, leaf)}" if module else leaf


class Layout(NamedTuple):
    """How the arrays of a weight file become a network.

    Attributes:
        factory: makes the network as its publisher lays it out; it is only traced for shapes.
        preprocessing: what turns a picture (or a text) into its input.
        name_in_file: the file's name for a variable, from its dotted path in the network, such
            as ``"layer1.0.conv1.kernel"``.
        axes: transpositions of variables called ``kernel``, by rank, from the file's axes.
        ignored: beginnings of names that the network has no use for; what else a file holds
            beyond the network is an error.
        arrange: what is done to the arrays before they are looked up, such as taking joint
            projections apart.
        arranged_from: the file's name for an array from the one that ``arrange`` gave it, which
            messages name.
    """

    factory: Callable[[], nnx.Module]
    preprocessing: Any
    name_in_file: Callable[[str], str] = torch_name
    axes: Mapping[int, tuple[int, ...]] = CHANNELS_FIRST
    ignored: tuple[str, ...] = ()
    arrange: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] = dict
    arranged_from: Callable[[str], str] = str


def fill_layout(name: str, layout: Layout, arrays: Mapping[str, np.ndarray]) -> Backbone:
    """The backbone of the given weights; see ``fill`` for what is checked.

    Args:
        name: registry name.
        layout: of these arrays.
        arrays: weights by their names in the file.

    Raises:
        WeightsError: the arrays do not fit the network.
    """
    graphdef, state = fill(
        layout.factory,
        layout.arrange(arrays),
        layout.name_in_file,
        layout.axes,
        layout.ignored,
        layout.arranged_from,
    )
    return Backbone(name, layout.preprocessing, graphdef, state)


def fill(
    factory: Callable[[], nnx.Module],
    arrays: Mapping[str, np.ndarray],
    name_in_file: Callable[[str], str] = str,
    axes: Mapping[int, tuple[int, ...]] | None = None,
    ignored: tuple[str, ...] = (),
    arranged_from: Callable[[str], str] = str,
) -> tuple[Any, nnx.State]:
    """Structure and state of a network with the given weights, in evaluation mode.

    Batch normalisations are merged into the convolutions before them (``fold``).

    Args:
        factory: makes the network, such as ``lambda: Net(rngs=nnx.Rngs(0))``; it is only traced
            for shapes.
        arrays: weights by their names in the file; every one must find its place.
        name_in_file: the file's name for a variable, from its dotted path in the network, such
            as ``"fire2.squeeze1x1.kernel"``; by default they are the same.
        axes: transpositions of variables called ``kernel``, by rank, from the file's axes to
            Flax's, such as ``CHANNELS_FIRST``; by default none.
        ignored: beginnings of names to leave out.
        arranged_from: what messages call an array, from its name in ``arrays``.

    Returns:
        ``(graphdef, state)`` as ``nnx.split`` gives them, in the network's own dtypes.

    Raises:
        WeightsError: lists the names that are missing, unexpected, of another shape or not
            finite, all in one message, or the first forty and a count; likewise those of the
            variances that give no finite factor.
    """
    # Networks stay in float32 where games are in float64.
    with jax.enable_x64(False):
        network = nnx.eval_shape(factory)
    network.eval()
    graphdef, abstract = nnx.split(network)
    slots = {
        name_in_file(".".join(map(str, path))): (path, variable)
        for path, variable in nnx.to_flat_state(abstract)
    }
    axes = axes or {}
    arrays = {
        name: array
        for name, array in arrays.items()
        if not name.startswith(ignored) and not _counts_batches(name, slots)
    }
    converted = {
        name: _convert(
            arrays[name],
            variable.shape,
            variable.dtype,
            axes.get(len(variable.shape)) if path[-1] == "kernel" else None,
        )
        for name, (path, variable) in slots.items()
        if name in arrays
    }
    faults = [f"{arranged_from(name)} missing" for name in slots if name not in arrays]
    faults += [f"{name} unexpected" for name in arrays if name not in slots]
    for name, fault in converted.items():
        if isinstance(fault, str):
            source = arranged_from(name)
            part = "" if source == name else f" (its part {name})"
            faults.append(f"{source}{part} {fault}")
    _check(faults, "give weights of this architecture")
    state = nnx.from_flat_state(
        [(path, variable.replace(converted[name])) for name, (path, variable) in slots.items()]
    )
    network = nnx.merge(graphdef, state)
    unusable = [
        f"{name_in_file('.'.join(map(str, (*path, 'var'))))} gives no finite factor"
        for path, norm in nnx.iter_modules(network)
        if isinstance(norm, BatchNorm) and not _is_finite(norm)
    ]
    _check(unusable, "give statistics of a network that was trained")
    graphdef, state = nnx.split(fold(network))
    return graphdef, jax.tree.map(jnp.asarray, state)


def _check(faults: list[str], remedy: str) -> None:
    # Some faults share a name, and files in some formats have no order of their own.
    faults = sorted(set(faults))
    if faults:
        shown = ", ".join(faults[:_LISTED])
        more = f" and {len(faults) - _LISTED} more" if len(faults) > _LISTED else ""
        raise WeightsError(
            f"{len(faults)} of the arrays do not fit the network ({shown}{more}); {remedy}."
        )


def _counts_batches(name: str, slots: Collection[str]) -> bool:
    """Whether this is torch's counter beside the statistics of a normalisation of the network."""
    return name.endswith(_COUNTER) and f"{name.removesuffix(_COUNTER)}running_var" in slots


def _is_finite(norm: BatchNorm) -> bool:
    with np.errstate(all="ignore"):
        gain = norm.gain()
        return bool(np.isfinite(gain).all() and np.isfinite(norm.mean[...] * gain).all())


def _convert(
    array: np.ndarray, shape: tuple[int, ...], dtype: Any, axes: tuple[int, ...] | None
) -> np.ndarray | str:
    """The array as Flax has it, or what is wrong with it, in terms of the file's axes."""
    order = axes or tuple(range(len(shape)))
    # Axis i of the network is axis order[i] of the file.
    expected = tuple(shape[order.index(axis)] for axis in range(len(shape)))
    if array.shape != expected:
        return f"of shape {array.shape} instead of {expected}"
    with np.errstate(over="ignore"):
        result = np.asarray(np.transpose(array, order), dtype)
    return result if np.isfinite(result).all() else "not finite"
