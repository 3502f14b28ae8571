r"""Integrated gradients: credit along the straight path from a background to a picture.

.. math:: \mathrm{IG}_i = (x_i - b_i) \int_0^1 \partial_i f(b + \alpha (x - b))\, d\alpha
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.backbones.record import Backbone
from shapjax.games.pooled import inverse_root

TOGETHER = 8
"""Pictures whose gradients are taken at a time."""


def legendre(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights on [0, 1]."""
    t, weight = np.polynomial.legendre.leggauss(nodes)
    return (t + 1) / 2, weight / 2


def integrated_gradients(
    function: Callable[..., Any], x: jax.Array, background: jax.Array, nodes: int, *arguments: Any
) -> jax.Array:
    """Integrated gradients of a differentiable function.

    Args:
        function: (point, *arguments) to a scalar.
        x: where the path ends, float [...].
        background: where it begins, same shape.
        nodes: Gauss-Legendre nodes; one gradient each; static.
        arguments: further arguments of the function.

    Returns:
        Same shape as ``x``; they sum to f(x) - f(background) up to the error of the quadrature.

    Source: Sundararajan et al. 2017.
    """
    t, weight = legendre(nodes)

    def weighted(node: tuple[jax.Array, jax.Array]) -> jax.Array:
        alpha, share = node
        return share * jax.grad(function)(background + alpha * (x - background), *arguments)

    steps = (jnp.asarray(t, x.dtype), jnp.asarray(weight, x.dtype))
    gradients = jax.lax.map(weighted, steps, batch_size=min(nodes, TOGETHER))
    return (x - background) * gradients.sum(axis=0)


@partial(jax.jit, static_argnames="nodes")
def pixel_gradients(
    backbone: Backbone, picture: jax.Array, background: jax.Array, other: jax.Array, *, nodes: int
) -> jax.Array:
    """Integrated gradients of cosine similarity on the pixels of one picture.

    Args:
        backbone: the network.
        picture: RGB in [0, 1], float32 [S, S, 3].
        background: likewise.
        other: pooled features of the other picture, [C].
        nodes: Gauss-Legendre nodes.

    Returns:
        Summed over channels, float32 [S, S], units of similarity.
    """
    found = integrated_gradients(_similarity, picture, background, nodes, backbone, other)
    return found.sum(axis=-1)


def _similarity(rgb: jax.Array, backbone: Backbone, other: jax.Array) -> jax.Array:
    embedding = backbone.embed(backbone.normalise(rgb)[None])[0]
    return pooled_cosine(embedding, other)


def pooled_cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    """Cosine of two vectors, 0 where one vanishes."""
    return (a @ b) * inverse_root(a @ a) * inverse_root(b @ b)
