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
from semiscope.infer.segmenter import segment
from semiscope.types import Sample

_TILES = 4


class MapValidation:
    """The held-out images, and what they say of a network.

    Attributes:
        class_iou: IoU by class, from the newest evaluation.
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
            DataError: A class map has another size or an index that is no class.
            ImageError: A file cannot be read.
        """
        self._images = [read_mapped(s, classes) for s in samples]
        self._classes, self._defects, self._spec = classes, defects, spec
        self.class_iou: dict[str, float] = {}

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
        for image in self._images:
            found = segment(engine, self._spec, image.pixels, batch=_TILES).indices
            rows.append(("", "", confusion(image.classes, found, len(self._classes))))
        network.train(training)
        report = segmentation_report(rows, self._classes, self._defects)
        self.class_iou = {k: v for k, v in report.per_class.items() if v is not None}
        means = {
            "mean_iou": report.mean_iou,
            "materials": report.materials,
            "defect": report.defect,
        }
        figures = {name: value for name, value in means.items() if value is not None}
        return {"fitness": report.mean_iou or 0.0, **figures}
