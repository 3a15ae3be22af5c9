"""How good detections are: COCO's AP, precision and recall, confusion, and thresholds.

AP is what COCO defines (Lin et al., Microsoft COCO, 2014): the mean over the IoU thresholds 0.50 to
0.95 of the area under the interpolated precision-recall curve, at most 100 detections of a class in
an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from semiscope.errors import DataError
from semiscope.evaluate.curves import MATCH_IOU, Curves, ShapeKind, curves_of, instance_iou, match
from semiscope.geometry import rasterise
from semiscope.io.rle import encode_rle
from semiscope.types import Annotations, Mask, Polygons

CONFUSION_SCORE = 0.25


@dataclass(frozen=True, slots=True)
class ClassResult:
    """One class; a figure that needs truth is None when the class has none.

    Attributes:
        ap: AP over IoU 0.50 to 0.95.
        ap50: AP at IoU 0.50.
        instances: Number of truths.
        precision: At the report's score_at_best_f1.
        recall: Likewise.
        best_f1_score: The score from which up this class alone has its best F1; None without a hit.
    """

    ap: float | None
    ap50: float | None
    instances: int
    precision: float | None
    recall: float | None
    best_f1_score: float | None


@dataclass(frozen=True, slots=True, eq=False)
class DetectionReport:
    """All figures of a set of images; a mean is over the classes that have truth, None without any.

    Attributes:
        map: Mean AP over IoU 0.50 to 0.95.
        map50: Mean AP at IoU 0.50.
        per_class: By class name.
        by_size: Mean AP of truths with an area "small" below 32², "medium" below 96² and "large"
            above, px²; the area is the mask's when masks are compared, else the box's.
        precision: Mean at score_at_best_f1, IoU 0.5.
        recall: Likewise.
        score_at_best_f1: The score at which F1, averaged over the classes, is best.
        confusion: (K + 1, K + 1) counts: row the truth, column the prediction, the last one
            background; detections of at least 0.25 at IoU 0.5, the best overlaps matched first,
            whatever the class.
        images: Number of images.
        curves: Precision, recall and F1 over the score, and precision over recall.
    """

    map: float | None
    map50: float | None
    per_class: dict[str, ClassResult]
    by_size: dict[str, float | None]
    precision: float | None
    recall: float | None
    score_at_best_f1: float | None
    confusion: NDArray[np.int64]
    images: int
    curves: Curves

    def to_dict(self) -> dict[str, Any]:
        """All but the curves as plain values for JSON."""
        return {
            "map": self.map,
            "map50": self.map50,
            "per_class": {name: asdict(result) for name, result in self.per_class.items()},
            "by_size": self.by_size,
            "precision": self.precision,
            "recall": self.recall,
            "score_at_best_f1": self.score_at_best_f1,
            "confusion": self.confusion.tolist(),
            "images": self.images,
        }


def evaluate_detections(
    truth: Sequence[Annotations],
    predictions: Sequence[Annotations],
    classes: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    *,
    shape: ShapeKind = "box",
    min_score: float = 0.0,
) -> DetectionReport:
    """Compares predictions with the truth of the same images.

    Args:
        truth: One for each image.
        predictions: One for each image.
        classes: Names that the class ids stand for.
        sizes: (height, width) of each image.
        shape: What is compared: boxes, or masks, where an instance without one counts as its box.
        min_score: Predictions below are left out beforehand.

    Raises:
        DataError: A class id is not in classes, or the numbers of images differ.
    """
    if not len(truth) == len(predictions) == len(sizes):
        raise DataError(
            "truth, predictions and sizes must be of the same images, "
            f"found {len(truth)}, {len(predictions)} and {len(sizes)}"
        )
    for role, many in (("truth", truth), ("predictions", predictions)):
        _check_classes(role, many, len(classes))
    predictions = [p[p.score >= min_score] for p in predictions]
    if shape == "mask":
        truth = [_with_masks(a, *size) for a, size in zip(truth, sizes, strict=True)]
        predictions = [_with_masks(a, *size) for a, size in zip(predictions, sizes, strict=True)]
    matches = match(truth, predictions, len(classes), shape)
    present = np.array([m.instances > 0 for m in matches], bool)
    ap = _coco_precision(truth, predictions, len(classes), sizes, shape)
    curves = curves_of(matches, np.maximum(ap[0, :, :, 0].T, 0))

    best = int(np.argmax(curves.f1[present].mean(axis=0))) if present.any() else 0
    precision, recall = curves.precision[:, best], curves.recall[:, best]
    per_class = {
        name: ClassResult(
            ap=_mean(ap[:, :, k, 0]),
            ap50=_mean(ap[0, :, k, 0]),
            instances=matches[k].instances,
            precision=float(precision[k]) if present[k] else None,
            recall=float(recall[k]) if present[k] else None,
            best_f1_score=matches[k].best_f1(),
        )
        for k, name in enumerate(classes)
    }
    return DetectionReport(
        map=_mean(ap[:, :, :, 0]),
        map50=_mean(ap[0, :, :, 0]),
        per_class=per_class,
        by_size={
            name: _mean(ap[:, :, :, i]) for i, name in enumerate(("small", "medium", "large"), 1)
        },
        precision=float(precision[present].mean()) if present.any() else None,
        recall=float(recall[present].mean()) if present.any() else None,
        score_at_best_f1=float(curves.score[best]) if present.any() else None,
        confusion=_confusion(truth, predictions, len(classes), shape),
        images=len(truth),
        curves=curves,
    )


def score_for_precision(
    truth: Sequence[Annotations],
    predictions: Sequence[Annotations],
    class_id: int,
    precision: float,
) -> float | None:
    """The smallest score from which up a class's detections reach a precision, boxes at IoU 0.5.

    Args:
        truth: One for each image.
        predictions: One for each image.
        class_id: The class.
        precision: To be reached, in [0, 1].

    Returns:
        A score that occurs among the class's detections; None when no score reaches the precision.
    """
    score, reached, _ = match(truth, predictions, class_id + 1)[class_id].sweep()
    enough = np.flatnonzero(reached >= precision)
    return float(score[enough[-1]]) if len(enough) else None


def _check_classes(role: str, many: Sequence[Annotations], classes: int) -> None:
    for i, instances in enumerate(many):
        wrong = instances.class_id[(instances.class_id < 0) | (instances.class_id >= classes)]
        if len(wrong):
            raise DataError(
                f"{role} of image {i}: expected class ids from 0 to {classes - 1}, "
                f"found {int(wrong[0])}; give the classes that the data set was labelled with"
            )


def _with_masks(annotations: Annotations, height: int, width: int) -> Annotations:
    masks = []
    for i, (x0, y0, x1, y1) in enumerate(annotations.xyxy.astype(np.float64)):
        shape = annotations.shapes[i] if annotations.shapes else None
        box = Polygons((np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]),))
        masks.append(rasterise(shape or box, height, width))
    return replace(annotations, shapes=tuple(masks))


def _mean(precision: NDArray[np.float64]) -> float | None:
    """COCO's mean: -1 marks what has no truth."""
    valid = precision[precision > -1]
    return float(valid.mean()) if len(valid) else None


