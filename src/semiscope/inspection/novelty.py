"""What a classifier put to unknown, in groups: candidates for new classes that a person names.

Images are alike where the network sees alike features. Two groups are one while they are, in the
mean, no further from each other than images of one known class usually are.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from semiscope.config import Settings
from semiscope.errors import DataError, ImageError, ModelError, SemiscopeError, SettingsError
from semiscope.infer.classifier import Classifier
from semiscope.infer.groups import group
from semiscope.infer.open_set import KnownExamples
from semiscope.inspection.journal import ImageRow, read_rows
from semiscope.inspection.labels import levels_of
from semiscope.inspection.settings import InspectSettings
from semiscope.inspection.summary import RESULTS
from semiscope.io.files import write_atomic
from semiscope.io.image import read_image
from semiscope.io.labels import ImageCopier
from semiscope.report.montage import montage
from semiscope.types import Pixels, Sample

GROUPS = "groups.json"
_MOST = 4000
_OF_A_CLASS = 200  # examples that tell how wide a class is
_SHOWN = 36


class NoveltySettings(Settings):
    """How unknown images are grouped."""

    model: str = Field("", description="The run's model, where it is no longer in its place")
    spread: float = Field(
        1.0, gt=0, description="How wide a group may be, as a share of a known class; less splits"
    )
    least: int = Field(3, ge=2, description="Fewest images that make a group")
    copy_images: bool = Field(
        False, description="Also copy the images, a folder a group, ready to be named"
    )


@dataclass(frozen=True, slots=True)
class Group:
    """Images that are alike.

    Attributes:
        name: Of its montage and its folder.
        files: The most typical first.
        strangeness: Of each, see ``infer.open_set``.
        like: The known classes of the nearest known examples and how many images lie nearest to
            one, most first.
    """

    name: str
    files: tuple[str, ...]
    strangeness: tuple[float, ...]
    like: tuple[tuple[str, int], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        images = zip(self.files, self.strangeness, strict=True)
        return {
            "name": self.name,
            "like": [{"class": label, "images": count} for label, count in self.like],
            "images": [{"file": file, "strangeness": value} for file, value in images],
        }


@dataclass(frozen=True, slots=True)
class Novelties:
    """The unknown images of a run.

    Attributes:
        groups: The largest first.
        alone: Files that are like no other, or like too few.
        widest: Mean distance up to which images were one group.
        left_out: Files beyond the 4000 strangest, which were not grouped.
        failed: File and reason of images that could not be shown or copied.
    """

    groups: tuple[Group, ...]
    alone: tuple[str, ...]
    widest: float
    left_out: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "groups": [g.to_dict() for g in self.groups],
            "alone": list(self.alone),
            "widest": self.widest,
            "left_out": list(self.left_out),
            "failed": [{"file": file, "reason": reason} for file, reason in self.failed],
        }


def find_novelties(
    run: Path,
    out: Path,
    settings: NoveltySettings,
    progress: Callable[[int, int], None] | None = None,
) -> Novelties:
    """Groups the unknown images of an inspection; writes a montage a group and ``groups.json``.

    Args:
        run: The folder of an inspection by a classifier that holds known examples.
        out: A new or empty folder.
        settings: How.
        progress: Called after each group with how many are written and how many there are.

    Raises:
        DataError: The folder holds no finished inspection of that kind, or ``out`` is not empty.
        ModelError: The model cannot be used, or is another one than the run's.
        SemiscopeError: ``out`` cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: expected a new or empty folder; choose another")
    known = _known(run, settings.model)
    rows = [row for row in read_rows(run) if row.get("disposition") == "unknown"]
    rows.sort(key=lambda row: -row["strangeness"])
    rows, left_out = rows[:_MOST], rows[_MOST:]
    # by name, so that the groups do not hang on the last digit of a distance
    rows.sort(key=lambda row: row["file"])
    widest = settings.spread * class_width(known)
    parts: list[list[ImageRow]] = []
    if rows:
        levels = np.stack([levels_of(row) for row in rows])
        distance = pair_distances(levels)
        numbers = group(distance, widest)
        for number in range(numbers.max() + 1):
            members = np.flatnonzero(numbers == number)
            typical = members[np.argsort(distance[np.ix_(members, members)].mean(axis=1))]
            parts.append([rows[i] for i in typical])
    large = [p for p in parts if len(p) >= settings.least]
    failed: list[tuple[str, str]] = []
    groups = []
    for number, members_of in enumerate(large, 1):
        name = f"group-{number:02}"
        _write(out, name, [r["file"] for r in members_of], settings.copy_images, failed)
        near = Counter(r["nearest"][0]["label"] for r in members_of)
        groups.append(
            Group(
                name,
                tuple(r["file"] for r in members_of),
                tuple(r["strangeness"] for r in members_of),
                tuple(near.most_common()),
            )
        )
        if progress is not None:
            progress(number, len(large))
    alone = sorted(r["file"] for p in parts if len(p) < settings.least for r in p)
    found = Novelties(
        tuple(groups),
        tuple(alone),
        round(widest, 6),
        tuple(r["file"] for r in left_out),
        tuple(failed),
    )
    write_atomic(out / GROUPS, json.dumps(found.to_dict(), indent=1) + "\n")
    return found


