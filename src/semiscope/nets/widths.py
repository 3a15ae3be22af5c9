"""Channels of a network's layers, read and set: the structure that pruning leaves.

A pruned network is built as ever, then its layers are made anew with the channels that were kept,
so that its file holds names, counts and weights and nothing that is executed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

Widths = Mapping[str, Sequence[int]]
"""By module name: input and output channels of a convolution, the channels of a batch norm."""


def widths_of(network: nn.Module) -> dict[str, list[int]]:
    """The channels of every convolution and batch norm, in the network's order."""
    found = {}
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d):
            found[name] = [layer.in_channels, layer.out_channels]
        elif isinstance(layer, nn.BatchNorm2d):
            found[name] = [layer.num_features]
    return found


def set_widths(network: nn.Module, widths: Widths) -> None:
    """Makes the named layers anew with other channels; their weights start afresh.

    A convolution is dense or depthwise, as it was.

    Raises:
        ValueError: The network has no such layer.
    """
    layers = dict(network.named_modules())
    for name, channels in widths.items():
        layer = layers.get(name)
        made: nn.Module
        if isinstance(layer, nn.Conv2d) and len(channels) == 2:
            inputs, outputs = channels
            made = nn.Conv2d(
                inputs,
                outputs,
                layer.kernel_size,  # type: ignore[arg-type]
                layer.stride,  # type: ignore[arg-type]
                layer.padding,  # type: ignore[arg-type]
                groups=outputs if layer.groups > 1 else 1,
                bias=layer.bias is not None,
            )
        elif isinstance(layer, nn.BatchNorm2d) and len(channels) == 1:
            made = nn.BatchNorm2d(channels[0], eps=layer.eps, momentum=layer.momentum)
        else:
            raise ValueError(f"{name}: expected a layer with {len(channels)} counts, found none")
        parent, _, own = name.rpartition(".")
        setattr(layers[parent], own, made)
