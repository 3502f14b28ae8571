"""VGG 11 and 16, and 11 with batch normalisation, as torchvision lays them out."""

from __future__ import annotations

from collections.abc import Collection

import jax
from flax import nnx

from shapjax.backbones.filling import Layout, torch_name
from shapjax.backbones.layers import BatchNorm, Conv, average_pool_to, max_pool, relu
from shapjax.backbones.network import Network, Opening, Stage
from shapjax.backbones.record import IMAGENET

_11 = ((64,), (128,), (256, 256), (512, 512), (512, 512))
_16 = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)
WIDTHS = {"vgg11": _11, "vgg11_bn": _11, "vgg16": _16}
HIDDEN = 4096
"""Width of the dense layers between the map and the scores."""


class VGG(Network):
    """Rectified 3x3 convolutions in five groups that end in 2x2 maxima, then three dense layers.

    Layers are numbered as in torchvision, where rectifiers and poolings count as well.

    Source: Simonyan and Zisserman 2015 (arXiv 1409.1556). Dropout does nothing in evaluation.
    """

    def __init__(self, widths: tuple[tuple[int, ...], ...], norm: bool, *, rngs: nnx.Rngs):
        layers: dict[str, nnx.Module] = {}
        index, channels = 0, 3
        poolings = []
        for group in widths:
            for width in group:
                layers[str(index)] = Conv(channels, width, (3, 3), padding=1, rngs=rngs)
                if norm:
                    layers[str(index + 1)] = BatchNorm(width)
                index += 3 if norm else 2
                channels = width
            poolings.append(index)
            index += 1
        self.layers = nnx.Dict(layers)
        self.norm = norm
        self.poolings = tuple(poolings)
        sizes = (7 * 7 * channels, HIDDEN, HIDDEN, 1000)
        self.classifier = nnx.Dict(
            {
                str(3 * place): nnx.Linear(sizes[place], sizes[place + 1], rngs=rngs)
                for place in range(3)
            }
        )

    @property
    def FOLDS(self) -> dict[str, str]:
        """Each normalisation by its convolution."""
        return {f"layers.{i}": f"layers.{i + 1}" for i in self._convolutions() if self.norm}

    def _convolutions(self) -> list[int]:
        return sorted(int(key) for key, layer in self.layers.items() if isinstance(layer, Conv))

    def _rectified(self, index: int) -> Opening:
        def rest(x: jax.Array) -> jax.Array:
            return relu(self.layers[str(index + 1)](x) if self.norm else x)

        convolution = self.layers[str(index)]
        assert isinstance(convolution, Conv)
        return Opening(convolution, rest)

    def stages(self) -> list[Stage]:
        """The rectified convolutions and the poolings; the last pooling gives [B, 7, 7, 512]."""
        stages: dict[int, Stage] = {}
        for index in self._convolutions():
            last = index + 2 if self.norm else index + 1
            stages[index] = f"features.{last}", self._rectified(index)
        for index in self.poolings:
            stages[index] = f"features.{index}", lambda x: max_pool(x, 2, 2)
        return [stages[index] for index in sorted(stages)]

    def head(self, features: jax.Array) -> jax.Array:
        """Class scores before the softmax, float32 [B, 1000], from [B, h, w, 512]."""
        x = average_pool_to(features, 7)
        # The dense layer was trained on channels first.
        x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
        for place in ("0", "3"):
            x = relu(self.classifier[place](x))
        return self.classifier["6"](x)


def layout(name: str, names: Collection[str]) -> Layout:
    """torchvision's state dict."""
    return Layout(
        lambda: VGG(WIDTHS[name], name.endswith("_bn"), rngs=nnx.Rngs(0)),
        IMAGENET,
        lambda path: torch_name(path).replace("layers.", "features.", 1),
    )
