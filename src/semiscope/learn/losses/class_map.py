"""What a class map costs: cross entropy by pixel and Dice by class.

Cross entropy counts pixels, so a crack of a thousandth of the image hardly counts. Dice (Milletari
et al. 2016, V-Net) counts each class that is there once, whatever its area.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from semiscope.config import Settings
from semiscope.io.masks import IGNORE


class MapLossSettings(Settings):
    """What counts how much."""

    dice: float = Field(1.0, ge=0, description="Weight of Dice beside cross entropy; 0 for none")


def map_loss(
    logits: Tensor, truth: Tensor, settings: MapLossSettings
) -> tuple[Tensor, dict[str, Tensor]]:
    """The supervised loss.

    Args:
        logits: (B, K, H, W).
        truth: (B, H, W) int64 class indices, ``IGNORE`` where nobody judged. Where that is
            everywhere, the loss is 0 and its gradient too.
        settings: See there.

    Returns:
        The loss and its parts.
    """
    logits = logits.float()
    judged = truth != IGNORE
    each = cross_entropy(logits, truth, ignore_index=IGNORE, reduction="none")
    entropy = each.sum() / judged.sum().clamp(min=1)
    loss, parts = entropy, {"ce": entropy.detach()}
    if settings.dice:
        dice = dice_loss(logits.softmax(1), truth)
        loss, parts = loss + settings.dice * dice, {**parts, "dice": dice.detach()}
    return loss, parts


def dice_loss(share: Tensor, truth: Tensor) -> Tensor:
    """1 - Dice, the mean over the classes that the truth of the batch shows; 0 without any.

    Args:
        share: (B, K, H, W) probabilities.
        truth: (B, H, W) int64 class indices, or ``IGNORE``.
    """
    judged = truth != IGNORE
    own = one_hot(torch.where(judged, truth, 0), share.shape[1]).movedim(-1, 1) * judged[:, None]
    share = share * judged[:, None]
    both = (share * own).sum((0, 2, 3))
    dice = (2 * both + 1) / (share.sum((0, 2, 3)) + own.sum((0, 2, 3)) + 1)
    shown = own.sum((0, 2, 3)) > 0
    return ((1 - dice) * shown).sum() / shown.sum().clamp(min=1)
