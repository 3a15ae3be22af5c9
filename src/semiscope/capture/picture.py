"""A small picture of a photograph with what was found in it, for people."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from semiscope.capture.package import Capture
from semiscope.types import Pixels

_MOST_PX = 720
_CAPTURED = (60, 220, 60)
_LEFT = (0, 140, 255)


def draw(pixels: Pixels, found: Capture) -> bytes:
    """A JPEG: the package that was captured green, a dot at its top-left corner; others orange.

    Args:
        pixels: The photograph, (H, W) or (H, W, 3), any depth.
        found: What became of it.
    """
    height, width = pixels.shape[:2]
    scale = min(1.0, _MOST_PX / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    view = _eight_bits(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
    for candidate in found.candidates:
        colour = _LEFT if found.upright is None else _CAPTURED
        cv2.polylines(view, [_fixed(candidate.corners * scale)], True, colour, 1, cv2.LINE_AA, 8)
    if found.corners is not None:
        x, y = (found.corners[0] * scale).round().astype(int).tolist()
        cv2.circle(view, (x, y), 4, _CAPTURED, -1, cv2.LINE_AA)
    text = found.reason or found.illumination
    for colour, thick in (((0, 0, 0), 3), (_LEFT if found.reason else _CAPTURED, 1)):
        cv2.putText(view, text, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, thick, cv2.LINE_AA)
    return bytes(cv2.imencode(".jpg", view)[1].tobytes())


def _eight_bits(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 BGR; what has more bits is stretched to the range that it uses."""
    if pixels.dtype != np.uint8:
        low, high = float(pixels.min()), float(pixels.max())
        stretched = (pixels.astype(np.float32) - low) * (255 / max(high - low, 1e-9))
        pixels = stretched.astype(np.uint8)
    code = cv2.COLOR_GRAY2BGR if pixels.ndim == 2 else cv2.COLOR_RGB2BGR
    return np.asarray(cv2.cvtColor(pixels, code), np.uint8)


def _fixed(points: NDArray[np.float64]) -> NDArray[np.int32]:
    """Eight bits after the point; far outside is cut off, where OpenCV's numbers would overflow."""
    return np.clip(np.round((points - 0.5) * 256), -(2**24), 2**24).astype(np.int32)
