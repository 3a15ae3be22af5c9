"""The table of label formats: a new one is a module with three functions, and a line here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from semiscope.io import coco, folders, labelstudio, labelstudio_write, masks, voc, yolo
from semiscope.types import Dataset


class Format(NamedTuple):
    """How a format is told, read and written."""

    matches: Callable[[Path], bool]
    read: Callable[[Path], Dataset]
    write: Callable[[Dataset, Path], tuple[str, ...]]


# in the order in which they are tried
FORMATS: dict[str, Format] = {
    "coco": Format(coco.matches, coco.read, coco.write),
    "yolo": Format(yolo.matches, yolo.read, yolo.write),
    "voc": Format(voc.matches, voc.read, voc.write),
    "labelstudio": Format(labelstudio.matches, labelstudio.read, labelstudio_write.write),
    "masks": Format(masks.matches, masks.read, masks.write),
    "folders": Format(folders.matches, folders.read, folders.write),
}
