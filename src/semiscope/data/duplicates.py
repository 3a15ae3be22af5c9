"""Images that show the same place: by thumbnails that correlate, whichever way they are turned."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from semiscope.types import Pixels

SIDE = 32
# rows compared at once, so that memory stays small
_BLOCK = 1024


def thumbnail(pixels: Pixels) -> NDArray[np.float32]:
    """An image as a unit vector without mean, so that a dot product is a correlation.

    Args:
        pixels: (H, W) or (H, W, 3) RGB, any depth.

    Returns:
        (SIDE²,) float32; zeros for an image without any contrast, which correlates with nothing.
    """
    grey = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    centred = (small - small.mean()).ravel()
    norm = float(np.linalg.norm(centred))
    if norm < 1e-3:
        return np.zeros(SIDE * SIDE, np.float32)
    return np.asarray(centred / norm, dtype=np.float32)


def near_pairs(
    first: NDArray[np.float32], second: NDArray[np.float32], threshold: float
) -> Iterator[tuple[int, int, float]]:
    """Pairs that correlate above a threshold under one of the eight flips and quarter turns.

    Args:
        first: (n, SIDE²) thumbnails.
        second: (m, SIDE²) thumbnails; these are turned, so let them be the fewer.
        threshold: Correlation.

    Yields:
        Index into the first, index into the second, correlation.
    """
    square = second.reshape(-1, SIDE, SIDE)
    turned = [np.rot90(square, k, axes=(1, 2)) for k in range(4)]
    views = [v.reshape(len(second), -1) for t in turned for v in (t, t[:, :, ::-1])]
    for start in range(0, len(first), _BLOCK):
        block = first[start : start + _BLOCK]
        best = np.max([block @ view.T for view in views], axis=0)
        for i, j in np.argwhere(best > threshold):
            yield start + int(i), int(j), float(best[i, j])
