"""Geometry against brute force, shapely's point-in-polygon and exact round trips."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import shapely

from semiscope import geometry
from semiscope.geometry import (
    box_iou,
    clip_boxes,
    crop,
    dense,
    mask_iou,
    nms,
    outline,
    rasterise,
    repair_polygon,
    shape_box,
)
from semiscope.types import Mask, Polygons


def random_boxes(rng, n, side=100.0, largest=40.0):
    corner = rng.uniform(-10, side, (n, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0, largest, (n, 2))], axis=1)
    return boxes.astype(np.float32)


def plain_iou(a, b):
    a, b = [float(v) for v in a], [float(v) for v in b]
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    area_a, area_b = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    return w * h / (area_a + area_b - w * h)


def star(points):
    return np.array(points, np.float64)


# ---------------------------------------------------------------------------------------- boxes


def test_box_iou_equals_the_definition_pair_by_pair():
    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, 60), random_boxes(rng, 50)
    iou = box_iou(a, b)
    assert iou.shape == (60, 50) and iou.dtype == np.float32
    expected = np.array([[plain_iou(x, y) for y in b] for x in a], np.float32)
    np.testing.assert_array_equal(iou, expected)
    np.testing.assert_array_equal(np.diag(box_iou(a, a)), 1)


@pytest.mark.parametrize("box", [[5, 5, 5, 5], [5, 5, 5, 20], [20, 20, 5, 5], [20, 5, 5, 20]])
def test_a_box_without_area_overlaps_nothing_not_even_itself(box):
    with np.errstate(all="raise"):
        iou = box_iou([box, [0, 0, 30, 30]], [box, [0, 0, 30, 30]])
    np.testing.assert_array_equal(iou, [[0, 0], [0, 1]])


def test_box_iou_of_far_coordinates_keeps_its_precision():
    x = 2.0**20
    assert box_iou([[x, x, x + 4, x + 4]], [[x + 2, x, x + 6, x + 4]])[0, 0] == np.float32(1 / 3)


def test_box_iou_of_no_boxes():
    assert box_iou(np.zeros((0, 4)), random_boxes(np.random.default_rng(0), 3)).shape == (0, 3)


def plain_nms(boxes, scores, classes, threshold):
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        rivals = [j for j in kept if classes is None or classes[j] == classes[i]]
        if all(np.float32(plain_iou(boxes[i], boxes[j])) <= threshold for j in rivals):
            kept.append(i)
    return kept


@pytest.mark.parametrize("block", [3, 256])
@pytest.mark.parametrize("with_classes", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.65])
def test_nms_equals_the_plain_greedy_loop(monkeypatch, block, with_classes, threshold):
    monkeypatch.setattr(geometry, "NMS_BLOCK", block)
    rng = np.random.default_rng(1)
    for _ in range(8):
        boxes = random_boxes(rng, 40, side=60)
        scores = rng.integers(0, 6, 40) / 6
        classes = rng.integers(0, 3, 40) if with_classes else None
        kept = nms(boxes, scores, classes, threshold)
        assert kept.tolist() == plain_nms(boxes, scores, classes, threshold)


def test_nms_drops_only_what_is_strictly_above_the_threshold():
    boxes = [[0, 0, 4, 4], [0, 0, 4, 2], [0, 0, 4, 4]]
    assert nms(boxes, [0.5, 0.9, 0.5], None, 0.5).tolist() == [1, 0]
    assert nms(boxes, [0.5, 0.9, 0.5], None, 0.49).tolist() == [1]
    assert nms(np.zeros((0, 4)), [], None, 0.5).tolist() == []


def test_nms_of_negative_and_far_coordinates_keeps_classes_apart():
    boxes = [[-1e6, -1e6, -1e6 + 10, -1e6 + 10]] * 2
    assert nms(boxes, [0.9, 0.8], [0, 1], 0.5).tolist() == [0, 1]


def test_clip_boxes():
    boxes = [[-5, -6, 5, 6], [90, 40, 120, 70], [200, 300, 210, 310]]
    clipped = clip_boxes(boxes, height=50, width=100)
    np.testing.assert_array_equal(clipped, [[0, 0, 5, 6], [90, 40, 100, 50], [100, 50, 100, 50]])
    assert clipped.dtype == np.float32


# ---------------------------------------------------------------------------------------- masks


def test_crop_and_dense_are_inverse():
    rng = np.random.default_rng(2)
    for _ in range(30):
        height, width = rng.integers(1, 30, 2)
        bits = rng.random((height, width)) < rng.choice([0.01, 0.1, 0.6])
        mask = crop(bits)
        np.testing.assert_array_equal(dense(mask, height, width), bits)
        rows, columns = np.nonzero(bits)
        if len(rows):
            expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_array_equal(shape_box(mask), expected)
            assert mask.bits.shape == (
                rows.max() - rows.min() + 1,
                columns.max() - columns.min() + 1,
            )
        else:
            assert mask.bits.shape == (0, 0)


def test_crop_does_not_keep_the_dense_map_alive():
    assert crop(np.eye(5, dtype=bool)).bits.base is None


def test_mask_partly_or_wholly_outside_the_image_is_cut():
    mask = Mask(-2, -1, np.ones((4, 5), bool))
    cut = rasterise(mask, 10, 10)
    assert (cut.x, cut.y, cut.bits.shape) == (0, 0, (3, 3))
    for x, y in [(20, 0), (0, 20), (-20, 0), (0, -20)]:
        assert rasterise(Mask(x, y, np.ones((4, 5), bool)), 10, 10).area == 0
        assert not dense(Mask(x, y, np.ones((4, 5), bool)), 10, 10).any()


def test_mask_iou_equals_dense_iou():
    rng = np.random.default_rng(3)
    masks = [
        Mask(*rng.integers(-5, 30, 2).tolist(), rng.random(tuple(rng.integers(0, 25, 2))) < 0.6)
        for _ in range(24)
    ]
    shift = [Mask(m.x + 5, m.y + 5, m.bits) for m in masks]
    full = np.array([dense(m, 70, 70) for m in shift])
    a, b = full[:10], full[10:]
    shared = (a[:, None] & b[None]).sum(axis=(2, 3))
    union = (a[:, None] | b[None]).sum(axis=(2, 3))
    expected = np.where(union > 0, shared / np.maximum(union, 1), 0).astype(np.float32)
    np.testing.assert_array_equal(mask_iou(masks[:10], masks[10:]), expected)
    assert expected.max() > 0.1
    assert mask_iou([], masks).shape == (0, 24)


def test_five_hundred_instances_in_a_huge_image_need_little_memory():
    side, n = 10_000, 500
    rng = np.random.default_rng(4)
    tracemalloc.start()
    corner = rng.uniform(0, side - 100, (n, 2))
    square = np.array([(0, 0), (90, 10), (80, 90), (10, 70)], np.float64)
    masks = [rasterise(Polygons((c + square,)), side, side) for c in corner]
    iou = mask_iou(masks, masks)
    rings = [outline(m) for m in masks]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(np.diag(iou), 1)
    assert len(rings) == n and all(m.area > 3000 for m in masks)
    assert peak < 60e6, f"peak {peak / 1e6:.0f} MB; one dense map alone is 100 MB"


# ------------------------------------------------------------------------------------- outlines


def test_rasterise_takes_the_pixels_whose_centres_are_inside():
    rng = np.random.default_rng(5)
    height, width = 40, 50
    y, x = np.mgrid[:height, :width] + 0.5
    for _ in range(40):
        angle = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 20)))
        radius = rng.uniform(2, 40, len(angle))
        ring = rng.uniform(0, 50, 2) + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
        polygon = shapely.Polygon(ring)
        if polygon.is_valid:
            expected = shapely.contains_xy(polygon, x, y)
            actual = dense(rasterise(Polygons((ring,)), height, width), height, width)
            np.testing.assert_array_equal(actual, expected)


def test_rasterise_known_pixels():
    # A unit square shifted by less than half a pixel still covers the one centre, one by more not.
    unit = star([(0, 0), (1, 0), (1, 1), (0, 1)])
    for shift, expected in [(0.4, (3, 3)), (0.6, (4, 4)), (-0.4, (3, 3))]:
        mask = rasterise(Polygons((unit + 3 + shift,)), 10, 10)
        assert (mask.x, mask.y, mask.bits.tolist()) == (*expected, [[True]])
    assert rasterise(Polygons((unit * 0.4 + 3,)), 10, 10).area == 0


def test_outlines_that_share_an_edge_share_no_pixel_and_leave_none_out():
    cut = star([(0, 0), (20, 13.5), (20, 0)]), star([(0, 0), (20, 13.5), (20, 20), (0, 20)])
    a, b = (dense(rasterise(Polygons((ring,)), 20, 20), 20, 20) for ring in cut)
    assert not (a & b).any() and (a | b).all()


def test_rasterise_is_clipped_to_the_image_even_with_far_vertices():
    far = star([(-1e9, -1e9), (1e9, -1e9), (1e9, 1e9), (-1e9, 1e9)])
    assert rasterise(Polygons((far,)), 7, 9).area == 63
    wedge = star([(-1e7, 5), (5, -1e7), (5, 5)])
    np.testing.assert_array_equal(shape_box(rasterise(Polygons((wedge,)), 20, 20)), [0, 0, 5, 5])
    for x, y in [(50, 0), (0, 50), (-50, 0), (0, -50)]:
        outside = star([(0, 0), (9, 0), (9, 9)]) + (x, y)
        assert rasterise(Polygons((outside,)), 20, 20).area == 0


def test_rings_are_united():
    square = star([(0, 0), (10, 0), (10, 10), (0, 10)])
    mask = rasterise(Polygons((square, square + 5)), 30, 30)
    assert mask.area == 175
    assert rasterise(Polygons(()), 30, 30).area == 0


def test_rasterise_refuses_vertices_that_are_not_numbers():
    with pytest.raises(ValueError, match="not finite"):
        rasterise(Polygons((star([(0, 0), (np.nan, 1), (3, 3)]),)), 10, 10)


def test_outline_of_any_mask_gives_the_mask_back():
    rng = np.random.default_rng(6)
    for _ in range(150):
        height, width = rng.integers(1, 25, 2)
        mask = crop(rng.random((height, width)) < rng.random())
        np.testing.assert_array_equal(
            dense(rasterise(outline(mask), height, width), height, width),
            dense(mask, height, width),
        )


def test_outline_of_nested_rings_has_a_ring_for_each_part():
    y, x = np.mgrid[:60, :60] - 29.5
    radius = np.hypot(x, y)
    target = (radius < 28) & ~((radius > 10) & (radius < 20)) & (radius > 4)
    shape = outline(crop(target))
    assert len(shape.rings) == 2
    np.testing.assert_array_equal(dense(rasterise(shape, 60, 60), 60, 60), target)
    # The bridge runs both ways, so that the signed area leaves the holes out too.
    areas = [
        abs(np.sum(r[:, 0] * np.roll(r[:, 1], -1) - np.roll(r[:, 0], -1) * r[:, 1])) / 2
        for r in shape.rings
    ]
    assert sum(areas) == target.sum()


def test_outline_of_a_rectangle_is_its_four_corners():
    (ring,) = outline(Mask(3, 5, np.ones((2, 4), bool))).rings
    assert sorted(map(tuple, ring)) == [(3, 5), (3, 7), (7, 5), (7, 7)]
    assert outline(Mask(3, 5, np.zeros((2, 4), bool))).rings == ()


def test_pixels_that_touch_at_a_corner_are_two_parts():
    assert len(outline(crop(np.eye(2, dtype=bool))).rings) == 2
    assert len(outline(crop(np.eye(2, dtype=bool)[::-1])).rings) == 2


def test_shape_box_of_an_outline():
    rings = (star([(1.5, 2), (8, 3), (4, 9.25)]), star([(-3, 4), (0, 4), (0, 6)]))
    np.testing.assert_array_equal(shape_box(Polygons(rings)), [-3, 2, 8, 9.25])
    np.testing.assert_array_equal(shape_box(Polygons(())), [0, 0, 0, 0])


# --------------------------------------------------------------------------------------- repair


def test_a_sound_polygon_stays_as_it_is():
    ring = star([(0, 0), (10, 0), (12, 8), (3, 9)])
    (kept,), note = repair_polygon(ring)
    np.testing.assert_array_equal(kept, ring)
    assert note is None


def test_repeated_points_and_the_closing_point_go():
    ring = [(0, 0), (0, 0), (10, 0), (10, 8), (10, 8), (3, 9), (0, 0)]
    (kept,), note = repair_polygon(ring)
    np.testing.assert_array_equal(kept, [(0, 0), (10, 0), (10, 8), (3, 9)])
    assert note is None


def test_a_bow_tie_becomes_two_triangles():
    rings, note = repair_polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
    assert len(rings) == 2 and "crossed itself" in note
    assert sum(shapely.Polygon(r).area for r in rings) == 50
    assert all(shapely.Polygon(r).is_valid for r in rings)


def test_repair_keeps_the_pixels_of_any_crossing_polygon():
    rng = np.random.default_rng(7)
    repaired = 0
    for _ in range(60):
        ring = rng.uniform(0, 40, (rng.integers(4, 9), 2))
        rings, note = repair_polygon(ring)
        repaired += note is not None
        before, after = (dense(rasterise(Polygons(r), 40, 40), 40, 40) for r in ((ring,), rings))
        # The cuts move crossing points by rounding; a pixel centre that close is not drawn here.
        np.testing.assert_array_equal(after, before)
    assert repaired > 30


def test_bridges_to_holes_need_no_repair():
    bits = np.ones((12, 12), bool)
    bits[3:5, 3:6] = bits[7:10, 6:9] = False
    (ring,) = outline(crop(bits)).rings
    (kept,), note = repair_polygon(ring)
    assert note is None
    np.testing.assert_array_equal(dense(rasterise(Polygons((kept,)), 12, 12), 12, 12), bits)


@pytest.mark.parametrize(
    ("ring", "words"),
    [
        ([], "0 distinct points"),
        ([(1, 1), (1, 1), (1, 1)], "1 distinct points"),
        ([(1, 1), (5, 5), (1, 1)], "2 distinct points"),
        ([(0, 0), (5, 5), (10, 10)], "no area"),
        ([(0, 0), (10, 0), (10, 10), (10, 0)], "no area"),
        ([(np.nan, 0), (10, 0), (10, 10)], "2 distinct points"),
    ],
)
def test_what_has_no_area_is_left_out_with_a_note(ring, words):
    rings, note = repair_polygon(ring)
    assert rings == () and words in note


def test_points_that_are_not_numbers_are_left_out_with_a_note():
    (kept,), note = repair_polygon([(0, 0), (10, 0), (np.inf, 3), (10, 10)])
    np.testing.assert_array_equal(kept, [(0, 0), (10, 0), (10, 10)])
    assert "not numbers" in note
