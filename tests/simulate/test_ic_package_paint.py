from __future__ import annotations

import numpy as np
import pytest

from semiscope.simulate.package_camera import turned
from semiscope.simulate.package_paint import moved, paint, polygon, quadrilateral, stroke, warp


def area(ring: np.ndarray) -> float:
    (x, y), (u, v) = ring.T, np.roll(ring, -1, axis=0).T
    return abs(float(np.sum(x * v - u * y))) / 2


@pytest.mark.parametrize("angle", [0.0, 0.3, 7.0, 45.0, 123.4])
def test_a_quadrilateral_covers_its_area_about_its_centre(angle: float) -> None:
    corners = moved(turned(angle, 50.3, 44.7), [(-30, -20), (30, -20), (31, 22), (-30, 20)])
    patch = quadrilateral(corners, 100, 100, 2).covering()
    assert patch.value.sum() == pytest.approx(area(corners), rel=1e-3)
    rows, columns = np.indices(patch.value.shape) + 0.5
    low = np.array([patch.left, patch.top])
    centre = [(patch.value * a).sum() / patch.value.sum() for a in (columns, rows)] + low
    first, second = corners[[0, 1, 2]], corners[[0, 2, 3]]
    weights = area(first), area(second)
    expected = np.average([first.mean(axis=0), second.mean(axis=0)], axis=0, weights=weights)
    np.testing.assert_allclose(centre, expected, atol=0.05)


def test_a_polygon_covers_its_area_also_where_the_photograph_ends() -> None:
    ring = np.array([(3.2, 4.1), (20.7, 6.3), (15.1, 9.8), (22.4, 21.9), (5.5, 17.2)])
    assert polygon(ring, 40, 40).value.sum() == pytest.approx(area(ring), abs=0.5)
    square = np.array([(-5.0, -5.0), (3.5, -5.0), (3.5, 2.5), (-5.0, 2.5)])
    assert polygon(square, 40, 40).value.sum() == pytest.approx(3.5 * 2.5)
    assert polygon(square + 100, 40, 40).value.size == 0


def test_a_stroke_is_as_deep_as_a_slow_loop_says() -> None:
    points = np.array([(4.2, 5.1), (17.8, 9.3), (12.0, 20.6), (12.0, 20.6)])
    half = np.array([1.0, 2.5, 0.6, 0.6])
    patch = stroke(points, half, 30, 30)
    for row in range(patch.value.shape[0]):
        for column in range(patch.value.shape[1]):
            centre = np.array([patch.left + column, patch.top + row]) + 0.5
            best = -np.inf
            for (a, b), (start, end) in zip(
                zip(points[:-1], points[1:], strict=True),
                zip(half[:-1], half[1:], strict=True),
                strict=True,
            ):
                way = b - a
                along = np.clip((centre - a) @ way / max(way @ way, 1e-9), 0, 1)
                away = np.linalg.norm(centre - a - along * way)
                best = max(best, start + along * (end - start) - away)
            assert patch.value[row, column] == pytest.approx(best, abs=1e-3)


def test_a_turn_is_counter_clockwise_on_the_screen() -> None:
    np.testing.assert_allclose(moved(turned(90, 5, 7), [(1, 0), (0, 1)]), [(5, 6), (6, 7)])


def test_a_texture_lands_where_the_homography_says() -> None:
    """A texture whose grey is its own x shows where each pixel came from."""
    texture = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (150, 200, 3)).copy()
    homography = np.array([[0.6, 0.1, 11.2], [-0.08, 0.7, 20.9], [0.0002, -0.0003, 1.0]])
    seen = warp(texture, homography, (35, 70, 30, 90))
    centres = np.stack(np.meshgrid(np.arange(30, 90) + 0.5, np.arange(35, 70) + 0.5), axis=-1)
    source = moved(np.linalg.inv(homography), centres.reshape(-1, 2))[:, 0].reshape(35, 60)
    # the centre of column k, grey k, lies at k + 0.5
    np.testing.assert_allclose(seen[..., 0], source - 0.5, atol=0.6)
    assert abs(float((seen[..., 0] - (source - 0.5)).mean())) < 0.05


def test_paint_mixes_by_coverage() -> None:
    picture = np.zeros((20, 20, 3), np.float32)
    patch = quadrilateral(np.array([(5.0, 5), (10.5, 5), (10.5, 8), (5, 8)]), 20, 20, 2).covering()
    paint(picture, patch, (100, 50, 10), 0.5)
    np.testing.assert_allclose(picture[6, 7], (50, 25, 5))
    np.testing.assert_allclose(picture[6, 10], (25, 12.5, 2.5))
    assert picture[6, 12].sum() == 0
