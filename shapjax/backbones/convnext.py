"""ConvNeXt-Tiny, as torchvision lays it out."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from shapjax.backbones.filling import Layout, torch_name
from shapjax.backbones.layers import Conv, gelu
from shapjax.backbones.network import Network, Opening, Stage
from shapjax.backbones.record import IMAGENET

DEPTHS = (3, 3, 9, 3)
WIDTHS = (96, 192, 384, 768)


class Block(nnx.Module):
    """A 7x7 depthwise convolution and a dense layer pair on every location, beside a shortcut."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.conv = Conv(
            channels, channels, (7, 7), padding=3, feature_group_count=channels, rngs=rngs
        )
        self.norm = _norm(channels, rngs)
        self.widen = nnx.Linear(channels, 4 * channels, rngs=rngs)
        self.narrow = nnx.Linear(4 * channels, channels, rngs=rngs)
        self.layer_scale = nnx.Param(jnp.ones((channels, 1, 1)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, h, w, C] to the same shape."""
        y = self.widen(self.norm(self.conv(x)))
        y = self.narrow(gelu(y))
        return x + y * self.layer_scale[:, 0, 0]


class Down(nnx.Module):
    """A normalisation, then a convolution to half the resolution."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.norm = _norm(inputs, rngs)
        self.conv = Conv(inputs, outputs, (2, 2), 2, padding="VALID", rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, h, w, inputs] to [B, h / 2, w / 2, outputs]."""
        return self.conv(self.norm(x))


class ConvNeXtTiny(Network):
    """ConvNeXt-Tiny up to the scores of the 1,000 ImageNet classes.

    Source: Liu et al. 2022 (arXiv 2201.03545). Stochastic depth does nothing in evaluation.
    """

    at_once: ClassVar[int] = 2

    def __init__(self, *, rngs: nnx.Rngs):
        self.stem = Conv(3, WIDTHS[0], (4, 4), 4, padding="VALID", rngs=rngs)
        self.stem_norm = _norm(WIDTHS[0], rngs)
        self.groups = nnx.List(
            nnx.List(Block(width, rngs=rngs) for _ in range(depth))
            for width, depth in zip(WIDTHS, DEPTHS, strict=True)
        )
        self.downs = nnx.List(
            Down(inputs, outputs, rngs=rngs) for inputs, outputs in itertools.pairwise(WIDTHS)
        )
        self.norm = _norm(WIDTHS[-1], rngs)
        self.classifier = nnx.Linear(WIDTHS[-1], 1000, rngs=rngs)

    def stages(self) -> list[Stage]:
        """``features.0`` (the stem), ``features.1.0`` and so on, torchvision's names."""
        stages: list[Stage] = [("features.0", Opening(self.stem, self.stem_norm))]
        for number, group in enumerate(self.groups):
            if number:
                stages.append((f"features.{2 * number}", self.downs[number - 1]))
            stages += [
                (f"features.{2 * number + 1}.{place}", block) for place, block in enumerate(group)
            ]
        return stages

    def head(self, features: jax.Array) -> jax.Array:
        """Class scores before the softmax, float32 [B, 1000], from [B, h, w, 768]."""
        return self.classifier(self.norm(self.pool(features)))


_PARTS = {"conv": "block.0", "norm": "block.2", "widen": "block.3", "narrow": "block.5"}
_ENDS = {
    "stem": "features.0.0",
    "stem_norm": "features.0.1",
    "norm": "classifier.0",
    "classifier": "classifier.2",
}


def layout(name: str, names: Collection[str]) -> Layout:
    """torchvision's state dict."""
    return Layout(lambda: ConvNeXtTiny(rngs=nnx.Rngs(0)), IMAGENET, _name_in_torchvision)


def _name_in_torchvision(path: str) -> str:
    match path.split("."):
        case ["groups", number, place, "layer_scale"]:
            return f"features.{2 * int(number) + 1}.{place}.layer_scale"
        case ["groups", number, place, part, leaf]:
            module = f"features.{2 * int(number) + 1}.{place}.{_PARTS[part]}"
        case ["downs", number, part, leaf]:
            module = f"features.{2 * int(number) + 2}.{'0' if part == 'norm' else '1'}"
        case [part, leaf]:
            module = _ENDS[part]
        case _:
            raise AssertionError(path)
    return torch_name(f"{module}.{leaf}")


def _norm(channels: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    # The fast variance, E[x^2] - E[x]^2, loses digits where the mean is large.
    return nnx.LayerNorm(channels, epsilon=1e-6, use_fast_variance=False, rngs=rngs)
