"""Models of any kind as functions from batches to vectors."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
from jax.tree_util import Partial

from shapjax.core.errors import ShapjaxError, ValueFunctionError

_ONNX_TYPES = {
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


def is_model(given: Any) -> bool:
    """Whether it is something that ``as_function`` may know, not data."""
    return callable(given) or _is_session(given)


def as_function(model: Any) -> Callable[[Any], Any]:
    """A function from a batch [B, ...] to vectors [B, C].

    Args:
        model: a function; a Flax ``nnx`` module, whose weights travel as arguments of the
            compiled program; a ``linen`` module bound to its weights, ``module.bind(variables)``,
            which become constants of it; a torch module in evaluation mode,
            which meets torch tensors on its own device and gives NumPy arrays; or an ONNX
            runtime session of one input and one output, which may take batches of one size only.
            These two meet floats in their own precision. For anything else (a server, say) write
            a function that takes a NumPy batch.

    Raises:
        ShapjaxError: it is none of these, a torch module that is training, or a session of
            several inputs or outputs.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        return _of_torch(model, torch)
    if _is_session(model):
        return _of_session(model)
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(model, nnx.Module):
        graphdef, state = nnx.split(model)
        return Partial(lambda state, batch: nnx.merge(graphdef, state)(batch), state)
    linen = sys.modules.get("flax.linen")
    if linen is not None and isinstance(model, linen.Module) and model.scope is None:
        raise ShapjaxError(
            "the Flax linen module is not bound to its weights; give module.bind(variables)."
        )
    if callable(model):
        return model
    raise ShapjaxError(
        f"the model is a {type(model).__name__}, expected a backbone, a function, a Flax or torch "
        "module or an ONNX session; wrap it in a function of a batch."
    )


def _of_torch(module: Any, torch: Any) -> Callable[[Any], np.ndarray]:
    if module.training:
        raise ShapjaxError(
            "the torch module is in training mode, where dropout and batch statistics change its "
            "answers; call its eval() first."
        )
    own = list(chain(module.parameters(), module.buffers()))
    device = own[0].device if own else None
    dtype = next((tensor.dtype for tensor in own if tensor.is_floating_point()), None)

    def run(batch: Any) -> np.ndarray:
        tensor = torch.as_tensor(np.array(batch), device=device)
        with torch.no_grad():
            found = module(tensor.to(dtype) if tensor.is_floating_point() else tensor)
        if not isinstance(found, torch.Tensor):
            raise ValueFunctionError(
                f"the torch module gave a {type(found).__name__}, expected a tensor [B, C]; wrap "
                "it in a torch module, or a function of a NumPy batch, that returns the embedding."
            )
        # NumPy has no bfloat16.
        return found.to(torch.promote_types(found.dtype, torch.float32)).cpu().numpy()

    return run


def _is_session(model: Any) -> bool:
    return hasattr(model, "run") and hasattr(model, "get_inputs")


def _of_session(session: Any) -> Callable[[Any], np.ndarray]:
    for found, what in ((session.get_inputs(), "input"), (session.get_outputs(), "output")):
        if len(found) != 1:
            raise ShapjaxError(
                f"the ONNX session has {len(found)} {what}s "
                f"({', '.join(one.name for one in found)}), expected one; wrap it in a function "
                "from a NumPy batch to the embedding."
            )
    (entry,) = session.get_inputs()
    dtype = _ONNX_TYPES.get(entry.type)
    fixed = entry.shape[0] if entry.shape and isinstance(entry.shape[0], int) else None

    def run(batch: Any) -> np.ndarray:
        batch = np.asarray(batch)
        if dtype is not None and np.can_cast(batch.dtype, dtype, "same_kind"):
            batch = batch.astype(dtype, copy=False)
        size = fixed or len(batch)
        parts = []
        for start in range(0, len(batch), size):
            part = batch[start : start + size]
            # An export of a fixed batch takes nothing shorter.
            filled = np.concatenate([part, np.repeat(part[:1], size - len(part), axis=0)])
            parts.append(session.run(None, {entry.name: filled})[0][: len(part)])
        return np.concatenate(parts)

    return run
