"""Classifiers: an encoder whose answer is pooled, and one linear layer on top."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from semiscope.nets.attention import AttentionBlock, attention_resnet50
from semiscope.nets.cheon_cnn import CheonCnn
from semiscope.nets.efficientnet_lite import EfficientNetLite0
from semiscope.nets.resnet import ResNet
from semiscope.nets.spa_net import SpaNet
from semiscope.nets.stages import Staged
from semiscope.nets.vit import VITS, Vit

ClassifierNet = Literal[
    "efficientnet-lite0",
    "resnet18",
    "resnet50",
    "resnet50-se",
    "resnet50-nl",
    "resnet50-snl",
    "resnet50-gc",
    "cheon-cnn",
    "sp-net",
    "spa-net",
    "vit-tiny",
    "vit-small",
    "vit-base",
]


class Seen(NamedTuple):
    """What an encoder is built for: the images, and the side of a patch where it sees patches."""

    height: int
    width: int
    channels: int
    patch: int


def _attentive(block: AttentionBlock) -> Callable[[Seen], Staged | Vit]:
    return lambda seen: attention_resnet50(block, seen.channels)


def _vit(name: str) -> Callable[[Seen], Staged | Vit]:
    return lambda seen: Vit((seen.height, seen.width), seen.patch, *VITS[name], seen.channels)


# name -> the encoder: a backbone, a Vit, or a network that pools by itself
ENCODERS: dict[str, Callable[[Seen], Staged | Vit]] = {
    "efficientnet-lite0": lambda seen: EfficientNetLite0(seen.channels, top=True),
    "resnet18": lambda seen: ResNet(18, seen.channels),
    "resnet50": lambda seen: ResNet(50, seen.channels),
    **{f"resnet50-{block}": _attentive(block) for block in get_args(AttentionBlock)},
    "cheon-cnn": lambda seen: CheonCnn((seen.height, seen.width), seen.channels),
    "sp-net": lambda seen: SpaNet(seen.channels, attention=False),
    "spa-net": lambda seen: SpaNet(seen.channels),
    **{name: _vit(name) for name in VITS},
}


class Classifier(Staged):
    """One class for the whole image, or for an image and its partner of low magnification.

    The partner goes through the same encoder, and the two answers are fused late: side by side
    before the last layer. In place of a partner that is missing stands a learnt vector, so that the
    image alone decides.

    Args:
        net: Name in ``ENCODERS``.
        classes: Their number.
        image: Height and width of the images.
        channels: Of the images, 1 or 3.
        patch: Side of a patch, for a net that sees patches.
        dropout: Share of the features that the last layer does not see in training.
        standardised: The features are brought to mean 0 and variance 1, by batch in training: a
            linear layer on a frozen encoder needs it (He et al. 2022, appendix A.1).
        two_magnifications: Whether ``forward`` takes partners.

    Attributes:
        net: As given.
    """

    def __init__(
        self,
        net: str,
        classes: int,
        image: Sequence[int],
        channels: int = 3,
        patch: int = 16,
        dropout: float = 0.0,
        standardised: bool = False,
        two_magnifications: bool = False,
    ) -> None:
        super().__init__()
        self.net = net
        self.encoder = ENCODERS[net](Seen(image[0], image[1], channels, patch))
        width = self.encoder.width if isinstance(self.encoder, Vit) else self.encoder.channels[-1]
        self.missing: nn.Parameter | None = None
        if two_magnifications:
            self.missing = nn.Parameter(torch.zeros(1, width))
            width *= 2
        self.channels = (width,)
        self.norm = nn.BatchNorm1d(width, affine=False) if standardised else nn.Identity()
        self.activation = nn.ReLU() if isinstance(self.encoder, CheonCnn) else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def parts(self) -> Sequence[Sequence[nn.Module]]:
        """The modules of the encoder's stem, then those of each of its stages."""
        if isinstance(self.encoder, Vit):
            *blocks, last = self.encoder.blocks
            rest = tuple((block,) for block in blocks)
            return ((self.encoder.patch_embed,), *rest, (last, self.encoder.norm))
        return self.encoder.parts()

    def freeze(self, stages: int) -> None:
        """The stem and the first so many stages stop learning, a Vit's tokens and places too."""
        super().freeze(stages)
        if stages and isinstance(self.encoder, Vit):
            self.encoder.cls_token.requires_grad_(False)
            self.encoder.pos_embed.requires_grad_(False)

    def forward(
        self, images: Tensor, images_low: Tensor | None = None, has_low: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits, and the features that they are made from.

        Args:
            images: (n, channels, H, W).
            images_low: The same shape, with ``two_magnifications``: the partners.
            has_low: (n,) float32, 1 where there is a partner and 0 where there is none.

        Returns:
            (n, classes) logits and (n, width) features: what the last layer sees, or, for Cheon's
            network, what it sees before the activation.
        """
        features = self._pooled(images)
        if self.missing is not None:
            assert images_low is not None and has_low is not None
            share = has_low[:, None]
            low = self._pooled(images_low) * share + self.missing * (1 - share)
            features = torch.cat([features, low], 1)
        features = self.norm(features)
        return self.head(self.dropout(self.activation(features))), features

    def _pooled(self, images: Tensor) -> Tensor:
        answer: Tensor | tuple[Tensor, ...] = self.encoder(images)
        if isinstance(answer, tuple):
            return answer[-1].mean((2, 3))
        # the mean over all tokens, as pre-training contrasts them
        return answer.mean(1) if answer.ndim == 3 else answer
