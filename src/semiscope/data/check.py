"""Is a data set fit for training? Every image is decoded, every label looked at."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from semiscope.config import Settings
from semiscope.data.check_report import CheckReport, Problem, SplitCounts, Verdict
from semiscope.data.dataset import find_format, open_dataset, sample_classes
from semiscope.data.duplicates import near_pairs, thumbnail
from semiscope.errors import ImageError
from semiscope.io import labels
from semiscope.io.image import read_image
from semiscope.io.masks import IGNORE, read_class_map
from semiscope.types import Dataset, Sample
from semiscope.workers import plan_threads, worker_pool

_EXAMPLES = 5
# groups of boxes by their area, px²: each from the limit of the one before on
_SIZE_LIMITS = {"small": 32.0**2, "medium": 96.0**2, "large": np.inf}


class CheckSettings(Settings):
    """Where a check draws its lines."""

    min_examples: int = Field(20, ge=1, description="training examples that a class should have")
    max_imbalance: float = Field(
        20.0, ge=1, description="most frequent class over rarest, from where on to warn"
    )
    near_duplicate: float = Field(
        0.98, gt=0, le=1, description="thumbnail correlation from where on images are the same"
    )
    max_unreadable: float = Field(
        0.05, ge=0, le=1, description="part of the images that may be unreadable"
    )


class _Look(NamedTuple):
    """What one look at a sample gives."""

    problem: str | None
    digest: bytes
    thumbnail: NDArray[np.float32]
    size: tuple[int, int]
    map_classes: NDArray[np.int64]


def check_dataset(
    root: Path,
    settings: CheckSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Checks a labelled data set.

    Args:
        root: Its folder, in any format.
        settings: Where to draw the lines.
        progress: Called with the images done and their number.

    Raises:
        DataError: The folder is not a data set in any of the formats.
    """
    settings = settings or CheckSettings()
    form = find_format(root)
    dataset = open_dataset(root)
    looks: list[_Look] = []
    workers, _ = plan_threads(len(dataset), None)
    with worker_pool(workers, "check") as pool:
        for look in pool.map(_look, dataset.samples):
            looks.append(look)
            if progress is not None:
                progress(len(looks), len(dataset))
    readable = [i for i, look in enumerate(looks) if look.problem is None]
    splits = {
        split: _count(dataset, [i for i in readable if dataset.samples[i].split == split], looks)
        for split in (*labels.SPLITS, "")
        if any(s.split == split for s in dataset)
    }
    problems = [
        *_reading_problems(dataset, looks, settings),
        *_label_problems(dataset, looks),
        *_class_problems(dataset, splits, settings),
        *_duplicate_problems(dataset, readable, looks, settings),
    ]
    problems.sort(key=lambda p: p.severity)
    verdict: Verdict = "fit with warnings" if problems else "fit"
    if any(p.severity == "error" for p in problems):
        verdict = "unfit"
    return CheckReport(
        root=str(root),
        format=form,
        classes=dataset.classes,
        splits=splits,
        problems=tuple(problems),
        verdict=verdict,
    )


def _look(sample: Sample) -> _Look:
    """Decodes a sample's image and class map."""
    values = np.zeros(0, np.int64)
    try:
        image = read_image(sample.path)
        if sample.class_map is not None:
            values = np.flatnonzero(np.bincount(read_class_map(sample.class_map).ravel()))
    except ImageError as error:
        return _Look(str(error), b"", np.zeros(0, np.float32), (0, 0), values)
    pixels = image.pixels
    digest = hashlib.sha256(np.ascontiguousarray(pixels).data)
    digest.update(str((pixels.shape, pixels.dtype)).encode())
    return _Look(
        None,
        digest.digest(),
        thumbnail(image.specimen),
        (image.height, image.width),
        values[values != IGNORE],
    )


