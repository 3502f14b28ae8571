"""Where the players of a picture are: label maps, int32 [H, W], the player that owns each pixel."""

from __future__ import annotations

import numpy as np


def grid(height: int, width: int, rows: int, columns: int) -> np.ndarray:
    """Cells of a feature map laid over the input, row by row.

    Args:
        height, width: size of the network's input, pixels.
        rows, columns: size of the feature map.

    Returns:
        int32 [height, width] with labels 0..rows*columns-1.
    """
    y = np.arange(height) * rows // height
    x = np.arange(width) * columns // width
    return (y[:, None] * columns + x[None, :]).astype(np.int32)


def superpixels(picture: np.ndarray) -> np.ndarray:
    """SLIC superpixels: 50 segments, compactness 10, sigma 3.

    Args:
        picture: float32 [H, W, 3], RGB in [0, 1].

    Returns:
        int32 [H, W] with labels 0..k-1; k may differ from 50.

    Source: Hamilton et al. 2022, A.2 (settings); Achanta et al. 2012.
    """
    from skimage.segmentation import slic

    labels = slic(picture, n_segments=50, compactness=10, sigma=3, start_label=0)
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.int32)
