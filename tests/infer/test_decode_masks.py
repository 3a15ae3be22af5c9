import numpy as np
import pytest

from semiscope.infer.decode import Placement
from semiscope.infer.decode_masks import MASK_KERNEL, decode_dynamic, dynamic_mask

IMAGE = Placement(1.0, 0, 0)


def kernel(channel: int) -> np.ndarray:
    """Filters that pass one channel on and call it inside where it is above one half."""
    theta = np.zeros(MASK_KERNEL, np.float32)
    theta[:64] = np.eye(8).reshape(-1)
    theta[64:128] = np.eye(8).reshape(-1)
    theta[128 + channel] = 1
    theta[-1] = -0.5
    return theta


def features(height: int, width: int) -> np.ndarray:
    """At stride 4: channel 0 a disc about the middle, channel 1 the left half."""
    y, x = np.mgrid[:height, :width] + 0.5
    planes = np.zeros((8, height, width), np.float32)
    radius = np.hypot(x - width / 2, y - height / 2)
    planes[0] = np.clip(0.5 + (height / 4 - radius), 0, 1)
    planes[1] = x < width / 2
    return planes


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
    assert found.shapes[0].bits.all() and found.shapes[0].bits.shape == (160, 80)
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
