"""Learning to detect: YOLOv7-tiny with any of its necks and backbones."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from semiscope.errors import SettingsError
from semiscope.infer.decoders import YoloDecoder
from semiscope.learn.examples import DetectExamples
from semiscope.learn.losses.anchors import fit_anchors
from semiscope.learn.losses.yolo import YoloLossSettings, yolo_loss
from semiscope.learn.tasks.common import (
    LearnSettings,
    TaskData,
    best_weights,
    load_pretrained,
    parameter_groups,
)
from semiscope.nets.efficientnet_lite import EfficientNetLite0
from semiscope.nets.yolov7_tiny import COCO_ANCHORS, STRIDES, Backbone, Neck, YoloV7Tiny


class DetectSettings(LearnSettings):
    """What is learned and from what."""

    net: Literal["yolov7-tiny"] = Field("yolov7-tiny", description="Network")
    neck: Neck = Field("elan", description="How levels are fused")
    backbone: Backbone = Field("yolov7-tiny", description="What extracts features")
    init: Path | None = Field(
        None, description="Run with the same network whose best weights are the start"
    )
    optimiser: Literal["sgd", "adamw"] = Field("sgd", description="How weights are updated")
    momentum: float = Field(0.937, ge=0, lt=1, description="Of SGD; the first beta of AdamW")
    suppression_iou: float = Field(
        0.65, gt=0, le=1, description="Overlap above which the lower score of a class is left out"
    )
    loss: YoloLossSettings = YoloLossSettings()

    @model_validator(mode="after")
    def _weights_fit(self) -> DetectSettings:
        if self.backbone != "efficientnet-lite0" and (self.pretrained or self.frozen_stages):
            raise ValueError("pretrained and frozen_stages are for backbone efficientnet-lite0")
        return self


class DetectTask:
    """Trains a ``YoloV7Tiny`` (see ``learn.loop.Task``)."""

    def __init__(self, settings: DetectSettings, seed: int) -> None:
        """Opens the data and fits the anchors.

        Raises:
            DataError: No training image with a box, or no box to validate on.
        """
        self.settings = settings
        self.data = TaskData(settings, seed, DetectExamples, "box")
        self.anchors = fit_anchors(self.data.examples.sizes(), np.array(COCO_ANCHORS), seed)
        self._built = {
            "classes": len(self.data.classes),
            "neck": settings.neck,
            "backbone": settings.backbone,
            "channels": settings.channels,
            "anchors": self.anchors.shape[1],
        }

    def network(self) -> nn.Module:
        """A fresh network, its backbone loaded and frozen as the settings say."""
        settings = self.settings
        network = YoloV7Tiny(**self._built)
        if settings.init is not None:
            try:
                network.load_state_dict(best_weights(settings.init))
            except RuntimeError:
                raise SettingsError(
                    f"{settings.init}: expected weights of a network with the same neck, backbone, "
                    "channels and classes, found another. Set these as that run has them."
                ) from None
        if isinstance(network.backbone, EfficientNetLite0):
            load_pretrained(network.backbone, settings.pretrained, settings.backbone)
            network.backbone.freeze(settings.frozen_stages)
            # depthwise convolutions run 1.5 times as fast in this layout on a CPU
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network

    def spec(self) -> dict[str, Any]:
        """What ``compress.export`` needs to rebuild the network and to write the model file."""
        settings = self.settings
        network = f"{settings.net}, backbone {settings.backbone}, neck {settings.neck}"
        return self.data.spec(settings.net, self._built, network, self._decoder())

    def optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        """Decay on convolution weights alone; biases start from a high rate under SGD (YOLO)."""
        settings = self.settings
        rows = parameter_groups(network, settings)
        for row in rows:
            if row["kind"] == "bias" and settings.optimiser == "sgd" and not settings.pretrained:
                row["warmup_lr"] = 0.1
        if settings.optimiser == "sgd":
            return torch.optim.SGD(rows, momentum=settings.momentum, nesterov=True)
        return torch.optim.AdamW(rows, betas=(settings.momentum, 0.999))

    def examples(self) -> DetectExamples:
        """The training views."""
        return self.data.examples

    def loss(
        self, network: nn.Module, batch: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """YOLOv7's loss of one batch."""
        images, targets = batch
        device = next(network.parameters()).device
        if self.settings.backbone == "efficientnet-lite0":
            images = images.to(memory_format=torch.channels_last)
        outputs = network(images.to(device, non_blocking=True))
        anchors = torch.tensor(self.anchors, dtype=torch.float32, device=device)
        return yolo_loss(outputs, targets.to(device), anchors, STRIDES, self.settings.loss)

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """AP on the held-out images; fitness is YOLO's 0.1 AP50 + 0.9 AP."""
        return self.data.validation.evaluate(network, self._decoder())

    def _decoder(self) -> YoloDecoder:
        return YoloDecoder(
            strides=STRIDES,
            anchors=self.anchors.tolist(),
            iou_threshold=self.settings.suppression_iou,
        )
