"""YOLOv7's loss: optimal-transport assignment, box, objectness and class terms.

Wang 2022 (YOLOv7) with the dynamic-k assignment of Ge 2021 (YOLOX, SimOTA); the mix of CIoU and
Wasserstein distance is Wong 2023, figure 3.21.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from semiscope.config import Settings
from semiscope.learn.losses.boxes import box_iou, ciou, nwd

BALANCE = (4.0, 1.0, 0.4)  # objectness weight of strides 8, 16, 32
ANCHOR_RATIO = 4.0
CANDIDATES = 10  # best overlaps summed for the dynamic k


class YoloLossSettings(Settings):
    """Weights and choices of the detection loss."""

    box: Literal["ciou", "nwd-grid", "nwd-pixel"] = Field(
        "ciou",
        description="Box term: CIoU, or its 50/50 mix with the Wasserstein distance in grid cells "
        "(as the thesis) or in pixels",
    )
    box_gain: float = Field(0.05, ge=0, description="Weight of the box term")
    objectness_gain: float = Field(1.0, ge=0, description="Weight of the objectness term at 640 px")
    class_gain: float = Field(0.5, ge=0, description="Weight of the class term for 80 classes")
    mask_gain: float = Field(
        0.15, ge=0, description="Weight of the mask term of a network that outlines"
    )
    nwd_constant: float = Field(
        12.8, gt=0, description="Size at which the Wasserstein similarity is 1/e"
    )


class Matches(NamedTuple):
    """Predictions of one level that a true box was assigned to, m of them."""

    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    target: Tensor

    def at(self, chosen: Tensor) -> Matches:
        """Those with the given indices."""
        return Matches(*(values[chosen] for values in self))


def candidates(targets: Tensor, anchors: Tensor, stride: int, height: int, width: int) -> Matches:
    """Cells and anchors of one level that a true box may be assigned to.

    An anchor fits when neither side differs by more than a factor of four; the cell of the centre
    and its two nearest neighbours count.

    Args:
        targets: (n, 6) image, class, x, y, width, height; pixels of the input.
        anchors: (A, 2) pixels.
        stride: Pixels a cell.
        height: Rows of the map.
        width: Columns of the map.
    """
    ratio = targets[None, :, 4:6] / anchors[:, None, :]
    fits = torch.maximum(ratio, 1 / ratio).amax(2) < ANCHOR_RATIO
    anchor, target = fits.nonzero(as_tuple=True)
    centre = targets[target, 2:4] / stride
    size = centre.new_tensor([width, height])
    far = size - centre
    offsets = [torch.zeros_like(centre)]
    keep = [torch.ones(len(target), dtype=torch.bool, device=targets.device)]
    for axis in (0, 1):
        for value, sign in ((centre, -1.0), (far, 1.0)):
            offset = torch.zeros_like(centre)
            offset[:, axis] = sign * 0.5
            offsets.append(offset)
            keep.append((value[:, axis] % 1 < 0.5) & (value[:, axis] > 1))
    cells = torch.cat([(centre + o)[k] for o, k in zip(offsets, keep, strict=True)])
    anchor = torch.cat([anchor[k] for k in keep])
    target = torch.cat([target[k] for k in keep])
    column = cells[:, 0].long().clamp(0, width - 1)
    row = cells[:, 1].long().clamp(0, height - 1)
    return Matches(targets[target, 0].long(), anchor, row, column, target)


def decode(raw: Tensor, anchor: Tensor, row: Tensor, column: Tensor, stride: int) -> Tensor:
    """Boxes of chosen predictions.

    Args:
        raw: (m, >= 4) logits.
        anchor: (m, 2) pixels.
        row: (m,) cell rows.
        column: (m,) cell columns.
        stride: Pixels a cell.

    Returns:
        (m, 4) x, y, width, height in pixels of the input.
    """
    sigma = raw[:, :4].sigmoid()
    grid = torch.stack([column, row], 1)
    centre = (2 * sigma[:, :2] - 0.5 + grid) * stride
    return torch.cat([centre, (2 * sigma[:, 2:]) ** 2 * anchor], 1)


@torch.no_grad()
def assign(
    maps: list[Tensor], targets: Tensor, anchors: Tensor, strides: tuple[int, ...]
) -> list[Matches]:
    """Gives each true box its k cheapest candidates, k from the overlaps (SimOTA), image by image.

    Cost in float32: class cross entropy of sqrt(objectness * class) plus 3 * -log IoU. A candidate
    that several boxes want goes to the one with the lowest cost.

    Args:
        maps: For each level (B, A, H, W, 5 + K) logits.
        targets: (n, 6) image, class, x, y, width, height in pixels.
        anchors: (L, A, 2) pixels.
        strides: Pixels a cell, one a level.

    Returns:
        The assignment for each level.
    """
    levels = []
    for raw, boxes, stride in zip(maps, anchors, strides, strict=True):
        levels.append(candidates(targets, boxes, stride, raw.shape[2], raw.shape[3]))
    if not len(targets):
        return levels
    chosen: list[list[Tensor]] = [[] for _ in levels]
    owner: list[list[Tensor]] = [[] for _ in levels]
    for image in torch.unique(targets[:, 0]).long():
        truth = (targets[:, 0] == image).nonzero()[:, 0]
        place, box, score = [], [], []
        for raw, found, boxes, stride in zip(maps, levels, anchors, strides, strict=True):
            here = (found.image == image).nonzero()[:, 0]
            # candidates of different boxes may share a cell: each prediction is priced once
            cell = torch.stack([found.anchor, found.row, found.column], 1)[here]
            cell, inverse = torch.unique(cell, dim=0, return_inverse=True)
            first = here.new_full((len(cell),), len(found.image))
            first.scatter_reduce_(0, inverse, here, "amin")
            picked = raw[image, cell[:, 0], cell[:, 1], cell[:, 2]].float()
            place.append(first)
            box.append(decode(picked, boxes[cell[:, 0]], cell[:, 1], cell[:, 2], stride))
            score.append((picked[:, 4:5].sigmoid() * picked[:, 5:].sigmoid()).sqrt())
        counts = [len(p) for p in place]
        boxes_, scores = torch.cat(box), torch.cat(score).clamp(1e-6, 1 - 1e-6)
        if not len(boxes_):
            continue
        iou = box_iou(targets[truth, None, 2:6], boxes_[None])
        k = iou.topk(min(CANDIDATES, iou.shape[1]), 1).values.sum(1).int().clamp(min=1)
        wanted = F.one_hot(targets[truth, 1].long(), scores.shape[1]).to(scores)
        entropy = -(wanted @ torch.log(scores).T + (1 - wanted) @ torch.log(1 - scores).T)
        cost = entropy - 3 * torch.log(iou + 1e-8)
        order = cost.argsort(1)
        rank = torch.empty_like(order).scatter_(
            1, order, torch.arange(cost.shape[1], device=cost.device).expand_as(order)
        )
        matched = rank < k[:, None]
        winner = torch.where(matched, cost, torch.inf).argmin(0)
        taken = matched.any(0)
        for i, (indices, wins) in enumerate(
            zip(torch.split(taken, counts), torch.split(winner, counts), strict=True)
        ):
            chosen[i].append(place[i][indices])
            owner[i].append(truth[wins[indices]])
    none = targets.new_zeros(0, dtype=torch.long)
    return [
        found.at(torch.cat([none, *c]))._replace(target=torch.cat([none, *o]))
        for found, c, o in zip(levels, chosen, owner, strict=True)
    ]


def yolo_loss(
    outputs: list[Tensor],
    targets: Tensor,
    anchors: Tensor,
    strides: tuple[int, ...],
    settings: YoloLossSettings,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of one batch.

    Args:
        outputs: For each level (B, A * (5 + K), H, W) logits.
        targets: (n, 6) image index, class, x, y, width, height in pixels of the input; n may be 0.
        anchors: (L, A, 2) pixels.
        strides: Pixels a cell, one a level.
        settings: Weights and choices.

    Returns:
        The scalar to minimise (the mean over the batch times its size) and its parts.
    """
    maps = by_anchor(outputs, anchors.shape[1])
    matches = assign(maps, targets, anchors, strides)
    parts = detection_terms(maps, matches, targets, anchors, strides, settings)
    return total(parts, len(outputs[0]))


