"""Backbones, ViT and RoIAlign answer the same in ONNX Runtime, with a free batch and free boxes."""

import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from semiscope.nets.backbones import BACKBONES
from semiscope.nets.fpn import FeaturePyramid
from semiscope.nets.roi import roi_align
from semiscope.nets.vit import Vit

pytestmark = pytest.mark.slow
_BATCH = torch.export.Dim("batch", min=1, max=4096)
_COUNT = torch.export.Dim("count", min=1, max=100_000)


def session_of(network, example, names, dynamic):
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        program = torch.onnx.export(
            network, example, dynamo=True, input_names=names, dynamic_shapes=dynamic, verbose=False
        )
        path = Path(folder) / "model.onnx"
        program.save(path, external_data=False)
        return onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])


class Pooled(nn.Module):
    """A backbone's pyramid, pooled over boxes: what the instance networks do."""

    def __init__(self):
        super().__init__()
        self.backbone = BACKBONES["resnet18"](1)
        self.pyramid = FeaturePyramid(self.backbone.channels, 8)

    def forward(self, images, boxes):
        return roi_align(self.pyramid(self.backbone(images)), boxes, 7)


def test_resnet_pyramid_and_roi_align():
    torch.manual_seed(0)
    network = Pooled().eval()
    example = (torch.randn(2, 1, 64, 96), torch.rand(2, 5, 4) * 64)
    session = session_of(
        network, example, ["images", "boxes"], ({0: _BATCH}, {0: _BATCH, 1: _COUNT})
    )
    for batch, count in ((1, 1), (3, 40)):
        images = torch.randn(batch, 1, 64, 96)
        boxes = torch.cat(
            [torch.rand(batch, count, 2) * 64 - 20, torch.rand(batch, count, 2) * 700], 2
        )
        with torch.no_grad():
            expected = network(images, boxes).numpy()
        (ours,) = session.run(None, {"images": images.numpy(), "boxes": boxes.numpy()})
        np.testing.assert_allclose(ours, expected, atol=1e-3)


def test_swin():
    torch.manual_seed(0)
    # two stages whole, with padding, shifts and masks; a block of the others, which repeat them
    network = BACKBONES["swin-b"](1).eval()
    for i, layer in enumerate(network.layers):
        layer.blocks = layer.blocks[: 2 if i < 2 else 1]
    session = session_of(network, (torch.randn(2, 1, 64, 96),), ["images"], ({0: _BATCH},))
    for batch in (1, 3):
        images = torch.randn(batch, 1, 64, 96)
        with torch.no_grad():
            expected = [f.numpy() for f in network(images)]
        for ours, theirs in zip(
            session.run(None, {"images": images.numpy()}), expected, strict=True
        ):
            np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_vit():
    torch.manual_seed(0)
    network = Vit((32, 48), 8, 16, 2, 4, 1).eval()
    session = session_of(network, (torch.randn(2, 1, 32, 48),), ["images"], ({0: _BATCH},))
    for batch in (1, 3):
        images = torch.randn(batch, 1, 32, 48)
        with torch.no_grad():
            expected = network(images).numpy()
        (ours,) = session.run(None, {"images": images.numpy()})
        np.testing.assert_allclose(ours, expected, atol=1e-4)
