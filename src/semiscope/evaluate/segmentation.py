"""How good class maps are: intersection over union by class, over all images and by image.

IoU of a class is pooled over pixels, as PASCAL VOC counts it (Everingham et al. 2010): the pixels
of all images that truth and prediction both call so, over those that either does. Pixels that
nobody judged count nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semiscope.io.masks import IGNORE


def confusion(
    truth: NDArray[Any], found: NDArray[Any], classes: int, ignore: int = IGNORE
) -> NDArray[np.int64]:
    """Counts how pixels of one class are called.

    Args:
        truth: (H, W) class indices, or ``ignore``.
        found: (H, W) class indices.
        classes: How many there are.
        ignore: What truth says where nobody judged.

    Returns:
        (classes, classes) pixels: row the truth, column what was found.

    Raises:
        ValueError: The maps differ in size, or hold an index that is no class.
    """
    if truth.shape != found.shape:
        raise ValueError(f"expected maps of one size, found {truth.shape} and {found.shape}")
    judged = truth != ignore
    rows, columns = (m[judged].astype(np.int64) for m in (truth, found))
    for role, values in (("truth", rows), ("prediction", columns)):
        if len(values) and not 0 <= values.min() <= values.max() < classes:
            wrong = int(values.max() if values.min() >= 0 else values.min())
            raise ValueError(f"{role}: expected classes 0 to {classes - 1}, found {wrong}")
    counts = np.bincount(rows * classes + columns, minlength=classes**2)
    return counts.reshape(classes, classes)


def class_iou(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """(K,) IoU of each class from its confusion; NaN where neither truth nor prediction has it."""
    both = counts.diagonal()
    either = counts.sum(0) + counts.sum(1) - both
    return np.where(either > 0, both / np.maximum(either, 1), np.nan)


@dataclass(frozen=True, slots=True)
class MapResult:
    """How good the class maps of some images are; None where no image has such a class.

    Attributes:
        mean_iou: Mean over the classes.
        materials: Mean over the classes that are no defects.
        defect: Mean over the classes that are defects.
        per_class: IoU by class name.
        images: Number of images.
    """

    mean_iou: float | None
    materials: float | None
    defect: float | None
    per_class: dict[str, float | None]
    images: int

    @staticmethod
    def of(
        counts: NDArray[np.int64], classes: Sequence[str], defects: Iterable[str], images: int = 1
    ) -> MapResult:
        """From a confusion (see ``confusion``)."""
        iou = class_iou(counts)
        bad = np.isin(classes, list(defects))
        return MapResult(
            _mean(iou),
            _mean(iou[~bad]),
            _mean(iou[bad]),
            {c: None if np.isnan(v) else float(v) for c, v in zip(classes, iou, strict=True)},
            images,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ImageResult:
    """How good one image's class map is.

    Attributes:
        file: The image.
        device: The data set that it is of.
        result: Its figures; of one image.
    """

    file: str
    device: str
    result: MapResult


@dataclass(frozen=True, slots=True)
class SegmentationReport(MapResult):
    """All figures of a set of images: those over the pixels of all of them, and in parts.

    Attributes:
        per_device: Over the pixels of each data set.
        worst_first: Image by image; images without any judged pixel last.
    """

    per_device: dict[str, MapResult]
    worst_first: tuple[ImageResult, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **MapResult.to_dict(self),
            "per_device": {name: result.to_dict() for name, result in self.per_device.items()},
            "worst_first": [
                {
                    "file": i.file,
                    "device": i.device,
                    "mean_iou": i.result.mean_iou,
                    "per_class": i.result.per_class,
                }
                for i in self.worst_first
            ],
        }


def segmentation_report(
    rows: Sequence[tuple[str, str, NDArray[np.int64]]],
    classes: Sequence[str],
    defects: Iterable[str] = (),
) -> SegmentationReport:
    """Figures from the images' confusions.

    Args:
        rows: For each image its file, its device and its ``confusion``.
        classes: Names by class index.
        defects: The classes that are defects.
    """
    defects = tuple(defects)
    none = np.zeros((len(classes), len(classes)), np.int64)

    def pooled(some: Sequence[NDArray[np.int64]]) -> MapResult:
        return MapResult.of(sum(some, start=none), classes, defects, len(some))

    images = [ImageResult(f, d, MapResult.of(c, classes, defects)) for f, d, c in rows]
    images.sort(key=lambda i: np.inf if i.result.mean_iou is None else i.result.mean_iou)
    total = pooled([c for *_, c in rows])
    return SegmentationReport(
        total.mean_iou,
        total.materials,
        total.defect,
        total.per_class,
        total.images,
        {d: pooled([c for _, e, c in rows if d == e]) for d in dict.fromkeys(r[1] for r in rows)},
        tuple(images),
    )


def _mean(iou: NDArray[np.float64]) -> float | None:
    known = iou[~np.isnan(iou)]
    return float(known.mean()) if len(known) else None
