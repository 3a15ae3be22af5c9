"""RoIAlign over a feature pyramid: He et al. 2017, "Mask R-CNN", section 3.

Levels are chosen by equation 1 of Lin et al. 2017. Torchvision's operator is not used (see
``docs/decisions/0006``): a value of the result is a weighted sum of 16 pixels of one level (2x2
samples, each between four pixels), and a weighted sum of rows is what ``embedding_bag`` computes
without keeping the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_STRIDES = (4, 8, 16, 32)
# areas from which a box belongs to p3, p4, p5: a side of 224 px is at home on p4
_HOME_AREAS = (112.0**2, 224.0**2, 448.0**2)
_SAMPLES = 2  # along each side of a bin


class PixelRows(NamedTuple):
    """The pixels of all levels as rows, which several calls of ``roi_align`` can share.

    Attributes:
        rows: (B, P, C), p2 first, row by row.
        height: Of p2.
        width: Of p2.
    """

    rows: Tensor
    height: int
    width: int


def pixel_rows(levels: Sequence[Tensor]) -> PixelRows:
    """Rows of the levels p2 to p5, each (B, C, ...) and half the one before."""
    height, width = levels[0].shape[2:]
    rows = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], 1)
    return PixelRows(rows.contiguous(), height, width)


def roi_align(levels: Sequence[Tensor] | PixelRows, boxes: Tensor, size: int) -> Tensor:
    """Features of boxes.

    Half-pixel aligned, 2x2 samples a bin. Samples outside the level are taken at its border, so
    that any box has finite features. No gradient reaches the boxes.

    Args:
        levels: p2 to p5 at strides 4, 8, 16 and 32, each (B, C, ...) and half the one before; or
            their ``pixel_rows``, where one set of levels serves many calls.
        boxes: (B, N, 4) float32 xyxy in pixels of the input.
        size: Bins along each side.

    Returns:
        (B, N, C, size, size) in the levels' dtype.
    """
    given = levels if isinstance(levels, PixelRows) else pixel_rows(levels)
    batch, pixels, channels = given.rows.shape
    count = boxes.shape[1]
    indices, weights = _pixels_of(boxes.detach(), given.height, given.width, size)
    indices = indices + pixels * torch.arange(batch, device=boxes.device).view(-1, 1, 1, 1)
    weights = weights.to(given.rows.dtype)
    rows = given.rows.reshape(-1, channels)
    if torch.onnx.is_in_onnx_export():
        # ONNX has no embedding bag; four pixels at a time keep a quarter of the rows in memory
        bags = [weights[:, :, k, None] @ rows[indices[:, :, k]] for k in range(4)]
        sums = (bags[0] + bags[1] + bags[2] + bags[3]).squeeze(2)
    else:
        sums = F.embedding_bag(
            indices.flatten(2).flatten(0, 1),
            rows,
            mode="sum",
            per_sample_weights=weights.flatten(2).flatten(0, 1),
        )
    return sums.reshape(batch, count, size, size, channels).permute(0, 1, 4, 2, 3)


def _pixels_of(boxes: Tensor, height: int, width: int, size: int) -> tuple[Tensor, Tensor]:
    """Rows of the 16 pixels of each bin and their weights, both (B, N * size * size, 4, 4)."""
    device = boxes.device
    left, top, right, bottom = boxes.unbind(2)
    area = (right - left).clamp(min=0) * (bottom - top).clamp(min=0)
    level = (area[..., None] >= torch.tensor(_HOME_AREAS, device=device)).long().sum(2)
    heights, widths = ([side >> i for i in range(4)] for side in (height, width))
    firsts = [sum(heights[j] * widths[j] for j in range(i)) for i in range(4)]
    stride, tall, wide, first = (
        torch.tensor(values, device=device)[level] for values in (_STRIDES, heights, widths, firsts)
    )
    rows, down = _along(top / stride, bottom / stride, tall, size)
    columns, across = _along(left / stride, right / stride, wide, size)
    # (B, N, bins down, bins across, pixels down, pixels across)
    rows = first[..., None, None] + rows * wide[..., None, None]
    indices = rows[:, :, :, None, :, None] + columns[:, :, None, :, None, :]
    weights = down[:, :, :, None, :, None] * across[:, :, None, :, None, :]
    return indices.flatten(1, 3), weights.flatten(1, 3)


def _along(start: Tensor, end: Tensor, side: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The four pixels of each bin along one axis and their weights, both (B, N, size, 4).

    Args:
        start: (B, N) edges of the boxes in pixels of their level, and ``end`` the opposite ones.
        end: See ``start``.
        side: (B, N) pixels of the level.
        size: Bins.
    """
    samples = _SAMPLES * size
    part = (torch.arange(samples, device=start.device) + 0.5) / samples
    place = start[..., None] + (end - start)[..., None] * part - 0.5
    last = (side - 1)[..., None]
    # not clamp: an infinite box makes places that are no number, and they count as 0 here
    place = torch.minimum(torch.where(place > 0, place, 0.0), last.to(place.dtype))
    lower = place.long()
    upper = torch.minimum(lower + 1, last)
    fraction = place - lower
    pixels = _per_bin(torch.stack([lower, upper], 3), size)
    weights = _per_bin(torch.stack([1 - fraction, fraction], 3), size)
    return pixels, weights / _SAMPLES


def _per_bin(values: Tensor, size: int) -> Tensor:
    """(B, N, samples, 2) -> (B, N, size, 4)."""
    return values.flatten(2).view(*values.shape[:2], size, 2 * _SAMPLES)
