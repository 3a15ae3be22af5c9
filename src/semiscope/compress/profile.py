"""How large a network is and how much it computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from semiscope.compress.fuse import fuse


@dataclass(frozen=True, slots=True)
class Profile:
    """Size and work of a network.

    Attributes:
        training: Parameters while it trains.
        deployed: Parameters with batch norm folded into the convolutions and implicit vectors still
            counted: the convention of Wong 2023, Table 4.6.
        gflops: Billions of floating-point operations an image: two for each multiply-add of the
            convolutions and linear layers.
    """

    training: int
    deployed: int
    gflops: float


def profile(network: nn.Module, inputs: Sequence[Tensor]) -> Profile:
    """Measures a network on the inputs of its ``forward`` for one image."""
    return Profile(
        sum(p.numel() for p in network.parameters()),
        sum(p.numel() for p in fuse(network).parameters()),
        count_operations(network, inputs) / 1e9,
    )


def count_operations(network: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Floating-point operations of convolutions and linear layers (see ``Profile.gflops``)."""
    macs = 0

    def count(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        # a head may see the regions of the one image as a batch of their own
        if isinstance(module, nn.Conv2d):
            macs += module.weight.numel() * output.numel() // output.shape[1]
        elif isinstance(module, nn.ConvTranspose2d):
            macs += module.weight.numel() * given[0].numel() // given[0].shape[1]
        elif isinstance(module, nn.Linear):
            macs += module.weight.numel() * output.numel() // output.shape[-1]

    handles = [
        m.register_forward_hook(count)
        for m in network.modules()
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    ]
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(*inputs)
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    return 2 * macs
