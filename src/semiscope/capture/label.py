"""Packages whose corners a person, or a simulation, has labelled; the labels go into the crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from semiscope.capture.outline import mask_corners
from semiscope.capture.package import Candidate
from semiscope.capture.upright import Corners, order_corners, transform_annotations
from semiscope.data.dataset import open_dataset
from semiscope.errors import DataError, SettingsError
from semiscope.geometry import dense
from semiscope.io import coco
from semiscope.types import Dataset, Mask, Sample, Shape


def open_labelled(images: Sequence[str | Path], package_class: str) -> Dataset:
    """Opens the one folder that must be a data set with a class of packages.

    Raises:
        SettingsError: There is more than one path.
        DataError: The folder is no data set, or has no such class.
    """
    if len(images) != 1:
        raise SettingsError(
            f"the method label takes the folder of one labelled data set, found {len(images)} paths"
        )
    dataset = open_dataset(Path(images[0]).expanduser())
    if package_class not in dataset.classes:
        raise DataError(
            f"{images[0]}: expected a class {package_class!r}, found "
            f"{', '.join(dataset.classes) or 'none'}; name it with --package-class"
        )
    return dataset


def label_candidates(sample: Sample, dataset: Dataset, package_class: str) -> list[Candidate]:
    """The packages that an image's labels show.

    An outline of four points gives the corners in its own order: its first point is the top left of
    the package's own upright view, which is how simulated units are labelled. Other outlines and
    masks give the corners of their best quadrilateral. A box alone gives none.
    """
    found = sample.annotations
    if found is None or found.shapes is None:
        return []
    wanted = dataset.classes.index(package_class)
    candidates = []
    for class_id, shape in zip(found.class_id, found.shapes, strict=True):
        corners = None
        if class_id == wanted and shape is not None:
            corners = _shape_corners(shape, sample)
        if corners is not None:
            candidates.append(Candidate(corners, 1.0, "label"))
    return candidates


def _shape_corners(shape: Shape, sample: Sample) -> Corners | None:
    if isinstance(shape, Mask):
        return None if sample.size is None else mask_corners(dense(shape, *sample.size))
    if len(shape.rings) == 1 and len(shape.rings[0]) == 4:
        ring = shape.rings[0]
        return ring if cv2.isContourConvex(ring.astype(np.float32)) else None
    points = np.concatenate(shape.rings).astype(np.float32)
    box = cv2.boxPoints(cv2.minAreaRect(points))
    return order_corners(box) if cv2.contourArea(box) > 0 else None


def write_labelled(
    dataset: Dataset, package_class: str, rows: Sequence[dict[str, Any]], out: Path
) -> None:
    """Writes the labels of the crops beside them, as a COCO data set.

    The class of packages is left out: a crop is nothing else. Angles stay as they are: a die's is
    against its package.

    Args:
        dataset: The photographs and their labels.
        package_class: The class of packages.
        rows: The images of ``captures.json``.
        out: The run's folder.
    """
    package = dataset.classes.index(package_class)
    classes = tuple(name for name in dataset.classes if name != package_class)
    of = {str(sample.path): sample for sample in dataset}
    samples = []
    for row in rows:
        sample = of.get(row["file"])
        if sample is None or "crop" not in row:
            continue
        size = row["crop_height"], row["crop_width"]
        found = sample.annotations
        if found is not None:
            found = found[found.class_id != package]
            homography = np.array(row["homography"])
            moved = transform_annotations(found, homography, *size, turn_angles=False)
            found = replace(moved, class_id=moved.class_id - (moved.class_id > package))
        samples.append(replace(sample, path=out / row["crop"], size=size, annotations=found))
    coco.write(Dataset(classes, tuple(samples)), out)
