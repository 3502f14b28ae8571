"""The signed colour scale of figures, pages and notebooks, and how its numbers are written."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

# Blue and vermilion stay apart under every common colour vision deficiency, and share one
# lightness, so that +x and -x look equally strong. OKLab (lightness, chroma, hue in degrees).
_NEGATIVE = (0.48, 0.145, 255.0)
_ZERO = (0.975, 0.0, 0.0)
_POSITIVE = (0.48, 0.16, 38.0)

_OKLAB_TO_LMS_ROOT = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
_LMS_TO_LINEAR_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)

_NICE = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)

FAINT = 0.35
"""How much of the picture's grey is left beneath heat: black becomes the grey 1 - FAINT."""


def _oklab(lightness: float, chroma: float, hue: float) -> np.ndarray:
    angle = math.radians(hue)
    return np.array([lightness, chroma * math.cos(angle), chroma * math.sin(angle)])


def _diverging_table() -> np.ndarray:
    """uint8 [255, 3], sRGB: straight lines in OKLab, hence equal steps to the eye."""
    t = np.linspace(-1.0, 1.0, 255)[:, None]
    end = np.where(t > 0, _oklab(*_POSITIVE), _oklab(*_NEGATIVE))
    oklab = _oklab(*_ZERO) + np.abs(t) * (end - _oklab(*_ZERO))
    linear = np.clip((oklab @ _OKLAB_TO_LMS_ROOT.T) ** 3 @ _LMS_TO_LINEAR_RGB.T, 0.0, 1.0)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(255 * srgb).astype(np.uint8)


COLORS = _diverging_table()
"""uint8 [255, 3]: from the most negative value over zero (entry 127) to the most positive."""


def paint(values: np.ndarray, limit: float) -> np.ndarray:
    """Colours, uint8 [..., 3], of values [...] on the scale from -limit to +limit."""
    middle = len(COLORS) // 2
    steps = np.round(np.clip(np.asarray(values, np.float64) / limit, -1.0, 1.0) * middle)
    return COLORS[steps.astype(int) + middle]


def scale_limit(values: np.ndarray) -> float:
    """The round number at or just above the largest magnitude; 1 where all values are zero."""
    largest = float(np.max(np.abs(values), initial=0.0))
    if largest == 0.0:
        return 1.0
    decade = 10.0 ** math.floor(math.log10(largest))
    # The tolerance keeps float32 rounding of, say, 0.2 from pushing the scale up to 0.25.
    return next((n * decade for n in _NICE if largest <= n * decade * (1 + 1e-6)), 10 * decade)


def signed(value: float) -> str:
    """A number with its sign (a true minus) and three significant digits."""
    return f"{value:+.3g}".replace("-", "−") if value else "0"


def faint_grey(picture: Image.Image) -> np.ndarray:
    """Luminance of a picture, compressed towards white: float [H, W] in 1 - FAINT .. 1."""
    return 1.0 - FAINT + FAINT * np.asarray(picture.convert("L"), np.float64) / 255.0
