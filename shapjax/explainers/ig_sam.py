r"""IG SAM: integrated gradients and Hessians of the soft mask of a GAP-cosine game.

The similarity v of pooled features whose locations are let in by a share in [0, 1] is known in
closed form from the Gram matrices, and so are its gradient and its Hessian along the straight
path m = t 1:

.. math::
    \mathrm{IG}_i = \int_0^1 \partial_i v(t)\,dt, \qquad
    \Gamma_{ij} = \int_0^1\!\!\int_0^1 \alpha\beta\,\partial_{ij} v(\alpha\beta)\,d\alpha\,d\beta
    \;(i \ne j), \qquad
    \Gamma_{ii} = \int_0^1\!\!\int_0^1 \partial_i v(\alpha\beta)
        + \alpha\beta\,\partial_{ii} v(\alpha\beta)\,d\alpha\,d\beta.

All :math:`\Gamma_{ij}` sum to v(N) - v(empty). Alpha and beta enter by their product alone,
whose law has density :math:`-\ln t`.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.core.checks import whole_number
from shapjax.core.interactions import Interactions
from shapjax.core.worths import Progress
from shapjax.games.pooled import Grams, cosine_game, inverse_root

GROUPS = 10
"""Fewest independent repetitions, whose spread gives the standard errors."""

CHUNK = 4096
"""Most samples of a group."""


def ig_sam(
    grams: Grams, *, budget: int, key: jax.Array, progress: Progress | None = None
) -> Interactions:
    r"""Integrated gradients (one side masked) or expected Hessians (both) on feature locations.

    One sample falls at random into each of as many equal strata of the path as a group has
    samples, which leaves the estimate unbiased and makes its error fall as the power 3/2 of the
    budget, instead of 1/2.

    Args:
        grams: of the pair.
        budget: the most soft masks, both ends included.
        key: PRNG key.
        progress: called with (samples done, samples in all).

    Returns:
        With one side: ``"IG"``, one coefficient a location. With both: ``"IH"``, singles
        :math:`\Gamma_{ii}` and pairs :math:`\Gamma_{ij} + \Gamma_{ji}`. With standard errors;
        efficient up to them.

    Raises:
        ShapjaxError: the budget is below 22.

    Cost: O(n**2) a sample at second order, in matrix products; O(n) at first.

    Source: Hamilton et al. 2022, A.5 (eq. 9) and A.14; Janizek et al. 2020 (expected Hessians).
    """
    budget = whole_number(budget, "budget", low=2 + 2 * GROUPS) - 2
    groups = max(GROUPS, -(-budget // CHUNK))
    samples = budget // groups
    order = 2 if grams.n_query and grams.n_retrieved else 1
    found = []
    for done, group_key in enumerate(jax.random.split(key, groups), start=1):
        t, along = path_samples(group_key, samples, order, grams.qr.dtype)
        found.append(path_integral(grams, t, along, order=order))
        if progress is not None:
            jax.block_until_ready(found[-1])
            progress(done * samples, groups * samples)
    estimates = [jnp.stack(parts) for parts in zip(*found, strict=True)]
    n = grams.n_query + grams.n_retrieved
    ends = cosine_game(grams)(jnp.stack([jnp.zeros(n, bool), jnp.ones(n, bool)]))
    return Interactions(
        (ends[:1], *(part.mean(axis=0) for part in estimates)),
        "IG" if order == 1 else "IH",
        n,
        (
            jnp.zeros_like(ends[:1]),
            *(part.std(axis=0, ddof=1) / groups**0.5 for part in estimates),
        ),
        {"evaluations": groups * samples + 2, "v_empty": ends[0], "v_grand": ends[1]},
    )


def path_samples(
    key: jax.Array, samples: int, order: int, dtype: jax.typing.DTypeLike
) -> tuple[jax.Array, jax.Array]:
    """Places t on the path, one in each stratum, and their weights in the integral, [samples].

    At second order t is a square, which tames the logarithm of its law.
    """
    u = (jnp.arange(samples) + jax.random.uniform(key, (samples,), dtype)) / samples
    return on_path(u, jnp.full((), 1 / samples, dtype), order)


def on_path(u: jax.Array, weights: jax.Array, order: int) -> tuple[jax.Array, jax.Array]:
    """Places and weights on the path from places and weights on [0, 1]."""
    if order == 1:
        return u, weights * jnp.ones_like(u)
    safe = jnp.where(u > 0, u, 1)
    return u**2, weights * -4 * u * jnp.log(safe)


@partial(jax.jit, static_argnames="order")
def path_integral(
    grams: Grams, t: jax.Array, weights: jax.Array, *, order: int
) -> tuple[jax.Array, ...]:
    """The integrals as sums over places on the path.

    Args:
        grams: of the pair.
        t: places, [B].
        weights: of the gradient there (order 1), or of the product's law (order 2), [B].
        order: 1 or 2; static.

    Returns:
        [n]; and at order 2 the pairs, [n (n - 1) / 2], lexicographic.
    """
    query = _along(grams.qq, t)
    retrieved = _along(grams.rr, t)
    inner = grams.qr[1:, 1:]
    dots_q = grams.qr[1:, 0] + t[:, None] * inner.sum(axis=1)
    dots_r = grams.qr[0, 1:] + t[:, None] * inner.sum(axis=0)
    alone = grams.qr[1:, 0].sum() + grams.qr[0, 1:].sum()
    dot = grams.qr[0, 0] + t * alone + t**2 * inner.sum()
    a, b = query.root, retrieved.root
    slope_q = dots_q * (a * b)[:, None] + query.root_slope * (dot * b)[:, None]
    slope_r = dots_r * (a * b)[:, None] + retrieved.root_slope * (dot * a)[:, None]
    slopes = weights @ jnp.concatenate([slope_q, slope_r], axis=1)
    if order == 1:
        return (slopes,)
    share = weights * t

    def outer(factor: jax.Array, left: jax.Array, right: jax.Array) -> jax.Array:
        return jnp.matmul((left * (share * factor)[:, None]).T, right, precision="highest")

    cross = (
        inner * (share @ (a * b))
        + outer(a, dots_q, retrieved.root_slope)
        + outer(b, query.root_slope, dots_r)
        + outer(dot, query.root_slope, retrieved.root_slope)
    )

    def within(side: _Along, dots: jax.Array, other: jax.Array, gram: jax.Array) -> jax.Array:
        mixed = outer(other, dots, side.root_slope)
        bend = outer(0.75 * dot * other * side.root**5, side.slope, side.slope)
        return mixed + mixed.T + bend - gram * (share @ (dot * other * side.root**3))

    hessian = jnp.block(
        [
            [within(query, dots_q, b, grams.qq[1:, 1:]), cross],
            [cross.T, within(retrieved, dots_r, a, grams.rr[1:, 1:])],
        ]
    )
    return slopes + jnp.diagonal(hessian), 2 * hessian[np.triu_indices(len(hessian), 1)]


class _Along(NamedTuple):
    """One side's squared norm along the path.

    Attributes:
        root: inverse norm, [B].
        slope: derivative of the squared norm in each location's share, [B, n].
        root_slope: derivative of the inverse norm in each location's share, [B, n].
    """

    root: jax.Array
    slope: jax.Array
    root_slope: jax.Array


def _along(gram: jax.Array, t: jax.Array) -> _Along:
    inner = gram[1:, 1:]
    square = gram[0, 0] + 2 * t * gram[1:, 0].sum() + t**2 * inner.sum()
    slope = 2 * (gram[1:, 0] + t[:, None] * inner.sum(axis=1))
    root = inverse_root(square)
    return _Along(root, slope, -0.5 * (root**3)[:, None] * slope)
