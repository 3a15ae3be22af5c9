"""Packages found by thresholds and contours, without a model.

Wong, *Die defect detection for integrated circuit* (2023), section 3.3.2.1: adaptive threshold by
the local mean, contours above an area, polygons that leave out scratches across the border, and the
rectangles among them. The paper's numbers (block 151, areas 35,000 and 100,000) are for its
photographs of 785 x 1295 px; here they are shares of the photograph's size and area. Photographs
are searched shrunk to at most 800 px, then the sides are refined at full size. Beyond the paper,
both the darker and the brighter side of the threshold are looked at, for dark fields; the corners
are where lines through the four sides cross instead of those of a rectangle; and the brightness
must change across the sides.
"""

from __future__ import annotations

import itertools

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from semiscope.capture.outline import outline_corners
from semiscope.capture.package import Candidate, Finder
from semiscope.capture.upright import Corners, order_corners
from semiscope.config import Settings
from semiscope.measure.edges import Line, edge_points, fit_line, grey
from semiscope.types import Pixels

_PASSES = ((1, False), (1, True), (3, True))
"""Times the threshold's constant, and whether what is narrow is cut off: fine and strong borders,
borders with leads, borders on a busy board."""
_LEAST_PX = 24  # of a photograph's smaller side: below, nothing can be told
_REFINE = 0.04  # of a side's length: how far the refined side may lie from the rough one
_CONTRAST = 3  # times the threshold's constant: what the border must change by
_LEAST_SIDE = 0.5  # share of each side along which it must
_FILLED = 0.7  # of its rectangle: what a contour's hull fills less of is not worth a closer look
_INSIDE = 0.8  # of a candidate's area within another: the die, or a lid, of the other


class ContourSettings(Settings):
    """How contours become packages."""

    most_px: int = Field(
        800, ge=200, le=4000, description="Longer side at which a photograph is searched, px"
    )
    block: float = Field(
        151 / 1295, gt=0, le=1, description="Block of the threshold, share of the longer side"
    )
    constant: float = Field(
        3.0, ge=0, lt=255, description="Difference to the block's mean, of 255 levels"
    )
    narrow: float = Field(
        0.015, ge=0, le=0.2, description="What is narrower is cut off, share of the longer side"
    )
    min_area: float = Field(
        35_000 / (785 * 1295), gt=0, lt=1, description="Least contour, share of the photograph"
    )
    min_rectangle: float = Field(
        100_000 / (785 * 1295), gt=0, lt=1, description="Least rectangle, share of the photograph"
    )
    epsilon: float = Field(
        0.01, gt=0, lt=0.2, description="Tolerance of the polygon, share of its length"
    )
    min_score: float = Field(
        0.6, ge=0, le=1, description="Overlap of contour and quadrilateral times border in sight"
    )


def contour_finder(settings: ContourSettings = ContourSettings()) -> Finder:  # noqa: B008
    """The finder that needs no model."""

    def find(pixels: Pixels) -> list[Candidate]:
        return find_contours(pixels, settings)

    return find


