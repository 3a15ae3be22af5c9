import math

import pytest
import torch

from semiscope.learn.losses.boxes import box_iou, ciou, nwd


def test_iou_of_a_hand_worked_pair():
    a, b = torch.tensor([[5.0, 5, 10, 10]]), torch.tensor([[10.0, 5, 10, 10]])
    assert box_iou(a, b).item() == pytest.approx(50 / 150, abs=1e-6)


def test_ciou_of_a_hand_worked_pair():
    # IoU 1/3, centres 5 apart, the enclosing box 15 x 10, equal aspect ratios
    a, b = torch.tensor([[5.0, 5, 10, 10]]), torch.tensor([[10.0, 5, 10, 10]])
    assert ciou(a, b).item() == pytest.approx(1 / 3 - 25 / 325, abs=1e-5)


def test_ciou_weighs_the_aspect_ratio():
    # same centre: IoU 50 / 150; v = 4 / pi^2 (atan 2 - atan 1/2)^2, alpha = v / (1 - IoU + v)
    a, b = torch.tensor([[0.0, 0, 5, 10]]), torch.tensor([[0.0, 0, 10, 5]])
    iou = 25 / 75
    v = 4 / math.pi**2 * (math.atan(2) - math.atan(0.5)) ** 2
    assert ciou(a, b).item() == pytest.approx(iou - v / (1 - iou + v) * v, abs=1e-5)


@pytest.mark.parametrize("similarity", [ciou, nwd])
def test_equal_boxes_are_1_and_their_gradient_is_finite(similarity):
    a = torch.tensor([[3.0, 4, 5, 6]], requires_grad=True)
    value = similarity(a, a.detach())
    value.sum().backward()
    assert value.item() == pytest.approx(1, abs=1e-3)
    assert torch.isfinite(a.grad).all()


@pytest.mark.parametrize(("unit", "expected"), [(1, 0.287), (8, 0.855), (16, 0.925), (32, 0.962)])
def test_nwd_of_a_16_px_shift_by_unit(unit, expected):
    # pixels, then grid cells of strides 8, 16 and 32
    a, b = torch.tensor([[0.0, 0, 40, 40]]), torch.tensor([[16.0, 0, 40, 40]])
    assert nwd(a / unit, b / unit).item() == pytest.approx(expected, abs=1e-3)


def test_empty_boxes_are_finite():
    a, b = torch.zeros(1, 4, requires_grad=True), torch.zeros(1, 4)
    (ciou(a, b) + nwd(a, b)).sum().backward()
    assert torch.isfinite(a.grad).all()
