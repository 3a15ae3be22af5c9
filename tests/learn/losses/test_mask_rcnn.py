import pytest
import torch

from semiscope.learn.losses.mask_rcnn import (
    MaskRcnnLossSettings,
    draw,
    mask_rcnn_loss,
    mask_targets,
    match,
    pad_truth,
    sample_masks,
)
from semiscope.nets.backbones import BACKBONES
from semiscope.nets.mask_rcnn import MaskRcnn

# image, class, x, y, width, height
TARGETS = torch.tensor([[2.0, 1, 20, 20, 12, 10], [0, 2, 60, 40, 20, 8], [2, 0, 50, 10, 4, 4]])


def scene(height=64, width=96):
    """Two images with a bright rectangle each and their truth."""
    torch.manual_seed(0)
    images = 0.1 * torch.randn(2, 1, height, width)
    targets = torch.tensor([[0.0, 1, 20, 20, 12, 10], [1, 2, 60, 40, 20, 8]])
    masks = torch.zeros(2, height, width, dtype=torch.uint8)
    masks[0, 15:25, 14:26] = 1
    masks[1, 36:44, 50:70] = 1
    images[:, 0] += 2 * masks
    return images, targets, masks


def network(mask="conv", classes=3):
    torch.manual_seed(0)
    return MaskRcnn(
        classes,
        BACKBONES["resnet18"](1),
        16,
        32,
        mask,
        sizes=(8, 16, 32, 64, 128),
        proposals=40,
        detections=12,
    )


def test_truth_is_put_in_rows_by_image():
    truth = pad_truth(TARGETS, 3)
    assert truth.row.tolist() == [[1, -1], [-1, -1], [0, 2]]
    assert truth.classes.tolist() == [[2, 0], [0, 0], [1, 0]]
    assert truth.boxes[2].tolist() == [[14, 15, 26, 25], [48, 8, 52, 12]]
    assert not truth.boxes[1].any()


def test_matching_by_hand():
    truth = pad_truth(torch.tensor([[0.0, 0, 5, 5, 10, 10], [0, 1, 30, 5, 4, 4]]), 2)
    boxes = torch.tensor(
        [
            [0.0, 0, 10, 8],  # IoU 0.8 with the first
            [0, 0, 10, 5],  # 0.5: neither
            [0, 0, 2, 10],  # 0.2: none
            [24, 0, 36, 10],  # 16 / 120 = 0.13 with the second, but nothing fits it better
            [60, 0, 70, 10],  # far from both
        ]
    )
    holds, none, target = match(boxes, truth, 0.7, 0.3, best_too=True)
    assert holds[0].tolist() == [True, False, False, True, False]
    assert none[0].tolist() == [False, False, True, False, True]
    assert target[0, :4].tolist() == [0, 0, 0, 1]
    assert not holds[1].any() and none[1].all()  # an image without instances
    holds, none, _ = match(boxes, truth, 0.7, 0.3, best_too=False)
    assert holds[0].tolist() == [True, False, False, False, False] and none[0, 3]


def test_drawing_keeps_the_share_and_fills_up_with_negative_ones():
    positive = torch.zeros(3, 40, dtype=torch.bool)
    positive[0, :30], positive[1, :2] = True, True
    negative = ~positive
    negative[2, 5:] = False
    target = torch.arange(40).expand(3, -1)
    drawn = draw(positive, negative, target, 16, 0.25)
    assert drawn.place.shape == (3, 16)
    assert drawn.positive.sum(1).tolist() == [4, 2, 0]
    # the first image has only ten negative ones, the third only five of any kind
    assert drawn.used.sum(1).tolist() == [14, 16, 5]
    assert drawn.positive[0, :4].all() and drawn.positive[1, :2].all()
    assert torch.equal(drawn.target, drawn.place)
    for i in range(3):
        chosen = drawn.place[i, drawn.used[i]]
        assert len(chosen.unique()) == len(chosen)
        assert torch.equal(positive[i, drawn.place[i]] & drawn.used[i], drawn.positive[i])


def test_drawing_is_random_and_follows_torch_s_seed():
    flags = torch.ones(1, 1000, dtype=torch.bool)

    def drawn(seed):
        torch.manual_seed(seed)
        return draw(~flags, flags, flags.long(), 10, 0.5).place.tolist()

    assert drawn(1) == drawn(1) != drawn(2)


