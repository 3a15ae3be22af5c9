import numpy as np
import pytest

from semiscope.measure.size import measure_size
from semiscope.types import Mask, Polygons

BOX = np.array([10, 20, 16, 23], np.float32)


def test_box_only():
    size = measure_size(BOX, None, 100, 100, 2.5)
    assert (size.width, size.height, size.area, size.length) == (6, 3, 18, 6)
    assert (size.width_nm, size.height_nm, size.area_nm2) == (15, 7.5, 112.5)


def test_area_is_that_of_the_mask():
    bits = np.zeros((3, 6), bool)
    bits[0, :4] = True
    assert measure_size(BOX, Mask(10, 20, bits), 100, 100, None).area == 4


def test_area_of_an_outline_is_cut_to_the_image():
    ring = np.array([[95.0, 0], [110, 0], [110, 10], [95, 10]])
    size = measure_size(np.array([95, 0, 100, 10], np.float32), Polygons((ring,)), 100, 100, 1.0)
    assert size.area == pytest.approx(50)


def test_no_pixel_size_no_nanometres():
    size = measure_size(BOX, None, 100, 100, None)
    assert (size.width_nm, size.height_nm, size.area_nm2) == (None, None, None)
