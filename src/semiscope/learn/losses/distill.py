"""A detector that learns from another's answers (Hinton 2015), cell by cell.

Objectness and classes follow the teacher's softened probabilities. Boxes and classes count as much
as the teacher is sure that something is there, as in Mehta and Ozturk 2018.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from semiscope.config import Settings
from semiscope.learn.losses.boxes import ciou
from semiscope.learn.losses.yolo import BALANCE, YoloLossSettings, by_anchor, decode, total


class DistillLossSettings(Settings):
    """How much the teacher's answers count."""

    weight: float = Field(1.0, gt=0, description="Of the teacher's answers beside the truth")
    temperature: float = Field(2.0, gt=0, description="Logits are divided by it on both sides")


def distill_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    anchors: Tensor,
    strides: tuple[int, ...],
    gains: YoloLossSettings,
    settings: DistillLossSettings,
) -> tuple[Tensor, dict[str, Tensor]]:
    """How far a student's answers to one batch are from its teacher's; 0 where they are the same.

    Args:
        student: For each level (B, A * (5 + K), H, W) logits.
        teacher: Likewise.
        anchors: (L, A, 2) pixels, of both.
        strides: Pixels a cell, one a level.
        gains: Weights of box, objectness and classes, as for the truth.
        settings: Weight and temperature.

    Returns:
        The scalar to minimise (the mean over the batch times its size) and its parts.
    """
    area = student[0].shape[2] * student[0].shape[3] * strides[0] ** 2
    objectness = student[0].new_zeros(())
    sureness, far, unlike = [], [], []
    maps = by_anchor(student, anchors.shape[1]), by_anchor(teacher, anchors.shape[1])
    for own, taught, boxes, stride, balance in zip(*maps, anchors, strides, BALANCE, strict=True):
        ours, theirs = own.float(), taught.float()
        objectness = objectness + balance * _divergence(ours, theirs, settings, 4, 5).mean()
        batch, count, height, width = ours.shape[:4]
        anchor, row, column = torch.meshgrid(
            torch.arange(count, device=ours.device),
            torch.arange(height, device=ours.device),
            torch.arange(width, device=ours.device),
            indexing="ij",
        )
        places = [p.flatten().repeat(batch) for p in (anchor, row, column)]
        place = (boxes[places[0]], places[1], places[2], stride)
        ours, theirs = ours.flatten(0, 3), theirs.flatten(0, 3)
        sureness.append(theirs[:, 4].sigmoid())
        far.append(1 - ciou(decode(ours, *place), decode(theirs, *place)))
        if ours.shape[1] > 6:
            unlike.append(_divergence(ours, theirs, settings, 5, None).mean(1))
    sure = torch.cat(sureness)
    sure = sure / sure.sum().clamp(min=1e-6)
    classes = maps[0][0].shape[-1] - 5
    parts = {
        "taught_box": gains.box_gain * (sure * torch.cat(far)).sum(),
        "taught_objectness": gains.objectness_gain * area / 640**2 * objectness,
    }
    if unlike:
        parts["taught_class"] = gains.class_gain * classes / 80 * (sure * torch.cat(unlike)).sum()
    loss, parts = total(parts, len(student[0]))
    return settings.weight * loss, parts


def _divergence(
    ours: Tensor, theirs: Tensor, settings: DistillLossSettings, first: int, last: int | None
) -> Tensor:
    """Kullback-Leibler divergence of each softened yes or no, times the temperature squared."""
    t = settings.temperature
    own, taught = ours[..., first:last] / t, theirs[..., first:last] / t
    wanted = taught.sigmoid()
    cross = F.binary_cross_entropy_with_logits(own, wanted, reduction="none")
    return (cross - F.binary_cross_entropy_with_logits(taught, wanted, reduction="none")) * t**2
