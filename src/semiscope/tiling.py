"""Large images in overlapping tiles, and the tiles' answers merged without double counting.

Two detections from different tiles are the same object when they agree in the area that both tiles
see. That one rule covers an object seen whole twice, one that a border cuts while the neighbour
sees it whole, and one larger than the overlap that every tile sees a part of.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from semiscope.geometry import box_overlap, clip_boxes, dense, rasterise
from semiscope.types import Annotations, Mask, Polygons, Shape

BORDER_FRACTION = 0.01
"""A box counts as cut when it ends nearer than this part of the tile's side to an inner border."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of an image, in whole pixels."""

    x: int
    y: int
    width: int
    height: int

    @property
    def xyxy(self) -> NDArray[np.float64]:
        """Left, top, right, bottom."""
        return np.array([self.x, self.y, self.x + self.width, self.y + self.height], np.float64)

    def of(self, pixels: NDArray[np.generic]) -> NDArray[np.generic]:
        """The tile's part of an image, (H, W) or (H, W, 3): a view."""
        return pixels[self.y : self.y + self.height, self.x : self.x + self.width]


def tiles(height: int, width: int, tile: tuple[int, int], overlap: tuple[int, int]) -> list[Tile]:
    """Tiles that cover an image exactly, row by row.

    Args:
        height: Of the image, px.
        width: Of the image, px.
        tile: (height, width) of a tile. Every tile has this size, the last ones end at the image's
            border; only where the image is smaller is the tile as small as the image.
        overlap: (rows, columns) that neighbours share at least.

    Raises:
        ValueError: The overlap is negative or not smaller than the tile.
    """
    for size, shared in zip(tile, overlap, strict=True):
        if not 0 <= shared < size:
            raise ValueError(
                f"overlap must be from 0 to {size - 1} px (tile {size} px), found {shared}"
            )
    rows, columns = (
        [min(i * (t - o), n - t) for i in range(math.ceil((n - t) / (t - o)) + 1)] if n > t else [0]
        for n, t, o in zip((height, width), tile, overlap, strict=True)
    )
    h, w = min(height, tile[0]), min(width, tile[1])
    return [Tile(x, y, w, h) for y in rows for x in columns]


def blend(
    parts: Iterable[tuple[Tile, NDArray[np.float32]]], height: int, width: int
) -> Iterator[NDArray[np.float32]]:
    """Maps of overlapping tiles as one map: each place the mean of its tiles, weighted.

    A tile weighs most in its middle and falls off linearly to its sides, so that no seam shows and
    what a tile sees with little around it counts little. Only the rows that tiles still to come may
    touch are held in memory.

    Args:
        parts: The tiles in the order of ``tiles``, each with its (K, tile height, tile width) map.
        height: Of the image, px.
        width: Of the image, px.

    Yields:
        (K, rows, width) bands that follow each other from the top and together are the image.
    """
    top = 0
    total = weight = np.zeros((0, 0, 0), np.float32)
    for tile, values in parts:
        if not total.size:
            total = np.zeros((len(values), tile.height, width), np.float32)
            weight = np.zeros((1, tile.height, width), np.float32)
        done = tile.y - top
        if done:
            yield total[:, :done] / weight[:, :done]
            for band in (total, weight):
                band[:, :-done] = band[:, done:]
                band[:, -done:] = 0
            top = tile.y
        rows, columns = (
            np.minimum(np.arange(n), np.arange(n)[::-1]).astype(np.float32) + np.float32(0.5)
            for n in (tile.height, tile.width)
        )
        own = rows[:, None] * columns
        total[:, :, tile.x : tile.x + tile.width] += own * values
        weight[:, :, tile.x : tile.x + tile.width] += own
    yield total[:, : height - top] / weight[:, : height - top]


