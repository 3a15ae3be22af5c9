"""DiffusionInst: instances by denoising random boxes.

Gu et al. 2024, "DiffusionInst: Diffusion Model for Instance Segmentation"; on SEM images:
"SEMI-DiffusionInst" (2023). Boxes are refined as in Chen et al. 2023, "DiffusionDet", with the
dynamic heads of Sun et al. 2021, "Sparse R-CNN". Masks are made by filters of each instance's own
(Tian et al. 2020, "CondInst") without relative coordinates.

At width 256 with six heads and five classes the counts are those of the paper: 112.3 M parameters
with ResNet-50, of which 13.780 M for each head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semiscope.nets.backbones import BACKBONES
from semiscope.nets.fpn import FeaturePyramid
from semiscope.nets.roi import PixelRows, pixel_rows, roi_align

SIGNAL_SCALE = 2.0
"""Normalised boxes span minus to plus this beside noise of variance 1."""
MASK_CHANNELS = 8
KERNEL = 2 * MASK_CHANNELS**2 + MASK_CHANNELS + 2 * MASK_CHANNELS + 1
"""Numbers of an instance's mask filters: weights 8x8, 8x8, 8, then biases 8, 8, 1."""
_POOLED = 7
_DELTA_WEIGHTS = (2.0, 2.0, 1.0, 1.0)
_MOST_GROWTH = math.log(100_000 / 16)
_RARE = 0.01  # the score of a fresh network: most boxes show nothing


class Stage(NamedTuple):
    """What one head says of N boxes in B images.

    Attributes:
        logits: (B, N, K) class logits.
        boxes: (B, N, 4) xyxy in pixels of the input.
        kernels: (B, N, 153) mask filters.
    """

    logits: Tensor
    boxes: Tensor
    kernels: Tensor


class TimeEmbedding(nn.Module):
    """Sinusoids of the diffusion time and two linear layers with GELU."""

    rates: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        rates = torch.exp(torch.arange(half) * (-math.log(10_000) / (half - 1)))
        self.register_buffer("rates", rates, persistent=False)
        self.layers = nn.Sequential(
            nn.Linear(2 * half, 4 * width), nn.GELU(), nn.Linear(4 * width, 4 * width)
        )

    def forward(self, time: Tensor) -> Tensor:
        """(B,) times -> (B, 4 width)."""
        angle = time[:, None] * self.rates
        embedded: Tensor = self.layers(torch.cat([angle.sin(), angle.cos()], 1))
        return embedded


class Attention(nn.Module):
    """Self-attention among the boxes of an image."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> (B, N, width)."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(x).chunk(3, -1)
        )
        joined = F.scaled_dot_product_attention(q, k, v)
        mixed: Tensor = self.out(joined.transpose(1, 2).flatten(2))
        return mixed


class DynamicConv(nn.Module):
    """Two 1x1 convolutions on a box's features, their weights made from the box's own vector."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.width, self.hidden = width, hidden
        self.weights = nn.Linear(width, 2 * width * hidden)
        self.norm1 = nn.LayerNorm(hidden)
        self.norm2 = nn.LayerNorm(width)
        self.out = nn.Linear(width * _POOLED**2, width)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, x: Tensor, pooled: Tensor) -> Tensor:
        """(M, width) vectors and (M, 49, width) features -> (M, width)."""
        first, second = self.weights(x).chunk(2, 1)
        y = F.relu(self.norm1(torch.bmm(pooled, first.unflatten(1, (self.width, self.hidden)))))
        y = F.relu(self.norm2(torch.bmm(y, second.unflatten(1, (self.hidden, self.width)))))
        return F.relu(self.norm3(self.out(y.flatten(1))))


