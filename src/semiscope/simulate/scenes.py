"""Writing simulated scenes: into a new folder, in as many processes as pay."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import cv2

from semiscope.errors import SettingsError

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
