"""A package made upright by a homography, and labels taken into the upright crop and out of it.

Wong, *Die defect detection for integrated circuit* (2023), section 3.3.2.1: the four corners are
put in the order top-left, top-right, bottom-right, bottom-left, the lengths of the sides give the
crop's size, and a perspective transform takes the corners to those of the crop.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from semiscope.geometry import crop, shape_box
from semiscope.types import Annotations, Mask, Pixels, Polygons, Shape

Corners = NDArray[np.float64]
Homography = NDArray[np.float64]

# a photograph of a tilted board can be enlarged by no more than its own size tells
_MOST_PX = 16384
_LEAST_AREA = 1e-3  # px²


@dataclass(frozen=True, slots=True, eq=False)
class Upright:
    """A package made upright.

    Attributes:
        pixels: The crop, of the photograph's dtype.
        homography: (3, 3) float64 from the photograph's pixels to the crop's.
        angle_deg: Of the package in the photograph, counter-clockwise, in (-180, 180].
    """

    pixels: Pixels
    homography: Homography
    angle_deg: float


def order_corners(points: ArrayLike) -> Corners:
    """Four corners clockwise on screen from the top left.

    The top side is the one that a turn of at most 45 degrees makes horizontal, so that corners keep
    their names while a package turns; at exactly 45 degrees the turn is counter-clockwise.

    Args:
        points: (4, 2) corners of a convex quadrilateral, in any order, px.

    Returns:
        (4, 2) float64.

    Raises:
        ValueError: There are not four finite points, or they span no convex quadrilateral.
    """
    corners = np.asarray(points, dtype=np.float64)
    if corners.shape != (4, 2) or not np.isfinite(corners).all():
        raise ValueError(f"expected four corners (4, 2) that are finite, found {corners.tolist()}")
    about = corners - corners.mean(axis=0)
    corners = corners[np.argsort(np.arctan2(about[:, 1], about[:, 0]), kind="stable")]
    sides = np.roll(corners, -1, axis=0) - corners
    following = np.roll(sides, -1, axis=0)
    if (sides[:, 0] * following[:, 1] - sides[:, 1] * following[:, 0] <= 0).any():
        raise ValueError(
            f"expected the corners of a convex quadrilateral, found {corners.tolist()}"
        )
    turn = _turn(corners)
    # each step to the next corner as the first turns the package by a quarter, counter-clockwise
    quarters = -int(np.ceil(np.round((turn - 45) / 90, 9)))
    return np.roll(corners, quarters, axis=0)


def package_angle(corners: ArrayLike) -> float:
    """Counter-clockwise angle of a package in a photograph, degrees in (-180, 180].

    Args:
        corners: (4, 2) px in the order of its own upright view. Counter-clockwise corners are of a
            package that is mirrored, left to right; the angle is then that of its mirror image.
    """
    ordered = np.asarray(corners, dtype=np.float64)
    (a, b), (c, d) = ordered[2] - ordered[0], ordered[3] - ordered[1]
    return _turn(ordered if a * d - b * c > 0 else ordered[[1, 0, 3, 2]])


def _turn(corners: Corners) -> float:
    """The mean direction of the four sides, each turned back by its number of quarters."""
    sides = np.roll(corners, -1, axis=0) - corners
    unit = sides / np.hypot(*sides.T)[:, None]
    (a, b), (c, d), (e, f), (g, h) = unit
    degrees = float(np.degrees(np.arctan2(-(b - c - f + g), a + d - e - h)))
    return 180.0 if degrees <= -180 else degrees


def crop_size(corners: ArrayLike) -> tuple[int, int]:
    """(height, width) px of a crop that keeps the scale: the mean lengths of opposite sides."""
    ordered = np.asarray(corners, dtype=np.float64)
    top, right, bottom, left = np.hypot(*(np.roll(ordered, -1, axis=0) - ordered).T)
    height, width = (left + right) / 2, (top + bottom) / 2
    return int(np.clip(round(height), 1, _MOST_PX)), int(np.clip(round(width), 1, _MOST_PX))


def make_upright(
    pixels: Pixels, corners: ArrayLike, size: tuple[int, int] | None = None, margin: float = 0.0
) -> Upright:
    """The upright crop of a package.

    Args:
        pixels: The photograph, (H, W) or (H, W, 3), any depth.
        corners: (4, 2) of the package, px, in the order of its own upright view. A package that is
            mirrored in the photograph has them counter-clockwise and comes out unmirrored.
        size: (height, width) of the crop, px; the lengths of the sides when None.
        margin: What is shown around the package on each side, share of its width and height.

    Returns:
        The crop. What lies outside of the photograph is black.

    Raises:
        ValueError: The corners are not four finite points, or three of them lie on a line.
    """
    quadrilateral = np.asarray(corners, dtype=np.float64)
    if quadrilateral.shape != (4, 2) or not np.isfinite(quadrilateral).all():
        raise ValueError(f"expected four finite corners (4, 2), found {quadrilateral.tolist()}")
    own = crop_size(quadrilateral)
    full = tuple(max(1, round(side * (1 + 2 * margin))) for side in own)
    frame = _frame(full[0], full[1], margin)
    homography = _homography(quadrilateral, frame)
    upright = warp(pixels, homography, full[0], full[1])
    if size is not None and size != full:
        # shrinking by averaging, which a warp does not do
        smaller = size[0] <= full[0] and size[1] <= full[1]
        how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        upright = cv2.resize(upright, size[::-1], interpolation=how)  # type: ignore[assignment]
        homography = np.diag([size[1] / full[1], size[0] / full[0], 1.0]) @ homography
    return Upright(upright, homography, package_angle(quadrilateral))


def _frame(height: int, width: int, margin: float) -> Corners:
    """Where the package's corners lie in its crop."""
    left, top = margin / (1 + 2 * margin) * width, margin / (1 + 2 * margin) * height
    right, bottom = width - left, height - top
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def _homography(source: Corners, target: Corners) -> Homography:
    """The homography that takes four points to four points, in float64."""
    rows = []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y])
        rows.append([0, 0, 0, x, y, 1, -v * x, -v * y])
    try:
        solved = np.linalg.solve(np.array(rows), target.ravel())
    except np.linalg.LinAlgError:
        raise ValueError(f"three of the corners {source.tolist()} lie on a line") from None
    return np.append(solved, 1.0).reshape(3, 3)


