"""Pascal VOC 2012, segmentation."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from shapjax.core.errors import ShapjaxError
from shapjax.evaluate.datasets.record import VOID, DataSet, Item, read_lines, read_png

LAYOUT = (
    "JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/train.txt and val.txt, or an "
    "images.csv with the columns image and split"
)

CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)


def voc(root: Path) -> DataSet:
    """Pascal VOC 2012 as its archive unfolds (``VOCdevkit/VOC2012``), or a part of it.

    A part has the same two folders and an ``images.csv`` that says which pictures there are,
    with the columns ``image`` and ``split`` (train or val).

    Classes are those of the palette, 1 to 20; entry 255, the border of objects, is void.

    Raises:
        ShapjaxError: the lists of pictures are not there.

    Source: Everingham et al. 2010.
    """
    inner = root / "VOCdevkit" / "VOC2012"
    root = inner if inner.is_dir() else root
    if (root / "images.csv").is_file():
        names = _listed(root / "images.csv")
    else:
        lists = root / "ImageSets" / "Segmentation"
        names = {part: read_lines(lists / f"{part}.txt", LAYOUT) for part in ("train", "val")}
    splits = {
        part: tuple(
            Item(
                name,
                root / "JPEGImages" / f"{name}.jpg",
                root / "SegmentationClass" / f"{name}.png",
            )
            for name in found
        )
        for part, found in names.items()
    }
    classes = dict(enumerate(CLASSES, start=1))
    return DataSet("voc", root, classes, splits["train"], splits["val"], _labels)


def _listed(path: Path) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {"train": [], "val": []}
    rows = csv.DictReader(io.StringIO("\n".join(read_lines(path, LAYOUT))))
    for number, row in enumerate(rows, start=2):
        if row.get("split") not in names or not row.get("image"):
            raise ShapjaxError(
                f"line {number} of {path} names no image or no split of train and val; "
                "mend the list."
            )
        names[row["split"]].append(row["image"])
    return names


def _labels(item: Item) -> np.ndarray:
    assert item.mask is not None
    entries = read_png(item.mask)
    return np.where(entries == 255, VOID, entries)
