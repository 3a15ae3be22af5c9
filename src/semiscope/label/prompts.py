"""What shows a promptable model the regions of a folder's images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from semiscope.data.convert import with_instances
from semiscope.data.dataset import open_dataset
from semiscope.errors import DataError
from semiscope.io import coco, labels
from semiscope.types import Annotations

REGION = "region"
"""The only class where nobody tells classes."""


@dataclass(frozen=True, slots=True)
class Shown:
    """Boxes that show regions.

    Attributes:
        classes: Names by class index.
        boxes: Of the images that somebody or something looked at; their shapes do not count.
        splits: Of the images that are of a split.
        notes: What was left out, one sentence each.
    """

    classes: tuple[str, ...]
    boxes: Mapping[Path, Annotations]
    splits: Mapping[Path, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def boxes_from_file(path: Path, images: Sequence[Path]) -> Shown:
    """Boxes from a COCO file, such as the results.json of an inspection.

    Its images are those of the list that have the same path, else the same name; no other file is
    ever looked at.

    Args:
        path: The JSON file.
        images: The images to be labelled.

    Raises:
        DataError: The file is not COCO, or none of its images is among the list.
    """
    content = coco.load(path)
    notes: list[str] = []
    by_path = {str(p): p for p in images}
    by_name: dict[str, Path | None] = {}
    for p in images:
        by_name[p.name] = None if p.name in by_name else p
    ordered = sorted(content["categories"], key=lambda c: c["id"])
    classes = tuple(dict.fromkeys(c["name"] for c in ordered))
    class_of = {c["id"]: classes.index(c["name"]) for c in ordered}
    records: dict[Any, list[dict[str, Any]]] = {}
    for record in content["annotations"]:
        records.setdefault(repr(record.get("image_id")), []).append(record)
    found: dict[Path, Annotations] = {}
    for image in content["images"]:
        name = str(image.get("file_name"))
        place = by_path.get(name) or by_name.get(PurePosixPath(name.replace("\\", "/")).name)
        if place is None:
            notes.append(f"{path}: {labels.NO_IMAGE}: {name!r} is not, or not once, in the list")
            continue
        instances = labels.Instances(len(classes), notes)
        for number, record in enumerate(records.get(repr(image.get("id")), [])):
            where = f"{path}, annotation {record.get('id', number)} of {place.name}"
            try:
                x, y, width, height = (float(v) for v in record["bbox"])
                instances.add(where, class_of[record["category_id"]], [x, y, x + width, y + height])
            except (KeyError, TypeError, ValueError) as error:
                notes.append(f"{where}: {labels.BAD_LABEL}: {error!r}; left out")
        found[place] = instances.annotations()
    if not found:
        raise DataError(f"{path}: expected boxes of the images given, found none of them listed")
    return Shown(classes, found, notes=tuple(notes))


def boxes_from_truth(folder: Path, least_area: int) -> Shown:
    """Boxes about the regions of a data set's class maps, or about its instances.

    Args:
        folder: A data set in any format.
        least_area: Regions of fewer pixels are passed over.

    Raises:
        DataError: The folder is no data set, or has no class map and no instance.
    """
    notes: list[str] = []
    dataset = with_instances(open_dataset(folder), notes)
    found: dict[Path, Annotations] = {}
    for sample in dataset:
        boxes = sample.annotations
        if boxes is None:
            continue
        extent = boxes.xyxy[:, 2:] - boxes.xyxy[:, :2]
        area = extent.prod(1)
        for i, shape in enumerate(boxes.shapes or ()):
            area[i] = getattr(shape, "area", area[i])
        found[sample.path] = boxes[np.flatnonzero(area >= least_area)]
    if not found:
        raise DataError(f"{folder}: expected class maps or instances as prompts, found none")
    splits = {s.path: s.split for s in dataset}
    return Shown(dataset.classes, found, splits, (*dataset.notes, *notes))
