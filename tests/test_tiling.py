"""Tiling against scenes whose truth is exact: every object once, in its whole extent."""

from __future__ import annotations

import numpy as np
import pytest

from semiscope.geometry import box_iou, crop, dense, rasterise
from semiscope.tiling import Tile, blend, merge, tiles
from semiscope.types import Annotations, Mask, Polygons

TILE = (256, 256)


def scene(rng, height, width, count, largest, gap=2.0):
    """Boxes anywhere, at least a gap apart."""
    boxes = np.zeros((0, 4))
    for _ in range(10 * count):
        size = np.minimum(rng.uniform(4, largest, 2), (width, height))
        corner = rng.uniform((0, 0), (width, height) - size)
        box = np.concatenate([corner, corner + size])
        if not box_iou(box + np.array([-gap, -gap, gap, gap]), boxes).any():
            boxes = np.concatenate([boxes, box[None]])
    return boxes[:count]


def seen(tile, boxes, classes, rng, noise=0.0, smallest=1.0):
    """What a detector that only sees the tile finds: the visible parts, cut at its borders."""
    left, top, right, bottom = tile.xyxy
    low = np.maximum(boxes[:, :2], (left, top))
    high = np.minimum(boxes[:, 2:], (right, bottom))
    visible = (high - low > smallest).all(axis=1)
    found = np.concatenate([low, high], axis=1)[visible] - (left, top, left, top)
    found = found + rng.normal(0, noise, found.shape)
    found = np.clip(found, 0, (tile.width, tile.height) * 2)
    return Annotations(found, classes[visible], rng.uniform(0.3, 1, len(found)))


def each_once(merged, boxes, classes, least_iou):
    iou = box_iou(boxes, merged.xyxy)
    assert len(merged) == len(boxes)
    partner = iou.argmax(axis=1)
    assert len(set(partner.tolist())) == len(boxes)
    assert iou.max(axis=1).min() > least_iou
    np.testing.assert_array_equal(merged.class_id[partner], classes)


# ---------------------------------------------------------------------------------------- tiles


@pytest.mark.parametrize("overlap", [(0, 0), (32, 64), (200, 255)])
@pytest.mark.parametrize("size", [(256, 256), (257, 300), (700, 520), (100, 900), (80, 90), (1, 1)])
def test_tiles_cover_the_image_with_the_overlap(size, overlap):
    height, width = size
    cover = np.zeros(size, int)
    found = tiles(height, width, TILE, overlap)
    for t in found:
        part = t.of(cover)
        assert part.shape == (t.height, t.width) == (min(height, 256), min(width, 256))
        part += 1
    assert cover.min() >= 1
    assert found == sorted(found, key=lambda t: (t.y, t.x)) and len(set(found)) == len(found)
    for axis, shared in (
        (sorted({t.y for t in found}), overlap[0]),
        (sorted({t.x for t in found}), overlap[1]),
    ):
        assert all(b - a <= 256 - shared for a, b in zip(axis, axis[1:], strict=False))


def test_tiles_known_places():
    assert [t.x for t in tiles(100, 600, (100, 256), (0, 56))] == [0, 200, 344]
    assert tiles(100, 50, (200, 200), (10, 10)) == [Tile(0, 0, 50, 100)]
    # No tile more than needed when the last one ends at the border anyway.
    assert [t.x for t in tiles(256, 456, TILE, (0, 56))] == [0, 200]


@pytest.mark.parametrize("overlap", [(256, 0), (0, -1), (0, 300)])
def test_an_overlap_that_leaves_no_step_is_refused(overlap):
    with pytest.raises(ValueError, match="overlap must be from 0 to 255"):
        tiles(1000, 1000, TILE, overlap)


# ---------------------------------------------------------------------------------------- merge


@pytest.mark.parametrize("overlap", [0, 16, 64, 128])
@pytest.mark.parametrize("largest", [30, 90, 600])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_every_object_is_counted_once(overlap, largest, noise):
    rng = np.random.default_rng(overlap * 1000 + largest)
    for _ in range(3):
        height, width = rng.integers(200, 900, 2).tolist()
        boxes = scene(rng, height, width, 30, largest)
        classes = rng.integers(0, 2, len(boxes))
        grid = tiles(height, width, TILE, (overlap, overlap))
        parts = [(t, seen(t, boxes, classes, rng, noise)) for t in grid]
        merged = merge(parts, height, width, 0.5)
        each_once(merged, boxes, classes, 0.999 if noise == 0 else 0.5)
        assert (np.diff(merged.score) <= 0).all()


