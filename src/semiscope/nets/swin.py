"""Swin-B as a feature extractor: Liu et al. 2021, "Swin Transformer".

Any input whose sides are multiples of 32: maps are padded to whole windows inside each block, and
padded places are masked out of the attention. Where a map has a single window along an axis nothing
is shifted there, as when the published weights were trained.

Modules are named as in the original checkpoints; ``original_names`` brings those of timm and
torchvision to that form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semiscope.nets.stages import Staged

_WINDOW = 7
_WIDTH = 128
_DEPTHS = (2, 2, 18, 2)
_HEADS = (4, 8, 16, 32)
_DROP_PATH = 0.3  # of the last block, as in the paper's detectors; it grows linearly from 0


class WindowAttention(nn.Module):
    """Self-attention inside windows with a learned bias for each relative place (section 3.2)."""

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (channels // heads) ** -0.5
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        reach = 2 * _WINDOW - 1
        self.relative_position_bias_table = nn.Parameter(torch.zeros(reach**2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        places = torch.arange(_WINDOW**2)
        rows, columns = places // _WINDOW, places % _WINDOW
        down = rows[:, None] - rows[None, :] + _WINDOW - 1
        right = columns[:, None] - columns[None, :] + _WINDOW - 1
        self.register_buffer("relative_position_index", down * reach + right, persistent=False)

    def forward(self, x: Tensor, blocked: Tensor | None) -> Tensor:
        """Attention of n windows of T places.

        Args:
            x: (B, n, T, C).
            blocked: (n, T, T) bool, true where a row's place must not look; None for nowhere.

        Returns:
            (B, n, T, C).
        """
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        weights = (self.scale * query) @ key.transpose(-2, -1) + bias
        if blocked is not None:
            weights = weights.masked_fill(blocked[:, None], float("-inf"))
        seen = weights.softmax(-1) @ value
        return self.proj(seen.transpose(2, 3).flatten(3))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): while training, a sample's branch is 0 at a rate."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> the same shape and expectation."""
        if not self.training or self.rate == 0:
            return x
        kept = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) >= self.rate
        return x * kept.to(x.dtype) / (1 - self.rate)


def _shift(side: int) -> int:
    return _WINDOW // 2 if side > _WINDOW else 0


def _windows(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, n, 49, C), H and W whole windows."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // _WINDOW, _WINDOW, width // _WINDOW, _WINDOW, channels)
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _blocked(height: int, width: int, shifted: bool, device: torch.device) -> Tensor | None:
    """Pairs of places in a window that are no neighbours: (n, 49, 49) bool, or None for no pair.

    After the cyclic shift a window holds places from both ends of the map, and places of padding;
    each sort only looks at its own.
    """
    padded = not height % _WINDOW == width % _WINDOW == 0
    if not padded and not (shifted and max(_shift(height), _shift(width))):
        return None
    sorts = []
    for side in (height, width):
        shift = _shift(side) if shifted else 0
        whole = side + -side % _WINDOW
        place = torch.arange(whole, device=device) + shift
        sorts.append((place >= whole).int() + 2 * (place % whole >= side).int())
    sort = 4 * sorts[0][:, None] + sorts[1][None, :]
    rows = _windows(sort[None, ..., None])[0, :, :, 0]
    return rows[:, :, None] != rows[:, None, :]


