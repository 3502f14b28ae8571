"""The first convolution of masked pictures as a sum over players, computed once for a game.

A convolution is linear, so that of a masked picture is the background's plus, for every player
shown, what its pixels change. A window holds few players: the sum at a location has few terms,
fewer than the convolution has products, and no masked picture is ever made.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from shapjax.backbones.layers import Margins
    from shapjax.backbones.network import Opening

MOST_TERMS = 8
"""Players in one window up to which the sum is used."""

LEAST_TERMS = 6
"""Terms that every sum has, so that pictures cut otherwise share programs."""

MOST_BYTES = 1 << 27
"""What the stem of one picture may hold; with many backgrounds it would need more."""


class Stem(NamedTuple):
    """What the first convolution gives for every coalition.

    Attributes:
        blank: the convolution of each background, float32 [K, h, w, C].
        changes: what each of the T players in a window changes, float32 [K, T, h, w, C].
        owners: who they are, int32 [T, h, w]; where a window has fewer, any, with changes of 0.
    """

    blank: jax.Array
    changes: jax.Array
    owners: jax.Array

    def opened(self, masks: jax.Array) -> jax.Array:
        """The convolution of the picture under masks [B, n or more], over the first background.

        Returns:
            float32 [B, h, w, C].
        """
        total = self.blank[:1]
        for owner, change in zip(self.owners, self.changes[0], strict=True):
            total = total + jnp.where(masks[:, owner][..., None], change[None], 0)
        # XLA on CPU would fuse the sum into what reads it and add it up again for each reader.
        return jax.lax.optimization_barrier(total)


def stem_of(
    opening: Opening, picture: jax.Array, backgrounds: jax.Array, labels: np.ndarray
) -> Stem | None:
    """The stem of a game on one picture; None where masking the pictures is better.

    Args:
        opening: how the network begins.
        picture: normalised network input, float32 [S, S, 3].
        backgrounds: likewise, float32 [K, S, S, 3].
        labels: player that owns each pixel, int [S, S].
    """
    layer = opening.convolution
    kernel, bias = layer.kernel[...], layer.bias
    plain = layer.kernel_dilation in (1, (1, 1)) and layer.input_dilation in (1, (1, 1))
    plain = plain and layer.padding not in ("CIRCULAR", "CAUSAL")
    if not plain or layer.feature_group_count > 1 or kernel.dtype != jnp.float32:
        return None
    strides, margins = opening.steps(picture.shape[:2])
    windows = _windows(np.asarray(labels), kernel.shape[:2], strides, margins)
    # A strip tells pixels from regions before all windows are sorted.
    if _owners(windows[:2]) is None:
        return None
    owners = _owners(windows)
    if owners is None:
        return None
    size = 4 * len(backgrounds) * (len(owners) + 1) * owners[0].size * kernel.shape[-1]
    if size > MOST_BYTES:
        return None
    bias = None if bias is None else bias[...]
    return _stem(kernel, bias, picture, backgrounds, windows, owners, strides, tuple(margins))


def _windows(
    labels: np.ndarray,
    sides: tuple[int, ...],
    strides: tuple[int, int],
    margins: Margins,
) -> np.ndarray:
    """Players of the pixels that each location sees, [h, w, kh, kw]; -1 off the picture."""
    padded = np.pad(labels.astype(np.int32), margins, constant_values=-1)
    seen = np.lib.stride_tricks.sliding_window_view(padded, sides)
    return seen[:: strides[0], :: strides[1]]


def _owners(windows: np.ndarray) -> np.ndarray | None:
    """Distinct players of each window, [T, h, w], then -1; None if some window has too many."""
    ordered = np.sort(windows.reshape(*windows.shape[:2], -1), axis=2)
    new = (ordered >= 0) & (np.diff(ordered, axis=2, prepend=-1) > 0)
    most = int(new.sum(axis=2).max())
    if most > MOST_TERMS:
        return None
    terms = LEAST_TERMS if most <= LEAST_TERMS else MOST_TERMS
    first = np.argsort(~new, axis=2, kind="stable")[..., :terms]
    ids = np.where(np.take_along_axis(new, first, 2), np.take_along_axis(ordered, first, 2), -1)
    missing = max(0, terms - ids.shape[2])
    return np.moveaxis(np.pad(ids, ((0, 0), (0, 0), (0, missing)), constant_values=-1), 2, 0)


@functools.partial(jax.jit, static_argnames=("strides", "margins"))
def _stem(
    kernel: jax.Array,
    bias: jax.Array | None,
    picture: jax.Array,
    backgrounds: jax.Array,
    windows: jax.Array,
    owners: jax.Array,
    strides: tuple[int, int],
    margins: tuple[tuple[int, int], ...],
) -> Stem:
    sides = kernel.shape[:2]
    # Patches have their channels first, then the pixels of the window.
    weights = kernel.transpose(2, 0, 1, 3).reshape(-1, kernel.shape[-1])

    def patches(x: jax.Array) -> jax.Array:
        found = jax.lax.conv_general_dilated_patches(
            x[None],
            sides,
            strides,
            margins,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=jax.lax.Precision.HIGHEST,
        )
        return found.reshape(*owners.shape[1:], 3, -1)

    def convolved(seen: jax.Array) -> jax.Array:
        flat = seen.reshape(*owners.shape[1:], -1)
        return jnp.einsum("hwi,io->hwo", flat, weights, precision="highest")

    pixels = windows.reshape(*owners.shape[1:], 1, -1)

    def one(background: jax.Array) -> tuple[jax.Array, jax.Array]:
        gained = patches(picture - background)
        changes = jax.lax.map(
            lambda owner: convolved(jnp.where(pixels == owner[..., None, None], gained, 0)), owners
        )
        return convolved(patches(background)), changes

    blank, changes = jax.lax.map(one, backgrounds)
    return Stem(blank if bias is None else blank + bias, changes, jnp.maximum(owners, 0))
