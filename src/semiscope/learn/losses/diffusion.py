"""The loss of DiffusionInst: SimOTA matching, then focal, L1, GIoU and dice on every head.

Matching after Ge et al. 2021, "YOLOX", section 2, with the costs of Chen et al. 2023,
"DiffusionDet"; focal loss: Lin et al. 2017; GIoU: Rezatofighi et al. 2019; dice: Milletari 2016.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from semiscope.config import Settings
from semiscope.learn.losses.boxes import box_iou, giou
from semiscope.nets.diffusion_inst import MASK_CHANNELS, Stage

_OUTSIDE_CENTRE = 100.0
_OUTSIDE_ALL = 10_000.0
_CENTRE_REGION = 2.5
_TOP_IOUS = 5
LEAST_BOXES = _TOP_IOUS


class DiffusionLossSettings(Settings):
    """Weights of the terms."""

    class_gain: float = Field(2.0, ge=0, description="Of the focal loss")
    box_gain: float = Field(5.0, ge=0, description="Of the L1 distance of normalised boxes")
    iou_gain: float = Field(2.0, ge=0, description="Of 1 - GIoU")
    mask_gain: float = Field(5.0, ge=0, description="Of the dice loss")
    focal_alpha: float = Field(0.25, ge=0, le=1, description="Weight of what is there")
    focal_gamma: float = Field(2.0, ge=0, description="Above 0, easy examples count less")


def focal_loss(logits: Tensor, truth: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss of each logit (Lin et al. 2017, eq. 5); at gamma 0, weighted cross-entropy."""
    error = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    right = torch.exp(-error)
    weight = alpha * truth + (1 - alpha) * (1 - truth)
    return weight * (1 - right) ** gamma * error


def dice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """(M, h, w) mask logits against truth in [0, 1] -> (M,): 1 - 2 pt / (p^2 + t^2)."""
    p, t = logits.sigmoid().flatten(1), truth.flatten(1)
    return 1 - 2 * (p * t).sum(1) / ((p * p).sum(1) + (t * t).sum(1) + 1e-5)


def dynamic_masks(features: Tensor, kernels: Tensor) -> Tensor:
    """Mask logits by each instance's filters (Gu et al. 2024, eq. 4).

    Args:
        features: (M, 8, h, w), the image's for each instance.
        kernels: (M, 153).

    Returns:
        (M, h, w).
    """
    c = MASK_CHANNELS
    w1, w2, w3, b1, b2, b3 = torch.split(kernels, [c * c, c * c, c, c, c, 1], 1)
    x = features.flatten(2)
    x = F.relu(torch.baddbmm(b1[..., None], w1.reshape(-1, c, c), x))
    x = F.relu(torch.baddbmm(b2[..., None], w2.reshape(-1, c, c), x))
    logits = torch.baddbmm(b3[..., None], w3[:, None], x)
    return logits.reshape(-1, *features.shape[2:])


@torch.no_grad()
def match(
    logits: Tensor, boxes: Tensor, classes: Tensor, truth: Tensor, settings: DiffusionLossSettings
) -> tuple[Tensor, Tensor]:
    """SimOTA: which predictions answer for which truths.

    Args:
        logits: (N, K) of one image.
        boxes: (N, 4) x, y, width, height as shares of the image.
        classes: (G,) true classes, G at least 1.
        truth: (G, 4) true boxes likewise.
        settings: The costs' weights.

    Returns:
        (M,) indices of predictions and (M,) of their truths. A prediction has one truth, and every
        truth a prediction as long as there are as many.
    """
    score = logits.float()
    there = focal_loss(score, torch.ones_like(score), settings.focal_alpha, settings.focal_gamma)
    absent = focal_loss(score, torch.zeros_like(score), settings.focal_alpha, settings.focal_gamma)
    iou = box_iou(boxes[:, None], truth[None])
    distance = (boxes[:, None, :2] - truth[None, :, :2]).abs()
    in_box = (distance < truth[:, 2:] / 2).all(-1)
    in_centre = (distance < truth[:, 2:] * _CENTRE_REGION).all(-1)
    cost = (
        settings.class_gain * (there - absent)[:, classes]
        + settings.box_gain * _l1(boxes[:, None], truth[None])
        - settings.iou_gain * giou(boxes[:, None], truth[None])
        + _OUTSIDE_CENTRE * ~(in_box & in_centre)
        + _OUTSIDE_ALL * ~(in_box | in_centre).any(1, keepdim=True)
    )
    count, truths = cost.shape
    # a sum that falls short of a whole number by rounding alone is that number
    wanted = (iou.topk(min(_TOP_IOUS, count), 0).values.sum(0) + 1e-3).int().clamp(min=1)
    rank = cost.argsort(0).argsort(0)
    chosen = rank < wanted
    several = chosen.sum(1) > 1
    best = cost[several].masked_fill(~chosen[several], torch.inf).argmin(1)
    chosen[several] = F.one_hot(best, truths).bool()
    for lost in torch.nonzero(~chosen.any(0))[:count, 0].tolist():
        # the cheapest that answers for no truth, or for one that has others
        spare = ~chosen.any(1) | (chosen & (chosen.sum(0) > 1)).any(1)
        query = cost[:, lost].masked_fill(~spare, torch.inf).argmin()
        chosen[query] = False
        chosen[query, lost] = True
    query, target = torch.nonzero(chosen, as_tuple=True)
    return query, target


