"""Packages drawn at known corners; whatever else a camera can give."""

import cv2
import numpy as np
import pytest

from semiscope.capture.contour import contour_finder
from semiscope.capture.upright import order_corners

find = contour_finder()


def as_depth(pixels, kind):
    if kind == "grey":
        return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    if kind == "16 bit":
        return pixels.astype(np.uint16) * 16
    return pixels.astype(np.float32) / 255 if kind == "float" else pixels


@pytest.mark.parametrize("kind", ["colour", "grey", "16 bit", "float"])
@pytest.mark.parametrize("degrees", [0, 25, -40])
def test_the_corners_of_the_package_to_half_a_pixel(unit, degrees, kind):
    drawn = unit(degrees, tilt=0.03, die_deg=5)
    (found,) = find(as_depth(drawn.pixels, kind))
    assert found.method == "contour" and 0.6 <= found.score <= 1
    assert np.abs(found.corners - order_corners(drawn.corners)).max() < 0.5


def test_a_dark_field_whose_edges_shine(unit):
    drawn = unit(12)
    dark = np.full(drawn.pixels.shape[:2], 3, np.uint8)
    cv2.fillPoly(dark, [np.round(drawn.corners).astype(np.int32)], 12)
    dark = cv2.GaussianBlur(dark, (0, 0), 1)
    (found,) = find(dark)
    assert np.abs(found.corners - order_corners(drawn.corners)).max() < 2


def test_a_scratch_across_the_border_does_not_matter(unit):
    drawn = unit(10)
    top_left, top_right, _, bottom_left = drawn.corners
    cross = (0.6 * top_left + 0.4 * top_right).astype(int)
    cv2.line(drawn.pixels, cross - [4, 25], cross + [8, 25], (25, 30, 25), 3)
    (found,) = find(drawn.pixels)
    assert np.abs(found.corners - order_corners(drawn.corners)).max() < 1


def test_a_3000_px_photo_is_as_exact(unit):
    drawn = unit(8)
    large = cv2.resize(drawn.pixels, (3000, 3000), interpolation=cv2.INTER_CUBIC)
    (found,) = find(large)
    assert np.abs(found.corners / 12.5 - order_corners(drawn.corners)).max() < 0.5


def test_two_packages_are_two_candidates(unit):
    left, right = unit(5), unit(-8, seed=1)
    found = find(np.concatenate([left.pixels, right.pixels], axis=1))
    assert len(found) == 2
    middles = sorted(c.corners[:, 0].mean() for c in found)
    np.testing.assert_allclose(middles, [120.5, 360.5], atol=1)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((200, 200, 3), np.uint8),
        np.full((200, 200), 255, np.uint8),
        np.full((200, 200), 1e9, np.float32),
        np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8),
        np.zeros((1, 1), np.uint8),
        np.random.default_rng(0).integers(0, 9, (3, 400), np.uint16),
        np.tile(np.arange(300, dtype=np.uint8), (20, 1)),
    ],
    ids=["black", "white", "bright", "noise", "one", "flat", "ramp"],
)
def test_no_package_is_an_empty_list(pixels):
    assert find(pixels) == []
