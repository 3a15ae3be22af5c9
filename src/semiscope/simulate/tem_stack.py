"""Simulated TEM cross-sections as a data set: 16-bit TIFF, class maps, thickness truth."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from semiscope.io.files import write_atomic
from semiscope.io.image import write_tiff
from semiscope.io.labels import write_classes
from semiscope.io.masks import write_class_map
from semiscope.simulate.scenes import Progress, write_each
from semiscope.simulate.stack_scene import Scene, Thickness, render_scene
from semiscope.simulate.stack_settings import CLASSES, DEFECTS, TemStackSettings

__all__ = ["CLASSES", "DEFECTS", "Scene", "TemStackSettings", "Thickness", "render_scene"]
__all__ += ["write_sections"]


def write_sections(
    settings: TemStackSettings, destination: Path, progress: Progress | None = None
) -> None:
    """Writes all scenes of a device as a data set of class maps.

    ``destination/{train,val,test,unlabelled}/images/*.tif`` (16 bit, with the size of a pixel);
    ``masks/*.png`` beside ``images`` but for unlabelled ones; ``classes.txt``, ``scenes.csv`` (a
    row an image) and ``thickness.csv`` (a row a film, see Thickness) at the top. These three come
    last: a folder without them was not finished.

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
    places = ["split", "file_name"]
    write_atomic(
        destination / "scenes.csv",
        _table(
            [*places, "device", "nm_per_px", "electrons", *DEFECTS], (r["scene"] for r in records)
        ),
    )
    columns = ["layer", "class", "direction", "x0", "y0", "x1", "y1", "thickness_nm"]
    films = (film for r in records for film in r["films"])
    write_atomic(destination / "thickness.csv", _table([*places, *columns], films))
    write_classes(destination, CLASSES)


def _write_image(settings: TemStackSettings, destination: Path, index: int) -> dict[str, Any]:
    scene = render_scene(settings, index)
    folder, stem = destination / scene.split, f"section_{index:06d}"
    write_tiff(folder / "images" / f"{stem}.tif", scene.pixels, scene.nm_per_px)
    place = (scene.split, f"{stem}.tif")
    seen = (settings.device, scene.nm_per_px, scene.electrons)
    if scene.split == "unlabelled":
        return {"scene": (*place, *seen, *("" for _ in DEFECTS)), "films": []}
    write_class_map(folder / "masks" / f"{stem}.png", scene.classes)
    pieces = (_pieces(scene, CLASSES.index(name)) for name in DEFECTS)
    films = [
        (*place, t.layer, CLASSES[t.class_id], t.direction, *t.box, t.nm) for t in scene.thicknesses
    ]
    return {"scene": (*place, *seen, *pieces), "films": films}


def _pieces(scene: Scene, class_id: int) -> int:
    """Number of connected pieces of a class."""
    inside = (scene.classes == class_id).astype(np.uint8)
    return int(cv2.connectedComponents(inside, connectivity=8)[0]) - 1


def _table(columns: list[str], rows: Iterable[tuple[Any, ...]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow(f"{v:.6g}" if isinstance(v, float) else v for v in row)
    return text.getvalue()
