"""Floating-point policy: follow the input, never lower it without saying so."""

from __future__ import annotations

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.core.errors import DtypeError, ShapjaxError


def float_array(x: Any, name: str) -> jax.Array:
    """A floating-point JAX array with the precision of ``x``.

    Integers and Booleans become JAX's default float. Tracers pass through.

    Args:
        x: an array, or nested sequences of numbers.
        name: what the caller calls it, for messages.

    Raises:
        DtypeError: ``x`` is float64 (or wider) and JAX's 64-bit mode is off, so that JAX would
            round it to float32.
        ShapjaxError: ``x`` is not an array of real numbers.
    """
    try:
        array = x if hasattr(x, "dtype") else np.asarray(x)
    except ValueError as error:
        raise ShapjaxError(f"{name} is not a rectangular array of numbers ({error}).") from None
    if array.dtype != bool and not jnp.issubdtype(array.dtype, np.number):
        raise ShapjaxError(f"{name} has dtype {array.dtype}, expected real numbers.")
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ShapjaxError(f"{name} has dtype {array.dtype}, expected real numbers.")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return jnp.asarray(array).astype(jnp.result_type(float))
    if array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    # Python numbers have no precision of their own; arrays and NumPy scalars do.
    typed = any(hasattr(leaf, "dtype") and leaf.dtype == array.dtype for leaf in jax.tree.leaves(x))
    if typed and array.dtype.itemsize > 4 and not x64_enabled():
        raise DtypeError(
            f"{name} is {array.dtype} but JAX's 64-bit mode is off, so it would be rounded to "
            'float32; call jax.config.update("jax_enable_x64", True) first, '
            "or pass it as float32."
        )
    return jnp.asarray(array, jax.dtypes.canonicalize_dtype(array.dtype))


def x64_enabled() -> bool:
    """Whether JAX keeps 64-bit numbers here and now."""
    return jax.dtypes.canonicalize_dtype(np.float64) == np.float64


def precision_scope(dtype: Any) -> contextlib.AbstractContextManager[Any]:
    """A context in which JAX keeps ``dtype`` whole, whatever the global 64-bit flag says.

    Arrays made inside must leave it as NumPy arrays: JAX outside would round them again.
    """
    if np.dtype(dtype).itemsize > 4 and not x64_enabled():
        return jax.enable_x64(True)
    return contextlib.nullcontext()
