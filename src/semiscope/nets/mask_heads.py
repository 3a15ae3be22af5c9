"""The mask head of Mask R-CNN, and what every mask head gives.

He et al. 2017, "Mask R-CNN", section 3 and figure 4 (right).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from semiscope.nets.roi import roi_align

_REGION = 14
_CONVOLUTIONS = 4


class MaskPrediction(NamedTuple):
    """Masks of B x N boxes, of one class each, to train on.

    Attributes:
        logits: (B, N, S, S) on a regular grid within the box.
        points: (B, N, P, 2) further places x and y in shares of the box; None without any.
        point_logits: (B, N, P) there.
    """

    logits: Tensor
    points: Tensor | None = None
    point_logits: Tensor | None = None


def of_class(maps: Tensor, classes: Tensor) -> Tensor:
    """(n, H, W): of maps (n, K, H, W) those of classes (n,)."""
    index = classes.reshape(-1, 1, 1, 1).expand(-1, 1, *maps.shape[2:])
    return maps.gather(1, index).squeeze(1)


class ConvMaskHead(nn.Module):
    """Four convolutions on 14x14 features, doubled to a mask of 28x28 a class.

    Args:
        classes: Number of classes K.
        width: Channels of the levels and of the convolutions.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1) for _ in range(_CONVOLUTIONS)
        )
        self.grow = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.last = nn.Conv2d(width, classes, 1)
        for layer in (*self.layers, self.grow):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.last.weight, std=1e-3)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def forward(self, levels: Sequence[Tensor], boxes: Tensor, classes: Tensor) -> MaskPrediction:
        """Masks for training; see ``masks``."""
        return MaskPrediction(self.masks(levels, boxes, classes))

    def masks(self, levels: Sequence[Tensor], boxes: Tensor, classes: Tensor) -> Tensor:
        """Masks of boxes.

        Args:
            levels: p2 to p5.
            boxes: (B, N, 4) px of the input.
            classes: (B, N) int64 whose masks are wanted.

        Returns:
            (B, N, 28, 28) logits.
        """
        x = roi_align(levels, boxes, _REGION).flatten(0, 1)
        for layer in self.layers:
            x = F.relu(layer(x))
        maps = self.last(F.relu(self.grow(x)))
        return of_class(maps, classes.flatten()).reshape(*classes.shape, *maps.shape[2:])
