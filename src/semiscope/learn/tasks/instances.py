"""Learning to outline instances by region proposals: Mask R-CNN and SEMI-PointRend.

The baselines of SEMI-DiffusionInst (Gu et al. 2024, section 4). Their recipe is detectron2's: SGD
at 0.02 for a batch of 16.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from semiscope.infer.decoders import InstanceDecoder
from semiscope.learn.examples import InstanceExamples
from semiscope.learn.losses.mask_rcnn import MaskRcnnLossSettings, mask_rcnn_loss
from semiscope.learn.tasks.common import (
    OutlineSettings,
    TaskData,
    parameter_groups,
    prepare_network,
)
from semiscope.nets.mask_rcnn import with_backbone


class InstancesSettings(OutlineSettings):
    """What is learned and from what."""

    net: Literal["mask-rcnn", "pointrend"] = Field(
        "mask-rcnn", description="Network; they differ in the mask head"
    )
    features: int = Field(256, ge=16, description="Channels of the pyramid and the mask head")
    hidden: int = Field(1024, ge=16, description="Width of the fully connected layers")
    anchor: float = Field(
        32.0, gt=0, description="Side of the smallest anchor, px; each level doubles it"
    )
    proposals: int = Field(300, ge=1, description="Regions an image that are looked at closely")
    detections: int = Field(100, ge=1, description="Most instances found in an image")
    subdivisions: int = Field(
        5, ge=1, le=6, description="Doublings of pointrend's mask: 5 give 224 x 224"
    )
    optimiser: Literal["sgd", "adamw"] = Field("sgd", description="How weights are updated")
    learning_rate: float = Field(0.02, gt=0, description="At its peak")
    momentum: float = Field(0.9, ge=0, lt=1, description="Of SGD; the first beta of AdamW")
    loss: MaskRcnnLossSettings = MaskRcnnLossSettings()


class InstancesTask:
    """Trains a ``MaskRcnn`` (see ``learn.loop.Task``)."""

    def __init__(self, settings: InstancesSettings, seed: int) -> None:
        """Opens the data.

        Raises:
            DataError: No training image with an instance, none to validate on, or one without
                outline.
        """
        self.settings = settings
        self.data = TaskData(settings, seed, InstanceExamples, "mask")
        self._built = {
            "backbone": settings.backbone,
            "channels": settings.channels,
            "classes": len(self.data.classes),
            "width": settings.features,
            "box_hidden": settings.hidden,
            "mask": "conv" if settings.net == "mask-rcnn" else "point",
            "sizes": [settings.anchor * 2**i for i in range(5)],
            "proposals": settings.proposals,
            "detections": settings.detections,
            "subdivisions": settings.subdivisions,
        }

    def network(self) -> nn.Module:
        """A fresh network, its backbone loaded and frozen as the settings say."""
        network = with_backbone(**self._built)  # type: ignore[arg-type]
        prepare_network(network, self.settings)
        return network

    def spec(self) -> dict[str, Any]:
        """What ``compress.export`` needs to rebuild the network and to write the model file."""
        settings = self.settings
        network = f"{settings.net}, backbone {settings.backbone}, width {settings.features}"
        return self.data.spec(settings.net, self._built, network, InstanceDecoder())

    def optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        """SGD or AdamW, with decay on weights alone."""
        settings = self.settings
        rows = parameter_groups(network, settings)
        if settings.optimiser == "sgd":
            return torch.optim.SGD(rows, momentum=settings.momentum)
        return torch.optim.AdamW(rows, betas=(settings.momentum, 0.999))

    def examples(self) -> InstanceExamples:
        """The training views."""
        return self.data.examples

    def loss(
        self, network: nn.Module, batch: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of both stages on one batch."""
        device = next(network.parameters()).device
        images, rows, masks = (part.to(device, non_blocking=True) for part in batch)
        images = images.to(memory_format=torch.channels_last)
        return mask_rcnn_loss(network, images, rows, masks, self.settings.loss)

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Mask AP on the held-out images; fitness is 0.1 AP50 + 0.9 AP."""
        return self.data.validation.evaluate(network, InstanceDecoder())
