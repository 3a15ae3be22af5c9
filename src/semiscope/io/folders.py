"""Image classification data: a folder a class, the images in it.

``unlabelled/`` holds images without a class.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from semiscope.errors import DataError
from semiscope.io import labels
from semiscope.io.image import images_below
from semiscope.types import Dataset, Sample

# folders that belong to other formats
_NOT_CLASSES = {"images", "labels", "masks", "JPEGImages", "Annotations", "ImageSets"}


def matches(root: Path) -> bool:
    """Whether a folder, or one of its splits, holds folders with images in them."""
    return any(
        any(images_below(folder))
        for split, part in labels.split_folders(root)
        if split != "unlabelled"
        for folder in _class_folders(part)
    )


def read(root: Path) -> Dataset:
    """Reads a data set; without ``classes.txt`` the classes are the folders' names, sorted.

    Raises:
        DataError: ``classes.txt`` is faulty.
    """
    notes: list[str] = []
    splits = labels.split_folders(root)
    labelled = [(split, folder) for split, folder in splits if split != "unlabelled"]
    classes = labels.read_classes(root)
    if classes is None:
        classes = tuple(sorted({f.name for _, part in labelled for f in _class_folders(part)}))
    index = {name: i for i, name in enumerate(classes)}
    samples = []
    for split, part in splits:
        found = []
        for path in images_below(part):
            name = path.relative_to(part).parts[0]
            label = None if split == "unlabelled" else index.get(name)
            if label is None and split != "unlabelled":
                if path.parent == part:
                    notes.append(f"{path}: {labels.NO_LABEL}: expected it in a folder of its class")
                else:
                    notes.append(f"{path}: {labels.UNKNOWN_CLASS}: folder {name!r}; left out")
                    continue
            size = labels.size_or_note(path, notes)
            if size is not None:
                found.append(Sample(path, size, label=label, split=split))
        samples += found
    return Dataset(classes, tuple(samples), tuple(notes))


def write(dataset: Dataset, destination: Path) -> tuple[str, ...]:
    """Writes a data set with its images.

    Returns:
        Notes on what class folders cannot hold.

    Raises:
        DataError: No image has a label, or a class name cannot be a folder's name.
        SemiscopeError: A file cannot be read or written.
    """
    if all(s.label is None for s in dataset):
        raise DataError(
            f"{destination}: class folders need a label for each image, found none; "
            "data with instances can be written as coco, yolo, voc or masks"
        )
    for name in dataset.classes:
        taken = name in labels.SPLIT_FOLDERS or name in _NOT_CLASSES
        if taken or name in ("", "..") or Path(name).name != name:
            raise DataError(f"class name {name!r} cannot be the name of a class folder; rename it")
    lost: Counter[str] = Counter()
    copier = labels.ImageCopier()
    labels.write_classes(destination, dataset.classes)
    for sample in dataset:
        folder = labels.split_folder(destination, sample.split)
        if sample.label is not None:
            copier.copy(sample, folder / dataset.classes[sample.label])
        elif sample.split == "unlabelled":
            copier.copy(sample, folder)
        else:
            lost["images without a label"] += 1
        if sample.annotations is not None:
            lost["instances"] += len(sample.annotations)
        if sample.class_map is not None:
            lost["class maps"] += 1
    return labels.lost_notes("class folders", lost)


def _class_folders(part: Path) -> list[Path]:
    return [
        folder
        for folder in sorted(part.iterdir())
        if folder.is_dir()
        and folder.name not in _NOT_CLASSES
        and folder.name not in labels.SPLIT_FOLDERS
        and not folder.name.startswith(".")
    ]
