"""A classifier held against the labels of data sets, its thresholds as its file has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from semiscope.config import Settings
from semiscope.errors import SettingsError
from semiscope.evaluate.classification import (
    UNSEEN,
    ClassificationReport,
    classification_report,
    suspected_errors,
)
from semiscope.infer.classifier import Answers, Classifier
from semiscope.inspection.journal import ImageRow
from semiscope.inspection.label_report import MOST_PAIRS, Labelled, build_report, sorts
from semiscope.inspection.labelled_images import (
    LabelledImages,
    alone,
    answer,
    open_labelled,
    read_partners,
)
from semiscope.inspection.labels import fill_rows
from semiscope.inspection.thresholds import Disposition, dispose_labels
from semiscope.io.files import write_atomic

UNSEEN_CLASS = "a class that the model never saw"
_EACH = 100  # images shown of each sort


class LabelScoreSettings(Settings):
    """How a classifier is held against data sets."""

    model: str = Field(description="A classifier's name in the zoo, or an .onnx file")
    data: tuple[Path, ...] = Field(min_length=1, description="Data sets with a folder a class")
    split: str = Field(
        "", description="Which part: train, val or test; by default test, else val, else all"
    )
    clean: tuple[str, ...] | None = Field(
        None, description="Classes that mean no defect; by default those that the model names"
    )
    pairs: Path | None = Field(
        None, description="Of two magnifications: CSV or KLARF file of the partners"
    )
    report: Path | None = Field(
        None, description="Of a classifier: write an HTML page with the images here"
    )
    threads: int | None = Field(None, ge=1, description="Cores to use; all when not given")


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Labelled images that could be read, and what became of them.

    Attributes:
        images: Which.
        answers: What the model says.
        strangeness: (n,) see ``infer.open_set``; zeros where the model holds no known examples.
        dispositions: n.
    """

    images: LabelledImages
    answers: Answers
    strangeness: NDArray[np.float64]
    dispositions: tuple[Disposition, ...]

    def report(self, classes: tuple[str, ...], clean: tuple[str, ...]) -> ClassificationReport:
        """Their figures."""
        became = np.array(self.dispositions, dtype=object)
        return classification_report(
            self.images.truth,
            self.answers.probability,
            classes,
            clean=clean,
            unknown=became == "unknown",
            accepted=became == "accept",
            unseen=self.images.unseen,
        )


def judge(model: Classifier, images: LabelledImages, answers: Answers) -> Judged:
    """What becomes of images by the model's thresholds and its known examples."""
    meta = model.meta
    strangeness = np.zeros(len(images))
    if model.known is not None and len(images):
        strangeness = model.known.look(answers.features).strangeness
    label, score = answers.probability.argmax(axis=1), answers.probability.max(axis=1, initial=0)
    dispositions = dispose_labels(label, score, strangeness > 1, meta.classes, meta.thresholds)
    return Judged(images, answers, strangeness, dispositions)


def score_labels(
    settings: LabelScoreSettings, progress: Callable[[int, int], None] | None = None
) -> tuple[ClassificationReport, tuple[tuple[str, str], ...]]:
    """Figures of a classifier on data sets.

    Args:
        settings: Which model on what.
        progress: Called after each batch with how many images are done and how many there are.

    Returns:
        The figures, and file and reason of the images that could not be read.

    Raises:
        DataError: A data set has no labelled image.
        ModelError: The model cannot be used, or knows no class of a data set.
        SettingsError: A clean class is none of the model's classes, or there are pairs and the
            model takes one magnification.
    """
    model = Classifier.load(settings.model, settings.threads)
    classes = model.meta.classes
    clean = model.meta.clean if settings.clean is None else settings.clean
    if unknown := [name for name in clean if name not in classes]:
        raise SettingsError(
            f"--clean: expected some of {', '.join(classes)}, found {', '.join(unknown)}"
        )
    split = settings.split or ("test", "val")
    sets = [open_labelled(data, split, classes, model.meta.name) for data in settings.data]
    unseen: dict[str, int] = {}
    for part in sets:
        for name, count in part.unseen.items():
            unseen[name] = unseen.get(name, 0) + count
    images = LabelledImages(
        tuple(p for part in sets for p in part.paths),
        tuple(n for part in sets for n in part.names),
        np.concatenate([part.truth for part in sets]),
        unseen,
    )
    failed: list[tuple[str, str]] = []
    low = read_partners(model, settings.pairs)
    images = images.only(np.array(alone(images.paths, low), np.intp))
    places, answers = answer(model, images.paths, failed, progress, low)
    judged = judge(model, images.only(places), answers)
    report = judged.report(classes, clean)
    if settings.report is not None:
        _write_page(settings.report, settings, model, judged, report, failed)
    return report, tuple(failed)


def _write_page(
    path: Path,
    settings: LabelScoreSettings,
    model: Classifier,
    judged: Judged,
    report: ClassificationReport,
    failed: Sequence[tuple[str, str]],
) -> None:
    """The labelled images as galleries, those first whose label is suspected.

    Raises:
        SemiscopeError: The file cannot be written.
    """
    classes, images = model.meta.classes, judged.images
    rows: list[ImageRow] = [{"file": str(path)} for path in images.paths]
    fill_rows(model, rows, judged.answers)
    shown = [
        Labelled(row, UNSEEN_CLASS if k == UNSEEN else classes[k])
        for row, k in zip(rows, images.truth.tolist(), strict=True)
    ]
    suspected = suspected_errors(images.truth, judged.answers.probability).tolist()
    wrong = [i for i in shown if i.row["label"] != i.truth and i.row["disposition"] == "accept"]
    wrong.sort(key=lambda i: -i.row["score"])
    galleries = [
        (
            "Suspected label errors",
            "the model is surer of another class than it usually is of that class. Look at them; "
            "believe it only where the model was not trained on these images.",
            [shown[i] for i in suspected[:_EACH]],
            len(suspected),
        ),
        (
            "Accepted and wrong",
            "no person would have seen them, the surest first.",
            wrong[:_EACH],
            len(wrong),
        ),
        *sorts(shown, 3 * _EACH),
    ]
    counts = report.confusion[:-1, :-1].copy()
    np.fill_diagonal(counts, 0)
    most = np.argsort(-counts, axis=None, kind="stable")[:MOST_PAIRS]
    pairs = [
        (classes[a], classes[b], int(counts[a, b]))
        for a, b in zip(*np.unravel_index(most, counts.shape), strict=True)
        if counts[a, b]
    ]
    accuracy = report.accuracy.value
    page = build_report(
        shown,
        title="Evaluation of labels",
        facts={
            "Model": model.meta.name,
            "Data": ", ".join(map(str, settings.data)),
            **({} if accuracy is None else {"Accuracy": f"{accuracy:.3f}"}),
        },
        galleries=galleries,
        pairs=pairs,
        pairs_title="Most confused",
        pairs_note="images: what they are, what they are called",
        classes=classes,
        failed=failed,
        model=model.card(),
        settings=settings.model_dump(mode="json", exclude={"report"}),
    )
    write_atomic(path, page)
