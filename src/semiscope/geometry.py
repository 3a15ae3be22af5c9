"""Boxes, outlines and cropped masks: conversions, overlap and suppression.

Two conventions hold everywhere. Boxes are continuous: their area is width times height, with no
pixel added. A pixel belongs to an outline when its centre lies inside it by the even-odd rule, ring
by ring, and an instance is the union of its rings; so two outlines that share an edge never share a
pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray

from semiscope.types import Mask, Polygons, Shape

Boxes = NDArray[np.float32]

NMS_BLOCK = 256
"""Boxes that non-maximum suppression settles at once: a matter of speed, not of the result."""


def box_overlap(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], ...]:
    """Areas of all pairs of boxes, in float64.

    Args:
        a: (n, 4) xyxy.
        b: (m, 4) xyxy.

    Returns:
        The (n, m) areas of the intersections, the (n,) areas of a and the (m,) areas of b, px². A
        box whose right is left of its left has no area.
    """
    first = np.asarray(a, dtype=np.float64).reshape(-1, 4)
    second = np.asarray(b, dtype=np.float64).reshape(-1, 4)
    width = np.minimum(first[:, None, 2], second[None, :, 2])
    width -= np.maximum(first[:, None, 0], second[None, :, 0])
    height = np.minimum(first[:, None, 3], second[None, :, 3])
    height -= np.maximum(first[:, None, 1], second[None, :, 1])
    shared = width.clip(0, out=width) * height.clip(0, out=height)
    area_a, area_b = (
        (x[:, 2] - x[:, 0]).clip(0) * (x[:, 3] - x[:, 1]).clip(0) for x in (first, second)
    )
    return shared, area_a, area_b


def box_iou(a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """Intersection over union of all pairs of boxes.

    Args:
        a: (n, 4) xyxy.
        b: (m, 4) xyxy.

    Returns:
        (n, m) in [0, 1]; 0 where a box has no area.
    """
    shared, area_a, area_b = box_overlap(a, b)
    return _ratio(shared, area_a[:, None] + area_b[None, :] - shared)


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float32]:
    result = np.zeros(part.shape)
    np.divide(part, whole, out=result, where=part > 0)
    return result.astype(np.float32)


def nms(
    xyxy: ArrayLike,
    score: ArrayLike,
    class_id: ArrayLike | None,
    iou_threshold: float,
) -> NDArray[np.intp]:
    """Greedy non-maximum suppression.

    Args:
        xyxy: (n, 4).
        score: (n,).
        class_id: (n,) boxes of different classes never suppress each other; None: all do.
        iou_threshold: A box is dropped when its IoU with a kept one is greater than this.

    Returns:
        Indices of the kept boxes by falling score; among equal scores the lower index comes first.
    """
    boxes = np.asarray(xyxy, dtype=np.float32).reshape(-1, 4)
    scores = np.asarray(score).reshape(-1)
    order = np.argsort(-scores, kind="stable")
    if class_id is None:
        return _suppress(boxes, order, iou_threshold)
    groups = np.asarray(class_id).reshape(-1)[order]
    kept = np.zeros(len(boxes), bool)
    for group in np.unique(groups):
        kept[_suppress(boxes, order[groups == group], iou_threshold)] = True
    return order[kept[order]]


def _suppress(boxes: Boxes, order: NDArray[np.intp], iou_threshold: float) -> NDArray[np.intp]:
    """Block by block: a block is settled within itself, then suppresses all that follow it."""
    kept: list[NDArray[np.intp]] = []
    while len(order):
        block, order = order[:NMS_BLOCK], order[NMS_BLOCK:]
        too_close = box_iou(boxes[block], boxes[block]) > iou_threshold
        alive = np.ones(len(block), bool)
        for i in range(len(block)):
            if alive[i]:
                alive[i + 1 :] &= ~too_close[i, i + 1 :]
        kept.append(block[alive])
        clash = box_iou(boxes[kept[-1]], boxes[order]) > iou_threshold
        order = order[~clash.any(axis=0)]
    return np.concatenate(kept) if kept else np.zeros(0, np.intp)


def clip_boxes(xyxy: ArrayLike, height: int, width: int) -> Boxes:
    """Boxes (n, 4) xyxy cut to an image; a box outside of it becomes an empty one on its border."""
    limit = np.array([width, height, width, height], np.float32)
    return np.clip(np.asarray(xyxy, dtype=np.float32).reshape(-1, 4), 0, limit)


def shape_box(shape: Shape) -> Boxes:
    """The tight box (4,) xyxy of a mask's pixels or of an outline's vertices; zeros when empty."""
    if isinstance(shape, Polygons):
        if not shape.rings:
            return np.zeros(4, np.float32)
        points = np.concatenate(shape.rings)
        return np.concatenate([points.min(axis=0), points.max(axis=0)]).astype(np.float32)
    tight = _trim(shape)
    h, w = tight.bits.shape
    return np.array([tight.x, tight.y, tight.x + w, tight.y + h], np.float32)


# ---------------------------------------------------------------------------------------- masks


def _trim(mask: Mask) -> Mask:
    """The same pixels in the smallest crop; an empty mask becomes (0, 0) in size at (0, 0)."""
    rows = np.flatnonzero(mask.bits.any(axis=1))
    if not len(rows):
        return Mask(0, 0, np.zeros((0, 0), bool))
    columns = np.flatnonzero(mask.bits.any(axis=0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    return Mask(mask.x + int(left), mask.y + int(top), mask.bits[top:bottom, left:right].copy())


def crop(dense: NDArray[np.bool_]) -> Mask:
    """The smallest cropped mask of an (H, W) bool map; (0, 0) in size when nothing is set."""
    return _trim(Mask(0, 0, dense))


def dense(mask: Mask, height: int, width: int) -> NDArray[np.bool_]:
    """A mask as an (height, width) bool map; what lies outside is dropped."""
    result = np.zeros((height, width), bool)
    part = rasterise(mask, height, width)
    h, w = part.bits.shape
    result[part.y : part.y + h, part.x : part.x + w] = part.bits
    return result


def mask_iou(a: Sequence[Mask], b: Sequence[Mask]) -> NDArray[np.float32]:
    """Intersection over union of all pairs of masks, without ever building an image-sized map.

    Returns:
        (n, m) in [0, 1]; 0 where a mask is empty.
    """
    result = np.zeros((len(a), len(b)), np.float32)
    if not len(a) or not len(b):
        return result
    extent = np.array([(m.x, m.y, m.x + m.bits.shape[1], m.y + m.bits.shape[0]) for m in b])
    area = [m.area for m in b]
    for i, mask in enumerate(a):
        h, w = mask.bits.shape
        low = np.maximum(extent[:, :2], (mask.x, mask.y))
        high = np.minimum(extent[:, 2:], (mask.x + w, mask.y + h))
        own = mask.area
        for j in np.flatnonzero((high > low).all(axis=1)).tolist():
            (left, top), (right, bottom), other = low[j], high[j], b[j]
            shared = np.count_nonzero(
                mask.bits[top - mask.y : bottom - mask.y, left - mask.x : right - mask.x]
                & other.bits[top - other.y : bottom - other.y, left - other.x : right - other.x]
            )
            if shared:
                result[i, j] = shared / (own + area[j] - shared)
    return result


# ------------------------------------------------------------------------------------- outlines


def rasterise(shape: Shape, height: int, width: int) -> Mask:
    """The pixels of a shape within an image.

    A pixel is inside an outline when its centre is: even-odd, ring by ring, then united. Vertices
    may lie anywhere, also far outside of the image.

    Returns:
        The smallest crop that holds them; (0, 0) in size when there are none.

    Raises:
        ValueError: A vertex is not finite.
    """
    if isinstance(shape, Mask):
        h, w = shape.bits.shape
        top, left = max(0, -shape.y), max(0, -shape.x)
        bits = shape.bits[top : max(top, height - shape.y), left : max(left, width - shape.x)]
        return _trim(Mask(shape.x + left, shape.y + top, bits))
    if not shape.rings:
        return Mask(0, 0, np.zeros((0, 0), bool))
    if not np.isfinite(np.concatenate(shape.rings)).all():
        raise ValueError("outline has a vertex that is not finite")
    limit = np.array([width, height])
    lows = np.clip([np.floor(r.min(axis=0)) for r in shape.rings], 0, limit).astype(int)
    highs = np.clip([np.ceil(r.max(axis=0)) for r in shape.rings], 0, limit).astype(int)
    origin, (w, h) = lows.min(axis=0), highs.max(axis=0) - lows.min(axis=0)
    bits = np.zeros((h, w), bool)
    for ring, low, high in zip(shape.rings, lows, highs, strict=True):
        (left, top), (right, bottom) = low - origin, high - origin
        bits[top:bottom, left:right] |= _fill(ring - low, bottom - top, right - left)
    return _trim(Mask(int(origin[0]), int(origin[1]), bits))


def _fill(ring: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """Scan conversion: where an edge crosses a row's centre, all pixels to its right toggle."""
    following = np.roll(ring, -1, axis=0)
    # Both directions of an edge must give the same crossings to the last bit, so that the bridges
    # of no width to the holes cancel exactly.
    swap = ring[:, 1] > following[:, 1]
    upper = np.where(swap[:, None], following, ring)
    lower = np.where(swap[:, None], ring, following)
    first, last = (np.clip(np.ceil(p[:, 1] - 0.5), 0, height).astype(int) for p in (upper, lower))
    count = last - first
    edge = np.repeat(np.arange(len(ring)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    (x0, y0), (x1, y1) = upper[edge].T, lower[edge].T
    x = x0 + (row + 0.5 - y0) / (y1 - y0) * (x1 - x0)
    column = np.clip(np.ceil(x - 0.5), 0, width).astype(int)
    toggles = np.zeros((height, width + 1), np.uint8)
    np.bitwise_xor.at(toggles, (row, column), 1)
    return np.bitwise_xor.accumulate(toggles, axis=1)[:, :width].astype(bool)


def outline(mask: Mask) -> Polygons:
    """The outline of a mask along its pixels' edges; ``rasterise`` gives the mask back exactly.

    One ring for each 4-connected part. A hole is joined to its ring by a bridge of no width, walked
    there and back, so that the even-odd rule and a polygon's signed area both leave the hole out.

    Returns:
        Rings with vertices at pixel corners; no ring when the mask is empty.
    """
    bits = np.pad(mask.bits, 1)
    _, part = cv2.connectedComponents(bits.astype(np.uint8), connectivity=4)
    outer: dict[int, NDArray[np.float64]] = {}
    holes: list[tuple[int, NDArray[np.float64]]] = []
    for ring in _trace(bits):
        x, y = ring[np.lexsort((ring[:, 0], ring[:, 1]))[0]]
        # Just inside of the ring's top left corner is either the part itself or a hole of it.
        if bits[y, x]:
            outer[int(part[y, x])] = ring.astype(np.float64)
        else:
            holes.append((int(part[y - 1, x]), ring.astype(np.float64)))
    for label, hole in holes:
        outer[label] = _bridge(outer[label], hole)
    return Polygons(tuple(ring + (mask.x - 1, mask.y - 1) for ring in outer.values()))


def _trace(bits: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    """The closed rings of corners between set and unset pixels of a map with an unset border.

    Corners sorted along rows pair up to the horizontal edges, along columns to the vertical ones;
    a ring follows the two kinds in turn. Where two set pixels meet only at a corner, that corner
    counts twice and each pixel keeps its own (4-connectivity).
    """
    nw, ne, sw, se = bits[:-1, :-1], bits[:-1, 1:], bits[1:, :-1], bits[1:, 1:]
    falling, rising = nw & se & ~ne & ~sw, ne & sw & ~nw & ~se
    y, x = np.nonzero(nw ^ ne ^ sw ^ se | falling | rising)
    twice = np.where(falling[y, x] | rising[y, x], 2, 1)
    turn = np.repeat(np.where(rising[y, x], -1, 1), twice)
    y, x = np.repeat(y, twice) + 1, np.repeat(x, twice) + 1
    along_row = np.arange(len(y))
    along_column = np.lexsort((along_row * turn, y, x))
    beside, above = np.empty_like(along_row), np.empty_like(along_row)
    for partner, order in ((beside, along_row), (above, along_column)):
        partner[order[0::2]], partner[order[1::2]] = order[1::2], order[0::2]
    rings = []
    to_beside, to_above, seen = beside.tolist(), above.tolist(), [False] * len(y)
    for start in range(len(y)):
        if seen[start]:
            continue
        ring, corner = [], start
        while not seen[corner]:
            mate = to_beside[corner]
            seen[corner] = seen[mate] = True
            ring += [corner, mate]
            corner = to_above[mate]
        rings.append(np.stack([x[ring], y[ring]], axis=1))
    return rings


def _bridge(ring: NDArray[np.float64], hole: NDArray[np.float64]) -> NDArray[np.float64]:
    """One ring that walks the outer ring, crosses to the hole, walks it and comes back."""
    if _signed_area(ring) * _signed_area(hole) > 0:
        hole = hole[::-1]
    nearest = int(np.argmin(np.square(ring - hole[0]).sum(axis=1)))
    return np.concatenate([ring[: nearest + 1], hole, hole[:1], ring[nearest:]])


def _signed_area(ring: NDArray[np.float64]) -> float:
    (x, y), (u, v) = (ring - ring[0]).T, (np.roll(ring, -1, axis=0) - ring[0]).T
    return float(np.sum(x * v - u * y) / 2)


def repair_polygon(
    ring: ArrayLike,
) -> tuple[tuple[NDArray[np.float64], ...], str | None]:
    """The rings that a label's polygon means, and a note where it had to be mended.

    Repeated points and a last point that repeats the first go without a note. A ring that crosses
    itself is cut into rings that don't, by the even-odd rule. A ring that only touches itself, as
    with the bridges to holes, stays as it is.

    Args:
        ring: (k, 2) x and y, px.

    Returns:
        The rings, each (k, 2) float64, none when nothing with an area is left; the note or None.
    """
    points = np.asarray(ring, dtype=np.float64).reshape(-1, 2)
    finite = np.isfinite(points).all(axis=1)
    note = None if finite.all() else "polygon had points that are not numbers; left out"
    points = points[finite]
    repeats = np.zeros(len(points), bool)
    repeats[1:] = (points[1:] == points[:-1]).all(axis=1)
    points = points[~repeats]
    if len(points) > 1 and (points[-1] == points[0]).all():
        points = points[:-1]
    if len(points) < 3:
        return (), f"polygon has {len(points)} distinct points, expected at least 3; left out"
    polygon = shapely.Polygon(points)
    if polygon.is_valid:
        return (points,), note
    valid = shapely.make_valid(polygon)
    if valid.area == 0:
        return (), "polygon has no area; left out"
    if np.isclose(abs(_signed_area(points)), valid.area, rtol=1e-9, atol=0):
        return (points,), note
    rings = []
    for part in shapely.get_parts(shapely.get_parts(valid)):
        if isinstance(part, shapely.Polygon) and part.area > 0:
            outer = np.asarray(part.exterior.coords)[:-1]
            for hole in part.interiors:
                outer = _bridge(outer, np.asarray(hole.coords)[:-1])
            rings.append(outer)
    return tuple(rings), f"polygon crossed itself; cut into {len(rings)} that don't"
