"""Pascal VOC labels: an XML file an image, boxes by class name.

Images lie in ``JPEGImages/`` (or ``images/``) and labels of the same stem in ``Annotations/``.

VOC counts pixels from 1 and names the first and the last pixel inside, so a box over the columns 0
to 9 has xmin 1 and xmax 10. In the coordinates used here that is 0 to 10: left and top are VOC's
minus 1, right and bottom are VOC's. Tools that write VOC files counting from 0 give boxes that are
a pixel too large at the left and the top; nothing in a file tells them apart.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import NamedTuple

import numpy as np

from semiscope.errors import DataError
from semiscope.io import labels
from semiscope.io.files import write_atomic
from semiscope.io.image import images_below
from semiscope.types import Annotations, Dataset, Sample

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_FROM_ONE = np.array([1.0, 1.0, 0.0, 0.0])


class _Object(NamedTuple):
    where: str
    name: str
    box: np.ndarray


def matches(root: Path) -> bool:
    """Whether a folder, or one of its splits, holds ``Annotations/*.xml``."""
    folders = labels.split_folders(root)
    return any(any((folder / "Annotations").glob("*.xml")) for _, folder in folders)


def read(root: Path) -> Dataset:
    """Reads a data set; without ``classes.txt`` the classes are the names met, sorted.

    Raises:
        DataError: There are no images, or ``classes.txt`` is faulty.
    """
    notes: list[str] = []
    read_so_far: list[tuple[Sample, list[_Object] | None]] = []
    for split, folder in labels.split_folders(root):
        images = next((p for p in (folder / "JPEGImages", folder / "images") if p.is_dir()), folder)
        left = {p.stem for p in (folder / "Annotations").glob("*.xml")}
        for path in images_below(images):
            left.discard(path.stem)
            size = labels.size_or_note(path, notes)
            if size is None:
                continue
            label = folder / "Annotations" / f"{path.stem}.xml"
            objects = _objects(label, notes) if label.is_file() else None
            if objects is None and split != "unlabelled" and not label.is_file():
                notes.append(f"{path}: {labels.NO_LABEL}: expected {label}")
            read_so_far.append((Sample(path, size, split=split), objects))
        notes += [
            f"{folder / 'Annotations' / stem}.xml: {labels.NO_IMAGE}; left out"
            for stem in sorted(left)
        ]
    if not read_so_far:
        raise DataError(f"{root}: expected images in JPEGImages/ or images/, found none")
    classes = labels.read_classes(root)
    if classes is None:
        classes = tuple(sorted({o.name for _, objects in read_so_far for o in objects or ()}))
    samples = tuple(_with_objects(s, objects, classes, notes) for s, objects in read_so_far)
    return Dataset(classes, samples, tuple(notes))


def write(dataset: Dataset, destination: Path) -> tuple[str, ...]:
    """Writes a data set with its images.

    Returns:
        Notes on what VOC labels cannot hold: outlines, masks, angles, scores.

    Raises:
        DataError: Labels of whole images are all the truth.
        SemiscopeError: A file cannot be read or written.
    """
    labels.refuse_labels_only(dataset, destination, "VOC")
    lost = labels.count_lost(dataset, shapes=True)
    for folder, image, size, found in labels.copy_labelled(dataset, destination, "JPEGImages"):
        text = _document(image.name, size, found, dataset.classes)
        write_atomic(folder / "Annotations" / f"{image.stem}.xml", text)
    return labels.lost_notes("VOC", lost)


def _objects(path: Path, notes: list[str]) -> list[_Object] | None:
    """The boxes of a label file; None, and a note, where it is not an XML file."""
    try:
        data = path.read_bytes()
        if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
            raise ValueError("a document type, which labels have no use for")
        tree = ET.fromstring(data)
    except (OSError, ValueError, ET.ParseError, LookupError) as error:
        notes.append(f"{path}: {labels.BAD_LABEL}: expected a VOC file (XML), found: {error}")
        return None
    found = []
    for number, element in enumerate(tree.iter("object"), 1):
        where = f"{path}, object {number}"
        try:
            corners = [float(element.findtext(f"bndbox/{c}", "")) for c in _CORNERS]
        except ValueError:
            notes.append(f"{where}: {labels.BAD_LABEL}: expected bndbox with four numbers")
            continue
        name = element.findtext("name", "").strip()
        found.append(_Object(where, name, np.array(corners) - _FROM_ONE))
    return found


def _with_objects(
    sample: Sample, objects: list[_Object] | None, classes: tuple[str, ...], notes: list[str]
) -> Sample:
    if objects is None:
        return sample
    index = {name: i for i, name in enumerate(classes)}
    found = labels.Instances(len(classes), notes)
    for where, name, box in objects:
        if name not in index:
            notes.append(f"{where}: {labels.UNKNOWN_CLASS}: {name!r}; left out")
        else:
            found.add(where, index[name], box)
    return Sample(sample.path, sample.size, found.annotations(), split=sample.split)


def _document(
    name: str, size: tuple[int, int], found: Annotations, classes: tuple[str, ...]
) -> str:
    top = ET.Element("annotation")
    ET.SubElement(top, "filename").text = name
    dimensions = ET.SubElement(top, "size")
    ET.SubElement(dimensions, "width").text = str(size[1])
    ET.SubElement(dimensions, "height").text = str(size[0])
    for class_id, box in zip(found.class_id, found.xyxy.astype(np.float64), strict=True):
        element = ET.SubElement(top, "object")
        ET.SubElement(element, "name").text = classes[class_id]
        corners = ET.SubElement(element, "bndbox")
        for key, value in zip(_CORNERS, box + _FROM_ONE, strict=True):
            ET.SubElement(corners, key).text = f"{value:.10g}"
    ET.indent(top)
    return ET.tostring(top, encoding="unicode") + "\n"
