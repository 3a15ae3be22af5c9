"""The labelling cycle: propose masks, take back the corrected ones, learn again (SeSAMI, 2.1).

A cycle is a folder with one folder a round: ``proposals``, ``corrected`` (what came back, as COCO),
``run`` (the training), ``model.onnx`` and ``round.json``. Round 0 is the base as it is. Each round
learns anew from the base, from all that was corrected so far.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from semiscope.compress.promptable_graph import export_run, write_promptable
from semiscope.data.convert import open_outlined
from semiscope.errors import DataError, SettingsError
from semiscope.evaluate.promptable import true_regions
from semiscope.geometry import mask_iou, rasterise
from semiscope.infer.promptable import Promptable
from semiscope.inspection.score_promptable import (
    PromptScoreSettings,
    region_ious,
    score_promptable,
)
from semiscope.io import coco
from semiscope.io.files import write_atomic
from semiscope.io.image import read_image
from semiscope.label.cost import CostSettings
from semiscope.label.prelabel import (
    PrelabelSettings,
    PrelabelSummary,
    prelabel,
    read_proposals,
)
from semiscope.label.rounds import (
    Round,
    below,
    next_folder,
    read_rounds,
    round_folder,
    write_report,
    write_round,
)
from semiscope.learn import run as runs
from semiscope.learn.loop import Progress
from semiscope.learn.promptable import load_base
from semiscope.learn.tasks.prompt import AdaptSettings, PromptLoopSettings, PromptTaskSettings
from semiscope.types import Annotations, Dataset, Mask

MODEL = "model.onnx"
_CHANGED = 0.999  # a mask that fits less was changed
_ALL = 1_000_000  # regions


class ProposeSettings(PrelabelSettings):
    """How a round's masks are proposed."""

    model: str = Field("", description="A promptable model; by default the newest round's")


class CycleSettings(AdaptSettings):
    """How each round learns and what it is held against."""

    labelled: Path | None = Field(
        None, description="Data set that every round learns from too, such as another device's"
    )
    devices: tuple[Path, ...] = Field(
        (), description="Held-out data sets with class maps or outlines; each is a device"
    )
    cost: CostSettings = CostSettings()


class RehearseSettings(CycleSettings):
    """A cycle whose corrections come from a data set's own truth."""

    data: Path = Field(description="Data set with class maps or outlines; its train part is used")
    rounds: int = Field(5, ge=1, description="How many")
    images: int = Field(4, ge=1, description="Images a round")


def propose(
    cycle: Path,
    images: Sequence[str | Path],
    settings: ProposeSettings,
    *,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Path, PrelabelSummary]:
    """Writes the next round's proposals; see ``prelabel``.

    Args:
        cycle: The cycle's folder.
        images: What to label.
        settings: How.
        resume: Go on where proposing was killed.
        progress: Called after each image.

    Returns:
        The folder of the proposals, and what was done.

    Raises:
        SettingsError: No model is named and no round has one.
        DataError: As ``prelabel``.
    """
    folder = next_folder(cycle) / "proposals"
    if not settings.model:
        settings = settings.model_copy(update={"model": str(newest_model(cycle))})
    return folder, prelabel(images, settings, folder, resume=resume, progress=progress)


def newest_model(cycle: Path) -> Path:
    """The model of the last finished round.

    Raises:
        SettingsError: There is none.
    """
    rounds = read_rounds(cycle)
    if not rounds:
        raise SettingsError(f"{cycle}: no round is finished yet: name the first --model")
    return round_folder(cycle, rounds[-1].number) / MODEL


