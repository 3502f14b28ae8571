r"""The Gaussian process where rows are many: its kernel's spectrum truncated by order.

For any centre p in [0, 1] one factor of the product kernel is a sum of two squares,
:math:`r^{|s - t|} = \psi_0(s)\psi_0(t) + \psi_1(s)\psi_1(t)` with
:math:`\psi_1(z) = \alpha (z - p)` and
:math:`\alpha^2 = (1 - r^2) / (p^2 + (1-p)^2 + 2 r p (1-p))`. The kernel is then
:math:`\sum_Q \psi_Q(S) \psi_Q(T)` over all coalitions Q, and with :math:`\eta = \psi_1/\psi_0`,

.. math:: \psi_Q(S) = \sigma_0(|S|) \prod_{i \in Q} \eta(z_i).

Orders up to q become a Bayesian regression on :math:`\binom{n}{\le q}` columns; what lies above
becomes independent noise of the variance that the kernel leaves at each size. The centre puts
that noise where coalitions are few. The index of a column depends on :math:`|Q|` and
:math:`|A \cap Q|` alone, so that any cardinal index is read without a table of 2**n.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve, solve_triangular

from shapjax.coalitions.enumerate import members_of_size
from shapjax.core.memory import require_memory
from shapjax.estimators.product_kernel import derivative_weights, size_index
from shapjax.estimators.subsets import parts_of_size
from shapjax.indices.cardinal import CardinalIndex

Array = jax.Array

CHUNK = 1024
"""Rows whose columns exist at a time."""

STRIP = 512
"""Columns of the lower triangle of a Gram matrix that one product fills."""

CENTRES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Centres that are tried."""


class Spectrum(NamedTuple):
    """The kernel truncated by order around a centre.

    Attributes:
        order: q, the highest order kept.
        eta: eta(0) and eta(1), float64 [2].
        scale: sigma_0 by size, float64 [n+1].
        tail: variance of the orders above q by size, float64 [n+1], in units of tau squared.
    """

    order: int
    eta: np.ndarray
    scale: np.ndarray
    tail: np.ndarray


def spectrum_of(n: int, rate: float, centre: float, order: int) -> Spectrum:
    """The kernel of ``rate`` truncated above ``order`` around ``centre``.

    Args:
        n: number of players.
        rate: the kernel's lambda.
        centre: p, between 0 and 1.
        order: q.
    """
    r, p = math.exp(-rate), centre
    square = -math.expm1(-2 * rate) / (p**2 + (1 - p) ** 2 + 2 * r * p * (1 - p))
    shares = square * np.array([p**2, (1 - p) ** 2])
    roots = np.sqrt(1 - shares)
    eta = np.sqrt(square) * np.array([-p, 1 - p]) / roots
    sizes = np.arange(n + 1)
    scale = roots[1] ** sizes * roots[0] ** (n - sizes)
    # A player contributes to the order with probability shares[z]: the diagonal of the kernel
    # is the law of their number, and the tail is its upper end, summed as such.
    absent, present = (_binomials(n, float(share)) for share in shares)
    tail = np.array([np.convolve(present[s], absent[n - s])[order + 1 :].sum() for s in sizes])
    return Spectrum(order, eta, scale, tail)


def _binomials(n: int, share: float) -> list[np.ndarray]:
    """Laws of the number of successes in 0..n trials."""
    laws = [np.ones(1)]
    for _ in range(n):
        laws.append(np.convolve(laws[-1], [1 - share, share]))
    return laws


def count_columns(n: int, order: int) -> int:
    """Columns of the regression: coalitions of one to ``order`` players."""
    return sum(math.comb(n, size) for size in range(1, order + 1))


