import base64

import cv2
import numpy as np
import pytest

from semiscope.report.crop import MOST_PX, CropMaker


def decoded(text):
    data = np.frombuffer(base64.b64decode(text), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_UNCHANGED)


def box(*values):
    return np.array(values, np.float32)


def test_the_view_holds_the_box_and_stays_inside():
    crops = CropMaker(np.zeros((300, 400), np.uint8))
    assert crops.view(box(100, 100, 110, 120)) == [57, 62, 96, 96]
    assert crops.view(box(0, 0, 10, 10)) == [0, 0, 96, 96]
    assert crops.view(box(390, 290, 400, 300)) == [304, 204, 96, 96]
    assert crops.view(box(0, 0, 400, 300)) == [0, 0, 400, 300]
    left, top, width, height = crops.view(box(50, 100, 250, 140))
    assert left < 50 and top < 100 and left + width > 250 and top + height > 140


def test_small_views_keep_their_pixels_and_large_ones_shrink():
    pixels = np.random.default_rng(0).integers(0, 255, (500, 1000), np.uint8)
    assert decoded(CropMaker(pixels).jpeg([5, 6, 100, 120])).shape == (120, 100)
    assert decoded(CropMaker(pixels).jpeg([0, 0, 1000, 500])).shape == (MOST_PX // 2, MOST_PX)


def test_colours_stay_what_they_are():
    pixels = np.zeros((100, 100, 3), np.uint8)
    pixels[:] = (200, 100, 30)
    blue, green, red = decoded(CropMaker(pixels).jpeg([0, 0, 96, 96]))[50, 50]
    assert (int(red), int(green), int(blue)) == pytest.approx((200, 100, 30), abs=4)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_deep_images_are_spread_over_the_greys(dtype):
    ramp = np.tile(np.linspace(1000, 3000, 200), (100, 1)).astype(dtype)
    shown = decoded(CropMaker(ramp).jpeg([0, 0, 200, 100]))
    assert shown[:, :5].mean() < 8 and shown[:, -5:].mean() > 247
    assert shown[:, 100].mean() == pytest.approx(128, abs=4)


def test_a_flat_deep_image():
    assert decoded(CropMaker(np.full((99, 99), 700, np.uint16)).jpeg([0, 0, 96, 96])).shape
