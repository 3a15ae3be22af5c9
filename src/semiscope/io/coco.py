"""COCO data sets: one JSON file a split, boxes as [x, y, w, h], outlines as polygons or RLE.

Written as ``annotations.json`` beside ``images/``. Beyond COCO, an image's record may carry
``label`` (the class name of the whole image), ``class_map`` (a PNG of class indices) and
``labelled: false`` (nobody looked); an annotation's record ``score`` and ``angle_deg``. Other
readers pass over these.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from semiscope.errors import DataError
from semiscope.io import labels
from semiscope.io.files import write_atomic
from semiscope.io.image import images_below, read_size
from semiscope.io.rle import decode_rle, encode_rle
from semiscope.types import Dataset, Mask, Polygons, Sample, Shape

__all__ = ["decode_rle", "encode_rle", "load", "matches", "read", "write"]

_NAME = "annotations.json"


def matches(root: Path) -> bool:
    """Whether a folder, or one of its splits, holds a COCO file."""
    return any(_find(folder) is not None for _, folder in labels.split_folders(root))


def read(root: Path) -> Dataset:
    """Reads a data set.

    An image that the JSON lists without annotations is clean; one that it does not list was not
    looked at (annotations None). Crowd regions are left out with a note.

    Raises:
        DataError: A JSON file is not COCO, or ``classes.txt`` is faulty.
    """
    notes: list[str] = []
    parts = []
    for split, folder in labels.split_folders(root):
        path = _find(folder)
        parts.append((split, folder, path, {} if path is None else load(path)))
    listed = labels.read_classes(root)
    classes = _class_names([content for *_, content in parts]) if listed is None else listed
    samples: list[Sample] = []
    for split, folder, path, content in parts:
        found: list[Sample] = []
        if path is not None:
            found = _Reader(root, folder, path, content, classes, split, notes).samples()
        known = {s.path for s in found}
        images = folder / "images"
        for image in images_below(images if images.is_dir() else folder):
            if image in known or "masks" in image.relative_to(folder).parts:
                continue
            size = labels.size_or_note(image, notes)
            if size is None:
                continue
            if split != "unlabelled":
                notes.append(f"{image}: {labels.NO_LABEL}: not listed in {path}")
            found.append(Sample(image, size, split=split))
        samples += sorted(found, key=lambda s: s.path)
    return Dataset(classes, tuple(samples), tuple(dict.fromkeys(notes)))


def write(dataset: Dataset, destination: Path) -> tuple[str, ...]:
    """Writes a data set with its images; nothing is lost.

    Returns:
        A note where there is nothing but what other readers pass over.

    Raises:
        SemiscopeError: A file cannot be read or written.
    """
    copier = labels.ImageCopier()
    labels.write_classes(destination, dataset.classes)
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(dataset.classes)]
    for split in dict.fromkeys(s.split for s in dataset):
        folder = labels.split_folder(destination, split)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, sample in enumerate(dataset.split(split), 1):
            copy = copier.copy(sample, folder / "images")
            height, width = sample.size or read_size(sample.path)
            record: dict[str, Any] = {
                "id": number,
                "file_name": copy.name,
                "width": width,
                "height": height,
            }
            if sample.annotations is None:
                record["labelled"] = False
            if sample.label is not None:
                record["label"] = dataset.classes[sample.label]
            if sample.class_map is not None:
                record["class_map"] = f"masks/{copy.stem}.png"
                labels.copy_file(sample.class_map, folder / record["class_map"])
            images.append(record)
            annotations += _records(sample, number, len(annotations) + 1, height, width)
        content = {"images": images, "annotations": annotations, "categories": categories}
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        write_atomic(folder / _NAME, text)
    count = labels.labels_only(dataset)
    if not count:
        return ()
    return (
        f"{count} images have a label and no instances: the label is in their records, which other "
        "readers of COCO pass over, and a detector has nothing to learn from",
    )


def _find(folder: Path) -> Path | None:
    keys = b'"images"', b'"annotations"', b'"categories"'
    return labels.find_json(folder, _NAME, lambda data: all(key in data for key in keys))


def load(path: Path) -> dict[str, Any]:
    """The content of a COCO file, its lists and categories checked, its records not.

    Raises:
        DataError: The file is not COCO.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected a COCO file (JSON), found: {error}") from None
    lists = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) and all(isinstance(r, dict) for r in content[key])
        for key in lists
    ):
        raise DataError(f"{path}: expected a COCO file with lists of {', '.join(lists)}")
    for category in content["categories"]:
        if not isinstance(category.get("name"), str) or not isinstance(category.get("id"), int):
            raise DataError(f"{path}: expected categories with id and name, found {category}")
    return content


def _class_names(contents: list[dict[str, Any]]) -> tuple[str, ...]:
    """All splits' category names, in the order of their ids, without COCO's unused ones."""
    names: dict[str, None] = {}
    for content in contents:
        for category in sorted(content.get("categories", []), key=lambda c: c["id"]):
            names[category["name"]] = None
    return tuple(names)


