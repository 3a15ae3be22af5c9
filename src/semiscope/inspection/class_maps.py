"""What a segmenter says of an image: its class map as a file, areas, thicknesses, defects apart.

Each connected region of a class that is a defect becomes an instance, so that it is counted, sized,
shown and put aside for review like what a detector finds.
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semiscope.infer.segmenter import Segmenter, regions
from semiscope.inspection.journal import ClassRow, ImageRow, Journal
from semiscope.io.files import open_atomic
from semiscope.io.masks import IGNORE, write_class_map
from semiscope.measure.thickness import Thickness, measure_thickness, without_defects
from semiscope.report.overlay import overlay
from semiscope.types import Annotations, Image

CLASS_MAPS, MATERIALS = "class_maps", "materials.csv"
CLASS_MAP_NAMES = "[0-9][0-9][0-9][0-9][0-9]*-*.png"
"""What a run writes into its folder of class maps, as a glob pattern."""
_COLUMNS = ("image", "class", "area_px2", "share", "area_nm2")
_THICKNESS = ("mean", "std", "least", "median", "most")


class MapMaker:
    """Makes, measures and writes the class maps of a run. It may be used from several threads."""

    def __init__(self, model: Segmenter, out: Path, overlap: float) -> None:
        """Takes a segmenter.

        Args:
            model: What makes them.
            out: The run's folder.
            overlap: Part of a tile that neighbours share in a large image.
        """
        self._model, self._out, self._overlap = model, out, overlap

    def inspect(self, number: int, row: ImageRow, image: Image) -> Annotations:
        """Writes the class map of an image and fills its row with what was measured.

        Args:
            number: The image's place in the run; it makes the file's name its own.
            row: Of the image.
            image: The image.

        Returns:
            The defects.
        """
        meta = self._model.meta
        found = self._model.segment(image.specimen, self._overlap)
        stem = re.sub(r"[^\w.-]", "_", Path(row["file"]).stem, flags=re.ASCII)[:60]
        name = f"{CLASS_MAPS}/{number + 1:05}-{stem}.png"
        bar = ((0, image.info_bar_px), (0, 0))
        write_class_map(self._out / name, np.pad(found.indices, bar, constant_values=IGNORE))
        row["class_map"] = name
        row["score"] = round(float(found.score.mean()), 5)
        defects = [meta.classes.index(name) for name in meta.defects]
        whole = without_defects(found.indices, defects)
        row["classes"] = {
            label: _measured(
                found.indices == index, (found.indices if index in defects else whole) == index
            )
            for index, label in enumerate(meta.classes)
        }
        row["overlay"] = overlay(image.specimen, found.indices)
        return regions(found, defects)


def _measured(inside: NDArray[np.bool_], whole: NDArray[np.bool_]) -> ClassRow:
    area = int(np.count_nonzero(inside))
    thickness = measure_thickness(whole)
    return {
        "area": area,
        "share": round(area / inside.size, 6),
        "thickness": None if thickness is None else thickness.to_dict(),
    }


def class_figures(row: ClassRow, nm_per_px: float | None) -> dict[str, Any]:
    """A class's row as results tell it: px, and nm where the pixel size is known."""
    told: dict[str, Any] = dict(row)
    if nm_per_px is not None:
        told["area_nm2"] = round(row["area"] * nm_per_px**2, 3)
        if row["thickness"] is not None:
            told["thickness_nm"] = Thickness(**row["thickness"]).to_dict(nm_per_px)  # type: ignore[arg-type]
    return told


def write_materials(path: Path, journal: Journal) -> None:
    """Writes ``materials.csv``: a row for each class in each image, nm blank where not known.

    Raises:
        SemiscopeError: The file cannot be written.
    """
    with open_atomic(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
        table = csv.writer(text)
        units = [f"thickness_{name}_{unit}" for unit in ("px", "nm") for name in _THICKNESS]
        table.writerow((*_COLUMNS, *units))
        for row in journal.rows():
            if "failed" in row:
                continue
            for name, measured in row["classes"].items():
                told = class_figures(measured, row["nm_per_px"])
                cells = [row["file"], name, told["area"], told["share"], told.get("area_nm2", "")]
                for key in ("thickness", "thickness_nm"):
                    values = told.get(key) or {}
                    cells += [values.get(n, "") for n in _THICKNESS]
                table.writerow(cells)
        text.detach()
