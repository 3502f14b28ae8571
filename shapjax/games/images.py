"""Read pictures that strangers hand over, safely, as upright RGB."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shapjax.core.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 100_000_000
"""Largest picture that is decoded, up to a gigabyte at the peak; networks see a few hundred
pixels a side."""

MAX_SIDE = 65_535
"""Most pixels of a side, JPEG's own limit: decoders take minutes over what is longer."""

BLOCK = 1 << 20
"""Pixels that are converted at a time."""

FORMATS = (
    "PNG",
    "JPEG",
    "MPO",
    "WEBP",
    "TIFF",
    "GIF",
    "BMP",
    "PPM",
    "ICO",
    "TGA",
    "JPEG2000",
    "AVIF",
)


def load_image(source: str | os.PathLike[str] | Image.Image | np.ndarray) -> Image.Image:
    """An upright RGB picture.

    EXIF rotation is applied, transparency is laid over white, 16-bit and floating-point greys
    are scaled to 8 bits, CMYK, palettes and greyscale are converted; of an animation the first
    frame is taken.

    Args:
        source: a path; a PIL image; or an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4],
            uint8 in 0..255, uint16 in 0..65535 or float in 0..1.

    Raises:
        ImageError: missing, a folder, not a picture, damaged, over 100 megapixels, or over
            65,535 pixels long.
    """
    from PIL import Image

    if isinstance(source, Image.Image):
        with _decoding("the picture"):
            return _upright_rgb(source, "the picture")
    if isinstance(source, np.ndarray):
        return _upright_rgb(_from_array(source), "the array")
    if isinstance(source, str | os.PathLike):
        return _from_file(Path(source))
    raise ImageError(
        f"got a {type(source).__name__}, expected a path, a PIL image or a NumPy array."
    )


def _from_file(path: Path) -> Image.Image:
    from PIL import Image

    Image.init()
    # Formats that are decoded in this process: some of Pillow's hand the file to other programs.
    formats = [name for name in FORMATS if name in Image.OPEN]
    with _decoding(str(path)), warnings.catch_warnings():
        # Our own limit speaks instead of Pillow's two thresholds.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "not a regular file"
            raise ImageError(f"{path} is {kind}, expected a picture; name a picture file.")
        with Image.open(path, formats=formats) as image:
            return _upright_rgb(image, str(path))


@contextlib.contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Turn whatever a missing, foreign or damaged picture raises into one sentence."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{name} does not exist; check the name.") from None
    except UnidentifiedImageError:
        raise ImageError(
            f"{name} is not a picture that can be read; give a PNG, JPEG, WebP or TIFF file."
        ) from None
    except Image.DecompressionBombError:
        raise _too_large(name, "more than Pillow opens") from None
    except Exception as error:  # decoders raise whatever a damaged file makes them raise
        reason = getattr(error, "strerror", None) or error
        raise ImageError(
            f"{name} is damaged or unreadable ({reason}); give a whole picture."
        ) from None


def _from_array(array: np.ndarray) -> Image.Image:
    from PIL import Image

    layout = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if not layout or 0 in array.shape:
        raise ImageError(
            f"got an array of shape {array.shape}, expected a picture [H, W], [H, W, 3] or "
            "[H, W, 4]."
        )
    if array.dtype.kind == "f":
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise ImageError("a picture of floats must lie in [0, 1] and hold no NaN; rescale it.")
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype == np.uint16:
        array = (array // 257).astype(np.uint8)
    elif array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        raise ImageError(f"got a picture of dtype {array.dtype}, expected uint8, uint16 or float.")
    return Image.fromarray(array.squeeze(2) if array.shape[2:] == (1,) else array)


def _upright_rgb(image: Image.Image, name: str) -> Image.Image:
    from PIL import Image, ImageOps

    require_pixels(image, name)
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "F"):
        image = _eight_bit(np.asarray(image))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        picture = image.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return image.convert("RGB")


def require_pixels(image: Image.Image, name: str, most: int = MAX_PIXELS) -> None:
    """Refuse a picture without pixels or with too many, before it is decoded.

    Raises:
        ImageError: it has none, more than ``most``, or more than 65,535 on a side.
    """
    require_size(*image.size, name, most)


def require_size(width: int, height: int, name: str, most: int = MAX_PIXELS) -> None:
    """Like ``require_pixels``, for a size that is known before there is a picture.

    Raises:
        ImageError: as there.
    """
    if width * height > most:
        raise _too_large(name, f"{width} x {height} pixels", most)
    if max(width, height) > MAX_SIDE:
        raise ImageError(
            f"{name} has {width} x {height} pixels, expected sides of at most {MAX_SIDE}; cut it."
        )
    if width < 1 or height < 1:
        raise ImageError(f"{name} has {width} x {height} pixels, expected at least one.")


def png_entries(path: Path, use: str, most: int = MAX_PIXELS) -> np.ndarray:
    """What a PNG holds, as it holds it: [H, W] palette entries or greys, else [H, W, channels].

    Args:
        path: the file.
        use: what it is read as, for the message.
        most: pixels that are decoded.

    Raises:
        ImageError: it is no PNG, damaged, or has more pixels than that.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # Our own limit speaks instead of Pillow's two thresholds.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=["PNG"]) as image:
                require_pixels(image, str(path), most)
                return np.asarray(image)
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise _too_large(str(path), "more than Pillow opens", most) from None
    except Exception as error:  # decoders raise whatever a damaged file makes them raise
        raise ImageError(f"{path} is no PNG that can be read as a {use} ({error}).") from None


def _eight_bit(grey: np.ndarray) -> Image.Image:
    """Greys of 16 or 32 bits, or floats, as 8 bits: by their range where it is not 16 bits.

    Some rows at a time, since a large picture in float64 would take ten times its own memory.
    """
    from PIL import Image

    step = max(1, BLOCK // grey.shape[1])
    blocks = [slice(top, top + step) for top in range(0, len(grey), step)]

    def numbers(block: slice) -> np.ndarray:
        return np.nan_to_num(grey[block].astype(np.float64))

    low = min(float(numbers(block).min()) for block in blocks)
    high = max(float(numbers(block).max()) for block in blocks)
    if grey.dtype.kind == "f" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif grey.dtype.kind != "f" and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    found = np.empty(grey.shape, np.uint8)
    for block in blocks:
        scaled = (numbers(block) - low) / max(high - low, np.finfo(float).tiny) * 255
        found[block] = np.rint(scaled)
    return Image.fromarray(found)


def _too_large(name: str, came: str, most: int = MAX_PIXELS) -> ImageError:
    limit = most // 1_000_000
    return ImageError(f"{name} has {came}, expected at most {limit} megapixels; scale it down.")
