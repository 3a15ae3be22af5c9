"""Masks that a network gives within their boxes, pasted into the image. Numpy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from semiscope.geometry import clip_boxes
from semiscope.infer.decode import Placement
from semiscope.types import Annotations, Mask


def decode_instances(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    classes: NDArray[np.int64],
    masks: NDArray[np.float32],
    placement: Placement,
    size: tuple[int, int],
    min_score: float,
) -> Annotations:
    """Instances of one image from what Mask R-CNN gives.

    Args:
        boxes: (D, 4) xyxy in pixels of the input.
        scores: (D,) by falling score; 0 where a place is not used.
        classes: (D,) class indices.
        masks: (D, S, S) logits on a regular grid within the box.
        placement: Where the image lies in the input.
        size: (height, width) of the image.
        min_score: Lowest score.

    Returns:
        Instances in pixels of the image, by falling score. One whose mask is empty keeps its box.
    """
    whole = placement.to_image(boxes)
    xyxy = clip_boxes(whole, *size)
    inside = (xyxy[:, 2:] > xyxy[:, :2]).all(1)
    kept = np.flatnonzero((scores > 0) & (scores >= min_score) & inside)
    shapes = tuple(paste(masks[i], whole[i], size) for i in kept)
    return Annotations(xyxy[kept], classes[kept].astype(np.int64), scores[kept], shapes)


def paste(logits: NDArray[np.float32], box: NDArray[np.float32], size: tuple[int, int]) -> Mask:
    """The pixels of an image whose centres lie where a mask's logit is positive.

    Args:
        logits: (S, S) on a regular grid within the box, interpolated between its cells' centres.
        box: (4,) xyxy in pixels of the image, with an area; it may reach beyond the image.
        size: (height, width) of the image.

    Returns:
        The crop of the pixels that the box touches.
    """
    left, top = (max(0, int(np.floor(v))) for v in box[:2])
    right, bottom = min(size[1], int(np.ceil(box[2]))), min(size[0], int(np.ceil(box[3])))
    side = len(logits)
    first, second, share = _between(top, bottom, box[1], box[3], side)
    rows = logits[first] * (1 - share[:, None]) + logits[second] * share[:, None]
    first, second, share = _between(left, right, box[0], box[2], side)
    return Mask(left, top, rows[:, first] * (1 - share) + rows[:, second] * share > 0)


def _between(
    start: int, stop: int, low: float, high: float, side: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """For the pixels from start to stop the two cells about each centre, and the second's share."""
    place = (np.arange(start, stop) + 0.5 - low) / (high - low) * side - 0.5
    place = place.clip(0, side - 1)
    first = place.astype(np.intp)
    return first, np.minimum(first + 1, side - 1), (place - first).astype(np.float32)