def find_contours(pixels: Pixels, settings: ContourSettings) -> list[Candidate]:
    """The packages that contours show, best first.

    Args:
        pixels: (H, W) or (H, W, 3), any depth.
        settings: How.
    """
    height, width = pixels.shape[:2]
    if min(height, width) < _LEAST_PX:
        return []
    scale = min(1.0, settings.most_px / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = pixels
    if scale < 1:
        small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    # the shrunk size is whole pixels, so that each axis has its own scale
    back = np.array([width / size[0], height / size[1]])
    levels = _to_levels(grey(small))
    found = [] if levels is None else _search(levels, settings)
    if not found:
        return []
    full = grey(pixels)
    return [
        Candidate(refine(full, rough * back, sign), score, "contour")
        for rough, score, sign in _distinct(found)
    ]


def _to_levels(image: NDArray[np.float32]) -> NDArray[np.uint8] | None:
    """8 bits over the range that the image uses, without its noise; None when it is even."""
    smooth = cv2.GaussianBlur(image, (0, 0), max(0.8, max(image.shape) / 500))
    low, high = np.percentile(smooth, (0.5, 99.5))
    if high <= low:
        return None
    stretched = np.asarray((smooth - low) * (255 / (high - low)))
    return stretched.clip(0, 255).astype(np.uint8)


def _search(
    levels: NDArray[np.uint8], settings: ContourSettings
) -> list[tuple[Corners, float, int]]:
    """Rough corners, score and sign (see ``_support``) of what may be packages, from 8 bits."""
    block = max(3, round(settings.block * max(levels.shape)) | 1)
    # what is narrower connects a package to the board: leads, traces, scratches
    narrow = round(settings.narrow * max(levels.shape)) | 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (narrow, narrow))
    results = []
    for (factor, cut), dark in itertools.product(_PASSES, (True, False)):
        constant = factor * settings.constant
        marked = cv2.adaptiveThreshold(
            levels,
            255,
            cv2.ADAPTIVE_THRESH_MEAN_C,
            cv2.THRESH_BINARY_INV if dark else cv2.THRESH_BINARY,
            block,
            constant if dark else -constant,
        )
        if cut:
            marked = cv2.morphologyEx(marked, cv2.MORPH_OPEN, kernel)
            # leads cross the border and part it
            marked = cv2.morphologyEx(marked, cv2.MORPH_CLOSE, kernel, iterations=2)
        rings, _ = cv2.findContours(marked, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        for ring in rings:
            found = _quadrilateral(np.asarray(ring, np.int32), levels.shape, settings)
            if found is None:
                continue
            corners, overlap = found
            support, sign = _support(levels, corners, _CONTRAST * settings.constant)
            if overlap * support >= settings.min_score:
                results.append((corners, overlap * support, sign))
    return results


def _quadrilateral(
    ring: NDArray[np.int32], shape: tuple[int, ...], settings: ContourSettings
) -> tuple[Corners, float] | None:
    """Corners and score of a contour that may be a package; None for all others."""
    image_area = shape[0] * shape[1]
    if cv2.contourArea(ring) < settings.min_area * image_area:
        return None
    polygon = cv2.approxPolyDP(ring, settings.epsilon * cv2.arcLength(ring, True), True)
    _, (w, h), _ = cv2.minAreaRect(polygon)
    if w * h < settings.min_rectangle * image_area or len(polygon) < 4:
        return None
    if cv2.contourArea(cv2.convexHull(polygon)) < _FILLED * w * h:
        return None
    corners = outline_corners(ring, shape)
    if corners is None:
        # a border with a gap encloses nothing, but its hull does
        corners = outline_corners(_hull(ring, shape), shape)
    if corners is None:
        return None
    inside = cv2.contourArea(cv2.convexHull(ring))
    inside /= max(1.0, cv2.contourArea(corners.astype(np.float32)))
    return corners, float(min(inside, 1 / inside))


def _hull(ring: NDArray[np.int32], shape: tuple[int, ...]) -> NDArray[np.int32]:
    """All border pixels of a contour's convex hull."""
    filled = np.zeros(shape[:2], np.uint8)
    cv2.fillConvexPoly(filled, cv2.convexHull(ring), 1)
    rings, _ = cv2.findContours(filled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(rings[0], np.int32)


def _support(levels: NDArray[np.uint8], corners: Corners, least: float) -> tuple[float, int]:
    """Share of a quadrilateral's border at which the brightness changes, all to the same side.

    The threshold's block leaves a second outline, half a block away, at which nothing changes.

    Returns:
        The share, and 1 where the outside is the brighter, -1 where it is the darker.
    """
    ends = np.roll(corners, -1, axis=0)
    place = np.linspace(0.1, 0.9, 40)[:, None, None]
    on = (corners + place * (ends - corners)).reshape(-1, 2)
    # outwards from the middle is near enough to across
    out = on - corners.mean(axis=0)
    step = 0.75 * _REFINE * out
    inner, outer = on - step, on + step
    size = levels.shape[::-1]
    seen = ((outer >= 0) & (outer < size)).all(axis=1).reshape(40, 4)
    values = [
        cv2.remap(levels, *_grid(p), cv2.INTER_LINEAR).astype(np.float64).reshape(40, 4)
        for p in (outer, inner)
    ]
    change = values[0] - values[1]
    sign = 1 if (seen & (change > 0)).sum() >= (seen & (change < 0)).sum() else -1
    # beyond the photograph's border nothing speaks against a side, nor for it
    if np.count_nonzero(seen.mean(axis=0) > _LEAST_SIDE) < 2:
        return 0.0, sign
    sides = ((sign * change > least) | ~seen).mean(axis=0)
    return float(sides.mean()) if sides.min() >= _LEAST_SIDE else 0.0, sign


def _grid(points: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    x, y = (points - 0.5).astype(np.float32).T[:, :, None]
    return x, y


def refine(image: NDArray[np.float32], rough: Corners, sign: int | None = None) -> Corners:
    """Corners that are exact to a fraction of a pixel, from rough ones.

    Args:
        image: (H, W) float32 at full size.
        rough: (4, 2) px, clockwise on screen from the top left.
        sign: 1 where the outside is the brighter, -1 where it is the darker; None for either.

    Returns:
        (4, 2) corners: the crossings of lines through the edges near the rough sides. A side with
        no clear edge keeps its rough line.
    """
    sides: list[Line] = []
    room = np.minimum(rough, np.array(image.shape[::-1]) - rough).min(axis=1)
    room = np.maximum(room, np.roll(room, -1))
    for start, end, space in zip(rough, np.roll(rough, -1, axis=0), room, strict=True):
        length = float(np.hypot(*(end - start)))
        reach = max(4.0, _REFINE * length)
        line = fit_line(edge_points(image, start, end, reach, sign), start, end)
        direction = (end - start) / length
        # where the photograph's border cuts a package off there is no edge to be found
        if space < 2 or line is None or line.share < 0.5 or line.sigma_rad > reach / length:
            line = Line((start + end) / 2, direction, 0.0, 0.0, 0.0)
        sides.append(line)
    corners = np.array([sides[k - 1].meet(sides[k]) for k in range(4)])
    try:
        return order_corners(corners)
    except ValueError:
        return rough


def _distinct(found: list[tuple[Corners, float, int]]) -> list[tuple[Corners, float, int]]:
    """Without those that lie in another one, the largest first; then by score."""
    flat = [corners.astype(np.float32) for corners, _, _ in found]
    area = [cv2.contourArea(corners) for corners in flat]
    kept: list[int] = []
    for i in sorted(range(len(found)), key=lambda i: -area[i]):
        shared = [cv2.intersectConvexConvex(flat[i], flat[k])[0] for k in kept]
        if all(s <= _INSIDE * area[i] for s in shared):
            kept.append(i)
    return sorted((found[i] for i in kept), key=lambda one: -one[1])
