"""Learning to follow prompts on a new kind of image: SeSAMI, section 2.1.

Only LoRA on the queries and values of a promptable network's image encoder learns; the prompt
encoder and the mask decoder stay as they are, and gradients pass through them. An image is encoded
once a step, and all its prompts are decoded from that.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from semiscope.config import Settings
from semiscope.data.augment import ViewSettings
from semiscope.data.convert import open_outlined
from semiscope.data.dataset import hold_out, joined
from semiscope.errors import DataError, SettingsError
from semiscope.evaluate.promptable import RegionRow, region_report, true_regions
from semiscope.infer.model import InputSpec
from semiscope.inspection.score_promptable import PromptKind as EvaluatedKind
from semiscope.inspection.score_promptable import region_ious
from semiscope.io.image import read_image
from semiscope.learn.kept import Kept
from semiscope.learn.loop import LoopSettings
from semiscope.learn.losses.prompt import PromptLossSettings, prompt_loss
from semiscope.learn.prompt_examples import Asked, PromptExamples, PromptSettings, PromptView
from semiscope.learn.promptable import MEAN, STD, TorchPrompter, load_base
from semiscope.nets.lora import add_lora, lora_tensors
from semiscope.nets.promptable import PromptableNetwork
from semiscope.nets.sam_decoder import NEGATIVE, NOT_A_POINT, POSITIVE
from semiscope.types import Dataset


class GentleSettings(ViewSettings):
    """Views of a cross-section: mirrored and zoomed a little, grey values nearly as they are."""

    flip_vertical: float = Field(0.5, ge=0, le=1, description="Share mirrored top to bottom")
    scale: float = Field(0.2, ge=0, lt=1, description="Zoom between 1 - scale and 1 + scale")
    translate: float = Field(0.0, ge=0, le=0.5, description="Largest shift, share of the side")


class AdaptSettings(Settings):
    """How a promptable network is adapted."""

    base: str = Field(
        description="mobile-sam:FILE (its checkpoint) or sam:FOLDER (as transformers saves it)"
    )
    rank: int = Field(32, ge=1, description="Of the low-rank changes")
    side: int | None = Field(
        None,
        ge=64,
        multiple_of=16,
        description="Pixels of the network's input; the base's own 1,024 when not given",
    )
    view: int = Field(
        0,
        ge=0,
        multiple_of=16,
        description="Side of the part of the input that a training view shows, mostly about a "
        "region; 0 for the whole input. 512 is a quarter of the work; for MobileSAM alone",
    )
    close_up: float = Field(
        1.0,
        ge=1,
        description="Largest further enlargement of a view, for a model that is asked close up",
    )
    validation: float = Field(
        0.1, gt=0, lt=1, description="Share of train held out when the set has no val folder"
    )
    prompts: PromptSettings = PromptSettings()
    corrections: int = Field(
        0,
        ge=0,
        description="Times that the answer is asked again with a point where it was wrong",
    )
    learning_rate: float = Field(5e-4, gt=0, description="At its peak")
    weight_decay: float = Field(0.01, ge=0, description="On all that learns")
    loss: PromptLossSettings = PromptLossSettings()
    augment: GentleSettings = GentleSettings()


class PromptTaskSettings(AdaptSettings):
    """How a promptable network is adapted, and to what."""

    data: tuple[Path, ...] = Field(
        min_length=1,
        description="Data sets with class maps or outlines; of maps, their regions. Classes of one "
        "name are one",
    )


class PromptLoopSettings(LoopSettings):
    """How long and how the adaptation of a promptable network runs."""

    epochs: int = Field(100, ge=1, description="Passes over the training set")
    batch: int = Field(2, ge=1, description="Images a step and process")
    clip_norm: float = Field(1.0, gt=0, description="Largest norm of the whole gradient")
    ema_decay: float = Field(0.99, ge=0, lt=1, description="Of the averaged weights")
    ema_ramp: float = Field(100.0, gt=0, description="Updates in which the average slows down")
    evaluate_every: int = Field(10, ge=1, description="Epochs between evaluations")


class Learner(nn.Module):
    """A network with LoRA and the loss of its answers, as one pass: each image is encoded once.

    Its state is what LoRA has learnt; the base is a file of its own. It is never in training mode:
    batch norms keep the statistics of the base.

    Args:
        network: With ``nets.lora.add_lora``.
        loss: Weights.
        corrections: See ``AdaptSettings``.
    """

    def __init__(
        self, network: PromptableNetwork, loss: PromptLossSettings, corrections: int
    ) -> None:
        super().__init__()
        self.network = network
        self._loss, self._corrections = loss, corrections
        self.train(False)

    def train(self, mode: bool = True) -> Learner:
        """Stays in evaluation mode."""
        return super().train(False)

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:  # type: ignore[override]
        """What LoRA has learnt (see ``nets.lora.lora_tensors``)."""
        return lora_tensors(self.network)

    def load_state_dict(self, state_dict: Mapping[str, Any], *_: Any, **__: Any) -> Any:
        """Takes what ``state_dict`` gave.

        Raises:
            RuntimeError: The names are others.
        """
        if state_dict.keys() != lora_tensors(self.network).keys():
            raise RuntimeError("expected the tensors of this network's LoRA, found others")
        return self.network.load_state_dict(state_dict, strict=False)

    def forward(
        self, images: Tensor, views: Sequence[PromptView]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss of all prompts, and its parts."""
        self.network.resize(images.shape[-1])
        embeddings = self.network.encode(images)
        losses: list[Tensor] = []
        weights: list[int] = []
        sums: dict[str, Tensor] = {}
        for embedding, view in zip(embeddings, views, strict=True):
            truth = view.truth.to(images.device, images.dtype)
            for asked in view.asked:
                loss, parts = self._ask(embedding[None], truth[asked.regions], asked)
                losses.append(loss)
                weights.append(len(asked.regions))
                for name, value in parts.items():
                    sums[name] = sums.get(name, value.new_zeros(())) + weights[-1] * value
        if not losses:
            # no region in view: nothing is learned, but there is a gradient to average
            return 0 * embeddings.sum(), {}
        share = images.new_tensor(weights) / sum(weights)
        return (share * torch.stack(losses)).sum(), {k: v / sum(weights) for k, v in sums.items()}

    def _ask(
        self, embedding: Tensor, truth: Tensor, asked: Asked
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one kind's prompts, each correction counting as much as the first answer."""
        device = embedding.device
        points, labels, masks = (
            t.to(device) for t in (asked.points, asked.labels, asked.masks.to(embedding.dtype))
        )
        has_mask = masks.new_full((len(truth),), float(asked.kind == "mask"))
        total: Tensor | None = None
        first: dict[str, Tensor] = {}
        for turn in range(1 + self._corrections):
            logits, claimed = self.network.decode(embedding, points, labels, masks, has_mask)
            doubtful = asked.kind == "point" and not turn
            loss, parts = prompt_loss(logits, claimed, truth, doubtful, self._loss)
            total = loss if total is None else total + loss
            first = first or parts
            if turn < self._corrections:
                chosen = claimed[:, 1:].argmax(1) + 1 if doubtful else 0 * labels[:, 0]
                answer = logits[torch.arange(len(logits), device=device), chosen].detach()
                place, kind = _corrections(answer, truth)
                points = torch.cat([place[:, None], points], 1)
                labels = torch.cat([kind[:, None], labels], 1)
                masks, has_mask = answer[:, None], torch.ones_like(has_mask)
        assert total is not None
        return total / (1 + self._corrections), first


class PromptTask:
    """Adapts a promptable network (see ``learn.loop.Task``)."""

    def __init__(self, settings: PromptTaskSettings, seed: int) -> None:
        """Opens the data and loads the base.

        Raises:
            DataError: No training image with an outlined region, or none to validate on.
            SettingsError: The base cannot be read, or does not take inputs or views of that size.
        """
        self.settings = settings
        self._base = load_base(settings.base)
        side = settings.side or self._base.side
        if settings.view > side:
            raise SettingsError(f"view: expected at most the input's {side}, found {settings.view}")
        try:
            for asked in (settings.view or side, side):
                self._base.resize(asked)
        except ValueError as error:
            raise SettingsError(f"{settings.base}: {error}") from None
        train, validation = _open_splits(settings, seed)
        self._classes = train.classes
        spec = InputSpec(height=side, width=side, channels=3, mean=MEAN, std=STD)
        self._examples = PromptExamples(
            train, spec, settings.augment, settings.view, settings.prompts, settings.close_up
        )
        self._held_out = validation
        self._seen = Kept(lambda s: read_image(s.path).pixels, validation.samples)
        self._text = (
            f"{settings.base}, adapted to {', '.join(d.name for d in settings.data)}: "
            f"{len(train)} images, {len(validation)} held out"
        )

    def network(self) -> nn.Module:
        """The base with a fresh adaptation: it answers as the base does.

        Raises:
            SettingsError: The rank does not fit the base.
        """
        network = copy.deepcopy(self._base)
        try:
            add_lora(network, self.settings.rank)
        except ValueError as error:
            raise SettingsError(f"{self.settings.base}: {error}") from None
        return Learner(network, self.settings.loss, self.settings.corrections)

    def spec(self) -> dict[str, Any]:
        """What ``compress.promptable_graph.export_run`` needs beside the adapter."""
        return {
            "task": "prompt",
            "base": self.settings.base,
            "side": self._base.side,
            "rank": self.settings.rank,
            "data": self._text,
        }

    def optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        """AdamW on what LoRA adds."""
        learning = [p for p in network.parameters() if p.requires_grad]
        settings = self.settings
        return torch.optim.AdamW(
            learning, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )

    def examples(self) -> PromptExamples:
        """The training views with their prompts."""
        return self._examples

    def loss(
        self, network: nn.Module, batch: tuple[Tensor, list[PromptView]]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See ``Learner.forward``."""
        images, views = batch
        device = next(network.parameters()).device
        return network(images.to(device, non_blocking=True), views)  # type: ignore[no-any-return]

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """IoU of the held-out images' regions, by a box and by a point; fitness is their mean.

        Which regions count is what ``semiscope evaluate`` has by default; they are asked for in the
        whole image, as close up takes twenty times as long.
        """
        assert isinstance(network, Learner)
        network.network.resize(self._base.side)
        prompter = TorchPrompter(network.network)
        kinds: tuple[EvaluatedKind, ...] = ("box", "point")
        rows: dict[str, list[RegionRow]] = {kind: [] for kind in kinds}
        for index, sample in enumerate(self._held_out):
            pixels = self._seen.readable(index)
            if pixels is None:
                continue
            assert sample.annotations is not None
            class_id, regions = true_regions(sample.annotations, pixels.shape[:2])
            for kind in kinds:
                iou = region_ious(prompter, pixels, regions, kind)
                rows[kind].append(RegionRow(str(sample.path), "", class_id, iou))
        figures: dict[str, float] = {}
        for kind in kinds:
            report = region_report(rows[kind], self._classes)
            figures[f"{kind}_iou"] = report.mean_iou or 0.0
            found = {k: v for k, v in report.per_class.items() if v is not None}
            figures |= {f"{kind}_iou_{name}": value for name, value in found.items()}
        return {"fitness": (figures["box_iou"] + figures["point_iou"]) / 2, **figures}


def _corrections(answer: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """A random place for each prompt where its answer was wrong.

    Args:
        answer: (P, h, w) logits.
        truth: (P, H, W) 0 or 1.

    Returns:
        (P, 2) x and y in pixels of the truth, and (P,) labels: positive where the answer missed the
        region, negative where it left it, no point where nothing is wrong.
    """
    rows, columns = answer.shape[1:]
    coarse = F.adaptive_avg_pool2d(truth[:, None], (rows, columns))[:, 0] > 0.5
    wrong = (coarse != (answer > 0)).flatten(1)
    some = wrong.any(1)
    # a draw needs something to draw from
    chosen = torch.multinomial((wrong | ~some[:, None]).float(), 1)[:, 0]
    place = torch.stack([chosen % columns, chosen // columns], 1) + 0.5
    scale = place.new_tensor([truth.shape[2] / columns, truth.shape[1] / rows])
    missed = coarse.flatten(1).gather(1, chosen[:, None])[:, 0]
    kind = torch.where(missed, POSITIVE, NEGATIVE)
    return place * scale, torch.where(some, kind, NOT_A_POINT)


def _open_splits(settings: PromptTaskSettings, seed: int) -> tuple[Dataset, Dataset]:
    """The images with outlined regions to learn from, and those held out.

    Raises:
        DataError: There is none of the one or the other.
    """
    parts = [_open_split(data, settings.validation, seed) for data in settings.data]
    train, validation = (joined(side) for side in zip(*parts, strict=True))
    return train, validation


def _open_split(data: Path, validation: float, seed: int) -> tuple[Dataset, Dataset]:
    """The same of one set."""
    dataset = open_outlined(data)
    known = {s.split for s in dataset}
    train = dataset.split("train" if "train" in known else "")
    least = 1 if "val" in known else 2
    if len(train) < least:
        raise DataError(
            f"{data}: expected at least {least} images with class maps or outlines to learn "
            f"from, found {len(train)}"
        )
    if "val" in known:
        return train, dataset.split("val")
    return hold_out(train, validation, seed)
