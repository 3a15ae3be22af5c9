"""Simulated SEM images of line-space patterns as a data set: 16-bit TIFF, COCO labels, CD truth."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from semiscope.io.coco import encode_rle
from semiscope.io.files import write_atomic
from semiscope.io.image import write_tiff
from semiscope.simulate.line_scene import Metrology, Scene, render_scene
from semiscope.simulate.line_settings import SemLinesSettings
from semiscope.simulate.scenes import Progress, write_each, write_labels
from semiscope.types import Mask

__all__ = ["Metrology", "Scene", "SemLinesSettings", "render_scene", "write_scenes"]


def write_scenes(
    settings: SemLinesSettings, destination: Path, progress: Progress | None = None
) -> None:
    """Writes all scenes as a COCO data set.

    ``destination/{train,val,test}/images/*.tif`` (16 bit, with the size of a pixel) with
    ``annotations.json`` beside each ``images``; ``classes.txt`` and ``scenes.csv`` (a row an image:
    split, file, classes and the fields of Metrology) at the top. The label files come last: a
    folder without them was not finished.

    Args:
        settings: What to simulate.
        destination: A folder that is empty or not there yet.
        progress: See Progress.

    Raises:
        SettingsError: The folder holds something.
        SemiscopeError: The disk is full or the folder cannot be written.
    """
    records = write_each(
        _write_image, settings, destination, settings.count, settings.workers, progress
    )
    classes = settings.class_names
    write_atomic(destination / "scenes.csv", _table(records, classes))
    write_labels(records, classes, destination)


def _write_image(settings: SemLinesSettings, destination: Path, index: int) -> dict[str, Any]:
    scene = render_scene(settings, index)
    height, width = scene.pixels.shape
    name = f"scene_{index:06d}.tif"
    write_tiff(destination / scene.split / "images" / name, scene.pixels, scene.nm_per_px)
    found = scene.annotations
    instances = []
    for (x0, y0, x1, y1), class_id, mask in zip(
        found.xyxy.tolist(), found.class_id.tolist(), found.shapes or (), strict=True
    ):
        assert isinstance(mask, Mask)
        instances.append(
            {
                "category_id": class_id + 1,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": mask.area,
                "iscrowd": 0,
                "segmentation": encode_rle(mask, height, width),
            }
        )
    return {
        "split": scene.split,
        "image": {
            "file_name": name,
            "height": height,
            "width": width,
            "nm_per_px": scene.nm_per_px,
            "metrology": asdict(scene.metrology),
        },
        "instances": instances,
    }


def _table(records: list[dict[str, Any]], classes: tuple[str, ...]) -> str:
    text = io.StringIO()
    columns = [f.name for f in fields(Metrology)]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["split", "file_name", "classes", *columns])
    for record in records:
        names = " ".join(classes[i["category_id"] - 1] for i in record["instances"])
        values = (record["image"]["metrology"][c] for c in columns)
        row = (f"{v:.6g}" if isinstance(v, float) else v for v in values)
        writer.writerow([record["split"], record["image"]["file_name"], names, *row])
    return text.getvalue()
