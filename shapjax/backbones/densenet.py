"""DenseNet 121, as torchvision lays it out."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from shapjax.backbones.filling import Layout, torch_name
from shapjax.backbones.layers import BatchNorm, Conv, max_pool, relu
from shapjax.backbones.network import Network, Opening, Stage
from shapjax.backbones.record import IMAGENET

GROWTH = 32
DEPTHS = (6, 12, 24, 16)


class DenseLayer(nnx.Module):
    """Adds 32 channels to what it is given."""

    FOLDS: ClassVar = {"conv1": "norm2"}

    def __init__(self, inputs: int, *, rngs: nnx.Rngs):
        self.norm1 = BatchNorm(inputs)
        self.conv1 = Conv(inputs, 4 * GROWTH, (1, 1), use_bias=False, rngs=rngs)
        self.norm2 = BatchNorm(4 * GROWTH)
        self.conv2 = Conv(4 * GROWTH, GROWTH, (3, 3), padding=1, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, h, w, C] to [B, h, w, C + 32]: the input, then the new channels."""
        y = self.conv1(relu(self.norm1(x)))
        y = self.conv2(relu(self.norm2(y)))
        return jnp.concatenate([x, y], axis=-1)


class Transition(nnx.Module):
    """Half the channels at half the resolution."""

    def __init__(self, inputs: int, *, rngs: nnx.Rngs):
        self.norm = BatchNorm(inputs)
        self.conv = Conv(inputs, inputs // 2, (1, 1), use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, h, w, C] to [B, h / 2, w / 2, C / 2]."""
        x = relu(self.norm(x))
        # Averaging and the pointwise convolution commute, so the cheaper one goes first.
        x = nnx.avg_pool(x, (2, 2), (2, 2))
        return self.conv(x)


class DenseNet121(Network):
    """DenseNet 121 up to the scores of the 1,000 ImageNet classes.

    Source: Huang et al. 2017 (arXiv 1608.06993).
    """

    FOLDS: ClassVar = {"conv0": "norm0"}

    def __init__(self, *, rngs: nnx.Rngs):
        self.conv0 = Conv(3, 64, (7, 7), 2, padding=3, use_bias=False, rngs=rngs)
        self.norm0 = BatchNorm(64)
        channels = 64
        for number, depth in enumerate(DEPTHS, 1):
            layers = {}
            for place in range(1, depth + 1):
                layers[f"denselayer{place}"] = DenseLayer(channels, rngs=rngs)
                channels += GROWTH
            setattr(self, f"denseblock{number}", nnx.Dict(layers))
            if number < len(DEPTHS):
                setattr(self, f"transition{number}", Transition(channels, rngs=rngs))
                channels //= 2
        self.norm5 = BatchNorm(channels)
        self.classifier = nnx.Linear(channels, 1000, rngs=rngs)

    def stages(self) -> list[Stage]:
        """The stem, the layers of the blocks, the transitions, ``norm5`` and its rectifier.

        The output of a layer holds that of the layer before it; its own channels come last.
        """
        stages: list[Stage] = [
            ("features.relu0", Opening(self.conv0, lambda x: relu(self.norm0(x)))),
            ("features.pool0", lambda x: max_pool(x, 3, 2, padding=1)),
        ]
        for number, depth in enumerate(DEPTHS, 1):
            block = getattr(self, f"denseblock{number}")
            for place in range(1, depth + 1):
                name = f"denselayer{place}"
                stages.append((f"features.denseblock{number}.{name}", block[name]))
            if number < len(DEPTHS):
                stages.append(
                    (f"features.transition{number}", getattr(self, f"transition{number}"))
                )
        # The last rectifier has no module in torchvision.
        return [*stages, ("features.norm5", self.norm5), ("features.relu5", relu)]

    def head(self, features: jax.Array) -> jax.Array:
        """Class scores before the softmax, float32 [B, 1000], from [B, h, w, 1024]."""
        return self.classifier(self.pool(features))


def layout(name: str, names: Collection[str]) -> Layout:
    """torchvision's state dict, in its present names or in those of its published file."""
    is_old = any(re.search(r"\.norm\.1\.", key) for key in names)

    def name_in_file(path: str) -> str:
        found = torch_name(path)
        if is_old:
            # The published file has "norm.1" where the network has "norm1".
            found = re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", found)
        return found if found.startswith("classifier") else f"features.{found}"

    return Layout(lambda: DenseNet121(rngs=nnx.Rngs(0)), IMAGENET, name_in_file)