def by_anchor(outputs: Sequence[Tensor], anchors: int) -> list[Tensor]:
    """For each level (B, A * (5 + K), H, W) as (B, A, H, W, 5 + K)."""
    return [o.view(o.shape[0], anchors, -1, *o.shape[2:]).permute(0, 1, 3, 4, 2) for o in outputs]


def total(parts: dict[str, Tensor], batch: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The scalar to minimise, the sum of means over a batch times its size; and its parts."""
    loss = torch.stack(list(parts.values())).sum() * batch
    return loss, {k: v.detach() for k, v in parts.items()}


def detection_terms(
    maps: list[Tensor],
    matches: list[Matches],
    targets: Tensor,
    anchors: Tensor,
    strides: tuple[int, ...],
    settings: YoloLossSettings,
) -> dict[str, Tensor]:
    """The box, objectness and class terms with their weights.

    Args:
        maps: For each level (B, A, H, W, 5 + K) logits.
        matches: What ``assign`` gave.
        targets: As ``yolo_loss``.
        anchors: As ``yolo_loss``.
        strides: As ``yolo_loss``.
        settings: As ``yolo_loss``.
    """
    classes = maps[0].shape[-1] - 5
    area = maps[0].shape[2] * maps[0].shape[3] * strides[0] ** 2
    box_sum = objectness_sum = class_sum = torch.zeros((), device=targets.device)
    for raw, match, boxes, stride, balance in zip(
        maps, matches, anchors, strides, BALANCE, strict=True
    ):
        raw = raw.float()
        wanted = torch.zeros_like(raw[..., 0])
        if len(match.target):
            picked = raw[match.image, match.anchor, match.row, match.column]
            predicted = decode(picked, boxes[match.anchor], match.row, match.column, stride)
            truth = targets[match.target, 2:6]
            overlap = ciou(predicted, truth)
            box_loss, quality = (1 - overlap).mean(), overlap.detach()
            if settings.box != "ciou":
                unit = stride if settings.box == "nwd-grid" else 1
                near = nwd(predicted / unit, truth / unit, settings.nwd_constant)
                box_loss = 0.5 * box_loss + 0.5 * (1 - near).mean()
                quality = 0.5 * quality + 0.5 * near.detach()
            box_sum = box_sum + box_loss
            wanted[match.image, match.anchor, match.row, match.column] = quality.clamp(0, 1)
            if classes > 1:
                one_hot = F.one_hot(targets[match.target, 1].long(), classes).to(picked)
                class_sum = class_sum + F.binary_cross_entropy_with_logits(picked[:, 5:], one_hot)
        objectness_sum = objectness_sum + balance * F.binary_cross_entropy_with_logits(
            raw[..., 4], wanted
        )
    return {
        "box": settings.box_gain * box_sum,
        "objectness": settings.objectness_gain * area / 640**2 * objectness_sum,
        "class": settings.class_gain * classes / 80 * class_sum,
    }
