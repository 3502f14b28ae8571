"""ResNet 18, 50 and 101, and the two ResNet-50s that were trained to compare pictures."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from shapjax.backbones.filling import Layout, torch_name
from shapjax.backbones.layers import BatchNorm, Conv, max_pool, relu
from shapjax.backbones.network import Network, Opening, Stage
from shapjax.backbones.record import IMAGENET

DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
CUB_DIMENSIONS = 128


class Basic(nnx.Module):
    """Two 3x3 convolutions beside a shortcut."""

    EXPANSION = 1
    FOLDS: ClassVar = {"conv1": "bn1", "conv2": "bn2", "downsample.0": "downsample.1"}

    def __init__(self, inputs: int, width: int, stride: int, *, rngs: nnx.Rngs):
        self.conv1 = _conv(inputs, width, 3, stride, rngs)
        self.bn1 = BatchNorm(width)
        self.conv2 = _conv(width, width, 3, 1, rngs)
        self.bn2 = BatchNorm(width)
        self.downsample = _shortcut(inputs, width, stride, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, h, w, inputs] to [B, h / stride, w / stride, width], non-negative."""
        y = relu(self.bn1(self.conv1(x)))
        return relu(self.bn2(self.conv2(y)) + _shorten(self.downsample, x))


class Bottleneck(nnx.Module):
    """A 3x3 convolution, which has the stride, between two 1x1 ones, beside a shortcut."""

    EXPANSION = 4
    FOLDS: ClassVar = {**Basic.FOLDS, "conv3": "bn3"}

    def __init__(self, inputs: int, width: int, stride: int, *, rngs: nnx.Rngs):
        self.conv1 = _conv(inputs, width, 1, 1, rngs)
        self.bn1 = BatchNorm(width)
        self.conv2 = _conv(width, width, 3, stride, rngs)
        self.bn2 = BatchNorm(width)
        self.conv3 = _conv(width, 4 * width, 1, 1, rngs)
        self.bn3 = BatchNorm(4 * width)
        self.downsample = _shortcut(inputs, 4 * width, stride, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, h, w, inputs] to [B, h / stride, w / stride, 4 width], non-negative."""
        y = relu(self.bn1(self.conv1(x)))
        y = relu(self.bn2(self.conv2(y)))
        return relu(self.bn3(self.conv3(y)) + _shorten(self.downsample, x))


class ResNet(Network):
    """A ResNet up to the scores of the 1,000 ImageNet classes.

    Source: He et al. 2016 (arXiv 1512.03385), with the stride on the 3x3 convolution of a block
    as in torchvision.
    """

    FOLDS: ClassVar = {"conv1": "bn1"}

    def __init__(
        self, block: type[Basic] | type[Bottleneck], depths: Sequence[int], *, rngs: nnx.Rngs
    ):
        self.conv1 = _conv(3, 64, 7, 2, rngs)
        self.bn1 = BatchNorm(64)
        channels = 64
        for index, depth in enumerate(depths):
            width = 64 << index
            blocks = []
            for place in range(depth):
                stride = 2 if place == 0 and index > 0 else 1
                blocks.append(block(channels, width, stride, rngs=rngs))
                channels = block.EXPANSION * width
            setattr(self, f"layer{index + 1}", nnx.List(blocks))
        self._top(channels, rngs)

    def _top(self, channels: int, rngs: nnx.Rngs) -> None:
        self.fc = nnx.Linear(channels, 1000, rngs=rngs)

    def stages(self) -> list[Stage]:
        """``relu`` (the stem), ``maxpool``, then the blocks: ``layer1.0`` and so on."""
        stages: list[Stage] = [
            ("relu", Opening(self.conv1, lambda x: relu(self.bn1(x)))),
            ("maxpool", lambda x: max_pool(x, 3, 2, padding=1)),
        ]
        for layer in ("layer1", "layer2", "layer3", "layer4"):
            blocks = getattr(self, layer)
            stages += [(f"{layer}.{place}", block) for place, block in enumerate(blocks)]
        return stages

    def head(self, features: jax.Array) -> jax.Array:
        """Class scores before the softmax, float32 [B, 1000], from [B, h, w, C]."""
        return self.fc(self.pool(features))


class MoCo(ResNet):
    """ResNet-50 trained by momentum contrast.

    Its embedding is the pooled map, which the authors carry over to other tasks; the head is the
    projection that the contrastive loss was taken on.

    Source: Chen et al. 2020 (arXiv 2003.04297), facebookresearch/moco.
    """

    def _top(self, channels: int, rngs: nnx.Rngs) -> None:
        hidden = nnx.Linear(channels, channels, rngs=rngs)
        out = nnx.Linear(channels, 128, rngs=rngs)
        # The rectifier between them is number 1 and has no weights.
        self.fc = nnx.Dict({"0": hidden, "2": out})

    def head(self, features: jax.Array) -> jax.Array:
        """The projection before it is normalised, float32 [B, 128], from [B, h, w, 2048]."""
        hidden = self.fc["0"](self.pool(features))
        return self.fc["2"](relu(hidden))


class MarginResNet(ResNet):
    """ResNet-50 trained on birds by the margin loss; embeddings are 128-d and of norm one.

    The projection is linear, so it commutes with the average over locations: it runs on the map,
    and players live on the 128 channels whose average the similarity compares.

    Source: Roth et al. 2020 (arXiv 2002.08473), ``resnet50_frozen_normalize``.
    """

    def _top(self, channels: int, rngs: nnx.Rngs) -> None:
        self.last_linear = nnx.Linear(channels, CUB_DIMENSIONS, rngs=rngs)

    def stages(self) -> list[Stage]:
        """Those of a ResNet, then ``last_linear``, the projection of every location."""
        return [*super().stages(), ("last_linear", self.last_linear)]

    def head(self, features: jax.Array) -> jax.Array:
        """The embedding, float32 [B, 128] of Euclidean norm one, from [B, h, w, 128]."""
        pooled = super().pool(features)
        norms = jnp.sqrt((pooled * pooled).sum(axis=1, keepdims=True))
        # The floor is the one of torch's normalize.
        return pooled / jnp.maximum(norms, 1e-12)

    def pool(self, features: jax.Array) -> jax.Array:
        """What the authors compare, float32 [B, 128] of Euclidean norm one."""
        return self.head(features)


def layout(name: str, names: Collection[str]) -> Layout:
    """How a state dict becomes one of these networks."""
    if name == "moco_v2":
        return Layout(
            lambda: MoCo(Bottleneck, DEPTHS["resnet50"], rngs=nnx.Rngs(0)),
            IMAGENET,
            lambda path: f"encoder_q.{torch_name(path)}",
            # The momentum encoder and its queue of negatives serve training only.
            ignored=("encoder_k.", "queue"),
        )
    if name == "resnet50_cub_margin":
        prefix = "model." if any(key.startswith("model.") for key in names) else ""
        return Layout(
            lambda: MarginResNet(Bottleneck, DEPTHS["resnet50"], rngs=nnx.Rngs(0)),
            IMAGENET,
            lambda path: prefix + torch_name(path),
            # The authors' module lists its four layers twice.
            ignored=("layer_blocks.",),
        )
    block = Basic if name == "resnet18" else Bottleneck
    return Layout(
        lambda: ResNet(block, DEPTHS[name], rngs=nnx.Rngs(0)),
        IMAGENET,
    )


def _conv(inputs: int, outputs: int, side: int, stride: int, rngs: nnx.Rngs) -> Conv:
    return Conv(
        inputs,
        outputs,
        (side, side),
        stride,
        padding=side // 2,
        use_bias=False,
        rngs=rngs,
    )


def _shortcut(inputs: int, outputs: int, stride: int, rngs: nnx.Rngs) -> nnx.List | None:
    if stride == 1 and inputs == outputs:
        return None
    return nnx.List([_conv(inputs, outputs, 1, stride, rngs), BatchNorm(outputs)])


def _shorten(downsample: nnx.List | None, x: jax.Array) -> jax.Array:
    if downsample is None:
        return x
    convolution, norm = downsample
    return norm(convolution(x))
