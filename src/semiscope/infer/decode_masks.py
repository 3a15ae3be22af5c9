"""Masks from a network's raw output, each computed only inside its box. Numpy only."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from semiscope.geometry import clip_boxes, nms
from semiscope.infer.decode import Placement
from semiscope.types import Annotations, Mask

MASK_STRIDE = 4
"""Input pixels a side of a cell of the mask features."""
MASK_CHANNELS = 8
MASK_KERNEL = 2 * MASK_CHANNELS**2 + MASK_CHANNELS + 2 * MASK_CHANNELS + 1
"""Numbers of an instance's filters: weights 8x8, 8x8, 8x1, then biases 8, 8, 1."""


def decode_dynamic(
    logits: NDArray[np.float32],
    boxes: NDArray[np.float32],
    kernels: NDArray[np.float32],
    features: NDArray[np.float32],
    placement: Placement,
    size: tuple[int, int],
    min_score: float,
    iou_threshold: float,
) -> Annotations:
    """Instances of one image from what DiffusionInst gives.

    Of each step the N best pairs of box and class are taken; the steps are pooled and suppressed
    class by class (Gu et al. 2024, section 3.4).

    Args:
        logits: (S, N, K) class logits of S steps.
        boxes: (S, N, 4) xyxy in pixels of the input.
        kernels: (S, N, 153) filters.
        features: (8, h, w) mask features at stride 4.
        placement: Where the image lies in the input.
        size: (height, width) of the image.
        min_score: Lowest score.
        iou_threshold: Overlap above which the lower score is suppressed.

    Returns:
        Instances in pixels of the image, by falling score. One whose mask is empty keeps its box.
    """
    steps, count, classes = logits.shape
    scores = 1 / (1 + np.exp(-logits.astype(np.float64).clip(-60, 60))).reshape(steps, -1)
    best = np.argsort(-scores, 1, kind="stable")[:, :count]
    score = np.take_along_axis(scores, best, 1).reshape(-1).astype(np.float32)
    query = (best // classes + np.arange(steps)[:, None] * count).reshape(-1)
    found = Annotations(boxes.reshape(-1, 4)[query], (best % classes).reshape(-1), score)
    kept = np.flatnonzero(found.score >= min_score)
    kept = kept[nms(found.xyxy[kept], found.score[kept], found.class_id[kept], iou_threshold)]
    xyxy = clip_boxes(placement.to_image(found.xyxy[kept]), *size)
    inside = (xyxy[:, 2:] > xyxy[:, :2]).all(1)
    kept, xyxy = kept[inside], xyxy[inside]
    filters = kernels.reshape(-1, MASK_KERNEL)[query[kept]]
    masks = tuple(
        dynamic_mask(features, theta, box, placement, size)
        for theta, box in zip(filters, xyxy, strict=True)
    )
    return Annotations(xyxy, found.class_id[kept], found.score[kept], masks)


def dynamic_mask(
    features: NDArray[np.float32],
    theta: NDArray[np.float32],
    box: NDArray[np.float32],
    placement: Placement,
    size: tuple[int, int],
) -> Mask:
    """One instance's mask in its box: 1x1 convolutions 8 -> 8 -> 8 -> 1 with ReLU between.

    Training with the dice loss makes a cell's sigmoid the share of it that is covered. The mask has
    as many pixels as the shares sum to, those where the interpolated share is the highest: cut at
    one half in place of this, an instance thinner than a cell would be lost.

    Args:
        features: (8, h, w).
        theta: (153,) the instance's filters.
        box: (4,) xyxy in pixels of the image, inside it.
        placement: Where the image lies in the input.
        size: (height, width) of the image.
    """
    c = MASK_CHANNELS
    w1, w2, w3, b1, b2, b3 = np.split(theta, np.cumsum([c * c, c * c, c, c, c]))

    def covered(cells: NDArray[np.float32]) -> NDArray[np.float32]:
        x = np.maximum(w1.reshape(c, c) @ cells + b1[:, None], 0)
        x = np.maximum(w2.reshape(c, c) @ x + b2[:, None], 0)
        # the sigmoid, in a form that cannot overflow
        return (1 + np.tanh((w3 @ x + b3) / 2)) / 2  # type: ignore[no-any-return]

    left, top, share = _in_box(features, covered, box, placement, size)
    bits = np.zeros(share.size, bool)
    area = round(float(share.sum()))
    if area:
        bits[np.argpartition(share, -area, axis=None)[-area:]] = True
    return Mask(left, top, bits.reshape(share.shape))


def decode_prototypes(
    found: Annotations,
    coefficients: NDArray[np.float32],
    prototypes: NDArray[np.float32],
    placement: Placement,
    size: tuple[int, int],
) -> Annotations:
    """Detections of the input as instances of the image (Bolya et al. 2019, section 3.3).

    Args:
        found: n detections in pixels of the input.
        coefficients: (n, M) their weights of the prototypes.
        prototypes: (M, h, w) at stride 4.
        placement: Where the image lies in the input.
        size: (height, width) of the image.

    Returns:
        Those inside the image, in their order. One whose mask is empty keeps its box.
    """
    xyxy = clip_boxes(placement.to_image(found.xyxy), *size)
    kept = np.flatnonzero((xyxy[:, 2:] > xyxy[:, :2]).all(1))
    found, coefficients, xyxy = found[kept], coefficients[kept], xyxy[kept]
    masks = tuple(
        prototype_mask(prototypes, weights, box, placement, size)
        for weights, box in zip(coefficients, xyxy, strict=True)
    )
    return Annotations(xyxy, found.class_id, found.score, masks)


def prototype_mask(
    prototypes: NDArray[np.float32],
    coefficients: NDArray[np.float32],
    box: NDArray[np.float32],
    placement: Placement,
    size: tuple[int, int],
) -> Mask:
    """One instance's mask in its box: where the sigmoid of the weighted sum exceeds one half.

    A cell's sigmoid says how much of it is covered. Between cells that share is interpolated: the
    logits of a cell inside and of one outside are so large that the border would step from cell to
    cell.

    Args:
        prototypes: (M, h, w).
        coefficients: (M,) the instance's weights.
        box: (4,) xyxy in pixels of the image, inside it.
        placement: Where the image lies in the input.
        size: (height, width) of the image.
    """

    def covered(cells: NDArray[np.float32]) -> NDArray[np.float32]:
        # twice the sigmoid less one
        return np.tanh(coefficients @ cells / 2)

    left, top, value = _in_box(prototypes, covered, box, placement, size)
    return Mask(left, top, value > 0)


def _in_box(
    features: NDArray[np.float32],
    head: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    box: NDArray[np.float32],
    placement: Placement,
    size: tuple[int, int],
) -> tuple[int, int, NDArray[np.float32]]:
    """What a head makes of the features, interpolated to the pixels of a box.

    Args:
        features: (c, h, w) at stride 4.
        head: From (c, n) cells to their (n,) values.
        box: (4,) xyxy in pixels of the image, inside it.
        placement: Where the image lies in the input.
        size: (height, width) of the image.

    Returns:
        Column and row of the top left pixel, and the (height, width) values.
    """
    height, width = size
    left, top = (int(np.floor(v)) for v in box[:2])
    right, bottom = min(width, int(np.ceil(box[2]))), min(height, int(np.ceil(box[3])))
    # cells under the box, one more on each side for the interpolation
    shift = np.array([placement.left, placement.top, placement.left, placement.top])
    cells = (np.array([left, top, right, bottom]) * placement.scale + shift) / MASK_STRIDE
    rows, columns = features.shape[1:]
    first = np.clip(np.floor(cells[:2] - 1), 0, (columns - 1, rows - 1)).astype(int)
    last = np.clip(np.ceil(cells[2:] + 1), first + 1, (columns, rows)).astype(int)
    part = features[:, first[1] : last[1], first[0] : last[0]]
    values = head(part.reshape(len(part), -1)).reshape(part.shape[1:]).astype(np.float32)
    # the pixel (column, row) of the box has its centre at half a pixel, as the cells have
    factor = placement.scale / MASK_STRIDE
    offset = np.array([placement.left, placement.top]) / MASK_STRIDE - first
    matrix = np.array(
        [
            [factor, 0, (left + 0.5) * factor + offset[0] - 0.5],
            [0, factor, (top + 0.5) * factor + offset[1] - 0.5],
        ]
    )
    fine = cv2.warpAffine(
        values,
        matrix,
        (right - left, bottom - top),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return left, top, np.asarray(fine, np.float32)
