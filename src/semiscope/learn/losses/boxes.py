"""Similarity of boxes: IoU, GIoU, CIoU and the normalised Wasserstein distance."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _corners(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    half = boxes[..., 2:] / 2
    low, high = boxes[..., :2] - half, boxes[..., :2] + half
    return low[..., 0], low[..., 1], high[..., 0], high[..., 1]


def box_iou(a: Tensor, b: Tensor, eps: float = 1e-7) -> Tensor:
    """Intersection over union of centre-size boxes, broadcast over leading dimensions.

    Args:
        a: (..., 4) x, y, width, height.
        b: (..., 4), in the same unit.
        eps: Keeps the ratio finite for empty boxes.

    Returns:
        (...) in [0, 1].
    """
    ax1, ay1, ax2, ay2 = _corners(a)
    bx1, by1, bx2, by2 = _corners(b)
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    overlap = width * height
    union = a[..., 2] * a[..., 3] + b[..., 2] * b[..., 3] - overlap
    return overlap / (union + eps)


def giou(a: Tensor, b: Tensor, eps: float = 1e-7) -> Tensor:
    """Generalised IoU: IoU less the share of the hull that neither box fills (Rezatofighi 2019).

    Args:
        a: (..., 4) x, y, width, height.
        b: (..., 4), in the same unit.
        eps: Keeps the ratios finite for empty boxes.

    Returns:
        (...) in (-1, 1].
    """
    ax1, ay1, ax2, ay2 = _corners(a)
    bx1, by1, bx2, by2 = _corners(b)
    width = torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)
    height = torch.maximum(ay2, by2) - torch.minimum(ay1, by1)
    iou = box_iou(a, b, eps)
    areas = a[..., 2] * a[..., 3] + b[..., 2] * b[..., 3]
    # union from IoU: overlap = iou * union and union = areas - overlap
    union = areas / (1 + iou)
    hull = width * height
    return iou - (hull - union) / (hull + eps)


def ciou(a: Tensor, b: Tensor, eps: float = 1e-7) -> Tensor:
    """Complete IoU: IoU less centre distance and aspect-ratio penalty (Zheng 2020, eq. 9 to 12).

    Args:
        a: (n, 4) predicted x, y, width, height.
        b: (n, 4) true boxes in the same unit.
        eps: Keeps the ratios finite for empty boxes.

    Returns:
        (n,) in (-1.5, 1]; 1 where the boxes are equal.
    """
    ax1, ay1, ax2, ay2 = _corners(a)
    bx1, by1, bx2, by2 = _corners(b)
    iou = box_iou(a, b, eps)
    width = torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)
    height = torch.maximum(ay2, by2) - torch.minimum(ay1, by1)
    diagonal = width**2 + height**2 + eps
    distance = (a[..., 0] - b[..., 0]) ** 2 + (a[..., 1] - b[..., 1]) ** 2
    angle = torch.atan(b[..., 2] / (b[..., 3] + eps)) - torch.atan(a[..., 2] / (a[..., 3] + eps))
    aspect = 4 / math.pi**2 * angle**2
    with torch.no_grad():
        weight = aspect / (1 - iou + aspect + eps)
    return iou - distance / diagonal - weight * aspect


def nwd(a: Tensor, b: Tensor, constant: float = 12.8, eps: float = 1e-7) -> Tensor:
    """Normalised Wasserstein distance between boxes seen as Gaussians (Wang 2021, eq. 8 to 9).

    ``exp(-W2 / constant)``. The constant is the mean object size of the data in the boxes' unit:
    12.8 px is AI-TOD's. Wong 2023 (appendix M) keeps 12.8 but gives boxes in grid cells, which
    makes the gradient much flatter; the caller chooses the unit.

    Args:
        a: (n, 4) x, y, width, height.
        b: (n, 4) in the same unit.
        constant: Size at which the similarity has fallen to 1/e.
        eps: Keeps the root's gradient finite where the boxes are equal.

    Returns:
        (n,) in (0, 1].
    """
    centre = ((a[..., :2] - b[..., :2]) ** 2).sum(-1)
    size = ((a[..., 2:] - b[..., 2:]) ** 2).sum(-1) / 4
    return torch.exp(-torch.sqrt(centre + size + eps) / constant)
