"""PointRend: a coarse mask, then its uncertain points alone, decided on fine features.

Kirillov et al. 2020, "PointRend: Image Segmentation as Rendering", sections 3 and 4.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semiscope.nets.mask_heads import MaskPrediction, of_class

_COARSE = 7
_TRAIN_POINTS = 14 * 14
_OVERSAMPLE = 3
_IMPORTANT = 0.75  # share of the training points that lie where the coarse mask is unsure
_POINTS = 28 * 28  # decided in each subdivision
_STRIDE = 4  # of p2


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """Values of maps at points, interpolated between the centres of their cells.

    Args:
        maps: (n, C, H, W).
        points: (n, ..., 2) x and y in shares of the map's sides; outside of [0, 1] the border's
            values hold.

    Returns:
        (n, C, ...).
    """
    flat = points.reshape(points.shape[0], -1, 1, 2)
    values = F.grid_sample(maps, 2 * flat - 1, padding_mode="border", align_corners=False)
    return values.reshape(*values.shape[:2], *points.shape[1:-1])


def cells(side: int, device: torch.device) -> Tensor:
    """(side * side, 2): x and y of the centres of a regular grid, in shares of its sides."""
    middle = (torch.arange(side, device=device) + 0.5) / side
    y, x = torch.meshgrid(middle, middle, indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2)


def uncertain_points(coarse: Tensor, count: int) -> Tensor:
    """Points to train on: most where a mask is near its border, the rest anywhere (section 3.3).

    How unsure a point is, is read from the logit interpolated there, not from probabilities of the
    cells around it: between two sure cells of opposite sign lies the border.

    Args:
        coarse: (n, 1, side, side) logits.
        count: Points a mask.

    Returns:
        (n, count, 2) x and y in [0, 1].
    """
    drawn = torch.rand(len(coarse), _OVERSAMPLE * count, 2, device=coarse.device)
    unsure = -sample(coarse, drawn)[:, 0].abs()
    best = unsure.topk(round(_IMPORTANT * count), 1).indices
    chosen = drawn.gather(1, best[..., None].expand(-1, -1, 2))
    rest = count - chosen.shape[1]
    return torch.cat([chosen, torch.rand(len(coarse), rest, 2, device=coarse.device)], 1)


class CoarseHead(nn.Module):
    """A 7x7 mask a class, from 14x14 points of p2 by two fully connected layers."""

    def __init__(self, classes: int, width: int, hidden: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, width, 2, stride=2)
        self.first = nn.Linear(width * _COARSE**2, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.masks = nn.Linear(hidden, classes * _COARSE**2)
        nn.init.normal_(self.masks.weight, std=1e-3)
        nn.init.zeros_(self.masks.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(n, width, 14, 14) -> logits (n, classes, 7, 7)."""
        x = F.relu(self.reduce(x)).flatten(1)
        x = F.relu(self.second(F.relu(self.first(x))))
        return self.masks(x).unflatten(1, (-1, _COARSE, _COARSE))  # type: ignore[no-any-return]


