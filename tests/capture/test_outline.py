"""Corners of masks whose outline is exactly known, spoilt as networks spoil them."""

import cv2
import numpy as np
import pytest

from semiscope.capture.outline import mask_corners
from semiscope.capture.upright import order_corners
from semiscope.geometry import dense, rasterise
from semiscope.types import Polygons

CORNERS = {
    "upright": [[40, 30], [160, 30], [160, 180], [40, 180]],
    "turned": [[60.3, 25.1], [176.2, 58.4], [140.7, 181.9], [24.8, 148.6]],
    "diamond": [[110.2, 20.1], [179.5, 109.3], [90.4, 180.2], [20.1, 91]],
    "tilted": [[50, 40], [150, 46], [165, 170], [36, 160]],
}


def mask_of(corners, size=200):
    return dense(rasterise(Polygons((np.array(corners, float),)), size, size), size, size)


@pytest.mark.parametrize("name", CORNERS)
def test_a_clean_mask_gives_its_corners_to_a_tenth_of_a_pixel(name):
    found = mask_corners(mask_of(CORNERS[name]))
    np.testing.assert_allclose(found, order_corners(CORNERS[name]), atol=0.1)


def test_zig_zag_borders_of_enlarged_masks_do_not_matter():
    corners = np.array(CORNERS["turned"])
    small = mask_of(corners / 4, 50)
    zig_zag = np.kron(small, np.ones((4, 4), bool))
    found = mask_corners(zig_zag)
    assert np.abs(found - corners).max() < 0.8
    # the corners of a polygon through the border are worse
    ring = cv2.findContours(zig_zag.astype(np.uint8), 0, cv2.CHAIN_APPROX_NONE)[0][0]
    box = order_corners(cv2.boxPoints(cv2.minAreaRect(ring)) + 0.5)
    assert np.abs(box - corners).max() > 2 * np.abs(found - corners).max()


def test_overflow_a_notch_a_hole_and_a_second_blob_do_not_matter():
    corners = CORNERS["turned"]
    mask = mask_of(corners)
    mask[50:85, 160:195] = True  # beyond the right side
    mask[100:112, 20:45] = False  # into the left side
    mask[95:105, 95:105] = False
    mask[2:12, 2:12] = True
    np.testing.assert_allclose(mask_corners(mask), corners, atol=0.5)


def test_a_mask_cut_at_the_border_has_corners_outside():
    found = mask_corners(mask_of([[-20, 50], [100, 50], [100, 150], [-20, 150]]))
    assert found is None or found[:, 0].min() < 1


def test_what_is_no_quadrilateral_gives_none():
    y, x = np.mgrid[0:200, 0:200]
    disc = np.hypot(x - 100, y - 100) < 60
    triangle = mask_of([[20, 20], [180, 30], [90, 170]])
    speckle = np.random.default_rng(0).random((200, 200)) < 0.3
    lines = np.zeros((200, 200), bool)
    lines[100] = True
    for mask in (disc, triangle, speckle, lines, np.zeros((200, 200), bool), np.ones((1, 1), bool)):
        assert mask_corners(mask) is None
