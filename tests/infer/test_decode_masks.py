import numpy as np
import pytest

from semiscope.infer.decode import Placement
from semiscope.infer.decode_masks import (
    MASK_KERNEL,
    decode_dynamic,
    decode_prototypes,
    dynamic_mask,
)
from semiscope.infer.decoders import PrototypeDecoder
from semiscope.types import Annotations

IMAGE = Placement(1.0, 0, 0)


OFFSET = 20  # keeps what passes the ReLUs above zero


def kernel(channel: int) -> np.ndarray:
    """Filters that pass one channel on."""
    theta = np.zeros(MASK_KERNEL, np.float32)
    theta[:64] = np.eye(8).reshape(-1)
    theta[64:128] = np.eye(8).reshape(-1)
    theta[128 + channel] = 1
    theta[-1] = -OFFSET
    return theta


def features(height: int, width: int) -> np.ndarray:
    """At stride 4, for a mask of a disc about the middle, the left half, a line of 1.5 px."""
    y, x = np.mgrid[:height, :width] + 0.5
    planes = np.zeros((8, height, width), np.float32)
    radius = np.hypot(x - width / 2, y - height / 2)
    planes[0] = np.clip(0.5 + (height / 4 - radius), 0, 1)
    planes[1] = x < width / 2
    planes[2, height // 2] = 1.5 / 4
    shares = planes.clip(1e-7, 1 - 1e-7)
    return OFFSET + np.log(shares / (1 - shares))


def test_a_mask_has_the_size_and_the_place_of_what_the_features_show():
    mask = dynamic_mask(
        features(40, 40), kernel(0), np.array([20, 20, 140, 140], np.float32), IMAGE, (160, 160)
    )
    assert (mask.x, mask.y) == (20, 20) and mask.bits.shape == (120, 120)
    assert mask.area == pytest.approx(np.pi * 40**2, rel=0.01)
    rows, columns = np.nonzero(mask.bits)
    assert rows.mean() + 20.5 == pytest.approx(80, abs=0.2)
    assert columns.mean() + 20.5 == pytest.approx(80, abs=0.2)


def test_an_image_that_lies_scaled_and_shifted_in_the_input_gets_its_own_pixels():
    # an image of 320 x 240 in an input of 160 x 160: half as large, 20 rows below the top
    placement = Placement(0.5, 0, 20)
    box = np.array([0, 0, 320, 240], np.float32)
    mask = dynamic_mask(features(40, 40), kernel(0), box, placement, (240, 320))
    rows, columns = np.nonzero(mask.bits)
    assert mask.area == pytest.approx(np.pi * 80**2, rel=0.01)
    assert rows.mean() + 0.5 == pytest.approx(120, abs=0.3)
    assert columns.mean() + 0.5 == pytest.approx(160, abs=0.3)


def test_a_line_thinner_than_a_cell_keeps_its_place_and_its_area():
    box = np.array([40, 70, 120, 95], np.float32)
    mask = dynamic_mask(features(40, 40), kernel(2), box, IMAGE, (160, 160))
    assert mask.area == pytest.approx(80 * 1.5, abs=2)
    rows, _ = np.nonzero(mask.bits)
    assert abs(rows.mean() + 70.5 - 82) < 1 and np.ptp(rows) <= 2


def test_a_mask_ends_at_its_box():
    box = np.array([60.4, 70.2, 90.5, 79.9], np.float32)
    mask = dynamic_mask(features(40, 40), kernel(0), box, IMAGE, (160, 160))
    assert (mask.x, mask.y) == (60, 70) and mask.bits.shape == (10, 31) and mask.bits.all()


@pytest.mark.parametrize("box", [[159, 159, 160, 160], [0, 0, 0.5, 0.5], [3, 0, 4, 160]])
def test_the_smallest_boxes_at_the_border_have_a_mask(box):
    mask = dynamic_mask(features(40, 40), kernel(1), np.array(box, np.float32), IMAGE, (160, 160))
    assert mask.bits.size and mask.bits.all() == (box[0] < 80)


def decoded(logits, boxes, kernels, min_score=0.1):
    return decode_dynamic(
        np.array(logits, np.float32),
        np.array(boxes, np.float32),
        np.array(kernels, np.float32),
        features(40, 40),
        IMAGE,
        (160, 160),
        min_score,
        0.5,
    )


def test_masks_stay_with_their_boxes_when_others_are_left_out():
    boxes = [[[200, 200, 300, 300], [0, 0, 80, 160], [40, 40, 120, 120], [0, 0, 5, 5]]]
    logits = [[[3.0, -9], [2.0, -9], [-9, 1.0], [-9, -9]]]
    kernels = [[kernel(0), kernel(1), kernel(0), kernel(0)]]
    found = decoded(logits, boxes, kernels)
    # the best lies outside the image, the last says nothing
    assert found.class_id.tolist() == [0, 1]
    np.testing.assert_allclose(found.score, 1 / (1 + np.exp([-2.0, -1.0])), rtol=1e-5)
    assert found.shapes[0].bits.mean() > 0.99 and found.shapes[0].bits.shape == (160, 80)
    assert found.shapes[1].area == pytest.approx(np.pi * 40**2, rel=0.02)


def test_steps_are_pooled_the_last_one_included():
    boxes = [[[0, 0, 80, 160]], [[0, 0, 80, 158]], [[90, 0, 160, 160]]]
    logits = [[[1.0]], [[2.0]], [[0.5]]]
    found = decoded(logits, boxes, [[kernel(1)]] * 3)
    assert found.score.tolist() == pytest.approx([0.8808, 0.6225], abs=1e-4)
    np.testing.assert_array_equal(found.xyxy[:, 0], [0, 90])


def test_a_box_may_carry_two_classes_and_one_without_mask_is_kept():
    found = decoded([[[1.0, 2.0], [-20, -20]]], [[[90, 0, 120, 9]] * 2], [[kernel(1)] * 2], 0.0)
    assert found.class_id.tolist()[:2] == [1, 0]
    assert all(shape.area == 0 for shape in found.shapes)


def test_raw_output_without_sense_gives_nothing_and_no_warning():
    found = decoded([[[-500.0], [500.0]]], [[[5, 5, 5, 5], [-3, -3, -1, -1]]], [[kernel(0)] * 2])
    assert len(found) == 0 and found.shapes == ()


def interpolated(plane, x, y):
    """A plain bilinear value at a place in cells, their centres at whole numbers."""
    rows, columns = plane.shape
    x, y = min(max(x, 0), columns - 1), min(max(y, 0), rows - 1)
    left, top = int(x), int(y)
    right, bottom = min(left + 1, columns - 1), min(top + 1, rows - 1)
    upper = plane[top, left] * (1 - x + left) + plane[top, right] * (x - left)
    lower = plane[bottom, left] * (1 - x + left) + plane[bottom, right] * (x - left)
    return upper * (1 - y + top) + lower * (y - top)


@pytest.mark.parametrize("scale", [0.4, 1.0, 1.7])
def test_prototype_masks_are_those_of_a_plain_loop(scale):
    rng = np.random.default_rng(0)
    prototypes = rng.standard_normal((5, 12, 16), dtype=np.float32)
    coefficients = rng.standard_normal((3, 5), dtype=np.float32)
    placement, size = Placement(scale, 3, 2), (round(44 / scale), round(58 / scale))
    boxes = np.array([[3, 2, 61, 46], [20.3, 10.2, 31.7, 40], [-9, -9, 12, 12]], np.float32)
    found = Annotations(boxes, np.array([2, 0, 1]), np.array([0.9, 0.8, 0.7]))
    ours = decode_prototypes(found, coefficients, prototypes, placement, size)
    np.testing.assert_array_equal(ours.class_id, found.class_id)
    np.testing.assert_array_equal(ours.score, found.score)
    for mask, box, weights in zip(ours.shapes, ours.xyxy, coefficients, strict=True):
        logits = sum(w * p for w, p in zip(weights, prototypes, strict=True))
        covered = 1 / (1 + np.exp(-logits))
        left, top, right, bottom = *np.floor(box[:2]), *np.ceil(box[2:])
        assert (mask.x, mask.y) == (left, top)
        assert mask.bits.shape == (bottom - top, right - left)
        for y, x in np.ndindex(mask.bits.shape):
            cell = [((v + 0.5) * scale + s) / 4 - 0.5 for v, s in ((x + left, 3), (y + top, 2))]
            share = interpolated(covered, *cell)
            # interpolation by OpenCV is exact to a 32nd of a cell
            if abs(share - 0.5) > 0.04:
                assert mask.bits[y, x] == (share > 0.5)


def test_a_box_outside_the_image_takes_its_coefficients_along():
    prototypes = np.ones((1, 10, 10), np.float32)
    boxes = np.array([[50, 50, 60, 60], [5, 5, 15, 15]], np.float32)
    found = Annotations(boxes, np.array([0, 1]))
    coefficients = np.array([[1], [-1]], np.float32)
    ours = decode_prototypes(found, coefficients, prototypes, IMAGE, (40, 40))
    assert ours.class_id.tolist() == [1] and ours.shapes[0].area == 0


def test_each_detection_is_decoded_with_the_coefficients_of_its_own_place():
    levels, shapes = (8, 16), ((4, 6), (2, 3))
    anchors = (((8, 8), (30, 30)), ((16, 16), (20, 9)))
    maps = [np.full((1, 2 * 6, *shape), -20, np.float32) for shape in shapes]
    places = 2 * (4 * 6 + 2 * 3)
    coefficients = np.full((1, 1, places), -1, np.float32)
    # level 1, anchor 1, row 1, column 2
    maps[1].reshape(2, 6, 2, 3)[1, :, 1, 2] = [0, 0, 0, 0, 9, 9]
    coefficients[0, 0, 2 * 4 * 6 + 1 * 6 + 1 * 3 + 2] = 1
    # level 0, anchor 0, row 3, column 1: its coefficient says that nothing is inside
    maps[0].reshape(2, 6, 4, 6)[0, :, 3, 1] = [0, 0, 0, 0, 8, 8]
    decoder = PrototypeDecoder(strides=levels, anchors=anchors, iou_threshold=0.5)
    raw = [*maps, coefficients, np.ones((1, 1, 8, 12), np.float32)]
    found = decoder.annotations(raw, 0, IMAGE, (32, 48), 0.5)
    np.testing.assert_allclose(found.xyxy[0], [30, 19.5, 48, 28.5])
    np.testing.assert_allclose(found.xyxy[1], [8, 24, 16, 32])
    assert [shape.bits.all() for shape in found.shapes] == [True, False]
    assert found.shapes[1].area == 0


def test_prototypes_without_any_box_give_nothing():
    decoder = PrototypeDecoder(strides=(8,), anchors=(((8, 8),),), iou_threshold=0.5)
    raw = [np.full((1, 6, 2, 2), -20.0), np.zeros((1, 4, 4)), np.zeros((1, 4, 4, 4))]
    found = decoder.annotations([r.astype(np.float32) for r in raw], 0, IMAGE, (16, 16), 0.5)
    assert len(found) == 0 and found.shapes == ()
