"""The embedded default backbone: a small local convolutional network that ships with its weights.

It was trained by ``python -m shapjax.training.train_embedded``; what that run measured is in
``shapjax/training/embedded_log.md``.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from shapjax.backbones.record import Backbone, Preprocessing
from shapjax.core.errors import WeightsError

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
        return nnx.relu(x + self.norm(self.conv(x)))


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
        return nnx.relu(self.norm(self.conv(x)))


class ShapjaxTiny(nnx.Module):
    """A local network: 8 x 8 locations of 128 channels, each seeing 60 x 60 pixels.

    Every location is centred on its 16 x 16 cell of the 128 x 128 input. The last feature map
    leaves a normalisation over channels and a rectifier, so its entries are non-negative and all
    locations have norms of one order, which lets a plain dot product compare them.
    """

    def __init__(self, *, rngs: nnx.Rngs):
        self.stem = Down(3, 24, side=8, stride=4, rngs=rngs)
        self.block4 = Residual(24, 3, rngs=rngs)
        self.down8 = Down(24, 64, side=2, stride=2, rngs=rngs)
        self.block8a = Residual(64, 3, rngs=rngs)
        self.block8b = Residual(64, 3, rngs=rngs)
        self.down16 = Down(64, 128, side=2, stride=2, rngs=rngs)
        self.block16 = Residual(128, 1, rngs=rngs)
        self.out = Down(128, 128, side=1, stride=1, rngs=rngs)

    def features(self, x: jax.Array) -> jax.Array:
        """The last feature map.

        Args:
            x: normalised input, float32 [B, 128, 128, 3].

        Returns:
            float32 [B, 8, 8, 128], non-negative.
        """
        x = self.block4(self.stem(x))
        x = self.block8b(self.block8a(self.down8(x)))
        return self.out(self.block16(self.down16(x)))

    def head(self, features: jax.Array) -> jax.Array:
        """The pooled features: this network classifies nothing, it only compares.

        Args:
            features: float32 [B, h, w, 128].

        Returns:
            float32 [B, 128].
        """
        return features.mean(axis=(1, 2))


def flat_names(state: nnx.State) -> dict[str, nnx.Variable]:
    """The variables of a state under their dotted paths, such as ``"stem.conv.kernel"``."""
    return {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(state)}


def save_weights(path: str | Path, state: nnx.State) -> None:
    """Writes a state as a compressed ``.npz`` of float16 arrays under their dotted paths."""
    arrays = {name: np.asarray(leaf[...], np.float16) for name, leaf in flat_names(state).items()}
    np.savez_compressed(path, allow_pickle=False, **arrays)


def load_embedded(path: str | Path = EMBEDDED) -> Backbone:
    """The embedded backbone, without running the network's initialiser.

    Args:
        path: an ``.npz`` file written by :func:`save_weights`.

    Raises:
        WeightsError: the file cannot be read, or its names or shapes do not fit the network.
    """
    graphdef, state = nnx.split(nnx.eval_shape(lambda: ShapjaxTiny(rngs=nnx.Rngs(0))))
    _fill(state, _read(path), path)
    return Backbone(NAME, PREPROCESSING, graphdef, state)


def _read(path: str | Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise WeightsError(
            f"got {path}, which cannot be read as weights ({error}), expected an .npz file of "
            "arrays; reinstall shapjax or train it again with shapjax.training.train_embedded."
        ) from error


def _fill(state: nnx.State, arrays: Mapping[str, np.ndarray], path: str | Path) -> None:
    wanted = flat_names(state)
    if set(arrays) != set(wanted):
        raise WeightsError(
            f"got names in {path} that differ from the network's "
            f"({sorted(set(arrays) ^ set(wanted))}), expected the same names; "
            f"use a file made for {NAME}."
        )
    for name, leaf in wanted.items():
        if arrays[name].shape != leaf.shape:
            raise WeightsError(
                f"got {name} of shape {arrays[name].shape} in {path}, expected {leaf.shape}; "
                f"use a file made for {NAME}."
            )
        leaf.set_value(jnp.asarray(arrays[name], jnp.float32))
