import cv2
import numpy as np
import pytest
import torch

from semiscope.geometry import crop, mask_iou
from semiscope.infer.decode import Placement
from semiscope.infer.decoders import PrototypeDecoder
from semiscope.learn.losses.prototypes import chosen_coefficients, mask_term, prototype_loss
from semiscope.learn.losses.yolo import Matches, YoloLossSettings
from semiscope.nets.yolov7_tiny import COCO_ANCHORS, STRIDES

ANCHORS = torch.tensor(COCO_ANCHORS)
PLACES = 3 * (8 * 8 + 4 * 4 + 2 * 2)  # of a 64 px input


def outputs(batch=1, classes=2):
    torch.manual_seed(0)
    maps = [torch.randn(batch, 3 * (5 + classes), 64 // s, 64 // s) for s in STRIDES]
    return [*maps, torch.randn(batch, 4, PLACES), torch.randn(batch, 4, 16, 16)]


def triangle():
    mask = np.zeros((64, 64), np.uint8)
    cv2.fillPoly(mask, [np.array([[14, 50], [32, 11], [50, 50]])], 1)
    return mask


TARGETS = torch.tensor([[0.0, 1, 32.5, 31, 37, 40]])


def test_the_mask_term_is_that_of_a_plain_loop():
    rng = np.random.default_rng(0)
    coefficients = torch.from_numpy(rng.standard_normal((3, 4)))
    prototypes = torch.from_numpy(rng.standard_normal((2, 4, 4, 5)))
    # in image 1 a box in the middle, in image 0 one that its margin brings to the border
    targets = torch.tensor([[1.0, 0, 10, 8, 5, 4], [0, 1, 12, 8, 14, 14]], dtype=torch.float64)
    masks = torch.from_numpy(rng.integers(0, 2, (2, 16, 20), dtype=np.uint8))
    target = [1, 0, 1]
    ours = mask_term(coefficients, prototypes, torch.tensor(target), targets, masks)
    means = []
    for weights, t in zip(coefficients.numpy(), target, strict=True):
        image, _, x, y, width, height = targets[t].tolist()
        terms = []
        for row, column in np.ndindex(4, 5):
            touched_x = column * 4 < x + 0.6 * width and (column + 1) * 4 > x - 0.6 * width
            touched_y = row * 4 < y + 0.6 * height and (row + 1) * 4 > y - 0.6 * height
            if touched_x and touched_y:
                logit = float(weights @ prototypes[int(image), :, row, column].numpy())
                share = masks[t, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4].numpy().mean()
                inside = 1 / (1 + np.exp(-logit))
                terms.append(-share * np.log(inside) - (1 - share) * np.log(1 - inside))
        means.append(np.mean(terms))
    assert ours.item() == pytest.approx(np.mean(means), rel=1e-5)


def test_coefficients_are_taken_where_the_network_puts_them():
    maps = [torch.zeros(2, 3, 8, 6, 7), torch.zeros(2, 3, 4, 3, 7)]
    numbers = torch.arange(3.0 * (8 * 6 + 4 * 3)).expand(2, 1, -1)
    first = Matches(*(torch.tensor([v]) for v in (1, 2, 5, 4, 0)))
    second = Matches(*(torch.tensor([v]) for v in (0, 1, 3, 2, 1)))
    chosen = chosen_coefficients([first, second], maps, numbers)
    # (anchor * rows + row) * columns + column, the second after the first level's 144
    assert chosen.tolist() == [[(2 * 8 + 5) * 6 + 4], [144 + (1 * 4 + 3) * 3 + 2]]


def test_training_on_one_outline_finds_it():
    learned = [torch.nn.Parameter(o) for o in outputs()]
    optimiser = torch.optim.Adam(learned, lr=0.3)
    settings = YoloLossSettings(class_gain=10, objectness_gain=100, box_gain=1, mask_gain=1)
    masks = torch.from_numpy(triangle())[None]
    for _ in range(150):
        optimiser.zero_grad()
        prototype_loss(list(learned), TARGETS, masks, ANCHORS, STRIDES, settings)[0].backward()
        optimiser.step()
    raw = [v.detach().numpy() for v in learned]
    decoder = PrototypeDecoder(strides=STRIDES, anchors=ANCHORS.tolist(), iou_threshold=0.5)
    found = decoder.annotations(raw, 0, Placement(1.0, 0, 0), (64, 64), 0.3)
    assert found.class_id.tolist() == [1]
    np.testing.assert_allclose(found.xyxy, [[14, 11, 51, 51]], atol=1)
    assert mask_iou(found.shapes, [crop(triangle() > 0)])[0, 0] > 0.95


def test_an_upright_box_learns_where_it_ends():
    # the mask fills its box; what is learned outside of it is that nothing is there
    coefficients = torch.ones(1, 1)
    plane = torch.zeros(1, 1, 16, 16, requires_grad=True)
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[0, 16:48, 16:48] = 1
    targets = torch.tensor([[0.0, 0, 32, 32, 32, 32]])
    mask_term(coefficients, plane, torch.tensor([0]), targets, masks).backward()
    assert (plane.grad[0, 0, 4:12, 4:12] < 0).all()
    assert (plane.grad[0, 0, 3, 3:13] > 0).all() and (plane.grad[0, 0, 3:13, 12] > 0).all()
    assert not plane.grad[0, 0, :3].any() and not plane.grad[0, 0, :, 13:].any()


def test_without_any_true_box_every_output_still_has_a_gradient():
    learned = [o.requires_grad_() for o in outputs(2)]
    masks = torch.zeros(0, 64, 64, dtype=torch.uint8)
    loss, parts = prototype_loss(
        learned, torch.zeros(0, 6), masks, ANCHORS, STRIDES, YoloLossSettings()
    )
    loss.backward()
    assert parts["mask"] == 0 and parts["objectness"] > 0
    assert all(o.grad is not None and torch.isfinite(o.grad).all() for o in learned)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_loss_and_gradient_are_finite_in_half_precision(dtype):
    learned = [(o * 30).to(dtype).requires_grad_() for o in outputs(2)]
    targets = torch.tensor([[0.0, 0, 64, 64, 2, 2], [1, 1, 0, 0, 3, 3], [1, 1, 30, 20, 60, 30]])
    masks = torch.ones(3, 64, 64, dtype=torch.uint8)
    loss, _ = prototype_loss(learned, targets, masks, ANCHORS, STRIDES, YoloLossSettings())
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(o.grad).all() for o in learned)
