"""A model file held against the truth of a labelled data set, inferred as ``inspect`` does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import Field

from semiscope.data.dataset import open_dataset
from semiscope.errors import DataError, ImageError, ModelError
from semiscope.evaluate.curves import ShapeKind
from semiscope.evaluate.detection import DetectionReport, evaluate_detections
from semiscope.infer.model import Model
from semiscope.infer.sampling import Dial
from semiscope.inspection.pipeline import detect
from semiscope.io.image import read_image
from semiscope.types import Annotations

_WHOLE_CURVE = 0.001


class ScoreSettings(Dial):
    """How a model is held against a data set."""

    model: str = Field(description="A model's name in the zoo, or an .onnx file")
    data: Path = Field(description="Data set with boxes: COCO, YOLO or VOC")
    split: str = Field(
        "", description="Which part: train, val or test; by default test, else val, else all"
    )
    min_score: float = Field(
        _WHOLE_CURVE, ge=0, le=1, description="Detections below do not count; COCO's AP needs all"
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
    model = Model.load(settings.model, settings.threads).dialled(settings)
    dataset = open_dataset(settings.data)
    splits = {s.split for s in dataset}
    wanted = settings.split or next((s for s in ("test", "val") if s in splits), None)
    if wanted is not None:
        dataset = dataset.split(wanted)
    unknown = [c for c in dataset.classes if c not in model.meta.classes]
    if unknown:
        raise ModelError(
            f"{settings.model}: expected a model that knows the classes of {settings.data}, found "
            f"none for {', '.join(unknown)}. The model knows {', '.join(model.meta.classes)}."
        )
    index = [model.meta.classes.index(c) for c in dataset.classes]
    truth: list[Annotations] = []
    found: list[Annotations] = []
    sizes: list[tuple[int, int]] = []
    failed: list[tuple[str, str]] = []
    samples = [s for s in dataset if s.annotations is not None]
    if not samples:
        raise DataError(
            f"{settings.data}: expected images with boxes{f' in {wanted}' if wanted else ''}, "
            "found none"
        )
    for done, sample in enumerate(samples, 1):
        assert sample.annotations is not None
        try:
            image = read_image(sample.path)
        except ImageError as error:
            failed.append((str(sample.path), error.problem))
            continue
        known = sample.annotations
        class_id = np.array([index[c] for c in known.class_id], np.int64)
        truth.append(replace(known, class_id=class_id))
        sizes.append((image.height, image.width))
        found.append(detect(model, image.specimen, settings.min_score))
        if progress is not None:
            progress(done, len(samples))
    outlined = model.meta.task == "segment" and any(t.shapes is not None for t in truth)
    report = evaluate_detections(
        truth,
        found,
        model.meta.classes,
        sizes,
        shape=settings.shape or ("mask" if outlined else "box"),
        min_score=settings.min_score,
    )
    return report, tuple(failed)
