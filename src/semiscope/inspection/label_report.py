"""The report of a classifier's run or evaluation: which images are shown, and the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semiscope.errors import ImageError
from semiscope.inspection.journal import ImageRow, Journal
from semiscope.inspection.labels import levels_of
from semiscope.inspection.results import is_bad
from semiscope.inspection.summary import InspectionSummary
from semiscope.io.files import write_atomic
from semiscope.io.image import read_image
from semiscope.report.crop import CropMaker
from semiscope.report.embedding import Dot, project
from semiscope.report.label_page import LabelGallery, LabelPicture, LabelReport, label_page

MOST_PAIRS = 8


@dataclass(frozen=True, slots=True)
class Labelled:
    """An image that was labelled.

    Attributes:
        row: What is known of it, as an inspection journals it.
        truth: Its class where that is known.
    """

    row: ImageRow
    truth: str | None = None


def write_label_report(
    journal: Journal,
    summary: InspectionSummary,
    most: int,
    classes: Sequence[str],
    model: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> None:
    """Writes ``report.html`` of an inspection by a classifier.

    Args:
        journal: A row for each image of the run.
        summary: Its figures, and where the report goes.
        most: Images shown at most.
        classes: Names of the classes.
        model: What tells the model, plain values.
        settings: The settings of the run, plain values.

    Raises:
        SemiscopeError: The file cannot be written.
    """
    images = [Labelled(row) for row in journal.rows() if not is_bad(row)]
    doubtful = Counter(
        (i.row["label"], i.row["second"][0])
        for i in images
        if i.row["disposition"] == "review" and "second" in i.row
    )
    page = build_report(
        images,
        title="Label report",
        facts={
            "Model": str(model["name"]),
            "Time": f"{summary.seconds:.1f} s, {summary.images_per_second:.1f} images/s",
        },
        galleries=sorts(images, most),
        pairs=[(a, b, n) for (a, b), n in doubtful.most_common(MOST_PAIRS)],
        pairs_title="Classes in doubt",
        pairs_note="images for review: the label, what else it may be",
        classes=classes,
        failed=summary.failed,
        model=model,
        settings=settings,
    )
    write_atomic(summary.report, page)


def build_report(
    images: Sequence[Labelled],
    *,
    title: str,
    facts: Mapping[str, str],
    galleries: Sequence[tuple[str, str, Sequence[Labelled], int]],
    pairs: Sequence[tuple[str, str, int]],
    pairs_title: str,
    pairs_note: str,
    classes: Sequence[str],
    failed: Sequence[tuple[str, str]],
    model: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> str:
    """The page; see ``report.label_page.LabelReport`` for what is not told here.

    Args:
        images: All that were labelled.
        title: Heading.
        facts: Small figures below it.
        galleries: Heading, note, the images to show and how many there are.
        pairs: Classes taken for each other.
        pairs_title: Heading of these.
        pairs_note: What counts as one.
        classes: Names of the classes.
        failed: File and reason.
        model: What tells the model, plain values.
        settings: The settings, plain values.
    """
    counts = {name: [0, 0] for name in classes}
    dispositions = {"accept": 0, "review": 0, "unknown": 0}
    dots = []
    for image in images:
        row = image.row
        became = row["disposition"]
        dispositions[became] += 1
        if became != "unknown":
            counts[row["label"]][became == "review"] += 1
        told = f"{row['file']}: {row['label']} {row['score']:.2f}"
        was = "" if image.truth is None else f", labelled {image.truth}"
        dots.append(Dot(told + was, list(classes).index(row["label"]), became))
    shown = [
        LabelGallery(name, note, [p for i in some if (p := _picture(i)) is not None], total)
        for name, note, some, total in galleries
    ]
    report = LabelReport(
        title=title,
        facts={
            **facts,
            "Written": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        },
        classes=classes,
        images=len(images),
        dispositions=dispositions,
        counts={name: (accept, review) for name, (accept, review) in counts.items()},
        scores=np.array([i.row["score"] for i in images]),
        review=np.array([i.row["disposition"] != "accept" for i in images], bool),
        pairs=pairs,
        pairs_title=pairs_title,
        pairs_note=pairs_note,
        galleries=shown,
        places=_places(images),
        dots=dots,
        failed=failed,
        model=model,
        settings=settings,
    )
    return label_page(report)


def sorts(images: Sequence[Labelled], most: int) -> list[tuple[str, str, Sequence[Labelled], int]]:
    """The unknown, the doubtful and the confident, for ``build_report``.

    Args:
        images: All that were labelled.
        most: Images shown at most, a third of each sort.
    """
    of = {
        name: [i for i in images if i.row["disposition"] == name]
        for name in ("unknown", "review", "accept")
    }
    each = -(-most // 3)
    ranks: dict[str, Callable[[Labelled], float]] = {
        "unknown": lambda i: -i.row.get("strangeness", 0.0),
        "review": lambda i: i.row["score"],
        "accept": lambda i: -i.row["score"],
    }
    notes = {
        "unknown": ("Unknown", "like nothing that the model was trained on, the strangest first."),
        "review": ("Doubtful", "for a person to decide, the least sure first."),
        "accept": ("Confident", "the surest of each class in turn."),
    }
    ranked = {name: sorted(some, key=ranks[name]) for name, some in of.items()}
    ranked["accept"] = _in_turn(ranked["accept"])
    return [(*notes[name], some[:each], len(some)) for name, some in ranked.items()]


def _in_turn(images: Sequence[Labelled]) -> list[Labelled]:
    """One of each label, then the next of each, their order kept."""
    met: Counter[str] = Counter()
    turns = []
    for image in images:
        turns.append(met[image.row["label"]])
        met[image.row["label"]] += 1
    return [images[i] for i in sorted(range(len(images)), key=turns.__getitem__)]


def _places(images: Sequence[Labelled]) -> NDArray[np.float64]:
    if not images:
        return np.zeros((0, 2))
    return project(np.stack([levels_of(i.row) for i in images]))


def _picture(image: Labelled) -> LabelPicture | None:
    """None where the file has gone since it was labelled."""
    row = image.row
    try:
        specimen = read_image(Path(row["file"])).specimen
    except ImageError:
        return None
    height, width = specimen.shape[:2]
    second = row.get("second")
    return LabelPicture(
        file=row["file"],
        label=row["label"],
        score=row["score"],
        disposition=row["disposition"],
        jpeg=CropMaker(specimen).jpeg([0, 0, width, height]),
        second=None if second is None else (second[0], second[1]),
        truth=image.truth,
        nearest=[(n["label"], n["file"]) for n in row.get("nearest", ())],
    )
