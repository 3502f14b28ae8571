"""Estimators by name: adding one is adding a row here, or registering a function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from shapjax.core.checks import one_of
from shapjax.core.errors import ShapjaxError
from shapjax.estimators.faithful import faithful_regression
from shapjax.estimators.fixlip import fixlip
from shapjax.estimators.gaussian_process import gaussian_process
from shapjax.estimators.kernel_regression import (
    kernel_border,
    kernel_direct,
    kernel_shap,
    kernel_weighting,
    leverage_shap,
)
from shapjax.estimators.kernelshap_iq import kernelshap_iq
from shapjax.estimators.lime import lime
from shapjax.estimators.permutation import permutation
from shapjax.estimators.protocol import Estimator
from shapjax.estimators.proxies import proxyshap, regression_msr
from shapjax.estimators.shap_iq import shap_iq
from shapjax.estimators.svarm_iq import svarm_iq

BUILT_IN: dict[str, Estimator] = {
    "kernel-direct": kernel_direct,
    "kernel-weighting": kernel_weighting,
    "kernel-border": kernel_border,
    "kernel-shap": kernel_shap,
    "leverage-shap": leverage_shap,
    "kernelshap-iq": kernelshap_iq,
    "permutation": permutation,
    "faithful-regression": faithful_regression,
    "lime": lime,
    "fixlip": fixlip,
    "gaussian-process": gaussian_process,
    "shap-iq": shap_iq,
    "svarm-iq": svarm_iq,
    "regression-msr": regression_msr,
    "proxyshap": proxyshap,
}

_registered: dict[str, Estimator] = dict(BUILT_IN)


def register(
    name: str, estimator: Estimator | None = None, *, overwrite: bool = False
) -> Estimator | Callable[[Estimator], Estimator]:
    """Make an estimator known to ``shapjax.estimate`` by name.

    Args:
        name: what ``method`` will say.
        estimator: a function of (problem, oracle) whose keyword-only arguments are its options;
            left out, ``register(name)`` decorates one.
        overwrite: whether it may replace an estimator of that name, a built-in one included.

    Returns:
        The estimator, or the decorator.

    Raises:
        ShapjaxError: the name is taken or not a string, or the estimator cannot be called.
    """
    if estimator is None:
        return lambda function: register(name, function, overwrite=overwrite)  # pyright: ignore
    if not isinstance(name, str) or not name:
        raise ShapjaxError(f"name is {name!r}, expected the name of a method.")
    if not callable(estimator):
        raise ShapjaxError(f"the estimator {name} is {estimator!r}, expected a function.")
    if name in _registered and not overwrite:
        raise ShapjaxError(
            f"an estimator {name} exists already; choose another name, or say overwrite=True."
        )
    _registered[name] = estimator
    return estimator


def method_names() -> tuple[str, ...]:
    """Every name that ``method`` may be, the built-in ones first."""
    return tuple(_registered)


def estimator_of(method: str, options: dict[str, Any]) -> Estimator:
    """The estimator of that name, which has all of these options.

    Raises:
        ShapjaxError: there is no such estimator, or it has no such option.
    """
    estimator = _registered[one_of(method, tuple(_registered), "method")]
    parameters = inspect.signature(estimator).parameters.values()
    if any(x.kind is x.VAR_KEYWORD for x in parameters):
        return estimator
    known = [x.name for x in parameters if x.kind is x.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            has = f"its options are {', '.join(known)}" if known else "it has none"
            raise ShapjaxError(f"{option} is no option of {method}; {has}.")
    return estimator
