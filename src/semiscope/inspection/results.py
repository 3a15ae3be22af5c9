"""The files that an inspection leaves: ``results.json``, a COCO data set, and ``defects.csv``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from semiscope.inspection.class_maps import class_figures
from semiscope.inspection.journal import DefectRow, ImageRow, Journal
from semiscope.io.files import open_atomic

CSV_COLUMNS = (
    *("image", "class", "score", "disposition"),
    *("x_px", "y_px", "w_px", "h_px", "area_px2"),
    *("x_nm", "y_nm", "w_nm", "h_nm", "area_nm2"),
)


def write_results(
    path: Path,
    journal: Journal,
    classes: Sequence[str],
    model: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> None:
    """Writes ``results.json``, row by row, so that memory does not grow with the run.

    Image ids are the places of the images in the run from 1; category ids are class indices from 1.

    Args:
        path: Where.
        journal: A row for each image of the run.
        classes: Names of the classes.
        model: What tells the model, JSON values.
        settings: The settings of the run, JSON values.

    Raises:
        SemiscopeError: The file cannot be written.
    """
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, start=1)]
    with open_atomic(path) as file:
        file.write(b"{\n")
        _write_list(file, "images", _images(journal.rows()))
        _write_list(file, "categories", categories)
        _write_list(file, "annotations", _annotations(journal.rows()))
        failed = ({"file": r["file"], "reason": r["failed"]} for r in journal.rows() if is_bad(r))
        _write_list(file, "failed", failed)
        file.write(
            f'"model": {json.dumps(model)},\n"settings": {json.dumps(settings)}\n}}\n'.encode()
        )


def write_csv(path: Path, journal: Journal, classes: Sequence[str]) -> None:
    """Writes ``defects.csv``: a row a defect, nm where the pixel size is known, else blank.

    Args:
        path: Where.
        journal: A row for each image of the run.
        classes: Names of the classes.

    Raises:
        SemiscopeError: The file cannot be written.
    """
    with open_atomic(path) as file:
        # a name that is no Unicode is shown with its odd bytes escaped
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
        table = csv.writer(text)
        table.writerow(CSV_COLUMNS)
        for row in journal.rows():
            for defect in row.get("defects", ()):
                table.writerow(_csv_row(row, defect, classes))
        text.detach()


def is_bad(row: ImageRow) -> bool:
    """Whether the image could not be inspected."""
    return "failed" in row


def _images(rows: Iterable[ImageRow]) -> Iterator[dict[str, Any]]:
    for index, row in enumerate(rows, start=1):
        if not is_bad(row):
            image = {
                "id": index,
                "file_name": row["file"],
                "width": row["width"],
                "height": row["height"],
                "nm_per_px": row["nm_per_px"],
            }
            if row.get("info_bar_px"):
                image["info_bar_px"] = row["info_bar_px"]
            if row.get("notes"):
                image["notes"] = row["notes"]
            if "verdict" in row:
                image["verdict"] = row["verdict"]
                image["reason"] = "; ".join(row["reasons"])
            if "class_map" in row:
                image["class_map"] = row["class_map"]
                image["score"] = row["score"]
                scale = row["nm_per_px"]
                image["classes"] = {k: class_figures(v, scale) for k, v in row["classes"].items()}
            if "label" in row:
                named = ("label", "score", "disposition", "second", "strangeness", "nearest")
                image.update({k: row[k] for k in named if k in row})  # type: ignore[literal-required]
            yield image


def _annotations(rows: Iterable[ImageRow]) -> Iterator[dict[str, Any]]:
    number = 0
    for index, row in enumerate(rows, start=1):
        for defect in row.get("defects", ()):
            number += 1
            yield {"id": number, "image_id": index, **defect, "iscrowd": 0}


def _write_list(file: BinaryIO, name: str, items: Iterable[Mapping[str, Any]]) -> None:
    file.write(f'"{name}": ['.encode())
    before = "\n"
    for item in items:
        file.write(f"{before}{json.dumps(item)}".encode())
        before = ",\n"
    file.write(b"],\n")


def _csv_row(row: ImageRow, defect: DefectRow, classes: Sequence[str]) -> list[Any]:
    scale = row["nm_per_px"]
    box = defect["bbox"]
    in_nm: list[Any] = [""] * 5
    if scale is not None:
        in_nm = [round(v * scale, 3) for v in box[:2]]
        in_nm += [defect["width_nm"], defect["height_nm"], defect["area_nm2"]]
    name = classes[defect["category_id"] - 1]
    values = [row["file"], name, defect["score"], defect["disposition"], *box, defect["area"]]
    return values + in_nm
