import numpy as np
import pytest

from semiscope.infer.model import ClassThreshold
from semiscope.inspection.thresholds import dispose
from semiscope.types import Annotations

CLASSES = ("a", "b", "c")
THRESHOLDS = {
    "a": ClassThreshold(report=0.3, accept=0.6),
    "b": ClassThreshold(report=0.5, accept=0.5),
}


def found(*pairs):
    boxes = np.tile(np.array([0, 0, 4, 4], np.float32), (len(pairs), 1))
    return Annotations(
        boxes, np.array([c for c, _ in pairs]), np.array([s for _, s in pairs], np.float32)
    )


def test_each_class_has_its_own_cuts():
    kept, told = dispose(
        found((0, 0.29), (0, 0.3), (0, 0.6), (1, 0.49), (1, 0.5)), CLASSES, THRESHOLDS
    )
    assert kept.class_id.tolist() == [0, 1, 0]
    assert kept.score.tolist() == pytest.approx([0.6, 0.5, 0.3])
    assert told == ("accept", "accept", "review")


def test_a_class_without_thresholds_is_always_reviewed():
    _, told = dispose(found((2, 0.99), (2, 0.01)), CLASSES, THRESHOLDS)
    assert told == ("review", "review")


def test_min_score_replaces_the_reporting_cut_only():
    kept, told = dispose(found((0, 0.1), (0, 0.7), (1, 0.2)), CLASSES, THRESHOLDS, min_score=0.15)
    assert kept.class_id.tolist() == [0, 1]
    assert told == ("accept", "review")
    kept, _ = dispose(found((0, 0.7), (1, 0.95)), CLASSES, THRESHOLDS, min_score=0.9)
    assert kept.class_id.tolist() == [1]


def test_nothing_found():
    kept, told = dispose(Annotations.empty(), CLASSES, THRESHOLDS)
    assert len(kept) == 0 and told == ()
