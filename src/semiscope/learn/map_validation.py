"""What held-out images say of a segmenter, tiled and blended as the shipped file's are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from semiscope.data.class_maps import read_mapped
from semiscope.evaluate.segmentation import confusion, segmentation_report
from semiscope.infer.model import InputSpec
from semiscope.infer.segmenter import ClassMap, regions, segment
from semiscope.learn.kept import read_all
from semiscope.types import Mask, Sample

_TILES = 4
_ACCEPT_PRECISION = 0.9


class MapValidation:
    """The held-out images, and what they say of a network.

    Attributes:
        class_iou: IoU by class, from the newest evaluation.
        thresholds: For the regions of each defect, likewise: all are reported, and accepted from
            the score on from which nine of ten are mostly what they are called.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        classes: Sequence[str],
        defects: Sequence[str],
        spec: InputSpec,
    ) -> None:
        """Reads the images.

        Raises:
            DataError: A class map has another size or an index that is no class, or no image can
                be read. Of several those that cannot be are left out with a word.
        """
        self._images = [image for _, image in read_all(lambda s: read_mapped(s, classes), samples)]
        self._classes, self._defects, self._spec = classes, defects, spec
        self.class_iou: dict[str, float] = {}
        self.thresholds: dict[str, dict[str, float]] = {}

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Mean IoU over all classes, the materials and the defects; fitness is the first."""
        device = next(network.parameters()).device
        training = network.training
        network.eval()

        def engine(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
            with torch.no_grad():
                logits = network(torch.from_numpy(inputs).to(device))
            return np.asarray(logits.float().cpu().numpy())

        rows = []
        called: dict[str, list[tuple[float, bool]]] = {name: [] for name in self._defects}
        for image in self._images:
            found = segment(engine, self._spec, image.pixels, batch=_TILES)
            rows.append(("", "", confusion(image.classes, found.indices, len(self._classes))))
            for name in self._defects:
                index = self._classes.index(name)
                called[name] += _regions_right(found, image.classes, index)
        network.train(training)
        report = segmentation_report(rows, self._classes, self._defects)
        self.thresholds = {k: {"report": 0.0, "accept": _accept(v)} for k, v in called.items()}
        self.class_iou = {k: v for k, v in report.per_class.items() if v is not None}
        means = {
            "mean_iou": report.mean_iou,
            "materials": report.materials,
            "defect": report.defect,
        }
        figures = {name: value for name, value in means.items() if value is not None}
        return {"fitness": report.mean_iou or 0.0, **figures}


def _regions_right(
    found: ClassMap, truth: NDArray[np.uint8], index: int
) -> list[tuple[float, bool]]:
    """Score of each region of a class, and whether half of its pixels truly are of the class."""
    called = regions(found, [index])
    rows = []
    for score, shape in zip(called.score.tolist(), called.shapes or (), strict=True):
        assert isinstance(shape, Mask)
        height, width = shape.bits.shape
        part = truth[shape.y : shape.y + height, shape.x : shape.x + width]
        rows.append((score, bool((part[shape.bits] == index).mean() >= 0.5)))
    return rows


def _accept(rows: list[tuple[float, bool]]) -> float:
    """The lowest score from which on so many regions are right; 1 where there is none."""
    rows = sorted(rows, reverse=True)
    right = np.cumsum([hit for _, hit in rows])
    enough = np.flatnonzero(right >= _ACCEPT_PRECISION * np.arange(1, len(rows) + 1))
    return rows[enough[-1]][0] if len(enough) else 1.0