class SwinBlock(nn.Module):
    """Window attention and an MLP, each normed before and added (equation 3)."""

    def __init__(self, channels: int, heads: int, shifted: bool, drop_path: float) -> None:
        super().__init__()
        self.shifted = shifted
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = MLP(channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> the same shape."""
        x = x + self.drop_path(self._attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]

    def _attend(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, -width % _WINDOW, 0, -height % _WINDOW))
        whole = x.shape
        shifts = (_shift(height), _shift(width)) if self.shifted else (0, 0)
        if any(shifts):
            x = x.roll((-shifts[0], -shifts[1]), (1, 2))
        x = self.attn(_windows(x), _blocked(height, width, self.shifted, x.device))
        x = x.view(whole[0], whole[1] // _WINDOW, whole[2] // _WINDOW, _WINDOW, _WINDOW, -1)
        x = x.transpose(2, 3).reshape(whole)
        if any(shifts):
            x = x.roll(shifts, (1, 2))
        return x[:, :height, :width]


class PatchMerging(nn.Module):
    """Each 2x2 places become one: joined, normed, and halved in channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H / 2, W / 2, 2 * C), H and W even."""
        corners = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]  # down before right
        return self.reduction(self.norm(torch.cat(corners, -1)))  # type: ignore[no-any-return]


class PatchEmbedding(nn.Module):
    """Patches of 4x4 pixels become places."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, _WIDTH, 4, 4)
        self.norm = nn.LayerNorm(_WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, H / 4, W / 4, C)."""
        return self.norm(self.proj(x).permute(0, 2, 3, 1))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """The blocks of one stage, shifted by turns, and the merging after them but for the last."""

    def __init__(self, stage: int) -> None:
        super().__init__()
        channels, before = _WIDTH << stage, sum(_DEPTHS[:stage])
        last = sum(_DEPTHS) - 1
        self.blocks = nn.Sequential(
            *(
                SwinBlock(channels, _HEADS[stage], i % 2 == 1, _DROP_PATH * (before + i) / last)
                for i in range(_DEPTHS[stage])
            )
        )
        self.downsample = PatchMerging(channels) if stage < len(_DEPTHS) - 1 else None


class SwinB(Staged):
    """Embedding and four stages, giving normed features at strides 4, 8, 16 and 32.

    Args:
        inputs: Channels of the image, 1 or 3.
    """

    channels = tuple(_WIDTH << i for i in range(len(_DEPTHS)))

    def __init__(self, inputs: int = 3) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(inputs)
        self.layers = nn.ModuleList(Layer(i) for i in range(len(_DEPTHS)))
        for i, channels in enumerate(self.channels):
            self.add_module(f"norm{i}", nn.LayerNorm(channels))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def parts(self) -> Sequence[Sequence[nn.Module]]:
        """The modules of the stem, then those of each stage."""
        return ((self.patch_embed,), *((layer,) for layer in self.layers))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Features at strides 4, 8, 16 and 32.

        Args:
            x: (B, inputs, H, W), H and W multiples of 32.

        Returns:
            Four maps with ``channels`` channels.
        """
        x, levels = self.patch_embed(x), []
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            x = layer.blocks(x)
            levels.append(self.get_submodule(f"norm{i}")(x).permute(0, 3, 1, 2))
            if layer.downsample is not None:
                x = layer.downsample(x)
        return tuple(levels)


def original_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published Swin's tensors under the names of the original checkpoints.

    timm puts a merging at the head of the following stage; torchvision counts the embedding, the
    stages and the mergings through as ``features.0`` to ``features.7``.
    """
    late = "layers.3.downsample.norm.weight" in tensors
    return {_original_name(name, late): tensor for name, tensor in tensors.items()}


def _original_name(name: str, late_merging: bool) -> str:
    if found := re.fullmatch(r"layers\.(\d)\.downsample\.(.+)", name):
        return f"layers.{int(found[1]) - late_merging}.downsample.{found[2]}"
    if found := re.fullmatch(r"features\.0\.([02])\.(.+)", name):
        return f"patch_embed.{'proj' if found[1] == '0' else 'norm'}.{found[2]}"
    if found := re.fullmatch(r"features\.(\d)\.(.+)", name):
        stage, merging = divmod(int(found[1]) - 1, 2)
        rest = found[2].replace("mlp.0.", "mlp.fc1.").replace("mlp.3.", "mlp.fc2.")
        return f"layers.{stage}.{'downsample' if merging else 'blocks'}.{rest}"
    return name