def warp(pixels: Pixels, homography: Homography, height: int, width: int) -> Pixels:
    """An image as a homography shows it, interpolated linearly, the dtype kept.

    Args:
        pixels: (H, W) or (H, W, 3).
        homography: (3, 3) from its pixels to the result's; (0, 0) is a pixel's outer corner.
        height: Of the result, px.
        width: Of the result, px.
    """
    return cv2.warpPerspective(  # type: ignore[return-value]
        pixels, _centred(homography), (width, height), flags=cv2.INTER_LINEAR
    )


def _centred(homography: Homography) -> Homography:
    """The same homography for OpenCV, which counts from the centre of the first pixel."""
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    centred: Homography = np.linalg.inv(half) @ homography @ half
    return centred


def transform_points(points: ArrayLike, homography: Homography) -> NDArray[np.float64]:
    """(n, 2) points taken through a homography (3, 3)."""
    xy = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    moved = np.column_stack([xy, np.ones(len(xy))]) @ homography.T
    result: NDArray[np.float64] = moved[:, :2] / moved[:, 2:]
    return result


def transform_annotations(
    found: Annotations,
    homography: Homography,
    height: int,
    width: int,
    *,
    turn_angles: bool = True,
) -> Annotations:
    """Instances taken through a homography: into a crop, or out of it by the inverse.

    Outlines and masks are cut at the image's border and boxes become those of the cut shapes; an
    instance without a shape gets the box around its box's four corners, which is larger than the
    instance where the homography turns. What lies wholly outside is left out.

    Args:
        found: Instances of one image.
        homography: (3, 3) from its pixels to the result's.
        height: Of the result's image, px.
        width: Of the result's image, px.
        turn_angles: Angles are in the image and turn with it; False leaves them, for angles against
            what turns likewise, as a die's against its package.
    """
    boxes, shapes, angles, kept = [], [], [], []
    for i, box in enumerate(found.xyxy.astype(np.float64)):
        shape = None if found.shapes is None else found.shapes[i]
        left, top, right, bottom = box
        corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
        whole = shape if shape is not None else Polygons((corners,))
        moved = _transform_shape(whole, homography, height, width)
        around = shape_box(moved)
        if (around[2:] <= around[:2]).any():
            continue
        kept.append(i)
        boxes.append(around)
        shapes.append(moved if shape is not None else None)
        if found.angle_deg is not None:
            angle = float(found.angle_deg[i])
            centre = corners.mean(axis=0)
            angles.append(_local_turn(centre, angle, homography) if turn_angles else angle)
    if not kept:
        return Annotations.empty()
    return Annotations(
        np.array(boxes, np.float32),
        found.class_id[kept],
        found.score[kept],
        None if found.shapes is None else tuple(shapes),
        None if found.angle_deg is None else np.array(angles, np.float32),
    )


