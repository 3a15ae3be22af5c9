import numpy as np
import pytest
import torch

from semiscope.data.perturbation import follow, source_index
from semiscope.learn.losses.consistency import Pseudo, consistency, mix


def test_a_term_by_hand():
    # three valid pixels, of which two are sure enough at 0.9: logits 3, -3 and 1 for class 0
    weak = torch.tensor([[[[3.0, -3.0, 1.0, 9.0]], [[0.0, 0.0, 0.0, 0.0]]]])
    valid = torch.tensor([[[True, True, True, False]]])
    pseudo = Pseudo.of(weak, valid, 0.9)
    assert pseudo.label.tolist() == [[[0, 1, 0, 0]]]
    assert pseudo.sure.tolist() == [[[True, True, False, False]]]
    strong = torch.tensor([[[[0.0, 1.0, 5.0, 5.0]], [[0.0, 0.0, 0.0, 0.0]]]])
    expected = (np.log(2) + np.log(1 + np.e)) / 3
    assert consistency(strong, pseudo).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("valid", [True, False])
def test_where_nothing_is_sure_the_term_is_zero_with_a_gradient(valid):
    weak = torch.zeros(2, 3, 4, 4, requires_grad=True)
    pseudo = Pseudo.of(weak, torch.full((2, 4, 4), valid), 0.95)
    strong = torch.randn(2, 3, 4, 4, requires_grad=True)
    term = consistency(strong, pseudo)
    term.backward()
    assert term.item() == 0 and strong.grad is not None and not strong.grad.any()
    assert weak.grad is None


def test_pseudo_labels_follow_the_pixels_as_truth_does():
    rng = np.random.default_rng(0)
    moves = rng.normal(0, 3, (2, 2, 12, 9)).astype(np.float32)
    planes = rng.integers(0, 2, (3, 2, 12, 9))
    pseudo = Pseudo(
        torch.from_numpy(planes[0]),
        torch.from_numpy(planes[1].astype(bool)),
        torch.from_numpy(planes[2].astype(bool)),
    )
    source = torch.from_numpy(np.stack([source_index(m) for m in moves]).astype(np.int32))
    moved = pseudo.moved(source)
    for i, move in enumerate(moves):
        for plane, found in zip(planes, (moved.label, moved.sure, moved.valid), strict=True):
            np.testing.assert_array_equal(found[i].numpy(), follow(plane[i], move))


def test_a_box_shows_the_image_before():
    images = torch.arange(3.0)[:, None, None, None].expand(3, 2, 2, 2)
    boxes = torch.zeros(3, 2, 2, dtype=torch.bool)
    boxes[0, 0, 1] = boxes[2, 1, 1] = True
    found = mix(images, boxes)
    assert found[:, 0].tolist() == [[[0, 2], [0, 0]], [[1, 1], [1, 1]], [[2, 2], [2, 1]]]
    labels = mix(torch.arange(3)[:, None, None].expand(3, 2, 2), boxes)
    assert (labels == found[:, 1]).all()
