import pytest
import torch
from torch import nn

from semiscope.nets.backbones import BACKBONES
from semiscope.nets.mask_rcnn import Detections, MaskRcnn, Regions

SIZES = (8, 16, 32, 64, 128)


def small(mask="conv", classes=3, **changes):
    torch.manual_seed(0)
    options = {"sizes": SIZES, "proposals": 40, "detections": 12, "subdivisions": 4}
    backbone = BACKBONES["resnet18"](1)
    return MaskRcnn(classes, backbone, 16, 32, mask, **{**options, **changes}).eval()


def overlap_of_same_class(found, i):
    """IoU between different used detections of one class."""
    from semiscope.nets.rpn import pairwise_iou

    same = found.classes[i][:, None] == found.classes[i][None]
    used = found.scores[i] > 0
    pairs = same & used[:, None] & used[None]
    return (pairwise_iou(found.boxes[i], found.boxes[i]) * pairs).fill_diagonal_(0)


def count(module):
    return sum(
        p.numel()
        for m in module.modules()
        if not isinstance(m, nn.BatchNorm2d)
        for p in m.parameters(recurse=False)
    )


def test_the_count_is_that_of_torchvision():
    network = MaskRcnn(90, BACKBONES["resnet50"](3))
    # maskrcnn_resnet50_fpn has 44,401,393 with 91 classes. Its batch norms are frozen and not
    # counted. Of the background, which is none of our 90 classes, it also learns a box (4 x 1025)
    # and a mask (257).
    assert count(network) == 44_401_393 - 4 * 1025 - 257


@pytest.mark.parametrize(("mask", "side"), [("conv", 28), ("point", 112)])
def test_detections_are_sorted_and_within_the_input(mask, side):
    network = small(mask)
    with torch.no_grad():
        found = network(torch.randn(2, 1, 64, 96))
    assert isinstance(found, Detections)
    assert found.boxes.shape == (2, 12, 4) and found.masks.shape == (2, 12, side, side)
    assert found.classes.dtype == torch.int64 and set(found.classes.unique().tolist()) <= {0, 1, 2}
    assert (found.scores[:, :-1] >= found.scores[:, 1:]).all() and (found.scores > 0).any()
    assert (found.boxes >= 0).all() and (found.boxes <= torch.tensor([96.0, 64, 96, 64])).all()
    assert all(overlap_of_same_class(found, i).max() <= 0.5 for i in range(2))


def test_an_image_does_not_depend_on_its_neighbours_in_the_batch():
    network, images = small(), torch.randn(3, 1, 64, 64)
    with torch.no_grad():
        together, alone = network(images), network(images[1:2])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[1:2], b, rtol=1e-4, atol=1e-4)


def test_one_class_and_the_smallest_input():
    network = small(classes=1, detections=100)
    with torch.no_grad():
        found = network(torch.randn(1, 1, 32, 32))
    # 32 x 32 px have 255 anchors, of which suppression leaves places for 40 proposals
    assert found.boxes.shape == (1, 40, 4) and not found.classes.any()
    assert all(torch.isfinite(v).all() for v in found)


def test_in_training_the_chosen_regions_are_looked_at():
    network, seen = small("point"), []

    def choose(proposals, real):
        seen.append((proposals.shape, real.shape))
        assert not proposals.requires_grad
        boxes = torch.tensor([[0.0, 0, 10, 10], [4, 4, 40, 40]]).expand(2, -1, -1)
        return Regions(boxes, boxes[:, :1], torch.tensor([[2], [0]]))

    said = network.train()(torch.randn(2, 1, 64, 64), choose)
    assert seen == [((2, 40, 4), (2, 40))]
    assert said.logits.shape == (2, 2, 4) and said.deltas.shape == (2, 2, 3, 4)
    assert said.masks.logits.shape == (2, 1, 7, 7)
    assert said.masks.points.shape == (2, 1, 196, 2) and said.masks.point_logits.shape[2] == 196
