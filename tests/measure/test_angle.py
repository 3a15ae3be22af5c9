"""Dies drawn at known angles, with what lies across their edges; the intervals' coverage."""

import cv2
import numpy as np
import pytest

from semiscope.measure.angle import corners_in_box, measure_rotation
from semiscope.measure.edges import edge_points, fit_line, grey


def turned(centre, width, height, degrees):
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return (
        np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [width / 2, height / 2] @ turn.T + centre
    )


def cover(corners, side, soft=1.0):
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) + 0.5
    inside = np.full((side, side), np.inf, np.float32)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        length = np.hypot(bx - ax, by - ay)
        inside = np.minimum(inside, ((bx - ax) * (y - ay) - (by - ay) * (x - ax)) / length)
    return np.clip(0.5 + inside / soft, 0, 1)


SIDE = 220


def draw(degrees, package_deg=0.0, noise=4.0, blur=1.0, seed=0):
    """Pixels of a package with a die; corners of both. The package has a soft border."""
    rng = np.random.default_rng(seed)
    package = turned((110, 111), 170, 170, package_deg)
    die = turned((110 + rng.uniform(-4, 4), 111), 90, 80, degrees + package_deg)
    pixels = 110 - 90 * cover(package, SIDE, 6.0)
    pixels += (150 - pixels) * cover(die, SIDE)
    pixels = cv2.GaussianBlur(pixels, (0, 0), blur)
    pixels += rng.normal(0, noise, pixels.shape)
    return pixels.clip(0, 255).round().astype(np.uint8), package, die


def rough(corners, seed, deviation=1.5):
    return corners + np.random.default_rng(seed).normal(0, deviation, (4, 2))


def test_about_95_percent_of_the_true_angles_lie_in_their_interval():
    inside, errors = [], []
    for seed in range(40):
        true = np.random.default_rng(1000 + seed).uniform(-15, 15)
        pixels, package, die = draw(true, 2.0, noise=3 + seed % 3 * 4, seed=seed)
        found = measure_rotation(pixels, rough(die, seed), rough(package, seed + 1))
        assert found.package_measured and found.sides == 4
        errors.append(abs(found.angle_deg - true))
        inside.append(found.low <= true <= found.high)
    # of 40 true 95 % intervals fewer than 34 hold in one of 300 such sets
    assert sum(inside) >= 34
    assert np.median(errors) < 0.1 and max(errors) < 0.4
    # an interval that held everything by being wide would be no use
    assert found.high - found.low < 0.8


@pytest.mark.parametrize("what", ["wires", "chip", "crack"])
def test_what_lies_across_an_edge_does_not_matter(what):
    pixels, package, die = draw(4.0, noise=2)
    top_left, top_right = die[0], die[1]
    if what == "wires":
        for part in (0.2, 0.45, 0.7):
            start = top_left + part * (top_right - top_left)
            cv2.line(pixels, (start + [0, 8]).astype(int), (start + [4, -20]).astype(int), 255, 3)
    elif what == "chip":
        place = top_left + 0.4 * (top_right - top_left)
        cv2.circle(pixels, place.round().astype(int), 9, 20, -1)
    else:
        place = top_left + 0.6 * (top_right - top_left)
        cv2.line(pixels, (place - [20, 6]).astype(int), (place + [25, 6]).astype(int), 30, 2)
    found = measure_rotation(pixels, rough(die, 3), package)
    assert found.angle_deg == pytest.approx(4.0, abs=0.2)
    assert found.low <= 4.0 <= found.high


def test_a_crop_that_is_not_upright_is_put_right_by_the_packages_edges():
    pixels, package, die = draw(-3.0, package_deg=1.5)
    found = measure_rotation(pixels, die, turned((110, 111), 172, 172, 0.8))
    assert found.package_measured and found.angle_deg == pytest.approx(-3, abs=0.15)
    # without the package's edges in view the crop counts as upright, within its own error
    tight = pixels[28:194, 28:194]
    found = measure_rotation(tight, die - 28, upright_deg=0.8)
    assert not found.package_measured and found.angle_deg == pytest.approx(-1.5, abs=0.2)
    assert found.low < -3 < found.high


