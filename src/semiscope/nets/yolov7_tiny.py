"""YOLOv7-tiny with three necks: ELAN, slim-neck and CoordConv.

Wang, Bochkovskiy and Liao 2022, "YOLOv7", in the tiny form; slim-neck after Li et al. 2022,
"Slim-neck by GSConv"; CoordConv after Liu et al. 2018. The layers and widths are those of Wong
2023, appendices H to L, so that its Table 4.6 can be held against ours to the unit.

The network gives raw output; boxes are decoded outside (``infer.decode``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from semiscope.nets.efficientnet_lite import EfficientNetLite0
from semiscope.nets.widths import Widths, set_widths

Neck = Literal["elan", "slim", "coord"]
Backbone = Literal["yolov7-tiny", "efficientnet-lite0"]

STRIDES = (8, 16, 32)
# COCO anchors of YOLOv7-tiny, width and height in pixels of the input, a row of three a level.
COCO_ANCHORS = (
    ((10.0, 13.0), (16.0, 30.0), (33.0, 23.0)),
    ((30.0, 61.0), (62.0, 45.0), (59.0, 119.0)),
    ((116.0, 90.0), (156.0, 198.0), (373.0, 326.0)),
)


class ConvBN(nn.Module):
    """Convolution without bias, batch norm, and LeakyReLU(0.1) or nothing."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        activate: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False
        )
        self.norm: nn.Module = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03)
        self.act: nn.Module = nn.LeakyReLU(0.1, inplace=True) if activate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, ceil(H / stride), ceil(W / stride))."""
        return self.act(self.norm(self.conv(x)))  # type: ignore[no-any-return]


class ELAN(nn.Module):
    """Two 1x1 and two chained 3x3 convolutions, all four joined, the newest first."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.side = ConvBN(inputs, hidden)
        self.main = ConvBN(inputs, hidden)
        self.first = ConvBN(hidden, hidden, 3)
        self.second = ConvBN(hidden, hidden, 3)
        self.join = ConvBN(4 * hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        main = self.main(x)
        first = self.first(main)
        return self.join(  # type: ignore[no-any-return]
            torch.cat([self.second(first), first, main, self.side(x)], 1)
        )


class SPPCSP(nn.Module):
    """Spatial pyramid pooling (5, 9, 13) beside a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.shortcut = ConvBN(inputs, outputs)
        self.main = ConvBN(inputs, outputs)
        self.pools = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in (5, 9, 13))
        self.pooled = ConvBN(4 * outputs, outputs)
        self.join = ConvBN(2 * outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        main = self.main(x)
        pooled = self.pooled(torch.cat([*[p(main) for p in reversed(self.pools)], main], 1))
        return self.join(torch.cat([pooled, self.shortcut(x)], 1))  # type: ignore[no-any-return]


class CoordConv(nn.Module):
    """Convolution that also sees where it is: two channels run from -1 to 1 along x and y.

    A side of one pixel gets coordinate 0; the published form divides 0 by 0 there.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 1) -> None:
        super().__init__()
        self.conv = ConvBN(inputs + 2, outputs, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        batch, _, height, width = x.shape
        # arithmetic on arange rather than linspace: it stays dynamic when exported
        rows = torch.arange(height, device=x.device, dtype=x.dtype)
        columns = torch.arange(width, device=x.device, dtype=x.dtype)
        rows = (2 * rows - (height - 1)) / max(height - 1, 1)
        columns = (2 * columns - (width - 1)) / max(width - 1, 1)
        y = rows.view(1, 1, -1, 1).expand(batch, 1, height, width)
        x_ = columns.view(1, 1, 1, -1).expand(batch, 1, height, width)
        return self.conv(torch.cat([x, x_, y], 1))  # type: ignore[no-any-return]


class GSConv(nn.Module):
    """Dense convolution to half the channels, a 5x5 depthwise convolution of it, joined, shuffled.

    The shuffle is the one that the published code executes: even channels, then odd channels. It is
    the inverse of the interleaving that its comment shows.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, activate: bool = True
    ) -> None:
        super().__init__()
        half = outputs // 2
        self.dense = ConvBN(inputs, half, kernel, stride, activate=activate)
        self.depthwise = ConvBN(half, half, 5, groups=half, activate=activate)

    def halves(self, x: Tensor) -> Tensor:
        """Dense and depthwise features side by side: (B, outputs, H, W)."""
        dense = self.dense(x)
        return torch.cat([dense, self.depthwise(dense)], 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        joined = self.halves(x)
        return torch.cat([joined[:, 0::2], joined[:, 1::2]], 1)


class GSConvs(GSConv):
    """GSConv whose shuffle is a learned 1x1 convolution, so that channels can be pruned."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride)
        self.mix = nn.Conv2d(outputs, outputs, 1, bias=False)
        self.act = nn.LeakyReLU(0.1, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        return self.act(self.mix(self.halves(x)))  # type: ignore[no-any-return]


class GSBottleneck(nn.Module):
    """GSConv 1x1, GSConv 3x3 without activation, and a 1x1 shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            GSConv(channels, channels), GSConv(channels, channels, 3, activate=False)
        )
        self.shortcut = ConvBN(channels, channels, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape."""
        return self.main(x) + self.shortcut(x)  # type: ignore[no-any-return]


class VoVGSCSP(nn.Module):
    """One-shot aggregation over a GS bottleneck (slim-neck's replacement of ELAN).

    ``unused`` never runs. The published module carries it and Table 4.6 counts it, so we do too;
    the exported file has no trace of it.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.main = ConvBN(inputs, half)
        self.side = ConvBN(inputs, half)
        self.bottleneck = GSBottleneck(half)
        self.unused = ConvBN(half, half, 3, activate=False)
        self.join = ConvBN(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        main = self.bottleneck(self.main(x))
        return self.join(torch.cat([self.side(x), main], 1))  # type: ignore[no-any-return]


class TinyBackbone(nn.Module):
    """Two strided convolutions and four ELAN stages with 2x2 max pooling between."""

    channels = (128, 256, 512)

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            ConvBN(inputs, 32, 3, 2), ConvBN(32, 64, 3, 2), ELAN(64, 32, 64), nn.MaxPool2d(2)
        )
        self.stage3 = ELAN(64, 64, 128)
        self.stage4 = nn.Sequential(nn.MaxPool2d(2), ELAN(128, 128, 256))
        self.stage5 = nn.Sequential(nn.MaxPool2d(2), ELAN(256, 256, 512))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, inputs, H, W) -> features at strides 8, 16 and 32 with ``channels`` channels."""
        p3 = self.stage3(self.stem(x))
        p4 = self.stage4(p3)
        return p3, p4, self.stage5(p4)


class PathAggregation(nn.Module):
    """Top-down then bottom-up fusion of three levels, in one of three builds.

    Args:
        inputs: Channels of the backbone's levels at strides 8, 16 and 32.
        neck: "elan" (the original), "slim" (GSConvs and VoV-GSCSP) or "coord" (CoordConv on the
            laterals and outputs).
    """

    def __init__(self, inputs: Sequence[int], neck: Neck) -> None:
        super().__init__()
        slim = neck == "slim"
        lateral: type[nn.Module] = {"elan": ConvBN, "slim": GSConvs, "coord": CoordConv}[neck]
        output: type[nn.Module] = CoordConv if neck == "coord" else ConvBN
        down: type[nn.Module] = GSConvs if slim else ConvBN

        def fuse(channels: int, outputs: int) -> nn.Module:
            return VoVGSCSP(channels, outputs) if slim else ELAN(channels, outputs // 2, outputs)

        self.pyramid = SPPCSP(inputs[2], 256)
        self.top5 = lateral(256, 128)
        self.lateral4 = lateral(inputs[1], 128)
        self.fuse4 = fuse(256, 128)
        self.top4 = lateral(128, 64)
        self.lateral3 = lateral(inputs[0], 64)
        self.fuse3 = fuse(128, 64)
        self.down3 = down(64, 128, 3, 2)
        self.fuse4_up = fuse(256, 128)
        self.down4 = down(128, 256, 3, 2)
        self.fuse5_up = fuse(512, 256)
        self.outputs = nn.ModuleList(output(c, 2 * c, 3) for c in (64, 128, 256))
        self.grow = nn.Upsample(scale_factor=2.0, mode="nearest")

    @property
    def channels(self) -> tuple[int, ...]:
        """Of the features at strides 8, 16 and 32: 128, 256, 512 unless pruned."""
        convs = [[m for m in o.modules() if isinstance(m, nn.Conv2d)] for o in self.outputs]
        return tuple(found[-1].out_channels for found in convs)

    def forward(self, levels: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
        """Features at strides 8, 16, 32 -> features there with ``channels`` channels."""
        p3, p4, p5 = levels
        p5 = self.pyramid(p5)
        p4 = self.fuse4(torch.cat([self.lateral4(p4), self.grow(self.top5(p5))], 1))
        p3 = self.fuse3(torch.cat([self.lateral3(p3), self.grow(self.top4(p4))], 1))
        p4 = self.fuse4_up(torch.cat([self.down3(p3), p4], 1))
        p5 = self.fuse5_up(torch.cat([self.down4(p4), p5], 1))
        return [layer(p) for layer, p in zip(self.outputs, (p3, p4, p5), strict=True)]


class ImplicitHead(nn.Module):
    """1x1 prediction with implicit knowledge: ``multiply * conv(x + add)`` (Wang 2021, YOLOR)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1)
        self.add = nn.Parameter(torch.empty(1, inputs, 1, 1).normal_(0.0, 0.02))
        self.multiply = nn.Parameter(torch.empty(1, outputs, 1, 1).normal_(1.0, 0.02))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        return self.multiply * self.conv(x + self.add)  # type: ignore[no-any-return]

    def fused(self) -> nn.Conv2d:
        """The same function as one convolution."""
        conv = nn.Conv2d(self.conv.in_channels, self.conv.out_channels, 1)
        with torch.no_grad():
            weight = self.conv.weight
            scale = self.multiply.view(-1)
            assert self.conv.bias is not None
            bias = self.conv.bias + weight[:, :, 0, 0] @ self.add.view(-1)
            conv.weight.copy_(weight * scale.view(-1, 1, 1, 1))
            assert conv.bias is not None
            conv.bias.copy_(bias * scale)
        return conv


def start_rare(heads: Sequence[nn.Conv2d], anchors: int) -> None:
    """Biases such that at first an object is as rare as 8 in a 640 px image, its class open.

    Args:
        heads: For strides 8, 16 and 32 the convolution to A * (5 + K) channels.
        anchors: A.
    """
    with torch.no_grad():
        for head, stride in zip(heads, STRIDES, strict=True):
            assert head.bias is not None
            bias = head.bias.view(anchors, -1)
            bias[:, 4] += math.log(8 / (640 / stride) ** 2)
            bias[:, 5:] += math.log(0.6 / (bias.shape[1] - 5 - 0.99))


class YoloV7Tiny(nn.Module):
    """The detector: backbone, neck, and an implicit head on each of three levels.

    Args:
        classes: Number of classes K, at least 1.
        neck: Which neck.
        backbone: "yolov7-tiny", or "efficientnet-lite0" whose ImageNet weights can be had offline.
        channels: 1 for grey images, 3 for colour.
        anchors: Number of anchors A a level.
        widths: Channels of layers that pruning made narrower (see ``nets.widths``).
    """

    def __init__(
        self,
        classes: int,
        neck: Neck = "elan",
        backbone: Backbone = "yolov7-tiny",
        channels: int = 3,
        anchors: int = len(COCO_ANCHORS[0]),
        widths: Widths | None = None,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.backbone: TinyBackbone | EfficientNetLite0 = (
            TinyBackbone(channels) if backbone == "yolov7-tiny" else EfficientNetLite0(channels)
        )
        self.neck = PathAggregation(self.backbone.channels, neck)
        set_widths(self, widths or {})
        self.anchors = anchors
        outputs = anchors * (5 + classes)
        heads = [ImplicitHead(c, outputs) for c in self.neck.channels]
        start_rare([head.conv for head in heads], anchors)
        self.heads = nn.ModuleList(heads)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Raw predictions.

        Args:
            x: (B, channels, H, W) scaled images; H and W divisible by 32.

        Returns:
            For strides 8, 16, 32 a map (B, A * (5 + K), H / stride, W / stride): for each of the A
            anchors x, y, width, height, objectness and K class logits.
        """
        return [h(p) for h, p in zip(self.heads, self.neck(self.backbone(x)), strict=True)]


def fixed_layers(network: nn.Module) -> list[nn.Module]:
    """Layers whose outputs pruning must leave: predictions, and what it cannot follow.

    A GSConv's shuffle is cut into slices of fixed places (Wong 2023, section 3.3.7.4, leaves the
    GSConv layers of VoV-GSCSP out as well), and ``VoVGSCSP.unused`` never runs.
    """
    found: list[nn.Module] = []
    for module in network.modules():
        if isinstance(module, ImplicitHead):
            found.append(module.conv)
        elif type(module) is GSConv:
            found.append(module)
        elif isinstance(module, VoVGSCSP):
            found.append(module.unused)
    return found


def scale_factors(network: nn.Module) -> list[Tensor]:
    """The batch norms' scale factors, those of ``fixed_layers`` apart (Liu 2017)."""
    fixed = {m for layer in fixed_layers(network) for m in layer.modules()}
    return [m.weight for m in network.modules() if isinstance(m, nn.BatchNorm2d) and m not in fixed]
