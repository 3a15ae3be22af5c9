import numpy as np

from semiscope.learn.losses.anchors import best_possible_recall, fit_anchors
from semiscope.nets.yolov7_tiny import COCO_ANCHORS

COCO = np.array(COCO_ANCHORS)


def test_good_anchors_are_left_alone():
    sizes = np.array([[12.0, 14.0], [60, 50], [200, 180]])
    assert best_possible_recall(sizes, COCO) == 1
    assert fit_anchors(sizes, COCO, 0) is COCO


def test_anchors_are_fitted_to_long_thin_boxes():
    rng = np.random.default_rng(0)
    sizes = rng.normal((400, 4), (40, 0.4), (300, 2)).clip(2)
    assert best_possible_recall(sizes, COCO) < 0.1
    fitted = fit_anchors(sizes, COCO, 0, generations=50)
    assert fitted.shape == COCO.shape
    assert best_possible_recall(sizes, fitted) > 0.98
    assert (np.diff(fitted.reshape(-1, 2).prod(1)) >= 0).all()
    np.testing.assert_array_equal(fitted, fit_anchors(sizes, COCO, 0, generations=50))


def test_too_few_or_no_boxes_keep_the_anchors():
    assert fit_anchors(np.zeros((0, 2)), COCO, 0) is COCO
    assert fit_anchors(np.array([[500.0, 3.0]]), COCO, 0) is COCO
