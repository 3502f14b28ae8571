"""Layers that the convolutional networks are made of, for inference; maps are [B, h, w, C]."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


class Conv(nnx.Conv):
    """``nnx.Conv`` whose pointwise kernels run as matrix products, several times faster on CPU."""

    def __call__(self, inputs: jax.Array, out_sharding: object = None) -> jax.Array:
        """Maps [B, h, w, inputs] to [B, h', w', outputs]."""
        if any(side != 1 for side in self.kernel_size) or self.feature_group_count != 1:
            return super().__call__(inputs)
        strides = self.strides if isinstance(self.strides, tuple) else (self.strides,) * 2
        x = inputs[:, :: strides[0], :: strides[1]]
        x = jnp.einsum("bhwi,io->bhwo", x, self.kernel[0, 0])
        return x if self.bias is None else x + self.bias[...]


class BatchNorm(nnx.Module):
    """Batch normalisation by stored statistics; ``fold`` merges it into the convolution before."""

    def __init__(self, channels: int, epsilon: float = 1e-5):
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.mean = nnx.BatchStat(jnp.zeros(channels))
        self.var = nnx.BatchStat(jnp.ones(channels))
        self.epsilon = epsilon

    def gain(self) -> jax.Array:
        """What a channel is multiplied by, float [C]."""
        return self.scale[...] / (self.var[...] + self.epsilon) ** 0.5

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., C] to the same shape."""
        return x * self.gain() + (self.bias[...] - self.mean[...] * self.gain())


class Affine(nnx.Module):
    """A factor and a summand for each channel: a normalisation that no convolution absorbs."""

    def __init__(self, scale: jax.Array, bias: jax.Array):
        self.scale = nnx.Param(scale)
        self.bias = nnx.Param(bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., C] to the same shape."""
        return x * self.scale[...] + self.bias[...]


class Identity(nnx.Module):
    """What remains of a normalisation that the convolution before it has absorbed."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """``x`` itself."""
        return x


def max_pool(x: jax.Array, side: int, stride: int, padding: int = 0) -> jax.Array:
    """Maxima of windows; what lies outside the map never counts."""
    margin = (padding, padding)
    window, strides = (1, side, side, 1), (1, stride, stride, 1)
    margins = [(0, 0), margin, margin, (0, 0)]
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, margins)


def average_pool_to(x: jax.Array, side: int) -> jax.Array:
    """Averages of ``side`` x ``side`` bins that cover the map, as torch's adaptive pooling.

    Bin i of n over a length L runs from floor(i L / n) to ceil((i + 1) L / n), so bins overlap
    where n does not divide L.
    """
    for axis in (1, 2):
        length = x.shape[axis]
        if length == side:
            continue
        bins = [(i * length // side, -(-(i + 1) * length // side)) for i in range(side)]
        parts = [jax.lax.slice_in_dim(x, *ends, axis=axis) for ends in bins]
        x = jnp.stack([part.mean(axis=axis) for part in parts], axis=axis)
    return x
