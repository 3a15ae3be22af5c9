"""The loss of prompted masks: cross entropy and Dice, and how well the claimed IoU is met.

SeSAMI names no loss; the shares are those of SAMed (Zhang and Liu 2023). For a single point, which
may mean a part or the whole, only the best of the three masks learns (Kirillov et al. 2023).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from semiscope.config import Settings


class PromptLossSettings(Settings):
    """Weights of the parts."""

    cross_entropy: float = Field(0.2, ge=0, description="Of the mean cross entropy of a pixel")
    dice: float = Field(0.8, ge=0, description="Of 1 - Dice of a mask")
    claim: float = Field(
        0.05, ge=0, description="Of the squared error of the IoU that the model claims"
    )


def prompt_loss(
    logits: Tensor, claimed: Tensor, truth: Tensor, doubtful: bool, settings: PromptLossSettings
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of the answers to P prompts, their mean.

    Args:
        logits: (P, 4, h, w) as the decoder gives them.
        claimed: (P, 4) likewise.
        truth: (P, H, W) 0 or 1, at the size of the input; float.
        doubtful: Whether each prompt is a single point: of masks 1 to 3 the best counts; else mask
            0 counts.
        settings: Weights.

    Returns:
        The scalar, and the parts before they are weighted.
    """
    if doubtful:
        coarse = F.adaptive_avg_pool2d(truth[:, None], (logits.shape[2], logits.shape[3]))
        with torch.no_grad():
            terms = _terms(logits[:, 1:], coarse.expand(-1, 3, -1, -1))
            best = 1 + (settings.cross_entropy * terms[0] + settings.dice * terms[1]).argmin(1)
    else:
        best = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    every = torch.arange(len(logits), device=logits.device)
    # as the answer is enlarged when it is used
    answer = F.interpolate(
        logits[every, best][:, None], truth.shape[1:], mode="bilinear", align_corners=False
    )[:, 0]
    entropy, dice = (t.mean() for t in _terms(answer, truth))
    with torch.no_grad():
        found = (answer > 0).to(truth.dtype)
        both = (found * truth).sum((1, 2))
        iou = both / (found.sum((1, 2)) + truth.sum((1, 2)) - both).clamp(min=1)
    claim = (claimed[every, best] - iou).square().mean()
    loss = settings.cross_entropy * entropy + settings.dice * dice + settings.claim * claim
    parts = {"cross_entropy": entropy, "dice": dice, "claim": claim, "iou": iou.mean()}
    return loss, {name: value.detach() for name, value in parts.items()}


def _terms(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross entropy and 1 - Dice of maps, over their last two dimensions."""
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((-2, -1))
    inside = logits.sigmoid()
    shared = (inside * truth).sum((-2, -1))
    # one pixel more in both keeps an empty truth defined
    dice = (2 * shared + 1) / (inside.sum((-2, -1)) + truth.sum((-2, -1)) + 1)
    return entropy, 1 - dice