def merge(
    parts: Sequence[tuple[Tile, Annotations]], height: int, width: int, iou_threshold: float
) -> Annotations:
    """The instances of the whole image from those of its tiles.

    Detections of one tile are taken as distinct: what they have in common was settled before.
    Across tiles, the best agreements come first, and each object takes at most one detection of a
    tile; afterwards, a cut piece that is still alone joins what covers it in a neighbouring tile.
    Of an object that some tile sees whole, that tile's best detection stays; otherwise the pieces
    are united.

    Args:
        parts: Each tile with its instances in the tile's own pixels.
        height: Of the image, px.
        width: Of the image, px.
        iou_threshold: Detections agree when their IoU in the area that both tiles see is greater;
            for cut pieces of one class, when the intersection over the smaller one is. Where both
            have masks it is the masks that are compared, else the boxes.

    Returns:
        Instances in the image's pixels, by falling score.
    """
    found = Annotations.concatenate([_moved(a, t.x, t.y) for t, a in parts])
    if not len(found):
        return found
    owner = np.repeat(np.arange(len(parts)), [len(a) for _, a in parts])
    views = np.array([t.xyxy for t, _ in parts])
    slack = np.maximum(2, BORDER_FRACTION * (views[:, 2:] - views[:, :2]).min(axis=1))
    cut = _cut_sides(found.xyxy, views[owner], slack[owner], height, width)
    is_cut: NDArray[np.bool_] = np.any(cut, axis=1)
    # A piece goes on past the border that cuts it: so tiles that only touch agree as well.
    sign = np.array([-1, -1, 1, 1])
    reach = found.xyxy + sign * cut * 2 * slack[owner, None]
    padded = views + sign * slack[:, None]
    pairs = sorted(_agreements(found, owner, reach, views, padded), reverse=True)

    groups = [[i] for i in range(len(found))]
    agreeing = []
    for iou, over_smaller, a, b in pairs:
        same_class = found.class_id[a] == found.class_id[b]
        covers = same_class and (is_cut[a] or is_cut[b]) and over_smaller > iou_threshold
        if iou > iou_threshold or covers:
            agreeing.append((a, b))
            if same_class and not {owner[i] for i in groups[a]} & {owner[i] for i in groups[b]}:
                _unite(groups, a, b)
    alone = [len(group) == 1 for group in groups]
    for a, b in agreeing:
        for piece, other in ((a, b), (b, a)):
            same_class = found.class_id[a] == found.class_id[b]
            if alone[piece] and is_cut[piece] and (same_class or not is_cut[other]):
                _unite(groups, other, piece)
    seen = {id(group): group for group in groups}
    merged = Annotations.concatenate(
        [_settle(found, np.array(g), is_cut, height, width) for g in seen.values()]
    )
    return merged[np.argsort(-merged.score, kind="stable")]


def _moved(annotations: Annotations, dx: int, dy: int) -> Annotations:
    def move(shape: Shape | None) -> Shape | None:
        if isinstance(shape, Mask):
            return Mask(shape.x + dx, shape.y + dy, shape.bits)
        return shape and Polygons(tuple(ring + (dx, dy) for ring in shape.rings))

    shapes = annotations.shapes and tuple(move(s) for s in annotations.shapes)
    offset = np.array([dx, dy, dx, dy], np.float32)
    return replace(annotations, xyxy=annotations.xyxy + offset, shapes=shapes)


def _cut_sides(
    boxes: NDArray[np.float32],
    views: NDArray[np.float64],
    slack: NDArray[np.float64],
    height: int,
    width: int,
) -> NDArray[np.bool_]:
    """(n, 4): the sides at which a box ends at its tile's border, the image's own border apart."""
    inner = (views > 0) & (views < np.array([np.inf, np.inf, width, height]))
    past = (boxes - views) * np.array([-1, -1, 1, 1]) >= -slack[:, None]
    return np.asarray(inner & past)