def _count(dataset: Dataset, chosen: Sequence[int], looks: Sequence[_Look]) -> SplitCounts:
    images, instances = np.zeros((2, len(dataset.classes)), np.int64)
    sizes = np.zeros(len(_SIZE_LIMITS), np.int64)
    clean = unlabelled = 0
    for i in chosen:
        sample = dataset.samples[i]
        mapped = looks[i].map_classes
        shown = np.union1d(sample_classes(sample), mapped[mapped < len(images)])
        images[shown] += 1
        if sample.annotations is not None:
            np.add.at(instances, sample.annotations.class_id, 1)
            left, top, right, bottom = sample.annotations.xyxy.T.astype(np.float64)
            area = (right - left) * (bottom - top)
            np.add.at(sizes, np.searchsorted([*_SIZE_LIMITS.values()], area, side="right"), 1)
        else:
            instances[shown] += 1
        known = sample.annotations is not None or sample.class_map is not None
        clean += known and not len(shown)
        unlabelled += not known and sample.label is None
    return SplitCounts(
        images=len(chosen),
        clean=clean,
        unlabelled=unlabelled,
        images_per_class=dict(zip(dataset.classes, images.tolist(), strict=True)),
        instances_per_class=dict(zip(dataset.classes, instances.tolist(), strict=True)),
        instances_per_size=dict(zip(_SIZE_LIMITS, sizes.tolist(), strict=True)),
    )


def _problem(
    severity: Literal["error", "warning"], what: str, advice: str, places: Sequence[str]
) -> Iterator[Problem]:
    """One problem, or none when it was met nowhere."""
    if places:
        yield Problem(
            severity=severity,
            what=what,
            count=len(places),
            advice=advice,
            examples=tuple(places[:_EXAMPLES]),
        )


def _reading_problems(
    dataset: Dataset, looks: Sequence[_Look], settings: CheckSettings
) -> Iterator[Problem]:
    places = [note for note in dataset.notes if labels.UNREADABLE in note]
    total = len(dataset) + len(places)
    places += [look.problem for look in looks if look.problem is not None]
    yield from _problem(
        "error" if len(places) > settings.max_unreadable * total else "warning",
        "files that cannot be read",
        "Copy them again or delete them.",
        places,
    )
    by_phrase: list[tuple[str, Literal["error", "warning"], str]] = [
        (labels.UNKNOWN_CLASS, "error", "Complete the class list or correct the labels."),
        (labels.ESCAPES, "error", "Let the label file name files inside the data set only."),
        (labels.BAD_LABEL, "warning", "Correct these labels."),
        (labels.NO_AREA, "warning", "Delete these boxes or draw them again."),
        (labels.REPAIRED, "warning", "Look at these outlines; they were mended while reading."),
        (labels.NO_IMAGE, "warning", "Add the images or delete the labels."),
        (labels.NO_LABEL, "warning", "Label them, or move them to unlabelled/."),
    ]
    for phrase, severity, advice in by_phrase:
        found = [note for note in dataset.notes if phrase in note]
        yield from _problem(severity, phrase, advice, found)


def _label_problems(dataset: Dataset, looks: Sequence[_Look]) -> Iterator[Problem]:
    beyond: list[str] = []
    across: list[str] = []
    tiny: list[str] = []
    values: list[str] = []
    for sample, look in zip(dataset, looks, strict=True):
        if look.problem is not None:
            continue
        outside = look.map_classes[look.map_classes >= len(dataset.classes)]
        if len(outside):
            values.append(f"{sample.class_map}: class indices {outside.tolist()}")
        if sample.annotations is None or not len(sample.annotations):
            continue
        height, width = look.size
        left, top, right, bottom = sample.annotations.xyxy.T
        gone = (right <= 0) | (bottom <= 0) | (left >= width) | (top >= height)
        over = (left < -1) | (top < -1) | (right > width + 1) | (bottom > height + 1)
        small = (right - left < 1) | (bottom - top < 1)
        for places, where in ((beyond, gone), (across, over & ~gone), (tiny, small)):
            for i in np.flatnonzero(where):
                box = np.round(sample.annotations.xyxy[i], 1).tolist()
                places.append(f"{sample.path}: {box} in {width} x {height} px")
    yield from _problem(
        "error", "class indices outside the list", "Complete the class list.", values
    )
    yield from _problem(
        "error", "boxes wholly outside the image", "Check the labels' coordinates.", beyond
    )
    yield from _problem(
        "warning", "boxes that reach outside the image", "They are clipped in training.", across
    )
    yield from _problem(
        "warning", "boxes less than a pixel wide or high", "Delete them or draw them again.", tiny
    )


