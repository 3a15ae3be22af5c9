"""Attention blocks that weigh channels or gather from all places, and ResNet-50 with them.

SE: Hu et al. 2018. NL: Wang et al. 2018 (embedded Gaussian). SNL and GC: Cao et al. 2019, whose
counts of parameters ResNet-50 has with each of them. What a block adds to its input begins at zero,
so that it can be set into a trained network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from semiscope.nets.norms import LayerNorm2d
from semiscope.nets.resnet import Bottleneck, ResNet

AttentionBlock = Literal["se", "nl", "snl", "gc"]

_REDUCTION = 16
_NARROWEST = 4


class SqueezeExcitation(nn.Module):
    """SE: each channel is scaled by what the means of all channels say."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // _REDUCTION, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // _REDUCTION, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return x * self.weigh(x)  # type: ignore[no-any-return]


class NonLocal(nn.Module):
    """NL: to each place is added what the places like it show (equation 5)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Conv2d(channels, channels // 2, 1) for _ in range(3))
        self.out = _zero(nn.Conv2d(channels // 2, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        query, key, value = (f(x).flatten(2) for f in (self.query, self.key, self.value))
        share = (query.transpose(1, 2) @ key).softmax(2)
        seen = (value @ share.transpose(1, 2)).unflatten(2, x.shape[2:])
        return x + self.out(seen)  # type: ignore[no-any-return]


class _Pooled(nn.Module):
    """The mean over all places, each weighed by its own importance (global attention pooling)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.importance = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 1, 1)."""
        share: Tensor = self.importance(x).flatten(1).softmax(1)
        return (x.flatten(2) @ share[:, :, None])[..., None]


class SimplifiedNonLocal(nn.Module):
    """SNL: to all places is added the same, what the important ones show (equation 4)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = _Pooled(channels)
        self.value = _zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return x + self.value(self.pool(x))  # type: ignore[no-any-return]


class GlobalContext(nn.Module):
    """GC: as SNL, through a bottleneck (equation 5)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = _Pooled(channels)
        # a layer norm of one channel would pass nothing on
        narrow = max(channels // _REDUCTION, _NARROWEST)
        self.transform = nn.Sequential(
            nn.Conv2d(channels, narrow, 1),
            LayerNorm2d(narrow),
            nn.ReLU(inplace=True),
            _zero(nn.Conv2d(narrow, channels, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return x + self.transform(self.pool(x))  # type: ignore[no-any-return]


def _zero(conv: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


_BLOCKS: dict[AttentionBlock, Callable[[int], nn.Module]] = {
    "se": SqueezeExcitation,
    "nl": NonLocal,
    "snl": SimplifiedNonLocal,
    "gc": GlobalContext,
}


def attention_resnet50(block: AttentionBlock, inputs: int = 3) -> ResNet:
    """ResNet-50 with attention where its authors have it: before the addition of a bottleneck.

    SE stands in every bottleneck, GC in those of the last three stages. NL and SNL, which weigh
    more, stand in the last but one of the third stage.

    Args:
        block: Which.
        inputs: Channels of the image, 1 or 3.
    """
    network = ResNet(50, inputs)
    first, second, third, fourth = network.layer1, network.layer2, network.layer3, network.layer4
    places = {
        "se": (*first, *second, *third, *fourth),
        "gc": (*second, *third, *fourth),
        "nl": (third[-2],),
        "snl": (third[-2],),
    }
    for bottleneck in places[block]:
        assert isinstance(bottleneck, Bottleneck)
        bottleneck.attention = _BLOCKS[block](bottleneck.bn3.num_features)
    return network
