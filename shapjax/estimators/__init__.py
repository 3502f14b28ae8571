"""Interaction indices from a budget of evaluations."""

from shapjax.estimators.oracle import Oracle
from shapjax.estimators.protocol import Answer, Estimator, Problem
from shapjax.estimators.registry import method_names, register

__all__ = ["Answer", "Estimator", "Oracle", "Problem", "method_names", "register"]
