"""ResNet-18, 50 and 101 as feature extractors: He et al. 2016, "Deep Residual Learning".

The stride of a bottleneck stands in its 3x3 convolution ("v1.5"), and modules are named as in the
published ImageNet checkpoints of torchvision and timm, so that these load by name.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from semiscope.nets.stages import Staged


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, width, H / stride, W / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """1x1 down to the width, 3x3, 1x1 up to four times the width, beside a shortcut.

    Attributes:
        attention: What its maps go through before the shortcut is added; nothing by itself.
    """

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, 4 * width, 1)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.attention: nn.Module = nn.Identity()
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, 4 * width, H / stride, W / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.attention(self.bn3(self.conv3(y)))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))  # type: ignore[no-any-return]


# depth -> kind of block, blocks a stage
_DEPTHS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
}


class ResNet(Staged):
    """Stem and four stages, giving features at strides 4, 8, 16 and 32.

    Args:
        depth: 18, 50 or 101.
        inputs: Channels of the image, 1 or 3.
    """

    def __init__(self, depth: int, inputs: int = 3) -> None:
        super().__init__()
        block, counts = _DEPTHS[depth]
        self.conv1 = nn.Conv2d(inputs, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels, stages = 64, []
        for i, count in enumerate(counts):
            blocks = []
            for j in range(count):
                blocks.append(block(channels, 64 << i, 2 if i and not j else 1))
                channels = block.expansion * (64 << i)
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.channels = tuple(block.expansion * (64 << i) for i in range(4))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def parts(self) -> Sequence[Sequence[nn.Module]]:
        """The modules of the stem, then those of each stage."""
        return (
            (self.conv1, self.bn1),
            (self.layer1,),
            (self.layer2,),
            (self.layer3,),
            (self.layer4,),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, inputs, H, W) -> features at strides 4, 8, 16, 32 with ``channels`` channels."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        levels = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            levels.append(x)
        return tuple(levels)
