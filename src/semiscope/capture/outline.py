"""The four corners of the package that a mask shows, whatever the mask's border looks like.

Masks of networks have zig-zag borders and overflow onto what lies beside the package (Wong 2023,
section 4.1); corners of the mask itself would be wrong by that much. Here each side is a line
through that part of the border which runs straight, and the corners are where the lines cross.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from semiscope.capture.upright import Corners, order_corners
from semiscope.measure.edges import Line, Points, fit_line

_LEAST_PX = 64  # pixels of a mask whose sides can be told
_TANGENT = 40  # the border's direction is taken over this part of its length
_FAN_DEG = 20.0  # how far a side's border may turn from it, perspective included
_BAND = 0.015  # of the mask's size: points as near to a side as this are its own


def mask_corners(mask: NDArray[np.bool_], min_iou: float = 0.85) -> Corners | None:
    """The best quadrilateral of a mask.

    Args:
        mask: (H, W) bool. Its largest connected part counts, holes filled.
        min_iou: Overlap of quadrilateral and mask below which the mask is none. A disc has 0.79.

    Returns:
        (4, 2) float64 corners, px, clockwise on screen from the top left, exact to a fraction of a
        pixel; None when the mask is no quadrilateral. Where the image's border cuts a corner off
        they lie outside of it; where it cuts a side off, that side lies on it.
    """
    grey = np.ascontiguousarray(mask).astype(np.uint8)
    rings, _ = cv2.findContours(grey, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not rings:
        return None
    largest = int(np.argmax([cv2.contourArea(ring) for ring in rings]))
    return outline_corners(np.asarray(rings[largest], np.int32), mask.shape, min_iou)


def outline_corners(
    ring: NDArray[np.int32], shape: tuple[int, ...], min_iou: float = 0.85
) -> Corners | None:
    """The same from a contour as OpenCV gives it.

    Args:
        ring: (k, 1, 2) columns and rows of all pixels of the border.
        shape: Of the image, (height, width).
        min_iou: See ``mask_corners``.
    """
    area = cv2.contourArea(ring)
    if area < _LEAST_PX:
        return None
    border = ring[:, 0].astype(np.float64) + 0.5
    # along the image's border a mask is cut: no side of it, if there is another
    height, width = shape[:2]
    inside = (ring[:, 0] > 0) & (ring[:, 0] < (width - 1, height - 1))
    own = inside[:, 0] & inside[:, 1]
    step = max(2, len(border) // (2 * _TANGENT))
    tangent = np.roll(border, -step, axis=0) - np.roll(border, step, axis=0)
    if cv2.contourArea(ring, oriented=True) < 0:
        tangent = -tangent
    # clockwise on screen the outside is at the left hand
    outward = np.arctan2(-tangent[:, 0], tangent[:, 1])
    main = _main_direction(outward[own])
    sides = []
    for quarter in range(4):
        facing, size = main + quarter * np.pi / 2, float(np.sqrt(area))
        line = _side(border[own], outward[own], facing, size) or _side(
            border, outward, facing, size
        )
        if line is None:
            return None
        sides.append(line)
    corners = np.array([sides[k - 1].meet(sides[k]) for k in range(4)])
    try:
        corners = order_corners(corners)
    except ValueError:
        return None
    return corners if _iou(corners, ring, shape) >= min_iou else None


def _main_direction(outward: NDArray[np.float64]) -> float:
    """The direction, rad, that most of the border faces, to a quarter turn."""
    counts, _ = np.histogram(outward % (np.pi / 2), bins=90, range=(0, np.pi / 2))
    around = sum(np.roll(counts, shift) * (4 - abs(shift)) for shift in range(-3, 4))
    return float((np.argmax(around) + 0.5) / 90 * np.pi / 2)


def _side(
    border: Points,
    outward: NDArray[np.float64],
    facing: float,
    size: float,
) -> Line | None:
    """The line along which the border faces one way, on the border of its pixels."""
    away = np.abs((outward - facing + np.pi) % (2 * np.pi) - np.pi)
    points = border[away < np.radians(_FAN_DEG)]
    normal = np.array([np.cos(facing), np.sin(facing)])
    along = np.array([-normal[1], normal[0]])
    if len(points) < 8:
        return None
    points = points[np.argsort(points @ along, kind="stable")]
    start, end = points[0], points[0] + along * size
    line = _most_common(points, along, normal, size)
    for _ in range(2):
        if line is None:
            return None
        centre, direction = line.centre, line.direction
        off = (points - centre) @ np.array([-direction[1], direction[0]])
        line = fit_line(points[np.abs(off) < max(2.0, _BAND * size)], start, end)
    if line is None:
        return None
    # pixel centres on the border lie inside of it, by half a pixel of the axis that it crosses
    half = 0.5 * np.abs(normal).max()
    return Line(line.centre + half * normal, line.direction, line.sigma_rad, line.scatter, 1.0)


def _most_common(points: Points, along: Points, normal: Points, size: float) -> Line | None:
    """The line with most of the points beside it, whatever the others do (overflow, a notch)."""
    s, t = points @ along, points @ normal
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, len(points), (2, 400))
    apart = np.abs(s[first] - s[second]) > 0.2 * size
    if not apart.any():
        return None
    first, second = first[apart], second[apart]
    slopes = (t[second] - t[first]) / (s[second] - s[first])
    few = np.linspace(0, len(points) - 1, min(len(points), 200)).astype(int)
    errors = np.abs(t[few] - (t[first, None] + slopes[:, None] * (s[few] - s[first, None])))
    near = max(1.0, _BAND / 3 * size)
    best = int(np.argmax(np.clip(1 - (errors / near) ** 2, 0, None).sum(axis=1)))
    direction = along + slopes[best] * normal
    return Line(points[first[best]], direction / np.hypot(*direction), 0.0, 0.0, 1.0)


def _iou(corners: Corners, ring: NDArray[np.int32], shape: tuple[int, ...]) -> float:
    """Overlap, within the image, of a quadrilateral and a contour's inside."""
    x, y, w, h = cv2.boundingRect(ring)
    low = np.clip(np.floor(corners.min(axis=0)), 0, None)
    left, top = np.minimum(low, (x, y)).astype(int)
    far = np.maximum(np.ceil(corners.max(axis=0)), (x + w, y + h))
    right, bottom = np.minimum(far, (shape[1], shape[0])).astype(int)
    if right <= left or bottom <= top:
        return 0.0
    first, second = np.zeros((2, bottom - top, right - left), np.uint8)
    cv2.fillPoly(first, [ring - np.array([left, top], np.int32)], 1)
    fixed = np.round((corners - (left, top) - 0.5) * 256)
    # far outside, as of lines that hardly cross, OpenCV's numbers would overflow
    cv2.fillPoly(second, [np.clip(fixed, -(2**30), 2**30).astype(np.int32)], 1, shift=8)
    either = int(np.count_nonzero(first | second))
    return int(np.count_nonzero(first & second)) / max(1, either)
