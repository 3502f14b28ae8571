"""Models of any kind as functions from batches to vectors."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from jax.tree_util import Partial

from shapjax.core.errors import ShapjaxError


def as_function(model: Any) -> Callable[[Any], Any]:
    """A function from a batch [B, ...] to vectors [B, C].

    Args:
        model: a function; a Flax ``nnx`` module, whose weights travel as arguments of the
            compiled program; a ``linen`` module bound to its weights, ``module.bind(variables)``,
            which become constants of it; a torch module in evaluation mode,
            which meets torch tensors on its own device and gives NumPy arrays; or an ONNX
            runtime session, whose first input and first output are taken. For anything else (a
            server, say) write a function that takes a NumPy batch.

    Raises:
        ShapjaxError: it is none of these, or a torch module that is training.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        return _of_torch(model, torch)
    if hasattr(model, "run") and hasattr(model, "get_inputs"):
        name = model.get_inputs()[0].name
        return lambda batch: model.run(None, {name: np.asarray(batch)})[0]
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
    weights = next(module.parameters(), None)
    device = None if weights is None else weights.device

    def run(batch: Any) -> np.ndarray:
        with torch.no_grad():
            return module(torch.as_tensor(np.array(batch), device=device)).cpu().numpy()

    return run
