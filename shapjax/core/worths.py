"""Run a value function over many coalitions, in fixed chunks, whatever it is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from shapjax.core.checks import whole_number
from shapjax.core.errors import ShapjaxError, ValueFunctionError
from shapjax.core.precision import float_array

Progress = Callable[[int, int], None]
"""Called with (coalitions done, coalitions in all) after every chunk."""

DEFAULT_CHUNK = 1024


class ValueFunction(Protocol):
    """The worth of coalitions: a Boolean array [B, n] to B real numbers.

    Bit i of a row says whether player i is in. A ``jax.tree_util.Partial`` carries its data as
    arguments of the compiled program, so games that differ only in data share one compilation. A
    callable that compiles its own programs says so by an attribute ``compiled = True``; it is a
    JAX function and is called as it is. One that knows why a coalition has no finite worth has a
    method ``not_finite`` (see ``require_finite``).
    """

    def __call__(self, masks: Any, /) -> Any:
        """Worth of each coalition, [B]."""
        ...


@jax.jit
def _run(game: Partial, masks: jax.Array) -> jax.Array:
    return game(masks)


def worths(
    value_fn: ValueFunction,
    masks: Any,
    *,
    chunk_size: int = DEFAULT_CHUNK,
    traceable: bool | None = None,
    progress: Progress | None = None,
) -> jax.Array | np.ndarray:
    """Worth of each coalition.

    Args:
        value_fn: a JAX function (traced, jitted) or any Python callable (NumPy, a remote
            model), [B, n] Boolean to [B] real. Repeated calls share a compilation where it is
            itself jitted or a ``jax.tree_util.Partial``.
        masks: Boolean [M, n].
        chunk_size: coalitions per call; the last chunk of a JAX function is padded to it, so
            one shape is compiled.
        traceable: whether ``value_fn`` is a JAX function; None finds out.
        progress: called after every chunk.

    Returns:
        [M]: a JAX array from a JAX function; from any other callable a NumPy array, float64
        where the callable gave float64, whatever JAX's 64-bit flag.

    Raises:
        ValueFunctionError: it returned the wrong shape or type, NaN or infinity.
        NotFiniteError: likewise, where the value function knows the network and the layer.
        DtypeError: a ``Partial`` carries float64 data while JAX's 64-bit mode is off.
    """
    chunk_size = whole_number(chunk_size, "chunk_size", low=1)
    total = len(masks)
    if getattr(masks, "ndim", 0) != 2 or masks.dtype != bool or total == 0:
        raise ShapjaxError(
            f"masks have shape {np.shape(masks)} and dtype {getattr(masks, 'dtype', None)}, "
            "expected Boolean [M, n] with M >= 1."
        )
    if not callable(value_fn):
        raise ShapjaxError(
            f"the value function is a {type(value_fn).__name__}, expected something to call; "
            "a table of values goes to shapjax.interactions."
        )
    parts: list[Any] = []
    done = 0
    if traceable is None:
        traceable, parts = _find_out(value_fn, masks)
        done = sum(len(part) for part in parts)
    run = _jitted(value_fn) if traceable else _plain(value_fn)
    width = min(chunk_size, total)
    for start in range(done, total, width):
        stop = min(start + width, total)
        # A full window that ends at the last row, so that every compiled call has one shape.
        first = min(start, total - width) if traceable else start
        part = _checked(
            run(masks[first:stop] if stop == total else masks[first : first + width]), stop - first
        )
        parts.append(part[start - first :])
        if progress is not None and not traceable:
            progress(stop, total)
        elif progress is not None and start > done:
            # Told when the next chunk is on its way, so that the device never waits for us.
            jax.block_until_ready(parts[-2])
            progress(start, total)
    if progress is not None and traceable and done < total:
        jax.block_until_ready(parts[-1])
        progress(total, total)
    if traceable:
        values = jnp.concatenate([float_array(p, "the value function's result") for p in parts])
    else:
        values = _as_float(np.concatenate(parts))
    require_finite(value_fn, values, masks)
    return values


def is_compiled(value_fn: ValueFunction) -> bool:
    """Whether calls of a JAX function share its compiled programs."""
    return _compiles_itself(value_fn) or isinstance(value_fn, Partial | jax.stages.Wrapped)


def _compiles_itself(value_fn: ValueFunction) -> bool:
    return getattr(value_fn, "compiled", False) is True


def is_traceable(value_fn: ValueFunction, n_players: int) -> bool:
    """Whether ``value_fn`` is a JAX function; may evaluate the empty coalition to find out."""
    return _find_out(value_fn, np.zeros((1, n_players), bool))[0]


def as_game(value_fn: ValueFunction) -> Partial:
    """A traceable function as a pytree that carries its data into a compiled program.

    A plain function is compiled anew each time: what it closes over may have changed since.

    Raises:
        DtypeError: a ``Partial`` carries float64 data while JAX's 64-bit mode is off.
    """
    if isinstance(value_fn, jax.stages.Wrapped):
        return Partial(value_fn)
    if not isinstance(value_fn, Partial):
        return Partial(lambda masks: value_fn(masks))
    for leaf in jax.tree.leaves(value_fn):
        if isinstance(leaf, np.ndarray | np.generic) and leaf.dtype.kind == "f":
            float_array(leaf, "the value function's data")
    return value_fn


def _jitted(value_fn: ValueFunction) -> Callable[[Any], Any]:
    if _compiles_itself(value_fn):
        return value_fn
    game = as_game(value_fn)

    def call(masks: Any) -> Any:
        try:
            return _run(game, jnp.asarray(masks))
        except (
            jax.errors.ConcretizationTypeError,
            jax.errors.TracerArrayConversionError,
            jax.errors.TracerIntegerConversionError,
        ):
            raise ValueFunctionError(
                "the value function was given as a JAX function but JAX cannot trace it; pass "
                "traceable=False, or a plain function instead of a jitted one or a Partial."
            ) from None

    return call


def _plain(value_fn: ValueFunction) -> Callable[[Any], Any]:
    return lambda masks: np.asanyarray(value_fn(np.asarray(masks)))


def _find_out(value_fn: ValueFunction, masks: Any) -> tuple[bool, list[Any]]:
    """Whether JAX can trace ``value_fn``, and the values of the rows spent on finding out.

    What it returns for NumPy input decides, before a tracer ever meets it: a Python function
    must not see masks that it would count or send away, and a NumPy function made of operators
    alone would trace, but JAX would round its float64 constants while the 64-bit mode is off.
    The row tried is kept, so nothing is evaluated twice.
    """
    if is_compiled(value_fn):
        return True, []
    try:
        values = value_fn(np.asarray(masks[:1]))
    except (AttributeError, TypeError):
        if traces(value_fn, masks.shape[1]):  # it wants the methods of JAX arrays
            return True, []
        raise
    if isinstance(values, jax.Array) and traces(value_fn, masks.shape[1]):
        return True, [_checked(values, 1)]
    return False, [_checked(np.asanyarray(values), 1)]


def traces(function: Callable[[Any], Any], n_players: int) -> bool:
    """Whether a function of masks, Boolean [B, n], takes a tracer for them; evaluates nothing."""
    try:
        jax.eval_shape(function, jax.ShapeDtypeStruct((2, n_players), jnp.bool_))
    except Exception:  # a stranger's function may fail in any way when it meets a tracer
        return False
    return True


def _checked(values: Any, rows: int) -> Any:
    shape = getattr(values, "shape", None)
    if shape is None or (shape == () and values.dtype == object):
        kind = type(values.item() if shape == () else values).__name__
        raise ValueFunctionError(
            f"the value function returned a {kind} for {rows} coalitions, expected an array of "
            f"shape ({rows},)."
        )
    if shape != (rows,):
        raise ValueFunctionError(
            f"the value function returned shape {shape} for {rows} coalitions, "
            f"expected ({rows},): one number for each."
        )
    if not (values.dtype == bool or jnp.issubdtype(values.dtype, jnp.number)) or (
        jnp.issubdtype(values.dtype, jnp.complexfloating)
    ):
        raise ValueFunctionError(
            f"the value function returned dtype {values.dtype}, expected real numbers."
        )
    if np.ma.is_masked(values):
        raise ValueFunctionError("the value function returned masked entries, expected numbers.")
    return values


def _as_float(values: np.ndarray) -> np.ndarray:
    """float64 for whole numbers and anything wider than it; what it was otherwise."""
    widen = values.dtype.kind in "biu" or values.dtype.itemsize > 8
    return values.astype(np.float64) if widen else values


def require_finite(value_fn: Any, values: Any, masks: Any) -> None:
    """Refuse NaN and infinity among what a function gave for masks.

    Args:
        value_fn: the function. Its method ``not_finite``, if it has one, takes the first mask
            with such a value, Boolean [n], to the error that tells the cause; or to None.
        values: numbers or embeddings, [M, ...].
        masks: Boolean [M, n].

    Raises:
        ValueFunctionError: there are some, and nothing more is known.
        ShapjaxError: what ``not_finite`` gives.
    """
    finite = np.isfinite(np.asarray(values)).reshape(len(values), -1).all(axis=1)
    bad = np.flatnonzero(~finite)
    if not bad.size:
        return
    first = np.asarray(masks[int(bad[0])])
    cause = value_fn.not_finite(first) if hasattr(value_fn, "not_finite") else None
    raise cause or ValueFunctionError(
        f"the value function returned NaN or infinity for {bad.size} of {len(values)} "
        f"coalitions (the first has players {members_of(first)}); make it finite for every "
        "coalition."
    )


def members_of(mask: np.ndarray) -> str:
    """The players of a coalition, Boolean [n], for a message: the first of many."""
    members = np.flatnonzero(mask).tolist()
    return str(members) if len(members) <= 12 else f"{members[:12]} and others"
