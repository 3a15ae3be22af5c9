import numpy as np

from semiscope.infer.decode import Placement
from semiscope.infer.paste import decode_instances, paste


def disc(side):
    y, x = (np.mgrid[:side, :side] + 0.5) / side - 0.5
    return (0.25 - (x**2 + y**2)).astype(np.float32)


def test_a_mask_is_scaled_into_its_box():
    box = np.array([10, 20, 50, 40], np.float32)
    mask = paste(disc(28), box, (64, 64))
    assert (mask.x, mask.y, mask.bits.shape) == (10, 20, (20, 40))
    y, x = np.mgrid[20:40, 10:50] + 0.5
    inside = ((x - 30) / 20) ** 2 + ((y - 30) / 10) ** 2
    # an ellipse of the box's half sides; the coarse grid may err only at its very border
    assert mask.bits[inside < 0.95].all() and not mask.bits[inside > 1.05].any()


def test_a_grid_of_the_box_s_size_is_copied():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((12, 12)).astype(np.float32)
    mask = paste(logits, np.array([3, 5, 15, 17], np.float32), (20, 20))
    np.testing.assert_array_equal(mask.bits, logits > 0)


def test_a_box_beyond_the_image_is_cut_not_squeezed():
    logits = np.full((4, 4), -1, np.float32)
    logits[:, 2:] = 1
    mask = paste(logits, np.array([-8, 2, 8, 6], np.float32), (10, 10))
    assert (mask.x, mask.y, mask.bits.shape) == (0, 2, (4, 8))
    assert mask.bits.all()  # the left half, which is empty, lies outside


def test_one_pixel():
    mask = paste(np.ones((28, 28), np.float32), np.array([7, 8, 8, 9], np.float32), (10, 10))
    assert (mask.x, mask.y, mask.area) == (7, 8, 1)


def test_instances_come_in_pixels_of_the_image():
    boxes = np.array(
        [[10, 22, 30, 42], [10, 22, 30, 42], [0, 0, 60, 5], [0, 30, 9, 40]], np.float32
    )
    scores = np.array([0.9, 0.4, 0.8, 0.0], np.float32)
    masks = np.ones((4, 28, 28), np.float32)
    masks[1] = -1
    # the input shows a 40 x 60 image at half its scale, 20 rows below its top
    placement = Placement(0.5, 0, 20)
    kinds = np.array([2, 1, 0, 0])
    found = decode_instances(boxes, scores, kinds, masks, placement, (40, 60), 0.3)
    # the third lies above the image, the fourth is no detection
    assert found.class_id.tolist() == [2, 1]
    np.testing.assert_allclose(found.xyxy, [[20, 4, 60, 40]] * 2)
    assert [shape.area for shape in found.shapes] == [40 * 36, 0]
    strict = decode_instances(boxes, scores, kinds, masks, placement, (40, 60), 0.5)
    assert len(strict) == 1


def test_no_instance_at_all():
    nothing = decode_instances(
        np.zeros((5, 4), np.float32),
        np.zeros(5, np.float32),
        np.zeros(5, np.int64),
        np.zeros((5, 28, 28), np.float32),
        Placement(1.0, 0, 0),
        (32, 32),
        0.0,
    )
    assert len(nothing) == 0
