"""Learning to detect from the truth and from a larger detector at once."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from semiscope.learn.losses.distill import DistillLossSettings, distill_loss
from semiscope.learn.tasks.common import check_teacher
from semiscope.learn.tasks.detect import DetectSettings, DetectTask, trained_detector
from semiscope.nets.yolov7_tiny import STRIDES, YoloV7Tiny


class DistillSettings(DetectSettings):
    """What is learned, from what and from whom."""

    net: Literal["yolov7-tiny"] = Field("yolov7-tiny", description="Network")
    teacher: Path = Field(description="Run whose best weights teach: the network before pruning")
    distill: DistillLossSettings = DistillLossSettings()


class DistillTask(DetectTask):
    """Trains a detector beside a teacher, whose anchors it takes (see ``learn.loop.Task``)."""

    def __init__(self, settings: DistillSettings, seed: int) -> None:
        """Opens the data and loads the teacher.

        Raises:
            DataError: No training image with a box, or no box to validate on.
            SettingsError: The teacher, or the run to start from, has no weights, is no detector of
                this kind, or was made for other classes or another input.
        """
        super().__init__(settings, seed)
        weights, spec = trained_detector(settings.teacher)
        check_teacher(settings.teacher, spec, self.data.classes, self.data.input)
        self.anchors = np.array(spec["decoder"]["anchors"])
        self._distill = settings.distill
        self._teacher = YoloV7Tiny(**spec["built"]).eval().requires_grad_(False)
        self._teacher.load_state_dict(weights)

    def judge(
        self, network: nn.Module, images: Tensor, outputs: list[Tensor], targets: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss against the truth and against the teacher's answers to the same images."""
        loss, parts = super().judge(network, images, outputs, targets)
        with torch.no_grad():
            answers = self._teacher.to(images.device)(images)
        anchors = torch.tensor(self.anchors, dtype=torch.float32, device=images.device)
        taught, taught_parts = distill_loss(
            outputs, answers, anchors, STRIDES, self.settings.loss, self._distill
        )
        return loss + taught, {**parts, **taught_parts}
