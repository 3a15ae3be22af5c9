"""Weak-to-strong consistency: what a view says is taught to harder views of the same image.

FixMatch (Sohn et al. 2020) for every pixel, as UniMatch (Yang et al. 2023) has it: a term is the
cross entropy over the confident pixels divided by the number of valid ones, so that it fades where
little is certain. That is how Lee et al. 2025 have it too (equations 4 and 6), whose normaliser is
the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


@dataclass(frozen=True, slots=True)
class Pseudo:
    """What the weak views say, as truth for the strong ones.

    Attributes:
        label: (B, H, W) int64, the likeliest class.
        sure: (B, H, W) bool, valid and as likely as the threshold.
        valid: (B, H, W) bool, within the image.
    """

    label: Tensor
    sure: Tensor
    valid: Tensor

    @staticmethod
    def of(logits: Tensor, valid: Tensor, threshold: float) -> Pseudo:
        """From the logits (B, K, H, W) of the weak views; no gradient reaches them."""
        score, label = logits.detach().float().softmax(1).max(1)
        return Pseudo(label, valid & (score >= threshold), valid)

    def moved(self, source: Tensor) -> Pseudo:
        """As the pixels of a strong view were moved.

        Args:
            source: (B, H, W) integers, the flat place in the weak view that each pixel comes from.
        """
        places = source.flatten(1).long()
        return Pseudo(
            *(
                plane.flatten(1).gather(1, places).view_as(plane)
                for plane in (self.label, self.sure, self.valid)
            )
        )

    def mixed(self, boxes: Tensor) -> Pseudo:
        """As ``mix`` does with the images."""
        return Pseudo(*(mix(plane, boxes) for plane in (self.label, self.sure, self.valid)))


def mix(values: Tensor, boxes: Tensor) -> Tensor:
    """CutMix (Yun et al. 2019): within its box each image shows the image before it in the batch.

    Args:
        values: (B, H, W) or (B, C, H, W).
        boxes: (B, H, W) bool.
    """
    return torch.where(boxes if values.ndim == 3 else boxes[:, None], values.roll(1, 0), values)


def consistency(logits: Tensor, pseudo: Pseudo) -> Tensor:
    """Cross entropy over the confident pixels by the number of valid ones; 0 without any.

    Args:
        logits: (B, K, H, W) of the strong views.
        pseudo: What they should say.
    """
    each = cross_entropy(logits.float(), pseudo.label, reduction="none")
    return (each * pseudo.sure).sum() / pseudo.valid.sum().clamp(min=1)