def _l1(a: Tensor, b: Tensor) -> Tensor:
    """Sum of the distances of the four sides, as shares of the image."""
    low = (a[..., :2] - a[..., 2:] / 2) - (b[..., :2] - b[..., 2:] / 2)
    high = (a[..., :2] + a[..., 2:] / 2) - (b[..., :2] + b[..., 2:] / 2)
    return low.abs().sum(-1) + high.abs().sum(-1)


def diffusion_loss(
    stages: Sequence[Stage],
    features: Tensor,
    rows: Tensor,
    masks: Tensor,
    settings: DiffusionLossSettings,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of one batch, summed over the heads.

    Args:
        stages: The heads' answers.
        features: (B, 8, h, w) mask features at stride 4.
        rows: (n, 6) truth: image index, class, x, y, width, height in pixels of the input.
        masks: (n, 4 h, 4 w) uint8, 1 inside.
        settings: Weights.

    Returns:
        The loss and its parts as they enter it, detached.
    """
    size = rows.new_tensor([features.shape[3], features.shape[2]] * 2) * 4
    image, classes, truth = rows[:, 0].long(), rows[:, 1].long(), rows[:, 2:] / size
    # a cell's truth is the share of it inside the mask, so that lines thinner than a cell count
    shares = F.avg_pool2d(masks[:, None].float(), 4)[:, 0]
    parts = dict.fromkeys(("class", "box", "iou", "mask"), features.sum() * 0.0)
    for stage in stages:
        corners = stage.boxes.float() / size
        boxes = torch.cat(
            [(corners[..., :2] + corners[..., 2:]) / 2, corners[..., 2:] - corners[..., :2]], -1
        )
        own, query, target = _match_all(stage.logits, boxes, image, classes, truth, settings)
        matched = max(len(query), 1)
        labels = torch.zeros_like(stage.logits)
        labels[own, query, classes[target]] = 1
        focal = focal_loss(stage.logits, labels, settings.focal_alpha, settings.focal_gamma)
        near, aim = boxes[own, query], truth[target]
        logits = dynamic_masks(features[own], stage.kernels[own, query])
        parts["class"] = parts["class"] + settings.class_gain * focal.sum() / matched
        parts["box"] = parts["box"] + settings.box_gain * _l1(near, aim).sum() / matched
        parts["iou"] = parts["iou"] + settings.iou_gain * (1 - giou(near, aim)).sum() / matched
        dice = dice_loss(logits, shares[target]).sum() / matched
        parts["mask"] = parts["mask"] + settings.mask_gain * dice
    total = torch.stack(list(parts.values())).sum()
    return total, {name: value.detach() for name, value in parts.items()}


def _match_all(
    logits: Tensor,
    boxes: Tensor,
    image: Tensor,
    classes: Tensor,
    truth: Tensor,
    settings: DiffusionLossSettings,
) -> tuple[Tensor, Tensor, Tensor]:
    """Image, prediction and truth of every match of a batch."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for i in sorted(set(image.tolist())):
        mine = torch.nonzero(image == i)[:, 0]
        query, target = match(logits[i], boxes[i], classes[mine], truth[mine], settings)
        found.append((torch.full_like(query, i), query, mine[target]))
    if not found:
        return (image[:0],) * 3
    own, query, target = (torch.cat(part) for part in zip(*found, strict=True))
    return own, query, target
