"""The loss of masks made of prototypes, beside YOLO's.

Bolya et al. 2019, YOLACT, section 3.3: a mask is the sum of an image's prototypes by coefficients
of its own, learned pixel by pixel within the true box. Here that box is a tenth larger on each
side: a package that stands upright fills its box, and the mask would never learn where it ends.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from semiscope.learn.losses.yolo import (
    Matches,
    YoloLossSettings,
    assign,
    by_anchor,
    detection_terms,
    total,
)

_MARGIN = 0.1


def prototype_loss(
    outputs: list[Tensor],
    targets: Tensor,
    masks: Tensor,
    anchors: Tensor,
    strides: tuple[int, ...],
    settings: YoloLossSettings,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of one batch.

    Args:
        outputs: What ``YoloV5Seg`` gives.
        targets: As ``yolo_loss``.
        masks: (n, H, W) uint8 of 0 and 1, of the targets, at the size of the input.
        anchors: As ``yolo_loss``.
        strides: As ``yolo_loss``.
        settings: Weights and choices.

    Returns:
        As ``yolo_loss``, with the part "mask".
    """
    *levels, coefficients, prototypes = outputs
    maps = by_anchor(levels, anchors.shape[1])
    matches = assign(maps, targets, anchors, strides)
    parts = detection_terms(maps, matches, targets, anchors, strides, settings)
    chosen = chosen_coefficients(matches, maps, coefficients)
    target = torch.cat([match.target for match in matches])
    parts["mask"] = settings.mask_gain * mask_term(chosen, prototypes, target, targets, masks)
    return total(parts, len(maps[0]))


def chosen_coefficients(matches: list[Matches], maps: list[Tensor], coefficients: Tensor) -> Tensor:
    """Coefficients of the predictions that true boxes were assigned to.

    Args:
        matches: For each level, m in all.
        maps: For each level (B, A, H, W, 5 + K).
        coefficients: (B, M, P), level by level and there anchor by anchor, row by row.

    Returns:
        (m, M).
    """
    chosen, before = [], 0
    for match, raw in zip(matches, maps, strict=True):
        _, count, height, width, _ = raw.shape
        place = before + (match.anchor * height + match.row) * width + match.column
        chosen.append(coefficients[match.image, :, place])
        before += count * height * width
    return torch.cat(chosen)


def mask_term(
    coefficients: Tensor, prototypes: Tensor, target: Tensor, targets: Tensor, masks: Tensor
) -> Tensor:
    """Mean over m predictions of the mean cross entropy within the larger true box.

    What a cell should say is the covered share of its pixels, so that the logit crosses zero on the
    outline.

    Args:
        coefficients: (m, M).
        prototypes: (B, M, h, w).
        target: (m,) which of the targets each prediction is to become.
        targets: (n, 6) image, class, x, y, width, height in pixels of the input.
        masks: (n, H, W) uint8, H and W the same whole multiple of h and w.
    """
    height, width = prototypes.shape[2:]
    stride = masks.shape[1] // height
    cells = masks.view(len(masks), height, stride, width, stride)
    share = cells.float().mean((2, 4)).flatten(1)
    half = targets[:, 4:6] * (0.5 + _MARGIN)
    low = ((targets[:, 2:4] - half) / stride).floor()
    high = ((targets[:, 2:4] + half) / stride).ceil()
    left, top, right, bottom = (v[:, axis, None, None] for v in (low, high) for axis in (0, 1))
    column = torch.arange(width, device=masks.device)
    row = torch.arange(height, device=masks.device)[:, None]
    inside = (column >= left) & (column < right) & (row >= top) & (row < bottom)
    weight = inside.flatten(1) / inside.sum((1, 2)).clamp(min=1)[:, None]
    terms = []
    for i, planes in enumerate(prototypes.float().flatten(2)):
        here = targets[target, 0] == i
        own = target[here]
        entropy = F.binary_cross_entropy_with_logits(
            coefficients[here].float() @ planes, share[own], reduction="none"
        )
        terms.append((entropy * weight[own]).sum())
    return torch.stack(terms).sum() / max(len(target), 1)
