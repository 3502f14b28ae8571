"""What every estimator does where the budget holds all coalitions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.coalitions.enumerate import all_masks
from shapjax.core.precision import precision_scope
from shapjax.estimators.oracle import Oracle
from shapjax.estimators.protocol import Answer, Problem
from shapjax.indices.exact import interactions


def enumerated(problem: Problem, oracle: Oracle) -> Answer:
    """The exact index from all 2**n coalitions, with standard errors of zero."""
    values = oracle(np.asarray(all_masks(problem.n)))
    with precision_scope(values.dtype):
        exact = interactions(jnp.asarray(values), problem.index, problem.order)
        coefficients = jax.tree.map(np.asarray, exact.coefficients)
    errors = tuple(np.zeros(part.shape) for part in coefficients)
    return Answer(coefficients, errors, {"v_empty": float(values[0]), "v_grand": float(values[-1])})
