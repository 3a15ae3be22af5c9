"""One photograph: what is captured, and the reasons for what is not."""

import numpy as np
import pytest

from semiscope.capture.illumination import IlluminationSettings, illumination
from semiscope.capture.orient import orient
from semiscope.capture.package import Candidate, UprightSettings, capture, is_cut

INNER = np.array([[20.0, 20], [80, 20], [80, 70], [20, 70]])


@pytest.mark.parametrize(
    ("colour", "expected"),
    [
        ((16, 16, 16), "bright_field"),
        ((200, 200, 15), "dark_field_white"),
        ((9, 20, 8), "dark_field_white"),
        ((8, 20, 9), "dark_field_blue"),
        ((8, 8, 8), "dark_field_blue"),
    ],
)
def test_the_rule_by_mean_colours(colour, expected):
    pixels = np.ones((4, 5, 3)) * colour
    assert illumination(pixels.astype(np.uint8)) == expected
    assert illumination((pixels * 257).astype(np.uint16)) == expected
    assert illumination((pixels / 255 - 1e-6).astype(np.float32)) == expected
    twelve = IlluminationSettings(full_scale=4095)
    assert illumination((pixels * 4095 / 255).astype(np.uint16), twelve) == expected


def test_grey_has_one_dark_field():
    assert illumination(np.full((4, 4), 16, np.uint8)) == "bright_field"
    assert illumination(np.full((4, 4), 15, np.uint8)) == "dark_field_white"


@pytest.mark.parametrize(
    ("shift", "cut"), [((0, 0), False), ((-19.5, 0), True), ((-40, 0), True), ((0, 30), True)]
)
def test_what_the_border_cuts(shift, cut):
    assert is_cut(INNER + shift, 100, 100) is cut
    assert is_cut((INNER + shift)[::-1], 100, 100) is cut


def test_a_corner_may_touch_the_border():
    assert not is_cut(np.array([[50.0, 0.2], [99, 50], [50, 99], [10, 50]]), 100, 120)


def test_saturation_is_told_even_where_a_package_is_found():
    pixels = np.full((100, 100, 3), 255, np.uint8)
    pixels[20:70, 20:80] = 90
    found = capture(pixels, lambda p: [Candidate(INNER, 1.0, "given")])
    assert found.reason is None and found.upright.pixels.shape == (50, 60, 3)
    assert found.notes == ("over-exposed: 70 % of the pixels are saturated",)
    assert capture(pixels, lambda p: []).reason == "over-exposed"


def test_size_and_margin():
    pixels = np.arange(10000, dtype=np.uint16).reshape(100, 100)
    settings = UprightSettings(size=(25, 30), margin=0.1)
    found = capture(pixels, lambda p: [Candidate(INNER, 1.0, "given")], settings)
    assert found.upright.pixels.shape == (25, 30) and found.upright.pixels.dtype == np.uint16


def test_orientation_needs_structure():
    rng = np.random.default_rng(0)
    view = rng.integers(0, 255, (40, 30), np.uint8)
    found = orient(np.rot90(view[:, ::-1]), view)
    assert found.mirrored and found.correlation > 0.9
    cross = np.zeros((60, 60), np.uint8)
    cross[25:35] = cross[:, 25:35] = 200
    for even in (cross, np.full((60, 60), 7, np.uint8)):
        assert orient(even, cross) is None
