"""Learning class maps from few labelled images and many unlabelled ones.

Four methods of weak-to-strong consistency, which differ in their strong views and in what each
weighs, and in nothing else:

- ``fixmatch`` (Sohn et al. 2020): one view, its greys jittered and blurred.
- ``cutmix`` (French et al. 2020): one view, a box of another image put into it.
- ``unimatch`` (Yang et al. 2023): two views with both, and one with features dropped.
- ``tem`` (Lee et al. 2025, section 2.2): views disturbed by the noise of TEM images, in families of
  which those with the highest loss are learned from, and one with features dropped.

The loss is that of Lee et al., equations 5 and 6: half the supervised one and half of
``lambda * sum over views + (1 - lambda) * dropped features``. Of their two views each weighs
lambda; UniMatch's weigh half of that. How many families there are and how one is "engaged" the
paper leaves open: here each step scores a view of every family without gradient and learns from two
views of the family with the highest loss (policy "max"), from one of each of the two highest
("top-2"), or from all; the weights of the views always sum to 2 lambda.

What the weak views show the learning network says itself, as these methods have it, or another that
stays as it is (the noisy student of Xie et al. 2020). A network that teaches itself may grow surer
and surer of a mistake; one that stays cannot.

Batch norm: labelled and weak views pass together and set the running statistics, with which the
network later infers. Strong views and dropped features pass on their own, normed by their own
batch, and leave the running statistics alone: disturbed images are not what inference sees.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from semiscope.data.perturbation import FloatArray, Perturbed
from semiscope.data.tem_noise import FAMILIES, perturb
from semiscope.errors import SettingsError
from semiscope.infer.segmenter import TASK
from semiscope.learn import checkpoint
from semiscope.learn.losses.class_map import map_loss
from semiscope.learn.losses.consistency import Pseudo, consistency, mix
from semiscope.learn.semi_examples import (
    Disturb,
    Pool,
    SemiBatch,
    SemiExamples,
    find_unlabelled,
    jitter,
    unchanged,
)
from semiscope.learn.tasks.common import check_teacher, parameter_groups
from semiscope.learn.tasks.segment import MapData, MapSettings, fresh_network, map_spec
from semiscope.nets.deeplab import DeepLabV3Plus
from semiscope.nets.norms import forgetful_norms

_log = logging.getLogger(__name__)

Policy = Literal["max", "top-2", "all"]


class Method(NamedTuple):
    """What tells one way of learning from unlabelled images from another.

    Attributes:
        sets: Kinds of strong views: "jitter", "unchanged", or families of TEM noise.
        views: Of each kind, and as many are learned from.
        cutmix: Share of the strong views that another image is put into.
        features: Whether dropped features are learned from too.
        total: What the strong views weigh together, in units of lambda (1 without features).
    """

    sets: tuple[str, ...]
    views: int
    cutmix: float
    features: bool
    total: float


METHODS = {
    "fixmatch": Method(("jitter",), 1, 0.0, False, 1.0),
    "cutmix": Method(("unchanged",), 1, 1.0, False, 1.0),
    "unimatch": Method(("jitter",), 2, 0.5, True, 1.0),
    "tem": Method(tuple(FAMILIES), 2, 0.0, True, 2.0),
}


class SemiSettings(MapSettings):
    """What is learned and from what."""

    labelled: Path = Field(description="Data set with class maps: images/ and masks/")
    unlabelled: tuple[Path, ...] = Field(
        min_length=1,
        description="Folders of images, or data sets, of which the unlabelled part is taken",
    )
    method: Literal["fixmatch", "cutmix", "unimatch", "tem"] = Field(
        "tem", description="How unlabelled images are learned from"
    )
    teacher: Path | None = Field(
        None,
        description="Run of train segment or semi whose network says what the weak views show and "
        "does not change; the network that learns says so itself if unset",
    )
    threshold: float = Field(
        0.95, ge=0, lt=1, description="Probability from which on a pixel's class is believed"
    )
    unlabelled_from: float = Field(
        0.0, ge=0, description="Epochs of labelled images alone before the unlabelled ones count"
    )
    view_weight: float = Field(
        0.5, ge=0, le=1, description="Lambda: of the views; dropped features weigh the rest"
    )
    cutmix: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of strong views with a box of another image; the method's own if unset",
    )
    policy: Policy = Field(
        "max", description="Of tem: which families of noise are learned from, by their loss"
    )
    strength: float = Field(1.0, gt=0, le=1, description="Of tem: how strong the noise is")

    @model_validator(mode="after")
    def _options_fit(self) -> SemiSettings:
        if self.method != "tem":
            changed = [
                name
                for name in ("policy", "strength")
                if getattr(self, name) != type(self).model_fields[name].default
            ]
            if changed:
                raise ValueError(f"{', '.join(changed)}: of method tem alone, found {self.method}")
        elif self.channels != 1:
            raise ValueError("channels: expected 1 for method tem, whose noise is of grey images")
        return self


class SemiTask:
    """Trains a ``DeepLabV3Plus`` (see ``learn.loop.Task`` and ``learn.loop.Timed``)."""

    def __init__(self, settings: SemiSettings, seed: int) -> None:
        """Opens the data.

        Raises:
            DataError: See ``MapData``; or a folder has no unlabelled image.
            SettingsError: See ``MapData``; or the teacher cannot be had, or knows other classes or
                another input.
        """
        self.settings = settings
        self.method = METHODS[settings.method]
        self.data = MapData(settings.labelled, settings, seed)
        paths = find_unlabelled(settings.unlabelled)
        self._examples = SemiExamples(
            self.data.examples,
            paths,
            self.data.input,
            settings.augment,
            settings.crop,
            settings.crops,
            [d for name in self.method.sets for d in [_disturb(name, settings)] * self._draws],
            self.method.cutmix if settings.cutmix is None else settings.cutmix,
        )
        pools = ", ".join(p.name for p in settings.unlabelled)
        self._text = f"{self.data.text}; {len(paths)} unlabelled of {pools}"
        self._teacher = None if settings.teacher is None else self._load(settings.teacher)
        self._epochs = 0.0
        self._sure = self._valid = 0

    def _load(self, run: Path) -> nn.Module:
        weights, state = checkpoint.best(run)
        spec = state["spec"]
        if spec["task"] != TASK:
            raise SettingsError(
                f"{run}: expected a run of train segment or semi, found one of task {spec['task']}"
            )
        check_teacher(run, spec, self.data.classes, self.data.input)
        network = DeepLabV3Plus(**spec["built"]).eval().requires_grad_(False)
        network.load_state_dict(weights)
        return network

    @property
    def _draws(self) -> int:
        """Views of each set that the examples hold."""
        several = len(self.method.sets) > 1
        return self.method.views if not several or self.settings.policy == "max" else 1

    def network(self) -> nn.Module:
        """A fresh network, its encoder loaded and frozen as the settings say."""
        return fresh_network(self.settings, self.data.classes)

    def spec(self) -> dict[str, Any]:
        """What ``compress.export`` needs to rebuild the network and to write the model file."""
        return map_spec(self.settings, self.data, self._text)

    def optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(parameter_groups(network, self.settings))

    def examples(self) -> SemiExamples:
        """The training views."""
        return self._examples

    def tell(self, epochs: float) -> None:
        """See ``learn.loop.Timed``."""
        self._epochs = epochs

    def loss(self, network: nn.Module, batch: SemiBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Half the supervised loss and half the consistency of the views."""
        device = next(network.parameters()).device
        images, truth = (part.to(device, non_blocking=True) for part in batch[0])
        if self._epochs < self.settings.unlabelled_from:
            return map_loss(network(_laid(images)), truth, self.settings.loss)
        pool = Pool(*(part.to(device, non_blocking=True) for part in batch[1]))
        count, more = len(images), len(pool.weak)
        logits = network(
            _laid(torch.cat([images, pool.weak])), dropped=more if self.method.features else 0
        )
        supervised, parts = map_loss(logits[:count], truth, self.settings.loss)
        weak = logits[count : count + more]
        if self._teacher is not None:
            with torch.no_grad():
                weak = self._teacher.to(device)(_laid(pool.weak))
        pseudo = Pseudo.of(weak, pool.valid, self.settings.threshold)
        self._sure += int(pseudo.sure.sum())
        self._valid += int(pseudo.valid.sum())
        weight = self.settings.view_weight if self.method.features else 1.0
        unsupervised = self.method.total * weight * self._strong(network, pool, pseudo, parts)
        if self.method.features:
            dropped = consistency(logits[count + more :], pseudo)
            unsupervised = unsupervised + (1 - weight) * dropped
            parts["features"] = dropped.detach()
        parts["sure"] = pseudo.sure.sum() / pseudo.valid.sum().clamp(min=1)
        return (supervised + unsupervised) / 2, parts

    def _strong(
        self, network: nn.Module, pool: Pool, pseudo: Pseudo, parts: dict[str, Tensor]
    ) -> Tensor:
        """The mean consistency of the strong views that are learned from; tells it in ``parts``."""
        sets = self.method.sets
        with forgetful_norms(network):
            chosen = list(range(pool.strong.shape[1]))
            if len(sets) > 1 and self.settings.policy != "all":
                with torch.no_grad():
                    firsts = chosen[:: self._draws]
                    scores = torch.stack([_views_loss(network, pool, pseudo, [i]) for i in firsts])
                chosen = engaged(scores, self.settings.policy, self._draws)
            for place, name in enumerate(sets if len(sets) > 1 else ()):
                share = sum(i // self._draws == place for i in chosen) / len(chosen)
                parts[name] = pseudo.label.new_tensor(share, dtype=torch.float32)
            found = _views_loss(network, pool, pseudo, chosen)
        parts["strong"] = found.detach()
        return found

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Mean IoU on the held-out images, and the share of pixels that were believed till now."""
        figures = self.data.validation.evaluate(network)
        if self._valid:
            figures["sure"] = self._sure / self._valid
            if not self._sure:
                _log.warning(
                    "no pixel of the unlabelled images was as sure as %g since the last "
                    "evaluation: they taught nothing. Lower --threshold, or %s.",
                    self.settings.threshold,
                    "let the labelled images teach for longer with --unlabelled-from"
                    if self._teacher is None
                    else "train the teacher for longer",
                )
        self._sure = self._valid = 0
        return figures


def engaged(scores: Tensor, policy: Policy, draws: int) -> list[int]:
    """The views that are learned from.

    Args:
        scores: (K,) loss of the first view of each set.
        policy: "max": all views of the set with the highest loss. "top-2": the first view of each
            of the two highest. "all": the first view of each.
        draws: Views of each set.

    Returns:
        Places among all views, which lie set by set.
    """
    order = scores.argsort(descending=True).tolist()
    if policy == "max":
        return [order[0] * draws + i for i in range(draws)]
    taken: Sequence[int] = order[:2] if policy == "top-2" else range(len(scores))
    return [place * draws for place in taken]


def _views_loss(network: nn.Module, pool: Pool, pseudo: Pseudo, views: Sequence[int]) -> Tensor:
    """Mean consistency of some of the strong views."""
    images, targets = [], []
    for view in views:
        boxes = pool.boxes[:, view]
        images.append(mix(pool.strong[:, view], boxes))
        targets.append(pseudo.moved(pool.source[:, view]).mixed(boxes))
    logits = network(_laid(torch.cat(images))).chunk(len(views))
    terms = [consistency(one, target) for one, target in zip(logits, targets, strict=True)]
    return torch.stack(terms).mean()


def _laid(images: Tensor) -> Tensor:
    return images.to(memory_format=torch.channels_last)


def _disturb(name: str, settings: SemiSettings) -> Disturb:
    """What makes a strong view of one of the sets."""
    if name == "jitter":
        return jitter
    if name == "unchanged":
        return unchanged
    return partial(_noise, name, settings.strength)


def _noise(family: str, strength: float, values: FloatArray, rng: np.random.Generator) -> Perturbed:
    return perturb(values, family, rng, strength)
