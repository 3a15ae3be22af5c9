"""Precision, recall and F1 of detections over the score, at an IoU of 0.5.

Matching is COCO's: image by image, by falling score, a detection takes the best truth of its class
that is still free and that it overlaps with an IoU of at least 0.5. The curves follow YOLO's
convention: per class over 1000 scores from 0 to 1, linear between detections, F1 not smoothed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from semiscope.geometry import box_iou, mask_iou
from semiscope.types import Annotations, Mask

MATCH_IOU = 0.5

Floats = NDArray[np.float64]
ShapeKind = Literal["box", "mask"]


@dataclass(frozen=True, slots=True, eq=False)
class ClassMatches:
    """The detections of one class in all images.

    Attributes:
        score: (n,) falling.
        hit: (n,) bool, whether the detection took a truth.
        instances: Number of truths.
    """

    score: Floats
    hit: NDArray[np.bool_]
    instances: int

    def sweep(self) -> tuple[Floats, Floats, Floats]:
        """Scores, each once and falling; precision and recall of all detections from there up."""
        last = np.flatnonzero(np.diff(self.score, append=-np.inf))
        hits = np.cumsum(self.hit)[last]
        return self.score[last], hits / (last + 1), hits / max(self.instances, 1)

    def best_f1(self) -> float | None:
        """The score from which up F1 is best; None without truth or without any hit."""
        score, precision, recall = self.sweep()
        if not self.instances or not self.hit.any():
            return None
        return float(score[np.argmax(_f1(precision, recall))])


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """Precision, recall and F1 of K classes.

    Attributes:
        score: (1000,) from 0 to 1.
        precision: (K, 1000) of the detections with at least that score; 0 for a class without truth
            or without detections.
        recall: (K, 1000), likewise.
        f1: (K, 1000), likewise.
        recall_grid: (101,) from 0 to 1.
        precision_at_recall: (K, 101) COCO's precision-recall curve at IoU 0.5; 0 for a class
            without truth.
    """

    score: Floats
    precision: Floats
    recall: Floats
    f1: Floats
    recall_grid: Floats
    precision_at_recall: Floats


def instance_iou(a: Annotations, b: Annotations, shape: ShapeKind) -> NDArray[np.float32]:
    """(n, m) IoU of all pairs; for masks every instance must have its Mask."""
    if shape == "box":
        return box_iou(a.xyxy, b.xyxy)
    masks = [[s for s in x.shapes or () if isinstance(s, Mask)] for x in (a, b)]
    return mask_iou(*masks)


def match(
    truth: Sequence[Annotations],
    predictions: Sequence[Annotations],
    classes: int,
    shape: ShapeKind = "box",
) -> list[ClassMatches]:
    """Which detections of each class took a truth.

    Args:
        truth: One for each image.
        predictions: One for each image.
        classes: How many there are.
        shape: What must overlap.
    """
    class_ids, scores, hits = [], [], []
    for real, found in zip(truth, predictions, strict=True):
        found = found[np.argsort(-found.score, kind="stable")]
        iou = instance_iou(found, real, shape)
        iou[found.class_id[:, None] != real.class_id[None, :]] = -1
        hit = np.zeros(len(found), bool)
        for i in np.flatnonzero((iou >= MATCH_IOU).any(axis=1)):
            best = int(np.argmax(iou[i]))
            if iou[i, best] >= MATCH_IOU:
                hit[i] = True
                iou[:, best] = -1
        class_ids.append(found.class_id)
        scores.append(found.score)
        hits.append(hit)
    class_id = np.concatenate([np.zeros(0, np.int64), *class_ids])
    score = np.concatenate([np.zeros(0), *scores])
    hit = np.concatenate([np.zeros(0, bool), *hits])
    order = np.argsort(-score, kind="stable")
    known = np.concatenate([np.zeros(0, np.int64), *(t.class_id for t in truth)])
    result = []
    for k in range(classes):
        chosen = order[class_id[order] == k]
        result.append(ClassMatches(score[chosen], hit[chosen], int(np.sum(known == k))))
    return result


def curves_of(matches: Sequence[ClassMatches], precision_at_recall: Floats) -> Curves:
    """The curves of all classes; precision_at_recall is (K, 101) from the AP computation."""
    grid = np.linspace(0, 1, 1000)
    precision, recall = np.zeros((2, len(matches), len(grid)))
    for k, found in enumerate(matches):
        if found.instances and len(found.score):
            score, p, r = found.sweep()
            precision[k] = np.interp(-grid, -score, p, left=1)
            recall[k] = np.interp(-grid, -score, r, left=0)
    return Curves(
        grid, precision, recall, _f1(precision, recall), np.linspace(0, 1, 101), precision_at_recall
    )


def _f1(precision: Floats, recall: Floats) -> Floats:
    return 2 * precision * recall / np.maximum(precision + recall, 1e-16)
