"""Learning class maps: DeepLabV3+ from labelled images alone.

The supervised baseline of Lee et al. 2025 (section 3.1, Table 1, and the first row of Table 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from semiscope.data.augment import ViewSettings
from semiscope.data.class_maps import open_mapped
from semiscope.data.dataset import hold_out
from semiscope.errors import DataError, SettingsError
from semiscope.infer.segmenter import TASK
from semiscope.learn import checkpoint
from semiscope.learn.loop import LoopSettings
from semiscope.learn.losses.class_map import MapLossSettings, map_loss
from semiscope.learn.map_examples import MapExamples
from semiscope.learn.map_validation import MapValidation
from semiscope.learn.tasks.common import (
    InputSettings,
    load_pretrained,
    parameter_groups,
    take_fitting,
)
from semiscope.nets.deeplab import DeepLabV3Plus
from semiscope.types import Dataset


class MapViewSettings(ViewSettings):
    """Views as cross-sections allow them: mirrored, scaled, hardly turned."""

    rotation_deg: float = Field(3.0, ge=0, le=180, description="Largest rotation either way")
    scale: float = Field(0.25, ge=0, lt=1, description="Zoom between 1 - scale and 1 + scale")
    translate: float = Field(0.0, ge=0, le=0.5, description="Largest shift, share of the side")
    shot_noise: float = Field(
        0.03, ge=0, le=1, description="Largest standard deviation of shot noise at white"
    )


class MapSettings(InputSettings):
    """What the ways of learning class maps share."""

    net: Literal["deeplabv3plus"] = Field("deeplabv3plus", description="Network")
    encoder: Literal["resnet18", "resnet50", "resnet101", "efficientnet-lite0"] = Field(
        "efficientnet-lite0", description="What extracts its features"
    )
    init: Path | None = Field(
        None,
        description="Run of segment or semi whose best weights are the start, as far as they fit; "
        "the last layer if the classes are the same",
    )
    features: int = Field(256, ge=8, description="Channels of the pyramid and the decoder")
    height: int = Field(512, ge=32, multiple_of=32, description="Rows of the network's input")
    width: int = Field(512, ge=32, multiple_of=32, description="Columns of the network's input")
    crop: int = Field(256, ge=32, multiple_of=32, description="Side of a training view, px")
    crops: int = Field(16, ge=1, description="Views of each image an epoch")
    balance: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of views about a class drawn evenly, however few pixels it has",
    )
    defects: tuple[str, ...] = Field(
        (), description="Classes that are defects; the others are materials"
    )
    channels: Annotated[Literal[1, 3], BeforeValidator(int)] = Field(
        1, description="1 for grey images, 3 for colour"
    )
    learning_rate: float = Field(2e-3, gt=0, description="At its peak")
    backbone_rate: float = Field(0.5, gt=0, description="Learning rate of the encoder, a share")
    weight_decay: float = Field(0.01, ge=0, description="On weights, not on biases and norms")
    augment: MapViewSettings = MapViewSettings()
    loss: MapLossSettings = MapLossSettings()


class SegmentSettings(MapSettings):
    """What is learned and from what."""

    data: Path = Field(description="Data set with class maps: images/ and masks/")


class MapLoopSettings(LoopSettings):
    """How long and how a training of class maps runs."""

    epochs: int = Field(40, ge=1, description="Passes over the training set")
    batch: int = Field(8, ge=1, description="Views a step and process")
    warmup_epochs: float = Field(1.0, ge=0, description="Epochs of rising learning rate")
    ema_decay: float = Field(0.998, ge=0, lt=1, description="Of the averaged weights")
    ema_ramp: float = Field(100.0, gt=0, description="Updates in which the average slows down")


class MapData:
    """Labelled images, opened once.

    Attributes:
        classes: Names by class index.
        input: How an image is brought to the network.
        examples: The training views.
        validation: The held-out images.
    """

    def __init__(self, root: Path, settings: MapSettings, seed: int) -> None:
        """Opens the data.

        Raises:
            DataError: The training or the validation part has no image with a class map, or a map
                is faulty.
            SettingsError: A defect is none of the classes.
        """
        dataset = open_mapped(root)
        self.classes = dataset.classes
        self.input = settings.input_spec()
        unknown = [d for d in settings.defects if d not in self.classes]
        if unknown:
            raise SettingsError(
                f"defects: expected some of {', '.join(self.classes)}, found {', '.join(unknown)}"
            )
        train, held = _split(dataset, root, settings.validation, seed)
        self.examples = MapExamples(
            train.samples,
            self.classes,
            self.input,
            settings.augment,
            settings.crop,
            settings.crops,
            settings.balance,
        )
        self.validation = MapValidation(held.samples, self.classes, settings.defects, self.input)
        self.text = f"{root.name}: {len(train)} images, {len(held)} held out"


def _split(dataset: Dataset, root: Path, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """The training and the validation part, images with class maps alone."""
    known = {s.split for s in dataset}
    mapped = Dataset(dataset.classes, tuple(s for s in dataset if s.class_map is not None))
    train = mapped.split("train") if "train" in known else mapped.split("")
    if "val" in known:
        held = mapped.split("val")
    else:
        train, held = hold_out(train, share, seed)
    for part, name in ((train, "training"), (held, "validation")):
        if not part.samples:
            raise DataError(f"{root}: expected {name} images with class maps, found none")
    return train, held


class SegmentTask:
    """Trains a ``DeepLabV3Plus`` (see ``learn.loop.Task``)."""

    def __init__(self, settings: SegmentSettings, seed: int) -> None:
        """Opens the data.

        Raises:
            DataError: See ``MapData``.
            SettingsError: Likewise.
        """
        self.settings = settings
        self.data = MapData(settings.data, settings, seed)

    def network(self) -> nn.Module:
        """A fresh network, its encoder loaded and frozen as the settings say."""
        return fresh_network(self.settings, self.data.classes)

    def spec(self) -> dict[str, Any]:
        """What ``compress.export`` needs to rebuild the network and to write the model file."""
        return map_spec(self.settings, self.data, self.data.text)

    def optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(parameter_groups(network, self.settings))

    def examples(self) -> MapExamples:
        """The training views."""
        return self.data.examples

    def loss(
        self, network: nn.Module, batch: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross entropy and Dice of one batch."""
        device = next(network.parameters()).device
        images, truth = (part.to(device, non_blocking=True) for part in batch)
        images = images.to(memory_format=torch.channels_last)
        return map_loss(network(images), truth, self.settings.loss)

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Mean IoU on the held-out images."""
        return self.data.validation.evaluate(network)


def fresh_network(settings: MapSettings, classes: Sequence[str]) -> DeepLabV3Plus:
    """A network as the settings say, its encoder loaded and frozen.

    Raises:
        SettingsError: The weights cannot be had, or do not fit.
    """
    network = DeepLabV3Plus(len(classes), settings.encoder, settings.channels, settings.features)
    load_pretrained(network.backbone, settings.pretrained, settings.encoder)
    if settings.init is not None:
        tensors, state = checkpoint.best(settings.init)
        if state["spec"].get("classes") != list(classes):
            tensors = {k: v for k, v in tensors.items() if not k.startswith("classify.")}
        take_fitting(network, tensors, settings.init)
    network.backbone.freeze(settings.frozen_stages)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def map_spec(settings: MapSettings, data: MapData, text: str) -> dict[str, Any]:
    """What ``compress.export`` needs to rebuild the network and to write the model file.

    Args:
        settings: Of the task.
        data: The labelled images.
        text: The data in words.
    """
    return {
        "task": TASK,
        "net": settings.net,
        "built": {
            "classes": len(data.classes),
            "encoder": settings.encoder,
            "channels": settings.channels,
            "width": settings.features,
        },
        "network": f"{settings.net}, encoder {settings.encoder}, width {settings.features}",
        "classes": list(data.classes),
        "defects": list(settings.defects),
        "input": data.input.model_dump(mode="json"),
        "field": [data.input.height, data.input.width],
        "thresholds": data.validation.thresholds,
        "class_iou": data.validation.class_iou,
        "data": text,
    }
