"""YOLO labels: a text file an image, a line an instance, numbers as fractions of the image's size.

``class x y w h`` is a box by its centre, ``class x1 y1 x2 y2 x3 y3 ...`` an outline. Class names
stand in ``classes.txt``. Images lie in ``images/`` and labels of the same stem in ``labels/``,
either in a folder for each split or with the splits below ``images/`` and ``labels/``.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from semiscope.errors import DataError
from semiscope.geometry import outline, shape_box
from semiscope.io import labels
from semiscope.io.files import write_atomic
from semiscope.io.image import images_below
from semiscope.types import Annotations, Dataset, Mask, Polygons, Sample

# 60,000 px times 1e-9 is far below a thousandth of a pixel
_NUMBER = "{:.9g}"


def matches(root: Path) -> bool:
    """Whether a folder holds ``images/`` and ``labels/`` with text files."""
    return any(
        images.is_dir() and any(folder.glob("**/*.txt")) for _, images, folder in _places(root)
    )


def read(root: Path) -> Dataset:
    """Reads a data set.

    A missing label file means that nobody looked (annotations None); an empty one that the image is
    clean.

    Raises:
        DataError: There are no images, or ``classes.txt`` is faulty.
    """
    notes: list[str] = []
    classes = labels.read_classes(root)
    count = 1 << 31 if classes is None else len(classes)
    samples = []
    for split, images, folder in _places(root):
        left = {p.relative_to(folder).with_suffix("") for p in folder.rglob("*.txt")}
        for path in images_below(images):
            size = labels.size_or_note(path, notes)
            stem = path.relative_to(images).with_suffix("")
            left.discard(stem)
            if size is None:
                continue
            label = folder / stem.parent / f"{stem.name}.txt"
            annotations = _read_file(label, size, count, notes)
            if annotations is None and split != "unlabelled":
                notes.append(f"{path}: {labels.NO_LABEL}: expected {label}")
            samples.append(Sample(path, size, annotations, split=split))
        left.discard(Path("classes"))
        notes += [f"{folder / stem}.txt: {labels.NO_IMAGE}; left out" for stem in sorted(left)]
    if not samples:
        raise DataError(f"{root}: expected images in images/ and labels in labels/, found no image")
    if classes is None:
        used = [s.annotations.class_id.max(initial=-1) for s in samples if s.annotations]
        classes = labels.numbered_classes(int(max(used, default=-1)) + 1)
        notes.append(f"{root}: no classes.txt; the classes have numbers as names")
    return Dataset(classes, tuple(samples), tuple(notes))


def write(dataset: Dataset, destination: Path) -> tuple[str, ...]:
    """Writes a data set with its images.

    Returns:
        Notes on what YOLO labels cannot hold: masks become outlines, and an instance with an
        outline has no box of its own.

    Raises:
        DataError: Labels of whole images are all the truth.
        SemiscopeError: A file cannot be read or written.
    """
    labels.refuse_labels_only(dataset, destination, "YOLO")
    lost = labels.count_lost(dataset, shapes=False)
    for folder, image, size, found in labels.copy_labelled(dataset, destination, "images"):
        lines = _lines(found, *size, lost)
        write_atomic(folder / "labels" / f"{image.stem}.txt", "".join(lines))
    return labels.lost_notes("YOLO", lost)


def _places(root: Path) -> list[tuple[str, Path, Path]]:
    """Split, image folder and label folder of each part."""
    below = [
        (labels.SPLIT_FOLDERS[p.name], p, root / "labels" / p.name)
        for p in sorted((root / "images").glob("*"))
        if p.is_dir() and p.name in labels.SPLIT_FOLDERS
    ]
    return below or [(s, f / "images", f / "labels") for s, f in labels.split_folders(root)]


def _read_file(
    path: Path, size: tuple[int, int], classes: int, notes: list[str]
) -> Annotations | None:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        notes.append(f"{path}: {labels.BAD_LABEL}: {error}")
        return None
    found = labels.Instances(classes, notes)
    height, width = size
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        where = f"{path}, line {number}"
        try:
            values = np.array([float(w) for w in words])
        except ValueError:
            values = np.array([])
        n = len(values) - 1
        if not (n == 4 or (n >= 6 and n % 2 == 0)) or not np.isfinite(values).all():
            notes.append(f"{where}: {labels.BAD_LABEL}: {line[:60]!r}; left out")
            continue
        if values[0] != int(values[0]):
            notes.append(f"{where}: {labels.BAD_LABEL}: class {words[0]}; left out")
            continue
        points = values[1:].reshape(-1, 2) * (width, height)
        if n == 4:
            box = np.concatenate([points[0] - points[1] / 2, points[0] + points[1] / 2])
            found.add(where, int(values[0]), box)
        else:
            found.add(where, int(values[0]), None, Polygons((points,)))
    return found.annotations()


def _lines(found: Annotations, height: int, width: int, lost: Counter[str]) -> list[str]:
    """A line for each instance."""
    lines = []
    for i, box in enumerate(found.xyxy.astype(np.float64)):
        shape = None if found.shapes is None else found.shapes[i]
        if isinstance(shape, Mask):
            shape = outline(shape)
            lost["masks, written as their outlines"] += 1
        if shape is None or not shape.rings:
            points = np.array([(box[:2] + box[2:]) / 2, box[2:] - box[:2]])
        else:
            points = shape.rings[0] if len(shape.rings) == 1 else labels.one_ring(shape)
            if np.abs(shape_box(shape) - box).max() > 1e-2:
                lost["boxes that differ from their outlines"] += 1
        numbers = (points / (width, height)).ravel()
        lines.append(f"{found.class_id[i]} {' '.join(map(_NUMBER.format, numbers))}\n")
    return lines
