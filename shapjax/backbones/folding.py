"""Merging batch normalisations into the convolutions before them, once, when weights are loaded."""

from __future__ import annotations

from typing import Any, TypeVar

from flax import nnx

from shapjax.backbones.layers import Affine, BatchNorm, Conv, Identity

AnyModule = TypeVar("AnyModule", bound=nnx.Module)


def fold(network: AnyModule) -> AnyModule:
    """The network without batch normalisations; the same function, changed in place.

    A module names what to merge in its class attribute ``FOLDS``: the attribute (or the dotted
    path) of a normalisation by that of the convolution right before it. A normalisation that no
    convolution absorbs becomes a factor and a summand for each channel.

    Args:
        network: its leaves may be NumPy arrays, JAX arrays or tracers.
    """
    modules = [module for _, module in nnx.iter_modules(network)]
    for module in modules:
        for convolution, norm in getattr(module, "FOLDS", {}).items():
            if not _has(module, convolution):
                continue
            # Weights may come with their normalisations merged already.
            absorbed = _get(module, norm)
            if isinstance(absorbed, BatchNorm):
                _merge(_get(module, convolution), absorbed)
                _put(module, norm, Identity())
    for module in modules:
        for name, norm in _children(module):
            if isinstance(norm, BatchNorm):
                gain = norm.gain()
                _put(module, name, Affine(gain, norm.bias[...] - norm.mean[...] * gain))
    return network


def _merge(convolution: Conv, norm: BatchNorm) -> None:
    gain = norm.gain()
    shift = norm.bias[...] - norm.mean[...] * gain
    if convolution.bias is not None:
        shift = shift + convolution.bias[...] * gain
    # The outputs are the last axis of a kernel, of a depthwise one too.
    convolution.kernel = nnx.Param(convolution.kernel[...] * gain)
    convolution.bias = nnx.Param(shift)
    convolution.use_bias = True


def _children(module: Any) -> list[tuple[str, Any]]:
    if isinstance(module, nnx.List):
        return [(str(index), child) for index, child in enumerate(module)]
    return list(vars(module).items())


def _get(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = module[int(name)] if isinstance(module, nnx.List) else getattr(module, name)
    return module


def _has(module: Any, path: str) -> bool:
    return getattr(module, path.partition(".")[0], None) is not None


def _put(module: Any, path: str, value: nnx.Module) -> None:
    parent, _, name = path.rpartition(".")
    owner = _get(module, parent) if parent else module
    if isinstance(owner, nnx.List):
        owner[int(name)] = value
    else:
        setattr(owner, name, value)