class PointHead(nn.Module):
    """A logit a class at each point; every layer sees the coarse prediction anew."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width + classes, width) for _ in range(3))
        self.last = nn.Linear(width + classes, classes)
        nn.init.normal_(self.last.weight, std=1e-3)
        nn.init.zeros_(self.last.bias)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """(n, P, width) features and (n, P, classes) coarse logits -> (n, P, classes) logits."""
        for layer in self.layers:
            fine = F.relu(layer(torch.cat([fine, coarse], -1)))
        return self.last(torch.cat([fine, coarse], -1))  # type: ignore[no-any-return]


class PointRendHead(nn.Module):
    """The mask head of SEMI-PointRend; takes the place of ``ConvMaskHead``.

    Args:
        classes: Number of classes K.
        width: Channels of p2 and of the point head.
        hidden: Width of the coarse head's fully connected layers.
        subdivisions: Doublings of the 7x7 mask at inference; 5 give 224x224.
    """

    def __init__(self, classes: int, width: int, hidden: int, subdivisions: int) -> None:
        super().__init__()
        self.coarse = CoarseHead(classes, width, hidden)
        self.point = PointHead(classes, width)
        self.subdivisions = subdivisions

    def forward(self, levels: Sequence[Tensor], boxes: Tensor, classes: Tensor) -> MaskPrediction:
        """Coarse masks and random points for training.

        Args:
            levels: p2 to p5.
            boxes: (B, N, 4) px of the input.
            classes: (B, N) int64 whose masks are wanted.
        """
        batch, number = classes.shape
        coarse = self._coarse(levels[0], boxes)
        own = of_class(coarse, classes.flatten())
        points = uncertain_points(own.detach()[:, None], _TRAIN_POINTS)
        logits = self._decide(levels[0], boxes, coarse, points, classes)
        return MaskPrediction(
            own.reshape(batch, number, _COARSE, _COARSE),
            points.reshape(batch, number, -1, 2),
            logits.reshape(batch, number, -1),
        )

    def masks(self, levels: Sequence[Tensor], boxes: Tensor, classes: Tensor) -> Tensor:
        """Fine masks by adaptive subdivision (section 3.1); arguments as ``forward``.

        Returns:
            (B, N, S, S) logits, S = 7 * 2 ** subdivisions.
        """
        coarse = self._coarse(levels[0], boxes)
        mask = of_class(coarse, classes.flatten())[:, None]
        for step in range(1, self.subdivisions + 1):
            mask = F.interpolate(mask, scale_factor=2.0, mode="bilinear", align_corners=False)
            side = _COARSE * 2**step
            # a grid no finer than the points of one step would be overwritten whole by the next
            if (2 * side) ** 2 <= _POINTS and step < self.subdivisions:
                continue
            flat = mask.flatten(1)
            place = (-flat.abs()).topk(min(_POINTS, side * side), 1).indices
            points = cells(side, mask.device)[place]
            values = self._decide(levels[0], boxes, coarse, points, classes)
            mask = flat.scatter(1, place, values.to(flat.dtype)).reshape(-1, 1, side, side)
        return mask.reshape(*classes.shape, *mask.shape[2:])

    def _coarse(self, p2: Tensor, boxes: Tensor) -> Tensor:
        """(B * N, K, 7, 7) logits."""
        grid = cells(2 * _COARSE, p2.device).expand(*boxes.shape[:2], -1, -1)
        seen = _features(p2, boxes, grid.flatten(0, 1))
        maps = seen.transpose(1, 2).reshape(seen.shape[0], -1, 2 * _COARSE, 2 * _COARSE)
        return self.coarse(maps)  # type: ignore[no-any-return]

    def _decide(
        self, p2: Tensor, boxes: Tensor, coarse: Tensor, points: Tensor, classes: Tensor
    ) -> Tensor:
        """(B * N, P) logits of each box's class at its points (B * N, P, 2)."""
        seen = sample(coarse, points).transpose(1, 2)
        logits = self.point(_features(p2, boxes, points), seen)
        index = classes.reshape(-1, 1, 1).expand(-1, points.shape[1], 1)
        return logits.gather(2, index).squeeze(2)  # type: ignore[no-any-return]


def _features(p2: Tensor, boxes: Tensor, points: Tensor) -> Tensor:
    """(B * N, P, C): p2 at points (B * N, P, 2) that are shares of their boxes (B, N, 4)."""
    size = points.new_tensor([p2.shape[3], p2.shape[2]]) * _STRIDE
    low, high = boxes[..., None, :2], boxes[..., None, 2:]
    inside = points.reshape(*boxes.shape[:2], -1, 2)
    values = sample(p2, (low + inside * (high - low)) / size)
    return values.permute(0, 2, 3, 1).flatten(0, 1)
