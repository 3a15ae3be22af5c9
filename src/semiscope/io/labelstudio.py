"""Label Studio projects: a JSON file of tasks, places in percent of the image.

Read is what Label Studio exports as "JSON": beside the images, or in the folder of each split.
Rectangles (also rotated ones), polygons, brush strokes and choices for whole images are labels;
other kinds of results are left out with a note. A task's image is found by its name, whatever
Label Studio has put before it (``/data/upload/1/0a1b2c3d-name.png``,
``/data/local-files/?d=folder/name.png``, a URL); nothing is ever fetched.

- A task without an annotation, or whose annotations were all skipped, was not looked at.
- An annotation without results is a clean image; so is one with choices only, where other tasks of
  the project have regions.
- Of several annotations the one marked as ground truth counts, else the last.
- Predictions are no truth.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from numpy.typing import ArrayLike, NDArray

from semiscope.errors import DataError
from semiscope.io import labels
from semiscope.io.brush_rle import decode_brush
from semiscope.io.image import IMAGE_SUFFIXES, images_below
from semiscope.types import Dataset, Polygons, Sample

TASKS = "tasks.json"
_LABELLED = ("rectanglelabels", "polygonlabels", "brushlabels", "labels")
_BARE = ("rectangle", "polygon", "brush")
_GEOMETRY = ("x", "points", "rle")
_FAR = 1e6  # percent
_UPLOAD_PREFIX = re.compile(r"[0-9a-f]{8}-")


class _Task(NamedTuple):
    """A task, and the results of its annotation that counts; None when nobody looked."""

    where: str
    reference: str
    results: list[dict[str, Any]] | None
    why_none: str


def matches(root: Path) -> bool:
    """Whether a folder, or one of its splits, holds a Label Studio file."""
    return any(_find(folder) is not None for _, folder in labels.split_folders(root))


def read(root: Path) -> Dataset:
    """Reads a data set; without ``classes.txt`` the classes are the names met, sorted.

    Raises:
        DataError: A JSON file is no Label Studio export, or ``classes.txt`` is faulty.
    """
    notes: list[str] = []
    parts: list[tuple[str, Path, Path | None, list[_Task]]] = []
    for split, folder in labels.split_folders(root):
        path = _find(folder)
        tasks = [] if path is None else [_task(path, n, t, notes) for n, t in _load(path)]
        parts.append((split, folder, path, tasks))
    results = [r for *_, tasks in parts for task in tasks for r in task.results or ()]
    classes = labels.read_classes(root)
    if classes is None:
        classes = tuple(sorted({name for r in results for name in _names(r)}))
    reader = _Reader(classes, any(_is_region(r) for r in results), notes)
    samples: list[Sample] = []
    for split, folder, path, tasks in parts:
        images = _Images(folder)
        found: dict[Path, Sample] = {}
        for task in tasks:
            image = images.find(task, notes)
            if image is None:
                continue
            if image in found:
                notes.append(f"{task.where}: {image.name} has a task already; left out")
                continue
            sample = reader.sample(task, image, split)
            if sample is not None:
                found[image] = sample
        for image in images.paths:
            size = labels.size_or_note(image, notes) if image not in found else None
            if size is not None:
                if split != "unlabelled":
                    notes.append(f"{image}: {labels.NO_LABEL}: not listed in {path}")
                found[image] = Sample(image, size, split=split)
        samples += [found[image] for image in sorted(found)]
    return Dataset(classes, tuple(samples), tuple(dict.fromkeys(notes)))


def _find(folder: Path) -> Path | None:
    return labels.find_json(folder, TASKS, _looks)


def _looks(data: bytes) -> bool:
    judged = b'"annotations"' in data or b'"predictions"' in data
    return judged and b'"data"' in data and data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def _load(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected a Label Studio export (JSON), found: {error}") from None
    if not isinstance(content, list) or not all(
        isinstance(task, dict) and isinstance(task.get("data"), dict) for task in content
    ):
        raise DataError(
            f"{path}: expected a list of Label Studio's tasks, each with its data; export the "
            "project as JSON, not as JSON-MIN"
        )
    return enumerate(content, 1)


def _task(path: Path, number: int, task: dict[str, Any], notes: list[str]) -> _Task:
    where = f"{path}, task {task.get('id', number)}"
    data = task["data"]
    texts = [v for v in data.values() if isinstance(v, str)]
    pictures = [v for v in texts if Path(_place(v)).suffix.lower() in IMAGE_SUFFIXES]
    named = data.get("image")
    reference = named if isinstance(named, str) else next(iter(pictures), "")
    listed = task.get("annotations")
    annotations = [a for a in listed if isinstance(a, dict)] if isinstance(listed, list) else []
    finished = [a for a in annotations if not a.get("was_cancelled")]
    if not finished:
        why = "no annotation"
        if annotations:
            why = "skipped by the annotator"
        elif task.get("predictions"):
            why = "a prediction, which nobody has submitted"
        return _Task(where, reference, None, why)
    if len(finished) > 1:
        notes.append(
            f"{where}: {len(finished)} annotations; the one marked as ground truth counts, else "
            "the last"
        )
    chosen = next((a for a in finished if a.get("ground_truth")), finished[-1])
    results = chosen.get("result")
    if not isinstance(results, list) or not all(isinstance(r, dict) for r in results):
        notes.append(f"{where}: {labels.BAD_LABEL}: an annotation without a list of results")
        return _Task(where, reference, None, "an annotation that cannot be read")
    return _Task(where, reference, results, "")


def _place(reference: str) -> str:
    """The path in what a task calls its image: a path, a URL, or Label Studio's own address."""
    reference = reference.replace("\\", "/")
    if "://" not in reference and not reference.startswith("/data/"):
        return reference
    try:
        url = urlsplit(reference)
        return parse_qs(url.query).get("d", [unquote(url.path)])[0].replace("\\", "/")
    except ValueError:  # a bracket in place of a host
        return reference


