"""Thickness against layers and discs whose thickness is known by construction."""

import numpy as np
import pytest

from semiscope.measure.thickness import local_thickness, measure_thickness, without_defects


def layer(thickness, degrees=0.0, size=(120, 160), offset=0.0):
    """A straight layer through the middle: pixels whose centre lies within it."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]] + 0.5
    angle = np.radians(degrees)
    across = (y - size[0] / 2 - offset) * np.cos(angle) - (x - size[1] / 2) * np.sin(angle)
    return np.abs(across) < thickness / 2


@pytest.mark.parametrize("thickness", [1, 2, 3, 8, 17, 40])
@pytest.mark.parametrize("turned", [False, True])
def test_a_straight_layer_is_as_thick_as_its_rows(thickness, turned):
    inside = np.zeros((60, 90), bool)
    inside[7 : 7 + thickness] = True
    found = measure_thickness(inside.T if turned else inside)
    assert (found.least, found.median, found.most) == pytest.approx((thickness,) * 3, abs=0.05)
    assert found.std < 0.01 and found.length == pytest.approx(90, abs=1)


@pytest.mark.parametrize("degrees", [5, 17, 30, 45, 78])
@pytest.mark.parametrize("thickness", [6.0, 14.5, 31.0])
def test_a_tilted_layer_is_as_thick_across(degrees, thickness):
    found = measure_thickness(layer(thickness, degrees))
    assert found.median == pytest.approx(thickness, abs=0.75)
    assert found.std < 0.8  # where the image cuts it slantwise a point or two are off


def test_a_wedge_s_thickness_grows_evenly():
    y, x = np.mgrid[0:120, 0:400] + 0.5
    low, high = 10.0, 50.0
    half = (low + (high - low) * x / 400) / 2
    found = local_thickness(np.abs(y - 60) < half)
    assert np.percentile(found, (5, 50, 95)) == pytest.approx([12, 30, 48], abs=1.0)


def test_a_disc_is_as_thick_as_its_diameter():
    y, x = np.mgrid[0:100, 0:100] + 0.5
    found = measure_thickness(np.hypot(x - 47, y - 51) < 30)
    assert found.most == pytest.approx(60, abs=1)
    assert found.length < 10


def test_an_oblong_is_as_thick_as_its_shorter_side():
    inside = np.zeros((80, 120), bool)
    inside[20:44, 10:110] = True
    found = measure_thickness(inside)
    assert found.median == pytest.approx(24, abs=0.01) and found.least > 20
    assert found.length == pytest.approx(100 - 24, abs=6)


def test_a_slow_plain_measure_agrees():
    # a wavy layer of constant height: its thickness, row by row of its middle line
    x = np.arange(300) + 0.5
    middle = 60 + 12 * np.sin(x / 40)
    y = np.arange(120)[:, None] + 0.5
    inside = np.abs(y - middle) < 10
    border = np.argwhere(~inside) + 0.5
    expected = []
    for column in range(40, 260, 20):
        # the largest disc about the middle line near this column that holds only the layer
        best = 0.0
        for dy in np.arange(-3, 3.01, 0.5):
            centre = np.array([middle[column] + dy, column + 0.5])
            best = max(best, np.hypot(*(border - centre).T).min())
        expected.append(2 * best - 1)
    assert measure_thickness(inside).median == pytest.approx(np.median(expected), abs=1.0)


def test_what_the_image_cuts_lengthwise_has_no_thickness():
    inside = np.zeros((60, 90), bool)
    inside[:20] = True
    assert measure_thickness(inside) is None
    inside[40:46] = True
    assert measure_thickness(inside).median == pytest.approx(6, abs=0.01)
    assert measure_thickness(np.ones((9, 9), bool)) is None
    assert measure_thickness(np.zeros((9, 9), bool)) is None


def test_defects_are_no_borders():
    indices = np.zeros((60, 90), np.uint8)
    indices[20:44] = 1
    indices[44:50] = 2
    expected = indices.copy()
    indices[20:44, 30:33] = indices[24:28, 60:70] = 3  # a crack right through, a void
    indices[46:50, 80:84] = 4
    found = without_defects(indices, (3, 4))
    # at its ends a crack is as near to what lies above the layer
    assert np.count_nonzero(found[:44] != expected[:44]) <= 6
    assert (found[46:48, 80:84] == 2).all() and found.max() == 2
    assert measure_thickness(indices == 1).least < 10
    whole = measure_thickness(found == 1)
    assert whole.median == pytest.approx(24, abs=0.1) and whole.least > 21
    assert without_defects(indices, ()) is indices
    nothing_else = np.full((5, 5), 3, np.uint8)
    assert without_defects(nothing_else, (3,)) is nothing_else


def test_in_nanometres():
    found = measure_thickness(layer(12))
    assert found.to_dict(2.5)["median"] == pytest.approx(30, abs=0.01)
    assert set(found.to_dict()) == {"mean", "std", "least", "median", "most", "length"}
