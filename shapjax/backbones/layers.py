"""Layers that the convolutional networks are made of, for inference; maps are [B, h, w, C]."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from shapjax.backbones import winograd

Margins = Sequence[tuple[int, int]]
"""Rows of zeros above and below a map, then columns before and after it."""

_ORDER = ("NHWC", "HWIO", "NHWC")

_WIDE = 128
"""Channels from which on a bfloat16 convolution runs as one matrix product for every shift."""


def relu(x: jax.Array) -> jax.Array:
    """``nnx.relu``, its derivative too, but NaN stays NaN.

    Where XLA on CPU (jaxlib 0.10) fuses a maximum with a sum, NaN and 0 have the maximum 0: a
    network broken in its first layer would give numbers.
    """
    return jnp.where(x <= 0, 0, x)


def relu6(x: jax.Array) -> jax.Array:
    """``nnx.relu6``, likewise."""
    return jnp.where(x >= 6, 6, relu(x))


def gelu(x: jax.Array) -> jax.Array:
    """x Phi(x) by erf as in torch.

    ``jax.nn.gelu`` takes the complement, at twice the time, for tails that float32 sums do not see.
    """
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


class Conv(nnx.Conv):
    """``nnx.Conv``, faster on CPU where there is a faster way.

    Pointwise kernels run as matrix products; on CPU 3x3 kernels run by Winograd's algorithm where
    the shapes make it pay, and the others in a form that XLA gives to its parallel kernel.
    """

    def __call__(self, inputs: jax.Array, out_sharding: object = None) -> jax.Array:
        """Maps [B, h, w, inputs] to [B, h', w', outputs]."""
        strides = _pair(self.strides)
        depthwise = self.kernel.shape[-2:] == (1, self.feature_group_count)
        if self.feature_group_count != 1 and not depthwise:
            return super().__call__(inputs)
        if self.kernel_size == (1, 1) and not depthwise:
            x = inputs[:, :: strides[0], :: strides[1]]
            y = _product(x, self.kernel[0, 0]).astype(x.dtype)
        elif not isinstance(self.padding, str | int):
            return super().__call__(inputs)
        elif depthwise:
            y = _by_channel(inputs, self.kernel[...], strides, self.padding)
        elif inputs.dtype in (jnp.float32, jnp.bfloat16):
            y = _convolve(inputs, self.kernel[...], strides, self.padding)
        else:
            return super().__call__(inputs)
        return y if self.bias is None else y + self.bias[...]


def _pair(strides: Any) -> tuple[int, int]:
    rows, columns = strides if isinstance(strides, Sequence) else (strides, strides)
    return rows, columns


def _convolve(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: str | int
) -> jax.Array:
    """The convolution, by whichever way is fastest where it runs."""
    margins = _margins(x.shape[1:3], kernel.shape[:2], strides, padding)
    plain = functools.partial(_plain, strides=strides, margins=margins)
    if x.dtype == jnp.bfloat16:
        if min(kernel.shape[2:]) < _WIDE:
            return plain(x, kernel)
        shifted = functools.partial(_shifted, strides=strides, margins=margins, product=_product)
        return jax.lax.platform_dependent(x, kernel, cpu=shifted, default=plain)
    kept = strides == (1, 1) and tuple(margins) == ((1, 1), (1, 1))
    if kept and kernel.shape[:2] == (3, 3) and winograd.pays(x.shape, kernel.shape):
        return jax.lax.platform_dependent(x, kernel, cpu=winograd.convolve3x3, default=plain)
    spread = functools.partial(_spread, strides=strides, margins=margins)
    return jax.lax.platform_dependent(x, kernel, cpu=spread, default=plain)


def _by_channel(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: str | int
) -> jax.Array:
    """The convolution of every channel by itself, by whichever way is fastest where it runs."""
    margins = _margins(x.shape[1:3], kernel.shape[:2], strides, padding)
    groups = x.shape[-1]
    plain = functools.partial(_plain, strides=strides, margins=margins, groups=groups)
    shifted = functools.partial(_shifted, strides=strides, margins=margins, product=_scaled)
    return jax.lax.platform_dependent(x, kernel, cpu=shifted, default=plain)


def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Every location's channels times a matrix [C, D]; bfloat16 gives float32.

    XLA on CPU (jaxlib 0.10) has a kernel for bfloat16 summed in float32, up to three times as fast
    as what it does for a bfloat16 result, which is to convert both factors to float32.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.einsum("bhwi,io->bhwo", x, kernel, preferred_element_type=wide)


def _scaled(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Every channel times its entry of a depthwise kernel's [1, C]."""
    return x * kernel[0]


def _margins(
    shape: Sequence[int], sides: Sequence[int], strides: tuple[int, int], padding: str | int
) -> Margins:
    if isinstance(padding, str):
        return jax.lax.padtype_to_pads(shape, sides, strides, padding)
    return ((padding, padding),) * 2


def steps_of(convolution: nnx.Conv, shape: Sequence[int]) -> tuple[tuple[int, int], Margins]:
    """Strides of a convolution over maps of height and width ``shape``, and their margins."""
    strides, padding = _pair(convolution.strides), convolution.padding
    if not isinstance(padding, str | int):
        return strides, [_pair(sides) for sides in padding]
    return strides, _margins(shape, convolution.kernel_size, strides, padding)


def _plain(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
    margins: Margins,
    groups: int = 1,
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, strides, margins, dimension_numbers=_ORDER, feature_group_count=groups
    )


def _shifted(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
    margins: Margins,
    product: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    """A convolution as a sum of shifted maps, each times one entry [C or 1, D] of the kernel.

    XLA on CPU (jaxlib 0.10) has no kernel of its own for depthwise convolutions and takes 4 to 60
    times longer; the sum becomes one loop over the map, whose innermost axis, the channels, is
    contiguous. Nor has it one for bfloat16, where the terms are matrix products.
    """
    x = jnp.pad(x, ((0, 0), *margins, (0, 0)))
    sides = kernel.shape[:2]
    last = [
        (length - side) // step * step
        for length, side, step in zip(x.shape[1:3], sides, strides, strict=True)
    ]
    total: jax.Array | float = 0.0
    for i in range(sides[0]):
        for j in range(sides[1]):
            part = x[:, i : i + last[0] + 1 : strides[0], j : j + last[1] + 1 : strides[1]]
            total = total + product(part, kernel[i, j])
    # Fused into a normalisation, the sum would be added up again for each of its passes.
    return jax.lax.optimization_barrier(jnp.asarray(total, x.dtype))


def _spread(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], margins: Margins
) -> jax.Array:
    """The same with zeros between the rows of map and kernel, twice the step and the margin.

    XLA on CPU (jaxlib 0.10) gives plain convolutions to a library that runs large maps on one
    thread; those of spread maps stay with Eigen's kernel, which uses them all and never reads the
    zeros.
    """
    above, below = margins[0]
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (2 * strides[0], strides[1]),
        ((2 * above, 2 * below), margins[1]),
        lhs_dilation=(2, 1),
        rhs_dilation=(2, 1),
        dimension_numbers=_ORDER,
    )


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
