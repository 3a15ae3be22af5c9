"""Learning one class for the whole image, from folders of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor, nn

from semiscope.errors import DataError, SettingsError
from semiscope.learn import checkpoint
from semiscope.learn.class_data import learned_classes, open_paired, split_labels
from semiscope.learn.class_examples import ClassExamples, ClassViewSettings
from semiscope.learn.class_validation import ClassValidation
from semiscope.learn.loop import LoopSettings
from semiscope.learn.tasks.common import InputSettings, load_pretrained
from semiscope.nets.classifier import Classifier, ClassifierNet
from semiscope.nets.vit import VITS, Vit, load_vit


class ClassifySettings(InputSettings):
    """What is learned and from what."""

    data: Path = Field(description="Data set with a folder a class")
    pairs: Path | None = Field(
        None,
        description="CSV (columns high and low) or KLARF file that names for images of the data "
        "their partners of low magnification: both are looked at together, and the network learns "
        "to do without a partner too",
    )
    alone: float = Field(
        0.3, ge=0, lt=1, description="Share of the views of a pair that are without the partner"
    )
    net: ClassifierNet = Field("efficientnet-lite0", description="What extracts features")
    init: Path | None = Field(
        None,
        description="Run of train pretrain or train classify with the same net, whose best "
        "weights are the start",
    )
    patch: int = Field(16, ge=2, description="Side of a patch of a ViT, px")
    frozen_norms: bool = Field(
        False,
        description="Batch norms keep the statistics of the weights that are the start: better "
        "where labels are few",
    )
    freeze: bool = Field(False, description="Only the last layer learns: a linear probe")
    clean: tuple[str, ...] = Field((), description="Classes that mean no defect")
    labels_per_class: int = Field(
        0,
        ge=0,
        description="Draw so many training images of each class by the seed, those held out among "
        "them; 0 for all",
    )
    leave_out: tuple[str, ...] = Field(
        (), description="Classes that are not learned, to see whether they are found unknown"
    )
    validation: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of train held out when the set has no val folder; with 0 the newest "
        "weights are kept in place of the best",
    )
    height: int = Field(224, ge=32, multiple_of=32, description="Rows of the network's input")
    width: int = Field(224, ge=32, multiple_of=32, description="Columns of the network's input")
    channels: Annotated[Literal[1, 3], BeforeValidator(int)] = Field(
        1, description="1 for grey images, 3 for colour"
    )
    optimiser: Literal["adamw", "sgd"] = Field("adamw", description="How weights are updated")
    learning_rate: float = Field(5e-4, gt=0, description="At its peak")
    layer_decay: float = Field(
        0.75,
        gt=0,
        le=1,
        description="Learning rate of a stage as a share of the next one's, where trained weights "
        "are the start",
    )
    weight_decay: float = Field(0.05, ge=0, description="On weights, not on biases and norms")
    label_smoothing: float = Field(
        0.1, ge=0, lt=1, description="Share of the truth that is spread over all classes"
    )
    dropout: float = Field(
        0.2, ge=0, lt=1, description="Share of the features that the last layer does not see"
    )
    augment: ClassViewSettings = ClassViewSettings()

    @model_validator(mode="after")
    def _options_fit(self) -> ClassifySettings:
        if self.net in VITS and (self.height % self.patch or self.width % self.patch):
            raise ValueError(
                f"height and width: expected multiples of patch {self.patch}, found "
                f"{self.height} and {self.width}"
            )
        if self.frozen_norms and self.net in VITS:
            raise ValueError(f"frozen_norms: expected a net with batch norms, found {self.net}")
        if self.frozen_norms and not self.pretrained and self.init is None:
            raise ValueError(
                "frozen_norms: expected weights to start from (pretrained or init), found none"
            )
        return self


class ClassifyLoopSettings(LoopSettings):
    """How long and how a training of a classifier runs."""

    epochs: int = Field(50, ge=1, description="Passes over the training set")
    batch: int = Field(32, ge=2, description="Images a step and process")
    ema_decay: float = Field(0.998, ge=0, lt=1, description="Of the averaged weights")
    ema_ramp: float = Field(100.0, gt=0, description="Updates in which the average slows down")
    balanced: bool = Field(True, description="Draw images so that every class is met as often")


class ClassifyTask:
    """Trains a ``Classifier`` (see ``learn.loop.Task``)."""

    def __init__(self, settings: ClassifySettings, seed: int) -> None:
        """Opens the data.

        Raises:
            DataError: No image has a class, there are not two classes to tell apart, or pairs are
                named and no training image has a partner.
            SettingsError: A class that is to be left out, or that is clean, is none of the classes.
        """
        self.settings = settings
        dataset, low = open_paired(settings.data, settings.pairs)
        if unknown := [name for name in settings.clean if name not in dataset.classes]:
            raise SettingsError(
                f"clean: expected some of {', '.join(dataset.classes)}, found {', '.join(unknown)}"
            )
        learned = learned_classes(dataset, settings.data, settings.leave_out)
        train, held = split_labels(learned, settings.labels_per_class, settings.validation, seed)
        self.classes = train.classes
        self.input = settings.input_spec()
        self._examples = ClassExamples(train, self.input, settings.augment, low, settings.alone)
        self._validation = ClassValidation(held, self.input, low)
        height, width = np.median([s.size for s in train if s.size is not None], 0)
        self._field = int(height), int(width)
        self._held_out = [
            s.path.relative_to(settings.data).as_posix() for s in held if s.split != "val"
        ]
        self._text = f"{settings.data.name}: {len(train)} images, {len(held)} held out"
        if low is not None:
            count = sum(s.path in low for s in train)
            if not count:
                raise DataError(
                    f"{settings.pairs}: expected partners of training images, found none. Its "
                    f"column high must name images in {settings.data}"
                )
            self._text += f", {count} with a partner of low magnification"
        self._built: dict[str, Any] = {
            "net": settings.net,
            "classes": len(self.classes),
            "image": [settings.height, settings.width],
            "patch": settings.patch,
            "channels": settings.channels,
            "dropout": settings.dropout,
            "standardised": settings.freeze,
            "two_magnifications": low is not None,
        }

    def network(self) -> nn.Module:
        """A fresh network, its encoder loaded and frozen as the settings say.

        Raises:
            SettingsError: The weights or the run cannot be had, or do not fit.
        """
        settings = self.settings
        network = Classifier(**self._built)
        load_pretrained(network.encoder, settings.pretrained, settings.net)
        if settings.init is not None:
            _take(network, settings.init, self.classes)
        network.freeze(len(network.parts()) if settings.freeze else settings.frozen_stages)
        if settings.frozen_norms:
            network.freeze_norms()
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network

    def spec(self) -> dict[str, Any]:
        """What ``compress.export`` needs to rebuild the network and to write the model file."""
        two = ", two magnifications fused late" if self._built["two_magnifications"] else ""
        return {
            "task": "classify",
            "net": "classifier",
            "built": self._built,
            "network": self.settings.net + two,
            "classes": list(self.classes),
            "clean": [name for name in self.settings.clean if name in self.classes],
            "held_out": self._held_out,
            "input": self.input.model_dump(mode="json"),
            "field": list(self._field),
            "thresholds": self._validation.thresholds,
            "data": self._text,
        }

    def optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        """AdamW or SGD, with a learning rate that falls from the last stage to the first."""
        assert isinstance(network, Classifier)
        settings = self.settings
        trained = bool(settings.pretrained) or settings.init is not None
        decay = settings.layer_decay if trained else 1.0
        groups = layer_groups(network, settings, decay)
        if settings.optimiser == "sgd":
            return torch.optim.SGD(groups, momentum=0.9, nesterov=True)
        return torch.optim.AdamW(groups)

    def examples(self) -> ClassExamples:
        """The training views."""
        return self._examples

    def loss(
        self, network: nn.Module, batch: tuple[Tensor, ...]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross entropy of one batch with smoothed labels."""
        device = next(network.parameters()).device
        images, *further, labels = (part.to(device, non_blocking=True) for part in batch)
        images = images.to(memory_format=torch.channels_last)
        logits, _ = network(images, *further)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.settings.label_smoothing)
        return loss, {"loss": loss.detach()}

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Accuracy, balanced accuracy and kappa on the held-out images."""
        return self._validation.evaluate(network)


def layer_groups(
    network: Classifier, settings: ClassifySettings, decay: float
) -> list[dict[str, Any]]:
    """Learning parameters by learning rate and weight decay.

    The last layer learns at the full rate, the encoder's last stage at ``decay`` times that and
    ``backbone_rate``, the one before at ``decay`` squared, and so on down to the stem (Bao et al.
    2022, as He et al. 2022 fine-tune).
    """
    parts = network.parts()
    stage_of = {p: i for i, part in enumerate(parts) for m in part for p in m.parameters()}
    rows: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = settings.learning_rate
        if name.startswith("encoder."):
            # what is in no part stands before all of them
            depth = len(parts) - stage_of.get(parameter, 0)
            rate *= settings.backbone_rate * decay**depth
        weight = parameter.ndim > 1 and parameter.shape[0] > 1
        rows.setdefault((rate, weight), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": rate,
            "weight_decay": settings.weight_decay if weight else 0.0,
        }
        for (rate, weight), parameters in sorted(rows.items(), key=lambda r: r[0])
    ]


def _take(network: Classifier, run: Path, classes: Sequence[str]) -> None:
    """Gives a network the best weights of a run: the encoder, and a head of the same classes.

    Raises:
        SettingsError: The run has none, or those of another network.
    """
    tensors, state = checkpoint.best(run)
    spec = state["spec"]
    start = {k.removeprefix("encoder."): v for k, v in tensors.items() if k.startswith("encoder.")}
    try:
        if isinstance(network.encoder, Vit):
            rows, columns = (side // spec["built"]["patch"] for side in spec["built"]["image"])
            load_vit(network.encoder, start, (rows, columns))
        else:
            network.encoder.load_state_dict(start)
    except (KeyError, RuntimeError, ValueError) as error:
        raise SettingsError(
            f"{run}: expected weights of net {network.net} as this run has it, found those of "
            f"{spec['net']}: {str(error).splitlines()[0]}"
        ) from None
    head = {k: v for k, v in tensors.items() if not k.startswith("encoder.")}
    own = {k: v.shape for k, v in network.state_dict().items() if not k.startswith("encoder.")}
    if spec.get("classes") == list(classes) and own == {k: v.shape for k, v in head.items()}:
        network.load_state_dict(head, strict=False)
