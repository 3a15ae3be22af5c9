"""Region proposals: where on a feature pyramid something may be, and box arithmetic on tensors.

Ren et al. 2015, "Faster R-CNN", section 3, on the pyramid of Lin et al. 2017, "Feature Pyramid
Networks", section 4.1. Suppression is the cluster NMS of Zheng et al. 2020, "Enhancing Geometric
Factors in Model Learning and Inference", section 3.3: greedy NMS as a few products of a matrix, so
that it becomes part of an exported network.

Boxes are xyxy in pixels of the input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RATIOS = (0.5, 1.0, 2.0)  # height to width of the anchors at each place
STRIDES = (4, 8, 16, 32, 64)
_LARGEST_STEP = math.log(1000 / 16)  # of a box's side, so that no exponential overflows
_SUPPRESSION_IOU = 0.7
_ROUNDS = 16  # enough for chains of 16 boxes that each suppress the next; real ones are shorter


def anchors_on(height: int, width: int, stride: int, size: float) -> Tensor:
    """The anchors of one level: centred on its cells, all of the area ``size`` squared.

    Args:
        height: Rows of the level.
        width: Columns of the level.
        stride: Pixels of the input a cell.
        size: Side of the square anchor, px.

    Returns:
        (height * width * 3, 4), row by row, then column by column, then by ``RATIOS``.
    """
    root = torch.tensor(RATIOS).sqrt()
    half = torch.stack([size / root, size * root], 1) / 2
    y, x = torch.meshgrid(
        (torch.arange(height) + 0.5) * stride, (torch.arange(width) + 0.5) * stride, indexing="ij"
    )
    centre = torch.stack([x, y], -1)[:, :, None]
    return torch.cat([centre - half, centre + half], -1).reshape(-1, 4)


def encode(boxes: Tensor, anchors: Tensor, weights: Sequence[float] = (1, 1, 1, 1)) -> Tensor:
    """What a regression head must give so that ``decode`` makes ``boxes`` of ``anchors``, (..., 4).

    Shift of the centre in sides of the anchor and logarithm of the sides' ratio, times ``weights``
    (Faster R-CNN, equation 2). A side below a hundredth of a pixel counts as that.
    """
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-2)
    own = (anchors[..., 2:] - anchors[..., :2]).clamp(min=1e-2)
    shift = (boxes[..., :2] + boxes[..., 2:] - anchors[..., :2] - anchors[..., 2:]) / 2 / own
    return torch.cat([shift, (sides / own).log()], -1) * shift.new_tensor(weights)


def decode(deltas: Tensor, anchors: Tensor, weights: Sequence[float] = (1, 1, 1, 1)) -> Tensor:
    """The boxes (..., 4) that deltas make of anchors, both (..., 4); the inverse of ``encode``."""
    dx, dy, dw, dh = (deltas.float() / deltas.new_tensor(weights).float()).unbind(-1)
    x1, y1, x2, y2 = anchors.unbind(-1)
    width, height = x2 - x1, y2 - y1
    x, y = (x1 + x2) / 2 + dx * width, (y1 + y2) / 2 + dy * height
    half_width = width * dw.clamp(max=_LARGEST_STEP).exp() / 2
    half_height = height * dh.clamp(max=_LARGEST_STEP).exp() / 2
    return torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], -1)


def clip(boxes: Tensor, height: int, width: int) -> Tensor:
    """Boxes (..., 4) cut to an input of ``height`` times ``width`` pixels."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack(
        [x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)], -1
    )


def has_area(boxes: Tensor) -> Tensor:
    """(...) bool: which boxes (..., 4) are not empty."""
    return (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])


