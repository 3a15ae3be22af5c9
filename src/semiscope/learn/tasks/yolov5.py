"""Learning YOLOv5: boxes, and with the networks named -seg their outlines too."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from semiscope.errors import SettingsError
from semiscope.infer.decoders import PrototypeDecoder, YoloDecoder
from semiscope.learn import checkpoint
from semiscope.learn.examples import DetectExamples, InstanceExamples
from semiscope.learn.losses.anchors import fit_anchors
from semiscope.learn.losses.prototypes import prototype_loss
from semiscope.learn.losses.yolo import yolo_loss
from semiscope.learn.tasks.common import TaskData
from semiscope.learn.tasks.detect import DetectSettings, DetectTask, yolo_optimiser
from semiscope.nets.yolov5 import YOLOV5
from semiscope.nets.yolov7_tiny import COCO_ANCHORS, STRIDES


def detect_task(settings: DetectSettings, seed: int) -> DetectTask | YoloV5Task:
    """The task of the network that the settings name.

    Raises:
        DataError: As ``DetectTask`` and ``YoloV5Task``.
    """
    return (YoloV5Task if settings.net in YOLOV5 else DetectTask)(settings, seed)


class YoloV5Task:
    """Trains a ``YoloV5`` or a ``YoloV5Seg`` (see ``learn.loop.Task``)."""

    def __init__(self, settings: DetectSettings, seed: int) -> None:
        """Opens the data and fits the anchors.

        Raises:
            DataError: No training image with a box, no box to validate on, or outlines are to be
                learned and an instance has none.
        """
        self.settings = settings
        self.outlines = settings.net.endswith("-seg")
        self.data: TaskData[DetectExamples] = (
            TaskData(settings, seed, InstanceExamples, "mask")
            if self.outlines
            else TaskData(settings, seed, DetectExamples, "box")
        )
        self.anchors = fit_anchors(self.data.examples.sizes(), np.array(COCO_ANCHORS), seed)
        self._built = {
            "classes": len(self.data.classes),
            "channels": settings.channels,
            "anchors": self.anchors.shape[1],
        }
        self._decoder = (PrototypeDecoder if self.outlines else YoloDecoder)(
            strides=STRIDES,
            anchors=self.anchors.tolist(),
            iou_threshold=settings.suppression_iou,
        )

    def network(self) -> nn.Module:
        """A fresh network, or one with the weights of the run that the settings name."""
        network = YOLOV5[self.settings.net](**self._built)
        if self.settings.init is not None:
            weights, _ = checkpoint.best(self.settings.init)
            try:
                network.load_state_dict(weights)
            except RuntimeError:
                raise SettingsError(
                    f"{self.settings.init}: expected weights of a {self.settings.net} with the "
                    "same channels and classes, found another. Set these as that run has them."
                ) from None
        return network

    def spec(self) -> dict[str, Any]:
        """What ``compress.export`` needs to rebuild the network and to write the model file."""
        net = self.settings.net
        return self.data.spec(net, self._built, net, self._decoder)

    def optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        """See ``yolo_optimiser``."""
        return yolo_optimiser(network, self.settings)

    def examples(self) -> DetectExamples:
        """The training views."""
        return self.data.examples

    def loss(
        self, network: nn.Module, batch: tuple[Tensor, ...]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one batch: YOLOv7's assignment and terms, and that of the masks."""
        device = next(network.parameters()).device
        images, targets, *masks = (part.to(device, non_blocking=True) for part in batch)
        anchors = torch.tensor(self.anchors, dtype=torch.float32, device=device)
        outputs, settings = network(images), self.settings.loss
        if self.outlines:
            return prototype_loss(outputs, targets, masks[0], anchors, STRIDES, settings)
        return yolo_loss(outputs, targets, anchors, STRIDES, settings)

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """AP of boxes or masks on the held-out images; fitness is YOLO's 0.1 AP50 + 0.9 AP."""
        return self.data.validation.evaluate(network, self._decoder)
