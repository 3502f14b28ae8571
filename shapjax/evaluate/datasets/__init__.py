"""Data sets in their publishers' own layouts, behind one interface.

``open_dataset(name, root)`` knows ``voc``, ``coco``, ``cub``, ``sop`` and ``folder``.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path

from shapjax.core.checks import one_of
from shapjax.core.errors import ShapjaxError
from shapjax.evaluate.datasets.coco import coco
from shapjax.evaluate.datasets.cub import cub
from shapjax.evaluate.datasets.folder import folder
from shapjax.evaluate.datasets.record import VOID, ClassMask, DataSet, Item
from shapjax.evaluate.datasets.sop import sop
from shapjax.evaluate.datasets.voc import voc

__all__ = ["DATASETS", "VOID", "ClassMask", "DataSet", "Item", "open_dataset"]

DATASETS: dict[str, Callable[[Path], DataSet]] = {
    "voc": voc,
    "coco": coco,
    "cub": cub,
    "sop": sop,
    "folder": folder,
}


def open_dataset(name: str, root: str | os.PathLike[str]) -> DataSet:
    """A data set by name, from its folder; only lists are read.

    Args:
        name: a key of ``DATASETS``.
        root: the folder that the publisher's archive unfolds to (or holds that folder).

    Raises:
        ShapjaxError: there is no such set, the root is no folder, its lists are not there or
            damaged, or a split is empty.
    """
    one_of(name, tuple(DATASETS), "dataset")
    place = Path(root)
    if not place.is_dir():
        raise ShapjaxError(f"{place} is not a folder, expected the root of {name}; name another.")
    found = _listed(name, place)
    if not found.training or not found.validation:
        raise ShapjaxError(
            f"{place} lists {len(found.training)} training and {len(found.validation)} validation "
            "pictures, expected some of both; name another folder."
        )
    return found


def _listed(name: str, place: Path) -> DataSet:
    """The data set of a root; whatever its lists make a layout raise becomes one sentence."""
    try:
        return DATASETS[name](place)
    except ShapjaxError:
        raise
    except (LookupError, TypeError, ValueError, csv.Error) as error:
        raise ShapjaxError(
            f"the lists under {place} are damaged or not all of one version "
            f"({type(error).__name__}: {error}), expected those of {name} as they were published; "
            "fetch them anew."
        ) from None