def test_edges_in_the_photograph_tell_the_same_as_in_the_crop():
    pixels, package, die = draw(6.0, package_deg=-12)
    to_crop = cv2.getPerspectiveTransform(
        package.astype(np.float32), np.float32([[20, 20], [190, 20], [190, 190], [20, 190]])
    )
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    crop = cv2.warpPerspective(pixels, np.linalg.inv(half) @ to_crop @ half, (210, 210))
    in_crop = cv2.perspectiveTransform(np.array([die, package]), to_crop)
    from_crop = measure_rotation(crop, *in_crop)
    from_photo = measure_rotation(crop, *in_crop, photo=pixels, homography=to_crop)
    for found in (from_crop, from_photo):
        assert found.package_measured and found.angle_deg == pytest.approx(6, abs=0.15)
    with pytest.raises(ValueError, match="belong together"):
        measure_rotation(crop, *in_crop, photo=pixels)


@pytest.mark.parametrize("degrees", [-18, -7, 0, 11])
def test_the_corners_of_a_turned_die_from_its_upright_box(degrees):
    pixels, _, die = draw(degrees)
    box = np.concatenate([die.min(axis=0), die.max(axis=0)]) + [-1, 1.5, 1, -1]
    found = corners_in_box(pixels, box)
    assert np.abs(found - die).max() < 4
    angle = measure_rotation(pixels, found).angle_deg
    assert angle == pytest.approx(degrees, abs=0.25)


def test_a_quarter_turn_and_16_bit_colour_change_nothing():
    pixels, package, die = draw(5.0)
    expected = measure_rotation(pixels, die, package).angle_deg
    colour = np.repeat(pixels[..., None], 3, axis=2).astype(np.uint16) * 200
    assert measure_rotation(colour, die, package).angle_deg == pytest.approx(expected, abs=1e-3)
    again = measure_rotation(pixels, np.roll(die, 1, axis=0), np.roll(package, 1, axis=0))
    assert again.angle_deg == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((60, 60), np.uint8), np.full((60, 60, 3), 255, np.uint8), np.zeros((3, 3), np.uint8)],
)
def test_nothing_in_view_gives_none(pixels):
    assert measure_rotation(pixels, turned((30, 30), 30, 30, 0)) is None
    assert corners_in_box(pixels, [5, 5, 40, 40]).shape == (4, 2)


def test_noise_alone_is_never_sure():
    pixels = np.random.default_rng(0).integers(0, 255, (200, 200), np.uint8)
    found = measure_rotation(pixels, turned((100, 100), 100, 100, 0))
    assert found is None or found.high - found.low > 0.5


def test_corners_must_be_four():
    with pytest.raises(ValueError, match="four corners"):
        measure_rotation(np.zeros((9, 9), np.uint8), np.zeros((3, 2)))


def test_an_edge_to_a_hundredth_of_a_pixel_and_a_line_through_outliers():
    y = np.mgrid[0:80, 0:120][0] + 0.5
    step = (100 / (1 + np.exp(-(y - 40.37) / 1.5))).astype(np.float32)
    points = edge_points(step, np.array([5.0, 42.0]), np.array([115.0, 38.5]), 6)
    np.testing.assert_allclose(points[:, 1], 40.37, atol=0.02)
    rng = np.random.default_rng(0)
    x = np.linspace(0, 100, 80)
    points = np.stack([x, 3 + 0.05 * x + rng.normal(0, 0.1, 80)], axis=1)
    points[10:40, 1] += rng.uniform(3, 9, 30)
    line = fit_line(points, points[0], np.array([100.0, 0]))
    assert line.direction[1] / line.direction[0] == pytest.approx(0.05, abs=0.002)
    assert 0.5 < line.share < 0.7 and line.scatter == pytest.approx(0.1, rel=0.4)
    # least squares on the good points tells the slope with this deviation
    good = np.r_[0:10, 40:80]
    assert line.sigma_rad == pytest.approx(0.1 / np.sqrt(50) / x[good].std(), rel=0.5)


def test_grey_follows_the_light():
    blue = np.zeros((4, 4, 3), np.uint8)
    blue[:2, :, 2] = 200
    np.testing.assert_allclose(grey(blue), blue[..., 2])