def _plain(name: str) -> str:
    """A file's name as Label Studio keeps it after an upload."""
    return re.sub(r"[^-\w.]", "", name.strip().replace(" ", "_"))


class _Images:
    """The images of a folder, found by what a task calls them.

    Only these are ever looked at, so no path of a label file leads out of the folder.
    """

    def __init__(self, folder: Path) -> None:
        base = folder / "images" if (folder / "images").is_dir() else folder
        self.paths = images_below(base)
        # every end of a path, in parts, -> its image; None where two images share it
        self._ends: dict[str, Path | None] = {}
        self._plain_names: dict[str, Path | None] = {}
        for path in self.paths:
            parts = path.relative_to(folder).parts
            for i in range(len(parts)):
                end = "/".join(parts[i:])
                self._ends[end] = None if end in self._ends else path
            plain = _plain(path.name)
            self._plain_names[plain] = None if plain in self._plain_names else path

    def find(self, task: _Task, notes: list[str]) -> Path | None:
        """The image of a task; None, and a note, where there is none or not just one."""
        parts = [p for p in _place(task.reference).split("/") if p not in ("", ".")]
        if ".." in parts:
            notes.append(f"{task.where}: {labels.ESCAPES}: {task.reference!r}; left out")
            return None
        name = parts[-1] if parts else ""
        bare = _UPLOAD_PREFIX.sub("", name, count=1) if _UPLOAD_PREFIX.match(name) else name
        ends = ["/".join(parts[i:]) for i in range(len(parts))]
        for table, keys in ((self._ends, [*ends, bare]), (self._plain_names, [name, bare])):
            for key in keys:
                if key not in table:
                    continue
                path = table[key]
                if path is None:
                    notes.append(
                        f"{task.where}: {labels.NO_IMAGE}: {task.reference!r} may be any of "
                        "several images of that name; left out"
                    )
                return path
        notes.append(f"{task.where}: {labels.NO_IMAGE}: {task.reference!r} not found; left out")
        return None


def _value(record: dict[str, Any]) -> dict[str, Any]:
    value = record.get("value")
    return value if isinstance(value, dict) else {}


def _is_region(record: dict[str, Any]) -> bool:
    return record.get("type") in _LABELLED


def _is_choice(record: dict[str, Any]) -> bool:
    """Whether a result is a choice for the whole image, not for a region of it."""
    return record.get("type") == "choices" and not any(k in _value(record) for k in _GEOMETRY)


def _names(record: dict[str, Any]) -> list[str]:
    """The class names that a region or a whole image was given."""
    if not _is_region(record) and not _is_choice(record):
        return []
    names = _value(record).get(record["type"])
    return [n for n in names if isinstance(n, str)] if isinstance(names, list) else []


