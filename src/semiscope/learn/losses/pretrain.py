"""What a masked autoencoder is pre-trained by: Lee et al. 2025, equations 7 to 9.

A defect has a high and a low magnification and of each two views, so that a batch of N defects has
2N views of a magnification. Where a magnification is missing, its views are left out of every sum.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from semiscope.learn.gather import gathered


def reconstruction_loss(found: Tensor, truth: Tensor, kept: Tensor, defects: int) -> Tensor:
    """Equation 8: the mean squared error of each view's masked patches, summed over magnifications.

    With both magnifications this is twice the mean over all views, with one the mean itself.

    Args:
        found: (n, P, values) of all views of the batch.
        truth: The same shape.
        kept: (n, K) places of the patches that were seen.
        defects: N of them in the batch.
    """
    masked = found.new_ones(found.shape[:2], dtype=torch.float32).scatter(1, kept, 0.0)
    errors = (found.float() - truth.float()).square().mean(2)
    return (errors * masked).sum() / masked[0].sum() / (2 * defects)


def contrast_loss(
    features: Tensor, present: Tensor, temperature: float, own: bool, cross: bool
) -> Tensor:
    """Equation 9: the views of a defect are to be alike, within a magnification and across.

    The equation has a term for each pair of magnifications (m, n): each view of m is to be told
    from all views of n as the one that matches the other view of its defect. With m = n that is the
    loss of SimCLR (Chen et al. 2020). Where the paper leaves open what it means:

    - The denominator holds the positive too, as in SimCLR; without it the loss has no lower bound.
    - The same view of a defect in the other magnification is no positive in the equation. It shows
      the same defect, so it is no negative either: it is left out, as a view itself is for m = n.
    - The result is the mean over the terms that are switched on and have views, not always a
      quarter of their sum, so that the weight of equation 7 means the same in every ablation.

    Negatives come from the batches of all processes.

    Args:
        features: (N, 2, 2, d) of unit length: defect, magnification, view.
        present: (N, 2) bool, the magnifications that a defect has.
        temperature: Tau.
        own: Whether the terms with m = n count: self-consistency.
        cross: Whether the others count: cross-magnification consistency.

    Returns:
        A scalar; 0 when no term has a view.
    """
    everyone, first = gathered(features.float())
    there, _ = gathered(present)
    terms = []
    for m in (0, 1):
        for n in (0, 1):
            both = present[:, m] & present[:, n]
            if not (own if m == n else cross) or not both.any():
                continue
            anchors = features[both, m].float()
            keys = everyone[there[:, n], n]
            place = there[:, n].cumsum(0)[first + both.nonzero()[:, 0]] - 1
            terms.append(_term(anchors, keys, place, temperature))
    return torch.stack(terms).mean() if terms else 0.0 * features.sum()


def _term(anchors: Tensor, keys: Tensor, place: Tensor, temperature: float) -> Tensor:
    """One (m, n): cross entropy of finding the defect's other view.

    Args:
        anchors: (A, 2, d).
        keys: (B, 2, d).
        place: (A,) where among the keys each anchor's defect is.
        temperature: Tau.
    """
    logits = anchors.flatten(0, 1) @ keys.flatten(0, 1).T / temperature
    same = (2 * place[:, None] + torch.arange(2, device=place.device)).flatten()
    other = same ^ 1  # views lie in twos
    logits = logits.scatter(1, same[:, None], -torch.inf)
    return cross_entropy(logits, other)
