"""DeepLabV3+: Chen et al. 2018, "Encoder-Decoder with Atrous Separable Convolution".

A backbone whose last stage keeps the resolution of stride 16 and sees as far by dilation, spatial
pyramid pooling at the rates 6, 12 and 18, and a decoder that refines at stride 4. Convolutions are
dense, not separable, as UniMatch and the segmentation baselines of Lee et al. 2025 have them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout2d, interpolate

from semiscope.nets.backbones import BACKBONES
from semiscope.nets.norms import forgetful_norms
from semiscope.nets.stages import Staged

_RATES = (6, 12, 18)
_FINE = 48  # channels to which the features of stride 4 are cut


def _block(inputs: int, outputs: int, kernel: int, rate: int = 1) -> nn.Sequential:
    padding = rate * (kernel // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=rate, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def keep_stride_16(backbone: Staged) -> None:
    """Turns a backbone's last halving into dilation; its weights stay those of the published file.

    The strided convolution itself keeps its grid of taps, those after it look twice as far (Chen
    et al. 2017, "Rethinking Atrous Convolution", section 3.1).
    """
    convs = [
        [m for module in part for m in module.modules() if isinstance(m, nn.Conv2d)]
        for part in backbone.parts()
    ]
    last = max(i for i, part in enumerate(convs) if any(c.stride == (2, 2) for c in part))
    for conv in (c for part in convs[last:] for c in part):
        if conv.stride == (2, 2):
            conv.stride = (1, 1)
        elif conv.kernel_size != (1, 1):
            conv.dilation = (2, 2)
            conv.padding = tuple(2 * (side // 2) for side in conv.kernel_size)


class PyramidPooling(nn.Module):
    """What surrounds each place, near, farther, far, and the whole input: ASPP."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.near = _block(inputs, width, 1)
        self.rates = nn.ModuleList(_block(inputs, width, 3, rate) for rate in _RATES)
        # no norm here: over one place an image, a batch of one has no variance (UniMatch issue 8)
        self.whole = nn.Sequential(nn.Conv2d(inputs, width, 1), nn.ReLU(inplace=True))
        self.project = _block((2 + len(_RATES)) * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, width, H, W)."""
        whole = self.whole(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        found: Tensor = self.project(
            torch.cat([self.near(x), *(branch(x) for branch in self.rates), whole], 1)
        )
        return found


class DeepLabV3Plus(nn.Module):
    """A class for every pixel.

    Args:
        classes: How many.
        encoder: A backbone's name in ``nets.backbones.BACKBONES`` that is made of convolutions.
        channels: Of the image, 1 or 3.
        width: Channels of the pyramid and the decoder.
    """

    def __init__(
        self, classes: int, encoder: str = "resnet50", channels: int = 1, width: int = 256
    ) -> None:
        super().__init__()
        self.backbone = BACKBONES[encoder](channels)
        keep_stride_16(self.backbone)
        fine, *_, coarse = self.backbone.channels
        self.pyramid = PyramidPooling(coarse, width)
        self.reduce = _block(fine, _FINE, 1)
        self.refine = nn.Sequential(_block(_FINE + width, width, 3), _block(width, width, 3))
        self.classify = nn.Conv2d(width, classes, 1)

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, channels, H, W), sides multiples of 16 -> maps at strides 4 and 16."""
        fine, *_, coarse = self.backbone(images)
        return fine, coarse

    def decode(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """The maps of ``features`` -> (B, classes, H, W) logits."""
        around = interpolate(self.pyramid(coarse), fine.shape[2:], mode="bilinear")
        logits = self.classify(self.refine(torch.cat([self.reduce(fine), around], 1)))
        return interpolate(logits, scale_factor=4, mode="bilinear")

    def forward(self, images: Tensor, dropped: int = 0) -> Tensor:
        """Logits of every pixel.

        Args:
            images: (B, channels, H, W), sides multiples of 16.
            dropped: The last so many images are decoded once more with half of their features
                dropped, channel by channel: the feature perturbation of UniMatch (Yang et al. 2023,
                section 3.2). Batch norms remember nothing of that.

        Returns:
            (B + dropped, classes, H, W).
        """
        fine, coarse = self.features(images)
        logits = self.decode(fine, coarse)
        if not dropped:
            return logits
        with forgetful_norms(self):
            again = self.decode(dropout2d(fine[-dropped:]), dropout2d(coarse[-dropped:]))
        return torch.cat([logits, again])
