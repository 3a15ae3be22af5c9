"""Simulated photographs of IC packages as a data set: PNG, COCO labels with corners and angles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from semiscope.io.coco import encode_rle
from semiscope.io.files import write_atomic
from semiscope.io.labels import polygon_area
from semiscope.simulate.package_scene import Unit, render_unit
from semiscope.simulate.package_settings import CLASSES, IcPackageSettings
from semiscope.simulate.scenes import Progress, write_each, write_labels
from semiscope.types import Mask, Polygons, Shape

__all__ = ["CLASSES", "IcPackageSettings", "Unit", "render_unit", "write_units"]

# noise leaves nothing for longer matches to find: half the time, and smaller files
_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, 2)
DECIMALS = 4


def write_units(
    settings: IcPackageSettings, destination: Path, progress: Progress | None = None
) -> None:
    """Writes all units as a COCO data set.

    ``destination/{train,val,test}/images/*.png`` (RGB, 8 bit) with ``annotations.json`` beside each
    ``images``, and ``classes.txt`` at the top. The label files come last: a folder without them was
    not finished.

    Beyond COCO, ``images`` carry ``verdict``, ``reasons``, ``illumination`` and
    ``package_angle_deg``; ``annotations`` of a package or die ``corners``, those of a die
    ``angle_deg``, those of a crack ``kind``. See Unit for what they mean.

    Args:
        settings: What to simulate.
        destination: A folder that is empty or not there yet.
        progress: See Progress.

    Raises:
        SettingsError: The folder holds something.
        SemiscopeError: The disk is full or the folder cannot be written.
    """
    records = write_each(
        _write_unit, settings, destination, settings.count, settings.workers, progress
    )
    write_labels(records, CLASSES, destination)


def _write_unit(settings: IcPackageSettings, destination: Path, index: int) -> dict[str, Any]:
    unit = render_unit(settings, index)
    height, width = unit.pixels.shape[:2]
    name = f"unit_{index:06d}.png"
    _, data = cv2.imencode(".png", cv2.cvtColor(unit.pixels, cv2.COLOR_RGB2BGR), _PNG)
    write_atomic(destination / unit.split / "images" / name, data.tobytes())
    found = unit.annotations
    instances = []
    for class_id, shape, kind in zip(
        found.class_id.tolist(), found.shapes or (), unit.kinds, strict=True
    ):
        assert shape is not None
        instance = {"category_id": class_id + 1, **_shape(shape, height, width), "iscrowd": 0}
        if kind is not None:
            instance["kind"] = kind
        if CLASSES[class_id] == "die" and unit.die_angle_deg is not None:
            instance["angle_deg"] = round(unit.die_angle_deg, DECIMALS)
        instances.append(instance)
    return {
        "split": unit.split,
        "image": {
            "file_name": name,
            "height": height,
            "width": width,
            "verdict": unit.verdict,
            "reasons": list(unit.reasons),
            "illumination": unit.illumination,
            "package_angle_deg": round(unit.package_angle_deg, DECIMALS),
        },
        "instances": instances,
    }


def _shape(shape: Shape, height: int, width: int) -> dict[str, Any]:
    """Box, area and outline of an instance, and its corners where it has them."""
    if isinstance(shape, Mask):
        rows, columns = shape.bits.shape
        return {
            "bbox": [shape.x, shape.y, columns, rows],
            "area": shape.area,
            "segmentation": encode_rle(shape, height, width),
        }
    assert isinstance(shape, Polygons)
    (ring,) = shape.rings
    corners = ring.round(DECIMALS)
    low = corners.min(axis=0)
    return {
        "bbox": np.concatenate([low, corners.max(axis=0) - low]).round(DECIMALS).tolist(),
        "area": round(abs(polygon_area(corners)), DECIMALS),
        "segmentation": [corners.ravel().tolist()],
        "corners": corners.tolist(),
    }
