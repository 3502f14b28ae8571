"""GradCAM and VESM: weighted sums of the channels of a feature map, from one gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from shapjax.explainers.gradients import pooled_cosine
from shapjax.games.pooled import inverse_root


def gradcam(function: Callable[[jax.Array], Any], x: jax.Array, background: jax.Array) -> jax.Array:
    r"""Gradient-weighted activation map, signed.

    :math:`\sum_c \overline{\partial_c f}\,(x_{hwc} - b_{hwc})`, the bar being the mean over
    locations of the gradient at x. Where gradients do not depend on the location it is
    integrated gradients with one sample at the end of the path; elsewhere it breaks the dummy
    axiom.

    Args:
        function: differentiable, feature map [h, w, C] to a scalar.
        x: feature map, float [h, w, C].
        background: likewise; zeros in the original.

    Returns:
        Float [h, w], not rectified, so that it may be held against signed credit.

    Source: Selvaraju et al. 2017; Hamilton et al. 2022, proposition 4.2 and A.3.
    """
    weights = jax.grad(function)(x).mean(axis=(0, 1))
    return (x - background) @ weights


@jax.jit
def similarity_gradcam(x: jax.Array, background: jax.Array, other: jax.Array) -> jax.Array:
    """GradCAM of the cosine with another picture's pooled features [C], float [h, w]."""
    return gradcam(lambda y: pooled_cosine(y.mean(axis=(0, 1)), other), x, background)


@jax.jit
def vesm(x: jax.Array, other: jax.Array) -> jax.Array:
    r"""Similarity attention: an activation map of the channels in which two embeddings agree.

    With unit embeddings f and g the channels are weighted by :math:`w = 1 - |f - g|`, the score
    is :math:`w^\top f` (w held fixed), and the map is the rectified sum of the channels of x by
    the location mean of the score's gradient.

    Args:
        x: feature map of the explained picture, float [h, w, C].
        other: pooled features of the other picture, float [C].

    Returns:
        Float [h, w], non-negative. It has no background and is not efficient.

    Source: Zheng et al. 2020 (arXiv 2008.06035).
    """

    def unit(vector: jax.Array) -> jax.Array:
        return vector * inverse_root(vector @ vector)

    agreement = 1 - jnp.abs(unit(x.mean(axis=(0, 1))) - unit(other))
    weights = jax.grad(lambda y: agreement @ unit(y.mean(axis=(0, 1))))(x).mean(axis=(0, 1))
    return jax.nn.relu(x @ weights)
