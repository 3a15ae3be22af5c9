"""Learning to denoise boxes: DiffusionInst (Gu et al. 2024; on SEM images SEMI-DiffusionInst).

True boxes, filled up with random ones, are blurred by noise of a random time; every head of the
network is taught to say the true boxes, classes and masks (Chen et al. 2023, algorithm 1).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from semiscope.infer.decoders import DiffusionDecoder
from semiscope.infer.sampling import MOST_BOXES, TIMES, Sampling, alpha_bar
from semiscope.learn.examples import InstanceExamples
from semiscope.learn.loop import LoopSettings
from semiscope.learn.losses.diffusion import LEAST_BOXES, DiffusionLossSettings, diffusion_loss
from semiscope.learn.tasks.common import (
    OutlineSettings,
    TaskData,
    parameter_groups,
    prepare_network,
)
from semiscope.nets.diffusion_inst import (
    SIGNAL_SCALE,
    Denoiser,
    DiffusionInst,
    boxes_to_signal,
    signal_to_boxes,
)

_LEAST_SIDE = 1e-4  # share of the image that a random filling box has at least


class DiffuseSettings(OutlineSettings):
    """What is learned and from what."""

    net: Literal["diffusion-inst"] = Field("diffusion-inst", description="Network")
    features: int = Field(
        256, ge=32, multiple_of=8, description="Channels of the pyramid and of a box's vector"
    )
    heads: int = Field(6, ge=1, le=12, description="Heads, one refining the boxes of another")
    hidden: int = Field(64, ge=4, description="Width inside a head's dynamic convolution")
    feedforward: int = Field(2048, ge=32, description="Width inside a head's feed-forward layers")
    mask_features: int = Field(128, ge=16, description="Channels of the mask branch")
    boxes: int = Field(
        500, ge=LEAST_BOXES, le=MOST_BOXES, description="Random boxes an image in training"
    )
    learning_rate: float = Field(2.5e-5, gt=0, description="At its peak")
    suppression_iou: float = Field(
        0.5, gt=0, le=1, description="Overlap above which the lower score of a class is left out"
    )
    sampling: Sampling = Sampling()
    loss: DiffusionLossSettings = DiffusionLossSettings()


class DiffuseLoopSettings(LoopSettings):
    """How long and how a training of DiffusionInst runs."""

    clip_norm: float = Field(1.0, gt=0, description="Largest norm of the whole gradient")


class DiffuseTask:
    """Trains a ``DiffusionInst`` (see ``learn.loop.Task``)."""

    def __init__(self, settings: DiffuseSettings, seed: int) -> None:
        """Opens the data.

        Raises:
            DataError: No training image with an instance, none to validate on, or one without
                outline.
        """
        self.settings = settings
        self.data = TaskData(settings, seed, InstanceExamples, "mask")
        self._built = {
            "classes": len(self.data.classes),
            "backbone": settings.backbone,
            "channels": settings.channels,
            "width": settings.features,
            "heads": settings.heads,
            "hidden": settings.hidden,
            "feedforward": settings.feedforward,
            "mask_width": settings.mask_features,
        }
        self._decoder = DiffusionDecoder(
            sampling=settings.sampling, iou_threshold=settings.suppression_iou
        )
        self._level = torch.from_numpy(alpha_bar()).float()

    def network(self) -> nn.Module:
        """A fresh network, its backbone loaded and frozen as the settings say."""
        network = DiffusionInst(**self._built)  # type: ignore[arg-type]
        prepare_network(network, self.settings)
        return network

    def spec(self) -> dict[str, Any]:
        """What ``compress.export`` needs to rebuild the network and to write the model file."""
        settings = self.settings
        network = (
            f"{settings.net}, backbone {settings.backbone}, {settings.heads} heads of width "
            f"{settings.features}"
        )
        return self.data.spec(settings.net, self._built, network, self._decoder)

    def optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(parameter_groups(network, self.settings))

    def examples(self) -> InstanceExamples:
        """The training views."""
        return self.data.examples

    def loss(
        self, network: nn.Module, batch: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """DiffusionInst's loss of one batch at one random time an image."""
        device = next(network.parameters()).device
        images, rows, masks = (part.to(device, non_blocking=True) for part in batch)
        height, width = images.shape[2:]
        time = torch.randint(TIMES, (len(images),)).to(device)
        size = images.new_tensor([width, height, width, height])
        boxes = noisy_boxes(rows, time, self._level.to(device), size, self.settings.boxes)
        images = images.to(memory_format=torch.channels_last)
        stages, features = network(images, boxes, time.to(images.dtype))
        return diffusion_loss(stages, features, rows, masks, self.settings.loss)

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Mask AP on the held-out images; fitness is 0.1 AP50 + 0.9 AP."""
        assert isinstance(network, DiffusionInst)
        return self.data.validation.evaluate(Denoiser(network), self._decoder)


def noisy_boxes(rows: Tensor, time: Tensor, level: Tensor, size: Tensor, count: int) -> Tensor:
    """True boxes filled up to ``count`` and blurred (Chen et al. 2023, algorithm 1).

    Args:
        rows: (n, 6) truth: image index, class, x, y, width, height in pixels.
        time: (B,) a time for each image.
        level: (T,) ``alpha_bar``.
        size: (4,) width, height, width, height of the input.
        count: Boxes an image; of more true ones a random choice is taken.

    Returns:
        (B, count, 4) xyxy in pixels.
    """
    batch = len(time)
    # fillers are about the middle, of all sizes, as in the reference: N(1/2, 1/6) clipped to shares
    share = torch.randn(batch, count, 4).to(size.device) / 6 + 0.5
    half = share[..., 2:].clamp(min=_LEAST_SIDE) / 2
    boxes = torch.cat([share[..., :2] - half, share[..., :2] + half], -1) * size
    for i in range(batch):
        truth = rows[rows[:, 0] == i, 2:]
        if not len(truth):
            # a clean image starts from the box of the whole image
            truth = size.new_tensor([[0.5, 0.5, 1.0, 1.0]]) * size
        truth = truth[torch.randperm(len(truth))[:count]]
        corners = [truth[:, :2] - truth[:, 2:] / 2, truth[:, :2] + truth[:, 2:] / 2]
        boxes[i, : len(truth)] = torch.cat(corners, 1)
    kept = level[time][:, None, None]
    noise = torch.randn(batch, count, 4).to(size.device)
    signal = boxes_to_signal(boxes, size).clamp(-SIGNAL_SCALE, SIGNAL_SCALE)
    return signal_to_boxes(kept.sqrt() * signal + (1 - kept).sqrt() * noise, size)
