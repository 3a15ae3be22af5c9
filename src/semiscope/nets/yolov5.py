"""YOLOv5: the detector, and with masks made of prototypes.

Written from published descriptions: cross-stage partial bottlenecks (Wang et al. 2020, CSPNet),
pooling of growing reach one after another (SPPF: the pools of He et al. 2015 from small ones), path
aggregation (Liu et al. 2018, PANet), three anchors on each of three levels; prototypes and their
coefficients as Bolya et al. 2019, YOLACT. The parameter counts of Wong 2023, tables 4.2 and 4.3,
are met to the unit.

The networks give raw output; boxes and masks are decoded outside (``infer``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from semiscope.nets.yolov7_tiny import COCO_ANCHORS, ConvBN, start_rare

Size = Literal["n", "s"]

PROTOTYPES = 32
WIDTHS: dict[Size, int] = {"n": 16, "s": 32}
"""Channels of the first convolution; all others are a multiple. Both are a third as deep as "l"."""


class Conv(ConvBN):
    """Convolution without bias, batch norm and SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride)
        self.act = nn.SiLU(inplace=True)


class Bottleneck(nn.Module):
    """1x1 and 3x3 convolution, in the backbone beside a shortcut."""

    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.reduce = Conv(channels, channels)
        self.conv = Conv(channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape."""
        out: Tensor = self.conv(self.reduce(x))
        return x + out if self.shortcut else out


class C3(nn.Module):
    """Cross-stage partial block: half of the channels pass the bottlenecks, the others pass by."""

    def __init__(self, inputs: int, outputs: int, depth: int, shortcut: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.main = Conv(inputs, half)
        self.side = Conv(inputs, half)
        self.blocks = nn.Sequential(*(Bottleneck(half, shortcut) for _ in range(depth)))
        self.join = Conv(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        main = self.blocks(self.main(x))
        return self.join(torch.cat([main, self.side(x)], 1))  # type: ignore[no-any-return]


class SPPF(nn.Module):
    """Three 5x5 poolings one after another: together they reach as pools of 5, 9 and 13 do."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = Conv(channels, channels // 2)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.join = Conv(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape."""
        levels = [self.reduce(x)]
        for _ in range(3):
            levels.append(self.pool(levels[-1]))
        return self.join(torch.cat(levels, 1))  # type: ignore[no-any-return]


class CspBackbone(nn.Module):
    """Strided convolutions, each followed by a C3 block; ``width`` channels after the first."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        w = width
        self.channels = (4 * w, 8 * w, 16 * w)
        self.stem = nn.Sequential(Conv(inputs, w, 6, 2), Conv(w, 2 * w, 3, 2), C3(2 * w, 2 * w, 1))
        self.stage3 = nn.Sequential(Conv(2 * w, 4 * w, 3, 2), C3(4 * w, 4 * w, 2))
        self.stage4 = nn.Sequential(Conv(4 * w, 8 * w, 3, 2), C3(8 * w, 8 * w, 3))
        self.stage5 = nn.Sequential(Conv(8 * w, 16 * w, 3, 2), C3(16 * w, 16 * w, 1), SPPF(16 * w))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, inputs, H, W) -> features at strides 8, 16 and 32 with ``channels`` channels."""
        p3 = self.stage3(self.stem(x))
        p4 = self.stage4(p3)
        return p3, p4, self.stage5(p4)


class CspPathAggregation(nn.Module):
    """Top-down then bottom-up fusion of three levels by C3 blocks without shortcut."""

    def __init__(self, channels: tuple[int, int, int]) -> None:
        super().__init__()
        c3, c4, c5 = self.channels = channels
        self.top5 = Conv(c5, c4)
        self.fuse4 = C3(2 * c4, c4, 1, shortcut=False)
        self.top4 = Conv(c4, c3)
        self.fuse3 = C3(2 * c3, c3, 1, shortcut=False)
        self.down3 = Conv(c3, c3, 3, 2)
        self.fuse4_up = C3(2 * c3, c4, 1, shortcut=False)
        self.down4 = Conv(c4, c4, 3, 2)
        self.fuse5_up = C3(2 * c4, c5, 1, shortcut=False)
        self.grow = nn.Upsample(scale_factor=2.0, mode="nearest")

    def forward(self, levels: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
        """Features at strides 8, 16, 32 -> features there with the same channels."""
        p3, p4, p5 = levels
        top5 = self.top5(p5)
        top4 = self.top4(self.fuse4(torch.cat([self.grow(top5), p4], 1)))
        p3 = self.fuse3(torch.cat([self.grow(top4), p3], 1))
        p4 = self.fuse4_up(torch.cat([self.down3(p3), top4], 1))
        p5 = self.fuse5_up(torch.cat([self.down4(p4), top5], 1))
        return [p3, p4, p5]


class YoloV5(nn.Module):
    """The detector.

    Args:
        classes: Number of classes K, at least 1.
        size: "n" or "s", which is twice as wide.
        channels: 1 for grey images, 3 for colour.
        anchors: Number of anchors A a level.
    """

    def __init__(
        self, classes: int, size: Size, channels: int = 3, anchors: int = len(COCO_ANCHORS[0])
    ) -> None:
        super().__init__()
        self.backbone = CspBackbone(channels, WIDTHS[size])
        self.neck = CspPathAggregation(self.backbone.channels)
        heads = [nn.Conv2d(c, anchors * (5 + classes), 1) for c in self.neck.channels]
        start_rare(heads, anchors)
        self.heads = nn.ModuleList(heads)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Raw predictions, as ``YoloV7Tiny.forward``."""
        return self._detect(self.neck(self.backbone(x)))

    def _detect(self, levels: list[Tensor]) -> list[Tensor]:
        return [head(level) for head, level in zip(self.heads, levels, strict=True)]


class Prototypes(nn.Module):
    """Planes of which every instance's mask is a sum, at twice the resolution of its input."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Conv(inputs, hidden, 3),
            nn.Upsample(scale_factor=2.0, mode="nearest"),
            Conv(hidden, hidden, 3),
            Conv(hidden, PROTOTYPES),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, 32, 2 H, 2 W)."""
        return self.layers(x)  # type: ignore[no-any-return]


class YoloV5Seg(YoloV5):
    """The detector with masks: coefficients for each box, and prototypes for the image.

    Args: as ``YoloV5``.
    """

    def __init__(
        self, classes: int, size: Size, channels: int = 3, anchors: int = len(COCO_ANCHORS[0])
    ) -> None:
        super().__init__(classes, size, channels, anchors)
        self.coefficients = nn.ModuleList(
            nn.Conv2d(c, PROTOTYPES * anchors, 1) for c in self.neck.channels
        )
        self.prototypes = Prototypes(self.neck.channels[0], 4 * WIDTHS[size])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Raw predictions.

        Args:
            x: (B, channels, H, W) scaled images; H and W divisible by 32.

        Returns:
            The three maps of ``YoloV7Tiny.forward``; then (B, 32, P) coefficients of the P boxes,
            level by level and there anchor by anchor, row by row; then (B, 32, H / 4, W / 4)
            prototypes. The sum of the prototypes by a box's coefficients is its mask's logit.
        """
        levels = self.neck(self.backbone(x))
        coefficients = [
            head(level).view(x.shape[0], PROTOTYPES, -1)
            for head, level in zip(self.coefficients, levels, strict=True)
        ]
        return [*self._detect(levels), torch.cat(coefficients, 2), self.prototypes(levels[0])]


YOLOV5: dict[str, Callable[..., YoloV5]] = {
    "yolov5n": partial(YoloV5, size="n"),
    "yolov5n-seg": partial(YoloV5Seg, size="n"),
    "yolov5s-seg": partial(YoloV5Seg, size="s"),
}
"""By name, from classes, channels and anchors."""
