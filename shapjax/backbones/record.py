"""What a backbone is to the rest of the package: a preprocessing record and a pure network."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.core.checks import one_of
from shapjax.core.errors import ImageError, ShapjaxError

if TYPE_CHECKING:
    from PIL import Image


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How a publisher turns a picture into network input.

    Attributes:
        size: side of the square input, pixels.
        resize: length of the shorter side before the centre crop, pixels.
        mean: subtracted from each channel, in units of [0, 1] RGB.
        std: each channel is divided by it, in units of [0, 1] RGB.
        channels: order of the channels that the network expects.
        resampling: how the publisher resizes before the crop.
    """

    size: int
    resize: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: Literal["RGB", "BGR"] = "RGB"
    resampling: Literal["bilinear", "bicubic"] = "bilinear"

    def pixels(self, image: Image.Image, fit: Literal["crop", "stretch"] = "crop") -> np.ndarray:
        """RGB in [0, 1] at the input size, float32 [size, size, 3]; see ``Backbone.resize``."""
        from PIL import Image

        if not isinstance(image, Image.Image) or image.mode != "RGB":
            picture = isinstance(image, Image.Image)
            came = f"picture of mode {image.mode}" if picture else type(image).__name__
            raise ImageError(
                f"got a {came}, expected a PIL image in RGB; make it one with shapjax.load_image."
            )
        one_of(fit, ("crop", "stretch"), "fit")
        size = self.size
        if fit == "crop":
            # The rounding is torchvision's, so that its pictures come out to the pixel.
            short = min(image.size)
            width, height = (max(size, self.resize * side // short) for side in image.size)
            image = image.resize((width, height), Image.Resampling[self.resampling.upper()])
            left, top = round((width - size) / 2), round((height - size) / 2)
            image = image.crop((left, top, left + size, top + size))
        else:
            image = image.resize((size, size), Image.Resampling.BILINEAR)
        return np.asarray(image, np.float32) / np.float32(255)

    def normalise(self, rgb: jax.Array) -> jax.Array:
        """Network input from RGB in [0, 1], [..., 3]; see ``Backbone.normalise``."""
        mean, std = (jnp.asarray(part, jnp.float32) for part in (self.mean, self.std))
        x = (jnp.asarray(rgb, jnp.float32) - mean) / std
        return x[..., ::-1] if self.channels == "BGR" else x

    def beside(self, folder: Path) -> Preprocessing:
        """The same with the vocabulary that lies in a folder, where texts are read."""
        return self

    def prepare(self, image: Image.Image, fit: Literal["crop", "stretch"] = "crop") -> jax.Array:
        """Network input from a picture, float32 [size, size, 3]."""
        return self.normalise(jnp.asarray(self.pixels(image, fit)))


IMAGENET = Preprocessing(
    size=224, resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
"""RGB in [0, 1] less ImageNet's mean over its standard deviation: most of torchvision's weights."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Backbone:
    """A network with its weights and its preprocessing; a pytree whose leaves are the weights.

    Being a pytree it travels through ``jax.jit`` as an argument, so two backbones of one
    architecture share one compiled program and weights are never baked into it as constants.

    Attributes:
        name: registry name.
        preprocessing: how pictures (or texts, where the network reads those) become input.
        state: the network's arrays (an ``nnx.State`` as a pure pytree).
        graphdef: the network's structure (hashable, static).
    """

    name: str = dataclasses.field(metadata={"static": True})
    preprocessing: Any = dataclasses.field(metadata={"static": True})
    graphdef: Any = dataclasses.field(metadata={"static": True})
    state: Any

    @property
    def network(self) -> Any:
        """The network itself, an ``nnx`` module of ``shapjax.backbones.network.Network``."""
        from flax import nnx

        return nnx.merge(self.graphdef, self.state)

    @property
    def text(self) -> Backbone:
        """The tower that embeds texts where this one embeds pictures (CLIP).

        Raises:
            ShapjaxError: the network has no second tower.
        """
        from flax import nnx

        if not hasattr(self.preprocessing, "text"):
            raise ShapjaxError(
                f"{self.name} has no tower for texts; give a backbone that has one, such as "
                "clip_vit_b_32."
            )
        parts = nnx.split(self.network.text)
        return Backbone(f"{self.name} (text)", self.preprocessing.text, *parts)

    def features(self, x: jax.Array) -> jax.Array:
        """The last feature map or the last tokens: what players live on.

        Args:
            x: normalised input, float32 [B, size, size, 3] for pictures.

        Returns:
            float32 [B, h, w, C], a map, or [B, tokens, C].
        """
        return self.network.features(x)

    def maps(self, x: jax.Array, inner: bool = False) -> OrderedDict[str, jax.Array]:
        """The output of every stage of the network by name, in order; the last is ``features``.

        A stage is a block, such as a residual one, under its publisher's name.

        Args:
            x: as in ``features``.
            inner: add what every layer inside a stage gives, such as ``"layer1.0.conv2"``, before
                the stage and under the name that its weights have in ``state``. A convolution
                that has absorbed a normalisation gives what the normalisation would.
        """
        if not inner:
            return self.network.maps(x)
        from shapjax.backbones.inner import inner_maps

        return inner_maps(self.network, x)

    def head(self, features: jax.Array) -> jax.Array:
        """Whatever the publisher's network does after the features: class scores, for most.

        Args:
            features: as ``features`` gives them.

        Raises:
            ShapjaxError: those of CLIP's texts do not tell where a text ends; see ``embed``.
        """
        return self.network.head(features)

    def embed(self, x: jax.Array) -> jax.Array:
        """One vector for each input, float32 [B, C]: what similarity compares.

        The global average of the feature map, unless the publisher compares something else.
        """
        return self.network.embed(x)

    def normalise(self, rgb: jax.Array) -> jax.Array:
        """Network input from RGB in [0, 1].

        Args:
            rgb: [..., 3], float.

        Returns:
            Same shape, float32, in the network's channel order and scale.
        """
        return self.preprocessing.normalise(rgb)

    def resize(self, image: Image.Image, fit: Literal["crop", "stretch"] = "crop") -> np.ndarray:
        """RGB in [0, 1] at the network's input size.

        Args:
            image: an RGB picture.
            fit: ``"crop"``, the publisher's protocol (shorter side to ``resize``, centre crop);
                ``"stretch"``, the whole picture bilinearly to a square, the protocol of
                Hamilton et al. 2022 (A.2), so that an explanation covers all of it.

        Returns:
            float32 [size, size, 3].

        Raises:
            ImageError: it is no PIL image, or its mode is not RGB.
        """
        return self.preprocessing.pixels(image, fit)

    def preprocess(self, source: Any, *settings: Any, **named: Any) -> jax.Array:
        """Network input from a picture (or a text): the ``prepare`` of ``preprocessing``.

        For pictures ``normalise(resize(image, fit))``, float32 [size, size, 3].
        """
        return self.preprocessing.prepare(source, *settings, **named)
