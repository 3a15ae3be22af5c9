"""How well prompted masks fit: intersection over union of each true region.

SeSAMI, section 3.1 and table 1: the truth's regions give the prompts, and the answer to each prompt
is held against its region. A class's IoU is the mean over its regions; small regions do not count,
and of the many alike in an image only the largest do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semiscope.geometry import rasterise
from semiscope.types import Annotations, Mask

LEAST_AREA = 100
"""Pixels; smaller regions are not evaluated."""
MOST_REGIONS = 10
"""Regions of an image and class that are evaluated."""


def true_regions(
    truth: Annotations, size: tuple[int, int], least: int = LEAST_AREA, most: int = MOST_REGIONS
) -> tuple[NDArray[np.int64], tuple[Mask, ...]]:
    """The regions of an image that count.

    Args:
        truth: Instances without an outline are passed over.
        size: (height, width) of the image.
        least: Pixels that a region must have more than.
        most: Regions of a class; the largest are taken.

    Returns:
        Their classes, class by class from the largest on, and their masks.
    """
    shapes = truth.shapes or (None,) * len(truth)
    masks = [None if s is None else rasterise(s, *size) for s in shapes]
    area = np.array([0 if m is None else m.area for m in masks], np.int64)
    chosen: list[int] = []
    for name in np.unique(truth.class_id):
        own = np.flatnonzero((truth.class_id == name) & (area > least))
        chosen += own[np.argsort(-area[own], kind="stable")][:most].tolist()
    return truth.class_id[chosen], tuple(m for i in chosen if (m := masks[i]) is not None)


def region_iou(region: Mask, found: NDArray[np.bool_]) -> float:
    """IoU of a region and an (H, W) answer to its prompt."""
    rows, columns = region.bits.shape
    part = found[region.y : region.y + rows, region.x : region.x + columns]
    shared = np.count_nonzero(region.bits & part)
    return shared / (region.area + np.count_nonzero(found) - shared)


@dataclass(frozen=True, slots=True)
class RegionResult:
    """How well the regions of some images are outlined; None where there is no region.

    Attributes:
        mean_iou: Mean over the classes.
        materials: Mean over the classes that are no defects.
        defect: Mean over the classes that are defects.
        per_class: Mean IoU of a class's regions, by name.
        regions: How many regions a class has, by name.
        images: Number of images.
    """

    mean_iou: float | None
    materials: float | None
    defect: float | None
    per_class: dict[str, float | None]
    regions: dict[str, int]
    images: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class RegionRow:
    """One image's regions.

    Attributes:
        file: The image.
        device: The data set that it is of.
        class_id: (n,) of its regions.
        iou: (n,) of the answers to their prompts.
    """

    file: str
    device: str
    class_id: NDArray[np.int64]
    iou: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RegionReport(RegionResult):
    """All figures of a set of images, and in parts.

    Attributes:
        per_device: Of each data set.
        worst_first: File, device and figures image by image; those without a region last.
    """

    per_device: dict[str, RegionResult]
    worst_first: tuple[tuple[str, str, RegionResult], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **RegionResult.to_dict(self),
            "per_device": {name: result.to_dict() for name, result in self.per_device.items()},
            "worst_first": [
                {"file": file, "device": device, "mean_iou": r.mean_iou, "per_class": r.per_class}
                for file, device, r in self.worst_first
            ],
        }


def region_report(
    rows: Sequence[RegionRow], classes: Sequence[str], defects: Iterable[str] = ()
) -> RegionReport:
    """Figures from the images' regions.

    Args:
        rows: One an image.
        classes: Names by class index.
        defects: The classes that are defects.
    """
    defects = tuple(defects)

    def of(some: Sequence[RegionRow]) -> RegionResult:
        class_id = np.concatenate([np.zeros(0, np.int64), *(r.class_id for r in some)])
        iou = np.concatenate([np.zeros(0), *(r.iou for r in some)])
        counts = np.bincount(class_id, minlength=len(classes))
        sums = np.bincount(class_id, iou, len(classes))
        means = {
            c: float(sums[i] / counts[i]) if counts[i] else None for i, c in enumerate(classes)
        }
        return RegionResult(
            _mean(means.values()),
            _mean(v for c, v in means.items() if c not in defects),
            _mean(v for c, v in means.items() if c in defects),
            means,
            {c: int(counts[i]) for i, c in enumerate(classes)},
            len(some),
        )

    images = [(r.file, r.device, of([r])) for r in rows]
    images.sort(key=lambda i: np.inf if i[2].mean_iou is None else i[2].mean_iou)
    total = of(rows)
    return RegionReport(
        total.mean_iou,
        total.materials,
        total.defect,
        total.per_class,
        total.regions,
        total.images,
        {d: of([r for r in rows if r.device == d]) for d in dict.fromkeys(r.device for r in rows)},
        tuple(images),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None