def spectrum_tables(
    index: CardinalIndex, order: int, n: int, spectrum: Spectrum, scale: np.ndarray
) -> list[np.ndarray]:
    r"""The index of :math:`S \mapsto \sigma(|S|) \prod_{i \in Q} \eta(z_i)`.

    Args:
        index: any cardinal index.
        order: its order k.
        n: number of players.
        spectrum: eta and the highest |Q|.
        scale: sigma by size, float64 [n+1].

    Returns:
        Per size s = 0..k, float64 [q+1, s+1]: entry [|Q|, c] is the index of any A of size s
        with |A and Q| = c; zero where no such A exists.
    """
    low, high = (float(x) for x in spectrum.eta)
    tables = []
    for s, weights in enumerate(derivative_weights(index, order, n)):
        rest = n - s
        counts = np.array([math.comb(rest, u) for u in range(rest + 1)], np.float64)
        levels = np.stack([scale[level : level + rest + 1] for level in range(s + 1)])
        table = np.zeros((spectrum.order + 1, s + 1))
        for outside in range(min(spectrum.order, rest) + 1):
            # The mean over U of one size of the product of the players outside A.
            own = _power(low, high, outside)
            mean = np.zeros(rest + 1)
            for j, part in enumerate(own):
                mean[j : rest - outside + j + 1] += part * np.array(
                    [math.comb(rest - outside, u) for u in range(rest - outside + 1)], np.float64
                )
            weighted = weights * mean / counts
            for c in range(min(s, spectrum.order - outside) + 1):
                if index.form == "marginals":
                    head = np.zeros(s + 1)
                    head[0] -= low**c
                    head[s] += high**c
                else:
                    head = np.convolve(_power(-low, high, c), _power(-1.0, 1.0, s - c))
                table[outside + c, c] = weighted @ (head @ levels)
        tables.append(table)
    return tables


def _power(constant: float, slope: float, exponent: int) -> np.ndarray:
    """Coefficients of (constant + slope x)^exponent."""
    out = np.ones(1)
    for _ in range(exponent):
        out = np.convolve(out, [constant, slope])
    return out


def read_spectrum(theta: tuple[Array, ...], tables: list[np.ndarray], n: int) -> tuple[Array, ...]:
    """The index of a sum of columns for all A up to the order.

    Args:
        theta: coefficients of the columns of size 0..q, float [C(n, size)] each.
        tables: from ``spectrum_tables``.
        n: number of players.

    Returns:
        Per size s, float [C(n, s)], lexicographic.
    """
    out = []
    for s, table in enumerate(tables):
        total = jnp.zeros(math.comb(n, s), theta[0].dtype)
        # In Newton's form a function of |A and Q| is a sum over the J that both contain.
        for j in range(min(s, len(theta) - 1) + 1):
            within = jnp.zeros(math.comb(n, j), theta[0].dtype)
            for q in range(j, len(theta)):
                difference = np.diff(table[q], n=j)[0]
                own = difference * theta[q]
                parts = parts_of_size(n, q, j)
                if q == j:
                    within = within + own
                else:
                    spread = jnp.broadcast_to(own[:, None], parts.shape)
                    within = within.at[parts].add(spread)
            total = total + within[parts_of_size(n, s, j)].sum(axis=1)
        out.append(total)
    return tuple(out)


def columns(z: Array, order: int, eta: Array) -> Array:
    """Products of eta over the coalitions of one to ``order`` players, float [M, columns]."""
    factors = eta[0] + (eta[1] - eta[0]) * z
    n = z.shape[1]
    return jnp.concatenate(
        [factors[:, members_of_size(n, size)].prod(axis=-1) for size in range(1, order + 1)], axis=1
    )


class TruncatedProcess(NamedTuple):
    """A fitted process of truncated spectrum.

    Attributes:
        spectrum: the kernel's.
        theta: coefficients of the columns of size 0..q, float64 [C(n, size)] each, the first 0.
        sizes: the function of the size, float64 [n+1].
        factor: lower Cholesky factor of the columns' posterior precision, float64 [F, F].
        variance: tau squared.
        growth: e^(c s) by size, float64 [n+1].
    """

    spectrum: Spectrum
    theta: tuple[np.ndarray, ...]
    sizes: np.ndarray
    factor: Array
    variance: float
    growth: np.ndarray


class Gathered(NamedTuple):
    """Rows reduced to what a regression on the columns needs of them, in groups.

    Attributes:
        spectrum: the kernel's, its centre chosen for all rows.
        growth: e^(c s) by size, float64 [n+1].
        precision: of one row by its size, float64 [n+1].
        counts: rows of each group by size, int [groups, n+1].
        means: of the columns and the value by size, over all rows, float64 [n+1, F+1].
        moments: of each group, about those means.
    """

    spectrum: Spectrum
    growth: np.ndarray
    precision: np.ndarray
    counts: np.ndarray
    means: Array
    moments: Moments


