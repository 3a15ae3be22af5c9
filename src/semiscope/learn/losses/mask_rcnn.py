"""The losses of Mask R-CNN's two stages, and of PointRend's points.

He et al. 2017, section 3; Ren et al. 2015, section 3.1.2 and 3.1.3; Kirillov et al. 2020, section
3.3. Whatever is drawn at random comes from torch's global generator.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from semiscope.config import Settings
from semiscope.nets.mask_rcnn import BOX_WEIGHTS, Predictions, Regions
from semiscope.nets.point_rend import cells
from semiscope.nets.rpn import RpnOutput, encode, pairwise_iou, rows

_BETA = 1 / 9  # where smooth L1 turns from a parabola to a line
_SAMPLES = 56  # a side, averaged to the mask's 28 or 7


class MaskRcnnLossSettings(Settings):
    """Which anchors and proposals are learned from."""

    anchor_positive: float = Field(
        0.7, gt=0, le=1, description="IoU with a true box from which an anchor holds an object"
    )
    anchor_negative: float = Field(
        0.3, ge=0, le=1, description="IoU below which it holds none; between, it is not learned"
    )
    anchors: int = Field(256, ge=2, description="Anchors drawn an image, at most half positive")
    region_positive: float = Field(
        0.5, gt=0, le=1, description="IoU from which a proposal is of the true box's class"
    )
    regions: int = Field(
        128,
        ge=4,
        description="Proposals drawn an image, at most a quarter positive; 512 in the paper",
    )


class Truth(NamedTuple):
    """The true boxes of a batch, as many places an image.

    Attributes:
        boxes: (B, M, 4) xyxy px; zeros where not used.
        classes: (B, M) int64.
        row: (B, M) int64 place among the targets; -1 where not used.
    """

    boxes: Tensor
    classes: Tensor
    row: Tensor


class Drawn(NamedTuple):
    """Boxes drawn to learn from, the positive ones first.

    Attributes:
        place: (B, R) among the candidates.
        positive: (B, R) bool.
        used: (B, R) bool; False where an image has fewer.
        target: (B, R) place in ``Truth`` of the true box that overlaps most.
    """

    place: Tensor
    positive: Tensor
    used: Tensor
    target: Tensor


def pad_truth(targets: Tensor, batch: int) -> Truth:
    """True boxes by image.

    Args:
        targets: (n, 6) image, class, x, y, width, height; px of the input.
        batch: Number of images B.
    """
    image = targets[:, 0].long()
    order = image.argsort(stable=True)
    counts = image.bincount(minlength=batch)
    first = counts.cumsum(0) - counts
    place = torch.arange(len(order), device=targets.device) - first[image[order]]
    row = image.new_full((batch, max(int(counts.max()), 1)), -1)
    row[image[order], place] = order
    half = targets[:, 4:6] / 2
    boxes = torch.cat([targets[:, 2:4] - half, targets[:, 2:4] + half], 1)
    # -1 means the last row: one of zeros
    boxes, classes = F.pad(boxes, (0, 0, 0, 1)), F.pad(targets[:, 1].long(), (0, 1))
    return Truth(boxes[row], classes[row], row)


def match(
    boxes: Tensor, truth: Truth, positive: float, negative: float, best_too: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Which boxes hold an object.

    Args:
        boxes: (B, N, 4), or (N, 4) for every image the same.
        truth: The objects.
        positive: IoU from which a box holds one.
        negative: IoU below which it holds none.
        best_too: The boxes that overlap an object the most hold one, however small the overlap.

    Returns:
        (B, N) bool which hold one, (B, N) bool which hold none, and (B, N) int64 the place in
        ``truth`` of the object that overlaps most.
    """
    iou = pairwise_iou(boxes, truth.boxes).masked_fill((truth.row < 0).unsqueeze(1), -1.0)
    most, target = iou.max(2)
    holds = most >= positive
    none = most < negative
    if best_too:
        best = iou.amax(1, keepdim=True)
        is_best = ((iou == best) & (best > 0)).any(2)
        holds, none = holds | is_best, none & ~is_best
    return holds, none, target


