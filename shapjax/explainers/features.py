"""The methods that explain from feature maps alone, as pure functions that batch and shard.

The network sees each picture once; everything after it is one function of the two maps and their
backgrounds, which passes through ``jit``, ``vmap`` and ``shard_map``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.core.errors import ShapjaxError
from shapjax.core.interactions import Interactions
from shapjax.estimators.kernel_regression import traced_kernel_direct
from shapjax.estimators.protocol import Problem
from shapjax.estimators.refits import REFITS
from shapjax.explainers.activation_maps import similarity_gradcam, vesm
from shapjax.explainers.gram_sam import gram_sam
from shapjax.explainers.ig_sam import ig_sam
from shapjax.explainers.integrated_jacobians import integrated_jacobians
from shapjax.explainers.sam import sam
from shapjax.games.feature_pairs import FeaturePair
from shapjax.games.pooled import Grams, cosine_game
from shapjax.indices.weights import index_and_order


def explain_features(
    pair: FeaturePair, *, method: str, order: int, budget: int, key: jax.Array, errors: bool = False
) -> Interactions:
    """Interactions of locations of two feature maps, in units of cosine similarity.

    Pure: of the same pair, budget and key it is the same alone, under ``vmap`` and on any number
    of devices, up to rounding.

    Args:
        pair: the maps; who plays is who has backgrounds.
        method: one of ``FEATURE_METHODS``.
        order: 1 or 2, as the sides that play have it.
        budget: as in ``explain``; ignored by a closed form.
        key: PRNG key.
        errors: as in ``explain``; where a traced regression cannot tell them they are NaN.

    Returns:
        Interactions whose stats hold ``v_empty``, ``v_grand`` and ``evaluations``.

    Raises:
        ShapjaxError: the budget is too small for the method.
    """
    found = FEATURE_METHODS[method](pair, order, budget, key, errors)
    grams = pair.grams()
    n = grams.n_query + grams.n_retrieved
    ends = cosine_game(grams)(jnp.stack([jnp.zeros(n, bool), jnp.ones(n, bool)]))
    stats = {"evaluations": 2, "v_empty": ends[0], "v_grand": ends[1], **found.stats}
    return Interactions(
        found.coefficients, found.index, found.n_players, found.standard_errors, stats
    )


def over_backgrounds(
    grams: Grams, key: jax.Array, budget: int, find: Callable[[Grams, jax.Array, int], Interactions]
) -> Interactions:
    """Mean of a method over the backgrounds of a game: indices are linear in the game.

    Each background gets its share of the budget and a key of its own.
    """
    if grams.qr.ndim == 2:
        return find(grams, key, budget)
    count = len(grams.qr)
    found = [
        find(Grams(*(part[place] for part in grams)), own, budget // count)
        for place, own in enumerate(jax.random.split(key, count))
    ]
    return _mean_of(found)


def _mean_of(found: list[Interactions]) -> Interactions:
    """Mean of independent interactions with their standard errors; evaluations add up."""
    count = len(found)
    mean = sum(found) / count
    assert isinstance(mean, Interactions)
    errors = [one.standard_errors for one in found]
    standard_errors = None
    if all(parts is not None for parts in errors):
        standard_errors = tuple(
            sum(part**2 for part in parts) ** 0.5 / count  # pyright: ignore[reportArgumentType]
            for parts in zip(*errors, strict=True)  # pyright: ignore[reportArgumentType]
        )
    stats = {
        name: sum(one.stats[name] for one in found) / (1 if name == "evaluations" else count)
        for name in found[0].stats
    }
    return Interactions(mean.coefficients, mean.index, mean.n_players, standard_errors, stats)


def _sam(pair: FeaturePair, order: int, budget: int, key: jax.Array, errors: bool) -> Interactions:
    return over_backgrounds(pair.grams(), key, budget, lambda grams, _, __: sam(grams))


def _sampled(find: Callable[..., Interactions]) -> Any:
    def run(
        pair: FeaturePair, order: int, budget: int, key: jax.Array, errors: bool
    ) -> Interactions:
        return over_backgrounds(
            pair.grams(), key, budget, lambda grams, own, share: find(grams, budget=share, key=own)
        )

    return run


def _kernel(
    pair: FeaturePair, order: int, budget: int, key: jax.Array, errors: bool
) -> Interactions:
    grams = pair.grams()
    n = grams.n_query + grams.n_retrieved
    index, order = index_and_order("STII" if order == 2 else "SV", order, n, None)
    problem = Problem(n, index, order, key)
    refits = REFITS if order == 1 or errors else 0
    answer = traced_kernel_direct(problem, cosine_game(grams), budget, refits=refits)
    return Interactions(answer.coefficients, index.label, n, answer.standard_errors, answer.stats)


def _integrated_jacobians(
    pair: FeaturePair, order: int, budget: int, key: jax.Array, errors: bool
) -> Interactions:
    query, retrieved = pair.rows()
    count = len(query)
    nodes = max(1, budget // count)
    found = [
        integrated_jacobians(*rows, nodes=nodes) for rows in zip(query, retrieved, strict=True)
    ]
    mean = sum(found) / count
    assert isinstance(mean, Interactions)
    stats = {"evaluations": nodes * count}
    return Interactions(mean.coefficients, mean.index, mean.n_players, None, stats)


def _gradcam(
    pair: FeaturePair, order: int, budget: int, key: jax.Array, errors: bool
) -> Interactions:
    x, other, blanks = _playing(pair)
    values = similarity_gradcam(x, jnp.asarray(blanks, x.dtype).mean(axis=0), other)
    return _map(values, "GradCAM", pair)


def _vesm(pair: FeaturePair, order: int, budget: int, key: jax.Array, errors: bool) -> Interactions:
    x, other, _ = _playing(pair)
    return _map(vesm(x, other), "VESM", pair)


def _playing(pair: FeaturePair) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The map that plays at first order, the other one pooled, and the backgrounds of the first."""
    sides = (pair.query, pair.query_blanks), (pair.retrieved, pair.retrieved_blanks)
    (x, blanks), (other, others) = sides[pair.side], sides[1 - pair.side]
    if blanks is None or others is not None:
        raise ShapjaxError("a heat map is of one picture; give backgrounds for one side.")
    return x, other.mean(axis=(0, 1)), blanks


def _map(values: jax.Array, index: str, pair: FeaturePair) -> Interactions:
    """A map over the locations of one picture as interactions."""
    grams = pair.grams()
    n = grams.n_query + grams.n_retrieved
    empty = cosine_game(grams)(jnp.zeros((1, n), bool))
    return Interactions((empty, values.ravel()), index, n, None, {"evaluations": 1})


FEATURE_METHODS: dict[str, Callable[[FeaturePair, int, int, jax.Array, bool], Interactions]] = {
    "sam": _sam,
    "ig-sam": _sampled(ig_sam),
    "gram-sam": _sampled(gram_sam),
    "kernel-sam": _kernel,
    "kernel-shap": _kernel,
    "integrated-jacobians": _integrated_jacobians,
    "gradcam": _gradcam,
    "vesm": _vesm,
}
"""(pair, order, budget, key, errors) to the interactions that a method finds."""


def bytes_of(method: str, n_players: int, budget: int) -> int:
    """About what explaining one pair takes at the peak, beside the maps and the result."""
    if method in ("kernel-sam", "kernel-shap"):
        return budget * (16 * n_players + 8 * REFITS)
    return 64 * int(np.square(n_players))
