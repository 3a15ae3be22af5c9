"""The bar with text and a scale that an instrument writes across the bottom of an image."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from semiscope.types import Pixels

# parts of the image's height and rows: what is larger or smaller is no bar
_LARGEST = 0.25
_SMALLEST_PX = 8
# of 255 levels: what lossy compression does to an even ground, how dark or bright (from the other
# end) the ground is, and what tells letters from it
_EVEN = 12
_GROUND = 32
_LETTER = 60
# mean deviation from the ground that a row of the bar has less than of any row of a noisy image
_NOISE = 1.0
# changes between letters and ground along a row, and the rows that have as many
_CHANGES = 12
_LETTER_ROWS = 4
_MAX_RULED_PX = 3


def find_info_bar(pixels: Pixels) -> int:
    """Rows at the bottom that are an instrument's info bar.

    A bar is an even black or white ground over the full width, with even rows at its top and its
    bottom and letters between them: they stand far off the ground, change often along a row, and
    change from row to row, as dashes and lines of a pattern do not. Above it the image begins with
    a step.

    Args:
        pixels: (H, W) or (H, W, 3), any depth.

    Returns:
        Number of rows, 0 when there is no bar.
    """
    height, width = pixels.shape[:2]
    reach = int(height * _LARGEST)
    if reach < 2 * _SMALLEST_PX or width < 64:
        return 0
    # most images end here, no even black or white row at the bottom
    last = _to_levels(pixels[-2:], pixels)
    ground = int(np.median(last))
    if _GROUND < ground < 255 - _GROUND or np.abs(last - float(ground)).mean() > _EVEN / 4:
        return 0
    # a ruled frame may lie above the largest bar, and the step above that
    part = _to_levels(pixels[height - reach - 2 * _MAX_RULED_PX :], pixels)
    off = cv2.absdiff(part, np.full_like(part, ground))
    share = np.count_nonzero(off <= _EVEN, axis=1) / width
    # dark lines of a pattern look like the ground but for their noise
    noise = off.mean(axis=1)
    flat = (share >= 0.99) & (noise <= noise[-1] + _NOISE)
    top = _top(share, flat)
    if noise[top:][flat[top:]].any():
        top = _over_ringing(share, top)
    size = len(share) - top
    if not _SMALLEST_PX <= size <= reach or not _has_letters(off[top:] > _LETTER):
        return 0
    for _ in range(_MAX_RULED_PX):
        if np.count_nonzero(off[top - 1] > 255 - _GROUND - _EVEN) < 0.99 * width:
            break
        top -= 1
    return len(share) - top if noise[top - 4 : top].mean() > noise[-1] + _NOISE else 0


def _top(share: NDArray[np.float64], flat: NDArray[np.bool_]) -> int:
    """The highest even row that mostly-ground rows join to the bottom; ruled lines are passed."""
    mostly = share >= 0.3
    ruled = 0
    top = len(share)
    for row in range(len(share) - 1, -1, -1):
        ruled = 0 if mostly[row] else ruled + 1
        if ruled > _MAX_RULED_PX:
            break
        if flat[row]:
            top = row
    return top


def _over_ringing(share: NDArray[np.float64], top: int) -> int:
    """The bar's upper edge where JPEG let the image above ring into the bar's first block."""
    for row in range(top - 1, max(top - 8, 0), -1):
        if share[row] < 0.9:
            break
        top = row
    return top


def _has_letters(ink: NDArray[np.bool_]) -> bool:
    """Whether marks on an even ground look like writing."""
    rows = np.count_nonzero(ink[:, 1:] != ink[:, :-1], axis=1) >= _CHANGES
    if np.count_nonzero(rows) < _LETTER_ROWS:
        return False
    below = np.count_nonzero((ink[1:] != ink[:-1])[rows[1:] & rows[:-1]])
    return bool(below > 0.1 * np.count_nonzero(ink[rows]))


def _to_levels(part: Pixels, whole: Pixels) -> NDArray[np.uint8]:
    """(H, W) uint8 of a part, scaled to 255 levels by the range of the whole."""
    grey = np.ascontiguousarray(part[:, :, 1] if part.ndim == 3 else part)
    if grey.dtype == np.uint8:
        return grey.astype(np.uint8, copy=False)
    step = max(1, whole.shape[0] // 256)
    low, high = float(whole[::step].min()), float(whole[::step].max())
    scale = 255 / (high - low) if high > low else 0.0
    return cv2.convertScaleAbs(grey.astype(np.float32), alpha=scale, beta=-low * scale).astype(
        np.uint8
    )
