"""Interactions as the objects of other packages, where those are installed."""

from __future__ import annotations

import importlib
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from shapjax.core.errors import ShapjaxError

if TYPE_CHECKING:
    from shapjax.core.interactions import Interactions


def package(name: str) -> Any:
    """A package that shapjax does not depend on.

    Raises:
        ShapjaxError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ShapjaxError(
            f"this needs the package {name}, which cannot be imported ({error}); "
            f"pip install {name}."
        ) from None


def to_shapiq(found: Interactions) -> Any:
    """See ``Interactions.to_shapiq``."""
    values_class = package("shapiq").InteractionValues
    _require_one_game(found)
    n, order = found.n_players, found.order
    coalitions = itertools.chain.from_iterable(
        itertools.combinations(range(n), size) for size in range(order + 1)
    )
    values = np.concatenate([np.asarray(part, np.float64) for part in found.coefficients])
    evaluations = found.stats.get("evaluations")
    return values_class(
        values,
        index=found.index,
        max_order=order,
        n_players=n,
        min_order=0,
        interaction_lookup={coalition: place for place, coalition in enumerate(coalitions)},
        estimated=found.standard_errors is not None or evaluations is not None,
        estimation_budget=None if evaluations is None else int(evaluations),
        baseline_value=float(found.empty),
    )


def to_shap(found: Interactions) -> Any:
    """See ``Interactions.to_shap``."""
    explanation_class = package("shap").Explanation
    _require_one_game(found)
    if found.order > 2:
        raise ShapjaxError(
            f"these interactions are of order {found.order}, but shap knows orders 1 and 2; "
            "compute them with order=2."
        )
    values = np.asarray(found.singles, np.float64)
    if found.order == 2:
        values = np.diag(values) + 0.5 * np.asarray(found.pairs, np.float64)
    return explanation_class(values=values, base_values=float(found.empty))


def _require_one_game(found: Interactions) -> None:
    shape = np.shape(found.empty)
    if shape:
        raise ShapjaxError(
            f"these interactions are of a batch of games of shape {shape}, expected one game; "
            "take one with jax.tree.map(lambda a: a[i], interactions)."
        )
    if found.order < 1:
        raise ShapjaxError("these interactions have no coefficient of a player; use order=1.")
