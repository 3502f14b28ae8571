"""State dicts made from a seed alone, so that torch and shapjax see the same weights anywhere."""

import importlib
import zlib

import numpy as np
from flax import nnx

from shapjax.backbones.registry import ROWS


def seeded_state_dict(name, seed=0):
    """A state dict with the file names and shapes of a backbone's layout, float32.

    For layouts whose arrays stand in the file as they do in the network.
    """
    layout = importlib.import_module(f"shapjax.backbones.{ROWS[name].module}").layout(name, ())
    abstract = nnx.state(nnx.eval_shape(layout.factory))
    shapes = {}
    for path, variable in nnx.to_flat_state(abstract):
        axes = layout.axes.get(variable.ndim) if path[-1] == "kernel" else None
        shape = variable.shape
        if axes:
            shape = tuple(shape[axes.index(axis)] for axis in range(len(shape)))
        shapes[layout.name_in_file(".".join(map(str, path)))] = shape
    return seeded_arrays(shapes, seed)


def seeded_arrays(shapes, seed=0):
    """Arrays by name, from their shapes by name in torch's manner, float32.

    Scales are such that activations keep their size through many residual blocks. Every array
    has a generator of its own, seeded by its name.
    """
    return {name: _array(name, shape, seed) for name, shape in shapes.items()}


def _array(name, shape, seed):
    # Single-precision uniform numbers are by far the fastest to draw; VGG has 138 million.
    generator = np.random.default_rng((seed, zlib.crc32(name.encode())))
    numbers = generator.random(shape, np.float32)
    kind = name.rpartition(".")[2]
    if kind == "running_var":
        return 0.5 + numbers
    if kind in ("running_mean", "bias"):
        return np.float32(0.4) * numbers - np.float32(0.2)
    if kind == "layer_scale" or len(shape) < 2:
        return 0.2 + np.float32(0.4) * numbers
    # Kernels and tables of embeddings: variance 1.5 over the fan in, kept by a rectifier or so.
    spread = np.float32(np.sqrt(4.5 / np.prod(shape[1:])))
    numbers *= 2 * spread
    numbers -= spread
    return numbers


def seeded_pictures(count, side, seed=1):
    """Normalised network input, float32 [count, side, side, 3]."""
    return np.random.default_rng(seed).normal(size=(count, side, side, 3)).astype(np.float32)
