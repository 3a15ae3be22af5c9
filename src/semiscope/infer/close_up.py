"""Small regions asked for close up: from the part of an image about them, enlarged.

A promptable network answers in cells of four pixels of its input, so that a crack of three pixels
in an image of 1,024 comes out as a string of cells. Encoded again from a window about it, the same
crack is three or four times as wide. Windows lie on a grid, so that neighbours share one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from semiscope.infer.promptable import Prompter
from semiscope.types import Pixels

LEAST = 256  # px: a window shows at least so much of what is about a region

_MARGIN = 2.0  # a window is at least so many times as long as what it shows
_STEPS = 4  # windows start at multiples of so many parts of their side


def decode_close(
    prompter: Prompter,
    pixels: Pixels,
    *,
    points: ArrayLike | None = None,
    boxes: ArrayLike | None = None,
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """One mask for each of P prompts; each is asked in the window that shows it best.

    A box is its own extent; that of a point is the answer in the whole image.

    Args:
        prompter: Encodes an image once, and then each window.
        pixels: (H, W) or (H, W, 3).
        points: (P, 2) x and y in pixels of the image, each inside a region.
        boxes: (P, 4) xyxy in pixels; clipped to the image. Points or boxes, not both.

    Returns:
        (P, H, W) bool, and (P,) the IoU that each claims, in [0, 1].

    Raises:
        DataError: A prompt lies outside the image.
    """
    if (points is None) == (boxes is None):
        raise ValueError("expected points or boxes")
    whole = prompter.encode(pixels)
    height, width = pixels.shape[:2]
    if points is not None:
        places = np.asarray(points, np.float64).reshape(-1, 1, 2)
        masks, claimed = prompter.decode(whole, points=places)
        extents = np.array([_extent(m, p[0]) for m, p in zip(masks, places, strict=True)])
    else:
        masks, claimed = prompter.decode(whole, boxes=boxes)
        extents = np.asarray(boxes, np.float64).reshape(-1, 4).clip(0, [width, height] * 2)
    windows = close_windows(extents.reshape(-1, 4), (height, width))
    # those of one window together: it is encoded once
    for window in np.unique(windows, axis=0):
        left, top, right, bottom = (int(v) for v in window)
        if (right - left, bottom - top) == (width, height):
            continue
        some = np.flatnonzero((windows == window).all(1))
        part = prompter.encode(pixels[top:bottom, left:right])
        if points is not None:
            found, claims = prompter.decode(part, points=places[some] - (left, top))
        else:
            found, claims = prompter.decode(part, boxes=extents[some] - (left, top) * 2)
        masks[some] = False
        masks[some, top:bottom, left:right] = found
        claimed[some] = claims
    return masks, claimed


def close_windows(extents: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.int64]:
    """The part of an image in which to look at each extent.

    Its side is the image's longest, halved as often as the extent allows; it lies on a grid of
    quarters of its side, as central about the extent as that and the image's borders allow.

    Args:
        extents: (P, 4) xyxy, pixels.
        size: (height, width) of the image.

    Returns:
        (P, 4) xyxy, pixels; the whole image where an extent needs it.
    """
    far = np.array(size[::-1], np.int64)
    longest = (extents[:, 2:] - extents[:, :2]).max(1, initial=0.0)
    needed = np.maximum(_MARGIN * longest, LEAST)
    halvings = np.floor(np.log2(far.max() / needed)).clip(0, None)
    side = np.ceil(far.max() / 2**halvings).astype(np.int64)[:, None]
    step = np.maximum(side // _STEPS, 1)
    centre = (extents[:, :2] + extents[:, 2:]) / 2
    start = np.round((centre - side / 2) / step).astype(np.int64) * step
    start = start.clip(0, np.maximum(far - side, 0))
    return np.concatenate([start, np.minimum(start + side, far)], 1)


def _extent(mask: NDArray[np.bool_], point: NDArray[np.float64]) -> NDArray[np.float64]:
    """The box around a mask and the point that asked for it."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.concatenate([point, point])
    if len(rows):
        box[:2] = np.minimum(box[:2], (columns[0], rows[0]))
        box[2:] = np.maximum(box[2:], (columns[-1] + 1, rows[-1] + 1))
    return box
