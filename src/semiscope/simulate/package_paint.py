"""Painting shapes of exact geometry onto a photograph, with the share of each pixel they cover.

A shape is given in pixels of the photograph ((0, 0) the outer corner of the top left pixel) and
painted inside a window, so that small things cost little. What is painted and what is truth come
from the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from semiscope.geometry import rasterise
from semiscope.simulate.line_space import FloatArray
from semiscope.types import Polygons

Points = NDArray[np.float64]

SUBPIXELS = 8
# so many values of a stroke's segments at once: a matter of memory and speed
STROKE_VALUES = 200_000


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """A part of the photograph.

    Attributes:
        top: First row.
        left: First column.
        value: (h, w) float32: coverage from 0 to 1, or depth in pixels, positive inside.
    """

    top: int
    left: int
    value: FloatArray

    @property
    def slices(self) -> tuple[slice, slice]:
        """For indexing an array of the whole photograph."""
        height, width = self.value.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    def covering(self) -> Patch:
        """The share of each pixel that lies inside, from depths."""
        return Patch(self.top, self.left, np.clip(self.value + np.float32(0.5), 0, 1))


def moved(homography: Points, points: ArrayLike) -> Points:
    """Points (k, 2) through a homography (3, 3)."""
    plane = np.asarray(points, dtype=np.float64) @ homography[:, :2].T + homography[:, 2]
    return np.asarray(plane[:, :2] / plane[:, 2:])


def window(points: Points, margin: float, height: int, width: int) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of the window around points, cut to the photograph."""
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return (
        min(max(math.floor(top - margin), 0), height),
        min(max(math.ceil(bottom + margin), 0), height),
        min(max(math.floor(left - margin), 0), width),
        min(max(math.ceil(right + margin), 0), width),
    )


def stroke(points: Points, half: ArrayLike, height: int, width: int, margin: float = 2.0) -> Patch:
    """The depth of each pixel's centre inside a line of changing width.

    Args:
        points: (k, 2) px, k >= 2.
        half: Half the width at each point, or everywhere, px.
        height: Rows of the photograph.
        width: Its columns.
        margin: Pixels of the window beyond the line.
    """
    halves = np.broadcast_to(np.asarray(half, np.float32), (len(points),))[:, None, None]
    top, bottom, left, right = window(points, float(halves.max()) + margin, height, width)
    x = (np.arange(left, right) + 0.5).astype(np.float32)[None, None]
    y = (np.arange(top, bottom) + 0.5).astype(np.float32)[None, :, None]
    ends = points.astype(np.float32)[:, :, None, None]
    depth = np.full((bottom - top, right - left), -np.inf, np.float32)
    at_once = max(1, STROKE_VALUES // max(1, depth.size))
    for first in range(0, len(points) - 1, at_once):
        a, b = ends[first:-1][:at_once], ends[first + 1 :][:at_once]
        start, end = halves[first:-1][:at_once], halves[first + 1 :][:at_once]
        dx, dy = b[:, 0] - a[:, 0], b[:, 1] - a[:, 1]
        px, py = x - a[:, 0], y - a[:, 1]
        along = (px * dx + py * dy) / (dx * dx + dy * dy + np.float32(1e-9))
        np.maximum(along, 0, out=along)
        np.minimum(along, 1, out=along)
        px, py = px - along * dx, py - along * dy
        inside = start + along * (end - start) - np.sqrt(px * px + py * py)
        np.maximum(depth, inside.max(axis=0), out=depth)
    return Patch(top, left, depth)


def quadrilateral(corners: Points, height: int, width: int, margin: float) -> Patch:
    """The depth of each pixel's centre inside a convex quadrilateral, clockwise on the screen.

    Outside near a corner it is the distance to the nearer side's line.
    """
    top, bottom, left, right = window(corners, margin, height, width)
    x = (np.arange(left, right) + 0.5).astype(np.float32)[None]
    y = (np.arange(top, bottom) + 0.5).astype(np.float32)[:, None]
    depth = np.full((bottom - top, right - left), np.inf, np.float32)
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        along = (b - a) / np.hypot(*(b - a))
        normal = (-along[1], along[0])
        offset = -(normal[0] * a[0] + normal[1] * a[1])
        line = x * np.float32(normal[0]) + (y * np.float32(normal[1]) + np.float32(offset))
        np.minimum(depth, line, out=depth)
    return Patch(top, left, depth)


def polygon(ring: Points, height: int, width: int) -> Patch:
    """The share of each pixel that any simple polygon covers, to 1 part in SUBPIXELS²."""
    top, bottom, left, right = window(ring, 1, height, width)
    rows, columns = bottom - top, right - left
    fine = np.zeros((rows * SUBPIXELS, columns * SUBPIXELS), np.float32)
    inside = rasterise(Polygons(((ring - (left, top)) * SUBPIXELS,)), *fine.shape)
    h, w = inside.bits.shape
    fine[inside.y : inside.y + h, inside.x : inside.x + w] = inside.bits
    if not fine.size:
        return Patch(top, left, np.zeros((rows, columns), np.float32))
    return Patch(
        top, left, np.asarray(cv2.resize(fine, (columns, rows), interpolation=cv2.INTER_AREA))
    )


def paint(
    picture: FloatArray, patch: Patch, colour: ArrayLike, strength: float | FloatArray = 1.0
) -> None:
    """Lays a colour (3,), or (h, w, 3), over a (H, W, 3) picture where a patch covers it."""
    part = picture[patch.slices]
    share = (patch.value * np.asarray(strength, np.float32))[..., None]
    part += share * (np.asarray(colour, np.float32) - part)


def shade(picture: FloatArray, patch: Patch, factor: float) -> None:
    """Multiplies a (H, W, 3) picture by a factor where a patch covers it."""
    picture[patch.slices] *= (1 + patch.value * np.float32(factor - 1))[..., None]


def warp(
    texture: NDArray[np.uint8], to_photo: Points, area: tuple[int, int, int, int]
) -> FloatArray:
    """A texture as a window of the photograph shows it.

    Args:
        texture: (h, w, 3) uint8.
        to_photo: (3, 3) from the texture's pixels to the photograph's, outer corners at 0.
        area: Top, bottom, left, right of the window.

    Returns:
        (bottom - top, right - left, 3) float32, 0 to 255; the texture's border goes on outside.
    """
    top, bottom, left, right = area
    # OpenCV counts from the centre of the first pixel
    matrix = _shift(-left - 0.5, -top - 0.5) @ to_photo @ _shift(0.5, 0.5)
    seen = cv2.warpPerspective(
        texture,
        matrix,
        (right - left, bottom - top),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(seen, np.float32)


def _shift(x: float, y: float) -> Points:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def clouds(
    rng: np.random.Generator, cells: int, height: int, width: int, deviation: float
) -> FloatArray:
    """A smooth random field about 0."""
    coarse = rng.standard_normal((cells, cells), dtype=np.float32) * np.float32(deviation)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def curve(points: Sequence[ArrayLike], count: int) -> Points:
    """(count, 2) points of the quadratic Bézier curve with three control points."""
    a, b, c = (np.asarray(p, np.float64) for p in points)
    t = np.linspace(0, 1, count)[:, None]
    return np.asarray((1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c)
