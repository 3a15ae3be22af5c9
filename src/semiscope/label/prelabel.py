"""Initial masks for whole folders, for a person to correct: SeSAMI, figures 4b and 9."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from semiscope import __version__
from semiscope.config import Settings
from semiscope.errors import DataError, ImageError, SettingsError
from semiscope.geometry import clip_boxes, crop, nms, shape_box
from semiscope.infer.close_up import decode_close
from semiscope.infer.promptable import Promptable, Prompter
from semiscope.inspection.journal import NAME as JOURNAL
from semiscope.inspection.journal import DefectRow, ImageRow, Journal
from semiscope.io.coco import decode_rle, encode_rle
from semiscope.io.formats import FORMATS
from semiscope.io.image import find_images, read_image
from semiscope.label.prompts import REGION, Shown, boxes_from_file, boxes_from_truth
from semiscope.types import Annotations, Dataset, Mask, Pixels, Sample

GRID, FROM_CLASS_MAPS = "grid", "from-class-maps"

_SUREST = 0.9999  # 1 would read as a person's label
_AT_ONCE = 16  # points of a grid, whose masks are as large as the image


class PrelabelSettings(Settings):
    """How initial masks are made."""

    model: str = Field(description="A promptable model's name in the zoo, or an .onnx file")
    prompts: str = Field(
        description="boxes.json (COCO, such as an inspection's results.json), grid (points all "
        "over the image), or from-class-maps (boxes about the regions that a data set has)"
    )
    format: Literal["coco", "masks", "labelstudio"] = Field(
        "coco", description="COCO, class maps, or a Label Studio project with predictions"
    )
    close_up: bool = Field(
        False,
        description="Boxes: ask for small regions again in an enlarged part of the image; each "
        "part takes as long as an image",
    )
    grid: int = Field(16, ge=1, le=64, description="Grid: points along the longer side")
    least_claim: float = Field(
        0.8, ge=0, le=1, description="Grid: masks that claim less IoU are left out"
    )
    suppression_iou: float = Field(
        0.7, gt=0, le=1, description="Grid: overlap of boxes above which the lower claim goes"
    )
    least_area: int = Field(
        20, ge=1, description="Grid and from-class-maps: regions of fewer px are left out"
    )
    threads: int | None = Field(None, ge=1, description="Cores to use; all when not given")


@dataclass(frozen=True, slots=True)
class PrelabelSummary:
    """What was done.

    Attributes:
        images: How many have masks, or were looked at and have none.
        masks: How many there are.
        failed: File and reason of the images that could not be read.
        notes: What was left out or cannot be held by the format.
    """

    images: int
    masks: int
    failed: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "images": self.images,
            "masks": self.masks,
            "failed": [{"file": file, "reason": reason} for file, reason in self.failed],
            "notes": list(self.notes),
        }


def prelabel(
    images: Sequence[str | Path],
    settings: PrelabelSettings,
    out: Path,
    *,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> PrelabelSummary:
    """Writes a data set with initial masks and copies of the images.

    Args:
        images: Files, folders and glob patterns; of prompts from class maps one data set's folder.
        settings: How.
        out: A new or empty folder.
        resume: Go on where a run with the same settings was killed.
        progress: Called after each image with how many are done and how many there are.

    Raises:
        DataError: There is no image, the prompts cannot be read, or ``out`` is not empty.
        ModelError: The model cannot be used.
        SettingsError: ``out`` holds another run than the one to be resumed.
        SemiscopeError: ``out`` cannot be written.
    """
    if not resume and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(
            f"{out}: expected a new or empty folder; choose another, or go on with --resume"
        )
    paths, shown = _prompts(images, settings)
    classes = (REGION,) if shown is None else shown.classes
    model = Promptable.load(settings.model, settings.threads)
    head = {
        "semiscope": __version__,
        "model": hashlib.sha256(model.path.read_bytes()).hexdigest(),
        "settings": settings.model_dump(mode="json", exclude={"threads"}),
        "classes": list(classes),
        "list of images": hashlib.sha256(
            "\0".join(map(str, paths)).encode(errors="surrogateescape")
        ).hexdigest(),
    }
    with Journal(out, head, resume=resume) as journal:
        for path in paths[len(journal) :]:
            journal.append(_row(path, model, settings, shown))
            if progress is not None:
                progress(len(journal), len(paths))
        rows = list(journal.rows())
    samples, failed, notes = _samples(rows, {} if shown is None else shown.splits)
    written = FORMATS[settings.format].write(Dataset(classes, samples), out)
    return PrelabelSummary(
        sum(s.annotations is not None for s in samples),
        sum(len(s.annotations or ()) for s in samples),
        failed,
        (*(shown.notes if shown else ()), *notes, *written),
    )


def _prompts(
    images: Sequence[str | Path], settings: PrelabelSettings
) -> tuple[list[Path], Shown | None]:
    """The images, and what shows their regions; None for a grid."""
    if settings.prompts == GRID:
        return find_images(images), None
    if settings.prompts == FROM_CLASS_MAPS:
        if len(images) != 1 or not Path(images[0]).is_dir():
            raise SettingsError(
                f"--prompts {FROM_CLASS_MAPS}: expected the folder of one data set, found "
                f"{' '.join(map(str, images))}"
            )
        shown = boxes_from_truth(Path(images[0]), settings.least_area)
        return list(shown.boxes), shown
    if not settings.prompts.endswith(".json"):
        raise SettingsError(
            f"--prompts: expected a .json file, {GRID} or {FROM_CLASS_MAPS}, found "
            f"{settings.prompts!r}"
        )
    paths = find_images(images)
    return paths, boxes_from_file(Path(settings.prompts), paths)


def _row(path: Path, model: Prompter, settings: PrelabelSettings, shown: Shown | None) -> ImageRow:
    """What the journal says of an image."""
    try:
        pixels = read_image(path).pixels
    except ImageError as error:
        return {"file": str(path), "failed": error.problem}
    if shown is not None and path not in shown.boxes:
        return {"file": str(path), "notes": ["no prompt tells of it: left without labels"]}
    height, width = pixels.shape[:2]
    notes: list[str] = []
    if shown is None:
        found = grid_masks(model, pixels, settings)
    else:
        found = box_masks(model, pixels, shown.boxes[path], notes, settings.close_up)
    records: list[DefectRow] = []
    for i, shape in enumerate(found.shapes or ()):
        assert isinstance(shape, Mask)
        left, top, right, bottom = found.xyxy[i].tolist()
        records.append(
            {
                "category_id": int(found.class_id[i]),
                "bbox": [left, top, right - left, bottom - top],
                "score": round(float(found.score[i]), 6),
                "disposition": "review",
                "area": shape.area,
                "segmentation": encode_rle(shape, height, width),
            }
        )
    row: ImageRow = {"file": str(path), "width": width, "height": height, "defects": records}
    return {**row, "notes": notes} if notes else row


def read_proposals(folder: Path) -> Dataset:
    """The masks that ``prelabel`` proposed, whatever its format and whatever became of its files.

    Args:
        folder: Its ``out``.

    Returns:
        The images as they were given to it, without those that failed.

    Raises:
        DataError: The folder holds no proposals.
    """
    try:
        lines = (folder / JOURNAL).read_bytes().splitlines()
        head, *rows = map(json.loads, lines)
        samples, _, _ = _samples(rows, {})
        return Dataset(tuple(head["classes"]), samples)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder}: expected proposals ({JOURNAL} of semiscope label), found: {error!r}"
        ) from None


def _samples(
    rows: Sequence[ImageRow], splits: Mapping[Path, str]
) -> tuple[tuple[Sample, ...], tuple[tuple[str, str], ...], list[str]]:
    """The journal's images as samples, its failures and its notes."""
    samples: list[Sample] = []
    failed: list[tuple[str, str]] = []
    notes: list[str] = []
    for row in rows:
        path = Path(row["file"])
        if "failed" in row:
            failed.append((row["file"], row["failed"]))
            continue
        notes += [f"{path}: {note}" for note in row.get("notes", [])]
        split = splits.get(path, "")
        if "defects" not in row:
            samples.append(Sample(path, split=split))
            continue
        records = row["defects"]
        masks = tuple(decode_rle(r["segmentation"]) for r in records)
        found = Annotations.empty()
        if masks:
            found = Annotations(
                np.stack([shape_box(m) for m in masks]),
                np.array([r["category_id"] for r in records]),
                np.array([r["score"] for r in records], np.float32),
                masks,
            )
        samples.append(Sample(path, (row["height"], row["width"]), found, split=split))
    return tuple(samples), tuple(failed), notes


