"""Classifiers: an encoder whose answer is pooled, and one linear layer on top."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from semiscope.nets.efficientnet_lite import EfficientNetLite0
from semiscope.nets.resnet import ResNet
from semiscope.nets.stages import Staged

ClassifierNet = Literal["efficientnet-lite0", "resnet18", "resnet50"]

# name -> the encoder for images of 1 or 3 channels; the last of its channels are pooled
ENCODERS: dict[ClassifierNet, Callable[[int], Staged]] = {
    "efficientnet-lite0": lambda channels: EfficientNetLite0(channels, top=True),
    "resnet18": lambda channels: ResNet(18, channels),
    "resnet50": lambda channels: ResNet(50, channels),
}


class Classifier(Staged):
    """One class for the whole image, or for an image and its partner of low magnification.

    The partner goes through the same encoder, and the two answers are fused late: side by side
    before the last layer. In place of a partner that is missing stands a learnt vector, so that the
    image alone decides.

    Args:
        net: Name in ``ENCODERS``.
        classes: Their number.
        channels: Of the images, 1 or 3.
        dropout: Share of the features that the last layer does not see in training.
        standardised: The features are brought to mean 0 and variance 1, by batch in training: a
            linear layer on a frozen encoder needs it (He et al. 2022, appendix A.1).
        two_magnifications: Whether ``forward`` takes partners.
    """

    def __init__(
        self,
        net: ClassifierNet,
        classes: int,
        channels: int = 3,
        dropout: float = 0.0,
        standardised: bool = False,
        two_magnifications: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = ENCODERS[net](channels)
        width = self.encoder.channels[-1]
        self.missing: nn.Parameter | None = None
        if two_magnifications:
            self.missing = nn.Parameter(torch.zeros(1, width))
            width *= 2
        self.channels = (width,)
        self.norm = nn.BatchNorm1d(width, affine=False) if standardised else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def parts(self) -> Sequence[Sequence[nn.Module]]:
        """The modules of the encoder's stem, then those of each of its stages."""
        return self.encoder.parts()

    def forward(
        self, images: Tensor, images_low: Tensor | None = None, has_low: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits, and the features that they are made from.

        Args:
            images: (n, channels, H, W).
            images_low: The same shape, with ``two_magnifications``: the partners.
            has_low: (n,) float32, 1 where there is a partner and 0 where there is none.

        Returns:
            (n, classes) logits and (n, width) features.
        """
        features = self._pooled(images)
        if self.missing is not None:
            assert images_low is not None and has_low is not None
            share = has_low[:, None]
            low = self._pooled(images_low) * share + self.missing * (1 - share)
            features = torch.cat([features, low], 1)
        features = self.norm(features)
        return self.head(self.dropout(features)), features

    def _pooled(self, images: Tensor) -> Tensor:
        return self.encoder(images)[-1].mean((2, 3))  # type: ignore[no-any-return]
