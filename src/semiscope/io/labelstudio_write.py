"""Label Studio projects, written: ``tasks.json`` beside ``images/``, for a person to go on with.

The tasks name their images for local storage whose document root is the data set's folder;
``label_config.xml`` is the labelling interface. Instances with scores other than 1 are a model's:
they are written as predictions, for a person to confirm, and so is a clean image beside them.
"""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from semiscope.geometry import shape_box
from semiscope.io import labels
from semiscope.io.brush_rle import encode_brush
from semiscope.io.files import write_atomic
from semiscope.io.image import read_size
from semiscope.io.labelstudio import TASKS, turned_corners
from semiscope.types import Annotations, Dataset, Mask, Polygons, Sample, Shape

CONFIG = "label_config.xml"
_LOCAL = "/data/local-files/?d="
# type of a result -> name of its control in the labelling interface
_CONTROLS = {"rectanglelabels": "box", "polygonlabels": "outline", "brushlabels": "mask"}
_SQUARE_PX = 0.01


def write(dataset: Dataset, destination: Path) -> tuple[str, ...]:
    """Writes a data set with its images.

    Returns:
        Notes on what Label Studio cannot hold, and on what became predictions.

    Raises:
        SemiscopeError: A file cannot be read or written.
    """
    copier = labels.ImageCopier()
    lost: Counter[str] = Counter()
    labels.write_classes(destination, dataset.classes)
    predicted = 0
    by_model = any(_is_scored(s) for s in dataset)
    for split in dict.fromkeys(s.split for s in dataset):
        folder = labels.split_folder(destination, split)
        tasks: list[dict[str, Any]] = []
        for sample in dataset.split(split):
            copy = copier.copy(sample, folder / "images")
            place = copy.relative_to(destination).as_posix()
            task: dict[str, Any] = {"data": {"image": _LOCAL + quote(place)}}
            results = _results(sample, dataset.classes, lost)
            if results is not None:
                clean = sample.annotations is not None and not len(sample.annotations)
                if _is_scored(sample) or (by_model and clean):
                    predicted += 1
                    task["predictions"] = [{"model_version": "semiscope", "result": results}]
                else:
                    task["annotations"] = [{"result": results}]
            tasks.append(task)
        text = json.dumps(tasks, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        write_atomic(folder / TASKS, text)
    write_atomic(destination / CONFIG, _config(dataset))
    lost["class maps"] = sum(s.class_map is not None for s in dataset)
    notes = labels.lost_notes("Label Studio", lost)
    if predicted:
        notes += (
            f"{predicted} images were judged by a model, as scores tell: written as predictions, "
            "which are no labels until a person submits them",
        )
    labelled_only = sum(s.label is not None and s.annotations is None for s in dataset)
    if labelled_only and any(s.annotations is not None for s in dataset):
        notes += (f"{labelled_only} images with a label and no word on instances read as clean",)
    return notes


def _is_scored(sample: Sample) -> bool:
    return sample.annotations is not None and bool((sample.annotations.score != 1).any())


def _results(
    sample: Sample, classes: Sequence[str], lost: Counter[str]
) -> list[dict[str, Any]] | None:
    """What a person, or a model, says of an image; None when nobody looked."""
    found = sample.annotations
    if found is None and sample.label is None:
        return None
    height, width = sample.size or read_size(sample.path)
    results: list[dict[str, Any]] = []
    for i in range(0 if found is None else len(found)):
        assert found is not None
        kind, value = _region(found, i, (height, width), lost)
        results.append(
            {
                "id": f"region{i + 1}",
                "type": kind,
                "from_name": _CONTROLS[kind],
                "to_name": "image",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {**value, kind: [classes[found.class_id[i]]]},
            }
        )
        if found.score[i] != 1:
            results[-1]["score"] = round(float(found.score[i]), 6)
    if sample.label is not None:
        value = {"choices": [classes[sample.label]]}
        results.append(
            {
                "id": "label",
                "type": "choices",
                "from_name": "label",
                "to_name": "image",
                "value": value,
            }
        )
    return results


def _region(
    found: Annotations, index: int, size: tuple[int, int], lost: Counter[str]
) -> tuple[str, dict[str, Any]]:
    """Type and value of an instance's result."""
    height, width = size
    percent = 100 / np.array([width, height])
    box = found.xyxy[index].astype(np.float64)
    shape = None if found.shapes is None else found.shapes[index]
    angle = math.nan if found.angle_deg is None else float(found.angle_deg[index])
    if isinstance(shape, Polygons) and not shape.rings:
        shape = None
    turned = _turned_rectangle(shape, angle)
    if turned is None:
        lost["angles"] += math.isfinite(angle)
    if shape is not None and np.abs(shape_box(shape) - box).max() > 1e-2:
        lost["boxes that differ from their outlines"] += 1
    if isinstance(shape, Mask):
        return "brushlabels", {"format": "rle", "rle": encode_brush(shape, height, width)}
    if shape is not None and turned is None:
        ring = shape.rings[0] if len(shape.rings) == 1 else labels.one_ring(shape)
        return "polygonlabels", {"points": (ring * percent).round(9).tolist(), "closed": True}
    corner, extent, clockwise = turned or (box[:2], box[2:] - box[:2], 0.0)
    (x, y), (w, h) = (corner * percent).round(9).tolist(), (extent * percent).round(9).tolist()
    return "rectanglelabels", {
        "x": x,
        "y": y,
        "width": w,
        "height": h,
        "rotation": round(clockwise, 6),
    }


def _turned_rectangle(
    shape: Shape | None, angle: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], float] | None:
    """Corner, extent and clockwise turn of an outline that is a rectangle at the given angle."""
    if not isinstance(shape, Polygons) or len(shape.rings) != 1 or not math.isfinite(angle):
        return None
    (ring,) = shape.rings
    if len(ring) != 4:
        return None
    across, down = ring[1] - ring[0], ring[3] - ring[0]
    extent = np.array([np.hypot(*across), np.hypot(*down)])
    clockwise = math.degrees(math.atan2(across[1], across[0])) % 360
    if abs((clockwise + angle + 180) % 360 - 180) > 0.01:
        return None
    same = np.abs(turned_corners(ring[0], extent, clockwise) - ring).max() <= _SQUARE_PX
    return (ring[0], extent, clockwise) if same else None


def _config(dataset: Dataset) -> str:
    """The labelling interface, with a control for each kind of region."""
    view = ET.Element("View")
    ET.SubElement(view, "Image", name="image", value="$image", zoom="true")
    for tag, name in zip(("Rectangle", "Polygon", "Brush"), _CONTROLS.values(), strict=True):
        control = ET.SubElement(view, f"{tag}Labels", name=name, toName="image")
        for label in dataset.classes:
            ET.SubElement(control, "Label", value=label)
    if any(s.label is not None for s in dataset):
        control = ET.SubElement(view, "Choices", name="label", toName="image")
        for label in dataset.classes:
            ET.SubElement(control, "Choice", value=label)
    ET.indent(view)
    return ET.tostring(view, encoding="unicode") + "\n"
