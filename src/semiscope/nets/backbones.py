"""Backbones by name, and how published ImageNet weights get into them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from semiscope.nets.efficientnet_lite import EfficientNetLite0
from semiscope.nets.resnet import ResNet
from semiscope.nets.stages import Staged
from semiscope.nets.swin import SwinB, original_names
from semiscope.nets.vit import Vit, load_vit
from semiscope.nets.weights import take_all

# name -> the network for 1 or 3 channels of the image: features at strides 4, 8, 16 and 32
BACKBONES: dict[str, Callable[[int], Staged]] = {
    "resnet18": lambda inputs: ResNet(18, inputs),
    "resnet50": lambda inputs: ResNet(50, inputs),
    "resnet101": lambda inputs: ResNet(101, inputs),
    "swin-b": SwinB,
    "efficientnet-lite0": lambda inputs: EfficientNetLite0(inputs, 4),
}

# classifiers, the norm before them, and what a network computes by itself
_NOT_OURS = re.compile(
    r"(fc|head|norm)\.|.*(num_batches_tracked|relative_position_index|attn_mask)$"
)
# of Swin's four output norms a published classifier has none, nor has ResNet-50 attention
_MAY_START_FRESH = re.compile(r"norm\d\.|layer\d\.\d\.attention\.")


def load_backbone(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Takes published ImageNet weights by name; EfficientNet-Lite0 takes them by position.

    The classifier's tensors are left out, and a grey network sums the three colours' filters of the
    first convolution. Names may be those of torchvision, timm, or the original Swin files. Nothing
    is changed unless everything fits.

    Raises:
        ValueError: Tensors are missing, unknown, or of another shape.
    """
    if isinstance(network, EfficientNetLite0):
        network.load_imagenet(tensors)
        return
    if isinstance(network, Vit):
        load_vit(network, tensors)
        return
    if isinstance(network, SwinB):
        tensors = original_names(tensors)
    given = {k: v for k, v in tensors.items() if not _NOT_OURS.match(k)}
    own = {k: v for k, v in network.state_dict().items() if not _NOT_OURS.match(k)}
    for name in given.keys() & own.keys():
        if given[name].ndim == own[name].ndim == 4 and own[name].shape[1] == 1:
            given[name] = given[name].sum(1, keepdim=True)
    for name in [k for k in own if k not in given and _MAY_START_FRESH.match(k)]:
        del own[name]
    take_all(own, given)
