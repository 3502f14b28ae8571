"""The backbones there are, by name, and how each comes by its weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from shapjax.core.errors import ShapjaxError, WeightsError

if TYPE_CHECKING:
    from shapjax.backbones.record import Backbone

Weights = str | os.PathLike[str] | Mapping[str, Any]


def names() -> tuple[str, ...]:
    """The names that ``load`` knows; the first is the default, which needs no weights."""
    return tuple(_REGISTRY)


def load(name: str, weights: Weights | None = None) -> Backbone:
    """A backbone with its weights and the preprocessing that belongs to them.

    Args:
        name: one of ``names()``.
        weights: path of an ``.npz``, ``.safetensors``, ``.pth`` or ``.pt`` file, or a dictionary
            of NumPy, JAX or torch arrays (a state dict); may be left out where the package
            brings weights along.

    Raises:
        ShapjaxError: there is no backbone of that name.
        WeightsError: weights are needed and not given, cannot be read, or do not fit.
    """
    if not isinstance(name, str) or name not in _REGISTRY:
        raise ShapjaxError(
            f"got backbone name {name!r}, expected one of {', '.join(names())}; give one of them."
        )
    return _REGISTRY[name](weights)


# Backbones are imported when asked for: they need flax, which takes a second to import.


def _shapjax_tiny(weights: Weights | None) -> Backbone:
    from flax import nnx

    from shapjax.backbones import shapjax_tiny
    from shapjax.backbones.filling import fill
    from shapjax.backbones.readers import read_weights
    from shapjax.backbones.record import Backbone

    arrays = read_weights(shapjax_tiny.EMBEDDED if weights is None else weights)
    graphdef, state = fill(lambda: shapjax_tiny.ShapjaxTiny(rngs=nnx.Rngs(0)), arrays)
    return Backbone(shapjax_tiny.NAME, shapjax_tiny.PREPROCESSING, graphdef, state)


def _squeezenet(weights: Weights | None) -> Backbone:
    from shapjax.backbones import squeezenet
    from shapjax.backbones.readers import read_weights

    if weights is None:
        raise WeightsError(
            f"{squeezenet.NAME} comes without weights, expected a weight file; give torchvision's "
            "squeezenet1_1-b8a52dc0.pth or SqueezeNet v1.1 from Caffe as an .npz file."
        )
    return squeezenet.from_arrays(read_weights(weights))


_REGISTRY: dict[str, Callable[[Weights | None], Backbone]] = {
    "shapjax_tiny": _shapjax_tiny,
    "squeezenet1_1": _squeezenet,
}
