"""Batch norm folded into the convolution before it: the same function with fewer layers."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from semiscope.nets.yolov7_tiny import ConvBN, ImplicitHead


def fuse(network: nn.Module, implicit: bool = False) -> nn.Module:
    """A copy in evaluation mode whose convolutions carry their batch norm as weight and bias.

    Args:
        network: Any network of ours; it is not changed.
        implicit: Fold the heads' implicit vectors as well, as the exported file does.
    """
    fused = copy.deepcopy(network).eval()
    _fold(fused, implicit)
    return fused


def _fold(module: nn.Module, implicit: bool) -> None:
    for name, child in list(module.named_children()):
        if implicit and isinstance(child, ImplicitHead):
            setattr(module, name, child.fused())
        else:
            _fold(child, implicit)
    if isinstance(module, ConvBN) and isinstance(module.norm, nn.BatchNorm2d):
        module.conv = fuse_conv_bn_eval(module.conv, module.norm)
        module.norm = nn.Identity()
    if isinstance(module, nn.Sequential):
        _fold_sequence(module)


def _fold_sequence(layers: nn.Sequential) -> None:
    for i in range(len(layers) - 1):
        conv, norm = layers[i], layers[i + 1]
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            with torch.no_grad():
                layers[i] = fuse_conv_bn_eval(conv, norm)
            layers[i + 1] = nn.Identity()
