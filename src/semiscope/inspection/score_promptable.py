"""A promptable model held against the truth: prompts from its regions, answers against them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from semiscope.config import Settings
from semiscope.data.convert import open_outlined
from semiscope.data.dataset import first_split
from semiscope.data.prompts import inner_point
from semiscope.errors import DataError, ImageError, SettingsError
from semiscope.evaluate.promptable import (
    LEAST_AREA,
    MOST_REGIONS,
    RegionReport,
    RegionRow,
    region_iou,
    region_report,
    true_regions,
)
from semiscope.geometry import shape_box
from semiscope.infer.close_up import decode_close
from semiscope.infer.promptable import Promptable, Prompter
from semiscope.io.image import read_image
from semiscope.types import Dataset, Mask, Pixels

PromptKind = Literal["box", "point"]


class PromptScoreSettings(Settings):
    """How a promptable model is held against data sets."""

    model: str = Field(description="A promptable model's name in the zoo, or an .onnx file")
    data: tuple[Path, ...] = Field(
        min_length=1, description="Data sets with class maps or outlines; each is a device"
    )
    split: str = Field(
        "", description="Which part: train, val or test; by default test, else val, else all"
    )
    prompts: PromptKind = Field(
        "box", description="What shows a region: its box, or the point deepest inside of it"
    )
    least_area: int = Field(LEAST_AREA, ge=0, description="Regions up to so many px do not count")
    most_regions: int = Field(
        MOST_REGIONS, ge=1, description="Regions an image and class that count, the largest"
    )
    close_up: bool = Field(
        False, description="Ask for small regions again in an enlarged part of the image"
    )
    defects: tuple[str, ...] = Field((), description="Classes that are defects; others: materials")
    threads: int | None = Field(None, ge=1, description="Cores to use; all when not given")


def score_promptable(
    settings: PromptScoreSettings, progress: Callable[[int, int], None] | None = None
) -> tuple[RegionReport, tuple[tuple[str, str], ...]]:
    """Figures of a model on data sets.

    Args:
        settings: Which model on what.
        progress: Called after each image with how many are done and how many there are.

    Returns:
        The figures, and file and reason of the images that could not be read.

    Raises:
        DataError: A data set has no image with outlined regions.
        ModelError: The model cannot be used.
        SettingsError: A defect is no class of the data.
    """
    model = Promptable.load(settings.model, settings.threads)
    devices = {str(data): open_regions(data, settings.split) for data in settings.data}
    classes = tuple(dict.fromkeys(c for d in devices.values() for c in d.classes))
    unknown = [d for d in settings.defects if d not in classes]
    if unknown:
        raise SettingsError(
            f"--defects: expected some of {', '.join(classes)}, found {unknown[0]!r}"
        )
    rows: list[RegionRow] = []
    failed: list[tuple[str, str]] = []
    total, done = sum(map(len, devices.values())), 0
    for device, dataset in devices.items():
        index = np.array([classes.index(c) for c in dataset.classes], np.int64)
        for sample in dataset:
            assert sample.annotations is not None
            try:
                pixels = read_image(sample.path).pixels
            except ImageError as error:
                failed.append((str(sample.path), error.problem))
            else:
                class_id, regions = true_regions(
                    sample.annotations, pixels.shape[:2], settings.least_area, settings.most_regions
                )
                iou = region_ious(model, pixels, regions, settings.prompts, settings.close_up)
                rows.append(RegionRow(str(sample.path), device, index[class_id], iou))
            done += 1
            if progress is not None:
                progress(done, total)
    return region_report(rows, classes, settings.defects), tuple(failed)


def region_ious(
    prompter: Prompter,
    pixels: Pixels,
    regions: Sequence[Mask],
    prompts: PromptKind,
    close_up: bool = False,
) -> NDArray[np.float64]:
    """(n,) IoU of each region with the answer to its prompt.

    Args:
        prompter: Answers.
        pixels: The image.
        regions: None of them empty.
        prompts: What shows a region.
        close_up: Small regions are asked for in enlarged parts of the image.
    """
    if not regions:
        return np.zeros(0)
    given: dict[str, NDArray[Any]] = {}
    if prompts == "box":
        given["boxes"] = np.array([shape_box(r) for r in regions])
    else:
        given["points"] = np.array([np.add(inner_point(r.bits), (r.x, r.y)) for r in regions])
    if close_up:
        masks, _ = decode_close(prompter, pixels, **given)
    else:
        if prompts == "point":
            given["points"] = given["points"][:, None]
        masks, _ = prompter.decode(prompter.encode(pixels), **given)
    return np.array([region_iou(r, m) for r, m in zip(regions, masks, strict=True)])


def open_regions(data: Path, split: str = "") -> Dataset:
    """The images of a data set with outlined instances; class maps give their connected regions.

    Args:
        data: The data set.
        split: A part; when empty test, else val, else all.

    Raises:
        DataError: There is none.
    """
    dataset = open_outlined(data)
    wanted = split or first_split(dataset, ("test", "val"))
    if not wanted:
        return dataset
    part = dataset.split(wanted)
    if not part.samples:
        raise DataError(f"{data}: expected class maps or outlines in {wanted}, found none")
    return part