class _Reader:
    """Turns tasks into samples."""

    def __init__(self, classes: Sequence[str], has_regions: bool, notes: list[str]) -> None:
        self._classes = classes
        self._index = {name: i for i, name in enumerate(classes)}
        self._has_regions = has_regions
        self._notes = notes

    def sample(self, task: _Task, path: Path, split: str) -> Sample | None:
        size = labels.size_or_note(path, self._notes)
        if size is None:
            return None
        if task.results is None:
            if split != "unlabelled":
                self._notes.append(f"{path}: {labels.NO_LABEL}: {task.why_none}")
            return Sample(path, size, split=split)
        found = labels.Instances(len(self._classes), self._notes)
        choices: list[int] = []
        labelled = {str(r.get("id")) for r in task.results if _is_region(r)}
        for number, record in enumerate(task.results, 1):
            where = f"{task.where}, result {record.get('id', number)} of {path.name}"
            if record.get("type") in _BARE and str(record.get("id")) in labelled:
                continue  # its labels are a result of their own, which tells the place again
            try:
                class_id = self._class_id(where, record)
                if class_id is None:
                    continue
                if _is_choice(record):
                    choices.append(class_id)
                else:
                    self._add(found, where, class_id, record, size)
            except (TypeError, ValueError, KeyError, OverflowError) as error:
                self._notes.append(f"{where}: {labels.BAD_LABEL}: {error}; left out")
        if len(choices) > 1:
            self._notes.append(f"{task.where}: {len(choices)} choices; the first counts")
        marked = self._has_regions or not choices
        return Sample(
            path,
            size,
            found.annotations() if marked else None,
            label=choices[0] if choices else None,
            split=split,
        )

    def _class_id(self, where: str, record: dict[str, Any]) -> int | None:
        if not _is_region(record) and not _is_choice(record):
            raise ValueError(f"a result of type {record.get('type')!r}")
        names = _names(record)
        if not names:
            raise ValueError("a result without a class")
        if len(names) > 1:
            self._notes.append(f"{where}: {len(names)} classes; the first counts")
        if names[0] not in self._index:
            self._notes.append(f"{where}: {labels.UNKNOWN_CLASS}: {names[0]!r}; left out")
        return self._index.get(names[0])

    def _add(
        self,
        found: labels.Instances,
        where: str,
        class_id: int,
        record: dict[str, Any],
        size: tuple[int, int],
    ) -> None:
        value = _value(record)
        turned = record.get("image_rotation") or 0
        if turned:
            raise ValueError(f"drawn while the image was turned by {turned} degrees")
        height, width = size
        scale = np.array([width, height]) / 100
        if "rle" in value:
            found.add(where, class_id, None, decode_brush(value["rle"], height, width))
        elif "points" in value:
            points = _percent(value["points"]).reshape(-1, 2) * scale
            found.add(where, class_id, None, Polygons((points,)))
        else:
            corner = _percent([value["x"], value["y"]]) * scale
            extent = _percent([value["width"], value["height"]]) * scale
            clockwise = float(_percent(value.get("rotation") or 0)) % 360
            if not clockwise:
                found.add(where, class_id, [*corner, *(corner + extent)])
                return
            if not (extent > 0).all():
                raise ValueError(f"a rectangle of {extent[0]:g} x {extent[1]:g} px")
            shape = Polygons((turned_corners(corner, extent, clockwise),))
            found.add(where, class_id, None, shape, angle_deg=(180 - clockwise) % 360 - 180)


def _percent(numbers: ArrayLike) -> NDArray[np.float64]:
    found = np.asarray(numbers, dtype=np.float64)
    if not (np.abs(found) < _FAR).all():
        raise ValueError("a number that is no place on an image")
    return found


def turned_corners(
    corner: NDArray[np.float64], extent: NDArray[np.float64], clockwise: float
) -> NDArray[np.float64]:
    """Corners of a rectangle that is turned about its own top left corner.

    Args:
        corner: (2,) x and y of that corner, px.
        extent: (2,) its width and height before the turn, px.
        clockwise: Degrees, as the eye sees it.

    Returns:
        (4, 2) top left, top right, bottom right, bottom left in the rectangle's own view.
    """
    angle = math.radians(clockwise)
    across, down = (math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))
    offsets = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]]) * extent
    corners: NDArray[np.float64] = corner + offsets @ np.array([across, down])
    return corners