@pytest.mark.parametrize("shift", [-1, -0.5, 0, 0.5, 1, 3])
def test_a_box_on_a_tile_border(shift):
    # Tiles are 0..256 and 192..448: boxes that end or begin exactly at either border, or near it.
    rng = np.random.default_rng(0)
    boxes = np.array(
        [[226, 10, 256, 40], [256, 50, 286, 80], [162, 90, 192, 120], [192, 130, 222, 160]]
    ) + np.array([shift, 0, shift, 0])
    classes = np.zeros(4, int)
    parts = [(t, seen(t, boxes, classes, rng)) for t in tiles(256, 448, TILE, (0, 64))]
    each_once(merge(parts, 256, 448, 0.5), boxes, classes, 0.999)


def test_the_whole_box_wins_over_a_piece_with_a_higher_score():
    piece = Annotations([[230, 50, 256, 80]], [0], [0.9])
    whole = Annotations([[230 - 192, 50, 290 - 192, 80]], [0], [0.6])
    grid = tiles(256, 448, TILE, (0, 64))
    merged = merge(list(zip(grid, (piece, whole), strict=True)), 256, 448, 0.5)
    np.testing.assert_array_equal(merged.xyxy, [[230, 50, 290, 80]])
    np.testing.assert_array_equal(merged.score, np.float32([0.6]))


def test_a_piece_of_another_class_yields_to_what_a_tile_sees_whole():
    piece = Annotations([[200, 50, 256, 80]], [1], [0.9])
    whole = Annotations([[200 - 192, 50, 290 - 192, 80]], [0], [0.6])
    grid = tiles(256, 448, TILE, (0, 64))
    merged = merge(list(zip(grid, (piece, whole), strict=True)), 256, 448, 0.5)
    assert merged.class_id.tolist() == [0]


def test_two_classes_at_one_place_stay_two():
    rng = np.random.default_rng(0)
    boxes = np.array([[200, 50, 300, 80], [200, 50, 300, 80]])
    classes = np.array([0, 1])
    grid = tiles(256, 448, TILE, (0, 64))
    merged = merge([(t, seen(t, boxes, classes, rng)) for t in grid], 256, 448, 0.5)
    assert sorted(merged.class_id.tolist()) == [0, 1]


def test_neighbours_of_one_class_that_the_border_cuts_stay_apart():
    rng = np.random.default_rng(0)
    boxes = np.array([[150, y, 300, y + 8] for y in range(0, 250, 10)], float)
    classes = np.zeros(len(boxes), int)
    grid = tiles(256, 448, TILE, (0, 64))
    parts = [(t, seen(t, boxes, classes, rng)) for t in grid]
    each_once(merge(parts, 256, 448, 0.5), boxes, classes, 0.999)


def test_detections_of_one_tile_stay_distinct():
    close = Annotations([[10, 10, 50, 50], [12, 10, 52, 50]], [0, 0], [0.9, 0.8])
    assert len(merge([(Tile(0, 0, 256, 256), close)], 256, 256, 0.5)) == 2


def test_a_small_object_within_a_large_one_is_not_its_piece():
    # Each tile misses one of the two; both are whole, in the area that both tiles see.
    small = Annotations([[210, 60, 220, 70]], [0], [0.9])
    large = Annotations([[200 - 192, 50, 250 - 192, 100]], [0], [0.8])
    grid = tiles(256, 448, TILE, (0, 64))
    assert len(merge(list(zip(grid, (small, large), strict=True)), 256, 448, 0.5)) == 2


def test_the_prongs_of_a_fork_are_one_object():
    # One tile sees the fork whole, the other its two prongs as two objects.
    prongs = Annotations([[195, 50, 256, 70], [195, 110, 256, 130]], [0, 0], [0.9, 0.8])
    fork = Annotations([[195 - 192, 50, 330 - 192, 130]], [0], [0.7])
    grid = tiles(256, 448, TILE, (0, 64))
    merged = merge(list(zip(grid, (prongs, fork), strict=True)), 256, 448, 0.5)
    np.testing.assert_array_equal(merged.xyxy, [[195, 50, 330, 130]])


def test_boxes_beyond_the_image_are_cut():
    stray = Annotations([[-4, -3, 20, 20], [240, 240, 270, 280]], [0, 0], [0.9, 0.8])
    merged = merge([(Tile(0, 0, 256, 256), stray)], 256, 256, 0.5)
    np.testing.assert_array_equal(merged.xyxy, [[0, 0, 20, 20], [240, 240, 256, 256]])


def test_nothing_found():
    grid = tiles(500, 500, TILE, (32, 32))
    assert len(merge([(t, Annotations.empty()) for t in grid], 500, 500, 0.5)) == 0
    assert len(merge([], 500, 500, 0.5)) == 0


# ---------------------------------------------------------------------------------------- masks


def bars(height, width):
    """Diagonal bars: their boxes overlap one another, their pixels don't."""
    y, x = np.mgrid[:height, :width]
    return [
        (np.abs(x - y * 0.7 - offset) < 6) & (y > 20) & (y < height - 20)
        for offset in (-60, 10, 80, 150, 320)
    ]


