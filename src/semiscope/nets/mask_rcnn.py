"""Mask R-CNN: proposals, then class, box and mask of each.

He et al. 2017, "Mask R-CNN", on the pyramid of Lin et al. 2017. With the mask head "point" it is
SEMI-PointRend's network (``nets.point_rend``). Suppression lies inside, in tensors alone
(``nets.rpn.suppress``), because the mask head runs on what survives it: the whole network is one
graph of fixed shapes that exports.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semiscope.nets.backbones import BACKBONES
from semiscope.nets.fpn import FeaturePyramid
from semiscope.nets.mask_heads import ConvMaskHead, MaskPrediction
from semiscope.nets.point_rend import PointRendHead
from semiscope.nets.roi import roi_align
from semiscope.nets.rpn import RegionProposals, RpnOutput, clip, decode, has_area, rows, suppress
from semiscope.nets.stages import Staged

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of the second stage's deltas
_REGION = 7
_SUPPRESSION_IOU = 0.5
_BEFORE = 4  # times as many boxes enter suppression as are given in the end


class Regions(NamedTuple):
    """Boxes chosen to train on; every image has as many, those it lacks are any box.

    Attributes:
        boxes: (B, R, 4) for class and box.
        mask_boxes: (B, F, 4) for masks.
        mask_classes: (B, F) int64, class of each mask.
    """

    boxes: Tensor
    mask_boxes: Tensor
    mask_classes: Tensor


class Predictions(NamedTuple):
    """What the network says in training.

    Attributes:
        rpn: Of every anchor.
        logits: (B, R, K + 1) classes, background last, of the chosen boxes.
        deltas: (B, R, K, 4) from the chosen boxes to each class's box, times ``BOX_WEIGHTS``.
        masks: Of the boxes chosen for masks.
    """

    rpn: RpnOutput
    logits: Tensor
    deltas: Tensor
    masks: MaskPrediction


class Detections(NamedTuple):
    """The best D detections of each image by falling score; unused places have the score 0.

    Attributes:
        boxes: (B, D, 4) px of the input.
        scores: (B, D).
        classes: (B, D) int64.
        masks: (B, D, S, S) logits on a regular grid within the box.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    masks: Tensor


class BoxHead(nn.Module):
    """Class and box of a region by two fully connected layers.

    Args:
        classes: Number of classes K.
        width: Channels of the levels.
        hidden: Width of the two layers.
    """

    def __init__(self, classes: int, width: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(width * _REGION**2, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.logits = nn.Linear(hidden, classes + 1)
        self.deltas = nn.Linear(hidden, classes * 4)
        for layer, std in ((self.logits, 0.01), (self.deltas, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, levels: Sequence[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """p2 to p5 and boxes (B, N, 4) -> logits (B, N, K + 1) and deltas (B, N, K, 4)."""
        x = roi_align(levels, boxes, _REGION).flatten(2)
        x = F.relu(self.second(F.relu(self.first(x))))
        return self.logits(x).float(), self.deltas(x).float().unflatten(2, (-1, 4))


class MaskRcnn(nn.Module):
    """The network.

    Args:
        classes: Number of classes K, at least 1.
        backbone: Features at strides 4, 8, 16, 32; has ``channels``.
        width: Channels of the pyramid and of the mask head.
        box_hidden: Width of the fully connected layers.
        mask: "conv" (Mask R-CNN) or "point" (PointRend).
        sizes: Side of the square anchor at strides 4, 8, 16, 32, 64, px.
        proposals: Regions an image that the second stage looks at.
        detections: D, the most that it gives an image.
        subdivisions: Of PointRend: masks are of 7 * 2 ** subdivisions; others are of 28.
    """

    def __init__(
        self,
        classes: int,
        backbone: Staged,
        width: int = 256,
        box_hidden: int = 1024,
        mask: Literal["conv", "point"] = "conv",
        sizes: Sequence[float] = (32, 64, 128, 256, 512),
        proposals: int = 300,
        detections: int = 100,
        subdivisions: int = 5,
    ) -> None:
        super().__init__()
        self.classes, self.proposals, self.detections = classes, proposals, detections
        self.backbone = backbone
        self.pyramid = FeaturePyramid(backbone.channels, width)
        self.rpn = RegionProposals(width, sizes)
        self.box = BoxHead(classes, width, box_hidden)
        self.mask: ConvMaskHead | PointRendHead = (
            ConvMaskHead(classes, width)
            if mask == "conv"
            else PointRendHead(classes, width, box_hidden, subdivisions)
        )

    def forward(
        self, images: Tensor, choose: Callable[[Tensor, Tensor], Regions] | None = None
    ) -> Detections | Predictions:
        """Detections, or in training what the loss needs.

        Args:
            images: (B, channels, H, W) scaled images; H and W divisible by 32.
            choose: In training: from proposals (B, P, 4) and which of them are real (B, P) the
                regions to learn from. It is called between the two stages, so that a step is one
                call of the network, which several processes need.
        """
        height, width = images.shape[2:]
        levels = self.pyramid(self.backbone(images))
        rpn = self.rpn(levels)
        boxes, scores = self.rpn.propose(rpn, height, width, self.proposals)
        if choose is None:
            return self._detect(levels, boxes, scores, height, width)
        regions = choose(boxes, scores > 0)
        logits, deltas = self.box(levels, regions.boxes)
        masks = self.mask(levels, regions.mask_boxes, regions.mask_classes)
        return Predictions(rpn, logits, deltas, masks)

    def _detect(
        self, levels: Sequence[Tensor], proposals: Tensor, scores: Tensor, height: int, width: int
    ) -> Detections:
        logits, deltas = self.box(levels, proposals)
        real = (scores > 0).unsqueeze(2)
        score = torch.where(real, logits.softmax(2)[..., : self.classes], 0.0).flatten(1)
        best = score.topk(min(_BEFORE * self.detections, score.shape[1]), 1)
        region, kind = best.indices // self.classes, best.indices % self.classes
        start = rows(proposals, region)
        boxes = clip(
            decode(rows(deltas.flatten(1, 2), best.indices), start, BOX_WEIGHTS), height, width
        )
        valid = has_area(boxes) & (best.values > 0)
        alive = suppress(boxes, valid, _SUPPRESSION_IOU, kind)
        kept = torch.where(alive, best.values, 0.0).topk(min(self.detections, alive.shape[1]), 1)
        boxes, kind = rows(boxes, kept.indices), kind.gather(1, kept.indices)
        return Detections(boxes, kept.values, kind, self.mask.masks(levels, boxes, kind))


def with_backbone(backbone: str, channels: int, **options: Any) -> MaskRcnn:
    """A network from plain values, as they stand in a run's spec.

    Args:
        backbone: Name in ``BACKBONES``.
        channels: Of the image, 1 or 3.
        options: Of ``MaskRcnn``.
    """
    return MaskRcnn(backbone=BACKBONES[backbone](channels), **options)
