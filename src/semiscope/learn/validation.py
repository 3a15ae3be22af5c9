"""What held-out images say of a detector, with the decoding of the shipped file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from semiscope.evaluate.curves import ShapeKind
from semiscope.evaluate.detection import evaluate_detections, score_for_precision
from semiscope.infer.decoders import Decoder
from semiscope.infer.model import ClassThreshold, InputSpec, Prepared, prepare
from semiscope.infer.sampling import Dial
from semiscope.io.image import read_image
from semiscope.learn.kept import read_all
from semiscope.types import Annotations, Dataset, Sample

_EVALUATION_SCORE = 0.001  # COCO's AP needs the whole curve
_ACCEPT_PRECISION = 0.9


class Validation:
    """The held-out images, prepared once, and what they say of a network.

    Attributes:
        thresholds: By class, from the newest evaluation.
        class_ap: Likewise.
    """

    def __init__(self, dataset: Dataset, spec: InputSpec, shape: ShapeKind) -> None:
        self._classes = dataset.classes
        self._samples = [s for s in dataset if s.annotations is not None]
        self._spec, self._shape = spec, shape
        self._truth: list[Annotations] = []
        self._prepared: list[tuple[Prepared, tuple[int, int]]] = []
        self.thresholds: dict[str, dict[str, float]] = {}
        self.class_ap: dict[str, float] = {}

    def evaluate(self, network: nn.Module, decoder: Decoder, batch: int = 8) -> dict[str, float]:
        """AP, AP50, precision and recall, with the decoding of the shipped file.

        Args:
            network: Called with images and the decoder's further inputs.
            decoder: Turns its output into annotations.
            batch: Images at once.

        Raises:
            DataError: No image can be read. Of several those that cannot be are left out with a
                word.
        """
        if not self._prepared:
            read = read_all(self._prepare, self._samples)
            self._truth = [s.annotations for s, _ in read if s.annotations is not None]
            self._prepared = [prepared for _, prepared in read]
        device = next(network.parameters()).device
        further = [torch.from_numpy(v).to(device) for v in decoder.inputs(Dial()).values()]
        training = network.training
        network.eval()
        found: list[Annotations] = []
        for first in range(0, len(self._prepared), batch):
            part = self._prepared[first : first + batch]
            images = torch.from_numpy(np.stack([p.tensor for p, _ in part])).to(device)
            with torch.no_grad():
                raw = [m.float().cpu().numpy() for m in network(images, *further)]
            found += [
                decoder.annotations(raw, i, image.placement, size, _EVALUATION_SCORE)
                for i, (image, size) in enumerate(part)
            ]
        network.train(training)
        truth = self._truth
        sizes = [size for _, size in self._prepared]
        report = evaluate_detections(truth, found, self._classes, sizes, shape=self._shape)
        self.class_ap = {k: r.ap for k, r in report.per_class.items() if r.ap is not None}
        self.thresholds = {
            name: _thresholds(truth, found, i, report.per_class[name].best_f1_score)
            for i, name in enumerate(self._classes)
        }
        ap, ap50 = report.map or 0.0, report.map50 or 0.0
        return {
            "fitness": 0.1 * ap50 + 0.9 * ap,
            "map": ap,
            "map50": ap50,
            "precision": report.precision or 0.0,
            "recall": report.recall or 0.0,
        }

    def _prepare(self, sample: Sample) -> tuple[Prepared, tuple[int, int]]:
        pixels = read_image(sample.path).pixels
        return prepare(pixels, self._spec), pixels.shape[:2]


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
