"""Straight edges in an image, to a fraction of a pixel, with their uncertainty.

An edge is looked for in a strip along a rough line: where the brightness changes across the strip,
at the same place in most of its length. What crosses the edge or lies across a part of it (a bond
wire, a crack, a chip) gives points off the line, which the fit leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from semiscope.types import Pixels

Points = NDArray[np.float64]

TRIM = 0.08
"""Part of a side at either end that is left out: corners are round."""
_COLUMNS = 1024  # samples along a side at most
_BLOCKS = 96  # points along a side at most
_ROWS = 61  # places across the strip that the search of the line distinguishes
_TUKEY = 4.685  # 95 % efficient for normal errors
_LEAST_POINTS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """A straight line through points, and how well they know it.

    Attributes:
        centre: (2,) x and y of a point of it: the mean of the points that count.
        direction: (2,) unit vector.
        sigma_rad: Standard deviation of the direction, rad.
        scatter: Standard deviation of the points from it, px.
        share: Part of the points that count, 0 to 1.
    """

    centre: Points
    direction: Points
    sigma_rad: float
    scatter: float
    share: float

    def meet(self, other: Line) -> Points:
        """(2,) where two lines that are not parallel cross."""
        (a, b), (c, d) = self.direction, -other.direction
        along = np.linalg.solve([[a, c], [b, d]], other.centre - self.centre)[0]
        crossing: Points = self.centre + along * self.direction
        return crossing


def grey(pixels: Pixels) -> NDArray[np.float32]:
    """One channel, float32: colours weighted by how much each varies over the image.

    So a photograph under blue light is looked at in blue, and the border between a black package
    and a green board in green.
    """
    if pixels.ndim == 2:
        return pixels.astype(np.float32)
    deviation = cv2.meanStdDev(pixels)[1].ravel()
    weights = deviation / deviation.sum() if deviation.any() else np.full(3, 1 / 3)
    mixed: NDArray[np.float32] = pixels.astype(np.float32) @ weights.astype(np.float32)
    return mixed


def edge_points(
    image: NDArray[np.float32], start: Points, end: Points, reach: float, sign: int | None = None
) -> Points:
    """Points of the edge that runs along a rough line.

    Args:
        image: (H, W) float32.
        start: (2,) x and y of the rough line's first end, px.
        end: (2,) of its other end.
        reach: How far the edge may lie from the rough line, px.
        sign: 1 when the left hand side, seen from start to end, is the brighter, -1 when it is the
            darker, None for either.

    Returns:
        (k, 2) float64 in the order from start to end, k at most 96; none where there is no edge.
    """
    length = float(np.hypot(*(end - start)))
    if length < 2 * _LEAST_POINTS or reach < 2:
        return np.zeros((0, 2))
    along = (end - start) / length
    across = np.array([along[1], -along[0]])
    columns = min(_COLUMNS, int(length * (1 - 2 * TRIM)))
    place = np.linspace(TRIM, 1 - TRIM, columns)
    rows = np.arange(-np.ceil(reach) - 4, np.ceil(reach) + 5)
    base = start + place[:, None] * (end - start)
    grid = (base[None] + rows[:, None, None] * across - 0.5).astype(np.float32)
    strip = cv2.remap(
        image, grid[:, :, 0], grid[:, :, 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    found = _straightest(np.asarray(strip, np.float32), reach, (1, -1) if sign is None else (sign,))
    if found is None:
        return np.zeros((0, 2))
    first, last, sign = found
    # straightened along what was found, the strip shows the edge level, so that blocks of columns
    # can be averaged without blurring it
    lift = first + (last - first) * (place - TRIM) / (1 - 2 * TRIM)
    window = max(3.0, 0.75 * reach)
    level = np.arange(-np.ceil(2 * window), np.ceil(2 * window) + 1)
    # rows outside of the strip repeat its border and so show no edge
    y = (level[:, None] + lift[None] - rows[0]).astype(np.float32)
    x = np.broadcast_to(np.arange(columns, dtype=np.float32), y.shape)
    flat = cv2.remap(strip, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) * sign
    blocks = min(_BLOCKS, columns // 2)
    bounds = np.linspace(0, columns, blocks + 1).astype(int)
    counts = np.diff(bounds)
    profiles = np.add.reduceat(flat, bounds[:-1], axis=1) / counts
    middle = np.add.reduceat(place, bounds[:-1]) / counts
    height = np.add.reduceat(lift, bounds[:-1]) / counts
    offset, strength = _peaks(profiles, level, window)
    kept = np.isfinite(offset)
    if np.count_nonzero(kept) < _LEAST_POINTS:
        return np.zeros((0, 2))
    kept &= strength > 0.3 * np.median(strength[kept])
    t = height + offset
    points: Points = start + middle[:, None] * (end - start) + t[:, None] * across
    return points[kept]


def _straightest(
    strip: NDArray[np.float32], reach: float, signs: tuple[int, ...]
) -> tuple[float, float, int] | None:
    """The straight line on which the brightness changes most, from the strip's left to its right.

    Returns:
        Rows above the strip's middle at its left and right end, px, and 1 where the brightness
        rises with the row, -1 where it falls; None when the strip is even.
    """
    count, columns = strip.shape
    blocks = min(64, columns)
    bounds = np.linspace(0, columns, blocks + 1).astype(int)
    coarse = np.add.reduceat(strip, bounds[:-1], axis=1) / np.diff(bounds)
    step = max(1, int(np.ceil(2 * reach / (_ROWS - 1))))
    smooth = cv2.GaussianBlur(coarse.astype(np.float32), (1, 0), 1, sigmaY=max(1.0, 0.5 * step))
    slope = np.gradient(smooth, axis=0)
    limit = float(np.median(np.abs(slope).max(axis=0)))
    if limit <= 0:
        return None
    rows = np.arange(0, int(np.ceil(reach)) + 1, step)
    offsets = np.concatenate([-rows[:0:-1], rows])
    at = np.linspace(0, 1, blocks)
    ends = np.stack(np.meshgrid(offsets, offsets, indexing="ij"), axis=-1).reshape(-1, 2)
    path = np.rint(ends[:, :1] * (1 - at) + ends[:, 1:] * at).astype(int) + count // 2
    column = np.arange(blocks)
    # among equals the line nearer to the rough one
    nearness = 1 - 0.15 * np.abs(ends).mean(axis=1) / max(1.0, reach)
    best = (-1.0, 0, 0)
    for sign in signs:
        # a single bright thing across the edge must not outweigh all of the rest
        votes = np.clip(sign * slope, 0, limit)[path, column].sum(axis=1) * nearness
        index = int(np.argmax(votes))
        best = max(best, (float(votes[index]), index, sign))
    _, index, sign = best
    return float(ends[index, 0]), float(ends[index, 1]), sign


def _peaks(
    profiles: NDArray[np.float64], level: NDArray[np.float64], window: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where each profile rises steepest, within the window about 0, and how steeply.

    The slope is smoothed by as much as the edge itself is blurred, which is the matched filter.

    Returns:
        (k,) offsets in px, NaN where the steepest place is the window's end; (k,) slopes.
    """
    raw = np.gradient(profiles, axis=0)
    inside = np.abs(level) <= window
    mean = np.clip(np.median(raw, axis=1), 0, None) * inside
    total = mean.sum()
    blur = 1.0
    if total > 0:
        centre = (mean * level).sum() / total
        blur = float(np.sqrt((mean * (level - centre) ** 2).sum() / total))
    blur = max(blur, 1.0)
    slope = cv2.GaussianBlur(raw, (1, 0), 1, sigmaY=blur)
    first = int(np.argmax(inside))
    part = slope[inside]
    top = np.argmax(part, axis=0) + first
    column = np.arange(slope.shape[1])
    peak = slope[top, column]
    edge = (top == first) | (top == first + len(part) - 1)
    below, above = slope[top - 1, column], slope[np.minimum(top + 1, len(level) - 1), column]
    bend = below - 2 * peak + above
    shift = np.divide(below - above, 2 * bend, out=np.zeros_like(bend), where=bend < 0)
    offset = np.where(edge | (peak <= 0), np.nan, level[top] + np.clip(shift, -0.5, 0.5))
    return offset, peak


