"""A model file held against the truth of a labelled data set, inferred as ``inspect`` does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import Field

from semiscope.data.dataset import first_split, open_dataset
from semiscope.errors import DataError, ImageError, ModelError
from semiscope.evaluate.curves import ShapeKind
from semiscope.evaluate.detection import DetectionReport, evaluate_detections
from semiscope.infer.ensemble import load
from semiscope.infer.model import Meta
from semiscope.infer.sampling import Dial
from semiscope.infer.tiled import detect
from semiscope.io.image import read_image
from semiscope.types import Annotations, Image, Sample

WHOLE_CURVE = 0.001


class ScoreSettings(Dial):
    """How a model is held against a data set."""

    model: str = Field(
        description="A model's name in the zoo, or an .onnx file; several joined by + are fused"
    )
    data: tuple[Path, ...] = Field(
        min_length=1, description="Data sets with boxes: COCO, YOLO or VOC"
    )
    split: str = Field(
        "", description="Which part: train, val or test; by default test, else val, else all"
    )
    min_score: float = Field(
        WHOLE_CURVE, ge=0, le=1, description="Detections below do not count; COCO's AP needs all"
    )
    shape: ShapeKind | None = Field(
        None, description="What is compared; masks when model and truth have them, else boxes"
    )
    threads: int | None = Field(None, ge=1, description="Cores to use; all when not given")


def score(
    settings: ScoreSettings, progress: Callable[[int, int], None] | None = None
) -> tuple[DetectionReport, tuple[tuple[str, str], ...]]:
    """Figures of a model on a data set.

    Args:
        settings: Which model on what.
        progress: Called after each image with how many are done and how many there are.

    Returns:
        The figures, and file and reason of the images that could not be read.

    Raises:
        DataError: No image with boxes.
        ModelError: The model cannot be used, or does not know a class of the data set.
    """
    model = load(settings.model, settings.threads).dialled(settings)
    split = settings.split or ("test", "val")
    samples = [s for data in settings.data for s in labelled(model.meta, data, split)]
    truth: list[Annotations] = []
    found: list[Annotations] = []
    sizes: list[tuple[int, int]] = []
    failed: list[tuple[str, str]] = []
    for labels, image in read_each(samples, failed, progress):
        truth.append(labels)
        sizes.append((image.height, image.width))
        found.append(detect(model, image.specimen, settings.min_score))
    report = evaluate_detections(
        truth,
        found,
        model.meta.classes,
        sizes,
        shape=settings.shape or compared(model.meta, truth),
        min_score=settings.min_score,
    )
    return report, tuple(failed)


def labelled(meta: Meta, data: Path, split: str | Sequence[str]) -> list[Sample]:
    """The images with instance labels in a data set, their classes numbered as the model does.

    Args:
        meta: Of the model.
        data: The data set.
        split: A split, or several of which the first that exists is taken, else all.

    Raises:
        DataError: There is none.
        ModelError: The model does not know a class of the data set.
    """
    dataset = open_dataset(data)
    wanted = split if isinstance(split, str) else first_split(dataset, split)
    if wanted:
        dataset = dataset.split(wanted)
    unknown = [c for c in dataset.classes if c not in meta.classes]
    if unknown:
        raise ModelError(
            f"{meta.name}: expected a model that knows the classes of {data}, found none for "
            f"{', '.join(unknown)}. The model knows {', '.join(meta.classes)}."
        )
    index = np.array([meta.classes.index(c) for c in dataset.classes], np.int64)
    samples = [
        replace(s, annotations=replace(s.annotations, class_id=index[s.annotations.class_id]))
        for s in dataset
        if s.annotations is not None
    ]
    if not samples:
        raise DataError(
            f"{data}: expected images with boxes{f' in {wanted}' if wanted else ''}, found none"
        )
    return samples


def read_each(
    samples: Sequence[Sample],
    failed: list[tuple[str, str]],
    progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[Annotations, Image]]:
    """The truth and the image of each labelled sample, in turn.

    Args:
        samples: From ``labelled``.
        failed: Gets file and reason of those that cannot be read.
        progress: Called after each with how many are done and how many there are.
    """
    for done, sample in enumerate(samples, 1):
        try:
            image = read_image(sample.path)
        except ImageError as error:
            failed.append((str(sample.path), error.problem))
        else:
            assert sample.annotations is not None
            yield sample.annotations, image
        if progress is not None:
            progress(done, len(samples))


def compared(meta: Meta, truth: Sequence[Annotations]) -> ShapeKind:
    """Masks when the model and the truth have them, else boxes."""
    outlined = meta.task == "segment" and any(t.shapes is not None for t in truth)
    return "mask" if outlined else "box"
