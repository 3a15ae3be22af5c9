import math

import numpy as np
import pytest
import torch

from semiscope.geometry import box_iou, nms
from semiscope.nets.rpn import (
    RegionProposals,
    RpnOutput,
    anchors_on,
    decode,
    encode,
    pairwise_iou,
    suppress,
)


def random_boxes(count, seed, batch=1):
    rng = np.random.default_rng(seed)
    centre, sides = rng.uniform(0, 100, (batch, count, 2)), rng.uniform(4, 60, (batch, count, 2))
    return torch.tensor(np.concatenate([centre - sides / 2, centre + sides / 2], 2)).float()


def test_anchors_by_hand():
    anchors = anchors_on(2, 3, 16, 32)
    assert anchors.shape == (18, 4)
    # cell (0, 0) has its centre at (8, 8); height to width is 1/2, 1, 2 at an area of 32 x 32
    r = 16 * 2**0.5
    expected = [
        [8 - r, 8 - r / 2, 8 + r, 8 + r / 2],
        [-8, -8, 24, 24],
        [8 - r / 2, 8 - r, 8 + r / 2, 8 + r],
    ]
    torch.testing.assert_close(anchors[:3], torch.tensor(expected))
    # next comes the cell to the right, and after three cells the row below
    torch.testing.assert_close(anchors[4], torch.tensor([8.0, -8, 40, 24]))
    torch.testing.assert_close(anchors[10], torch.tensor([-8.0, 8, 24, 40]))


def test_decode_undoes_encode():
    boxes, anchors = random_boxes(50, 0), random_boxes(50, 1)
    weights = (10.0, 10.0, 5.0, 5.0)
    torch.testing.assert_close(decode(encode(boxes, anchors, weights), anchors, weights), boxes)


def test_deltas_by_hand():
    anchor, box = torch.tensor([0.0, 0, 10, 20]), torch.tensor([5.0, 0, 25, 20])
    # the centre moves from 5 to 15, one width; the width doubles
    expected = torch.tensor([1.0, 0, math.log(2), 0])
    torch.testing.assert_close(encode(box, anchor), expected)
    assert torch.isfinite(decode(torch.tensor([0.0, 0, 1e9, 1e9]), anchor)).all()


def test_overlap_is_that_of_numpy():
    a, b = random_boxes(20, 2, 3), random_boxes(30, 3, 3)
    a[0, 0] = torch.tensor([5.0, 5, 5, 5])
    for ours, x, y in zip(pairwise_iou(a, b), a, b, strict=True):
        np.testing.assert_allclose(ours.numpy(), box_iou(x.numpy(), y.numpy()), atol=1e-6)


@pytest.mark.parametrize("classes", [1, 3])
def test_suppression_is_the_greedy_one(classes):
    rng = np.random.default_rng(4)
    boxes = random_boxes(200, 5, batch=4)
    group = torch.tensor(rng.integers(0, classes, (4, 200)))
    score = np.linspace(1, 0.1, 200)
    alive = suppress(boxes, torch.ones(4, 200, dtype=torch.bool), 0.4, group)
    assert not alive.all()
    for i in range(4):
        expected = nms(boxes[i].numpy(), score, group[i].numpy(), 0.4)
        assert alive[i].nonzero()[:, 0].tolist() == expected.tolist()


def test_a_chain_of_boxes_is_suppressed_one_by_one():
    # each overlaps its neighbours by 0.6 and the next but one by 0.33: every other survives
    left = torch.arange(12.0) * 2.5
    boxes = torch.stack([left, left * 0, left + 10, left * 0 + 10], 1)[None]
    alive = suppress(boxes, torch.ones(1, 12, dtype=torch.bool), 0.5)
    assert alive[0].tolist() == [True, False] * 6


def test_a_box_that_is_not_valid_suppresses_nothing():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 10]]])
    assert suppress(boxes, torch.tensor([[False, True]]), 0.5).tolist() == [[False, True]]


def test_proposals_are_the_best_of_each_level():
    head = RegionProposals(4, (16, 32, 64, 128, 256))
    levels = [torch.zeros(2, 4, 64 // s, 96 // s) for s in (4, 8, 16, 32)]
    said = head(levels)
    # p6 of a 64 x 96 input has 1 x 2 cells
    assert said.counts == (3 * 384, 3 * 96, 3 * 24, 3 * 6, 3 * 2)
    logits = torch.full_like(said.logits, -9.0)
    best = 3 * (8 * 24 + 12) + 1  # the square anchor in the middle of p2
    logits[0, [best, best + 3]] = torch.tensor([4.0, 3.0])  # and its neighbour, IoU 0.6
    logits[0, said.counts[0]] = 2.0
    said = RpnOutput(logits, torch.zeros_like(said.deltas), said.anchors, said.counts)
    boxes, scores = RegionProposals.propose(said, 64, 96, 5)
    assert boxes.shape == (2, 5, 4) and scores.shape == (2, 5)
    torch.testing.assert_close(boxes[0, 0], said.anchors[best])
    torch.testing.assert_close(scores[0, :3], torch.tensor([4.0, 3.0, 2.0]).sigmoid())
    assert (boxes >= 0).all() and (boxes[..., [0, 2]] <= 96).all() and (boxes <= 96).all()


def test_the_number_of_sizes_is_checked():
    with pytest.raises(ValueError, match="expected 5 anchor sizes, found 3"):
        RegionProposals(8, (32, 64, 128))
