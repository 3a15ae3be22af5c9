"""Small pictures of defects, cut while an image's pixels are in memory."""

from __future__ import annotations

import base64

import cv2
import numpy as np
from numpy.typing import NDArray

from semiscope.types import Pixels

MOST_PX = 288
"""Longest side of a picture; larger views are shrunk to it."""
_CONTEXT = 1.7
_LEAST_PX = 96
_QUALITY = 80


class CropMaker:
    """Cuts pictures out of one image.

    Pixels of more than 8 bits are spread over the greys between their 0.5th and 99.5th percentile.
    """

    def __init__(self, pixels: Pixels) -> None:
        """Takes an image: (H, W) grey or (H, W, 3) RGB."""
        self._pixels = pixels
        self._range: tuple[float, float] | None = None

    def view(self, box: NDArray[np.float32]) -> list[int]:
        """Left, top, width, height of what to show of a defect: the box (4,) xyxy with context."""
        size = np.array(self._pixels.shape[1::-1])
        low, high = box[:2].astype(float), box[2:].astype(float)
        side = np.minimum(np.ceil(max(_LEAST_PX, _CONTEXT * (high - low).max())), size)
        corner = np.clip(np.round((low + high - side) / 2), 0, size - side)
        return [int(v) for v in (*corner, *side)]

    def jpeg(self, view: list[int]) -> str:
        """The picture of a view as a JPEG in base64, at most ``MOST_PX`` on its longest side."""
        left, top, width, height = view
        part = self._pixels[top : top + height, left : left + width]
        shrink = MOST_PX / max(width, height)
        if shrink < 1:
            to = (max(1, round(width * shrink)), max(1, round(height * shrink)))
            whole = int(1 / shrink)
            if whole > 1:
                # averaging over whole pixels is ten times as fast as over parts of them
                rows, columns = max(1, height // whole), max(1, width // whole)
                part = part[: rows * whole, : columns * whole]
                part = cv2.resize(part, (columns, rows), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
            part = cv2.resize(part, to, interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
        part = self._to_8_bit(part)
        if part.ndim == 3:
            part = cv2.cvtColor(part, cv2.COLOR_RGB2BGR)  # type: ignore[assignment]
        _, data = cv2.imencode(".jpg", part, (cv2.IMWRITE_JPEG_QUALITY, _QUALITY))
        return base64.b64encode(data.tobytes()).decode()

    def _to_8_bit(self, part: Pixels) -> Pixels:
        if part.dtype == np.uint8:
            return part
        if self._range is None:
            # every pixel of a large image would tell no more
            step = max(1, int((self._pixels.size / 65536) ** 0.5))
            low, high = np.percentile(self._pixels[::step, ::step], (0.5, 99.5))
            self._range = float(low), max(float(high), float(low) + 1e-9)
        low, high = self._range
        return (
            ((part.astype(np.float32) - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)
        )
