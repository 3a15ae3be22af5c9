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
UPRIGHT_DEG = 0.15
"""Standard deviation of a crop's uprightness, degrees, where the package's edges are not seen."""
_MOST_DEG = 25.0  # rotation that corners_in_box looks for
_STEP_DEG = 0.5
_SLACK = 0.04  # of a side: by how much a detector's box may be off
_NORMAL95 = 1.96


@dataclass(frozen=True, slots=True)
class Rotation:
    """A measured rotation.

    Attributes:
        angle_deg: Counter-clockwise, in (-45, 45].
        low: Lower end of the 95 % interval.
        high: Upper end.
        sides: How many of the die's four sides were measured.
        package_measured: Whether the package's own edges were measured; False: the corners given
            stand for them, and the interval holds ``upright_deg`` as their error.
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
    upright_deg: float = UPRIGHT_DEG,
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
            where the package's lie whole and nothing was interpolated: the safer. A crop with a
            margin comes near to it; one without shows no edges of the package.
        homography: (3, 3) from the photograph's pixels to the crop's, needed with ``photo``.
        upright_deg: Standard deviation of the package corners' uprightness, degrees, for where its
            own edges cannot be measured.

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
    points = _sides(image, die, to_upright)
    package_lines = _fit(_sides(image, package, to_upright), package)
    lines = [line for line in package_lines if line is not None]
    variance = float(np.radians(upright_deg)) ** 2
    if len(lines) == 4:
        package = np.array([lines[k - 1].meet(lines[k]) for k in range(4)])
        variance = sum(line.sigma_rad**2 for line in lines) / 16
    rectify = _to_rectangle(package)
    points, die = [_map(p, rectify) for p in points], _map(die, rectify)
    sides = [(k, line) for k, line in enumerate(_fit(points, die)) if line is not None]
    if len(sides) < 2:
        return None
    angles = np.array([_turn(line, k) for k, line in sides])
    # all within half a quarter turn of the first
    angles = angles[0] + (angles - angles[0] + np.pi / 4) % (np.pi / 2) - np.pi / 4
    angle, own = _combine(angles, np.array([line.sigma_rad for _, line in sides]))
    degrees = float(np.degrees(angle))
    degrees -= 90 * float(np.ceil((degrees - 45) / 90))
    reach = _NORMAL95 * float(np.degrees(np.sqrt(own + variance)))
    return Rotation(degrees, degrees - reach, degrees + reach, len(sides), len(lines) == 4)


def corners_in_box(pixels: Pixels, box: ArrayLike) -> Points:
    """Rough corners of a die from a detector's box, which is upright while the die may not be.

    A rectangle that is turned within its box has one width and height for each angle; the angle is
    taken, to half a degree, at which the brightness changes most across the four sides.

    Args:
        pixels: The upright crop, (H, W) or (H, W, 3).
        box: (4,) xyxy px of the die.

    Returns:
        (4, 2) corners, px, clockwise from the top left; the box's own when nothing can be told.
    """
    left, top, right, bottom = (float(v) for v in np.asarray(box, dtype=np.float64))
    width, height, centre = right - left, bottom - top, ((left + right) / 2, (top + bottom) / 2)
    turns = np.radians(np.arange(-_MOST_DEG, _MOST_DEG + _STEP_DEG / 2, _STEP_DEG))
    cosine, sine = np.cos(turns), np.abs(np.sin(turns))
    own = np.stack([width * cosine - height * sine, height * cosine - width * sine], axis=1)
    own /= (cosine**2 - sine**2)[:, None]
    possible = (own > 0.2 * np.minimum(width, height)).all(axis=1)
    turns, own = turns[possible], own[possible]
    unit = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    flat = unit * own[:, None]
    c, s = np.cos(turns)[:, None], np.sin(turns)[:, None]
    x, y = flat[..., 0] * c + flat[..., 1] * s, flat[..., 1] * c - flat[..., 0] * s
    corners = np.stack([x, y], axis=-1) + centre
    if not len(corners) or min(width, height) < 4:
        return unit * (width, height) + centre
    smooth = cv2.GaussianBlur(grey(pixels), (0, 0), max(1.0, 0.01 * min(width, height)))
    slope = [np.asarray(cv2.Sobel(smooth, cv2.CV_32F, i, 1 - i, scale=0.125)) for i in (1, 0)]
    ends = np.roll(corners, -1, axis=1)
    along = (ends - corners) / np.hypot(*np.moveaxis(ends - corners, -1, 0))[..., None]
    across = np.stack([along[..., 1], -along[..., 0]], axis=-1)
    slack = _SLACK * min(width, height) * np.linspace(-1, 1, 9)
    place = np.linspace(0.12, 0.88, 48)
    # angle, side, offset, place, xy
    at = corners[:, :, None, None] + place[:, None] * (ends - corners)[:, :, None, None]
    at = at + slack[:, None, None] * across[:, :, None, None]
    flat_at = (at.reshape(-1, 48, 2) - 0.5).astype(np.float32)
    dx, dy = (
        cv2.remap(d, flat_at[..., 0], flat_at[..., 1], cv2.INTER_LINEAR).reshape(at.shape[:-1])
        for d in slope
    )
    change = dx * across[..., 0][:, :, None, None] + dy * across[..., 1][:, :, None, None]
    # a bond wire is brighter than any edge, and must not count for more
    limit = float(np.quantile(np.abs(change), 0.95)) + 1e-6
    votes = np.abs(np.clip(change, -limit, limit).sum(axis=3)).max(axis=2).sum(axis=1)
    best: Points = corners[int(np.argmax(votes))]
    return best


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


def _to_rectangle(corners: Points) -> NDArray[np.float64]:
    """The homography from a quadrilateral to the upright rectangle with its mean side lengths."""
    length = np.hypot(*(np.roll(corners, -1, axis=0) - corners).T)
    width, height = (length[0] + length[2]) / 2, (length[1] + length[3]) / 2
    target = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    return np.asarray(cv2.getPerspectiveTransform(corners.astype(np.float32), target), np.float64)


def _turn(line: Line, side: int) -> float:
    """Counter-clockwise rotation, rad, of the die that has this as its side number 0 to 3."""
    x, y = line.direction
    return float(-np.arctan2(y, x) + side * np.pi / 2)


def _combine(angles: NDArray[np.float64], sigma: NDArray[np.float64]) -> tuple[float, float]:
    """Mean of the sides' angles, weighted by their uncertainty, and its variance.

    Where the sides differ by more than their own errors explain, the excess counts as an error that
    every side has (DerSimonian and Laird's estimate), so that no side rules by a small scatter.
    """
    weight = 1 / sigma**2
    mean = (weight @ angles) / weight.sum()
    excess = float(weight @ (angles - mean) ** 2) - (len(angles) - 1)
    between = max(0.0, excess / (weight.sum() - (weight**2).sum() / weight.sum()))
    weight = 1 / (sigma**2 + between)
    return float((weight @ angles) / weight.sum()), float(1 / weight.sum())
