import numpy as np
import pytest
import torch
from torch.nn import functional as F

from semiscope.infer.decode import Placement
from semiscope.infer.decode_masks import dynamic_mask
from semiscope.learn.losses.boxes import giou
from semiscope.learn.losses.diffusion import (
    DiffusionLossSettings,
    dice_loss,
    diffusion_loss,
    dynamic_masks,
    focal_loss,
    match,
)
from semiscope.nets.diffusion_inst import KERNEL, Stage

SETTINGS = DiffusionLossSettings()


def test_focal_loss_without_focus_is_half_the_cross_entropy():
    logits, truth = torch.randn(50), torch.randint(2, (50,)).float()
    expected = F.binary_cross_entropy_with_logits(logits, truth, reduction="none") / 2
    torch.testing.assert_close(focal_loss(logits, truth, 0.5, 0.0), expected)
    # Lin et al. 2017, eq. 5 at p = 0.9: -0.25 (1 - 0.9)^2 log 0.9
    p = torch.tensor(0.9)
    value = focal_loss(torch.logit(p), torch.tensor(1.0), 0.25, 2.0)
    assert float(value) == pytest.approx(-0.25 * 0.01 * np.log(0.9), rel=1e-4)


def test_giou_of_hand_worked_boxes():
    a = torch.tensor([[1.0, 1, 2, 2], [1, 1, 2, 2], [1, 1, 2, 2]])
    b = torch.tensor([[1.0, 1, 2, 2], [2, 1, 2, 2], [5, 1, 2, 2]])
    # equal; overlap 2 of 6, hull full; apart: hull 12 of which 8 are filled
    torch.testing.assert_close(giou(a, b), torch.tensor([1.0, 1 / 3, -1 / 3]), atol=1e-5, rtol=0)


def test_dice_is_nothing_for_the_truth_and_one_for_its_opposite():
    truth = torch.zeros(1, 8, 8)
    truth[:, 2:5] = 1
    logits = truth * 40 - 20
    assert float(dice_loss(logits, truth)) == pytest.approx(0, abs=1e-4)
    assert float(dice_loss(-logits, truth)) == pytest.approx(1, abs=1e-4)
    # a truth in shares is best met by the shares
    share = torch.full((1, 8, 8), 0.3)
    better = dice_loss(torch.logit(share), share)
    assert all(
        better < dice_loss(torch.logit(torch.full_like(share, p)), share) for p in (0.1, 0.9)
    )


def test_filters_do_in_training_what_they_do_in_the_shipped_decoder():
    generator = np.random.default_rng(3)
    features = generator.standard_normal((8, 10, 12)).astype(np.float32)
    theta = generator.standard_normal(KERNEL).astype(np.float32)
    logits = dynamic_masks(torch.from_numpy(features)[None], torch.from_numpy(theta)[None])[0]
    # an image as large as the features: cell and pixel are the same
    box = np.array([0, 0, 12, 10], np.float32)
    mask = dynamic_mask(features, theta, box, Placement(4.0, 0, 0), (10, 12))
    # the highest shares, as many as they sum to
    shares = logits.sigmoid().flatten()
    highest = torch.zeros(120, dtype=torch.bool)
    highest[shares.argsort(descending=True)[: round(shares.sum().item())]] = True
    np.testing.assert_array_equal(mask.bits, highest.view(10, 12).numpy())


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32)


def test_every_truth_is_matched_and_a_prediction_has_one_truth():
    generator = torch.Generator().manual_seed(0)
    for truths in (1, 3, 20, 30):
        guess = torch.rand(30, 4, generator=generator) * 0.4 + 0.3
        truth = torch.rand(truths, 4, generator=generator) * 0.4 + 0.3
        classes = torch.randint(5, (truths,), generator=generator)
        query, target = match(torch.randn(30, 5), guess, classes, truth, SETTINGS)
        assert sorted(set(target.tolist())) == list(range(truths))
        assert len(set(query.tolist())) == len(query)


def test_more_truths_than_predictions_match_as_many_as_there_are():
    truth = torch.rand(9, 4) * 0.2 + 0.4
    query, target = match(torch.zeros(5, 2), truth[:5], torch.zeros(9).long(), truth, SETTINGS)
    assert len(query) == len(set(query.tolist())) <= 5 and len(target) == len(query)


def test_as_many_predictions_answer_as_overlaps_add_up_to():
    truth = boxes([0.5, 0.5, 0.2, 0.2])
    near = truth.repeat(3, 1)
    far = boxes([0.1, 0.1, 0.1, 0.1]).repeat(7, 1)
    query, _ = match(torch.zeros(10, 1), torch.cat([far, near]), torch.tensor([0]), truth, SETTINGS)
    assert query.tolist() == [7, 8, 9]
    # of equally good boxes the one that knows the class answers
    logits = torch.tensor([[4.0, -4.0], [-4.0, 4.0]])
    query, _ = match(logits, far[:2], torch.tensor([1]), truth, SETTINGS)
    assert query.tolist() == [1]


def batch(count, size=32, images=2):
    rows = torch.zeros(count, 6)
    masks = torch.zeros(count, size, size, dtype=torch.uint8)
    for i in range(count):
        rows[i] = torch.tensor([i % images, i % 3, 10.0 + i, 12.0, 6.0, 8.0])
        masks[i, 8:16, 7 + i : 13 + i] = 1
    stage = Stage(
        torch.randn(images, 7, 3, requires_grad=True),
        (torch.rand(images, 7, 2).repeat(1, 1, 2) * 16 + boxes([0, 0, 6, 8])).requires_grad_(),
        torch.randn(images, 7, KERNEL, requires_grad=True),
    )
    features = torch.randn(images, 8, size // 4, size // 4, requires_grad=True)
    return stage, features, rows, masks


@pytest.mark.parametrize("count", [0, 1, 5])
def test_the_loss_is_finite_and_reaches_every_output(count):
    stage, features, rows, masks = batch(count)
    total, parts = diffusion_loss([stage, stage], features, rows, masks, SETTINGS)
    total.backward()
    total = float(total.detach())
    assert np.isfinite(total) and total == pytest.approx(sum(map(float, parts.values())))
    assert stage.logits.grad.abs().sum() > 0
    if count:
        assert all(t.grad.abs().sum() > 0 for t in (stage.boxes, stage.kernels, features))
    else:
        assert float(parts["box"]) == float(parts["mask"]) == 0


def test_the_right_answer_costs_next_to_nothing_and_heads_add_up():
    stage, features, rows, masks = batch(1, images=1)
    logits = torch.full((1, 7, 3), -20.0)
    logits[0, 0, 0] = 20
    right = torch.tensor([[[7.0, 8, 13, 16]]]).repeat(1, 7, 1) + torch.arange(7)[:, None] * 50
    answer = Stage(logits, right, stage.kernels)
    total, parts = diffusion_loss([answer], features, rows, masks, SETTINGS)
    assert float(parts["class"] + parts["box"] + parts["iou"]) < 1e-4
    twice, _ = diffusion_loss([answer] * 2, features, rows, masks, SETTINGS)
    assert float(twice.detach()) == pytest.approx(2 * float(total.detach()), rel=1e-5)


def test_a_mask_of_one_pixel_still_teaches():
    stage, features, rows, masks = batch(1, images=1)
    masks.zero_()
    masks[0, 12, 10] = 1
    _, parts = diffusion_loss([stage], features, rows, masks, SETTINGS)
    assert 0 < float(parts["mask"]) <= SETTINGS.mask_gain + 1e-3
