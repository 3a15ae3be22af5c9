import numpy as np
import pytest

from semiscope.infer.decode import (
    decode_yolo,
    letterbox,
    place,
    scale_range,
    to_tensor,
    with_channels,
)
from semiscope.types import Annotations

ANCHORS = [[[10.0, 20.0], [30.0, 30.0]]]


def empty_map(rows=4, columns=6, classes=2):
    return np.full((2 * (5 + classes), rows, columns), -20, np.float32)


def put(raw, anchor, row, column, values):
    raw.reshape(2, -1, *raw.shape[1:])[anchor, :, row, column] = values


def test_a_box_worked_by_hand():
    raw = empty_map()
    put(raw, 0, 1, 2, [0, 0, 0, 0, 20, 20, -20])
    found = decode_yolo([raw], ANCHORS, [8], 0.5, 0.5)
    # s = 1/2: centre (0.5 + 2, 0.5 + 1) * 8, size the anchor's
    np.testing.assert_allclose(found.xyxy, [[20 - 5, 12 - 10, 20 + 5, 12 + 10]], rtol=1e-6)
    assert found.class_id.tolist() == [0]
    assert found.score[0] == pytest.approx(1)


def test_the_score_is_objectness_times_class_and_a_place_may_have_two_classes():
    raw = empty_map()
    put(raw, 1, 0, 0, [0, 0, 0, 0, np.log(4), np.log(3), np.log(1)])
    found = decode_yolo([raw], ANCHORS, [8], 0.1, 0.5)
    assert found.class_id.tolist() == [0, 1]
    np.testing.assert_allclose(found.score, [0.8 * 0.75, 0.8 * 0.5], rtol=1e-6)
    assert len(decode_yolo([raw], ANCHORS, [8], 0.5, 0.5)) == 1


def test_overlapping_boxes_of_a_class_are_suppressed():
    raw = empty_map()
    put(raw, 1, 1, 1, [0, 0, 0, 0, 5, 20, -20])
    put(raw, 1, 1, 2, [0, 0, 0, 0, 3, 20, -20])
    put(raw, 1, 2, 2, [0, 0, 0, 0, 3, -20, 20])
    found = decode_yolo([raw], ANCHORS, [8], 0.5, 0.3)
    assert found.class_id.tolist() == [0, 1]


def test_nothing_is_found_in_an_empty_or_extreme_map():
    assert len(decode_yolo([empty_map()], ANCHORS, [8], 0.01, 0.5)) == 0
    wild = np.full((14, 40, 40), 1e4, np.float32)
    found = decode_yolo([wild], ANCHORS, [8], 0.0, 0.5)
    assert 0 < len(found) <= 300 and np.isfinite(found.xyxy).all()


def test_letterbox_and_place_are_inverse():
    pixels = np.zeros((100, 300), np.uint8)
    boxed, placement = letterbox(pixels, 64, 96, 7)
    assert boxed.shape == (64, 96) and placement.top == 16 and placement.left == 0
    assert (boxed[:16] == 7).all() and (boxed[16:48] == 0).all()
    inside = Annotations(np.array([[0, 16, 96, 48], [48, 20, 60, 90]]), np.array([0, 1]))
    back = place(inside, placement, 100, 300)
    np.testing.assert_allclose(back.xyxy[0], [0, 0, 300, 100], atol=1e-3)
    assert back.xyxy[1, 3] == 100


def test_a_box_wholly_in_the_border_is_dropped():
    _, placement = letterbox(np.zeros((100, 300), np.uint8), 64, 96, 0)
    outside = Annotations(np.array([[0, 0, 96, 10]]), np.array([0]))
    assert len(place(outside, placement, 100, 300)) == 0


@pytest.mark.parametrize(
    ("pixels", "scaling", "expected"),
    [
        (np.full((8, 8), 9, np.uint8), "dtype", (0, 255)),
        (np.full((8, 8), 9, np.uint16), "dtype", (0, 65535)),
        (np.linspace(-2, 3, 64, dtype=np.float32).reshape(8, 8), "dtype", (-2, 3)),
        (np.full((8, 8), 9, np.uint16), "percentile", (9, 10)),
        (np.arange(0, 4000, dtype=np.uint16).reshape(40, 100), "percentile", (20, 3979)),
    ],
)
def test_grey_ranges(pixels, scaling, expected):
    assert scale_range(pixels, scaling) == pytest.approx(expected, abs=1)


def test_tensor_is_planes_clipped_then_normalised():
    pixels = np.array([[[0, 100, 300]]], np.uint16)
    tensor = to_tensor(pixels, (0, 200), (0.5, 0.5, 0.5), (0.5, 0.25, 0.5))
    assert tensor.shape == (3, 1, 1) and tensor.dtype == np.float32
    np.testing.assert_allclose(tensor.ravel(), [-1, 0, 1], atol=1e-6)


def test_channels_are_brought_to_the_network_s():
    colour = np.dstack([np.full((2, 2), v, np.uint8) for v in (255, 0, 0)])
    assert with_channels(colour, 1).tolist() == [[76, 76], [76, 76]]
    assert with_channels(np.ones((2, 2), np.uint16), 3).shape == (2, 2, 3)
    assert with_channels(colour, 3) is colour
