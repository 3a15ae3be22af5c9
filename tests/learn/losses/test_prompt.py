import math

import pytest
import torch

from semiscope.learn.losses.prompt import PromptLossSettings, prompt_loss

WEIGHTS = PromptLossSettings(cross_entropy=0.2, dice=0.8, claim=0.5)


def flat(*values):
    """Logits of four masks, each of one value."""
    return torch.tensor(values).view(1, 4, 1, 1).expand(1, 4, 4, 4).contiguous()


def test_the_parts_by_hand():
    truth = torch.zeros(1, 8, 8)
    truth[0, :, :4] = 1
    # sigmoid(0) = 1/2 everywhere: nothing is above 0, so the true IoU is 0
    loss, parts = prompt_loss(flat(0.0, 9, 9, 9), torch.full((1, 4), 0.25), truth, False, WEIGHTS)
    dice = 1 - (2 * 16 + 1) / (32 + 32 + 1)
    assert parts["cross_entropy"].item() == pytest.approx(math.log(2))
    assert parts["dice"].item() == pytest.approx(dice)
    assert parts["claim"].item() == pytest.approx(0.0625) and parts["iou"] == 0
    assert loss.item() == pytest.approx(0.2 * math.log(2) + 0.8 * dice + 0.5 * 0.0625)


def test_of_a_doubtful_prompt_only_the_best_of_three_masks_learns():
    truth = torch.ones(2, 8, 8)
    truth[1] = 0
    truth[1, 0, 0] = 1
    logits = flat(9.0, -3, 2, 0.5).repeat(2, 1, 1, 1).requires_grad_()
    claimed = torch.rand(2, 4, requires_grad=True)
    loss, parts = prompt_loss(logits, claimed, truth, True, WEIGHTS)
    loss.backward()
    reached = (logits.grad.abs().sum((2, 3)) > 0).tolist()
    assert reached == [[False, False, True, False], [False, True, False, False]]
    assert (claimed.grad != 0).tolist() == reached
    # the first is wholly found, the second not at all
    assert parts["iou"].item() == pytest.approx(0.5)


def test_a_region_that_is_not_found_has_a_finite_loss_and_a_gradient():
    logits = torch.full((1, 4, 4, 4), -30.0, requires_grad=True)
    truth = torch.zeros(1, 8, 8)
    truth[0, 2:5, 2:5] = 1
    loss, _ = prompt_loss(logits, torch.zeros(1, 4), truth, False, WEIGHTS)
    loss.backward()
    assert torch.isfinite(loss) and (logits.grad[0, 0] < 0).any()