def draw(positive: Tensor, negative: Tensor, target: Tensor, count: int, share: float) -> Drawn:
    """``count`` random boxes an image, at most a share of them positive.

    Args:
        positive: (B, N) bool.
        negative: (B, N) bool.
        target: (B, N) int64, carried along.
        count: Boxes an image.
        share: Largest share of positive ones; negative ones fill up.
    """
    number = positive.shape[1]
    keys = torch.rand(positive.shape, device=positive.device)
    chosen = keys.masked_fill(~positive, -1).topk(min(round(count * share), number), 1)
    others = keys.masked_fill(~negative, -1).topk(min(count, number), 1)
    is_positive = chosen.values >= 0
    room = count - is_positive.sum(1, keepdim=True)
    rank = torch.arange(others.values.shape[1], device=positive.device)
    used = torch.cat([is_positive, (others.values >= 0) & (rank < room)], 1)
    index = torch.cat([chosen.indices, others.indices], 1)
    order = used.float().argsort(dim=1, descending=True, stable=True)[:, :count]
    index, used = index.gather(1, order), used.gather(1, order)
    return Drawn(index, used & positive.gather(1, index), used, target.gather(1, index))


def sample_masks(masks: Tensor, row: Tensor, points: Tensor) -> Tensor:
    """Values of masks at points, interpolated between the centres of pixels.

    Args:
        masks: (n, H, W) uint8 of 0 and 1.
        row: (m,) int64, which mask.
        points: (m, P, 2) x and y, px; outside of the mask it is 0.

    Returns:
        (m, P) float32 in [0, 1].
    """
    height, width = masks.shape[1:]
    low = (points - 0.5).floor()
    right, down = (points - 0.5 - low).unbind(-1)
    x, y = low.long().unbind(-1)
    result = torch.zeros_like(right)
    for dy, share_y in ((0, 1 - down), (1, down)):
        for dx, share_x in ((0, 1 - right), (1, right)):
            column, line = x + dx, y + dy
            inside = (column >= 0) & (column < width) & (line >= 0) & (line < height)
            value = masks[row[:, None], line.clamp(0, height - 1), column.clamp(0, width - 1)]
            result = result + share_x * share_y * (value * inside)
    return result