class Moments(NamedTuple):
    """Weighted sums over the rows of each group, about the means of their sizes.

    Attributes:
        gram: of the columns, float64 [groups, F, F]; the lower triangle.
        cross: of columns and value, float64 [groups, F].
        square: of the value, float64 [groups].
        sums: of columns and value by size, without weights, float64 [groups, n+1, F+1].
    """

    gram: Array
    cross: Array
    square: Array
    sums: Array


def gather(
    masks: np.ndarray,
    values: np.ndarray,
    rate: float,
    growth: np.ndarray,
    order: int,
    nugget: float,
    groups: np.ndarray | None = None,
) -> Gathered:
    """Reduce rows to their moments; regressions on some of the groups then cost no more passes.

    Args:
        masks: distinct coalitions, Boolean [M, n].
        values: their worth, float64 [M].
        rate: the kernel's lambda.
        growth: e^(c s) by size, float64 [n+1].
        order: q.
        nugget: variance of what the kernel does not see, beside its own.
        groups: int [M], from 0 on; None for one group.

    Raises:
        MemoryRefused: the columns' Gram matrices do not fit into memory.

    Cost: O(M F**2) time and F**2 numbers a group, for F columns.
    """
    n = masks.shape[1]
    groups = np.zeros(len(masks), int) if groups is None else groups
    count = int(groups.max()) + 1
    require_truncated(n, order, count)
    sizes = masks.sum(axis=1)
    spectrum = _centred(n, rate, order, sizes, nugget)
    counts = np.stack([np.bincount(sizes[groups == g], minlength=n + 1) for g in range(count)])
    precision = 1 / (spectrum.tail + nugget)
    # Every group begins a chunk of its own.
    rows = [np.flatnonzero(groups == g) for g in range(count)]
    padded = [np.append(own, np.full(-len(own) % CHUNK, -1)) for own in rows]
    place = np.concatenate(padded).reshape(-1, CHUNK)
    chunks = (
        jnp.asarray(masks[place], jnp.float64),
        jnp.asarray((values / growth[sizes])[place]),
        jnp.asarray(place >= 0, jnp.float64),
        jnp.asarray(np.repeat(np.arange(count), [len(own) // CHUNK for own in padded])),
    )
    means, moments = _moments(
        *chunks,
        jnp.asarray(counts),
        jnp.asarray(precision),
        jnp.asarray(spectrum.scale),
        jnp.asarray(spectrum.eta),
        order=order,
    )
    return Gathered(spectrum, growth, precision, counts, means, moments)


def fit_gathered(gathered: Gathered, groups: Sequence[int] | None = None) -> TruncatedProcess:
    """Bayesian regression on the columns, from some groups; the function of the size is free.

    Args:
        gathered: from ``gather``.
        groups: those to fit to; None for all.

    Cost: O(F**3) time and 2 F**2 numbers for F columns.
    """
    spectrum, growth = gathered.spectrum, gathered.growth
    keep = np.zeros(len(gathered.counts))
    keep[list(range(len(keep)) if groups is None else groups)] = 1
    counts = keep @ gathered.counts
    solved = _solve(
        gathered.moments,
        gathered.means,
        jnp.asarray(keep),
        jnp.asarray(counts),
        jnp.asarray(gathered.precision),
    )
    n, order = len(growth) - 1, spectrum.order
    present = np.flatnonzero(counts)
    level = np.asarray(solved.level)[present] * growth[present]
    freedom = max(int(counts.sum()) - len(present), 1)
    # A game that is flat within every size leaves nothing but rounding.
    variance = max(float(solved.residual), np.finfo(float).tiny) / freedom
    edges = np.cumsum([math.comb(n, size) for size in range(1, order)])
    theta = (np.zeros(1), *np.split(np.asarray(solved.theta), edges))
    sizes = np.interp(np.arange(n + 1), present, level)
    return TruncatedProcess(spectrum, theta, sizes, solved.factor, variance, growth)


def require_truncated(n: int, order: int, groups: int = 1) -> None:
    """Refuse a regression whose Gram matrices, one for each group of rows, do not fit.

    Raises:
        MemoryRefused: it does not.
    """
    width = count_columns(n, order)
    require_memory(
        8 * width * ((groups + 3) * width + 3 * CHUNK),
        f"the regression on {width} columns of {n} players",
        "merge some players",
    )


def _centred(n: int, rate: float, order: int, sizes: np.ndarray, nugget: float) -> Spectrum:
    """The truncation whose noise is least, in the mean of its logarithm over the rows."""
    found = [spectrum_of(n, rate, centre, order) for centre in CENTRES]
    return min(found, key=lambda s: float(np.log(s.tail[sizes] + nugget).mean()))


class _Solved(NamedTuple):
    theta: Array
    level: Array
    factor: Array
    residual: Array


@functools.partial(jax.jit, static_argnames="order")
def _moments(
    z: Array,
    values: Array,
    real: Array,
    groups: Array,
    counts: Array,
    precision: Array,
    scale: Array,
    eta: Array,
    *,
    order: int,
) -> tuple[Array, Moments]:
    """Means and moments of rows in chunks [chunks, CHUNK, ...]; ``real`` is 0 on padding."""
    n = z.shape[-1]
    width, count = count_columns(n, order), len(counts)

    def rows(z: Array, values: Array) -> tuple[Array, Array]:
        sizes = z.sum(axis=1).astype(jnp.int32)
        own = columns(z, order, eta) * scale[sizes][:, None]
        return jnp.concatenate([own, values[:, None]], axis=1), sizes

    def add_sums(total: Array, chunk: tuple[Array, ...]) -> tuple[Array, None]:
        own, sizes = rows(*chunk[:2])
        return total.at[chunk[3], sizes].add(own * chunk[2][:, None]), None

    start = jnp.zeros((count, n + 1, width + 1), z.dtype)
    sums = jax.lax.scan(add_sums, start, (z, values, real, groups))[0]
    # A free level at each size is eliminated: everything is centred within its size.
    means = sums.sum(axis=0) / jnp.maximum(counts.sum(axis=0), 1)[:, None]

    def add(total: tuple[Array, ...], chunk: tuple[Array, ...]) -> tuple[Any, None]:
        gram, cross, square = total
        own, sizes = rows(*chunk[:2])
        own = own - means[sizes]
        own, target = own[:, :-1], own[:, -1]
        weights = chunk[2] * precision[sizes]
        weighted, group = own * weights[:, None], chunk[3]
        # The matrix is symmetric: strips of its lower triangle suffice.
        for low in range(0, width, STRIP):
            high = min(low + STRIP, width)
            strip = own[:, low:].T @ weighted[:, low:high]
            gram = gram.at[group, low:, low:high].add(strip)
        cross = cross.at[group].add(target @ weighted)
        return (gram, cross, square.at[group].add((weights * target**2).sum())), None

    start = (
        jnp.zeros((count, width, width), z.dtype),
        jnp.zeros((count, width), z.dtype),
        jnp.zeros(count, z.dtype),
    )
    gram, cross, square = jax.lax.scan(add, start, (z, values, real, groups))[0]
    return means, Moments(gram, cross, square, sums)


@jax.jit
def _solve(moments: Moments, means: Array, keep: Array, counts: Array, precision: Array) -> _Solved:
    """The regression on the groups that are kept, float [groups] of 0 and 1."""
    own = jnp.tensordot(keep, moments.sums, 1) / jnp.maximum(counts, 1)[:, None]
    # From the means of all rows to those of the rows kept.
    away = jnp.where(counts[:, None] > 0, own - means, 0)
    weighted = away * (counts * precision)[:, None]
    gram = jnp.tensordot(keep, moments.gram, 1) - away[:, :-1].T @ weighted[:, :-1]
    cross = keep @ moments.cross - away[:, -1] @ weighted[:, :-1]
    square = keep @ moments.square - away[:, -1] @ weighted[:, -1]
    gram = gram + jnp.eye(len(gram), dtype=gram.dtype)
    factor = jnp.linalg.cholesky(gram, symmetrize_input=False)
    theta = cho_solve((factor, True), cross)
    level = own[:, -1] - own[:, :-1] @ theta
    return _Solved(theta, level, factor, square - cross @ theta)


def read_truncated(
    process: TruncatedProcess, index: CardinalIndex, order: int
) -> tuple[np.ndarray, ...]:
    """Any cardinal index of the posterior mean, per size [C(n, s)]."""
    n = len(process.sizes) - 1
    scale = process.spectrum.scale * process.growth
    tables = spectrum_tables(index, order, n, process.spectrum, scale)
    found = read_spectrum(tuple(jnp.asarray(t) for t in process.theta), tables, n)
    level = size_index(index, order, n) @ process.sizes
    return tuple(np.asarray(part) + level[s] for s, part in enumerate(found))


def predict_truncated(process: TruncatedProcess, masks: np.ndarray) -> np.ndarray:
    """Posterior mean of the worths of coalitions, Boolean [M, n] to float64 [M]."""
    spectrum, sizes = process.spectrum, masks.sum(axis=1)
    theta = jnp.asarray(np.concatenate(process.theta[1:]))
    eta, pad = jnp.asarray(spectrum.eta), -len(masks) % CHUNK
    wide = np.concatenate([masks, np.zeros((pad, masks.shape[1]), bool)]).astype(np.float64)
    rest = _weighted_columns(
        jnp.asarray(wide.reshape(-1, CHUNK, masks.shape[1])), theta, eta, order=spectrum.order
    )
    scale = spectrum.scale * process.growth
    return process.sizes[sizes] + scale[sizes] * np.asarray(rest).ravel()[: len(masks)]


@functools.partial(jax.jit, static_argnames="order")
def _weighted_columns(z: Array, theta: Array, eta: Array, *, order: int) -> Array:
    return jax.lax.map(lambda block: columns(block, order, eta) @ theta, z)


def truncated_errors(
    process: TruncatedProcess, index: CardinalIndex, order: int, prior: list[float]
) -> tuple[np.ndarray, ...]:
    """Posterior standard deviation of the index under the model, per size [C(n, s)].

    Orders above q are counted with the variance they had before any value was seen.

    Args:
        process: the fitted process.
        index: any cardinal index.
        order: its order.
        prior: variance of the index of an A of each size under the whole kernel, in units of
            tau squared.

    Cost: O(F**3) and F readings for F columns.
    """
    n = len(process.sizes) - 1
    scale = process.spectrum.scale * process.growth
    tables = spectrum_tables(index, order, n, process.spectrum, scale)
    found = _column_variances(process.factor, tables, n)
    out = []
    for s, known in enumerate(found):
        kept = _kept_variance(tables[s], n)
        variance = np.asarray(known) + max(prior[s] - kept, 0.0)
        out.append(np.sqrt(process.variance * variance))
    return tuple(out)


def _kept_variance(table: np.ndarray, n: int) -> float:
    """Variance a priori of the index of one A by the orders kept, the empty column left out."""
    s = table.shape[1] - 1
    return sum(
        math.comb(s, c) * math.comb(n - s, q - c) * float(table[q, c]) ** 2
        for q in range(1, len(table))
        for c in range(min(s, q) + 1)
    )


def _column_variances(factor: Array, tables: list[np.ndarray], n: int) -> tuple[Array, ...]:
    """Squared norms of the index of every row of the inverse factor."""
    order = len(tables[0]) - 1
    edges = np.cumsum([math.comb(n, size) for size in range(1, order)])

    @jax.jit
    def total(factor: Array) -> tuple[Array, ...]:
        inverse = solve_triangular(factor, jnp.eye(len(factor), dtype=factor.dtype), lower=True)

        def add(sums: tuple[Array, ...], row: Array) -> tuple[Any, None]:
            theta = (jnp.zeros(1, row.dtype), *jnp.split(row, edges))
            parts = read_spectrum(theta, tables, n)
            return tuple(a + b**2 for a, b in zip(sums, parts, strict=True)), None

        start = tuple(jnp.zeros(math.comb(n, s), factor.dtype) for s in range(len(tables)))
        return jax.lax.scan(add, start, inverse)[0]

    return total(factor)
