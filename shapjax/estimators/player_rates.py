r"""Rates of their own for the players of a product kernel, by restricted likelihood.

Worths differ much where an important player comes or goes and little where another does: with
:math:`k(S, T) = \exp(-\sum_{i \in S \triangle T} \lambda_i)` the process learns which. The
logarithms of the rates have a normal prior about their common mean, so that few coalitions
change them little. The maximum is approached by the average information of the likelihood,
which needs one inverse of the kernel matrix a step.

Source: Gilmour, Thompson and Cullis 1995 (average information); MacKay 1994 (a rate for each
input, automatic relevance determination).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve

from shapjax.estimators.product_kernel import ROUGHER, Kernel, weighted_distance

WIDTH = 0.4
"""Deviation a priori of the logarithm of a rate from the mean over players."""

STEPS = 4
"""Steps towards the maximum; the best of the places between them is taken."""

LONGEST = 1.0
"""Longest step of a logarithm."""


def own_rates(
    z: jax.Array, values: jax.Array, basis: jax.Array, kernel: Kernel, nugget: float
) -> Kernel:
    """The kernel with a rate for each player, float [n].

    Args:
        z: masks as numbers, float64 [M, n].
        values: float64 [M, outputs].
        basis: functions of the mean at the rows, float64 [M, p]; zero columns do no harm.
        kernel: one rate for all players, to start from; its share of a rough part stays.
        nugget: variance of what the process cannot see.
    """
    start = jnp.log(kernel.rate) + jnp.zeros(z.shape[1])
    # The penalty is zero on a common change of all rates.
    precision = (jnp.eye(z.shape[1]) - 1 / z.shape[1]) / WIDTH**2

    def step(carry: tuple[jax.Array, jax.Array, jax.Array], _: None) -> tuple:
        logs, best, score = carry
        found = _information(z, values, basis, Kernel(jnp.exp(logs), kernel.share), nugget)
        penalised = found.likelihood - 0.5 * logs @ precision @ logs
        better = penalised > score
        best, score = jnp.where(better, logs, best), jnp.where(better, penalised, score)
        ridge = 1e-6 * jnp.trace(found.information) * jnp.eye(len(logs))
        move = jnp.linalg.solve(
            found.information + precision + ridge, found.gradient - precision @ logs
        )
        move = jnp.clip(jnp.nan_to_num(move), -LONGEST, LONGEST)
        return (logs + move, best, score), None

    first = (start, start, jnp.asarray(-jnp.inf))
    _, best, _ = jax.lax.scan(step, first, None, length=STEPS + 1)[0]
    return Kernel(jnp.exp(best), kernel.share)


class _Information(NamedTuple):
    likelihood: jax.Array
    gradient: jax.Array
    information: jax.Array


def _information(
    z: jax.Array, values: jax.Array, basis: jax.Array, kernel: Kernel, nugget: float
) -> _Information:
    """Restricted likelihood, its gradient and average information in the logarithms of rates.

    The variance is profiled out.
    """
    rows, outputs = values.shape
    smooth = jnp.exp(-weighted_distance(z, z, kernel.rate))
    rough = smooth**ROUGHER
    matrix = smooth + kernel.share * (rough - smooth) + nugget * jnp.eye(rows)
    # Minus the derivative by the distance.
    slope = smooth + kernel.share * (ROUGHER * rough - smooth)
    factor = jnp.linalg.cholesky(matrix)
    inverse = cho_solve((factor, True), jnp.eye(rows))
    gram = basis.T @ inverse @ basis
    used = jnp.diagonal(gram) > 0
    root = jnp.linalg.cholesky(gram + jnp.diag(jnp.where(used, 1e-12 * jnp.diagonal(gram), 1.0)))
    seen = inverse @ basis
    projection = inverse - seen @ cho_solve((root, True), seen.T)
    projected = projection @ values
    square = (values * projected).sum()
    freedom = outputs * (rows - used.sum())
    likelihood = -0.5 * freedom * jnp.log(square) - outputs * (
        jnp.log(jnp.diagonal(factor)).sum() + jnp.log(jnp.diagonal(root)).sum()
    )
    # The derivative of the matrix by the logarithm of rate i is -rate_i [z_i differs] slope.
    weighted = projection * slope
    traces = -2 * kernel.rate * jnp.einsum("mi,mk,ki->i", z, weighted, 1 - z)
    absent = 1 - z
    with_present = jnp.einsum("mk,ki,ko->mio", slope, z, projected)
    with_absent = jnp.einsum("mk,ki,ko->mio", slope, absent, projected)
    changed = -jnp.asarray(kernel.rate)[:, None] * (
        absent[:, :, None] * with_present + z[:, :, None] * with_absent
    )
    firsts = jnp.einsum("mio,mo->i", changed, projected)
    curvature = jnp.einsum("mio,mk,kjo->ij", changed, projection, changed)
    gradient = 0.5 * freedom * firsts / square - 0.5 * outputs * traces
    information = 0.5 * freedom * (curvature / square - jnp.outer(firsts, firsts) / square**2)
    return _Information(likelihood, gradient, information)