@pytest.mark.parametrize("overlap", [24, 64])
def test_masks_are_united_to_the_pixel(overlap):
    height, width = 500, 600
    truth = bars(height, width)
    parts = []
    for t in tiles(height, width, TILE, (overlap, overlap)):
        masks = [crop(t.of(bits)) for bits in truth]
        masks = [m for m in masks if m.area > 8]
        boxes = [[m.x, m.y, m.x + m.bits.shape[1], m.y + m.bits.shape[0]] for m in masks]
        n = len(masks)
        parts.append((t, Annotations(np.reshape(boxes, (n, 4)), [0] * n, [0.5] * n, tuple(masks))))
    merged = merge(parts, height, width, 0.5)
    assert len(merged) == len(truth)
    found = sorted((dense(m, height, width) for m in merged.shapes), key=lambda d: d.argmax())
    for expected, actual in zip(sorted(truth, key=lambda d: d.argmax()), found, strict=True):
        # Slivers of at most 8 pixels were not "detected" in their tile.
        assert (expected & actual).sum() / (expected | actual).sum() > 0.995


def test_outlines_move_with_their_tiles_and_are_united():
    def outlines(x0, x1):
        ring = np.array([(x0, 50), (x1, 50), (x1, 80), (x0, 80)], np.float64)
        return Annotations([[x0, 50, x1, 80]], [0], [0.9], (Polygons((ring,)),))

    grid = tiles(256, 448, TILE, (0, 64))
    # 100..256 and 192..448: larger than the overlap, cut by both tiles.
    parts = list(zip(grid, (outlines(100, 256), outlines(0, 200)), strict=True))
    merged = merge(parts, 256, 448, 0.5)
    np.testing.assert_array_equal(merged.xyxy, [[100, 50, 392, 80]])
    assert rasterise(merged.shapes[0], 256, 448).area == 292 * 30


def test_a_mask_and_an_outline_are_united():
    ring = np.array([(100, 50), (256, 50), (256, 80), (100, 80)], np.float64)
    left = Annotations([[100, 50, 256, 80]], [0], [0.9], (Polygons((ring,)),))
    mask = Mask(0, 50, np.ones((30, 200), bool))
    right = Annotations([[0, 50, 200, 80]], [0], [0.8], (mask,))
    bare = Annotations([[0, 50, 200, 80]], [0], [0.8])
    grid = tiles(256, 448, TILE, (0, 64))
    merged = merge(list(zip(grid, (left, right), strict=True)), 256, 448, 0.5)
    assert merged.shapes[0].area == 292 * 30 and merged.shapes[0].x == 100
    # Half an outline would pass for the whole one.
    assert merge(list(zip(grid, (left, bare), strict=True)), 256, 448, 0.5).shapes == (None,)


def test_angles_stay_with_their_instances():
    part = Annotations([[10, 10, 50, 50], [90, 90, 99, 99]], [0, 0], [0.5, 0.9], None, [30, 60])
    merged = merge([(Tile(100, 0, 256, 256), part)], 256, 356, 0.5)
    assert merged.angle_deg.tolist() == [60, 30]
    np.testing.assert_array_equal(merged.xyxy[1], [110, 10, 150, 50])


def test_pieces_whose_masks_are_empty_are_one_object_without_pixels():
    left, right = Tile(0, 0, 60, 40), Tile(50, 0, 60, 40)
    nothing = (Mask(0, 0, np.zeros((0, 0), bool)),)
    pieces = [
        (left, Annotations(np.array([[30, 10, 60, 30]]), np.array([0]), None, nothing)),
        (right, Annotations(np.array([[0, 10, 30, 30]]), np.array([0]), None, nothing)),
    ]
    merged = merge(pieces, 40, 110, 0.5)
    assert merged.xyxy.tolist() == [[30, 10, 80, 30]]
    assert merged.shapes[0].area == 0


def test_blended_tiles_give_back_the_map_they_were_cut_from():
    whole = np.random.default_rng(0).random((3, 70, 90)).astype(np.float32)
    cut = tiles(70, 90, (32, 40), (8, 8))
    bands = list(blend(((t, whole[:, t.y : t.y + 32, t.x : t.x + 40]) for t in cut), 70, 90))
    assert len(bands) > 1
    np.testing.assert_allclose(np.concatenate(bands, 1), whole, rtol=1e-5)


def test_a_tile_fades_into_the_next_without_a_seam():
    cut = tiles(16, 48, (16, 32), (0, 16))
    assert [t.x for t in cut] == [0, 16]
    (blended,) = blend(
        ((t, np.full((1, 16, 32), float(i), np.float32)) for i, t in enumerate(cut)), 16, 48
    )
    row = blended[0, 5]
    assert (row[:16] == 0).all() and (row[32:] == 1).all()
    assert (np.diff(row[15:33]) > 0).all() and np.diff(row).max() < 0.1
    # by hand: at x = 20 the first tile has 11.5 px left to its side, the second 4.5
    assert row[20] == pytest.approx(4.5 / 16)
