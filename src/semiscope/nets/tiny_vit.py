"""TinyViT-5M as SAM's image encoder: Wu et al. 2022, "TinyViT"; Zhang et al. 2023, "MobileSAM".

Four stages: convolutions, then attention in windows of 7, 14 and 7 places. The last stage keeps the
resolution, so that the features lie at stride 16 as SAM's decoder expects. Maps are padded with
zeros to whole windows and padded places take part in the attention, as when the weights were
trained. Modules are named as in MobileSAM's checkpoint.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semiscope.nets.norms import LayerNorm2d

STRIDE = 16

_WIDTHS = (64, 128, 160, 320)
_DEPTHS = (2, 2, 6, 2)
_HEADS = (2, 4, 5, 10)
_WINDOWS = (7, 7, 14, 7)
_MERGING_STRIDES = (2, 2, 1)
_IMAGENET_CLASSES = 1000


def _conv(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution and batch norm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(c=conv, bn=nn.BatchNorm2d(outputs)))


class PatchEmbed(nn.Module):
    """Two convolutions of stride 2."""

    def __init__(self) -> None:
        super().__init__()
        half = _WIDTHS[0] // 2
        self.seq = nn.Sequential(_conv(3, half, 3, 2), nn.GELU(), _conv(half, _WIDTHS[0], 3, 2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, H / 4, W / 4)."""
        return self.seq(x)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1: a block of the first stage, or a merging of places.

    Args:
        inputs: Channels.
        hidden: Channels between.
        outputs: Channels.
        stride: Of the depthwise convolution.
        adds: Whether the input is added, with GELU after.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, stride: int, adds: bool) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, hidden, 1)
        self.conv2 = _conv(hidden, hidden, 3, stride, hidden)
        self.conv3 = _conv(hidden, outputs, 1)
        self.adds = adds

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        y: Tensor = self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))
        return F.gelu(x + y) if self.adds else y


class Attention(nn.Module):
    """Self-attention inside windows with a learned bias for each distance in rows and columns.

    The fused ``qkv`` gives query, key and value of the first head, then those of the second, ...
    """

    distance: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (channels // heads) ** -0.5
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window**2))
        rows, columns = torch.arange(window**2) // window, torch.arange(window**2) % window
        down = (rows[:, None] - rows[None, :]).abs()
        right = (columns[:, None] - columns[None, :]).abs()
        self.register_buffer("distance", down * window + right, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, T, C) windows of T places -> the same shape."""
        query, key, value = (
            self.qkv(self.norm(x)).unflatten(-1, (self.heads, 3, -1)).permute(3, 0, 2, 1, 4)
        )
        bias = self.attention_biases[:, self.distance]
        weights = (self.scale * query) @ key.transpose(-2, -1) + bias
        return self.proj((weights.softmax(-1) @ value).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """Norm and two linear layers with GELU between."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.fc2(F.gelu(self.fc1(self.norm(x))))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Window attention, a depthwise convolution across the windows' borders, and an MLP."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = Attention(channels, heads, window)
        self.mlp = MLP(channels)
        self.local_conv = _conv(channels, channels, 3, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        x = self.local_conv(x + self._attend(x))
        return x + self.mlp(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]

    def _attend(self, x: Tensor) -> Tensor:
        side, (height, width) = self.window, x.shape[2:]
        x = F.pad(x, (0, -width % side, 0, -height % side))
        down, across = x.shape[2] // side, x.shape[3] // side
        windows: Tensor = x.reshape(-1, x.shape[1], down, side, across, side)
        windows = self.attn(windows.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(0, 2))
        windows = windows.view(-1, down, across, side, side, x.shape[1])
        whole = windows.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        return whole[:, :, :height, :width]


class Stage(nn.Module):
    """The blocks of one stage and the merging after them, if any."""

    def __init__(self, stage: int) -> None:
        super().__init__()
        width = _WIDTHS[stage]
        self.blocks = nn.Sequential(
            *(
                Bottleneck(width, 4 * width, width, 1, adds=True)
                if stage == 0
                else Block(width, _HEADS[stage], _WINDOWS[stage])
                for _ in range(_DEPTHS[stage])
            )
        )
        self.downsample: nn.Module = nn.Identity()
        if stage < len(_MERGING_STRIDES):
            following = _WIDTHS[stage + 1]
            stride = _MERGING_STRIDES[stage]
            self.downsample = Bottleneck(width, following, following, stride, adds=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> what the following stage takes."""
        return self.downsample(self.blocks(x))  # type: ignore[no-any-return]


class TinyViT(nn.Module):
    """Embedding, four stages and SAM's neck.

    ``norm_head`` and ``head`` classified ImageNet before MobileSAM was distilled: the checkpoint
    has them, nothing uses them.

    Args:
        outputs: Channels of the features.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed()
        self.layers = nn.Sequential(*(Stage(i) for i in range(len(_WIDTHS))))
        self.norm_head = nn.LayerNorm(_WIDTHS[-1])
        self.head = nn.Linear(_WIDTHS[-1], _IMAGENET_CLASSES)
        self.neck = nn.Sequential(
            nn.Conv2d(_WIDTHS[-1], outputs, 1, bias=False),
            LayerNorm2d(outputs),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            LayerNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W), H and W multiples of 16 -> (B, outputs, H / 16, W / 16)."""
        return self.neck(self.layers(self.patch_embed(x)))  # type: ignore[no-any-return]
