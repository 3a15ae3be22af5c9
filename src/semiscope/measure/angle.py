"""The rotation of a die against its package, in degrees, with its uncertainty.

Wong, *Die defect detection for integrated circuit* (2023), tells rotated dies by a detector's
class; here the angle is measured: points on the four edges to a fraction of a pixel, a robust line
through each, and the four directions combined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from semiscope.measure.edges import Line, Points, edge_points, fit_line, grey
from semiscope.types import Pixels

REACH = 0.06
"""How far an edge may lie from the rough corners' line, in parts of the mean side."""
_MOST_DEG = 25.0  # rotation that corners_in_box looks for
_T95 = {1: 12.706, 2: 4.303, 3: 3.182}  # Student's t, 95 %, by degrees of freedom


@dataclass(frozen=True, slots=True)
class Rotation:
    """A measured rotation.

    Attributes:
        angle_deg: Counter-clockwise, in (-45, 45].
        low: Lower end of the 95 % interval.
        high: Upper end.
        sides: How many of the die's four sides were measured.
        package_measured: Whether the package's own edges were measured; False: the crop's sides
            stand for them, and the interval does not hold their error.
    """

    angle_deg: float
    low: float
    high: float
    sides: int
    package_measured: bool


def measure_rotation(
    pixels_upright: Pixels,
    die_corners: ArrayLike,
    package_corners: ArrayLike | None = None,
    *,
    photo: Pixels | None = None,
    homography: NDArray[np.float64] | None = None,
) -> Rotation | None:
    """Measures a die's rotation against its package.

    Args:
        pixels_upright: The upright crop of the package, (H, W) or (H, W, 3).
        die_corners: (4, 2) rough corners of the die in the crop, px, clockwise on screen; from a
            mask, a label, or a detector's box through ``corners_in_box``. They may be off by some
            hundredths of a side.
        package_corners: (4, 2) rough corners of the package in the crop, px, from the top left
            clockwise; the crop's own corners when None.
        photo: The photograph that the crop was made of. Given, the edges are looked for in it,
            where the package's lie whole and nothing was interpolated, which is the more exact.
        homography: (3, 3) from the photograph's pixels to the crop's, needed with ``photo``.

    Returns:
        The rotation, or None when fewer than two sides of the die can be seen.

    Raises:
        ValueError: The corners are not four points, or ``photo`` comes without ``homography``.
    """
    if (photo is None) != (homography is None):
        raise ValueError("photo and homography belong together")
    height, width = pixels_upright.shape[:2]
    frame = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    die = _four(die_corners)
    package = frame if package_corners is None else _four(package_corners)
    to_upright = np.eye(3) if homography is None else np.asarray(homography, np.float64)
    image = grey(pixels_upright if photo is None else photo)
    die_lines = _sides(image, die, to_upright)
    seen = [line for line in _fit(die_lines, die) if line is not None]
    if len(seen) < 2:
        return None
    package_points = _sides(image, package, to_upright)
    package_lines = _fit(package_points, package)
    angle, variance = 0.0, 0.0
    measured = all(line is not None for line in package_lines)
    if measured:
        lines = [line for line in package_lines if line is not None]
        corners = np.array([lines[k - 1].meet(lines[k]) for k in range(4)])
        rectify = np.asarray(
            cv2.getPerspectiveTransform(
                corners.astype(np.float32), _rectangle(corners).astype(np.float32)
            ),
            np.float64,
        )
        die_lines = [_map(points, rectify) for points in die_lines]
        die = _map(die, rectify)
        variance = sum(line.sigma_rad**2 for line in lines) / 16
    sides = [(k, line) for k, line in enumerate(_fit(die_lines, die)) if line is not None]
    if len(sides) < 2:
        return None
    angles = np.array([_turn(line, k) for k, line in sides])
    # all within half a quarter turn of the first
    angles = angles[0] + (angles - angles[0] + np.pi / 4) % (np.pi / 2) - np.pi / 4
    angle, own, factor = _combine(angles, np.array([line.sigma_rad for _, line in sides]))
    degrees = float(np.degrees(angle))
    degrees -= 90 * np.ceil((degrees - 45) / 90)
    reach = float(np.degrees(np.sqrt((factor**2) * own + 1.96**2 * variance)))
    return Rotation(degrees, degrees - reach, degrees + reach, len(sides), measured)


def _four(corners: ArrayLike) -> Points:
    points = np.asarray(corners, dtype=np.float64)
    if points.shape != (4, 2) or not np.isfinite(points).all():
        raise ValueError(f"expected four corners (4, 2), found shape {points.shape}")
    return points


def _map(points: Points, homography: NDArray[np.float64]) -> Points:
    if not len(points):
        return points
    return np.asarray(cv2.perspectiveTransform(points.reshape(1, -1, 2), homography)[0])


def _sides(
    image: NDArray[np.float32], corners: Points, to_upright: NDArray[np.float64]
) -> list[Points]:
    """Points on the four edges, looked for in the image, told in the upright frame."""
    rough = _map(corners, np.asarray(np.linalg.inv(to_upright), np.float64))
    following = np.roll(rough, -1, axis=0)
    reach = REACH * float(np.hypot(*(following - rough).T).mean())
    # the place of a side that runs along the image's own border cannot be told
    room = np.minimum(rough, np.array(image.shape[::-1]) - rough).min(axis=1) - 1
    room = np.minimum(room, np.roll(room, -1))
    return [
        _map(edge_points(image, a, b, min(reach, r)), to_upright)
        for a, b, r in zip(rough, following, room, strict=True)
    ]


def _fit(sides: Sequence[Points], corners: Points) -> list[Line | None]:
    following = np.roll(corners, -1, axis=0)
    return [fit_line(p, a, b) for p, a, b in zip(sides, corners, following, strict=True)]


def _rectangle(corners: Points) -> Points:
    length = np.hypot(*(np.roll(corners, -1, axis=0) - corners).T)
    width, height = (length[0] + length[2]) / 2, (length[1] + length[3]) / 2
    return np.array([[0, 0], [width, 0], [width, height], [0, height]])


def _turn(line: Line, side: int) -> float:
    """Counter-clockwise rotation, rad, of the die that has this as its side number 0 to 3."""
    x, y = line.direction
    return float(-np.arctan2(y, x) + side * np.pi / 2)


def _combine(angles: NDArray[np.float64], sigma: NDArray[np.float64]) -> tuple[float, float, float]:
    """Weighted mean of the sides' angles, its variance, and the factor of a 95 % interval.

    Where the sides differ by more than their own errors explain, the excess counts as an error that
    every side has (DerSimonian and Laird's estimate), so that no side rules by a small scatter.
    """
    weight = 1 / sigma**2
    mean = (weight @ angles) / weight.sum()
    excess = float(weight @ (angles - mean) ** 2) - (len(angles) - 1)
    between = max(0.0, excess / (weight.sum() - (weight**2).sum() / weight.sum()))
    weight = 1 / (sigma**2 + between)
    mean = (weight @ angles) / weight.sum()
    return float(mean), float(1 / weight.sum()), 1.96
