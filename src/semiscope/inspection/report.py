"""The report of a run, put together from its journal."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from semiscope.geometry import outline
from semiscope.inspection.class_maps import class_figures
from semiscope.inspection.gallery import Gallery
from semiscope.inspection.journal import ImageRow, Journal
from semiscope.inspection.results import is_bad
from semiscope.inspection.summary import InspectionSummary
from semiscope.io.coco import decode_rle
from semiscope.io.files import write_atomic
from semiscope.report.overlay import MapPicture, maps_section
from semiscope.report.page import Picture, Report, page

_MOST_OTHERS = 20
_MOST_MAPS = 60


def write_report(
    journal: Journal,
    summary: InspectionSummary,
    gallery: Gallery,
    classes: Sequence[str],
    model: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> None:
    """Writes ``report.html``.

    Args:
        journal: A row for each image of the run.
        summary: Its figures, and where the report goes.
        gallery: Which defects are shown.
        classes: Names of the classes.
        model: What tells the model, plain values.
        settings: The settings of the run, plain values.

    Raises:
        SemiscopeError: The file cannot be written.
    """
    lengths, scales, scores, review = array("d"), array("d"), array("d"), array("b")
    folders: Counter[str] = Counter()
    pictures: dict[tuple[int, int], Picture | None] = dict.fromkeys(gallery.chosen())
    maps: list[MapPicture] = []
    mapped = 0
    for index, row in enumerate(journal.rows()):
        folders[str(Path(row["file"]).parent)] += 1
        if "class_map" in row and not is_bad(row):
            mapped += 1
            scale = row["nm_per_px"]
            own = {
                name: class_figures(measured, scale) for name, measured in row["classes"].items()
            }
            maps.append(MapPicture(row["file"], row["score"], row["overlay"], own))
            if len(maps) > _MOST_MAPS:
                maps.remove(max(maps, key=lambda m: m.score))
        for place, defect in enumerate(row.get("defects", ())):
            lengths.append(max(defect["bbox"][2:]))
            scales.append(row["nm_per_px"] or np.nan)
            scores.append(defect["score"])
            review.append(defect["disposition"] == "review")
            if (index, place) in pictures:
                pictures[index, place] = _picture(row, place, classes)
    in_nm = bool(len(scales)) and bool(np.isfinite(scales).all())
    main_folder = folders.most_common(1)[0][0]
    further = len(folders) - 1
    report = Report(
        title="Defect report",
        facts={
            "Model": str(model["name"]),
            "Data": main_folder
            + (f" and {further} more folder{'s'[: further - 1]}" if further else ""),
            "Written": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
            **({"Units": summary.units} if summary.units else {}),
            "Time": f"{summary.seconds:.1f} s, {summary.images_per_second:.1f} images/s",
        },
        classes=classes,
        images=summary.images,
        images_with_defects=summary.images_with_defects,
        counts=summary.counts,
        lengths=np.array(lengths) * (np.array(scales) if in_nm else 1),
        length_unit="nm" if in_nm else "px",
        scores=np.array(scores),
        review=np.array(review, bool),
        pictures=[p for p in pictures.values() if p is not None],
        failed=summary.failed,
        csv=summary.csv.name,
        maps=maps_section(sorted(maps, key=lambda m: m.score), classes, mapped),
        model=model,
        settings=settings,
    )
    write_atomic(summary.report, page(report))


def _picture(row: ImageRow, place: int, classes: Sequence[str]) -> Picture:
    defect = row["defects"][place]
    view, jpeg = row["crops"][str(place)]
    rings: list[list[float]] = []
    if "segmentation" in defect:
        outlines = outline(decode_rle(defect["segmentation"])).rings
        rings = [[round(float(v), 1) for v in ring.ravel()] for ring in outlines]
    left, top, width, height = view
    others: list[tuple[float, float, float, float, str]] = []
    for index, other in enumerate(row["defects"]):
        x, y, w, h = other["bbox"]
        seen = x < left + width and x + w > left and y < top + height and y + h > top
        if seen and index != place and len(others) < _MOST_OTHERS:
            others.append((x, y, w, h, classes[other["category_id"] - 1]))
    return Picture(
        file=row["file"],
        label=classes[defect["category_id"] - 1],
        score=defect["score"],
        disposition=defect["disposition"],
        box=defect["bbox"],
        view=view,
        image_size=(row["width"], row["height"]),
        nm_per_px=row["nm_per_px"],
        area=defect["area"],
        jpeg=jpeg,
        rings=rings,
        others=others,
    )
