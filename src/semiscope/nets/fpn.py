"""Feature pyramid: Lin et al. 2017, "Feature Pyramid Networks for Object Detection"."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class FeaturePyramid(nn.Module):
    """Levels of one width, each with what the coarser ones know.

    Args:
        channels: Of the backbone's features, finest first; each map is half the one before.
        width: Channels of every level.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.outputs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        for conv in (*self.laterals, *self.outputs):
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Backbone features, finest first -> as many levels (p2, p3, p4, p5), (B, width, ...)."""
        sums = [layer(f) for layer, f in zip(self.laterals, features, strict=True)]
        for i in range(len(sums) - 1, 0, -1):
            sums[i - 1] = sums[i - 1] + F.interpolate(sums[i], scale_factor=2.0, mode="nearest")
        return tuple(layer(s) for layer, s in zip(self.outputs, sums, strict=True))
