"""The contrastive loss of SimCLR, for whole pictures and for corresponding locations."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def nt_xent(
    first: jax.Array, second: jax.Array, temperature: float, valid: jax.Array | None = None
) -> jax.Array:
    r"""Normalised temperature-scaled cross entropy over N positive pairs.

    With the 2N vectors z (the N of ``first``, then the N of ``second``), s_ij their cosine and
    p(i) the partner of i,

        loss = mean_i  -log( exp(s_{i p(i)} / t) / sum_{k != i} exp(s_ik / t) ).

    Source: Chen, Kornblith, Norouzi & Hinton 2020, "A Simple Framework for Contrastive Learning
    of Visual Representations", equation 1 (averaged as in their algorithm 1).

    Args:
        first: float [N, D].
        second: float [N, D]; row i is the positive of row i of ``first``.
        temperature: t > 0.
        valid: bool [N]; a pair marked False is neither an anchor nor a negative. All are valid
            where it is None.

    Returns:
        A scalar; 0 where no pair is valid.
    """
    return _contrast(unit(first), unit(second), temperature, valid)


def _contrast(
    first: jax.Array, second: jax.Array, temperature: float, valid: jax.Array | None
) -> jax.Array:
    """Equation 1 on vectors already scaled, so that s_ij is their dot product."""
    n = first.shape[0]
    valid = jnp.ones(n, bool) if valid is None else valid
    both = jnp.concatenate([valid, valid])
    z = jnp.concatenate([first, second])
    candidate = both[None, :] & ~jnp.eye(2 * n, dtype=bool)
    # A finite stand-in for minus infinity, so that a row without candidates has no NaN gradient.
    similarity = jnp.where(candidate, z @ z.T / temperature, -1e9)
    positive = jnp.tile((first * second).sum(axis=1) / temperature, 2)
    losses = jax.nn.logsumexp(similarity, axis=1) - positive
    return jnp.where(both, losses, 0).sum() / jnp.maximum(both.sum(), 1)


def unit(x: jax.Array) -> jax.Array:
    """Rows scaled to unit length, [..., D]; a zero row stays zero."""
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(axis=-1, keepdims=True), 1e-12))


def dense_nt_xent(
    first: jax.Array,
    second: jax.Array,
    match: jax.Array,
    valid: jax.Array,
    temperature: float,
) -> jax.Array:
    """NT-Xent between corresponding locations; the negatives are the picture's other locations.

    Each view's locations are scaled to a mean square length of 1 instead of each to length 1,
    because correspondence is read off plain dot products, where a location's length counts.

    Args:
        first: feature maps of the first views, float [B, h, w, D].
        second: feature maps of the second views, float [B, h, w, D].
        match: where each location of the second view lies in the first, [B, h, w, 2] as
            (row, column) in cells; integers are cell centres.
        valid: whether it is visible there, bool [B, h, w].
        temperature: > 0.

    Returns:
        A scalar, the mean over the B pairs.
    """
    count, h, w, channels = second.shape
    shape = (count, h * w, channels)
    loss = jax.vmap(_contrast, in_axes=(0, 0, None, 0))(
        _evened(sample(first, match).reshape(shape)),
        _evened(second.reshape(shape)),
        temperature,
        valid.reshape(count, h * w),
    )
    return loss.mean()


def _evened(x: jax.Array) -> jax.Array:
    """Sets [B, N, D] of vectors, each set scaled to a mean square length of 1."""
    square = (x * x).sum(axis=-1).mean(axis=-1)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-12))[:, None, None]


def sample(features: jax.Array, at: jax.Array) -> jax.Array:
    """Feature maps read bilinearly at fractional cells; outside the map its border continues.

    Args:
        features: float [B, h, w, D].
        at: [B, ..., 2] as (row, column) in cells.

    Returns:
        float [B, ..., D].
    """
    _, h, w, _ = features.shape
    rows = _tent(at[..., 0], h)
    columns = _tent(at[..., 1], w)
    return jnp.einsum("b...h,b...w,bhwd->b...d", rows, columns, features)


def _tent(position: jax.Array, cells: int) -> jax.Array:
    position = jnp.clip(position, 0, cells - 1)
    return jnp.maximum(0, 1 - jnp.abs(position[..., None] - jnp.arange(cells)))
