import numpy as np
import pytest
import torch

from semiscope.learn.losses.class_map import MapLossSettings, dice_loss, map_loss


def test_cross_entropy_counts_judged_pixels_alone():
    logits = torch.tensor([[[[2.0, 0.0, 9.0]], [[0.0, 0.0, 0.0]]]])
    truth = torch.tensor([[[0, 1, 255]]])
    loss, parts = map_loss(logits, truth, MapLossSettings(dice=0))
    expected = (np.log1p(np.exp(-2.0)) + np.log(2)) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-6) and set(parts) == {"ce"}


def test_dice_by_hand():
    # class 0 on two pixels, class 2 on one; class 1 is nowhere and does not count
    truth = torch.tensor([[[0, 0, 2, 255]]])
    share = torch.tensor([[[[0.9, 0.5, 0.2, 1.0]], [[0.1, 0.3, 0.2, 0]], [[0.0, 0.2, 0.6, 0]]]])
    first = 1 - (2 * 1.4 + 1) / (1.6 + 2 + 1)
    third = 1 - (2 * 0.6 + 1) / (0.8 + 1 + 1)
    assert dice_loss(share, truth).item() == pytest.approx((first + third) / 2, rel=1e-6)


def test_a_rare_class_weighs_as_much_as_a_frequent_one():
    truth = torch.zeros(1, 32, 32, dtype=torch.int64)
    truth[0, :2, :2] = 1
    wrong = {}
    for name, place in (("rare", (0, 0)), ("frequent", (9, 9))):
        right = torch.nn.functional.one_hot(truth, 2).movedim(-1, 1).float()
        right[0, :, place[0], place[1]] = right[0, :, place[0], place[1]].flip(0)
        wrong[name] = dice_loss(right, truth).item()
    assert wrong["rare"] > wrong["frequent"] > 0


def test_nobody_judged_anything():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss, _ = map_loss(logits, torch.full((2, 4, 4), 255), MapLossSettings())
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()
