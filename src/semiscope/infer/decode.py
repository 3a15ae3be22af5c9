"""From pixels to a network's input, and from its raw output to annotations. Numpy only.

Evaluation during training uses these functions too, so that a figure from training and one from the
shipped file can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from semiscope.geometry import clip_boxes, nms
from semiscope.types import Annotations, Pixels

Scaling = Literal["dtype", "percentile"]

_BEFORE_NMS = 3000  # the best so many boxes enter suppression
_MOST = 300  # boxes kept an image


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an image lies in a network's input: input = image * scale + (left, top)."""

    scale: float
    left: int
    top: int

    def to_image(self, xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, 4) boxes of the input in pixels of the image."""
        shift = np.array([self.left, self.top, self.left, self.top], np.float32)
        return (xyxy - shift) / np.float32(self.scale)


def scale_range(pixels: Pixels, scaling: Scaling) -> tuple[float, float]:
    """The grey values that become 0 and 1.

    Args:
        pixels: The whole image, so that all tiles of it share a range.
        scaling: "dtype": 0 to the largest value of the type (a float image: its smallest and
            largest value). "percentile": 0.5 % and 99.5 % of the grey values, which suits 12 bits
            in 16 and any detector gain.
    """
    if scaling == "dtype" and pixels.dtype != np.float32:
        return 0.0, 255.0 if pixels.dtype == np.uint8 else 65535.0
    sparse = pixels[:: max(1, pixels.shape[0] // 256), :: max(1, pixels.shape[1] // 256)]
    if scaling == "dtype":
        low, high = float(pixels.min()), float(pixels.max())
    else:
        low, high = (float(v) for v in np.percentile(sparse, (0.5, 99.5)))
    return (low, high) if high > low else (low, low + 1.0)


def with_channels(pixels: Pixels, channels: int) -> Pixels:
    """Grey (H, W) for one channel, RGB (H, W, 3) for three."""
    if channels == 1 and pixels.ndim == 3:
        return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)  # type: ignore[return-value]
    if channels == 3 and pixels.ndim == 2:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)  # type: ignore[return-value]
    return pixels


def letterbox(pixels: Pixels, height: int, width: int, value: float) -> tuple[Pixels, Placement]:
    """Scales an image to fit and centres it on a background, its aspect ratio kept.

    Args:
        pixels: (H, W) or (H, W, 3).
        height: Rows of the result.
        width: Columns of the result.
        value: Grey level of the background.
    """
    rows, columns = pixels.shape[:2]
    scale = min(height / rows, width / columns)
    new = (max(1, round(rows * scale)), max(1, round(columns * scale)))
    if new != (rows, columns):
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        pixels = cv2.resize(pixels, (new[1], new[0]), interpolation=how)  # type: ignore[assignment]
    top, left = (height - new[0]) // 2, (width - new[1]) // 2
    if new != (height, width):
        canvas = np.full((height, width, *pixels.shape[2:]), value, pixels.dtype)
        canvas[top : top + new[0], left : left + new[1]] = pixels
        pixels = canvas
    return pixels, Placement(scale, left, top)


def to_tensor(
    pixels: Pixels,
    low_high: tuple[float, float],
    mean: Sequence[float],
    std: Sequence[float],
) -> NDArray[np.float32]:
    """(H, W) or (H, W, 3) pixels as (C, H, W) float32: ((p - low) / (high - low) - mean) / std.

    Values outside the range are clipped to it before the mean is taken off.
    """
    low, high = low_high
    values = pixels.astype(np.float32)
    if low != 0.0:
        values -= np.float32(low)
    values *= np.float32(1 / (high - low))
    np.clip(values, 0, 1, out=values)
    planes = values[None] if values.ndim == 2 else np.ascontiguousarray(values.transpose(2, 0, 1))
    planes -= np.asarray(mean, np.float32).reshape(-1, 1, 1)
    planes *= 1 / np.asarray(std, np.float32).reshape(-1, 1, 1)
    return planes


def find_yolo(
    maps: Sequence[NDArray[np.float32]],
    anchors: Sequence[Sequence[Sequence[float]]],
    strides: Sequence[int],
    min_score: float,
    iou_threshold: float,
) -> tuple[Annotations, NDArray[np.intp]]:
    """Detections of one image from a YOLO network's raw output.

    ``xy = (2 s - 0.5 + cell) * stride``, ``wh = (2 s)^2 * anchor`` with s the sigmoid; a class's
    score is objectness times class. A place may carry several classes.
    Suppression is class by class.

    Args:
        maps: For each level (A * (5 + K), H, W) float32 logits.
        anchors: For each level A pairs of width and height in input pixels.
        strides: Pixels a cell, one a level.
        min_score: Detections below are left out.
        iou_threshold: Overlap above which the lower score is suppressed.

    Returns:
        At most 300 detections in pixels of the input, by falling score; and for each its place
        among all boxes of the network, level by level and there anchor by anchor, row by row.
    """
    boxes, scores, classes, places = [], [], [], []
    before = 0
    # a class's score never exceeds the objectness, so most cells are dropped before any exponential
    least = np.log(max(min_score, 1e-9)) - np.log1p(-min(max(min_score, 1e-9), 1 - 1e-9))
    for raw, sizes, stride in zip(maps, anchors, strides, strict=True):
        count = len(sizes)
        grid = raw.reshape(count, -1, raw.shape[1], raw.shape[2])
        anchor, row, column = np.nonzero(grid[:, 4] >= least)
        sigma = 1 / (1 + np.exp(-grid[anchor, :, row, column].clip(-60, 60)))
        score = sigma[:, 4:5] * sigma[:, 5:]
        place, kind = np.nonzero(score >= min_score)
        sigma = sigma[place]
        x = (2 * sigma[:, 0] - 0.5 + column[place]) * stride
        y = (2 * sigma[:, 1] - 0.5 + row[place]) * stride
        half = 2 * sigma[:, 2:4] ** 2 * np.asarray(sizes, np.float32)[anchor[place]]
        boxes.append(np.stack([x - half[:, 0], y - half[:, 1], x + half[:, 0], y + half[:, 1]], 1))
        scores.append(score[place, kind])
        classes.append(kind)
        cells = raw.shape[1] * raw.shape[2]
        places.append((before + anchor * cells + row * raw.shape[2] + column)[place])
        before += count * cells
    xyxy = np.concatenate(boxes).astype(np.float32)
    found = Annotations(xyxy, np.concatenate(classes), np.concatenate(scores))
    best = np.argsort(-found.score, kind="stable")[:_BEFORE_NMS]
    kept = nms(found.xyxy[best], found.score[best], found.class_id[best], iou_threshold)
    chosen = best[kept[:_MOST]]
    return found[chosen], np.concatenate(places)[chosen]


def decode_yolo(
    maps: Sequence[NDArray[np.float32]],
    anchors: Sequence[Sequence[Sequence[float]]],
    strides: Sequence[int],
    min_score: float,
    iou_threshold: float,
) -> Annotations:
    """The detections of ``find_yolo`` alone."""
    return find_yolo(maps, anchors, strides, min_score, iou_threshold)[0]


def place(found: Annotations, placement: Placement, height: int, width: int) -> Annotations:
    """Detections of the input as detections of the image, clipped to it; empty ones are dropped."""
    xyxy = clip_boxes(placement.to_image(found.xyxy), height, width)
    kept = (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
    return Annotations(xyxy, found.class_id, found.score)[kept]