class _Reader:
    """Turns the records of one COCO file into samples."""

    def __init__(
        self,
        root: Path,
        folder: Path,
        path: Path,
        content: dict[str, Any],
        classes: tuple[str, ...],
        split: str,
        notes: list[str],
    ) -> None:
        self._root = root
        self._folder = folder
        self._path = path
        self._content = content
        self._classes = classes
        self._split = split
        self._notes = notes
        index = {name: i for i, name in enumerate(classes)}
        self._class_of = {c["id"]: index.get(c["name"], -1) for c in content["categories"]}

    def samples(self) -> list[Sample]:
        by_image: dict[Any, list[tuple[int, dict[str, Any]]]] = {}
        for number, record in enumerate(self._content["annotations"]):
            by_image.setdefault(_hashable(record.get("image_id")), []).append((number, record))
        found = []
        for image in self._content["images"]:
            records = by_image.pop(_hashable(image.get("id")), [])
            sample = self._sample(image, records)
            if sample is not None:
                found.append(sample)
        for identity, records in by_image.items():
            self._notes.append(
                f"{self._path}: {labels.NO_IMAGE}: {len(records)} annotations of image id "
                f"{identity}, which is not in the list; left out"
            )
        return found

    def _sample(
        self, image: dict[str, Any], records: list[tuple[int, dict[str, Any]]]
    ) -> Sample | None:
        path = self._file(image.get("file_name"))
        if path is None:
            return None
        size = labels.size_or_note(path, self._notes)
        if size is None:
            return None
        if (image.get("height"), image.get("width")) != size:
            self._notes.append(
                f"{path}: {self._path.name} says {image.get('width')} x {image.get('height')} px, "
                f"the file has {size[1]} x {size[0]}; boxes are taken as they stand"
            )
        found = labels.Instances(len(self._classes), self._notes)
        for number, record in records:
            where = f"{self._path}, annotation {record.get('id', number)} of {path.name}"
            if record.get("iscrowd") and not isinstance(record.get("score"), int | float):
                self._notes.append(f"{where}: a crowd region; left out")
                continue
            try:
                self._add(found, where, record, size)
            except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
                self._notes.append(f"{where}: {labels.BAD_LABEL}: {error}; left out")
        label = image.get("label")
        class_map = image.get("class_map")
        return Sample(
            path,
            size,
            None if image.get("labelled") is False else found.annotations(),
            None if class_map is None else labels.inside(self._root, self._folder, str(class_map)),
            self._classes.index(label) if label in self._classes else None,
            self._split,
        )

    def _file(self, name: Any) -> Path | None:
        if not isinstance(name, str) or not name:
            self._notes.append(f"{self._path}: {labels.BAD_LABEL}: an image without file_name")
            return None
        for base in (self._folder / "images", self._folder):
            path = labels.inside(self._root, base, name)
            if path is None:
                self._notes.append(f"{self._path}: {labels.ESCAPES}: {name!r}; left out")
                return None
            if path.is_file():
                return base / name.replace("\\", "/")
        self._notes.append(f"{self._path}: {labels.NO_IMAGE}: {name!r} not found; left out")
        return None

    def _add(
        self, found: labels.Instances, where: str, record: dict[str, Any], size: tuple[int, int]
    ) -> None:
        category = record["category_id"]
        class_id = self._class_of.get(_hashable(category), -1)
        if class_id < 0:
            self._notes.append(f"{where}: {labels.UNKNOWN_CLASS}: category {category!r}; left out")
            return
        shape = _shape(record.get("segmentation"), size)
        box = record.get("bbox")
        if box is not None:
            x, y, width, height = (float(v) for v in box)
            box = (x, y, x + width, y + height)
        found.add(
            where,
            class_id,
            box,
            shape,
            float(record.get("score", 1.0)),
            float(record.get("angle_deg", "nan")),
        )


def _hashable(value: Any) -> Any:
    return value if isinstance(value, int | str) else repr(value)


def _shape(segmentation: Any, size: tuple[int, int]) -> Shape | None:
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        if tuple(segmentation.get("size", ())) != size:
            raise ValueError(f"RLE of size {segmentation.get('size')}, the image has {list(size)}")
        return decode_rle(segmentation)
    rings = tuple(np.asarray(ring, dtype=np.float64).reshape(-1, 2) for ring in segmentation)
    return Polygons(rings)


def _records(
    sample: Sample, image_id: int, first: int, height: int, width: int
) -> list[dict[str, Any]]:
    """An image's annotations as COCO has them."""
    found = sample.annotations
    records: list[dict[str, Any]] = []
    if found is None:
        return records
    for i, box in enumerate(found.xyxy.astype(np.float64)):
        x, y, right, bottom = box
        record: dict[str, Any] = {
            "id": first + i,
            "image_id": image_id,
            "category_id": int(found.class_id[i]) + 1,
            "bbox": [round(float(v), 4) for v in (x, y, right - x, bottom - y)],
            "area": round(float((right - x) * (bottom - y)), 4),
            "iscrowd": 0,
        }
        shape = None if found.shapes is None else found.shapes[i]
        if isinstance(shape, Mask):
            record["segmentation"] = encode_rle(shape, height, width)
            record["area"] = shape.area
        elif shape is not None:
            record["segmentation"] = [ring.round(4).ravel().tolist() for ring in shape.rings]
            record["area"] = round(sum(abs(labels.polygon_area(r)) for r in shape.rings), 4)
        if found.score[i] != 1:
            record["score"] = round(float(found.score[i]), 6)
        if found.angle_deg is not None and np.isfinite(found.angle_deg[i]):
            record["angle_deg"] = round(float(found.angle_deg[i]), 4)
        records.append(record)
    return records
