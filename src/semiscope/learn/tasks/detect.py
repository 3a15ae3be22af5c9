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
from semiscope.learn import checkpoint
from semiscope.learn.examples import DetectExamples
from semiscope.learn.losses.anchors import fit_anchors
from semiscope.learn.losses.yolo import YoloLossSettings, yolo_loss
from semiscope.learn.tasks.common import (
    LearnSettings,
    TaskData,
    load_pretrained,
    parameter_groups,
)
from semiscope.nets.efficientnet_lite import EfficientNetLite0
from semiscope.nets.yolov7_tiny import (
    COCO_ANCHORS,
    STRIDES,
    Backbone,
    Neck,
    YoloV7Tiny,
    scale_factors,
)


class DetectSettings(LearnSettings):
    """What is learned and from what."""

    net: Literal["yolov7-tiny", "yolov5n", "yolov5n-seg", "yolov5s-seg"] = Field(
        "yolov7-tiny", description="Network; those named -seg outline what they find"
    )
    neck: Neck = Field("elan", description="How yolov7-tiny fuses levels")
    backbone: Backbone = Field("yolov7-tiny", description="What extracts yolov7-tiny's features")
    init: Path | None = Field(
        None, description="Run with the same network, pruned or not, whose best weights start it"
    )
    optimiser: Literal["sgd", "adamw"] = Field("sgd", description="How weights are updated")
    momentum: float = Field(0.937, ge=0, lt=1, description="Of SGD; the first beta of AdamW")
    suppression_iou: float = Field(
        0.65, gt=0, le=1, description="Overlap above which the lower score of a class is left out"
    )
    sparsity: float = Field(
        0.0,
        ge=0,
        description="L1 weight on batch-norm scale factors (5e-4 before pruning by slimming); the "
        "newest weights are then kept in place of the best",
    )
    loss: YoloLossSettings = YoloLossSettings()

    @model_validator(mode="after")
    def _weights_fit(self) -> DetectSettings:
        if self.backbone != "efficientnet-lite0" and (self.pretrained or self.frozen_stages):
            raise ValueError("pretrained and frozen_stages are for backbone efficientnet-lite0")
        if self.net != "yolov7-tiny":
            own = ("neck", "backbone", "sparsity")
            changed = [n for n in own if getattr(self, n) != type(self).model_fields[n].default]
            if changed:
                raise ValueError(
                    f"{', '.join(changed)}: of net yolov7-tiny alone, found {self.net}"
                )
        return self


class DetectTask:
    """Trains a ``YoloV7Tiny`` (see ``learn.loop.Task``)."""

    def __init__(self, settings: DetectSettings, seed: int) -> None:
        """Opens the data and fits the anchors.

        Raises:
            DataError: No training image with a box, or no box to validate on.
            SettingsError: The run to start from has no weights, or another kind of network.
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
        self._start: dict[str, Tensor] | None = None
        if settings.init is not None:
            self._start, spec = trained_detector(settings.init)
            if "widths" in spec["built"]:
                self._built["widths"] = spec["built"]["widths"]

    def network(self) -> nn.Module:
        """A fresh network, its backbone loaded and frozen as the settings say."""
        settings = self.settings
        try:
            network = YoloV7Tiny(**self._built)
            if self._start is not None:
                network.load_state_dict(self._start)
        except (RuntimeError, ValueError):
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
        if "widths" in self._built:
            network += ", pruned"
        return self.data.spec(settings.net, self._built, network, self._decoder())

    def optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        """See ``yolo_optimiser``."""
        return yolo_optimiser(network, self.settings)

    def examples(self) -> DetectExamples:
        """The training views."""
        return self.data.examples

    def loss(
        self, network: nn.Module, batch: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """YOLOv7's loss of one batch, with the penalty on scale factors where one is set."""
        images, targets = batch
        device = next(network.parameters()).device
        if self.settings.backbone == "efficientnet-lite0":
            images = images.to(memory_format=torch.channels_last)
        images = images.to(device, non_blocking=True)
        return self.judge(network, images, network(images), targets.to(device))

    def judge(
        self, network: nn.Module, images: Tensor, outputs: list[Tensor], targets: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a network's raw output for a batch that is on its device."""
        anchors = torch.tensor(self.anchors, dtype=torch.float32, device=images.device)
        loss, parts = yolo_loss(outputs, targets, anchors, STRIDES, self.settings.loss)
        if self.settings.sparsity:
            # its gradient is sparsity * sign(factor), as Liu 2017 adds it after the backward pass
            penalty = self.settings.sparsity * torch.cat(scale_factors(network)).abs().sum()
            loss, parts = loss + penalty, {**parts, "sparsity": penalty.detach()}
        return loss, parts

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """AP on the held-out images; fitness is YOLO's 0.1 AP50 + 0.9 AP.

        While scale factors are driven down it is 0, so that the newest weights are kept: the best
        of a network that began well are those from before they fell.
        """
        figures = self.data.validation.evaluate(network, self._decoder())
        return {**figures, "fitness": 0.0} if self.settings.sparsity else figures

    def _decoder(self) -> YoloDecoder:
        return YoloDecoder(
            strides=STRIDES,
            anchors=self.anchors.tolist(),
            iou_threshold=self.settings.suppression_iou,
        )


def trained_detector(run: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A detector's best weights, and what its run says of it (``TaskData.spec``).

    Raises:
        SettingsError: It has no evaluated weights, or its network is another.
    """
    weights, state = checkpoint.best(run)
    spec: dict[str, Any] = state["spec"]
    if spec["net"] != "yolov7-tiny":
        raise SettingsError(
            f"{run}: expected a run with network yolov7-tiny, found {spec['net']}. Choose a run of "
            "train detect."
        )
    return weights, spec


def yolo_optimiser(network: nn.Module, settings: DetectSettings) -> torch.optim.Optimizer:
    """Decay on convolution weights alone; biases start from a high rate under SGD (YOLO)."""
    rows = parameter_groups(network, settings)
    for row in rows:
        if row["kind"] == "bias" and settings.optimiser == "sgd" and not settings.pretrained:
            row["warmup_lr"] = 0.1
    if settings.optimiser == "sgd":
        return torch.optim.SGD(rows, momentum=settings.momentum, nesterov=True)
    return torch.optim.AdamW(rows, betas=(settings.momentum, 0.999))
