"""Simulated devices A and B, as many images of each as Lee et al. 2025 have (section 3.2).

Of A 60 labelled images to learn from, 70 without labels, 60 to test; of B, 100 without labels, 60
to test and 30 for the labelling cycle. Ten of each are held out for validation.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from semiscope.cli.show import image_bar
from semiscope.simulate.tem_stack import TemStackSettings, write_sections

_COUNT = 200
DEVICES = {
    "A": TemStackSettings(
        device="A", count=_COUNT, seed=201, val_share=0.05, test_share=0.3, unlabelled_share=0.35
    ),
    "B": TemStackSettings(
        device="B", count=_COUNT, seed=202, val_share=0.05, test_share=0.3, unlabelled_share=0.5
    ),
}


def device(name: str, data: Path) -> Path:
    """The folder of a device within ``data``, rendered if it is not there yet."""

    def render(folder: Path) -> None:
        with image_bar(f"rendering device {name}") as bar:
            write_sections(DEVICES[name], folder, bar)

    return written(data / f"device-{name}", render)


def written(folder: Path, write: Callable[[Path], object]) -> Path:
    """A folder that is there whole, or is written now."""
    if not folder.exists():
        beside = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(beside, ignore_errors=True)
        write(beside)
        os.replace(beside, folder)
    return folder