def learn(
    cycle: Path,
    corrected: Path,
    settings: CycleSettings,
    loop: PromptLoopSettings,
    progress: Progress | None = None,
) -> Round:
    """Takes back corrected masks, learns from all so far and writes the round's record and report.

    A round whose training was killed is trained again from its newest checkpoint.

    Args:
        cycle: The cycle's folder.
        corrected: A data set with the corrected masks: Label Studio, COCO or class maps. Images are
            told apart by their names.
        settings: How it learns.
        loop: How long.
        progress: Told of every step of the training.

    Raises:
        DataError: There is nothing corrected.
        SettingsError: The base or a setting cannot be used.
    """
    rounds = read_rounds(cycle) or [_first(cycle, settings)]
    folder = round_folder(cycle, len(rounds))
    dataset = open_outlined(corrected)
    kept = folder / "corrected"
    if corrected.resolve() != kept.resolve():
        coco.write(_unsplit(dataset), kept)
    fits = _fits(folder / "proposals", dataset)
    started = time.perf_counter()
    labelled = _gather(cycle, len(rounds), settings.labelled)
    run = folder / "run"
    if (run / runs.SETTINGS_FILE).is_file():
        runs.resume(run, progress)
    else:
        given = settings.model_dump(include=set(AdaptSettings.model_fields))
        runs.start("prompt", PromptTaskSettings(data=(labelled,), **given), loop, run, progress)
    export_run(run, folder / MODEL, weights=16)
    seconds = time.perf_counter() - started
    devices = _devices(folder / MODEL, settings)
    done = Round(
        number=len(rounds),
        images=tuple(s.path.name for s in dataset),
        regions=sum(len(s.annotations or ()) for s in dataset),
        **fits.record(settings.cost),
        after_iou=_learned(folder / MODEL, dataset),
        learning_s=seconds,
        devices=devices,
        worse=below(devices, rounds[0].devices),
        fell=below(devices, rounds[-1].devices),
    )
    write_round(cycle, done)
    write_report(cycle, settings.cost)
    return done


def rehearse(
    cycle: Path,
    settings: RehearseSettings,
    loop: PromptLoopSettings,
    progress: Progress | None = None,
) -> list[Round]:
    """A whole cycle in which the truth stands in for the person, to see what a cycle would save.

    Each round a few images that were not labelled yet get masks from the newest model, prompted
    with the boxes of their true regions; then their truth comes back as the correction. A cycle
    that was killed goes on.

    Raises:
        DataError: There are fewer images than the rounds need.
        SettingsError: The base or a setting cannot be used.
    """
    dataset = open_outlined(settings.data)
    known = {s.split for s in dataset}
    pool = dataset.split("train" if "train" in known else "")
    needed = settings.rounds * settings.images
    if len(pool) < needed:
        raise DataError(
            f"{settings.data}: expected {needed} images for {settings.rounds} rounds of "
            f"{settings.images}, found {len(pool)}"
        )
    order = np.random.default_rng(loop.seed).permutation(len(pool))
    rounds = read_rounds(cycle) or [_first(cycle, settings)]
    for number in range(len(rounds), settings.rounds + 1):
        places = order[(number - 1) * settings.images : number * settings.images]
        some = Dataset(pool.classes, tuple(pool.samples[i] for i in sorted(places)))
        folder = round_folder(cycle, number)
        coco.write(_unsplit(some), folder / "corrected")
        boxes = folder / "boxes.json"
        write_atomic(boxes, (folder / "corrected" / "annotations.json").read_bytes())
        proposing = ProposeSettings(prompts=str(boxes))
        again = (folder / "proposals").exists()
        propose(cycle, [folder / "corrected" / "images"], proposing, resume=again)
        rounds.append(learn(cycle, folder / "corrected", settings, loop, progress))
    return rounds


class _Fits:
    """How well proposals fit what they were corrected to.

    Args:
        iou: (n,) of each corrected region with the best proposal of its class; None without
            proposals.
        regions: n.
    """

    def __init__(self, iou: NDArray[np.float64] | None, regions: int) -> None:
        self.iou, self.regions = iou, regions

    def record(self, cost: CostSettings) -> dict[str, Any]:
        """The part of a round's record that tells of the proposals."""
        manual = cost.manual(self.regions)
        if self.iou is None:
            return {"missed": self.regions, "manual_s": manual, "assisted_s": manual}
        return {
            "before_iou": float(self.iou.mean()) if len(self.iou) else None,
            "changed": int(np.count_nonzero(self.iou < _CHANGED)),
            "missed": int(np.count_nonzero(self.iou == 0)),
            "manual_s": manual,
            "assisted_s": cost.assisted(self.iou),
        }


