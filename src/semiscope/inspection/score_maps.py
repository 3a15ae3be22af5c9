"""A segmenter held against the class maps of labelled data sets, inferred as ``inspect`` does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from semiscope.config import Settings
from semiscope.data.class_maps import read_mapped
from semiscope.data.dataset import first_split, open_dataset
from semiscope.errors import DataError, ImageError, ModelError, SettingsError
from semiscope.evaluate.segmentation import SegmentationReport, confusion, segmentation_report
from semiscope.infer.segmenter import Segmenter
from semiscope.infer.tiled import OVERLAP
from semiscope.io import labels
from semiscope.io.masks import IGNORE
from semiscope.types import Dataset


class MapScoreSettings(Settings):
    """How a segmenter is held against data sets."""

    model: str = Field(description="A segmenter's name in the zoo, or an .onnx file")
    data: tuple[Path, ...] = Field(
        min_length=1, description="Data sets with class maps; each is a device"
    )
    split: str = Field(
        "", description="Which part: train, val or test; by default test, else val, else all"
    )
    defects: tuple[str, ...] | None = Field(
        None, description="Classes that are defects; by default those that the model names"
    )
    overlap: float = Field(
        OVERLAP, ge=0, lt=1, description="Part of a tile that neighbours share in a large image"
    )
    threads: int | None = Field(None, ge=1, description="Cores to use; all when not given")


def score_maps(
    settings: MapScoreSettings, progress: Callable[[int, int], None] | None = None
) -> tuple[SegmentationReport, tuple[tuple[str, str], ...]]:
    """Figures of a segmenter on data sets.

    Args:
        settings: Which model on what.
        progress: Called after each image with how many are done and how many there are.

    Returns:
        The figures, and file and reason of the images that could not be read or whose class map is
        faulty.

    Raises:
        DataError: A data set has no image with a class map.
        ModelError: The model cannot be used, or does not know a class of the data.
        SettingsError: A defect is none of the model's classes.
    """
    model = Segmenter.load(settings.model, settings.threads)
    classes = model.meta.classes
    defects = model.meta.defects if settings.defects is None else settings.defects
    unknown = [d for d in defects if d not in classes]
    if unknown:
        raise SettingsError(
            f"--defects: expected some of {', '.join(classes)}, found {', '.join(unknown)}"
        )
    devices = {
        str(data): _mapped(data, settings.split, model.meta.name, classes) for data in settings.data
    }
    rows: list[tuple[str, str, NDArray[np.int64]]] = []
    failed: list[tuple[str, str]] = []
    total, done = sum(map(len, devices.values())), 0
    for device, dataset in devices.items():
        faults = (n.partition(": ") for n in dataset.notes if labels.BAD_LABEL in n)
        failed += [(file, reason) for file, _, reason in faults]
        number = np.full(IGNORE + 1, IGNORE, np.uint8)
        number[: len(dataset.classes)] = [classes.index(c) for c in dataset.classes]
        for sample in dataset:
            try:
                example = read_mapped(sample, dataset.classes)
            except ImageError as error:
                failed.append((str(error.path), error.problem))
            except DataError as error:
                failed.append((str(sample.path), str(error)))
            else:
                found = model.segment(example.pixels, settings.overlap).indices
                counts = confusion(number[example.classes], found, len(classes))
                rows.append((str(sample.path), device, counts))
            done += 1
            if progress is not None:
                progress(done, total)
    return segmentation_report(rows, classes, defects), tuple(failed)


def _mapped(data: Path, split: str, model: str, classes: tuple[str, ...]) -> Dataset:
    """The images of a data set with class maps; a part, or when empty test, else val, else all.

    Raises:
        DataError: There is none.
        ModelError: The model does not know a class of it.
    """
    dataset = open_dataset(data)
    wanted = split or first_split(dataset, ("test", "val"))
    if wanted:
        dataset = dataset.split(wanted)
    mapped = tuple(s for s in dataset if s.class_map is not None)
    if not mapped:
        where = f" in {wanted}" if wanted else ""
        raise DataError(f"{data}: expected images with class maps{where}, found none")
    unknown = [c for c in dataset.classes if c not in classes]
    if unknown:
        raise ModelError(
            f"{model}: expected a model that knows the classes of {data}, found none for "
            f"{', '.join(unknown)}. The model knows {', '.join(classes)}."
        )
    return Dataset(dataset.classes, mapped, dataset.notes)