def test_masks_are_read_between_the_centres_of_pixels():
    mask = torch.zeros(1, 4, 6, dtype=torch.uint8)
    mask[0, :, 3:] = 1
    points = torch.tensor([[[3.5, 2.0], [3.0, 2.0], [2.5, 2.0], [5.9, 2.0], [7.0, 2.0]]])
    # column 3 has its centre at 3.5; beyond the last centre the mask falls to nothing
    torch.testing.assert_close(
        sample_masks(mask, torch.tensor([0]), points), torch.tensor([[1.0, 0.5, 0.0, 0.6, 0.0]])
    )


@pytest.mark.parametrize("side", [7, 28])
def test_a_target_is_the_covered_share_of_each_cell(side):
    mask = torch.zeros(2, 64, 64, dtype=torch.uint8)
    mask[1, 8:36, 8:22] = 1
    wanted = mask_targets(mask, torch.tensor([1, 0]), torch.tensor([[8.0, 8, 36, 36]] * 2), side)
    assert wanted.shape == (2, side, side) and not wanted[1].any()
    middle = side // 2
    assert (wanted[0, 1:-1, 1 : middle - 1] == 1).all()
    assert not wanted[0, :, middle + 1 :].any()
    assert wanted[0].mean().item() == pytest.approx(0.5, abs=0.02)


def test_a_mask_of_one_pixel_fills_its_box():
    mask = torch.zeros(1, 32, 32, dtype=torch.uint8)
    mask[0, 9, 5] = 1
    wanted = mask_targets(mask, torch.tensor([0]), torch.tensor([[5.0, 9, 6, 10]]), 28)
    assert wanted[0, 13:15, 13:15].min() > 0.9 and (wanted > 0.2).all()


@pytest.mark.parametrize("mask", ["conv", "point"])
def test_a_gradient_reaches_every_parameter_and_steps_lower_the_loss(mask):
    images, targets, masks = scene()
    net = network(mask)
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3)
    losses = []
    for step in range(8):
        loss, parts = mask_rcnn_loss(net, images, targets, masks, MaskRcnnLossSettings())
        optimiser.zero_grad()
        loss.backward()
        if step == 0:
            missing = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
            assert missing == []
            names = {"objectness", "proposal", "class", "box", "mask"}
            assert set(parts) == names | ({"points"} if mask == "point" else set())
            assert loss.item() == pytest.approx(sum(v.item() for v in parts.values()), rel=1e-5)
            assert parts["mask"].item() == pytest.approx(0.693, abs=0.02)
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("mask", ["conv", "point"])
def test_images_without_instances(mask):
    images, targets, masks = scene()
    net = network(mask, classes=1)
    loss, parts = mask_rcnn_loss(net, images, targets[:0], masks[:0], MaskRcnnLossSettings())
    loss.backward()
    assert torch.isfinite(loss) and parts["mask"] == 0 and parts["box"] == 0
    # every process must have a gradient for every parameter, if only one of zeros
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    assert net.rpn.logits.weight.grad.any()


def test_one_pixel_instances_and_more_than_are_drawn():
    images, _, _ = scene()
    n = 60
    targets = torch.zeros(n, 6)
    targets[:, 2] = torch.arange(n) + 10.5
    targets[:, 3] = 30.5
    targets[:, 4:] = 1
    masks = torch.zeros(n, 64, 96, dtype=torch.uint8)
    masks[torch.arange(n), 30, torch.arange(n) + 10] = 1
    loss, _ = mask_rcnn_loss(network(), images, targets, masks, MaskRcnnLossSettings())
    loss.backward()
    assert torch.isfinite(loss)


@pytest.mark.slow
@pytest.mark.parametrize("mask", ["conv", "point"])
def test_mixed_precision(mask):
    net = network(mask)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = mask_rcnn_loss(net, *scene(), MaskRcnnLossSettings())
        found = net.eval()(scene()[0])
    loss.backward()
    assert loss.dtype == torch.float32 and torch.isfinite(loss)
    assert found.boxes.dtype == found.scores.dtype == torch.float32
