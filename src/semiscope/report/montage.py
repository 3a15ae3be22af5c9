"""Many images in one picture."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from semiscope.infer.decode import letterbox, scale_range, with_channels
from semiscope.types import Pixels

_GAP = 4
_PAPER = 245


def montage(images: Sequence[Pixels], side: int = 128, columns: int = 6) -> bytes:
    """Images in rows as a PNG, each within a square, those of more than 8 bits stretched.

    Args:
        images: (H, W) or (H, W, 3) each, at least one.
        side: Of a square, px.
        columns: Squares a row.
    """
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    step = side + _GAP
    canvas = np.full((rows * step + _GAP, columns * step + _GAP, 3), _PAPER, np.uint8)
    for place, pixels in enumerate(images):
        top, left = (_GAP + step * i for i in divmod(place, columns))
        canvas[top : top + side, left : left + side] = _square(pixels, side)
    return cv2.imencode(".png", canvas[..., ::-1])[1].tobytes()


def _square(pixels: Pixels, side: int) -> NDArray[np.uint8]:
    low, high = scale_range(pixels, "dtype" if pixels.dtype == np.uint8 else "percentile")
    small, _ = letterbox(with_channels(pixels, 3), side, side, low)
    share = (small.astype(np.float32) - low) / (high - low)
    return np.asarray((255 * share).clip(0, 255).round(), np.uint8)
