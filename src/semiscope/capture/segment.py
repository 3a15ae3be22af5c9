"""Packages found by a model that outlines them, such as YOLOv5-seg.

Wong, *Die defect detection for integrated circuit* (2023), section 3.3.2.2: mask, polygon, upright
crop. The corners are those of ``capture.outline``, which the zig-zag borders and the overflow of
such masks (section 4.1.2) hardly move.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from semiscope.capture.outline import mask_corners
from semiscope.capture.package import Candidate, Finder
from semiscope.config import Settings
from semiscope.errors import ModelError
from semiscope.geometry import dense
from semiscope.infer.model import Model
from semiscope.types import Mask, Pixels


class SegmentSettings(Settings):
    """Which model finds packages."""

    model: str = Field(
        "ic-package-seg", description="Model that outlines packages: a name in the zoo or a file"
    )
    package_class: str = Field("package", description="The model's class of packages")
    min_score: float | None = Field(
        None, ge=0, le=1, description="Lowest score; by default the model's report threshold"
    )


def segment_finder(settings: SegmentSettings, threads: int | None = None) -> Finder:
    """The finder that takes a model's masks.

    A mask that is no quadrilateral is no candidate.

    Args:
        settings: Which model.
        threads: Cores used for one photograph; all when None.

    Raises:
        ModelError: There is no such model, it gives no masks, or has no class of packages.
    """
    model = Model.load(settings.model, threads)
    if model.meta.task != "segment" or settings.package_class not in model.meta.classes:
        raise ModelError(
            f"{settings.model}: expected a model that outlines the class "
            f"{settings.package_class!r}, found one for task {model.meta.task} with classes "
            f"{', '.join(model.meta.classes)}. Train one with: semiscope train detect --net "
            "yolov5n-seg"
        )
    package = model.meta.classes.index(settings.package_class)

    def find(pixels: Pixels) -> list[Candidate]:
        (found,) = model.predict([pixels], settings.min_score)
        candidates = []
        for i in np.flatnonzero(found.class_id == package):
            mask = found.shapes[i] if found.shapes else None
            assert isinstance(mask, Mask)
            corners = mask_corners(dense(mask, *pixels.shape[:2]))
            if corners is not None:
                candidates.append(Candidate(corners, float(found.score[i]), "segment"))
        return candidates

    return find
