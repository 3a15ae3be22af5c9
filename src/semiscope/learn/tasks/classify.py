"""Learning one class for the whole image, from folders of images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor, nn

from semiscope.data.dataset import hold_out, open_dataset
from semiscope.data.pairs import partners, read_pairs
from semiscope.errors import DataError, SettingsError
from semiscope.learn import checkpoint
from semiscope.learn.class_examples import ClassExamples, ClassViewSettings
from semiscope.learn.class_validation import ClassValidation
from semiscope.learn.loop import LoopSettings
from semiscope.learn.tasks.common import InputSettings, best_weights, load_pretrained
from semiscope.nets.classifier import Classifier, ClassifierNet
from semiscope.nets.vit import VITS, Vit, load_vit
from semiscope.types import Dataset, Sample

_log = logging.getLogger(__name__)


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
    freeze: bool = Field(False, description="Only the last layer learns: a linear probe")
    clean: tuple[str, ...] = Field((), description="Classes that mean no defect")
    labels_per_class: int = Field(
        0, ge=0, description="Draw so many training images of each class by the seed; 0 for all"
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
    def _whole_patches(self) -> ClassifySettings:
        if self.net in VITS and (self.height % self.patch or self.width % self.patch):
            raise ValueError(
                f"height and width: expected multiples of patch {self.patch}, found "
                f"{self.height} and {self.width}"
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
        dataset, low = _open_paired(settings)
        train, held = _split(dataset, settings, seed)
        self.classes = train.classes
        self.input = settings.input_spec()
        self._examples = ClassExamples(train, self.input, settings.augment, low, settings.alone)
        self._validation = ClassValidation(held, self.input, low)
        self._field = _median_size(train)
        self._held_out = () if any(s.split == "val" for s in dataset) else _names(held, settings)
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
            "held_out": list(self._held_out),
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
    tensors = best_weights(run)
    _, state = checkpoint.load(run / "best")
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


def _open_paired(settings: ClassifySettings) -> tuple[Dataset, dict[Path, Path] | None]:
    """The data, and the partner of each image that has one; partners are no images of their own."""
    dataset = open_dataset(settings.data)
    if settings.pairs is None:
        return dataset, None
    found = read_pairs(settings.pairs)
    for note in found.notes:
        _log.warning("%s", note)
    places = {s.path.resolve(): s.path for s in dataset}
    low_of = partners(found.pairs)
    low = {places[k.resolve()]: v for k, v in low_of.items() if k.resolve() in places}
    taken = {v.resolve() for v in low.values()}
    samples = tuple(s for s in dataset if s.path.resolve() not in taken)
    return Dataset(dataset.classes, samples, dataset.notes), low


def _split(dataset: Dataset, settings: ClassifySettings, seed: int) -> tuple[Dataset, Dataset]:
    """The training and the held-out part: labelled images of the classes that are learned.

    Raises:
        DataError: No image has a class, or there are not two classes to tell apart.
        SettingsError: A class that is to be left out, or that is clean, is none of the classes.
    """
    for field, names in (("leave_out", settings.leave_out), ("clean", settings.clean)):
        if unknown := [name for name in names if name not in dataset.classes]:
            raise SettingsError(
                f"{field}: expected some of {', '.join(dataset.classes)}, found "
                f"{', '.join(unknown)}"
            )
    known = {s.split for s in dataset}
    train = dataset.split("train" if "train" in known else "")
    # a class that training never sees cannot be told from the others
    shown = {s.label for s in train} - {dataset.classes.index(k) for k in settings.leave_out}
    kept = sorted(k for k in shown if k is not None)
    if len(kept) < 2:
        found = ", ".join(dataset.classes[k] for k in kept) or "none"
        raise DataError(
            f"{settings.data}: expected training images in folders of at least two classes, found "
            f"{found}"
        )
    train = _of_classes(train, kept)
    if settings.labels_per_class:
        train = draw_labels(train, settings.labels_per_class, seed)
    if "val" in known:
        return train, _of_classes(dataset.split("val"), kept)
    if not settings.validation:
        return train, Dataset(train.classes, ())
    return hold_out(train, settings.validation, seed)


def _of_classes(dataset: Dataset, kept: Sequence[int]) -> Dataset:
    """The images of some classes, which are numbered anew."""
    place = {old: new for new, old in enumerate(kept)}
    return Dataset(
        tuple(dataset.classes[k] for k in kept),
        tuple(
            Sample(s.path, s.size, label=place[s.label], split=s.split)
            for s in dataset
            if s.label in place
        ),
    )


def draw_labels(dataset: Dataset, count: int, seed: int) -> Dataset:
    """So many images of each class, or all of a class that has fewer."""
    rng = np.random.default_rng(seed)
    labels = np.array([s.label for s in dataset])
    drawn = [
        rng.permutation(np.flatnonzero(labels == k))[:count] for k in range(len(dataset.classes))
    ]
    return Dataset(
        dataset.classes, tuple(dataset.samples[i] for i in np.sort(np.concatenate(drawn)))
    )


def _names(dataset: Dataset, settings: ClassifySettings) -> tuple[str, ...]:
    """The images below the data set's folder, with slashes."""
    return tuple(s.path.relative_to(settings.data).as_posix() for s in dataset)


def _median_size(dataset: Dataset) -> tuple[int, int]:
    """The median (height, width) of the images; those of a folder data set are always known."""
    height, width = np.median([s.size for s in dataset if s.size is not None], 0)
    return int(height), int(width)
