"""3x3 convolutions at stride 1 with 16 products where the definition has 36: Winograd's F(2, 3).

Source: Lavin and Gray 2016 (arXiv 1509.09308), section 4.1. In float32 the result is about as
exact as that of the definition, since the transforms only add, subtract and halve.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from shapjax.backbones.shares import by_shares

_TILE = 2
_TILES_AT_ONCE = 1024
"""Tiles whose transforms are held together: 16 x 1024 x 256 float32 are 16 MiB, about a cache."""

_SAVED = 6000
"""Products saved for every pair of channels from which on the kernel's transform is paid for."""


def pays(shape: tuple[int, ...], kernel: tuple[int, ...]) -> bool:
    """Whether ``convolve3x3`` is the faster way on a CPU, from the shapes.

    Its transforms are paid for by the products they save: those of the map by many channels, that
    of the kernel by many tiles, of which those that overhang a small map are wasted.
    """
    batch, height, width, channels = shape
    tiles = -(-height // _TILE) * -(-width // _TILE)
    saved = batch * (9 * height * width - 16 * tiles)
    return min(channels, kernel[3]) >= 128 and saved >= _SAVED


def convolve3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution with one ring of zeros around the map.

    Every 2x2 tile of the output comes from a 4x4 tile of the input: both and the kernel are
    transformed, the 16 entries of a transform never meet, and for each of them all tiles together
    are one matrix product over channels.

    Args:
        x: [B, h, w, C].
        kernel: [3, 3, C, D].

    Returns:
        [B, h, w, D].

    Cost: 16/36 of the multiplications. A few pictures go at a time, so that their transforms
    (four times the size of input and output) stay in the cache.
    """
    tiles = -(-x.shape[1] // _TILE) * -(-x.shape[2] // _TILE)
    weights = _both(_transform_kernel, [[kernel[i, j] for j in range(3)] for i in range(3)])
    weights = jnp.stack([entry for row in weights for entry in row])
    return by_shares(lambda some: _convolve(some, weights), _TILES_AT_ONCE // tiles, x)


def _convolve(x: jax.Array, weights: jax.Array) -> jax.Array:
    """The same, from the kernel's transform [16, C, D]."""
    batch, height, width, channels = x.shape
    rows, columns = (-(-side // _TILE) for side in (height, width))
    after = (_TILE * rows - height + 1, _TILE * columns - width + 1)
    x = jnp.pad(x, ((0, 0), (1, after[0]), (1, after[1]), (0, 0)))
    across = [slice(i, i + _TILE * rows - 1, _TILE) for i in range(4)]
    along = [slice(j, j + _TILE * columns - 1, _TILE) for j in range(4)]
    data = _both(_transform_data, [[x[:, i, j] for j in along] for i in across])
    data = jnp.stack([entry for row in data for entry in row])
    data = data.reshape(16, batch * rows * columns, channels)
    products = jnp.einsum("ktc,kcd->ktd", data, weights)
    products = products.reshape(4, 4, batch, rows, columns, -1)
    y = _both(_transform_products, [[products[i, j] for j in range(4)] for i in range(4)])
    y = jnp.stack([jnp.stack(row, axis=3) for row in y], axis=2)
    return y.reshape(batch, _TILE * rows, _TILE * columns, -1)[:, :height, :width]


def _both(transform, grid):
    """A transform applied to the columns of a grid of arrays, then to its rows."""
    columns = [transform(*column) for column in zip(*grid, strict=True)]
    return [transform(*row) for row in zip(*columns, strict=True)]


def _transform_data(a, b, c, d):
    return a - c, b + c, c - b, b - d


def _transform_kernel(a, b, c):
    ends, middle = (a + c) * 0.5, b * 0.5
    return a, ends + middle, ends - middle, c


def _transform_products(a, b, c, d):
    return a + b + c, b - c - d