def mask_targets(masks: Tensor, row: Tensor, boxes: Tensor, side: int) -> Tensor:
    """What the masks are within boxes, on a grid.

    Args:
        masks: (n, H, W) uint8 of 0 and 1.
        row: (m,) which mask.
        boxes: (m, 4) px.
        side: Cells a side, a divisor of 56.

    Returns:
        (m, side, side) the covered share of each cell.
    """
    values = sample_masks(masks, row, _inside(cells(_SAMPLES, boxes.device)[None], boxes))
    return F.avg_pool2d(values.reshape(-1, _SAMPLES, _SAMPLES), _SAMPLES // side)


class _Choice:
    """Draws regions among the proposals and the true boxes, and remembers them."""

    def __init__(self, truth: Truth, settings: MaskRcnnLossSettings) -> None:
        self._truth, self._settings = truth, settings
        self.drawn: Drawn
        self.regions: Regions

    def __call__(self, proposals: Tensor, real: Tensor) -> Regions:
        truth, settings = self._truth, self._settings
        boxes = torch.cat([proposals, truth.boxes], 1)
        exists = torch.cat([real, truth.row >= 0], 1)
        least = settings.region_positive
        positive, negative, target = match(boxes, truth, least, least, best_too=False)
        self.drawn = draw(positive & exists, negative & exists, target, settings.regions, 0.25)
        drawn = self.drawn
        chosen = rows(boxes, drawn.place)
        # an image without instances still passes the mask head, at no weight
        count = max(int(drawn.positive.sum(1).max()), 1)
        classes = truth.classes.gather(1, drawn.target[:, :count])
        self.regions = Regions(chosen, chosen[:, :count], classes)
        return self.regions


def mask_rcnn_loss(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    masks: Tensor,
    settings: MaskRcnnLossSettings,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The sum of the terms of both stages, and each by name.

    Args:
        network: A ``MaskRcnn``, perhaps wrapped for several processes.
        images: (B, channels, H, W) scaled images.
        targets: (n, 6) image, class, x, y, width, height; px of the input.
        masks: (n, H, W) uint8 0 or 1, of the targets.
        settings: What is learned from.
    """
    truth = pad_truth(targets, len(images))
    choice = _Choice(truth, settings)
    said: Predictions = network(images, choice)
    parts = {
        **_proposal_loss(said.rpn, truth, settings),
        **_region_loss(said, choice, truth),
        **_mask_loss(said, choice, truth, masks),
    }
    return torch.stack(list(parts.values())).sum(), {k: v.detach() for k, v in parts.items()}


def _proposal_loss(
    said: RpnOutput, truth: Truth, settings: MaskRcnnLossSettings
) -> dict[str, Tensor]:
    matched = match(
        said.anchors, truth, settings.anchor_positive, settings.anchor_negative, best_too=True
    )
    drawn = draw(*matched, settings.anchors, 0.5)
    logits = said.logits.gather(1, drawn.place)
    objectness = F.binary_cross_entropy_with_logits(
        logits, drawn.positive.to(logits), reduction="none"
    )
    wanted = encode(rows(truth.boxes, drawn.target), said.anchors[drawn.place])
    steps = F.smooth_l1_loss(rows(said.deltas, drawn.place), wanted, reduction="none", beta=_BETA)
    count = drawn.used.sum().clamp(min=1)
    return {
        "objectness": (objectness * drawn.used).sum() / count,
        "proposal": (steps.sum(2) * drawn.positive).sum() / count,
    }


def _region_loss(said: Predictions, choice: _Choice, truth: Truth) -> dict[str, Tensor]:
    drawn = choice.drawn
    kind = truth.classes.gather(1, drawn.target)
    background = said.logits.shape[2] - 1
    wanted_class = torch.where(drawn.positive, kind, background)
    classes = F.cross_entropy(said.logits.flatten(0, 1), wanted_class.flatten(), reduction="none")
    wanted = encode(rows(truth.boxes, drawn.target), choice.regions.boxes, BOX_WEIGHTS)
    own = kind[..., None, None].expand(-1, -1, 1, 4)
    steps = F.smooth_l1_loss(
        said.deltas.gather(2, own).squeeze(2), wanted, reduction="none", beta=_BETA
    )
    count = drawn.used.sum().clamp(min=1)
    return {
        "class": (classes * drawn.used.flatten()).sum() / count,
        "box": (steps.sum(2) * drawn.positive).sum() / count,
    }


def _mask_loss(
    said: Predictions, choice: _Choice, truth: Truth, masks: Tensor
) -> dict[str, Tensor]:
    """Only the true class's mask is learned, so that classes don't compete (section 3)."""
    logits, points, point_logits = said.masks
    number = logits.shape[1]
    weight = choice.drawn.positive[:, :number].flatten()
    row = truth.row.gather(1, choice.drawn.target[:, :number]).flatten().clamp(min=0)
    boxes = choice.regions.mask_boxes.flatten(0, 1)
    if not len(masks):
        masks = masks.new_zeros(1, *masks.shape[1:])
    wanted = mask_targets(masks, row, boxes, logits.shape[2])
    parts = {"mask": _mean_entropy(logits.flatten(0, 1), wanted, weight)}
    if points is not None and point_logits is not None:
        wanted = sample_masks(masks, row, _inside(points.flatten(0, 1), boxes))
        parts["points"] = _mean_entropy(point_logits.flatten(0, 1), wanted, weight)
    return parts


def _mean_entropy(logits: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    each = F.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="none")
    return (each.flatten(1).mean(1) * weight).sum() / weight.sum().clamp(min=1)


def _inside(points: Tensor, boxes: Tensor) -> Tensor:
    """(m, P, 2) px: shares (m or 1, P, 2) of the sides of boxes (m, 4)."""
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    return low + points * (high - low)
