"""What held-out images say of a classifier, prepared as for the shipped file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from semiscope.evaluate.classification import (
    accept_thresholds,
    accuracy,
    balanced_accuracy,
    confusion,
    kappa,
)
from semiscope.infer.model import InputSpec, prepare
from semiscope.io.image import read_image
from semiscope.learn.kept import whole
from semiscope.types import Dataset

_BATCH = 32
_ACCEPT_PURITY = 0.9


class ClassValidation:
    """The held-out images, and what they say of a network.

    Attributes:
        thresholds: By class, from the newest evaluation: accepted from the score on from which
            nine of ten are what they are called.
    """

    def __init__(
        self, dataset: Dataset, spec: InputSpec, partners: Mapping[Path, Path] | None = None
    ) -> None:
        """Takes the data; images are read at the first evaluation, broken ones are left out.

        Args:
            dataset: Samples with labels; none at all when nothing is held out.
            spec: How pixels become the network's input.
            partners: As in ``ClassExamples``.
        """
        self._dataset, self._spec, self._partners = dataset, spec, partners
        self._inputs: list[tuple[NDArray[np.float32], ...]] = []
        self._truth: list[int | None] = []
        self.thresholds: dict[str, dict[str, float]] = {}

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Accuracy, balanced accuracy and kappa; fitness is the last.

        Where nothing is held out there are no figures, and the newest weights are the best.
        """
        if not self._inputs:
            self._read()
        if not self._inputs:
            return {"fitness": 0.0}
        device = next(network.parameters()).device
        training = network.training
        network.eval()
        parts = []
        for first in range(0, len(self._inputs), _BATCH):
            some = zip(*self._inputs[first : first + _BATCH], strict=True)
            with torch.no_grad():
                inputs = (torch.from_numpy(np.stack(p)).to(device) for p in some)
                logits, _ = network(*inputs)
            parts.append(logits.float().softmax(1).cpu().numpy())
        network.train(training)
        scores = np.concatenate(parts)
        truth = np.array(self._truth, np.int64)
        accept = accept_thresholds(truth, scores, _ACCEPT_PURITY)
        self.thresholds = {
            name: {"report": 0.0, "accept": min(float(score), 1.0)}
            for name, score in zip(self._dataset.classes, accept, strict=True)
        }
        counts = confusion(truth, scores.argmax(1), len(self._dataset.classes))
        # one class alone has no kappa
        agreement = float(np.nan_to_num(kappa(counts)))
        return {
            "fitness": agreement,
            "accuracy": accuracy(counts),
            "balanced_accuracy": balanced_accuracy(counts),
            "kappa": agreement,
        }

    def _read(self) -> None:
        for sample in self._dataset:
            image = self._prepared(sample.path)
            if image is None:
                continue
            self._truth.append(sample.label)
            if self._partners is None:
                self._inputs.append((image,))
                continue
            partner = self._partners.get(sample.path)
            low = None if partner is None else self._prepared(partner)
            has = np.array(low is not None, np.float32)
            self._inputs.append((image, np.zeros_like(image) if low is None else low, has))

    def _prepared(self, path: Path) -> NDArray[np.float32] | None:
        return whole(lambda p: prepare(read_image(p).specimen, self._spec).tensor, path)
