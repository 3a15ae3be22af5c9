import math

import numpy as np
import pytest
import torch

from semiscope.nets.roi import pixel_rows, roi_align


def slow_roi_align(levels, boxes, size):
    """RoIAlign of one image as its paper tells it, a value at a time."""
    out = np.zeros((len(boxes), levels[0].shape[0], size, size))
    for n, (x1, y1, x2, y2) in enumerate(boxes):
        side = math.sqrt(max(x2 - x1, 0) * max(y2 - y1, 0))
        k = min(max(math.floor(4 + math.log2(side / 224 + 1e-8)), 2), 5)
        level, stride = levels[k - 2], 2**k
        for row in range(size):
            for column in range(size):
                for i in range(2):
                    for j in range(2):
                        y = y1 + (y2 - y1) * (row + (i + 0.5) / 2) / size
                        x = x1 + (x2 - x1) * (column + (j + 0.5) / 2) / size
                        # pixel centres lie at (index + 0.5) * stride
                        y = min(max(y / stride - 0.5, 0), level.shape[1] - 1)
                        x = min(max(x / stride - 0.5, 0), level.shape[2] - 1)
                        top, left = int(y), int(x)
                        low, right = (
                            min(top + 1, level.shape[1] - 1),
                            min(left + 1, level.shape[2] - 1),
                        )
                        v, h = y - top, x - left
                        out[n, :, row, column] += 0.25 * (
                            (1 - v) * ((1 - h) * level[:, top, left] + h * level[:, top, right])
                            + v * ((1 - h) * level[:, low, left] + h * level[:, low, right])
                        )
    return out


BOXES = [
    [10.3, 20.7, 40.2, 33.9],  # p2
    [0.0, 0.0, 112.0, 112.0],  # p3, just
    [-8.5, 30.0, 111.0, 150.0],  # p3, over the border
    [20.0, 10.0, 320.0, 186.0],  # p4
    [0.0, 0.0, 640.0, 384.0],  # p5, all
    [600.0, 350.0, 700.0, 420.0],  # over the far corner
    [50.0, 60.0, 50.0, 60.0],  # no size
    [90.0, 80.0, 70.0, 60.0],  # inside out
    [-500.0, -400.0, -300.0, -350.0],  # outside
    [-1e6, -1e6, 1e6, 1e6],  # huge
]


def make_levels(batch, channels, height=384, width=640):
    torch.manual_seed(0)
    return [torch.randn(batch, channels, height // s, width // s) for s in (4, 8, 16, 32)]


@pytest.mark.parametrize("size", [7, 3])
def test_it_is_what_a_slow_loop_finds(size):
    levels, boxes = make_levels(2, 3), torch.tensor([BOXES, BOXES[::-1]])
    ours = roi_align(levels, boxes, size)
    for i in range(2):
        expected = slow_roi_align([p[i].double().numpy() for p in levels], boxes[i].tolist(), size)
        np.testing.assert_allclose(ours[i].numpy(), expected, atol=2e-4)


def test_a_plane_s_values_are_those_at_the_bins_centres():
    # bilinear sampling of a plane is exact, so each bin must hold the plane at its centre
    x = (torch.arange(160) + 0.5) * 4
    y = (torch.arange(96) + 0.5) * 4
    p2 = (2 * x[None, :] - 3 * y[:, None])[None, None]
    levels = [p2] + [torch.zeros(1, 1, 96 >> i, 160 >> i) for i in (1, 2, 3)]
    bins = roi_align(levels, torch.tensor([[[100.0, 40.0, 170.0, 75.0]]]), 7)[0, 0, 0]
    centres = (torch.arange(7) + 0.5) / 7
    expected = 2 * (100 + 70 * centres)[None, :] - 3 * (40 + 35 * centres)[:, None]
    torch.testing.assert_close(bins, expected, atol=1e-3, rtol=1e-5)


def test_any_box_has_finite_features():
    levels = make_levels(1, 2, 32, 32)  # p5 is a single pixel
    worst = [float("nan"), float("inf"), -float("inf"), 3e38, -3e38, 0.0, 31.9]
    boxes = torch.tensor(
        [[[a, b, c, d] for a in worst for b in worst for c in worst for d in worst]]
    )
    assert torch.isfinite(roi_align(levels, boxes, 2)).all()


def test_no_box_at_all():
    assert roi_align(make_levels(2, 3, 64, 64), torch.zeros(2, 0, 4), 7).shape == (2, 0, 3, 7, 7)


def test_gradients_reach_the_levels_and_not_the_boxes():
    levels = [p.double().requires_grad_() for p in make_levels(1, 1, 32, 64)]
    boxes = torch.tensor([[[3.0, 5.0, 30.0, 41.0], [0.0, 0.0, 2000.0, 2000.0]]], requires_grad=True)
    assert torch.autograd.gradcheck(lambda *p: roi_align(p, boxes, 2), levels)
    roi_align(levels, boxes, 2).sum().backward()
    assert boxes.grad is None
    # a bin is a mean: each of the 2 boxes' 2x2 bins hands out a gradient of 1 in all
    total = sum(p.grad.sum().item() for p in levels)
    assert total == pytest.approx(2 * 2 * 2, rel=1e-5)


def test_rows_made_once_serve_many_calls_in_any_dtype():
    levels, boxes = make_levels(1, 4), torch.tensor([BOXES])
    rows = pixel_rows(levels)
    assert torch.equal(roi_align(rows, boxes, 7), roi_align(levels, boxes, 7))
    half = roi_align([p.bfloat16() for p in levels], boxes, 7)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), roi_align(levels, boxes, 7), atol=0.05, rtol=0.05)