def box_masks(
    model: Prompter, pixels: Pixels, boxes: Annotations, notes: list[str], close_up: bool = False
) -> Annotations:
    """A mask for each box.

    Args:
        model: Answers.
        pixels: The image.
        boxes: Parts outside of the image do not count.
        notes: Receives what became no mask: a box outside, an answer without a pixel.
        close_up: Small regions are asked for in enlarged parts of the image.
    """
    clipped = clip_boxes(boxes.xyxy, *pixels.shape[:2])
    inside = (clipped[:, 2:] > clipped[:, :2]).all(1)
    for x, y, right, bottom in boxes.xyxy[~inside]:
        notes.append(f"box ({x:g}, {y:g}, {right:g}, {bottom:g}): outside the image; left out")
    if not inside.any():
        return Annotations.empty()
    if close_up:
        dense, claimed = decode_close(model, pixels, boxes=clipped[inside])
    else:
        dense, claimed = model.decode(model.encode(pixels), boxes=clipped[inside])
    return _annotations([crop(d) for d in dense], boxes.class_id[inside], claimed, notes)


def grid_masks(model: Prompter, pixels: Pixels, settings: PrelabelSettings) -> Annotations:
    """Masks for points all over an image, each region once (Kirillov et al. 2023, appendix B)."""
    height, width = pixels.shape[:2]
    spacing = max(height, width) / settings.grid
    counts = [max(1, round(n / spacing)) for n in (width, height)]
    x, y = np.meshgrid(
        *((np.arange(c) + 0.5) * n / c for c, n in zip(counts, (width, height), strict=True))
    )
    points = np.stack([x.ravel(), y.ravel()], 1)[:, None]
    embedding = model.encode(pixels)
    masks: list[Mask] = []
    claims: list[float] = []
    for first in range(0, len(points), _AT_ONCE):
        dense, claimed = model.decode(embedding, points=points[first : first + _AT_ONCE])
        for one, claim in zip(dense, claimed.tolist(), strict=True):
            mask = crop(one)
            if claim >= settings.least_claim and mask.area >= settings.least_area:
                masks.append(mask)
                claims.append(claim)
    if not masks:
        return Annotations.empty()
    found = _annotations(masks, np.zeros(len(masks), np.int64), np.array(claims), [])
    return found[nms(found.xyxy, found.score, None, settings.suppression_iou)]


def _annotations(
    masks: Sequence[Mask],
    class_id: NDArray[np.int64],
    claimed: NDArray[Any],
    notes: list[str],
) -> Annotations:
    kept = np.array([m.area > 0 for m in masks])
    notes += ["an answer without a pixel; left out"] * int((~kept).sum())
    masks = [m for m in masks if m.area]
    if not masks:
        return Annotations.empty()
    return Annotations(
        np.stack([shape_box(m) for m in masks]),
        class_id[kept],
        np.minimum(claimed[kept], _SUREST).astype(np.float32),
        tuple(masks),
    )
