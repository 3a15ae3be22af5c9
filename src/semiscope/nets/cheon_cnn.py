"""The small network of Cheon et al. 2019, "CNN for Wafer Surface Defect Classification".

As Wong 2023, Table 2.1, has it: convolutions 3x3 of 32, 32, 64 and 64 maps, each pair followed by
max pooling, and one layer of 512 nodes. Padding is not stated: maps keep their size here.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from semiscope.nets.stages import Staged

_NODES = 512


def _pair(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
    )


class CheonCnn(Staged):
    """Two pairs of convolutions and a layer that sees all places at once.

    That layer has most of the weights, 64 * 512 for each 4 x 4 pixels of the image: 8.4 million at
    64 x 64, the more the larger the image.

    Args:
        image: Height and width of the images, multiples of 4.
        inputs: Channels of the image, 1 or 3.
    """

    def __init__(self, image: tuple[int, int], inputs: int = 3) -> None:
        super().__init__()
        self.first, self.second = _pair(inputs, 32), _pair(32, 64)
        self.nodes = nn.Linear(64 * (image[0] // 4) * (image[1] // 4), _NODES)
        self.channels = (_NODES,)

    def parts(self) -> Sequence[Sequence[nn.Module]]:
        """The first pair of convolutions, the second, and the layer on top."""
        return ((self.first,), (self.second,), (self.nodes,))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, 512), before the layer's activation.

        That is ReLU for classification, and sigmoid when distances are measured.
        """
        return self.nodes(self.second(self.first(x)).flatten(1))  # type: ignore[no-any-return]
