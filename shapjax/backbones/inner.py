"""What every layer inside the stages of a network gives, in the order in which they run."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import Any

import jax
from flax import nnx

from shapjax.backbones.layers import Identity
from shapjax.backbones.network import Network

_CALLS = itertools.count()


class _Output(nnx.Intermediate):
    """What a layer gave, after the number of its call: ``nnx.capture`` sorts layers by name."""

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, (next(_CALLS), *value))


def inner_maps(network: Network, x: jax.Array) -> OrderedDict[str, jax.Array]:
    """The outputs of layers and stages by name in the order in which they are there.

    A stage follows the layers inside it. What remains of a normalisation that a convolution has
    absorbed is left out.

    Args:
        network: what it notes while it runs is taken off it again.
        x: normalised input.
    """

    def run(network: Network) -> list[tuple[int, str, jax.Array]]:
        stages, y = [], x
        for name, stage in network.stages_for(x):
            y = stage(y)
            stages.append((next(_CALLS), name, y))
        return stages

    outputs, seen = nnx.capture(run, _Output, method_outputs=_Output)(network)
    absorbed = {path for path, part in nnx.iter_modules(network) if isinstance(part, Identity)}
    for (*layer, method), noted in nnx.to_flat_state(seen):
        if method == "__call__" and tuple(layer) not in absorbed:
            call, output, *_ = noted.get_value()
            outputs.append((call, ".".join(map(str, layer)), output))
    return OrderedDict((name, output) for _, name, output in sorted(outputs, key=lambda o: o[0]))