def _coco_precision(
    truth: Sequence[Annotations],
    predictions: Sequence[Annotations],
    classes: int,
    sizes: Sequence[tuple[int, int]],
    shape: ShapeKind,
) -> NDArray[np.float64]:
    """COCO's precision (10 IoU, 101 recalls, K classes, 4 area ranges); -1 where no truth is."""
    if not any(len(t) for t in truth):
        return np.full((10, 101, classes, 4), -1.0)

    def quiet(*_: Any) -> None:
        pass

    real = COCO(
        {
            "images": [{"id": i, "height": h, "width": w} for i, (h, w) in enumerate(sizes, 1)],
            "categories": [{"id": k, "name": str(k)} for k in range(1, classes + 1)],
            "annotations": _coco_entries(truth, sizes, shape),
        },
        print_function=quiet,
    )
    found = real.loadRes(_coco_entries(predictions, sizes, shape))
    kind = "segm" if shape == "mask" else "bbox"
    evaluation = COCOeval_faster(real, found, kind, print_function=quiet)
    evaluation.evaluate()
    evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"], np.float64)[..., -1]


def _coco_entries(
    many: Sequence[Annotations],
    sizes: Sequence[tuple[int, int]],
    shape: ShapeKind,
) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for image, (instances, (height, width)) in enumerate(zip(many, sizes, strict=True), 1):
        boxes = instances.xyxy.astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        for i, box in enumerate(boxes.tolist()):
            entry: dict[str, Any] = {
                "id": len(entries) + 1,
                "image_id": image,
                "category_id": int(instances.class_id[i]) + 1,
                "score": float(instances.score[i]),
                "iscrowd": 0,
            }
            mask = instances.shapes[i] if instances.shapes and shape == "mask" else None
            if isinstance(mask, Mask):
                entry |= {"segmentation": encode_rle(mask, height, width), "area": mask.area}
            else:
                entry |= {"bbox": box, "area": box[2] * box[3]}
            entries.append(entry)
    return entries


def _confusion(
    truth: Sequence[Annotations],
    predictions: Sequence[Annotations],
    classes: int,
    shape: ShapeKind,
) -> NDArray[np.int64]:
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    for real, found in zip(truth, predictions, strict=True):
        found = found[found.score >= CONFUSION_SCORE]
        iou = instance_iou(real, found, shape)
        rows, columns = np.nonzero(iou >= MATCH_IOU)
        order = np.argsort(-iou[rows, columns], kind="stable")
        row_class = np.full(len(found), classes)
        column_class = np.full(len(real), classes)
        for t, p in zip(rows[order], columns[order], strict=True):
            if row_class[p] == classes and column_class[t] == classes:
                row_class[p], column_class[t] = real.class_id[t], found.class_id[p]
        np.add.at(counts, (real.class_id, column_class), 1)
        missed = row_class == classes
        np.add.at(counts, (row_class[missed], found.class_id[missed]), 1)
    return counts
