"""What a backbone is to the rest of the package: a preprocessing record and a pure network."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.core.checks import one_of
from shapjax.core.errors import ImageError

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
    """

    size: int
    resize: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: Literal["RGB", "BGR"] = "RGB"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Backbone:
    """A network with its weights and its preprocessing; a pytree whose leaves are the weights.

    Being a pytree it travels through ``jax.jit`` as an argument, so two backbones of one
    architecture share one compiled program and weights are never baked into it as constants.

    Attributes:
        name: registry name.
        preprocessing: how pictures become input.
        state: the network's arrays (an ``nnx.State`` as a pure pytree).
        graphdef: the network's structure (hashable, static).
    """

    name: str = dataclasses.field(metadata={"static": True})
    preprocessing: Preprocessing = dataclasses.field(metadata={"static": True})
    graphdef: Any = dataclasses.field(metadata={"static": True})
    state: Any

    def features(self, x: jax.Array) -> jax.Array:
        """The last feature map, the locations players live on.

        Args:
            x: normalised input, float32 [B, size, size, 3].

        Returns:
            float32 [B, h, w, C].
        """
        from flax import nnx

        return nnx.merge(self.graphdef, self.state).features(x)

    def head(self, features: jax.Array) -> jax.Array:
        """Whatever the network does after the feature map: class scores, or pooled features.

        Args:
            features: float32 [B, h, w, C].
        """
        from flax import nnx

        return nnx.merge(self.graphdef, self.state).head(features)

    def embed(self, x: jax.Array) -> jax.Array:
        """Global average of the feature map, float32 [B, C]: what similarity compares."""
        return self.features(x).mean(axis=(1, 2))

    def normalise(self, rgb: jax.Array) -> jax.Array:
        """Network input from RGB in [0, 1].

        Args:
            rgb: [..., 3], float.

        Returns:
            Same shape, float32, in the network's channel order and scale.
        """
        record = self.preprocessing
        x = (jnp.asarray(rgb, jnp.float32) - jnp.asarray(record.mean, jnp.float32)) / jnp.asarray(
            record.std, jnp.float32
        )
        return x[..., ::-1] if record.channels == "BGR" else x

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
            ImageError: the mode is not RGB.
        """
        from PIL import Image

        if image.mode != "RGB":
            raise ImageError(
                f"got a picture of mode {image.mode}, expected RGB; convert it first, "
                "for example with shapjax.load_image."
            )
        one_of(fit, ("crop", "stretch"), "fit")
        size = self.preprocessing.size
        if fit == "crop":
            scale = self.preprocessing.resize / min(image.size)
            width, height = (max(size, round(side * scale)) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BILINEAR)
            left, top = (width - size) // 2, (height - size) // 2
            image = image.crop((left, top, left + size, top + size))
        else:
            image = image.resize((size, size), Image.Resampling.BILINEAR)
        return np.asarray(image, np.float32) / np.float32(255)

    def preprocess(self, image: Image.Image, fit: Literal["crop", "stretch"] = "crop") -> jax.Array:
        """Network input from a picture: ``normalise(resize(image))``, float32 [size, size, 3]."""
        return self.normalise(jnp.asarray(self.resize(image, fit)))