def fit_line(points: Points, start: Points, end: Points) -> Line | None:
    """The straight line that most of the points lie on.

    Random pairs of points propose lines (the same ones every time); the best is refined by
    iteratively reweighted least squares with Tukey's weights. The uncertainty of the direction
    counts neighbouring points that err together (a wavy edge) as fewer points.

    Args:
        points: (k, 2) in their order along the line.
        start: (2,) of the rough line's first end: the direction is from it to ``end``.
        end: (2,) of its other end.

    Returns:
        The line; None when fewer than 8 points lie on any.
    """
    if len(points) < _LEAST_POINTS:
        return None
    along = (end - start) / np.hypot(*(end - start))
    across = np.array([-along[1], along[0]])
    origin = points.mean(axis=0)
    s, t = (points - origin) @ along, (points - origin) @ across
    spread = float(np.ptp(s))
    if spread == 0:
        return None
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, len(s), (300, 2))
    pairs = pairs[np.abs(s[pairs[:, 0]] - s[pairs[:, 1]]) > 0.2 * spread]
    if not len(pairs):
        return None
    i, j = pairs.T
    slopes = (t[j] - t[i]) / (s[j] - s[i])
    # a hundred points tell which line is best
    few = np.linspace(0, len(s) - 1, min(len(s), 100)).astype(int)
    errors = np.abs(t[few] - (t[i, None] + slopes[:, None] * (s[few] - s[i, None])))
    best = int(np.argmin(np.partition(errors, len(few) // 2, axis=1)[:, len(few) // 2]))
    slope, height = float(slopes[best]), float(t[i[best]] - slopes[best] * s[i[best]])
    weight = np.ones_like(t)
    for _ in range(20):
        residual = t - (height + slope * s)
        scale = max(1.4826 * float(np.median(np.abs(residual))), 1e-3)
        weight = np.clip(1 - (residual / (_TUKEY * scale)) ** 2, 0, None) ** 2
        middle = (weight @ s) / weight.sum()
        about = s - middle
        new = float((weight * about) @ t / ((weight * about) @ about))
        height = float((weight @ t) / weight.sum()) - new * middle
        done, slope = abs(new - slope) < 1e-7, new
        if done:
            break
    residual = t - (height + slope * s)
    counted = weight > 0.05
    number = int(np.count_nonzero(counted))
    if number < _LEAST_POINTS:
        return None
    variance = float((weight * residual**2).sum() / (weight.sum() * (1 - 2 / number)))
    lever = float(weight @ (s - (weight @ s) / weight.sum()) ** 2)
    sigma = np.sqrt(variance / lever * _inflation(residual[counted]))
    direction = along + slope * across
    centre = origin + middle * along + (height + slope * middle) * across
    return Line(
        centre,
        direction / np.hypot(*direction),
        float(sigma / (1 + slope**2)),
        float(np.sqrt(variance)),
        number / len(points),
    )


def _inflation(residual: Points) -> float:
    """By how much correlation along the line raises the variance of its direction (1 when none).

    The sum of the autocorrelations up to the first that is not positive.
    """
    centred = residual - residual.mean()
    power = float(centred @ centred)
    if power == 0:
        return 1.0
    total = 1.0
    for lag in range(1, len(centred) // 4):
        correlation = float(centred[:-lag] @ centred[lag:]) / power
        if correlation <= 0:
            break
        total += 2 * correlation
    return total
