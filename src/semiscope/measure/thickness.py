"""How thick layers are: the width of what a class map calls one class, all along its middle line.

Where two opposite borders of a region are equally near, there the region's thickness is the
diameter of the largest disc between them. Such places are the medial axis (Blum 1967); of it only
those count whose nearest border points lie nearly opposite, which leaves out the branches into
corners (the integer medial axis of Hesselink and Roerdink 2008, with a bound on the angle). The
border of the image is no border of a region: what it cuts lengthwise has no thickness there, and
what runs into it keeps its own.

A border runs between pixels, at an angle in stairs. Where exactly is read from the smoothed class
map: the nearest pixel outside is as far beyond the border as its value is below one half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_OPPOSITE = 0.9  # share of the diameter that opposite border points are apart: 128° and more
# Away from a border the distance to it grows by a pixel a pixel, along the middle line between
# borders at 128° by 0.44: what grows faster within so many pixels is a step of a border, no middle.
_REACHES = (2, 4, 8)
_STEEP, _SLACK = 0.6, 0.5
_BLUR = 0.7  # px; more would wash out layers of a single pixel


@dataclass(frozen=True, slots=True)
class Thickness:
    """The distribution of local thickness along the middle lines of all regions of a class.

    Attributes:
        mean: Pixels, as all but ``length``.
        std: How much it varies.
        least: The fifth percentile.
        median: The middle value.
        most: The 95th percentile.
        length: About how long the middle lines are together.
    """

    mean: float
    std: float
    least: float
    median: float
    most: float
    length: int

    def to_dict(self, unit: float = 1.0) -> dict[str, float]:
        """Plain values in another unit.

        Args:
            unit: What a pixel is of it, such as nm.
        """
        return {name: round(value * unit, 3) for name, value in asdict(self).items()}


def measure_thickness(inside: NDArray[np.bool_]) -> Thickness | None:
    """The thickness of the regions of a class.

    Args:
        inside: (H, W), which pixels are of the class.

    Returns:
        None where no region has two opposite borders within the image.
    """
    found = local_thickness(inside)
    if not len(found):
        return None
    least, median, most = (float(v) for v in np.percentile(found, (5, 50, 95)))
    return Thickness(float(found.mean()), float(found.std()), least, median, most, len(found))


def without_defects(indices: NDArray[np.uint8], defects: Sequence[int]) -> NDArray[np.uint8]:
    """A class map in which each pixel of a defect is of the material that is nearest.

    A crack through a layer parts it into pieces, whose thickness would be their width. So do voids.

    Args:
        indices: (H, W) class indices.
        defects: Indices of the classes that are defects.

    Returns:
        (H, W); the map itself where there is no defect, or nothing else.
    """
    faulty = np.isin(indices, defects)
    if not faulty.any() or faulty.all():
        return indices
    _, owner = cv2.distanceTransformWithLabels(
        faulty.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    material = np.zeros(owner.max() + 1, np.uint8)
    material[owner[~faulty]] = indices[~faulty]
    return np.asarray(material[owner], np.uint8)


def local_thickness(inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(n,) thickness in pixels, about every pixel along the middle lines.

    Args:
        inside: (H, W), which pixels are of the class.
    """
    if inside.all() or not inside.any():
        return np.zeros(0)
    bits = inside.astype(np.uint8)
    distance = cv2.distanceTransform(bits, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    _, owner = cv2.distanceTransformWithLabels(bits, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    # number of an outside pixel -> where it is
    outside = np.flatnonzero(~inside.ravel())
    place = np.zeros(owner.max() + 1, np.int64)
    place[owner.ravel()[outside]] = outside
    nearest = place[owner]
    beyond = _beyond(inside).ravel()
    unfit = _steps(distance) | _cut_short(nearest)
    found = []
    for axis in (0, 1):
        here, there = _all_but_last(axis), _all_but_first(axis)
        own, other = nearest[here], nearest[there]
        y, x = (
            a - b
            for a, b in zip(*(np.divmod(n, inside.shape[1]) for n in (own, other)), strict=True)
        )
        apart = np.hypot(y, x)
        a, b = distance[here], distance[there]
        middle = (inside[here] | inside[there]) & (apart >= _OPPOSITE * 2 * np.maximum(a, b))
        middle &= ~(unfit[here] | unfit[there])
        # the two places are a pixel apart, of which the part across the layer counts
        across = np.abs((y, x)[axis][middle]) / apart[middle]
        borders = beyond[own[middle]] + beyond[other[middle]]
        found.append(a[middle] + b[middle] + across - borders)
    return np.concatenate(found).astype(np.float64)


def _steps(distance: NDArray[Any]) -> NDArray[np.bool_]:
    """Where the distance to the border grows too fast in some direction for a middle line."""
    found = np.zeros(distance.shape, bool)
    for reach in _REACHES:
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
        found |= cv2.dilate(distance, disc) > distance + (_STEEP * reach + _SLACK)
    return found


def _cut_short(nearest: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where the border's nearest point lies beyond the image, and the last one within is taken.

    Args:
        nearest: (H, W) the flat place of the nearest pixel outside.
    """
    height, width = nearest.shape
    y, x = np.divmod(nearest, width)
    # the nearest pixel is found to about a pixel
    at_rim = (np.minimum(y, height - 1 - y) < 2) | (np.minimum(x, width - 1 - x) < 2)
    own_y, own_x = np.indices(nearest.shape)
    # straight across, the rim itself may well be the border
    return np.asarray(at_rim & (y != own_y) & (x != own_x))


def _beyond(inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(H, W) how far a pixel's middle is beyond the border, px; right next to the border only."""
    soft = cv2.GaussianBlur(
        inside.astype(np.float32), (0, 0), _BLUR, borderType=cv2.BORDER_REPLICATE
    )
    # what a straight border along the pixels' edges, half a pixel away, makes of it
    edge = np.repeat(np.array([0, 1], np.float32), 9)[:, None]
    level = float(cv2.GaussianBlur(edge, (0, 0), _BLUR, borderType=cv2.BORDER_REPLICATE)[8, 0])
    normal = NormalDist()
    values = np.linspace(0.001, 0.999, 999)
    distances = np.array([normal.inv_cdf(v) for v in values]) / normal.inv_cdf(level) / 2
    return np.interp(soft, values, distances).astype(np.float32)


def _all_but_last(axis: int) -> tuple[slice, ...]:
    return (slice(None, -1), slice(None)) if axis == 0 else (slice(None), slice(None, -1))


def _all_but_first(axis: int) -> tuple[slice, ...]:
    return (slice(1, None), slice(None)) if axis == 0 else (slice(None), slice(1, None))
