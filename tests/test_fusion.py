"""Weighted box fusion against the paper's formulas worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from semiscope.fusion import fuse_boxes
from semiscope.types import Annotations, Mask


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


def test_the_shape_is_that_of_the_highest_weighted_score():
    small, large = Mask(0, 0, np.ones((9, 9), bool)), Mask(0, 0, np.ones((10, 10), bool))
    a = found([[0, 0, 10, 10]], [0.6], shapes=(large,))
    b = found([[0, 0, 9, 9]], [0.5], shapes=(small,))
    assert fuse_boxes([a, b]).shapes == (large,)
    assert fuse_boxes([a, b], weights=[1, 2]).shapes == (small,)


def test_scores_of_zero_and_nothing_at_all():
    zero = found([[0, 0, 10, 10], [0, 0, 10, 10]], [0, 0])
    fused = fuse_boxes([zero])
    np.testing.assert_allclose(fused.xyxy, [[0, 0, 10, 10]])
    assert len(fuse_boxes([])) == 0 and len(fuse_boxes([Annotations.empty()])) == 0


@pytest.mark.parametrize("weights", [[1], [1, 2, 3], [1, 0], [1, -1]])
def test_wrong_weights(weights):
    with pytest.raises(ValueError, match="expected 2 weights"):
        fuse_boxes([Annotations.empty(), Annotations.empty()], weights)
