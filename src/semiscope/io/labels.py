"""What the label formats share: splits, class names, images, and instances checked one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from semiscope.errors import DataError, ImageError
from semiscope.geometry import repair_polygon, shape_box
from semiscope.io.files import write_atomic
from semiscope.io.image import read_size
from semiscope.io.microscope import sidecar
from semiscope.types import Annotations, Dataset, Polygons, Sample, Shape

# folder name -> split; the other spellings are what labelling services export
SPLIT_FOLDERS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "unlabelled": "unlabelled",
}

SPLITS = tuple(dict.fromkeys(SPLIT_FOLDERS.values()))

# the phrases by which a check counts the notes of a reading
BAD_LABEL = "label cannot be read"
UNKNOWN_CLASS = "class id outside the list"
NO_AREA = "box or outline without area"
REPAIRED = "outline mended"
NO_IMAGE = "label without an image"
NO_LABEL = "image without a label"
UNREADABLE = "image cannot be read"
ESCAPES = "path leads out of the data set"

_SPLINTER = 0.01  # px²


def split_folders(root: Path) -> list[tuple[str, Path]]:
    """The splits of a data set and their folders; the root itself, as "", when it has none."""
    found = [
        (SPLIT_FOLDERS[folder.name], folder)
        for folder in sorted(root.iterdir())
        if folder.is_dir() and folder.name in SPLIT_FOLDERS
    ]
    return found or [("", root)]


def split_folder(root: Path, split: str) -> Path:
    """Where a split's files are written."""
    return root / split if split else root


def find_json(folder: Path, name: str, looks: Callable[[bytes], bool]) -> Path | None:
    """The label file of a folder: by its name, or the only JSON file that looks like one.

    Args:
        folder: Where; not below.
        name: The name that the format gives it.
        looks: Whether the bytes of a file look like the format; parsing is left to the reading.
    """
    named = folder / name
    if named.is_file():
        return named
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            data = path.read_bytes()
        except OSError:
            continue
        if looks(data):
            found.append(path)
    return found[0] if len(found) == 1 else None


def read_classes(root: Path) -> tuple[str, ...] | None:
    """The class names of ``classes.txt``, a name a line; None when there is no such file.

    Raises:
        DataError: The file cannot be read, or a name is there twice.
    """
    path = root / "classes.txt"
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected class names, a name a line in UTF-8: {error}") from None
    names = tuple(line.strip() for line in lines)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice or "" in names:
        raise DataError(f"{path}: expected a different name on each line, found {twice or names}")
    return names


def write_classes(root: Path, classes: Sequence[str]) -> None:
    """Writes ``classes.txt``."""
    write_atomic(root / "classes.txt", "".join(f"{name}\n" for name in classes))


def numbered_classes(count: int) -> tuple[str, ...]:
    """Names for a data set that has only class numbers."""
    return tuple(f"class {i}" for i in range(count))


def size_or_note(path: Path, notes: list[str]) -> tuple[int, int] | None:
    """(height, width) of an image; None, and a note, where its header cannot be read."""
    try:
        return read_size(path)
    except ImageError as error:
        notes.append(f"{path}: {UNREADABLE}: {error.problem}")
        return None


def inside(root: Path, base: Path, name: str) -> Path | None:
    """The path that a label file names, or None where it leads out of the root.

    Args:
        root: The data set's folder.
        base: The folder that the name is relative to.
        name: As the label file has it; backslashes of a Windows path are folders too.
    """
    try:
        path = (base / name.replace("\\", "/")).resolve()
    except (OSError, ValueError):  # a NUL byte, or a loop of links
        return None
    return path if path.is_relative_to(root.resolve()) else None


def copy_file(source: Path, target: Path) -> None:
    """Copies a file, whole or not at all; a file that is there already stays as it is.

    Raises:
        SemiscopeError: The file cannot be read or the copy cannot be written.
    """
    if target.resolve() == source.resolve():
        return
    try:
        data = source.read_bytes()
    except OSError as error:
        raise DataError(f"{source}: cannot be copied: {error.strerror}") from None
    write_atomic(target, data)


def polygon_area(ring: NDArray[np.float64]) -> float:
    """Signed area of a ring (k, 2), px²: positive clockwise as the eye sees it, y being down."""
    x, y = ring.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def one_ring(shape: Polygons) -> NDArray[np.float64]:
    """An outline's rings as one, joined by bridges without width, walked there and back.

    All go the same way round, so that the area of the whole is the sum; a bridge leads from vertex
    to nearest vertex, so that it crosses nothing.
    """
    first, *others = [r if polygon_area(r) > 0 else r[::-1] for r in shape.rings]
    for ring in others:
        distance = np.linalg.norm(first[:, None] - ring, axis=2)
        here, there = np.unravel_index(np.argmin(distance), distance.shape)
        walked = np.concatenate([np.roll(ring, -int(there), axis=0), ring[there : there + 1]])
        first = np.concatenate([first[: here + 1], walked, first[here:]])
    return first


