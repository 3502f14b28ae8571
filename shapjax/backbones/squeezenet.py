"""SqueezeNet 1.1, with weights as Caffe or as torchvision lay them out."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from shapjax.backbones.filling import Layout
from shapjax.backbones.layers import Conv, relu
from shapjax.backbones.network import Network, Opening, Stage
from shapjax.backbones.record import IMAGENET, Preprocessing

CAFFE = Preprocessing(
    size=227,
    resize=256,
    mean=(123 / 255, 117 / 255, 104 / 255),
    std=(1 / 255, 1 / 255, 1 / 255),
    channels="BGR",
)
"""BGR in 0..255 less the mean (104, 117, 123): forresti/SqueezeNet, SqueezeNet_v1.1."""

_TORCHVISION_LAYERS = {
    "conv1": "features.0",
    "fire2": "features.3",
    "fire3": "features.4",
    "fire4": "features.6",
    "fire5": "features.7",
    "fire6": "features.9",
    "fire7": "features.10",
    "fire8": "features.11",
    "fire9": "features.12",
    "conv10": "classifier.1",
}

_POOL_BEFORE = (2, 4, 6)


class Fire(nnx.Module):
    """A 1x1 convolution to few channels, then 1x1 and 3x3 convolutions side by side."""

    def __init__(self, inputs: int, squeezed: int, expanded: int, *, rngs: nnx.Rngs):
        self.squeeze1x1 = Conv(inputs, squeezed, (1, 1), rngs=rngs)
        self.expand1x1 = Conv(squeezed, expanded, (1, 1), rngs=rngs)
        self.expand3x3 = Conv(squeezed, expanded, (3, 3), padding=1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, h, w, inputs] to [B, h, w, 2 * expanded], non-negative."""
        x = relu(self.squeeze1x1(x))
        return relu(jnp.concatenate([self.expand1x1(x), self.expand3x3(x)], axis=-1))


class SqueezeNet11(Network):
    """SqueezeNet 1.1 up to its class scores.

    Source: Iandola et al. 2016 (arXiv 1602.07360) and the prototxt of forresti/SqueezeNet,
    SqueezeNet_v1.1. Dropout, which does nothing in evaluation, is left out.
    """

    at_once: ClassVar[int] = 4

    def __init__(self, *, rngs: nnx.Rngs):
        self.conv1 = Conv(3, 64, (3, 3), strides=2, padding="VALID", rngs=rngs)
        self.fire2 = Fire(64, 16, 64, rngs=rngs)
        self.fire3 = Fire(128, 16, 64, rngs=rngs)
        self.fire4 = Fire(128, 32, 128, rngs=rngs)
        self.fire5 = Fire(256, 32, 128, rngs=rngs)
        self.fire6 = Fire(256, 48, 192, rngs=rngs)
        self.fire7 = Fire(384, 48, 192, rngs=rngs)
        self.fire8 = Fire(384, 64, 256, rngs=rngs)
        self.fire9 = Fire(512, 64, 256, rngs=rngs)
        self.conv10 = Conv(512, 1000, (1, 1), rngs=rngs)

    def stages(self) -> list[Stage]:
        """``conv1``, ``pool1``, ``fire2`` and so on; ``fire9`` is the last map.

        Its output is float32 [B, h, w, 512], non-negative; 14 x 14 from 227 x 227, 13 x 13 from
        224 x 224.
        """
        stages: list[Stage] = [("conv1", Opening(self.conv1, relu))]
        for number in range(2, 10):
            if number in _POOL_BEFORE:
                stages.append((f"pool{number - 1}", _pool))
            stages.append((f"fire{number}", getattr(self, f"fire{number}")))
        return stages

    def head(self, features: jax.Array) -> jax.Array:
        """Scores of the 1,000 ImageNet classes, before the softmax.

        Args:
            features: float32 [B, h, w, 512].

        Returns:
            float32 [B, 1000], non-negative, since the last convolution is rectified.
        """
        return relu(self.conv10(features)).mean(axis=(1, 2))


def _pool(x: jax.Array) -> jax.Array:
    """3x3 maxima at stride 2; like Caffe, a last window that overhangs the map counts as well."""
    overhang = [(0, (side - 3) % 2) for side in x.shape[1:3]]
    padding = [(0, 0), *overhang, (0, 0)]
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)


def layout(name: str, names: Collection[str]) -> Layout:
    """Caffe's names (``"fire2/squeeze1x1/weight"`` and so on) or torchvision's, by the slashes.

    The preprocessing is the one that the weights were trained for.
    """
    is_caffe = any("/" in key for key in names)
    return Layout(
        lambda: SqueezeNet11(rngs=nnx.Rngs(0)),
        CAFFE if is_caffe else IMAGENET,
        _name_in_caffe if is_caffe else _name_in_torchvision,
    )


def _name_in_caffe(path: str) -> str:
    return path.replace("kernel", "weight").replace(".", "/")


def _name_in_torchvision(path: str) -> str:
    layer, _, rest = path.partition(".")
    rest = rest.replace("kernel", "weight").replace("squeeze1x1", "squeeze")
    return f"{_TORCHVISION_LAYERS[layer]}.{rest}"
