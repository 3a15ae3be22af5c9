"""SP&A-Net, the self-proliferation-and-attention network of Yang and Sun 2022.

As Wong 2023, section 2.3.2.2 and Table 2.4, describes it. Where that is silent: half of the maps
of a proliferation are made from the other half (a composition ratio of 0.5) by 3x3 depthwise
convolutions; both the expansion and the compression proliferate; the global context goes to all
places through a bottleneck of a sixteenth, at least 4 (Cao et al. 2019), with the softmax over
places that the text describes. That is 3.29 million weights for 11 classes, 2.65 without attention;
Table 2.6 names 2.135 and 2.120, Table 2.7 names 2.60, and no reading gives all three.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from semiscope.nets.attention import GlobalContext
from semiscope.nets.stages import Staged

_STEM = 16
# expanded maps, outputs, stride
_BLOCKS = (
    (16, 16, 1),
    (48, 24, 2),
    (72, 24, 1),
    (72, 48, 2),
    (120, 48, 1),
    (240, 96, 2),
    (200, 96, 1),
    (184, 96, 1),
    (184, 96, 1),
    (480, 144, 1),
    (672, 144, 1),
    (672, 192, 2),
    (960, 192, 1),
    (960, 192, 1),
    (960, 192, 1),
    (960, 192, 1),
)
_LAST, _TOP = 960, 1280


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


def _unit(conv: nn.Conv2d, active: bool = True) -> nn.Sequential:
    """A convolution, batch norm, and ReLU."""
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(conv.out_channels)]
    if active:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class SelfProliferation(nn.Module):
    """A 1x1 convolution makes half of the maps, a depthwise one the others from them."""

    def __init__(self, inputs: int, outputs: int, active: bool) -> None:
        super().__init__()
        half = outputs // 2
        self.maps = _unit(_conv(inputs, half, 1), active)
        self.extra = _unit(_conv(half, half, 3, groups=half), active)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        x = self.maps(x)
        return torch.cat([x, self.extra(x)], 1)


class SpaBlock(nn.Module):
    """Expand, convolve by depth, attend, compress; the input is added where the shape allows."""

    def __init__(
        self, inputs: int, expanded: int, outputs: int, stride: int, attention: bool
    ) -> None:
        super().__init__()
        self.expand = SelfProliferation(inputs, expanded, active=True)
        self.depthwise = _unit(_conv(expanded, expanded, 3, stride, expanded))
        self.attention = GlobalContext(expanded) if attention else nn.Identity()
        self.compress = SelfProliferation(expanded, outputs, active=False)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        y = self.compress(self.attention(self.depthwise(self.expand(x))))
        return x + y if self.adds else y  # type: ignore[no-any-return]


class SpaNet(Staged):
    """Stem, sixteen blocks, and a top of 1280 features.

    Args:
        inputs: Channels of the image, 1 or 3.
        attention: Whether the blocks attend; without it is the paper's SPNet.
    """

    def __init__(self, inputs: int = 3, attention: bool = True) -> None:
        super().__init__()
        self.stem = _unit(_conv(inputs, _STEM, 3, 2))
        blocks, width = [], _STEM
        for expanded, outputs, stride in _BLOCKS:
            blocks.append(SpaBlock(width, expanded, outputs, stride, attention))
            width = outputs
        self.blocks = nn.ModuleList(blocks)
        self.last = _unit(_conv(width, _LAST, 1))
        self.top = nn.Sequential(nn.Linear(_LAST, _TOP), nn.ReLU(inplace=True))
        self.channels = (_TOP,)

    def parts(self) -> Sequence[Sequence[nn.Module]]:
        """The stem, each block, and the layers on top."""
        return ((self.stem,), *((block,) for block in self.blocks), (self.last, self.top))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, 1280)."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.top(self.last(x).mean((2, 3)))  # type: ignore[no-any-return]