class Instances:
    """Collects one image's instances, leaving out and noting what cannot be true.

    Args:
        classes: Number of classes.
        notes: Receives a sentence for each instance left out or mended.
    """

    def __init__(self, classes: int, notes: list[str]) -> None:
        self._classes = classes
        self._notes = notes
        self._boxes: list[ArrayLike] = []
        self._class_ids: list[int] = []
        self._scores: list[float] = []
        self._shapes: list[Shape | None] = []
        self._angles: list[float] = []

    def add(
        self,
        where: str,
        class_id: int,
        box: ArrayLike | None,
        shape: Shape | None = None,
        score: float = 1.0,
        angle_deg: float = float("nan"),
    ) -> None:
        """Adds an instance.

        Args:
            where: File and line or number, for the note.
            class_id: From 0; one outside the list is left out.
            box: (4,) left, top, right, bottom, px; None takes the shape's.
            shape: Outline or mask. Outlines that cross themselves are mended.
            score: 0 to 1.
            angle_deg: Counter-clockwise, or NaN.
        """
        if not 0 <= class_id < self._classes:
            self._notes.append(
                f"{where}: {UNKNOWN_CLASS}: {class_id}, expected 0 to {self._classes - 1}; left out"
            )
            return
        if isinstance(shape, Polygons):
            rings: list[NDArray[np.float64]] = []
            for ring in shape.rings:
                mended, note = repair_polygon(ring)
                # cutting at a crossing leaves splinters far below a pixel
                kept = [r for r in mended if abs(polygon_area(r)) > _SPLINTER]
                rings += kept
                if note is None and not kept:
                    note = "polygon has no area; left out"
                if note is not None:
                    self._notes.append(f"{where}: {REPAIRED}: {note}")
            shape = Polygons(tuple(rings)) if rings else None
        if box is None:
            box = np.zeros(4) if shape is None else shape_box(shape)
        corners = np.asarray(box, dtype=np.float64)
        if not np.isfinite(corners).all() or not (corners[2:] > corners[:2]).all():
            numbers = ", ".join(f"{v:g}" for v in corners)
            self._notes.append(f"{where}: {NO_AREA}: [{numbers}]; left out")
            return
        self._boxes.append(corners)
        self._class_ids.append(class_id)
        self._scores.append(score)
        self._shapes.append(shape)
        self._angles.append(angle_deg)

    def annotations(self) -> Annotations:
        """What was collected."""
        if not self._boxes:
            return Annotations.empty()
        return Annotations(
            np.asarray(self._boxes, dtype=np.float32),
            np.asarray(self._class_ids),
            np.asarray(self._scores, dtype=np.float32),
            tuple(self._shapes) if any(s is not None for s in self._shapes) else None,
            np.asarray(self._angles, np.float32) if np.isfinite(self._angles).any() else None,
        )


def count_lost(dataset: Dataset, *, shapes: bool) -> Counter[str]:
    """Counts what a format of instances only cannot hold.

    Args:
        dataset: What is written.
        shapes: Whether outlines and masks are lost too.

    Returns:
        Numbers, by a phrase in the plural.
    """
    lost: Counter[str] = Counter()
    for sample in dataset:
        lost["image labels"] += sample.label is not None
        lost["class maps"] += sample.class_map is not None
        found = sample.annotations
        if found is None:
            continue
        lost["scores"] += int(np.count_nonzero(found.score != 1))
        if found.angle_deg is not None:
            lost["angles"] += int(np.count_nonzero(np.isfinite(found.angle_deg)))
        if shapes and found.shapes is not None:
            lost["outlines"] += sum(s is not None for s in found.shapes)
    return lost


def lost_notes(form: str, lost: Counter[str]) -> tuple[str, ...]:
    """A sentence for each kind of thing that a format could not hold."""
    return tuple(f"{form} cannot hold {n} {what}" for what, n in lost.items() if n)


def labels_only(dataset: Dataset) -> int:
    """How many labels of whole images there are, where they are all the truth that there is."""
    if any(s.annotations is not None or s.class_map is not None for s in dataset):
        return 0
    return sum(s.label is not None for s in dataset)


def refuse_labels_only(dataset: Dataset, destination: Path, form: str) -> None:
    """Keeps a format that cannot hold labels from writing images whose truth is nothing else.

    Raises:
        DataError: All the truth would be lost.
    """
    count = labels_only(dataset)
    if count:
        raise DataError(
            f"{destination}: {form} cannot hold labels of whole images, and the data set has "
            f"nothing else: all {count} labels would be lost; write it as folders or coco, which "
            "keep them"
        )


class ImageCopier:
    """Puts a data set's images into the folder of another, each under a name of its own."""

    def __init__(self) -> None:
        self._taken: dict[Path, Path] = {}

    def copy(self, sample: Sample, folder: Path) -> Path:
        """Copies a sample's image, with the side-car that holds its pixel size.

        An image that is in the folder already stays as it is. Where two images have the same stem,
        the second takes its parent folder's name, then a number, to its own.

        Returns:
            The path of the copy.

        Raises:
            SemiscopeError: The image cannot be read or the copy cannot be written.
        """
        source = sample.path
        stems = [source.stem, f"{source.parent.name}_{source.stem}"]
        stems += [f"{source.stem}_{i}" for i in range(2, 2 + len(self._taken))]
        for stem in stems:
            # labels are found by stem, so the suffix does not tell two images apart
            key = folder / stem
            if self._taken.setdefault(key, source) == source:
                break
        target = folder / f"{stem}{source.suffix}"
        copy_file(source, target)
        beside = sidecar(source)
        if beside is not None:
            copy_file(beside, target.with_suffix(".txt"))
        return target


def copy_labelled(
    dataset: Dataset, destination: Path, images: str
) -> Iterator[tuple[Path, Path, tuple[int, int], Annotations]]:
    """Writes class names and images of a data set whose label files lie beside the images.

    Args:
        dataset: What is written.
        destination: Its folder.
        images: The images' folder, in the root or in the folder of each split.

    Yields:
        What a label file is made of, for each image that somebody looked at: the split's folder,
        the path of the image's copy, (height, width), the instances.

    Raises:
        SemiscopeError: A file cannot be read or written.
    """
    copier = ImageCopier()
    write_classes(destination, dataset.classes)
    for sample in dataset:
        folder = split_folder(destination, sample.split)
        image = copier.copy(sample, folder / images)
        if sample.annotations is not None:
            yield folder, image, sample.size or read_size(sample.path), sample.annotations
