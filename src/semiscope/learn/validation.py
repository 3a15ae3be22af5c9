"""What held-out images say of a detector, with the decoding of the shipped file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from semiscope.evaluate.detection import evaluate_detections, score_for_precision
from semiscope.infer.decode import decode_yolo, place
from semiscope.infer.model import ClassThreshold, InputSpec, Prepared, prepare
from semiscope.io.image import read_image
from semiscope.nets.yolov7_tiny import STRIDES
from semiscope.types import Annotations, Dataset

_EVALUATION_SCORE = 0.001  # COCO's AP needs the whole curve
_ACCEPT_PRECISION = 0.9


class Validation:
    """The held-out images, prepared once, and what they say of a network."""

    def __init__(self, dataset: Dataset, spec: InputSpec, suppression_iou: float) -> None:
        self._samples = [s for s in dataset if s.annotations is not None]
        self._spec = spec
        self._suppression_iou = suppression_iou
        self._prepared: list[tuple[Prepared, tuple[int, int]]] = []
        self.thresholds: dict[str, dict[str, float]] = {}

    def evaluate(
        self, network: nn.Module, anchors: Any, classes: Sequence[str], batch: int = 8
    ) -> dict[str, float]:
        """AP, AP50, precision and recall, with the decoding of the shipped file."""
        if not self._prepared:
            for sample in self._samples:
                pixels = read_image(sample.path).pixels
                self._prepared.append((prepare(pixels, self._spec), pixels.shape[:2]))
        device = next(network.parameters()).device
        training = network.training
        network.eval()
        found: list[Annotations] = []
        for first in range(0, len(self._prepared), batch):
            part = self._prepared[first : first + batch]
            images = torch.from_numpy(np.stack([p.tensor for p, _ in part])).to(device)
            with torch.no_grad():
                maps = [m.float().cpu().numpy() for m in network(images)]
            for i, (image, size) in enumerate(part):
                boxes = decode_yolo(
                    [m[i] for m in maps], anchors, STRIDES, _EVALUATION_SCORE, self._suppression_iou
                )
                found.append(place(boxes, image.placement, *size))
        network.train(training)
        truth = [s.annotations for s in self._samples if s.annotations is not None]
        sizes = [size for _, size in self._prepared]
        report = evaluate_detections(truth, found, classes, sizes)
        self.thresholds = {
            name: _thresholds(truth, found, i, report.per_class[name].best_f1_score)
            for i, name in enumerate(classes)
        }
        ap, ap50 = report.map or 0.0, report.map50 or 0.0
        return {
            "fitness": 0.1 * ap50 + 0.9 * ap,
            "map": ap,
            "map50": ap50,
            "precision": report.precision or 0.0,
            "recall": report.recall or 0.0,
        }


def _thresholds(
    truth: Sequence[Annotations],
    found: Sequence[Annotations],
    class_id: int,
    best_f1: float | None,
) -> dict[str, float]:
    """Report from the best F1 on, accept from the score of 90 % precision on, held-out images."""
    default = ClassThreshold()
    report = default.report if best_f1 is None else best_f1
    accept = score_for_precision(truth, found, class_id, _ACCEPT_PRECISION)
    return {
        "report": report,
        "accept": max(report, default.accept if accept is None else accept),
    }