def class_width(known: KnownExamples) -> float:
    """The mean distance of two images of one class, the median over the classes.

    Of the first 200 examples of each class that has two.
    """
    widths = []
    for k in np.unique(known.class_id):
        levels = known.levels[known.class_id == k][:_OF_A_CLASS]
        if len(levels) > 1:
            distance = pair_distances(levels)
            widths.append(distance.sum() / (len(levels) * (len(levels) - 1)))
    return float(np.median(widths))


def pair_distances(levels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(n, n) Euclidean distances of features as levels; a level is 1 / 255."""
    # numbers to 255 and their products are whole, and exact in 64 bits
    values = levels.astype(np.float64)
    norms = np.einsum("nd,nd->n", values, values)
    squared = norms[:, None] + norms - 2 * (values @ values.T)
    return np.asarray(np.sqrt(squared.clip(0)) / 255)


def _known(run: Path, model: str) -> KnownExamples:
    """What the model of a run has seen.

    Raises:
        DataError: The folder holds no finished inspection by a classifier.
        ModelError: The model is another one than the run's, or holds no known examples.
    """
    try:
        told = json.loads((run / RESULTS).read_text(encoding="utf-8"))["model"]
        settings = InspectSettings.from_toml(run / "settings.toml")
        task, digest = told["task"], told["sha256"]
    except (OSError, ValueError, KeyError, TypeError, SettingsError):
        raise DataError(
            f"{run}: expected the folder of a finished inspection ({RESULTS} and settings.toml), "
            "found none"
        ) from None
    if task != "classify":
        raise DataError(f"{run}: expected an inspection by a classifier, found task {task!r}")
    name = model or settings.model
    found = Classifier.load(name)
    if found.card()["sha256"] != digest:
        raise ModelError(
            f"{name}: expected the model of the run as it was, found another or a changed one. "
            "Inspect again."
        )
    if found.known is None:
        raise ModelError(
            f"{name}: holds no known examples, so that nothing is unknown to it. Give it some with "
            "semiscope calibrate, and inspect again."
        )
    return found.known


def _write(
    out: Path, name: str, files: list[str], copy: bool, failed: list[tuple[str, str]]
) -> None:
    """A group's montage, and its images when wanted."""
    pictures: list[Pixels] = []
    for file in files[:_SHOWN]:
        try:
            pictures.append(read_image(Path(file)).specimen)
        except ImageError as error:
            failed.append((file, error.problem))
    if pictures:
        write_atomic(out / f"{name}.png", montage(pictures))
    if copy:
        copier = ImageCopier()
        for file in files:
            try:
                copier.copy(Sample(Path(file)), out / name)
            except SemiscopeError as error:
                failed.append((file, str(error)))
