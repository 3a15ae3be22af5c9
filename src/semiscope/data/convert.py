"""A data set from one format to another."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from semiscope.data.dataset import open_dataset
from semiscope.errors import DataError, ImageError
from semiscope.geometry import shape_box
from semiscope.io import labels
from semiscope.io.formats import FORMATS
from semiscope.io.masks import IGNORE, read_class_map
from semiscope.types import Annotations, Dataset, Mask, Sample


def convert(source: Path, destination: Path, to: str) -> tuple[str, ...]:
    """Writes a data set again in another format, with its images and splits.

    Where the source has class maps and the format holds instances, each connected part of a class
    other than the first, the background, becomes an instance.

    Args:
        source: A data set in any of the formats.
        destination: A new or empty folder.
        to: A name in ``FORMATS``.

    Returns:
        What was mended, left out, or cannot be held by the format.

    Raises:
        DataError: The source is no data set, the destination is not empty, or the format can hold
            nothing of what the source has.
        SemiscopeError: A file cannot be read or written.
    """
    if to not in FORMATS:
        raise DataError(f"expected one of the formats {', '.join(FORMATS)}, found {to!r}")
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise DataError(f"{destination}: expected a new or empty folder; choose another")
    if destination.resolve().is_relative_to(source.resolve()):
        raise DataError(f"{destination}: expected a folder outside {source}; choose another")
    dataset = open_dataset(source)
    notes = list(dataset.notes)
    if to in ("coco", "yolo", "voc", "labelstudio"):
        dataset = with_instances(dataset, notes)
    return (*notes, *FORMATS[to].write(dataset, destination))


def with_instances(dataset: Dataset, notes: list[str]) -> Dataset:
    """The data set with instances in place of class maps.

    Args:
        dataset: Samples that have annotations stay as they are.
        notes: Receives what cannot be read, and how many instances were made.
    """
    made = 0
    samples = []
    for sample in dataset:
        if sample.class_map is not None and sample.annotations is None:
            try:
                found = _parts(sample.class_map, len(dataset.classes))
            except ImageError as error:
                notes.append(f"{error.path}: {labels.BAD_LABEL}: {error.problem}")
                samples.append(Sample(sample.path, sample.size, split=sample.split))
                continue
            made += len(found)
            sample = Sample(sample.path, sample.size, found, None, sample.label, sample.split)
        samples.append(sample)
    if made:
        notes.append(f"{made} instances were made of the connected parts of the class maps")
    return Dataset(dataset.classes, tuple(samples), dataset.notes)


def open_outlined(root: Path) -> Dataset:
    """The images of a data set whose instances all have a shape; class maps give their parts.

    Pixels of a class map that are no class of the data set belong to no instance.

    Raises:
        DataError: There is none, or a class map cannot be read or is not of its image's size.
    """
    notes: list[str] = []
    dataset = with_instances(open_dataset(root), notes)
    faults = [n for n in (*dataset.notes, *notes) if labels.BAD_LABEL in n]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise DataError(f"{faults[0]}{more}. Mend or remove it.")
    samples = tuple(
        s
        for s in dataset
        if s.annotations is not None
        and s.annotations.shapes is not None
        and None not in s.annotations.shapes
    )
    if not samples:
        raise DataError(f"{root}: expected class maps or outlines, found none")
    return Dataset(dataset.classes, samples, dataset.notes)


def _parts(class_map: Path, classes: int) -> Annotations:
    """An instance for each 8-connected part of each class but the first."""
    indices = read_class_map(class_map)
    shapes: list[Mask] = []
    class_ids: list[int] = []
    for value in np.unique(indices):
        if value in (0, IGNORE) or value >= classes:
            continue
        count, parts, boxes, _ = cv2.connectedComponentsWithStats(
            (indices == value).astype(np.uint8), connectivity=8
        )
        for part in range(1, count):
            x, y, w, h = (int(v) for v in boxes[part, :4])
            bits = parts[y : y + h, x : x + w] == part
            shapes.append(Mask(x, y, bits))
            class_ids.append(int(value))
    if not shapes:
        return Annotations.empty()
    boxes = np.stack([shape_box(shape) for shape in shapes])
    return Annotations(boxes, np.array(class_ids), shapes=tuple(shapes))