def rows(values: Tensor, index: Tensor) -> Tensor:
    """(B, n, 4): of values (B, m, 4) the rows (B, n)."""
    return values.gather(1, index.unsqueeze(2).expand(-1, -1, 4))


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (..., n, 4) and (..., m, 4): (..., n, m), 0 where empty."""
    first, second = a.unsqueeze(-2), b.unsqueeze(-3)
    width = torch.minimum(first[..., 2], second[..., 2])
    width = (width - torch.maximum(first[..., 0], second[..., 0])).clamp(min=0)
    height = torch.minimum(first[..., 3], second[..., 3])
    height = (height - torch.maximum(first[..., 1], second[..., 1])).clamp(min=0)
    shared = width * height
    area_a, area_b = (
        (x[..., 2] - x[..., 0]).clamp(min=0) * (x[..., 3] - x[..., 1]).clamp(min=0)
        for x in (first, second)
    )
    return shared / (area_a + area_b - shared).clamp(min=1e-9)


def suppress(boxes: Tensor, valid: Tensor, threshold: float, group: Tensor | None = None) -> Tensor:
    """Greedy non-maximum suppression of a whole batch, as tensors only.

    Each round asks of every box whether one that survived the round before and stands before it
    overlaps it too much; after as many rounds as the longest chain of suppression the answer is
    that of the greedy algorithm.

    Args:
        boxes: (B, n, 4) by falling score.
        valid: (B, n) bool; the others neither survive nor suppress.
        threshold: IoU above which a box falls to one before it.
        group: (B, n); boxes of different groups never suppress each other.

    Returns:
        (B, n) bool, which survive.
    """
    over = pairwise_iou(boxes, boxes) > threshold
    if group is not None:
        over = over & (group.unsqueeze(-1) == group.unsqueeze(-2))
    falls = over.float().triu(1)
    start = valid.float().unsqueeze(1)
    alive = start
    for _ in range(_ROUNDS):
        alive = F.relu(start - alive @ falls)
    return alive.squeeze(1) > 0


class RpnOutput(NamedTuple):
    """What the head says of N anchors.

    Attributes:
        logits: (B, N) whether an anchor holds an object.
        deltas: (B, N, 4) from the anchor to the object, see ``decode``.
        anchors: (N, 4).
        counts: How many of the N each level has.
    """

    logits: Tensor
    deltas: Tensor
    anchors: Tensor
    counts: tuple[int, ...]


class RegionProposals(nn.Module):
    """The head that all levels share.

    Args:
        width: Channels of the levels.
        sizes: Side of the square anchor of each of the five levels, px.
    """

    def __init__(self, width: int, sizes: Sequence[float]) -> None:
        super().__init__()
        if len(sizes) != len(STRIDES):
            raise ValueError(f"expected {len(STRIDES)} anchor sizes, found {len(sizes)}")
        self.sizes = tuple(sizes)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.logits = nn.Conv2d(width, len(RATIOS), 1)
        self.deltas = nn.Conv2d(width, 4 * len(RATIOS), 1)
        for layer in (self.conv, self.logits, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, levels: Sequence[Tensor]) -> RpnOutput:
        """p2 to p5, (B, width, ...) at strides 4 to 32; p6 is every other cell of p5."""
        logits, deltas, anchors = [], [], []
        for level, stride, size in zip(
            [*levels, F.max_pool2d(levels[-1], 1, 2)], STRIDES, self.sizes, strict=True
        ):
            seen = F.relu(self.conv(level))
            logits.append(self.logits(seen).permute(0, 2, 3, 1).flatten(1))
            deltas.append(self.deltas(seen).permute(0, 2, 3, 1).reshape(seen.shape[0], -1, 4))
            height, width = level.shape[2:]
            anchors.append(anchors_on(height, width, stride, size).to(level.device))
        return RpnOutput(
            torch.cat(logits, 1).float(),
            torch.cat(deltas, 1).float(),
            torch.cat(anchors),
            tuple(len(a) for a in anchors),
        )

    @staticmethod
    def propose(output: RpnOutput, height: int, width: int, count: int) -> tuple[Tensor, Tensor]:
        """The best proposals of each image; no gradient passes.

        On each level the best ``2 * count`` anchors enter suppression.

        Args:
            output: What ``forward`` gave.
            height: Rows of the input.
            width: Columns of the input.
            count: Proposals an image; fewer when there are fewer anchors.

        Returns:
            (B, count, 4) boxes within the input and their (B, count) scores by falling score; a
            place that is not used has the score 0.
        """
        first, places, scores = 0, [], []
        most = min(2 * count, max(output.counts))
        for number in output.counts:
            best = output.logits.detach()[:, first : first + number].topk(min(most, number), 1)
            spare = (0, most - best.values.shape[1])
            scores.append(F.pad(best.values.sigmoid(), spare))
            places.append(F.pad(best.indices + first, spare))
            first += number
        # the levels stand as images of their own, so that none suppresses another's proposals
        score, place = torch.stack(scores, 1), torch.stack(places, 1)
        deltas = rows(output.deltas.detach(), place.flatten(1))
        boxes = clip(decode(deltas, output.anchors[place.flatten(1)]), height, width)
        valid = has_area(boxes) & (score.flatten(1) > 0)
        apart = boxes.reshape(-1, most, 4)
        alive = suppress(apart, valid.reshape(-1, most), _SUPPRESSION_IOU).reshape(valid.shape)
        kept = torch.where(alive, score.flatten(1), 0.0).topk(min(count, alive.shape[1]), 1)
        return rows(boxes, kept.indices), kept.values
