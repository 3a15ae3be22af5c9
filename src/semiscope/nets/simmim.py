"""Masked patches told by a convolutional network: SimMIM (Xie et al. 2022), with a projection."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semiscope.nets.classifier import ENCODERS, Seen
from semiscope.nets.mae import patches_of, projection_head
from semiscope.nets.stages import Staged

STRIDE = 32  # of the encoder's last feature


class SimMim(nn.Module):
    """A backbone that sees images with hidden patches, and one layer that tells what these show.

    A convolution cannot leave patches out as a transformer does; a grey that is learnt takes their
    place. Answers are those of ``nets.mae.Mae``, so that both learn by the same losses.

    Args:
        net: Name of a backbone in ``nets.classifier.ENCODERS``.
        image: Height and width, multiples of 32 and of ``patch``.
        patch: Side of a patch, px.
        channels: Of the images, 1 or 3.
        features: Length of the projected features; 0 for no projection.

    Attributes:
        encoder: What is kept after pre-training; its tensors are named ``encoder.*``.
    """

    def __init__(
        self, net: str, image: tuple[int, int], patch: int, channels: int, features: int = 128
    ) -> None:
        super().__init__()
        encoder = ENCODERS[net](Seen(*image, channels, patch))
        assert isinstance(encoder, Staged)
        self.encoder = encoder
        width = encoder.channels[-1]
        self.patch = patch
        self.grid = (image[0] // patch, image[1] // patch)
        self.mask_token = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.head = nn.Conv2d(width, channels * STRIDE**2, 1)
        self.projection: nn.Sequential | None = None
        if features:
            self.projection = projection_head(width, features)

    def forward(self, images: Tensor, kept: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the network takes all patches for, and what it makes of the image it saw.

        Args:
            images: (n, C, H, W).
            kept: (n, K) int64, the places of the patches that are seen, counted row by row, each
                once.

        Returns:
            (n, patches, patch * patch * C) reconstruction, laid out as ``patches_of`` does; and
            (n, features) of unit length: the projected mean of the last feature; None without a
            projection.
        """
        hidden = images.new_ones(len(images), self.grid[0] * self.grid[1]).scatter(1, kept, 0.0)
        mask = F.interpolate(hidden.view(-1, 1, *self.grid), images.shape[2:])
        seen = self.encoder(images * (1 - mask) + self.mask_token * mask)[-1]
        features = None
        if self.projection is not None:
            features = F.normalize(self.projection(seen.mean((2, 3))), dim=1)
        return patches_of(F.pixel_shuffle(self.head(seen), STRIDE), self.patch), features
