"""A plain folder of pictures with masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shapjax.core.errors import ShapjaxError
from shapjax.evaluate.datasets.record import (
    VOID,
    DataSet,
    Item,
    read_lines,
    read_png,
    split_named,
)

LAYOUT = (
    "images/ and masks/ with a PNG of the same name for each picture, and if there is a split "
    "train.txt and val.txt"
)


def folder(root: Path) -> DataSet:
    """Pictures under ``images/`` and a PNG with the class of each pixel under ``masks/``.

    Entry 0 of a mask is background and 255 is void; every other entry is a class, named by its
    number or by a line ``entry name`` of ``classes.txt``. ``train.txt`` and ``val.txt`` list
    names without their ending; without them every picture is explained, and its neighbour is
    sought among all others.

    Raises:
        ShapjaxError: there are no pictures, two differ in their ending alone, or a list is
            damaged.
    """
    from PIL import Image

    endings = set(Image.registered_extensions())
    pictures = root / "images"
    files = sorted(pictures.rglob("*")) if pictures.is_dir() else []
    found: dict[str, Path] = {}
    for path in files:
        if path.suffix.lower() in endings:
            name = str(path.relative_to(pictures).with_suffix(""))
            if name in found:
                raise ShapjaxError(
                    f"{found[name]} and {path} have one name and so one mask, expected a name of "
                    "its own for each picture; rename one."
                )
            found[name] = path
    if not found:
        raise ShapjaxError(
            f"{pictures} holds no pictures; the root of this data set holds {LAYOUT}."
        )
    classes = {number: str(number) for number in range(1, 255)}
    if (root / "classes.txt").is_file():
        path = root / "classes.txt"
        rows = split_named("this data set", read_lines(path, LAYOUT), 2, path)
        classes = {int(entry): name for entry, name in rows}

    def items(names: list[str]) -> tuple[Item, ...]:
        return tuple(
            Item(name, found.get(name, pictures / name), root / "masks" / f"{name}.png")
            for name in names
        )

    lists = [root / "train.txt", root / "val.txt"]
    if not any(path.is_file() for path in lists):
        everything = items(list(found))
        return DataSet("folder", root, classes, everything, everything, _labels)
    training, validation = (items(read_lines(path, LAYOUT)) for path in lists)
    return DataSet("folder", root, classes, training, validation, _labels)


def _labels(item: Item) -> np.ndarray:
    assert item.mask is not None
    entries = read_png(item.mask)
    return np.where(entries == 255, VOID, entries)
