"""Prompts drawn from the truth, as a person would give them.

SeSAMI, section 2.1: random points, boxes about the objects, and random partial masks smaller than
the true ones. For evaluation the box is the exact one and the point lies well inside.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_PART = (0.2, 0.8)  # share of the true pixels that a partial mask has


def inner_point(bits: NDArray[np.bool_]) -> tuple[float, float]:
    """The centre of the pixel that lies farthest from the border of a bitmap.

    Args:
        bits: (h, w), at least one set; beyond its edges nothing is set.

    Returns:
        x and y in pixels of the bitmap.
    """
    padded = np.pad(bits, 1).astype(np.uint8)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    y, x = np.unravel_index(np.argmax(distance), distance.shape)
    return float(x) - 0.5, float(y) - 0.5


def random_points(
    bits: NDArray[np.bool_], count: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """(count, 2) x and y of the centres of random set pixels, any of them more than once.

    Raises:
        ValueError: No pixel is set.
    """
    rows, columns = np.nonzero(bits)
    chosen = rng.integers(len(rows), size=count)
    return np.stack([columns[chosen] + 0.5, rows[chosen] + 0.5], 1)


def jittered_box(
    xyxy: NDArray[np.float32],
    share: float,
    size: tuple[int, int],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """A box as a hand would draw it: each side is off by up to a share of the box's extent.

    Args:
        xyxy: (4,) the true box, px.
        share: Largest shift of a side; 0 for none.
        size: (height, width) that the box stays in.
        rng: Decides everything.

    Returns:
        (4,) xyxy, at least a pixel wide and high where the image allows it.
    """
    box = xyxy.astype(np.float64)
    extent = np.tile(box[2:] - box[:2], 2)
    box = box + rng.uniform(-share, share, 4) * extent
    far = np.array(size[::-1], np.float64)
    low = np.clip(box[:2], 0, np.maximum(far - 1, 0))
    high = np.clip(np.maximum(box[2:], low + 1), 0, far)
    return np.concatenate([low, high])


def partial_mask(bits: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """A random part of a bitmap: the pixels nearest to one of them.

    A bitmap of two pixels or more loses at least one, and one always stays.

    Raises:
        ValueError: No pixel is set.
    """
    rows, columns = np.nonzero(bits)
    seed = rng.integers(len(rows))
    distance = np.hypot(rows - rows[seed], columns - columns[seed])
    count = max(1, int(rng.uniform(*_PART) * len(rows)))
    nearest = np.argsort(distance, kind="stable")[:count]
    part = np.zeros_like(bits)
    part[rows[nearest], columns[nearest]] = True
    return part
