"""What all backbones share: a stem and stages, of which the first can be kept as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from torch import nn


class Staged(nn.Module):
    """Base of the backbones: a stem, then stages."""

    channels: tuple[int, ...]

    def __init__(self) -> None:
        super().__init__()
        self._frozen: list[nn.Module] = []

    def parts(self) -> Sequence[Sequence[nn.Module]]:
        """The modules of the stem, then those of each stage."""
        raise NotImplementedError

    def freeze(self, stages: int) -> None:
        """The stem and the first so many stages stop learning, batch statistics included."""
        kept = self.parts()[: stages + 1] if stages else ()
        self._frozen = [module for part in kept for module in part]
        for module in self._frozen:
            module.requires_grad_(False)

    def freeze_norms(self) -> None:
        """Batch norms keep their statistics, in training too; their scales and offsets learn."""
        self._frozen += [m for m in self.modules() if isinstance(m, nn.BatchNorm2d)]

    def train(self, mode: bool = True) -> Self:
        """As ``nn.Module.train``; frozen parts stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self