def _agreements(
    found: Annotations,
    owner: NDArray[np.intp],
    reach: NDArray[np.float64],
    views: NDArray[np.float64],
    padded: NDArray[np.float64],
) -> Iterator[tuple[float, float, int, int]]:
    """Pairs from different tiles that overlap where both see: IoU, overlap over smaller, a, b."""
    for p in range(len(views)):
        low = np.maximum(padded[p, :2], padded[p + 1 :, :2])
        high = np.minimum(padded[p, 2:], padded[p + 1 :, 2:])
        mine = np.flatnonzero(owner == p)
        for k in np.flatnonzero((high > low).all(axis=1)):
            theirs = np.flatnonzero(owner == p + 1 + k)
            limits = np.tile(low[k], 2), np.tile(high[k], 2)
            a, b = np.clip(reach[mine], *limits), np.clip(reach[theirs], *limits)
            shared, area_a, area_b = box_overlap(a, b)
            for i, j in zip(*np.nonzero(shared), strict=True):
                one, two = int(mine[i]), int(theirs[j])
                measured = _mask_agreement(found, one, two, views[p], views[p + 1 + k])
                if measured is None:
                    total, smaller = area_a[i] + area_b[j], min(area_a[i], area_b[j])
                    measured = shared[i, j] / (total - shared[i, j]), shared[i, j] / smaller
                yield *measured, one, two


def _mask_agreement(
    found: Annotations, a: int, b: int, view_a: NDArray[np.float64], view_b: NDArray[np.float64]
) -> tuple[float, float] | None:
    """IoU and overlap over smaller of two masks where both tiles see; None when unknown."""
    one, two = (found.shapes[a], found.shapes[b]) if found.shapes else (None, None)
    left, top = np.maximum(view_a[:2], view_b[:2]).astype(int).tolist()
    right, bottom = np.minimum(view_a[2:], view_b[2:]).astype(int).tolist()
    if not (isinstance(one, Mask) and isinstance(two, Mask) and left < right and top < bottom):
        return None
    first, second = (
        dense(Mask(m.x - left, m.y - top, m.bits), bottom - top, right - left) for m in (one, two)
    )
    shared, smaller = np.count_nonzero(first & second), min(first.sum(), second.sum())
    if smaller == 0:
        return None
    return float(shared / np.count_nonzero(first | second)), float(shared / smaller)


def _unite(groups: list[list[int]], a: int, b: int) -> None:
    """Makes a's and b's groups one list that all its members refer to."""
    if groups[a] is not groups[b]:
        groups[a].extend(groups[b])
        for i in groups[b]:
            groups[i] = groups[a]


def _settle(
    found: Annotations, group: NDArray[np.intp], is_cut: NDArray[np.bool_], height: int, width: int
) -> Annotations:
    """The one instance that a group of detections is."""
    whole = group[~is_cut[group]]
    candidates = whole if len(whole) else group
    best = candidates[np.argmax(found.score[candidates])]
    lead = found[np.array([best])]
    boxes = found.xyxy[group if not len(whole) else [best]]
    box = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
    shapes = lead.shapes
    if found.shapes is not None and not len(whole):
        shapes = (_union([found.shapes[i] for i in group], height, width),)
    return replace(lead, xyxy=clip_boxes(box, height, width), shapes=shapes)


def _union(shapes: Sequence[Shape | None], height: int, width: int) -> Shape | None:
    """One shape of all pieces; None when a piece has none."""
    known = [s for s in shapes if s is not None]
    if len(known) < len(shapes):
        return None
    outlines = [s.rings for s in known if isinstance(s, Polygons)]
    if len(outlines) == len(known):
        return Polygons(tuple(ring for rings in outlines for ring in rings))
    masks = [m for m in (rasterise(s, height, width) for s in known) if m.area]
    if not masks:
        return Mask(0, 0, np.zeros((0, 0), bool))
    left, top = min(m.x for m in masks), min(m.y for m in masks)
    right = max(m.x + m.bits.shape[1] for m in masks)
    bottom = max(m.y + m.bits.shape[0] for m in masks)
    bits = np.zeros((bottom - top, right - left), bool)
    for mask in masks:
        h, w = mask.bits.shape
        bits[mask.y - top : mask.y - top + h, mask.x - left : mask.x - left + w] |= mask.bits
    return Mask(left, top, bits)
