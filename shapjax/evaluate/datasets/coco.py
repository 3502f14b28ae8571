"""MS COCO 2017 and COCO-Stuff."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from shapjax.core.errors import ImageError, ShapjaxError
from shapjax.evaluate.datasets.record import VOID, DataSet, Item, read_lines, read_png
from shapjax.games.images import require_size

LAYOUT = (
    "images/ (or nothing around it) with train2017/ and val2017/, and annotations/ with "
    "COCO-Stuff's pixel maps or instances_train2017.json and instances_val2017.json"
)

SPLITS = ("train2017", "val2017")


def coco(root: Path) -> DataSet:
    """MS COCO 2017 with COCO-Stuff's pixel maps where they are, else with its own objects.

    Pixel maps lie under ``annotations/stuffthingmaps/``, ``annotations/`` or ``stuffthingmaps/``,
    in a folder for each split; entry k shows the class of number k + 1, and 255, what nobody
    labelled, is void. A picture without a map counts as one whose map is missing. Their names are
    read from ``labels.txt`` (COCO-Stuff's) or else from the instances. Objects are drawn from
    ``instances_*.json``, later ones over earlier ones; crowds are void.

    Raises:
        ShapjaxError: pictures or annotations are not there.

    Source: Lin et al. 2014; Caesar et al. 2018.
    """
    pictures = root / "images" if (root / "images").is_dir() else root
    places = ("annotations/stuffthingmaps", "annotations", "stuffthingmaps")
    whole = [root / p for p in places if all((root / p / part).is_dir() for part in SPLITS)]
    maps = whole[0] if whole else None
    if maps is not None:
        training, validation = (_mapped(pictures / part, maps / part) for part in SPLITS)
        return DataSet("coco", root, _names(root), training, validation, _labels_of_map)
    drawn = Instances()
    files = [root / "annotations" / f"instances_{part}.json" for part in SPLITS]
    training, validation = (
        drawn.read(file, pictures / part) for file, part in zip(files, SPLITS, strict=True)
    )
    return DataSet("coco", root, drawn.classes, training, validation, drawn.labels, tuple(files))


def _mapped(pictures: Path, maps: Path) -> tuple[Item, ...]:
    names = {path.stem for path in maps.glob("*.png")}
    if not names:
        raise ShapjaxError(f"{maps} holds no pixel maps; the root of this data set holds {LAYOUT}.")
    names |= {path.stem for path in pictures.glob("*.jpg")}
    return tuple(
        Item(name, pictures / f"{name}.jpg", maps / f"{name}.png") for name in sorted(names)
    )


def _names(root: Path) -> dict[int, str]:
    """Names of the 182 classes of COCO-Stuff, by number; the numbers where no list is there."""
    names = {number: str(number) for number in range(1, 183)}
    for path in (root / "labels.txt", root / "annotations" / "labels.txt"):
        if path.is_file():
            rows = [line.partition(":") for line in read_lines(path, LAYOUT)]
            named = {int(n): name.strip() for n, _, name in rows if n.strip().isdigit()}
            return names | {number: name for number, name in named.items() if number}
    path = root / "annotations" / "instances_val2017.json"
    if path.is_file():
        names |= {entry["id"]: entry["name"] for entry in _json(path)["categories"]}
    return names


def _labels_of_map(item: Item) -> np.ndarray:
    assert item.mask is not None
    entries = read_png(item.mask)
    return np.where(entries == 255, VOID, entries + 1).astype(np.int32)


class Instances:
    """COCO's own annotations of objects, drawn into a map when they are asked for.

    Attributes:
        classes: name of each class by number.
    """

    def __init__(self) -> None:
        self.classes: dict[int, str] = {}
        self._objects: dict[Path, list[dict[str, Any]]] = {}
        self._sizes: dict[Path, tuple[int, int]] = {}

    def read(self, path: Path, pictures: Path) -> tuple[Item, ...]:
        """The pictures of a split, in a folder, that have objects in a file of annotations."""
        content = _json(path)
        try:
            self.classes |= {entry["id"]: entry["name"] for entry in content["categories"]}
            files = {entry["id"]: entry for entry in content["images"]}
            for one in content["annotations"]:
                image = files[one["image_id"]]
                place = pictures / image["file_name"]
                self._sizes[place] = (image["height"], image["width"])
                self._objects.setdefault(place, []).append(one)
            names = sorted(entry["file_name"] for entry in files.values())
        except (LookupError, TypeError) as error:
            raise ShapjaxError(
                f"{path} is damaged ({type(error).__name__}: {error}), expected COCO's annotations "
                "of objects; fetch it anew."
            ) from None
        return tuple(
            Item(Path(name).stem, pictures / name, pictures / name)
            for name in names
            if pictures / name in self._objects
        )

    def labels(self, item: Item) -> np.ndarray:
        """The class of each pixel, int32 [H, W]; crowds are void.

        Raises:
            ImageError: the annotations of the picture are damaged, or it is over 100 megapixels.
        """
        try:
            return self._drawn(item)
        except ImageError:
            raise
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise ImageError(
                f"{item.image} has objects that cannot be drawn ({type(error).__name__}: {error}), "
                "expected polygons or run lengths and a class number; fetch COCO's annotations "
                "anew."
            ) from None

    def _drawn(self, item: Item) -> np.ndarray:
        from PIL import Image, ImageDraw

        height, width = self._sizes[item.image]
        require_size(width, height, str(item.image))
        canvas = Image.new("I", (width, height))
        draw = ImageDraw.Draw(canvas)
        crowds = np.zeros((height, width), bool)
        for one in self._objects[item.image]:
            outline = one["segmentation"]
            if isinstance(outline, dict):
                crowds |= _run_lengths(outline, item, height, width)
                continue
            for polygon in outline:
                draw.polygon([float(value) for value in polygon], fill=int(one["category_id"]))
        drawn = np.asarray(canvas).astype(np.int32)
        return np.where(crowds & (drawn == 0), VOID, drawn).astype(np.int32)


def _run_lengths(outline: dict[str, Any], item: Item, height: int, width: int) -> np.ndarray:
    """A mask of run lengths down the columns, Boolean [H, W]."""
    counts = outline["counts"]
    filled = isinstance(counts, list) and sum(counts) == height * width
    if outline["size"] != [height, width] or not filled:
        raise ImageError(f"{item.image} has a crowd whose run lengths do not fill the picture.")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ShapjaxError(
            f"cannot read {path} ({error.strerror}); the root of this data set holds {LAYOUT}."
        ) from None
    except (ValueError, RecursionError):
        raise ShapjaxError(f"{path} is damaged JSON; fetch it anew.") from None
