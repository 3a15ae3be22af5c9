"""Which differences between ONNX Runtime and torch are rounding, and which a wrong graph."""

import numpy as np
import pytest
import torch
from torch import nn

from semiscope.compress.export import _check_parity
from semiscope.compress.graph import to_onnx
from semiscope.errors import ModelError

IMAGES = np.zeros((2, 1, 16, 16), np.float32)


class Shifted(nn.Module):
    """Adds to its images where a mask says so."""

    def __init__(self, places):
        super().__init__()
        shift = torch.zeros(1, 1, 16, 16)
        shift.view(-1)[:places] = 0.5
        self.register_buffer("shift", shift)

    def forward(self, images):
        return (images + self.shift,)


@pytest.fixture(scope="module")
def plain():
    graph = to_onnx(
        Shifted(0), {"images": torch.zeros(2, 1, 16, 16)}, ("y",), {"images": {0: "batch"}}
    )
    return graph.SerializeToString()


@pytest.mark.parametrize(
    "places, steep, agrees",
    [(0, False, True), (1, False, False), (4, True, True), (9, True, False), (256, True, False)],
)
def test_a_few_flipped_values_are_forgiven_only_where_rounding_grows(
    tmp_path, plain, places, steep, agrees
):
    arguments = Shifted(places), plain, IMAGES, lambda images: {}, tmp_path / "x.onnx", steep
    if agrees:
        _check_parity(*arguments)
    else:
        with pytest.raises(ModelError, match="a difference of 0.5 at batch 1"):
            _check_parity(*arguments)
