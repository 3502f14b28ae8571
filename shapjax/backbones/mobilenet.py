"""MobileNet v2, as torchvision and as TensorFlow lay it out."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

import jax
from flax import nnx

from shapjax.backbones.filling import Layout, torch_name
from shapjax.backbones.layers import BatchNorm, Conv, Identity, relu6
from shapjax.backbones.network import Network, Opening, Stage
from shapjax.backbones.record import IMAGENET, Preprocessing

_MIDDLE = 128 / 255

TENSORFLOW = Preprocessing(
    size=224, resize=256, mean=(_MIDDLE, _MIDDLE, _MIDDLE), std=(_MIDDLE, _MIDDLE, _MIDDLE)
)
"""RGB in 0..255 less 128, over 128."""

_GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Factor of the expansion, channels, blocks and stride of the first block of each group."""

_LAST = 1280


class Block(nnx.Module):
    """An inverted residual: wide inside, narrow outside, and linear where it is narrow."""

    FOLDS: ClassVar = {
        "expand": "expand_norm",
        "depthwise": "depthwise_norm",
        "project": "project_norm",
    }

    def __init__(
        self, inputs: int, outputs: int, factor: int, stride: int, tensorflow: bool, rngs: nnx.Rngs
    ):
        wide = factor * inputs
        make = _Maker(tensorflow, rngs)
        self.expand = make.conv(inputs, wide, 1) if factor > 1 else None
        self.expand_norm = make.norm(wide) if factor > 1 else None
        self.depthwise = make.conv(wide, wide, 3, stride, groups=wide)
        self.depthwise_norm = make.norm(wide)
        self.project = make.conv(wide, outputs, 1)
        self.project_norm = make.norm(outputs)
        self.residual = stride == 1 and inputs == outputs

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, h, w, inputs] to [B, h / stride, w / stride, outputs]."""
        y = x
        if self.expand is not None and self.expand_norm is not None:
            y = relu6(self.expand_norm(self.expand(y)))
        y = relu6(self.depthwise_norm(self.depthwise(y)))
        y = self.project_norm(self.project(y))
        return x + y if self.residual else y


class MobileNetV2(Network):
    """MobileNet v2 at width 1.0 up to the scores of the ImageNet classes.

    TensorFlow's differs in three ways: it comes with its normalisations folded in, at stride 2 it
    pads after the map only, and it has a background class before the 1,000.

    Source: Sandler et al. 2018 (arXiv 1801.04381).
    """

    FOLDS: ClassVar = {"stem": "stem_norm", "last": "last_norm"}
    at_once: ClassVar[int] = 2

    def __init__(self, tensorflow: bool, *, rngs: nnx.Rngs):
        make = _Maker(tensorflow, rngs)
        self.stem = make.conv(3, 32, 3, 2)
        self.stem_norm = make.norm(32)
        blocks, channels = [], 32
        for factor, outputs, count, stride in _GROUPS:
            for place in range(count):
                first = stride if place == 0 else 1
                blocks.append(Block(channels, outputs, factor, first, tensorflow, rngs))
                channels = outputs
        self.blocks = nnx.List(blocks)
        self.last = make.conv(channels, _LAST, 1)
        self.last_norm = make.norm(_LAST)
        self.classifier = (
            Conv(_LAST, 1001, (1, 1), rngs=rngs)
            if tensorflow
            else nnx.Linear(_LAST, 1000, rngs=rngs)
        )

    def stages(self) -> list[Stage]:
        """``features.0`` to ``features.18``, torchvision's names for the same maps."""
        return [
            ("features.0", Opening(self.stem, lambda x: relu6(self.stem_norm(x)))),
            *((f"features.{place}", block) for place, block in enumerate(self.blocks, 1)),
            ("features.18", lambda x: relu6(self.last_norm(self.last(x)))),
        ]

    def head(self, features: jax.Array) -> jax.Array:
        """Class scores before the softmax, from [B, h, w, 1280].

        Returns:
            float32 [B, 1000]; of TensorFlow's weights [B, 1001], the background first.
        """
        pooled = features.mean(axis=(1, 2), keepdims=True)
        return self.classifier(pooled)[:, 0, 0]


class _Maker:
    """Convolutions and normalisations as one of the two publishers has them."""

    def __init__(self, tensorflow: bool, rngs: nnx.Rngs):
        self.tensorflow, self.rngs = tensorflow, rngs

    def conv(self, inputs: int, outputs: int, side: int, stride: int = 1, groups: int = 1) -> Conv:
        return Conv(
            inputs,
            outputs,
            (side, side),
            stride,
            padding="SAME" if self.tensorflow else side // 2,
            feature_group_count=groups,
            use_bias=self.tensorflow,
            rngs=self.rngs,
        )

    def norm(self, channels: int) -> BatchNorm | Identity:
        return Identity() if self.tensorflow else BatchNorm(channels)


def layout(name: str, names: Collection[str]) -> Layout:
    """TensorFlow's names (``"expanded_conv_1/expand/weight"``) or torchvision's, by the slashes."""
    tensorflow = any("/" in key for key in names)
    return Layout(
        lambda: MobileNetV2(tensorflow, rngs=nnx.Rngs(0)),
        TENSORFLOW if tensorflow else IMAGENET,
        _name_in_tensorflow if tensorflow else _name_in_torchvision,
    )


def _name_in_tensorflow(path: str) -> str:
    module, _, leaf = path.rpartition(".")
    leaf = "weight" if leaf == "kernel" else leaf
    if module.startswith("blocks."):
        _, number, layer = module.split(".")
        suffix = "" if number == "0" else f"_{number}"
        return f"expanded_conv{suffix}/{layer}/{leaf}"
    scope = {"stem": "Conv", "last": "Conv_1", "classifier": "logits"}[module]
    return f"{scope}/{leaf}"


_ENDS = {
    "stem": "features.0.0",
    "stem_norm": "features.0.1",
    "last": "features.18.0",
    "last_norm": "features.18.1",
    "classifier": "classifier.1",
}
_PARTS = {
    "expand": "0.0",
    "expand_norm": "0.1",
    "depthwise": "1.0",
    "depthwise_norm": "1.1",
    "project": "2",
    "project_norm": "3",
}
# The first block expands nothing, so its parts come one earlier.
_PARTS_OF_FIRST = {
    "depthwise": "0.0",
    "depthwise_norm": "0.1",
    "project": "1",
    "project_norm": "2",
}


def _name_in_torchvision(path: str) -> str:
    module, _, leaf = path.rpartition(".")
    if module.startswith("blocks."):
        _, number, layer = module.split(".")
        parts = _PARTS_OF_FIRST if number == "0" else _PARTS
        module = f"features.{int(number) + 1}.conv.{parts[layer]}"
    else:
        module = _ENDS[module]
    return torch_name(f"{module}.{leaf}")