def _fits(proposals: Path, corrected: Dataset) -> _Fits:
    count = sum(len(s.annotations or ()) for s in corrected)
    if not proposals.is_dir():
        return _Fits(None, count)
    proposed = read_proposals(proposals)
    by_stem = {s.path.stem: s.annotations for s in proposed}
    found = [np.zeros(0)]
    for sample in corrected:
        assert sample.annotations is not None
        given = by_stem.get(sample.path.stem) or Annotations.empty()
        found.append(best_fits(sample.annotations, corrected.classes, given, proposed.classes))
    return _Fits(np.concatenate(found), count)


def best_fits(
    truth: Annotations, classes: Sequence[str], found: Annotations, names: Sequence[str]
) -> NDArray[np.float64]:
    """(n,) IoU of each true region with the best found mask of the same class name.

    Args:
        truth: n instances with shapes.
        classes: Their names by class index.
        found: Instances with masks.
        names: Their names by class index.
    """
    best = np.zeros(len(truth))
    ours = [_mask(s) for s in truth.shapes or ()]
    theirs = [_mask(s) for s in found.shapes or ()]
    for name in set(classes) & set(names):
        rows = np.flatnonzero(truth.class_id == list(classes).index(name))
        columns = np.flatnonzero(found.class_id == list(names).index(name))
        if len(rows) and len(columns):
            iou = mask_iou([ours[i] for i in rows], [theirs[i] for i in columns])
            best[rows] = iou.max(1)
    return best


def _mask(shape: Any) -> Mask:
    far = 1 << 20  # outlines lie within the image, whose size does not matter here
    return shape if isinstance(shape, Mask) else rasterise(shape, far, far)


def _learned(model: Path, corrected: Dataset) -> float | None:
    """Mean IoU of the corrected regions by a model that is shown their boxes."""
    prompter = Promptable.load(model)
    found = [np.zeros(0)]
    for sample in corrected:
        assert sample.annotations is not None
        pixels = read_image(sample.path).pixels
        _, regions = true_regions(sample.annotations, pixels.shape[:2], 0, _ALL)
        found.append(region_ious(prompter, pixels, regions, "box"))
    iou = np.concatenate(found)
    return float(iou.mean()) if len(iou) else None


def _first(cycle: Path, settings: CycleSettings) -> Round:
    """Round 0: the base as it is."""
    model = round_folder(cycle, 0) / MODEL
    network = load_base(settings.base)
    try:
        network.resize(settings.side or network.side)
    except ValueError as error:
        raise SettingsError(f"{settings.base}: {error}") from None
    if not model.is_file():
        write_promptable(
            network,
            model,
            settings.base.partition(":")[0],
            data=f"weights of {settings.base}",
            weights=16,
            licence="unstated",
            limits="",
        )
    done = Round(number=0, devices=_devices(model, settings))
    write_round(cycle, done)
    return done


def _devices(model: Path, settings: CycleSettings) -> dict[str, float | None]:
    """Mean IoU of each held-out device, by boxes."""
    if not settings.devices:
        return {}
    report, _ = score_promptable(PromptScoreSettings(model=str(model), data=settings.devices))
    return {name: result.mean_iou for name, result in report.per_device.items()}


def _gather(cycle: Path, number: int, labelled: Path | None) -> Path:
    """Writes all that a round learns from as one data set."""
    parts = [open_outlined(round_folder(cycle, i) / "corrected") for i in range(1, number + 1)]
    if labelled is not None:
        given = open_outlined(labelled)
        known = {s.split for s in given}
        parts.insert(0, given.split("train" if "train" in known else ""))
    classes = tuple(dict.fromkeys(c for p in parts for c in p.classes))
    samples = []
    for part in parts:
        index = np.array([classes.index(c) for c in part.classes], np.int64)
        for sample in _unsplit(part):
            assert sample.annotations is not None
            moved = replace(sample.annotations, class_id=index[sample.annotations.class_id])
            samples.append(replace(sample, annotations=moved))
    folder = round_folder(cycle, number) / "labelled"
    coco.write(Dataset(classes, tuple(samples)), folder)
    return folder


def _unsplit(dataset: Dataset) -> Dataset:
    """All samples in one part, scores as a person's labels have them."""
    samples = tuple(
        replace(
            s,
            split="",
            class_map=None,
            annotations=s.annotations
            and replace(s.annotations, score=np.ones(len(s.annotations), np.float32)),
        )
        for s in dataset
    )
    return Dataset(dataset.classes, samples)
