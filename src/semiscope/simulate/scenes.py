"""Writing simulated scenes: into a new folder, in as many processes as pay, with their labels."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import cv2

from semiscope.errors import SettingsError
from semiscope.io.files import write_atomic
from semiscope.io.labels import write_classes

# fewer than this a process do not pay for starting it
LEAST_A_WORKER = 16

Progress = Callable[[int, int], None]
"""Is told after each image how many are written, and of how many."""

_S = TypeVar("_S")


def write_each(
    write_one: Callable[[_S, Path, int], dict[str, Any]],
    settings: _S,
    destination: Path,
    count: int,
    workers: int,
    progress: Progress | None,
) -> list[dict[str, Any]]:
    """Writes the images, in as many processes as pay.

    Args:
        write_one: Renders and writes the image of an index; a function of a module, since it goes
            to other processes.
        settings: Its first argument.
        destination: Its second: a folder that is empty or not there yet.
        count: Number of images.
        workers: Most processes; 0 is one a core.
        progress: See Progress.

    Returns:
        What write_one returned, in the order of the indices.

    Raises:
        SettingsError: The folder holds something.
        SemiscopeError: The disk is full or the folder cannot be written.
    """
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        found = "a folder with files in it" if destination.is_dir() else "a file"
        raise SettingsError(
            f"{destination}: expected a new or empty folder for the scenes, found {found}: "
            "choose another one or empty it"
        )
    records = []
    for record in _records(write_one, settings, destination, count, workers):
        records.append(record)
        if progress is not None:
            progress(len(records), count)
    return records


def write_labels(
    records: Sequence[dict[str, Any]], classes: Sequence[str], destination: Path
) -> None:
    """Writes ``classes.txt`` and an ``annotations.json`` (COCO) for each split.

    Args:
        records: One an image: ``split``, ``image`` and ``instances`` as COCO has them, the ids
            apart; ``category_id`` begins at 1.
        classes: Names of the classes.
        destination: The data set's folder.

    Raises:
        SemiscopeError: The disk is full or the folder cannot be written.
    """
    write_classes(destination, classes)
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, 1)]
    for split in dict.fromkeys(r["split"] for r in records):
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image_id, record in enumerate((r for r in records if r["split"] == split), 1):
            images.append({"id": image_id} | record["image"])
            for instance in record["instances"]:
                annotations.append({"id": len(annotations) + 1, "image_id": image_id} | instance)
        labels = {"images": images, "categories": categories, "annotations": annotations}
        write_atomic(destination / split / "annotations.json", json.dumps(labels))


def _records(
    write_one: Callable[[_S, Path, int], dict[str, Any]],
    settings: _S,
    destination: Path,
    count: int,
    workers: int,
) -> Iterator[dict[str, Any]]:
    workers = min(workers or os.cpu_count() or 1, -(-count // LEAST_A_WORKER))
    jobs = (repeat(settings), repeat(destination), range(count))
    if workers == 1:
        yield from map(write_one, *jobs)
        return
    # a forked child would inherit the locks of the caller's threads
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
    ) as pool:
        yield from pool.map(write_one, *jobs, chunksize=4)
