import math

import pytest
import torch

from semiscope.learn.losses.distill import DistillLossSettings, distill_loss
from semiscope.learn.losses.yolo import YoloLossSettings
from semiscope.nets.yolov7_tiny import COCO_ANCHORS, STRIDES

ANCHORS = torch.tensor(COCO_ANCHORS)


def maps(seed, classes=2):
    torch.manual_seed(seed)
    return [torch.randn(2, 3 * (5 + classes), 64 // s, 96 // s) for s in STRIDES]


def loss_of(student, teacher, **changes):
    settings = DistillLossSettings(**changes)
    return distill_loss(student, teacher, ANCHORS, STRIDES, YoloLossSettings(), settings)


@pytest.mark.parametrize("classes", [1, 3])
def test_a_student_that_answers_as_its_teacher_has_no_loss(classes):
    loss, parts = loss_of(maps(0, classes), maps(0, classes))
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert ("taught_class" in parts) == (classes > 1)
    assert loss_of(maps(1, classes), maps(0, classes))[0] > 0.01


def test_one_cell_worked_by_hand():
    # three levels of one cell, one anchor, two classes; temperature 1
    teacher = torch.tensor([0.0, 0, 0, 0, 0, 2, -2]).view(1, 7, 1, 1)
    student = torch.tensor([0.0, 0, 0, 0, 1, 2, -2]).view(1, 7, 1, 1)
    gains = YoloLossSettings(objectness_gain=640**2 / 64)
    settings = DistillLossSettings(temperature=1)
    anchors = torch.tensor([[[8.0, 8.0]]])
    levels = [[m] * 3 for m in (student, teacher)]
    loss, parts = distill_loss(*levels, anchors.expand(3, 1, 2), (8, 8, 8), gains, settings)
    # the teacher says 1/2: its divergence from p is -log 2 - log(p (1 - p)) / 2
    p = 1 / (1 + math.exp(-1))
    expected = (4 + 1 + 0.4) * (-math.log(2) - math.log(p * (1 - p)) / 2)
    assert parts["taught_objectness"].item() == pytest.approx(expected, rel=1e-4)
    assert parts["taught_box"].item() == pytest.approx(0, abs=1e-6)
    assert parts["taught_class"].item() == pytest.approx(0, abs=1e-6)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_boxes_count_where_the_teacher_is_sure():
    teacher = maps(0)
    for level in teacher:
        level.view(2, 3, 7, *level.shape[2:])[:, :, 4] = -20
    sure = teacher[1].view(2, 3, 7, 4, 6)
    sure[0, 1, 4, 2, 3] = 20
    elsewhere = [m.clone() for m in teacher]
    elsewhere[1].view(2, 3, 7, 4, 6)[1, :, :4] += 1
    there = [m.clone() for m in teacher]
    there[1].view(2, 3, 7, 4, 6)[0, 1, :4, 2, 3] += 1
    assert loss_of(elsewhere, teacher)[1]["taught_box"] < 1e-6
    assert loss_of(there, teacher)[1]["taught_box"] > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_are_finite_and_lead_to_the_teacher(dtype):
    student = [(m * 20).to(dtype).requires_grad_() for m in maps(1)]
    loss, _ = loss_of(student, maps(0))
    loss.backward()
    assert all(torch.isfinite(m.grad).all() and m.grad.any() for m in student)
    student = [m.requires_grad_() for m in maps(1)]
    optimiser = torch.optim.Adam(student, lr=0.1)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        loss, _ = loss_of(student, maps(0))
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_the_weight_multiplies():
    once, twice = (loss_of(maps(1), maps(0), weight=w)[0] for w in (1, 2))
    torch.testing.assert_close(2 * once, twice)
