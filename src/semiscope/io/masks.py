"""Segmentation data: ``images/``, and in ``masks/`` a PNG of class indices of the same stem.

The first class is the background. 255 marks pixels that nobody judged.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from semiscope.errors import DataError, ImageError
from semiscope.geometry import rasterise
from semiscope.io import labels
from semiscope.io.files import write_atomic
from semiscope.io.header import check_size, check_whole, read_header
from semiscope.io.image import bare_png, images_below, read_image, read_size
from semiscope.types import Annotations, Dataset, Mask, Sample

IGNORE = 255
BACKGROUND = "background"


def matches(root: Path) -> bool:
    """Whether a folder, or one of its splits, holds ``images/`` and ``masks/``."""
    return any(
        (folder / "images").is_dir() and any((folder / "masks").glob("*"))
        for _, folder in labels.split_folders(root)
    )


def read(root: Path) -> Dataset:
    """Reads a data set; without ``classes.txt`` the classes are numbered as far as the masks go.

    Raises:
        DataError: There are no images, or ``classes.txt`` is faulty.
    """
    notes: list[str] = []
    samples = []
    for split, folder in labels.split_folders(root):
        masks = {p.stem: p for p in images_below(folder / "masks")}
        for path in images_below(folder / "images"):
            size = labels.size_or_note(path, notes)
            mask = masks.pop(path.stem, None)
            if size is None:
                continue
            if mask is None and split != "unlabelled":
                notes.append(f"{path}: {labels.NO_LABEL}: expected one in {folder / 'masks'}")
            elif mask is not None and labels.size_or_note(mask, notes) != size:
                notes.append(
                    f"{mask}: {labels.BAD_LABEL}: expected {size[1]} x {size[0]} px as "
                    f"{path.name} has; left out"
                )
                mask = None
            samples.append(Sample(path, size, class_map=mask, split=split))
        notes += [f"{mask}: {labels.NO_IMAGE}; left out" for mask in masks.values()]
    if not samples:
        raise DataError(f"{root}: expected images in images/, found none")
    classes = labels.read_classes(root)
    if classes is None:
        classes = _numbered(samples, notes)
    return Dataset(classes, tuple(samples), tuple(notes))


def read_class_map(path: Path) -> NDArray[np.int64]:
    """The class indices of a mask file.

    A palette image gives its indices, not its colours.

    Returns:
        (H, W) int64; ``IGNORE`` where nobody judged.

    Raises:
        ImageError: The file cannot be read, or shows colours in place of indices.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(path, f"cannot be opened: {error.strerror}") from None
    header = read_header(data, path)
    if header.kind == "png" and data[25] == 3:
        check_size(path, header.width, header.height, len(data))
        check_whole(data, header, path)
        bare = np.frombuffer(bare_png(data, path, index=True), np.uint8)
        indices = cv2.imdecode(bare, cv2.IMREAD_UNCHANGED)
        if indices is None:
            raise ImageError(path, "the PNG is damaged and cannot be decoded")
        # the decoder scales depths of 1, 2 and 4 bit up to 255
        return indices.astype(np.int64) // (255 // ((1 << data[24]) - 1))
    pixels = read_image(path).pixels
    if pixels.ndim != 2 or pixels.dtype.kind != "u":
        raise ImageError(path, "expected class indices, one whole number a pixel, found colours")
    return pixels.astype(np.int64)


def write(dataset: Dataset, destination: Path) -> tuple[str, ...]:
    """Writes a data set with its images; instances are painted, large ones first.

    Where the classes don't begin with "background", it is put before them.

    Returns:
        Notes on what class maps cannot hold: instances apart, scores, angles.

    Raises:
        DataError: There are more classes than indices, or labels of whole images are all the truth.
        SemiscopeError: A file cannot be read or written.
    """
    labels.refuse_labels_only(dataset, destination, "a class map")
    lost: Counter[str] = Counter()
    notes: list[str] = []
    copier = labels.ImageCopier()
    classes = dataset.classes
    shift = 0
    has_maps = any(s.class_map is not None for s in dataset)
    if not has_maps and (not classes or classes[0].lower() != BACKGROUND):
        classes, shift = (BACKGROUND, *classes), 1
        notes.append(f"{BACKGROUND!r} was put before the classes")
    if len(classes) > IGNORE:
        raise DataError(f"{destination}: masks hold {IGNORE} classes, found {len(classes)}")
    labels.write_classes(destination, classes)
    for sample in dataset:
        folder = labels.split_folder(destination, sample.split)
        image = copier.copy(sample, folder / "images")
        if sample.label is not None:
            lost["image labels"] += 1
        if sample.class_map is not None:
            indices = read_class_map(sample.class_map)
        elif sample.annotations is not None:
            height, width = sample.size or read_size(sample.path)
            indices = paint(sample.annotations, height, width, shift, lost)
        else:
            continue
        write_class_map(folder / "masks" / f"{image.stem}.png", indices)
    return (*notes, *labels.lost_notes("class maps", lost))


def write_class_map(path: Path, indices: NDArray[Any]) -> None:
    """Writes class indices, (H, W) in 0 to 255, as a grey PNG.

    Raises:
        SemiscopeError: The file cannot be written.
    """
    write_atomic(path, cv2.imencode(".png", indices.astype(np.uint8))[1].tobytes())


def paint(
    found: Annotations, height: int, width: int, shift: int, lost: Counter[str]
) -> NDArray[np.int64]:
    """Instances as a class map: each pixel the smallest instance's class plus the shift, else 0."""
    indices = np.zeros((height, width), np.int64)
    masks: list[tuple[Mask, int]] = []
    for i, box in enumerate(found.xyxy):
        shape = None if found.shapes is None else found.shapes[i]
        if shape is None:
            lost["instances without an outline, painted as their boxes"] += 1
            left, top = np.clip(np.round(box[:2]).astype(int), 0, (width, height))
            right, bottom = np.clip(np.round(box[2:]).astype(int), 0, (width, height))
            mask = Mask(int(left), int(top), np.ones((bottom - top, right - left), bool))
        else:
            mask = shape if isinstance(shape, Mask) else rasterise(shape, height, width)
        masks.append((mask, int(found.class_id[i]) + shift))
    covered = 0
    for mask, value in sorted(masks, key=lambda m: -m[0].area):
        h, w = mask.bits.shape
        x, y = max(mask.x, 0), max(mask.y, 0)
        part = indices[y : mask.y + h, x : mask.x + w]
        bits = mask.bits[y - mask.y :, x - mask.x :][: part.shape[0], : part.shape[1]]
        covered += int(np.count_nonzero(part[bits]))
        part[bits] = value
    if covered:
        lost["images where instances overlap (the smaller one is on top)"] += 1
    lost["instances as things apart (touching ones of a class become one)"] += len(found)
    return indices


def _numbered(samples: list[Sample], notes: list[str]) -> tuple[str, ...]:
    """Names for classes that only have numbers."""
    highest = 0
    for path in (s.class_map for s in samples if s.class_map is not None):
        try:
            indices = read_class_map(path)
        except ImageError as error:
            notes.append(f"{path}: {labels.BAD_LABEL}: {error.problem}")
            continue
        highest = max(highest, int(indices[indices != IGNORE].max(initial=0)))
    return labels.numbered_classes(highest + 1)
