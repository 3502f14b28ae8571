"""Caltech-UCSD Birds 200 (2011)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shapjax.evaluate.datasets.record import DataSet, Item, read_lines, read_png, split_named

LAYOUT = (
    "images/, images.txt, image_class_labels.txt, classes.txt and train_test_split.txt, and "
    "segmentations/ where that archive was unfolded too"
)

MAJORITY = 128
"""Grey of a segmentation from which on at least half of its five annotators saw the bird."""


def cub(root: Path) -> DataSet:
    """CUB-200-2011 with the publisher's own split; a class is a species.

    Masks are used where ``segmentations/`` is there, in the root or beside it: they are grey by
    how many annotators saw the bird, and the bird is where most did. Nothing is void.

    Raises:
        ShapjaxError: a list is missing or damaged.

    Source: Wah et al. 2011.
    """
    inner = root / "CUB_200_2011"
    root = inner if inner.is_dir() else root

    def table(name: str) -> dict[str, str]:
        path = root / name
        return dict(split_named("CUB-200-2011", read_lines(path, LAYOUT), 2, path))

    species = {int(number): name for number, name in table("classes.txt").items()}
    labels, training = table("image_class_labels.txt"), table("train_test_split.txt")
    beside = [folder for folder in (root, root.parent) if (folder / "segmentations").is_dir()]
    splits: dict[str, list[Item]] = {"1": [], "0": []}
    for number, name in table("images.txt").items():
        mask = None
        if beside:
            mask = (beside[0] / "segmentations" / name).with_suffix(".png")
        item = Item(name, root / "images" / name, mask, (int(labels[number]),))
        splits[training[number]].append(item)
    return DataSet("cub", root, species, tuple(splits["1"]), tuple(splits["0"]), _labels)


def _labels(item: Item) -> np.ndarray:
    assert item.mask is not None
    return np.where(read_png(item.mask) >= MAJORITY, item.classes[0], 0).astype(np.int32)
