"""One reported instance as the journal and ``results.json`` tell it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from semiscope.geometry import rasterise
from semiscope.inspection.journal import DefectRow
from semiscope.inspection.thresholds import Disposition
from semiscope.io.coco import encode_rle
from semiscope.measure.angle import Rotation
from semiscope.measure.size import measure_size
from semiscope.types import Annotations, Image


def defect_row(
    found: Annotations,
    index: int,
    disposition: Disposition,
    image: Image,
    nm_per_px: float | None,
    rotation: Rotation | None,
) -> DefectRow:
    """The row of one instance.

    Args:
        found: All of its image.
        index: Which.
        disposition: What becomes of it.
        image: The image.
        nm_per_px: Width of a pixel in nm, or None.
        rotation: Of a die against its package, with its interval; None where not measured.
    """
    box: NDArray[np.float32] = found.xyxy[index]
    shape = None if found.shapes is None else found.shapes[index]
    size = measure_size(box, shape, image.height, image.width, nm_per_px)
    row: DefectRow = {
        "category_id": int(found.class_id[index]) + 1,
        "bbox": [round(float(v), 3) for v in (box[0], box[1], size.width, size.height)],
        "score": round(float(found.score[index]), 5),
        "disposition": disposition,
        "area": round(size.area, 3),
    }
    if shape is not None:
        mask = rasterise(shape, image.height, image.width)
        row["segmentation"] = encode_rle(mask, image.height, image.width)
    if found.angle_deg is not None and np.isfinite(found.angle_deg[index]):
        row["angle_deg"] = round(float(found.angle_deg[index]), 3)
        if rotation is not None:
            row["angle_interval_deg"] = [round(rotation.low, 3), round(rotation.high, 3)]
    if size.width_nm is not None and size.height_nm is not None and size.area_nm2 is not None:
        row["width_nm"] = round(size.width_nm, 3)
        row["height_nm"] = round(size.height_nm, 3)
        row["area_nm2"] = round(size.area_nm2, 3)
    return row
