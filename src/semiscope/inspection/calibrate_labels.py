"""What a classifier has seen and from which score on it needs no person, put into its file.

The known examples and how far each class reaches come from the training images (see
``infer.open_set``). The accept thresholds, and the factor on the reach of all classes, come from
images that training held out: the val part of the data set, or those that the run took off train,
as the model file tells. The test part is never looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from semiscope.config import Settings
from semiscope.data.dataset import open_dataset
from semiscope.errors import DataError
from semiscope.evaluate.classification import UNSEEN, ClassificationReport, accept_thresholds
from semiscope.infer.classifier import Classifier
from semiscope.infer.model import ClassThreshold
from semiscope.infer.open_set import learn_examples
from semiscope.inspection.labelled_images import (
    LabelledImages,
    alone,
    answer,
    held_out,
    open_labelled,
    read_partners,
)
from semiscope.inspection.score_labels import judge


class LabelCalibrateSettings(Settings):
    """What a classifier may decide alone, and what it may refuse."""

    model: str = Field(description="A classifier's .onnx file, or its name in the zoo")
    data: Path = Field(description="The data set that it was trained on, a folder a class")
    purity: float = Field(
        0.95, gt=0, le=1, description="Of the labels that need no person, those that must be right"
    )
    refuse: float = Field(
        0.1, ge=0, lt=1, description="Part of the held-out images of known classes put to unknown"
    )
    pairs: Path | None = Field(
        None, description="Of two magnifications: CSV or KLARF file of the partners"
    )
    threads: int | None = Field(None, ge=1, description="Cores to use; all when not given")


@dataclass(frozen=True, slots=True, eq=False)
class LabelCalibration:
    """What was put into a classifier's file.

    Attributes:
        examples: Known examples: training images that are called what they are, by class name.
        reach: By class name, the squared distance up to which an image is like it; None for a class
            without an example.
        factor: What the paper's reaches were multiplied by.
        accept: By class name, the score from which on it needs no person; None where none is pure
            enough.
        held_out: What all this does to the held-out images, which flatters: it was chosen on them.
        notes: What a person should know, one sentence each.
        written: Whether it was put into the file: a shipped model's is not written to.
        failed: File and reason of the images that could not be read.
    """

    examples: dict[str, int]
    reach: dict[str, float | None]
    factor: float
    accept: dict[str, float | None]
    held_out: ClassificationReport
    notes: tuple[str, ...]
    written: bool
    failed: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **{k: getattr(self, k) for k in ("examples", "reach", "factor", "accept", "written")},
            "held_out": self.held_out.to_dict(),
            "notes": list(self.notes),
            "failed": [{"file": file, "reason": reason} for file, reason in self.failed],
        }


def calibrate_labels(
    settings: LabelCalibrateSettings, progress: Callable[[int, int], None] | None = None
) -> LabelCalibration:
    """Puts known examples and thresholds into a classifier's file.

    Without held-out images the accept thresholds stay as they are and the factor is 1: the reaches
    are the paper's.

    Args:
        settings: Which model, on what.
        progress: Called after each batch with how many images are done and how many there are.

    Raises:
        DataError: There is no training part or no training image in it, or no class has two that
            are called what they are.
        ModelError: The model cannot be used, or knows no class of the data set.
        SettingsError: There are pairs and the model takes one magnification.
        SemiscopeError: The file cannot be written.
    """
    model = Classifier.load(settings.model, settings.threads)
    meta = model.meta
    low = read_partners(model, settings.pairs)
    train, held = (
        part.only(np.array(alone(part.paths, low), np.intp))
        for part in _parts(model, settings.data)
    )
    failed: list[tuple[str, str]] = []
    both = (*train.paths, *held.paths)
    places, answers = answer(model, both, failed, progress, low)
    of_train = places < len(train)
    seen, rest = places[of_train], places[~of_train] - len(train)
    truth, label = train.truth[seen], answers.probability[of_train].argmax(axis=1)
    known = learn_examples(
        answers.features[of_train],
        truth,
        label,
        [train.names[i] for i in seen.tolist()],
        len(meta.classes),
    )
    judged = held.only(rest)
    thresholds = dict(meta.thresholds)
    notes = []
    if len(judged):
        mine = judged.truth != UNSEEN
        probability, features = answers.probability[~of_train], answers.features[~of_train]
        known = known.allowing(features[mine], settings.refuse)
        # what is put to unknown is never accepted, however sure the label
        stays = ~known.look(features).unknown
        accept = accept_thresholds(judged.truth[stays], probability[stays], settings.purity)
        thresholds = {
            name: ClassThreshold(report=0.0, accept=score)
            for name, score in zip(meta.classes, accept.tolist(), strict=True)
            if score <= 1
        }
    else:
        notes.append(
            "no image was held out: accept thresholds stay as they were, and how far a class "
            "reaches was not tried on new images. Put some into val/ and calibrate again."
        )
    counts = np.bincount(known.class_id, minlength=len(meta.classes)).tolist()
    for name, count in zip(meta.classes, counts, strict=True):
        if not count:
            notes.append(f"{name}: no known example; its images will be put to unknown")
        elif count == 1:
            notes.append(f"{name}: one known example; its reach is the median of the others'")
    written = model.keep(known, thresholds=thresholds)
    model.known, model.meta = known, meta.model_copy(update={"thresholds": thresholds})
    after = judge(model, judged, answers.only(~of_train))
    reach = (known.factor * known.thresholds).tolist()
    return LabelCalibration(
        examples=dict(zip(meta.classes, counts, strict=True)),
        reach={
            k: None if np.isnan(r) else float(r) for k, r in zip(meta.classes, reach, strict=True)
        },
        factor=known.factor,
        accept={k: thresholds[k].accept if k in thresholds else None for k in meta.classes},
        held_out=after.report(meta.classes, meta.clean),
        notes=tuple(notes),
        written=written,
        failed=tuple(failed),
    )


def _parts(model: Classifier, data: Path) -> tuple[LabelledImages, LabelledImages]:
    """The training images of the model's classes, and the held-out ones.

    Raises:
        DataError: There is none to learn from, or the set has parts without a train part.
        ModelError: The model knows no class of the data set.
    """
    meta = model.meta
    splits = {s.split for s in open_dataset(data)}
    if "train" not in splits and splits != {""}:
        raise DataError(
            f"{data}: expected a train part, or no parts, found {', '.join(sorted(splits))}"
        )
    train = open_labelled(data, "train" if "train" in splits else "", meta.classes, meta.name)
    if "val" in splits:
        held = open_labelled(data, "val", meta.classes, meta.name)
        learned = np.ones(len(train), bool)
    else:
        learned = ~held_out(train, meta.held_out)
        held = train.only(~learned)
    train = train.only(learned & (train.truth != UNSEEN))
    if not len(train):
        raise DataError(f"{data}: expected training images of {meta.name}'s classes, found none")
    return train, held
