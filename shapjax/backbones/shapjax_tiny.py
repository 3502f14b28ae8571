"""The embedded default backbone: a small local convolutional network that ships with its weights.

``shapjax.backbones.loading.load("shapjax_tiny")`` gives it. It was trained by
``python -m shapjax.training.train_embedded``; what that run measured is in
``shapjax/training/embedded_log.md``.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import ClassVar

import jax
import numpy as np
from flax import nnx

from shapjax.backbones.filling import Layout
from shapjax.backbones.layers import relu
from shapjax.backbones.network import Network, Opening, Stage
from shapjax.backbones.record import Preprocessing

NAME = "shapjax_tiny"
PREPROCESSING = Preprocessing(size=128, resize=144, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
EMBEDDED = Path(__file__).parent / "weights" / "shapjax_tiny.npz"


class Residual(nnx.Module):
    """A convolution whose normalised output is added to its input.

    The normalisation is over the channels of one location, so nothing leaks between locations
    and there are no running statistics.
    """

    def __init__(self, channels: int, side: int, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(channels, channels, (side, side), use_bias=False, rngs=rngs)
        self.norm = nnx.LayerNorm(channels, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, h, w, C] to the same shape, non-negative."""
        return relu(x + self.norm(self.conv(x)))


class Down(nnx.Module):
    """A strided convolution centred on its cells, normalised and rectified."""

    def __init__(self, inputs: int, outputs: int, side: int, stride: int, *, rngs: nnx.Rngs):
        # A symmetric margin keeps each output centred on its stride x stride cell of the input.
        margin = (side - stride) // 2
        self.conv = nnx.Conv(
            inputs, outputs, (side, side), stride, padding=margin, use_bias=False, rngs=rngs
        )
        self.norm = nnx.LayerNorm(outputs, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, h, w, inputs] to [B, h / stride, w / stride, outputs], non-negative."""
        return self.finish(self.conv(x))

    def finish(self, x: jax.Array) -> jax.Array:
        """What follows the convolution."""
        return relu(self.norm(x))


class ShapjaxTiny(Network):
    """A local network: 8 x 8 locations of 128 channels, each seeing 60 x 60 pixels.

    Every location is centred on its 16 x 16 cell of the 128 x 128 input. The last feature map
    leaves a normalisation over channels and a rectifier, so its entries are non-negative and all
    locations have norms of one order, which lets a plain dot product compare them.
    """

    at_once: ClassVar[int] = 64

    def __init__(self, *, rngs: nnx.Rngs):
        self.stem = Down(3, 24, side=8, stride=4, rngs=rngs)
        self.block4 = Residual(24, 3, rngs=rngs)
        self.down8 = Down(24, 64, side=2, stride=2, rngs=rngs)
        self.block8a = Residual(64, 3, rngs=rngs)
        self.block8b = Residual(64, 3, rngs=rngs)
        self.down16 = Down(64, 128, side=2, stride=2, rngs=rngs)
        self.block16 = Residual(128, 1, rngs=rngs)
        self.out = Down(128, 128, side=1, stride=1, rngs=rngs)

    def stages(self) -> list[Stage]:
        """One for each layer; ``out`` gives [B, 8, 8, 128] from 128 x 128, non-negative."""
        layers = ("block4", "down8", "block8a", "block8b", "down16", "block16", "out")
        stem = Opening(self.stem.conv, self.stem.finish)
        return [("stem", stem), *((layer, getattr(self, layer)) for layer in layers)]

    def head(self, features: jax.Array) -> jax.Array:
        """The pooled features: this network classifies nothing, it only compares.

        Args:
            features: float32 [B, h, w, 128].

        Returns:
            float32 [B, 128].
        """
        return self.pool(features)


def layout(name: str, names: Collection[str]) -> Layout:
    """The names and axes of the network itself."""
    return Layout(lambda: ShapjaxTiny(rngs=nnx.Rngs(0)), PREPROCESSING, str, {})


def save_weights(path: str | Path, state: nnx.State) -> None:
    """Writes a state as a compressed ``.npz`` of float16 arrays under their dotted paths."""
    arrays = {
        ".".join(map(str, name)): np.asarray(leaf[...], np.float16)
        for name, leaf in nnx.to_flat_state(state)
    }
    np.savez_compressed(path, allow_pickle=False, **arrays)
