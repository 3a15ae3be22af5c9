"""Homographies against shapely's areas, exact squares and round trips."""

import cv2
import numpy as np
import pytest

from semiscope.capture.upright import (
    make_upright,
    order_corners,
    package_angle,
    transform_annotations,
    transform_points,
    warp,
)
from semiscope.geometry import dense, rasterise
from semiscope.types import Annotations, Mask, Polygons

SQUARE = np.array([[10.0, 10], [30, 10], [30, 30], [10, 30]])


def turn(points, degrees):
    angle = np.radians(degrees)
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return (points - 20) @ matrix.T + 20


@pytest.mark.parametrize("degrees", [-44.9, -30, 0, 12.5, 44.9])
@pytest.mark.parametrize("seed", [0, 1])
def test_corners_keep_their_names_up_to_45_degrees(degrees, seed):
    corners = turn(SQUARE, degrees)
    shuffled = np.random.default_rng(seed).permutation(corners)
    np.testing.assert_array_equal(order_corners(shuffled), corners)
    assert package_angle(corners) == pytest.approx(degrees)


@pytest.mark.parametrize(("degrees", "seen"), [(45, 45), (46, -44), (-45, 45), (90, 0), (180, 0)])
def test_a_square_looks_the_same_after_a_quarter_turn(degrees, seen):
    assert package_angle(order_corners(turn(SQUARE, degrees))) == pytest.approx(seen)


def test_the_angle_of_corners_in_the_packages_own_order_is_whole():
    for degrees in (-170, -90, 60, 135, 180):
        assert package_angle(turn(SQUARE, degrees)) == pytest.approx(degrees)
    # mirrored left to right, the package's top left is at the right
    assert package_angle(SQUARE[[1, 0, 3, 2]]) == pytest.approx(0)


@pytest.mark.parametrize(
    "points", [SQUARE[:3], [[0, 0], [1, 0], [2, 0], [1, 5]], np.zeros((4, 2)), SQUARE * np.nan]
)
def test_what_is_no_quadrilateral_is_refused(points):
    with pytest.raises(ValueError, match="expected"):
        order_corners(points)


def test_quarter_turn_moves_pixels_exactly_and_keeps_the_depth():
    pixels = np.random.default_rng(0).integers(0, 60000, (40, 40), np.uint16)
    corners = np.roll(SQUARE, -1, axis=0)  # the package's top left lies at the top right
    upright = make_upright(pixels, corners)
    assert upright.pixels.dtype == np.uint16 and upright.angle_deg == pytest.approx(-90)
    np.testing.assert_array_equal(upright.pixels, np.rot90(pixels[10:30, 10:30]))
    np.testing.assert_allclose(
        transform_points(corners, upright.homography), [[0, 0], [20, 0], [20, 20], [0, 20]],
        atol=1e-9,
    )  # fmt: skip


def test_a_margin_shows_what_is_around_and_a_size_is_kept():
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    around = make_upright(pixels, SQUARE, margin=0.25)
    np.testing.assert_array_equal(around.pixels, pixels[5:35, 5:35])
    small = make_upright(pixels, SQUARE, size=(10, 5))
    expected = cv2.resize(pixels[10:30, 10:30], (5, 10), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(small.pixels, expected)
    np.testing.assert_allclose(transform_points(SQUARE[2], small.homography), [[5, 10]])


def test_a_mirrored_package_comes_out_unmirrored():
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)
    upright = make_upright(pixels, SQUARE[[1, 0, 3, 2]])
    np.testing.assert_array_equal(upright.pixels, pixels[10:30, 29:9:-1])


def test_corners_on_a_line_are_refused():
    with pytest.raises(ValueError, match="on a line"):
        make_upright(np.zeros((9, 9), np.uint8), [[0, 0], [4, 0], [8, 0], [4, 8]])


def test_labels_go_into_the_crop_and_out_again():
    corners = np.array([[20.0, 14], [70, 24], [64, 80], [12, 70]])
    pixels = np.zeros((100, 100), np.uint8)
    homography = make_upright(pixels, corners).homography
    ring = np.array([[30.0, 30], [50, 33], [48, 55], [33, 50]])
    bits = np.zeros((100, 100), bool)
    bits[35:55, 30:52] = True
    found = Annotations(
        [[30, 30, 50, 55], [30, 35, 52, 55], [40, 40, 50, 50]],
        [1, 2, 0],
        shapes=(Polygons((ring,)), Mask(30, 35, bits[35:55, 30:52]), None),
        angle_deg=[10.0, np.nan, 0.0],
    )
    inside = transform_annotations(found, homography, 56, 52)
    back = transform_annotations(inside, np.linalg.inv(homography), 100, 100)
    assert back.class_id.tolist() == [1, 2, 0]
    np.testing.assert_allclose(back.shapes[0].rings[0], ring, atol=1e-9)
    # a box's middle moves a little under perspective, and the turn with it
    np.testing.assert_allclose(back.angle_deg, [10, np.nan, 0], atol=0.05)
    # at the package's own angle in the photograph nothing is left of it
    assert inside.angle_deg[2] == pytest.approx(10, abs=1.5)
    mended = dense(back.shapes[1], 100, 100)
    assert np.count_nonzero(mended ^ bits) < 0.06 * bits.sum()
    # a mask in the crop is where its outline would be
    outline = transform_points([[30, 35], [52, 35], [52, 55], [30, 55]], homography)
    same = dense(rasterise(Polygons((outline,)), 56, 52), 56, 52)
    assert np.count_nonzero(same ^ dense(inside.shapes[1], 56, 52)) < 0.05 * same.sum()
    # a bare box grows where it turns, and holds the old one
    assert (back.xyxy[2] <= [40, 40, 99, 99]).all() and (back.xyxy[2][2:] >= 50).all()
    kept = transform_annotations(found, homography, 56, 52, turn_angles=False)
    np.testing.assert_array_equal(kept.angle_deg, found.angle_deg)


def test_shapes_are_cut_at_the_border_and_left_out_beyond_it():
    shift = np.array([[1.0, 0, -10], [0, 1, 0], [0, 0, 1]])
    rings = [[[5, 5], [20, 5], [20, 15], [5, 15]], [[1, 1], [8, 1], [8, 8]]]
    outlines = [Polygons((np.array(ring, float),)) for ring in rings]
    found = Annotations(
        [[5, 5, 20, 15], [1, 1, 8, 8], [0, 0, 30, 4]], [0, 1, 2],
        shapes=(*outlines, Mask(0, 0, np.ones((4, 30), bool))),
    )  # fmt: skip
    moved = transform_annotations(found, shift, 12, 8)
    assert moved.class_id.tolist() == [0, 2]
    np.testing.assert_allclose(moved.xyxy, [[0, 5, 8, 12], [0, 0, 8, 4]])
    assert moved.shapes[1].area == 32
    assert len(transform_annotations(Annotations.empty(), shift, 9, 9)) == 0


def test_warping_by_nothing_changes_nothing():
    pixels = np.random.default_rng(0).random((7, 9)).astype(np.float32)
    np.testing.assert_array_equal(warp(pixels, np.eye(3), 7, 9), pixels)
