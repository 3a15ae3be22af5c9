import pytest
import torch

from semiscope.learn.losses.yolo import (
    YoloLossSettings,
    assign,
    candidates,
    decode,
    yolo_loss,
)
from semiscope.nets.yolov7_tiny import COCO_ANCHORS, STRIDES

ANCHORS = torch.tensor(COCO_ANCHORS)


def outputs(height=64, width=96, batch=2, classes=3, requires_grad=False):
    torch.manual_seed(0)
    maps = [torch.randn(batch, 3 * (5 + classes), height // s, width // s) for s in STRIDES]
    return [m.requires_grad_(requires_grad) for m in maps]


def as_levels(maps):
    return [m.view(m.shape[0], 3, -1, *m.shape[2:]).permute(0, 1, 3, 4, 2) for m in maps]


def test_a_box_may_go_to_its_cell_and_the_two_nearest():
    target = torch.tensor([[0.0, 1, 26.0, 13.0, 12.0, 14.0]])  # centre in cell (3, 1) of stride 8
    found = candidates(target, ANCHORS[0], 8, 8, 8)
    cells = {(int(c), int(r)) for c, r in zip(found.column, found.row, strict=True)}
    assert cells == {(3, 1), (2, 1), (3, 2)}
    # 12 x 14 is within a factor of four of all three small anchors
    assert set(found.anchor.tolist()) == {0, 1, 2}


def test_an_anchor_four_times_too_large_is_none():
    target = torch.tensor([[0.0, 0, 32, 32, 3.0, 3.0]])
    assert set(candidates(target, ANCHORS[0], 8, 8, 8).anchor.tolist()) <= {0}
    assert len(candidates(target, ANCHORS[2], 32, 2, 2).anchor) == 0


def test_decoding_matches_the_inference_side():
    import numpy as np

    from semiscope.infer.decode import decode_yolo

    raw = torch.full((24, 4, 6), -20.0)
    raw[8:16, 2, 3] = torch.tensor([0.3, -0.2, 0.5, 0.1, 9.0, -9, 9, -9])
    row, column = torch.tensor([2]), torch.tensor([3])
    ours = decode(raw[8:16, 2, 3][None], ANCHORS[1, 1][None], row, column, 16)
    x, y, w, h = ours[0].tolist()
    found = decode_yolo([raw.numpy()], [ANCHORS[1].tolist()], [16], 0.5, 0.5)
    np.testing.assert_allclose(
        found.xyxy, [[x - w / 2, y - h / 2, x + w / 2, y + h / 2]], rtol=1e-5
    )
    assert found.class_id.tolist() == [1]


def test_every_box_gets_a_prediction_and_no_prediction_two_boxes():
    maps = as_levels(outputs(128, 128))
    targets = torch.tensor(
        [[0.0, 0, 30, 30, 20, 24], [0, 1, 33, 31, 22, 20], [1, 2, 90, 70, 60, 50]]
    )
    matches = assign(maps, targets, ANCHORS, STRIDES)
    owners = torch.cat([m.target for m in matches])
    assert set(owners.tolist()) == {0, 1, 2}
    for match in matches:
        keys = list(
            zip(
                *(v.tolist() for v in (match.image, match.anchor, match.row, match.column)),
                strict=True,
            )
        )
        assert len(keys) == len(set(keys))
        assert (targets[match.target, 0].long() == match.image).all()


def test_the_assignment_of_two_boxes_worked_by_hand():
    # one level, one anchor: cell (0, 0) predicts the first box exactly, cell (2, 0) the second
    raw = torch.full((1, 1, 1, 4, 6), -6.0)
    raw[0, 0, 0, :, :4] = 0.0
    raw[0, 0, 0, 0, 4:] = 6.0
    raw[0, 0, 0, 2, 4:] = 6.0
    anchors = torch.tensor([[[8.0, 8.0]]])
    targets = torch.tensor([[0.0, 0, 4, 4, 8, 8], [0, 0, 20, 4, 8, 8]])
    (match,) = assign([raw], targets, anchors, (8,))
    pairs = sorted(zip(match.column.tolist(), match.target.tolist(), strict=True))
    assert pairs == [(0, 0), (2, 1)]


@pytest.mark.parametrize("box", ["ciou", "nwd-grid", "nwd-pixel"])
def test_no_target_at_all_still_teaches_that_nothing_is_there(box):
    maps = outputs(requires_grad=True)
    settings = YoloLossSettings(box=box)
    loss, parts = yolo_loss(maps, torch.zeros(0, 6), ANCHORS, STRIDES, settings)
    loss.backward()
    assert parts["box"] == 0 and parts["class"] == 0 and parts["objectness"] > 0
    assert all(torch.isfinite(m.grad).all() and m.grad.any() for m in maps)


@pytest.mark.parametrize("box", ["ciou", "nwd-grid", "nwd-pixel"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_loss_and_gradient_are_finite_in_half_precision_and_off_square(box, dtype):
    maps = [(m.detach() * 30).to(dtype).requires_grad_() for m in outputs()]
    targets = torch.tensor(
        [
            [0.0, 0, 96, 64, 2, 2],
            [0, 1, 0, 0, 2, 2],
            [1, 2, 50, 20, 90, 60],
            [1, 0, 95.9, 63.9, 4, 9],
        ]
    )
    loss, _ = yolo_loss(maps, targets, ANCHORS, STRIDES, YoloLossSettings(box=box))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(m.grad).all() for m in maps)


def test_the_mix_of_box_terms_is_half_and_half():
    targets = torch.tensor([[0.0, 0, 40, 30, 24, 20]])
    maps = outputs(batch=1)
    terms = {}
    for box in ("ciou", "nwd-pixel", "nwd-grid"):
        settings = YoloLossSettings(box=box, box_gain=1.0)
        terms[box] = yolo_loss(maps, targets, ANCHORS, STRIDES, settings)[1]["box"].item()
    # a unit of grid cells makes the same error look nearer
    assert terms["nwd-grid"] < terms["nwd-pixel"]
    assert terms["ciou"] / 2 < terms["nwd-grid"]


def test_training_on_one_box_finds_it():
    from semiscope.infer.decode import decode_yolo

    maps = [torch.nn.Parameter(m) for m in outputs(64, 64, batch=1)]
    targets = torch.tensor([[0.0, 2, 40, 30, 24, 20]])
    optimiser = torch.optim.Adam(maps, lr=0.3)
    settings = YoloLossSettings(class_gain=10, objectness_gain=100, box_gain=1)
    for _ in range(150):
        optimiser.zero_grad()
        yolo_loss(list(maps), targets, ANCHORS, STRIDES, settings)[0].backward()
        optimiser.step()
    found = decode_yolo([m[0].detach().numpy() for m in maps], ANCHORS.tolist(), STRIDES, 0.3, 0.5)
    assert found.class_id.tolist() == [2]
    torch.testing.assert_close(
        torch.from_numpy(found.xyxy), torch.tensor([[28.0, 20, 52, 40]]), atol=1.0, rtol=0
    )