def _class_problems(
    dataset: Dataset, splits: dict[str, SplitCounts], settings: CheckSettings
) -> Iterator[Problem]:
    name = "train" if "train" in splits else ""
    counts = splits.get(name)
    where = "training images" if name else "images"
    labelled = 0 if counts is None else counts.images - counts.unlabelled
    if counts is None or labelled < 2:
        yield Problem(
            severity="error",
            what=f"fewer than two labelled {where}",
            count=labelled,
            advice="Label images, and put them in train/ or have no splits at all.",
        )
        return
    number = counts.instances_per_class
    yield from _problem(
        "error",
        f"classes without an example in the {where}",
        "Label some, or take the class off the list.",
        [c + _elsewhere(c, splits) for c in dataset.classes if number[c] == 0],
    )
    if any(s.class_map is not None for s in dataset):
        # a few images hold thousands of labelled pixels each
        return
    yield from _problem(
        "warning",
        f"classes with fewer than {settings.min_examples} examples in the {where}",
        "Label more, or expect the class to be found poorly.",
        [f"{c}: {n}" for c, n in number.items() if 0 < n < settings.min_examples],
    )
    present = {c: n for c, n in number.items() if n}
    if len(present) < 2:
        return
    most, least = max(present, key=present.__getitem__), min(present, key=present.__getitem__)
    if present[most] > settings.max_imbalance * present[least]:
        yield from _problem(
            "warning",
            "very unbalanced classes",
            "Train with class-balanced sampling, or label more of the rare ones.",
            [f"{most}: {present[most]}, {least}: {present[least]}"],
        )


def _elsewhere(name: str, splits: dict[str, SplitCounts]) -> str:
    """In which other splits a class is met, in words."""
    met = [(split, counts.images_per_class[name]) for split, counts in splits.items()]
    told = ", ".join(f"{count} in {split}" for split, count in met if count)
    return f" ({told}: a model can only put it to unknown)" if told else ""


def _duplicate_problems(
    dataset: Dataset, readable: Sequence[int], looks: Sequence[_Look], settings: CheckSettings
) -> Iterator[Problem]:
    """Identical pixels anywhere; nearly identical ones across splits."""
    groups: dict[bytes, list[int]] = {}
    for i in readable:
        groups.setdefault(looks[i].digest, []).append(i)
    same: list[str] = []
    across: list[str] = []
    identical: set[tuple[int, int]] = set()
    for members in (g for g in groups.values() if len(g) > 1):
        text = " = ".join(str(dataset.samples[i].path) for i in members)
        judged = {dataset.samples[i].split for i in members} - {"unlabelled"}
        (across if len(judged) > 1 else same).append(text)
        identical.update((a, b) for a in members for b in members)
    yield from _problem(
        "error",
        "identical images in several splits",
        "Keep each in one split; figures on the others would flatter.",
        across,
    )
    yield from _problem("warning", "identical images within a split", "Keep one of each.", same)
    near = [
        f"{dataset.samples[a].path} ~ {dataset.samples[b].path} ({correlation:.3f})"
        for a, b, correlation in _near_pairs(dataset, readable, looks, settings.near_duplicate)
        if (a, b) not in identical
    ]
    yield from _problem(
        "warning",
        "nearly identical images in several splits",
        "Look at them; keep views of the same place in one split.",
        near,
    )


def _near_pairs(
    dataset: Dataset, readable: Sequence[int], looks: Sequence[_Look], threshold: float
) -> Iterator[tuple[int, int, float]]:
    """Pairs of samples from different labelled splits that show the same place."""
    by_split: dict[str, list[int]] = {}
    for i in readable:
        if dataset.samples[i].split != "unlabelled":
            by_split.setdefault(dataset.samples[i].split, []).append(i)
    parts = sorted(by_split.values(), key=len)
    thumbnails = [np.stack([looks[i].thumbnail for i in part]) for part in parts]
    for few in range(len(parts)):
        for many in range(few + 1, len(parts)):
            for a, b, correlation in near_pairs(thumbnails[many], thumbnails[few], threshold):
                yield parts[many][a], parts[few][b], correlation
