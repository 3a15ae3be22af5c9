"""A masked autoencoder with a projection for contrast: He et al. 2022; Mishra et al. 2022 (CAN)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semiscope.nets.vit import Block, Vit, sine_positions, start_linear

_EPS = 1e-6
_HEAD_WIDTH = 32  # channels of a head of the decoder


class Mae(nn.Module):
    """An encoder that sees some patches, and a decoder that tells what the others show.

    The encoder's positions are sines and do not learn, as in the published networks.

    Args:
        encoder: What ``Vit`` is built from.
        decoder_width: Channels of the decoder, a multiple of 32.
        decoder_depth: Its number of blocks.
        features: Length of the projected features; 0 for no projection.

    Attributes:
        encoder: What is kept after pre-training; its tensors are named ``encoder.*``.
    """

    places: Tensor

    def __init__(
        self,
        encoder: dict[str, Any],
        decoder_width: int = 512,
        decoder_depth: int = 8,
        features: int = 128,
    ) -> None:
        super().__init__()
        self.encoder = Vit(**encoder)
        self.encoder.pos_embed.requires_grad_(False)
        width, heads = self.encoder.width, decoder_width // _HEAD_WIDTH
        self.embed = nn.Linear(width, decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
        self.register_buffer(
            "places", sine_positions(self.encoder.grid, decoder_width), persistent=False
        )
        self.decoder = nn.Sequential(*(Block(decoder_width, heads) for _ in range(decoder_depth)))
        self.norm = nn.LayerNorm(decoder_width, eps=_EPS)
        self.head = nn.Linear(decoder_width, encoder["channels"] * encoder["patch"] ** 2)
        self.projection: nn.Sequential | None = None
        if features:
            self.projection = projection_head(width, features)
        nn.init.normal_(self.mask_token, std=0.02)
        for part in (self.embed, self.decoder, self.head):
            part.apply(start_linear)

    def forward(self, images: Tensor, kept: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the decoder takes all patches for, and what the encoder makes of those it saw.

        Args:
            images: (n, C, H, W).
            kept: (n, K) int64, the places of the patches that are seen, counted row by row, each
                once; their order does not matter.

        Returns:
            (n, patches, patch * patch * C) reconstruction, laid out as ``patches_of`` does; and
            (n, features) of unit length: the projected mean over the tokens seen and the class
            token; None without a projection.
        """
        tokens = self.encoder.embed(images)
        seen = self.encoder.encode(tokens.gather(1, _wide(kept, tokens.shape[2])))
        features = None
        if self.projection is not None:
            features = F.normalize(self.projection(seen.mean(1)), dim=1)
        small = self.embed(seen)
        whole = self.mask_token.to(small.dtype).expand(len(images), len(self.places), -1)
        whole = whole.scatter(1, _wide(kept, small.shape[2]), small[:, 1:]) + self.places
        decoded = self.norm(self.decoder(torch.cat([small[:, :1], whole], 1)))
        return self.head(decoded[:, 1:]), features


def projection_head(width: int, features: int) -> nn.Sequential:
    """What is between an encoder's mean answer and the features that contrast compares."""
    head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, features))
    head.apply(start_linear)
    return head


def _wide(places: Tensor, width: int) -> Tensor:
    return places[:, :, None].expand(-1, -1, width)


def patches_of(images: Tensor, side: int) -> Tensor:
    """Images cut into patches.

    Args:
        images: (n, C, H, W), H and W multiples of ``side``.
        side: Of a patch.

    Returns:
        (n, patches, side * side * C), patches and pixels row by row, the channels of a pixel
        together.
    """
    n, channels, height, width = images.shape
    cut = images.reshape(n, channels, height // side, side, width // side, side)
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
