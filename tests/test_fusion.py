"""Weighted box fusion and mask voting against the formulas worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from semiscope.fusion import fuse_boxes
from semiscope.geometry import crop, dense
from semiscope.types import Annotations, Mask, Polygons


def found(boxes, scores, classes=None, shapes=None):
    return Annotations(boxes, [0] * len(scores) if classes is None else classes, scores, shapes)


def test_two_models_agree_on_one_box():
    a, b = found([[0, 0, 10, 10]], [0.9]), found([[2, 0, 12, 10]], [0.3])
    fused = fuse_boxes([a, b])
    # x: (0.9 * 0 + 0.3 * 2) / 1.2 = 0.5; score: (0.9 + 0.3) / 2 * min(2, 2) / 2
    np.testing.assert_allclose(fused.xyxy, [[0.5, 0, 10.5, 10]], rtol=1e-6)
    np.testing.assert_allclose(fused.score, [0.6], rtol=1e-6)


def test_what_one_of_three_models_sees_loses_two_thirds_of_its_score():
    none = Annotations.empty()
    fused = fuse_boxes([none, found([[0, 0, 10, 10]], [0.9]), none])
    np.testing.assert_allclose(fused.score, [0.3], rtol=1e-6)
    np.testing.assert_array_equal(fused.xyxy, [[0, 0, 10, 10]])


def test_weights_count_in_box_and_score():
    a, b = found([[0, 0, 10, 10]], [0.5]), found([[2, 0, 12, 10]], [0.5])
    fused = fuse_boxes([a, b], weights=[3, 1])
    # weighted scores 1.5 and 0.5; mean 1.0 * 2 / 4
    np.testing.assert_allclose(fused.xyxy, [[0.5, 0, 10.5, 10]], rtol=1e-6)
    np.testing.assert_allclose(fused.score, [0.5], rtol=1e-6)


def test_more_members_than_models_count_as_one_each():
    a = found([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]], [0.6, 0.6, 0.6])
    np.testing.assert_allclose(fuse_boxes([a, Annotations.empty()]).score, [0.6], rtol=1e-6)


def test_score_never_passes_one():
    twice = found([[0, 0, 10, 10], [0, 0, 10, 10]], [1, 1])
    assert fuse_boxes([twice, Annotations.empty()], weights=[5, 1]).score == [1.0]


def test_classes_are_fused_apart_and_low_scores_left_out():
    a = found([[0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60]], [0.8, 0.6, 0.04], [0, 1, 0])
    fused = fuse_boxes([a], skip_score=0.05)
    assert fused.class_id.tolist() == [0, 1]
    np.testing.assert_allclose(fused.score, [0.8, 0.6])


def test_a_box_joins_the_cluster_it_overlaps_most():
    a = found([[0, 0, 10, 10], [5, 0, 15, 10]], [0.9, 0.8])
    b = found([[4, 0, 14, 10]], [0.5])
    fused = fuse_boxes([a, b], iou_threshold=0.4)
    # IoU with the second, 9/11, beats 6/14; the threshold admits both.
    np.testing.assert_allclose(
        fused.xyxy[0], [(0.8 * 5 + 0.5 * 4) / 1.3, 0, 13 / 1.3 + 6 / 1.3, 10]
    )
    np.testing.assert_allclose(fused.xyxy[1], [0, 0, 10, 10])
    np.testing.assert_allclose(fused.score, [0.65, 0.45])


def test_overlap_is_measured_with_the_fused_box_not_with_the_first():
    # The third overlaps the first by 6/14 = 0.43, the mean of the first two by 7/13 = 0.54.
    boxes = [[0, 0, 10, 10], [2, 0, 12, 10], [4, 0, 14, 10]]
    parts = [found([box], [0.5]) for box in boxes]
    assert len(fuse_boxes(parts, iou_threshold=0.5)) == 1


def test_a_model_weighs_class_by_class():
    # both models see both; the first is trusted in class 0, the second in class 1
    trust = [[3, 1], [1, 3]]
    a = found([[0, 0, 10, 10], [0, 0, 10, 10]], [0.8, 0.4], [0, 1])
    b = found([[2, 0, 12, 10], [2, 0, 12, 10]], [0.4, 0.8], [0, 1])
    fused = fuse_boxes([a, b], trust)
    # weighted scores 2.4 and 0.4 in class 0: x = 0.8 / 2.8; 0.4 and 2.4 in class 1: x = 4.8 / 2.8
    np.testing.assert_allclose(fused.score, [2.8 / 2 * 2 / 4] * 2, rtol=1e-6)
    left = dict(zip(fused.class_id.tolist(), fused.xyxy[:, 0].tolist(), strict=True))
    assert left == pytest.approx({0: 0.8 / 2.8, 1: 4.8 / 2.8})


def test_trust_decides_between_two_classes_of_one_place():
    a, b = found([[0, 0, 10, 10]], [0.7], [0]), found([[0, 0, 10, 10]], [0.8], [1])
    assert fuse_boxes([a, b]).class_id.tolist() == [1, 0]
    # 0.7 * 0.9 / 1.2 = 0.525 against 0.8 * 0.6 / 1.2 = 0.4
    trusted = fuse_boxes([a, b], [[0.9, 0.6], [0.3, 0.6]])
    assert trusted.class_id.tolist() == [0, 1]
    np.testing.assert_allclose(trusted.score, [0.525, 0.4], rtol=1e-6)


def test_a_model_that_is_not_asked_takes_nothing_from_the_score():
    a, b = found([[0, 0, 10, 10]], [0.6], [1]), found([[0, 0, 10, 10]], [0.9], [1])
    fused = fuse_boxes([a, b], [[1, 0.5], [1, 0]])
    np.testing.assert_allclose(fused.score, [0.6], rtol=1e-6)
    assert len(fuse_boxes([a, b], [[1, 0], [1, 0]])) == 0
    np.testing.assert_allclose(fuse_boxes([a, b], [0, 2]).score, [0.9], rtol=1e-6)
    # two members of the one model that is asked count as one
    twice = Annotations.concatenate([a, a])
    np.testing.assert_allclose(fuse_boxes([twice, b], [1, 0]).score, [0.6], rtol=1e-6)


def voted(masks, scores, weights=None):
    """The fused mask, as a map of 20 x 20, of models that all see one box."""
    box = [[0, 0, 20, 20]]
    parts = [found(box, [s], shapes=(m,)) for m, s in zip(masks, scores, strict=True)]
    (shape,) = fuse_boxes(parts, weights).shapes
    return dense(shape, 20, 20), shape


def test_votes_worked_by_hand():
    # a row of five pixels; half of the weight 0.9 + 0.6 + 0.5 = 2.0 is 1.0
    a = Mask(3, 7, np.array([[1, 1, 1, 0]], bool))
    b = Mask(4, 7, np.array([[1, 0, 1]], bool))
    c = Mask(5, 7, np.array([[1, 1, 1]], bool))
    # column 3: 0.9; 4: 1.5; 5: 1.4; 6: 0.6 + 0.5; 7: 0.5
    bits, shape = voted([a, b, c], [0.9, 0.6, 0.5])
    assert [p.tolist() for p in np.nonzero(bits)] == [[7, 7, 7], [4, 5, 6]]
    assert (shape.x, shape.y, shape.bits.shape) == (4, 7, (1, 3))
    # the first alone has more than half: 2.7 of 3.8
    bits, _ = voted([a, b, c], [0.9, 0.6, 0.5], [3, 1, 1])
    assert np.nonzero(bits)[1].tolist() == [3, 4, 5]


def test_votes_agree_with_whole_images():
    rng = np.random.default_rng(0)
    for _ in range(20):
        maps = rng.random((3, 20, 20)) < 0.5
        scores = rng.uniform(0.1, 0.9, 3).astype(np.float32)
        bits, _ = voted([crop(m) for m in maps], scores)
        expected = np.tensordot(scores.astype(float), maps, 1) >= scores.astype(float).sum() / 2
        np.testing.assert_array_equal(bits, expected)


def test_exactly_half_is_inside_whatever_the_sum_s_rounding():
    one, other = Mask(2, 2, np.ones((1, 1), bool)), Mask(9, 9, np.ones((1, 1), bool))
    bits, _ = voted([one, other], [0.5, 0.5])
    assert bits.sum() == 2
    # in float32, 0.1 + 0.2 is less than 0.3
    bits, _ = voted([one, other, other], [0.3, 0.1, 0.2])
    assert bits[2, 2] and bits[9, 9]


def test_holes_and_parts_are_voted_on_like_all_else():
    ring = np.ones((5, 5), bool)
    ring[2, 2] = False
    full = Mask(4, 4, np.ones((5, 5), bool))
    bits, _ = voted([Mask(4, 4, ring), full, Mask(4, 4, ring)], [0.5, 0.9, 0.5])
    assert bits.sum() == 24 and not bits[6, 6]
    bits, _ = voted([Mask(4, 4, ring), full], [0.5, 0.9])
    assert bits.sum() == 25


def test_an_empty_mask_votes_against_all():
    full, empty = Mask(4, 4, np.ones((3, 3), bool)), Mask(0, 0, np.zeros((0, 0), bool))
    assert voted([full, empty], [0.6, 0.5])[0].sum() == 9
    bits, shape = voted([full, empty], [0.5, 0.6])
    assert not bits.any() and shape.bits.size == 0
    assert voted([empty, empty], [0.5, 0.5])[1].area == 0


def test_only_the_members_crops_are_looked_at():
    far = 10**7
    a, b = Mask(far, far, np.ones((4, 2), bool)), Mask(far + 1, far, np.ones((4, 2), bool))
    box = [[far, far, far + 3, far + 4]]
    empty = Mask(0, 0, np.zeros((0, 0), bool))
    parts = [found(box, [0.5], shapes=(m,)) for m in (a, b)]
    parts.append(found(box, [0.1], shapes=(empty,)))
    (shape,) = fuse_boxes(parts, [1.2, 1.2, 1]).shapes
    assert (shape.x, shape.y, shape.area) == (far + 1, far, 4)


def test_members_without_shape_count_in_box_and_score_only():
    mask = Mask(1, 0, np.ones((10, 8), bool))
    a = found([[0, 0, 10, 10]], [0.2], shapes=(mask,))
    detector = found([[2, 0, 12, 10]], [0.6])
    fused = fuse_boxes([detector, a])
    np.testing.assert_allclose(fused.xyxy, [[1.5, 0, 11.5, 10]], rtol=1e-6)
    np.testing.assert_allclose(fused.score, [0.4], rtol=1e-6)
    assert fused.shapes == (mask,)
    # what only the detector sees has no shape; where no one has any there are none at all
    alone = fuse_boxes([found([[50, 50, 60, 60]], [0.9]), a]).shapes
    assert alone == (None, mask)
    assert fuse_boxes([detector, detector]).shapes is None


def test_outlines_vote_too():
    square = Polygons((np.array([[-2.0, 2], [6, 2], [6, 6], [-2, 6]]),))
    mask = Mask(4, 2, np.ones((4, 6), bool))
    bits, _ = voted([square, mask], [0.5, 0.5])
    assert bits[2:6, :10].all() and bits.sum() == 40
    assert voted([square, mask], [0.6, 0.5])[0].sum() == 24


def test_scores_of_zero_and_nothing_at_all():
    zero = found([[0, 0, 10, 10], [0, 0, 10, 10]], [0, 0])
    fused = fuse_boxes([zero])
    np.testing.assert_allclose(fused.xyxy, [[0, 0, 10, 10]])
    assert len(fuse_boxes([])) == 0 and len(fuse_boxes([Annotations.empty()])) == 0


def test_weights_for_too_few_classes():
    with pytest.raises(ValueError, match="2 classes or more, found 1"):
        fuse_boxes([found([[0, 0, 1, 1]], [0.5], [1])], [[1]])


@pytest.mark.parametrize("weights", [[1], [1, 2, 3], [1, np.nan], [1, -1], [[1, 1]]])
def test_wrong_weights(weights):
    with pytest.raises(ValueError, match="expected 2 weights"):
        fuse_boxes([Annotations.empty(), Annotations.empty()], weights)