def _tower(width: int, layers: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [nn.Linear(width, width, bias=False), nn.LayerNorm(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*parts)


class DynamicHead(nn.Module):
    """Looks at each box and says its class, a better box and its mask filters."""

    def __init__(
        self, classes: int, width: int, hidden: int, feedforward: int, attention_heads: int
    ) -> None:
        super().__init__()
        self.attention = Attention(width, attention_heads)
        self.norm1 = nn.LayerNorm(width)
        self.interaction = DynamicConv(width, hidden)
        self.norm2 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, feedforward)
        self.linear2 = nn.Linear(feedforward, width)
        self.norm3 = nn.LayerNorm(width)
        self.time = nn.Linear(4 * width, 2 * width)
        self.class_tower = _tower(width, 1)
        self.box_tower = _tower(width, 3)
        self.logits = nn.Linear(width, classes)
        self.deltas = nn.Linear(width, 4)
        self.kernels = nn.Linear(width, KERNEL)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        nn.init.constant_(self.logits.bias, -math.log((1 - _RARE) / _RARE))

    def forward(
        self, pixels: PixelRows, boxes: Tensor, vectors: Tensor | None, time: Tensor
    ) -> tuple[Stage, Tensor]:
        """One refinement.

        Args:
            pixels: Of the pyramid.
            boxes: (B, N, 4) xyxy in pixels of the input.
            vectors: (B, N, width) of the head before; None for the first.
            time: (B, 4 width) embedded times.

        Returns:
            The answer and the boxes' vectors for the next head.
        """
        batch, count = boxes.shape[:2]
        pooled = roi_align(pixels, boxes, _POOLED).flatten(3).transpose(2, 3)
        x = pooled.mean(2) if vectors is None else vectors
        x = self.norm1(x + self.attention(x))
        seen = self.interaction(x.flatten(0, 1), pooled.flatten(0, 1))
        x = self.norm2(x + seen.unflatten(0, (batch, count)))
        x = self.norm3(x + self.linear2(F.relu(self.linear1(x))))
        scale, shift = self.time(F.silu(time))[:, None].chunk(2, -1)
        y = x * (scale + 1) + shift
        towered = self.box_tower(y)
        stage = Stage(
            self.logits(self.class_tower(y)),
            apply_deltas(boxes, self.deltas(towered)),
            self.kernels(towered),
        )
        return stage, x


def apply_deltas(boxes: Tensor, deltas: Tensor) -> Tensor:
    """Boxes (..., 4) xyxy moved by (..., 4) dx, dy (in box sizes) and dw, dh (logarithms)."""
    dx, dy, dw, dh = (deltas / deltas.new_tensor(_DELTA_WEIGHTS)).unbind(-1)
    size = boxes[..., 2:] - boxes[..., :2]
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2 + torch.stack([dx, dy], -1) * size
    half = torch.stack([dw, dh], -1).clamp(max=_MOST_GROWTH).exp() * size / 2
    return torch.cat([centre - half, centre + half], -1)


class MaskBranch(nn.Module):
    """p2, p3 and p4 joined at stride 4 into the eight channels that the filters read."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.refine = nn.ModuleList(_conv(width, hidden) for _ in range(3))
        self.tower = nn.Sequential(*(_conv(hidden, hidden) for _ in range(4)))
        self.out = nn.Conv2d(hidden, MASK_CHANNELS, 1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """p2 to p5 -> (B, 8, H / 4, W / 4)."""
        parts = [refine(level) for refine, level in zip(self.refine, levels, strict=False)]
        size = parts[0].shape[-2:]
        joined = parts[0]
        for part in parts[1:]:
            joined = joined + F.interpolate(part, size, mode="bilinear", align_corners=False)
        features: Tensor = self.out(self.tower(joined))
        return features


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class DiffusionInst(nn.Module):
    """Backbone, feature pyramid, mask branch and the dynamic heads.

    Args:
        classes: Number of classes K, at least 1.
        backbone: Name in ``BACKBONES``.
        channels: 1 for grey images, 3 for colour.
        width: Channels of the pyramid and of a box's vector.
        heads: Dynamic heads, each with weights of its own.
        hidden: Width inside the dynamic convolution.
        feedforward: Width inside a head's feed-forward layers.
        mask_width: Channels of the mask branch.
        attention_heads: Divides ``width``.
    """

    def __init__(
        self,
        classes: int,
        backbone: str,
        channels: int = 3,
        width: int = 256,
        heads: int = 6,
        hidden: int = 64,
        feedforward: int = 2048,
        mask_width: int = 128,
        attention_heads: int = 8,
    ) -> None:
        super().__init__()
        self.backbone = BACKBONES[backbone](channels)
        self.pyramid = FeaturePyramid(self.backbone.channels, width)
        self.mask_branch = MaskBranch(width, mask_width)
        self.time = TimeEmbedding(width)
        self.heads = nn.ModuleList(
            DynamicHead(classes, width, hidden, feedforward, attention_heads) for _ in range(heads)
        )

    def features(self, images: Tensor) -> tuple[PixelRows, Tensor]:
        """What is computed once an image.

        Args:
            images: (B, channels, H, W), H and W multiples of 32.

        Returns:
            The pyramid's pixels, and the mask features (B, 8, H / 4, W / 4).
        """
        levels = self.pyramid(self.backbone(images))
        return pixel_rows(levels), self.mask_branch(levels)

    def forward(self, images: Tensor, boxes: Tensor, time: Tensor) -> tuple[list[Stage], Tensor]:
        """The answers of all heads to noisy boxes, for training.

        Args:
            images: (B, channels, H, W), H and W multiples of 32.
            boxes: (B, N, 4) xyxy in pixels.
            time: (B,) diffusion times.

        Returns:
            A stage a head, and the mask features (B, 8, H / 4, W / 4).
        """
        pixels, masks = self.features(images)
        return self.refine(pixels, boxes, time), masks

    def refine(self, pixels: PixelRows, boxes: Tensor, time: Tensor) -> list[Stage]:
        """The answers of all heads, each beginning with the boxes of the one before.

        Args:
            pixels: Of the pyramid.
            boxes: (B, N, 4) xyxy in pixels of the input.
            time: (B,) diffusion times.
        """
        embedded = self.time(time)
        stages: list[Stage] = []
        vectors: Tensor | None = None
        for head in self.heads:
            stage, vectors = head(pixels, boxes.detach(), vectors, embedded)
            stages.append(stage)
            boxes = stage.boxes
        return stages

    def step(
        self,
        pixels: PixelRows,
        carried: Tensor,
        kept: Tensor,
        noise: Tensor,
        row: Tensor,
    ) -> tuple[Tensor, Tensor, Stage]:
        """One DDIM step (Song et al. 2021, eq. 12) with renewal of the boxes that show nothing.

        Args:
            pixels: Of the pyramid.
            carried: (B, N, 4) signal that the step before left, without its noise.
            kept: (B, N) which of them go on; the others start from noise.
            noise: (2, N, 4) standard normal: for those that start, for those that go on.
            row: (6,) of the schedule: time, 1 / sqrt(a), 1 / sqrt(1 / a - 1), sqrt(b), c, sigma.

        Returns:
            Signal and choice for the next step, and the last head's answer.
        """
        signal = torch.where(kept[..., None], carried + row[5] * noise[1], noise[0])
        size = input_size(pixels)
        boxes = signal_to_boxes(signal, size)
        stage = self.refine(pixels, boxes, row[0].expand(signal.shape[0]))[-1]
        clean = boxes_to_signal(stage.boxes, size).clamp(-SIGNAL_SCALE, SIGNAL_SCALE)
        direction = (signal * row[1] - clean) * row[2]
        # a box below even odds shows nothing and is drawn anew (Chen et al. 2023, section 3.4)
        return row[3] * clean + row[4] * direction, stage.logits.amax(-1) > 0, stage


class Denoiser(nn.Module):
    """A trained ``DiffusionInst`` as it infers: boxes, classes and filters from noise."""

    def __init__(self, network: DiffusionInst) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, images: Tensor, noise: Tensor, schedule: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All steps; the features are computed once.

        Args:
            images: (B, channels, H, W), H and W multiples of 32.
            noise: (S, 2, N, 4) standard normal, the same for every image.
            schedule: (S, 6), a row a step (see ``DiffusionInst.step``).

        Returns:
            Of each step logits (S, B, N, K), boxes (S, B, N, 4) xyxy in pixels of the input and
            filters (S, B, N, 153); and mask features (B, 8, H / 4, W / 4).
        """
        pixels, masks = self.network.features(images)
        carried = noise[0, :1].repeat(images.shape[0], 1, 1)
        kept = carried[..., 0] > math.inf
        stages = []
        for now, row in zip(noise, schedule, strict=True):
            carried, kept, stage = self.network.step(pixels, carried, kept, now, row)
            stages.append(stage)
        logits, boxes, kernels = (torch.stack(part) for part in zip(*stages, strict=True))
        return logits, boxes, kernels, masks


def input_size(pixels: PixelRows) -> Tensor:
    """(4,) width, height, width, height of the input in pixels."""
    height, width = 4 * pixels.height, 4 * pixels.width
    return pixels.rows.new_tensor([width, height, width, height])


def signal_to_boxes(signal: Tensor, size: Tensor) -> Tensor:
    """Noisy signal (..., 4) -> boxes xyxy in pixels; ``size`` as of ``input_size``."""
    share = (signal.clamp(-SIGNAL_SCALE, SIGNAL_SCALE) / SIGNAL_SCALE + 1) / 2
    centre, half = share[..., :2], share[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1) * size


def boxes_to_signal(boxes: Tensor, size: Tensor) -> Tensor:
    """Boxes (..., 4) xyxy in pixels -> signal: normalised x, y, width, height over -2 to 2."""
    low, high = boxes[..., :2] / size[:2], boxes[..., 2:] / size[:2]
    return (torch.cat([(low + high) / 2, high - low], -1) * 2 - 1) * SIGNAL_SCALE