def _transform_shape(shape: Shape, homography: Homography, height: int, width: int) -> Shape:
    if isinstance(shape, Polygons):
        moved = (transform_points(ring, homography) for ring in shape.rings)
        rings = tuple(_clip(ring, height, width) for ring in moved)
        return Polygons(tuple(ring for ring in rings if _area(ring) > _LEAST_AREA))
    h, w = shape.bits.shape
    if not shape.bits.any():
        return Mask(0, 0, np.zeros((0, 0), bool))
    box = np.array([[0, 0], [w, 0], [w, h], [0, h]]) + (shape.x, shape.y)
    reach = transform_points(box, homography)
    low = np.clip(np.floor(reach.min(axis=0)), 0, (width, height)).astype(int)
    high = np.clip(np.ceil(reach.max(axis=0)), 0, (width, height)).astype(int)
    if (high <= low).any():
        return Mask(0, 0, np.zeros((0, 0), bool))
    there = np.array([[1, 0, -low[0]], [0, 1, -low[1]], [0, 0, 1]]) @ homography
    here = np.array([[1, 0, shape.x], [0, 1, shape.y], [0, 0, 1]])
    grey = shape.bits.astype(np.uint8) * np.uint8(255)
    part = warp(grey, there @ here, int(high[1] - low[1]), int(high[0] - low[0])) > 127
    tight = crop(part)
    return Mask(tight.x + int(low[0]), tight.y + int(low[1]), tight.bits)


def _clip(ring: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """A ring cut to the image, side by side (Sutherland and Hodgman)."""
    for axis, sign, limit in ((0, 1, 0), (0, -1, -width), (1, 1, 0), (1, -1, -height)):
        if not len(ring):
            break
        inner = sign * ring[:, axis] - limit
        if (inner >= 0).all():
            continue
        points = []
        for a, b, p, q in zip(
            ring, np.roll(ring, -1, axis=0), inner, np.roll(inner, -1), strict=True
        ):
            if p >= 0:
                points.append(a)
            if (p >= 0) != (q >= 0):
                points.append(a + (b - a) * (p / (p - q)))
        ring = np.array(points).reshape(-1, 2)
    return ring


def _area(ring: NDArray[np.float64]) -> float:
    if len(ring) < 3:
        return 0.0
    x, y = ring.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _local_turn(place: NDArray[np.float64], angle_deg: float, homography: Homography) -> float:
    """An angle at a place of the image as it is after the homography, in (-180, 180]."""
    angle = np.radians(angle_deg)
    step = 0.5 * np.array([np.cos(angle), -np.sin(angle)])
    before, after = transform_points([place - step, place + step], homography)
    x, y = after - before
    return float(np.degrees(np.arctan2(-y, x)))
