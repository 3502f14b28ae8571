"""shapiq's estimators on the same games, where that package is installed."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from shapjax.core.errors import ShapjaxError

Peer = Callable[[Callable[[np.ndarray], np.ndarray], int, int, int], np.ndarray]
"""(value function, players, budget, seed) to the top coefficients, lexicographic."""

PREFIX = "shapiq: "

ESTIMATORS = {
    "permutation": ("PermutationSamplingSTII", {}),
    "permutation (SII)": ("PermutationSamplingSII", {}),
    "permutation (SV)": ("PermutationSamplingSV", {}),
    "SHAP-IQ": ("SHAPIQ", {}),
    "SHAP-IQ, paired": ("SHAPIQ", {"pairing_trick": True}),
    "SVARM-IQ": ("SVARMIQ", {}),
    "SVARM-IQ, paired": ("SVARMIQ", {"pairing_trick": True}),
    "KernelSHAP": ("KernelSHAP", {}),
    "KernelSHAP-IQ": ("KernelSHAPIQ", {}),
    "faithful regression": ("RegressionFSII", {}),
    "SVARM": ("SVARM", {}),
    "Leverage SHAP": ("LeverageSHAP", {}),
    "kADD-SHAP": ("kADDSHAP", {}),
    "Regression MSR": ("RegressionMSR", {}),
    "OddSHAP": ("OddSHAP", {}),
    "PolySHAP": ("PolySHAP", {}),
    "ProxySHAP": ("ProxySHAP", {}),
    "ProxySHAP, adjusted": ("ProxySHAP", {"adjustment": True}),
}
"""Name to shapiq's class and its options; which of them serve an index it says itself.

The last seven came with later releases (ProxySHAP with 1.5, for Python 3.12 on).
"""


def peers(index: str, order: int) -> dict[str, Peer]:
    """shapiq's estimators of an index, by name; none where the package is absent."""
    try:
        from shapiq import approximator
    except ImportError:
        return {}
    found = {}
    for name, (kind, options) in ESTIMATORS.items():
        made = getattr(approximator, kind, None)
        if made is not None and index in made.valid_indices:
            found[PREFIX + name] = _peer(made, index, order, options)
    return found


def _peer(made: Callable, index: str, order: int, options: dict) -> Peer:
    def estimate(
        game: Callable[[np.ndarray], np.ndarray], n: int, budget: int, seed: int
    ) -> np.ndarray:
        arguments = {"max_order": order, "index": index, **options}
        known = made.__init__.__code__.co_varnames
        arguments = {name: value for name, value in arguments.items() if name in known}
        with warnings.catch_warnings():
            # It warns that a budget suffices for few samples: the error says so as well.
            warnings.simplefilter("ignore")
            found = made(n=n, random_state=seed, **arguments).approximate(
                budget, lambda masks: game(np.atleast_2d(masks))
            )
        values = found.get_n_order_values(order)
        if not values.any():
            raise ShapjaxError(f"a budget of {budget} holds no sample of shapiq's {made.__name__}.")
        return values[np.triu_indices(n, 1)] if order == 2 else values

    return estimate
