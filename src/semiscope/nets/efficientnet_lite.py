"""EfficientNet-Lite0 as a feature extractor: Tan and Le 2019.

The Lite form has no squeeze-and-excitation and uses ReLU6.

The order of the parameters is that of the published checkpoints, so that their tensors fit one to
one by position (``load_imagenet``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from semiscope.nets.stages import Staged

# expansion, kernel, stride, outputs, repeats of the seven stages
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
_LAST_OF_STRIDE = (1, 2, 4, 6)  # the stages that end strides 4, 8, 16 and 32
_TOP = 1280


def _conv(inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise, project 1x1; the input is added where the shape allows."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += [_conv(inputs, hidden, 1, 1), _norm(hidden), nn.ReLU6(inplace=True)]
        layers += [
            _conv(hidden, hidden, kernel, stride, hidden),
            _norm(hidden),
            nn.ReLU6(inplace=True),
            _conv(hidden, outputs, 1, 1),
            _norm(outputs),
        ]
        self.layers = nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        y: Tensor = self.layers(x)
        return x + y if self.adds else y


class EfficientNetLite0(Staged):
    """The seven stages, giving features at strides 8, 16 and 32, or from stride 4 on.

    Args:
        inputs: Channels of the image, 1 or 3.
        levels: 3 or 4 features.
        top: One feature more, of 1280 channels at stride 32: what the published classifier pools.
    """

    def __init__(self, inputs: int = 3, levels: Literal[3, 4] = 3, top: bool = False) -> None:
        super().__init__()
        self._taken = _LAST_OF_STRIDE[-levels:]
        self.channels = tuple(_STAGES[i][3] for i in self._taken)
        self.stem = nn.Sequential(_conv(inputs, 32, 3, 2), _norm(32), nn.ReLU6(inplace=True))
        stages, width = [], 32
        for expansion, kernel, stride, outputs, repeats in _STAGES:
            blocks = []
            for i in range(repeats):
                blocks.append(
                    InvertedResidual(width, outputs, expansion, kernel, stride if i == 0 else 1)
                )
                width = outputs
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        # behind the stages, where the published checkpoints have it
        self.top: nn.Sequential | None = None
        if top:
            self.top = nn.Sequential(_conv(width, _TOP, 1, 1), _norm(_TOP), nn.ReLU6(inplace=True))
            self.channels = (*self.channels, _TOP)

    def parts(self) -> Sequence[Sequence[nn.Module]]:
        """The modules of the stem, then those of each stage."""
        top = () if self.top is None else ((self.top,),)
        return ((self.stem,), *((stage,) for stage in self.stages), *top)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, inputs, H, W) -> features, finest first, with ``channels`` channels."""
        x = self.stem(x)
        levels = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self._taken:
                levels.append(x)
        if self.top is not None:
            levels.append(self.top(x))
        return tuple(levels)

    def load_imagenet(self, state: Mapping[str, Tensor]) -> None:
        """Takes ImageNet weights in the published order; the classifier's tensors are left out.

        A grey network sums the three colours' filters of the first convolution.

        Raises:
            ValueError: There are too few tensors, or one's shape is not the expected one.
        """
        own = {k: v for k, v in self.state_dict().items() if "num_batches" not in k}
        given = [v for k, v in state.items() if "num_batches" not in k][: len(own)]
        if len(given) < len(own):
            raise ValueError(f"expected at least {len(own)} tensors, found {len(given)}")
        for (name, target), value in zip(own.items(), given, strict=True):
            if name == "stem.0.weight" and target.shape[1] == 1:
                value = value.sum(1, keepdim=True)
            if target.shape != value.shape:
                raise ValueError(
                    f"{name}: expected {tuple(target.shape)}, found {tuple(value.shape)}"
                )
            with torch.no_grad():
                target.copy_(value)
