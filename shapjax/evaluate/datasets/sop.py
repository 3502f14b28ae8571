"""Stanford Online Products."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shapjax.core.errors import ShapjaxError
from shapjax.evaluate.datasets.record import DataSet, Item, read_lines, split_named

LAYOUT = "Ebay_train.txt and Ebay_test.txt, and a folder of pictures for each kind of product"


def sop(root: Path) -> DataSet:
    """Stanford Online Products; a class is one product.

    The products of the publisher's training split are others than those of its test split, so
    neighbours are sought where there are any: a product's other pictures in the test split.
    There are no masks.

    Raises:
        ShapjaxError: the list is missing or damaged.

    Source: Oh Song et al. 2016.
    """
    inner = root / "Stanford_Online_Products"
    root = inner if inner.is_dir() else root
    path = root / "Ebay_test.txt"
    rows = split_named("Stanford Online Products", read_lines(path, LAYOUT)[1:], 4, path)
    items = tuple(Item(name, root / name, None, (int(product),)) for _, product, _, name in rows)
    classes = {number: str(number) for item in items for number in item.classes}
    return DataSet("sop", root, classes, items, items, _no_labels)


def _no_labels(item: Item) -> np.ndarray:
    raise ShapjaxError(f"{item.name} has no mask; Stanford Online Products has none.")
