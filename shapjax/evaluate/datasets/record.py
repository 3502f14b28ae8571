"""What a data set is: named pictures of two splits, and which class each pixel shows."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shapjax.core.checks import one_of
from shapjax.core.errors import ImageError, ShapjaxError
from shapjax.games.images import png_entries
from shapjax.games.players import stretch

VOID = -1
"""Label of pixels whose class the publisher leaves open: they belong to no class."""

SHOWN = 10
"""Files that an error names; the others it counts."""


class Item(NamedTuple):
    """A picture of a data set.

    Attributes:
        name: unique among the pictures of its split.
        image: its file.
        mask: the file with the class of each pixel; None where there is none.
        classes: numbers of the classes of the whole picture, where the set says them.
    """

    name: str
    image: Path
    mask: Path | None = None
    classes: tuple[int, ...] = ()


class ClassMask(NamedTuple):
    """Where a class is in a picture.

    Attributes:
        shown: Boolean [S, S], the pixels of the class.
        void: Boolean [S, S], pixels that may or may not be of it.
    """

    shown: np.ndarray
    void: np.ndarray


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set in its publisher's layout; nothing is read before it is needed.

    Attributes:
        name: as the command line calls it.
        root: its folder.
        classes: name of each class by its number; other numbers in a mask show nothing, and
            ``VOID`` what is left open.
        training: pictures among which neighbours are sought.
        validation: pictures that are explained.
        read_labels: the class number of each pixel of an item, int32 [H, W].
        sources: files that it reads beside the item's mask, such as annotations of all pictures.
    """

    name: str
    root: Path
    classes: Mapping[int, str]
    training: tuple[Item, ...]
    validation: tuple[Item, ...]
    read_labels: Callable[[Item], np.ndarray]
    sources: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        """Whatever is known by its name must have one of its own.

        Raises:
            ShapjaxError: two classes, or two pictures of a split, have one name.
        """
        for what, names in (
            ("classes", list(self.classes.values())),
            ("training pictures", [item.name for item in self.training]),
            ("validation pictures", [item.name for item in self.validation]),
        ):
            twice = sorted(name for name, times in Counter(names).items() if times > 1)
            if twice:
                raise ShapjaxError(
                    f"{len(twice)} name(s) of {what} of {self.root} stand for several "
                    f"({', '.join(twice[:SHOWN])}), expected each once; mend its lists."
                )

    @property
    def items(self) -> tuple[Item, ...]:
        """All pictures, each once: a set without a split of its own has them in both."""
        return tuple(dict.fromkeys(self.training + self.validation))

    @property
    def has_masks(self) -> bool:
        """Whether any picture has one."""
        return any(item.mask is not None for item in self.validation)

    def number(self, category: str) -> int:
        """The number of a class.

        Raises:
            ShapjaxError: the set has no class of that name.
        """
        for number, name in self.classes.items():
            if name == category:
                return number
        raise ShapjaxError(
            f"{self.name} has no class {category!r}, expected one of its {len(self.classes)}; "
            "the pairs are of another data set."
        )

    def class_mask(self, item: Item, category: str, size: int) -> ClassMask | None:
        """Where a class is, at the size of a network's input, by the nearest pixel.

        Args:
            item: of this set.
            category: name of the class.
            size: pixels a side.

        Returns:
            Masks [size, size]; None where the item has none.

        Raises:
            ShapjaxError: there is no such class.
            ImageError: the file cannot be read.
        """
        if item.mask is None:
            return None
        labels = stretch(self.read_labels(item), size, size)
        return ClassMask(labels == self.number(category), labels == VOID)


def read_png(path: Path) -> np.ndarray:
    """Entries of a PNG of one channel (palette or grey), int32 [H, W].

    Raises:
        ImageError: it is missing, damaged, over 100 megapixels, or has colours instead of entries.
    """
    if not path.is_file():
        raise ImageError(f"{path} does not exist; check the name.")
    entries = png_entries(path, "mask")
    if entries.ndim != 2:
        raise ImageError(f"{path} has colours, expected one number for each pixel; use a palette.")
    return entries.astype(np.int32)


def read_lines(path: Path, layout: str) -> list[str]:
    """The lines of a list of the publisher's, without empty ones.

    Args:
        path: the list.
        layout: what a root of this kind holds, for the message.

    Raises:
        ShapjaxError: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ShapjaxError(
            f"cannot read {path} ({reason}); the root of this data set holds {layout}."
        ) from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def report_broken(broken: Mapping[Path, str], choice: str) -> None:
    """End with all broken files in one error, if they are not to be skipped.

    Args:
        broken: file and reason.
        choice: ``"fail"`` or ``"skip"``.

    Raises:
        ImageError: there are some, and the choice is to fail.
    """
    one_of(choice, ("fail", "skip"), "broken")
    if choice == "skip" or not broken:
        return
    listed = list(broken.items())
    shown = "; ".join(_short(path, reason) for path, reason in listed[:SHOWN])
    more = f"; and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    raise ImageError(
        f"{len(listed)} file(s) of the data set are missing or broken: {shown}{more}. Mend them, "
        "or skip them."
    )


def _short(path: Path, reason: str) -> str:
    """The reason, which names the file already or is told of which it is."""
    text = reason.rstrip(".")
    return text if str(path) in text else f"{path}: {text}"


def split_named(name: str, lines: Iterable[str], width: int, path: Path) -> list[list[str]]:
    """Rows of a list of numbers and names, each of ``width`` words; the last may hold spaces.

    Raises:
        ShapjaxError: a line has fewer words, or begins as another one does.
    """
    rows = [line.split(maxsplit=width - 1) for line in lines]
    for number, row in enumerate(rows, start=1):
        if len(row) != width:
            raise ShapjaxError(
                f"line {number} of {path} is {' '.join(row)!r}, expected {width} words as "
                f"{name} has them; fetch the list anew."
            )
    if (several := len(rows) - len({row[0] for row in rows})) > 0:
        raise ShapjaxError(
            f"{several} line(s) of {path} begin with a number that another line has, expected each "
            "once; mend it."
        )
    return rows
