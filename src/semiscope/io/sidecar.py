"""The text file that JEOL and Hitachi microscopes write beside an image."""

from __future__ import annotations

from pathlib import Path


def sidecar(image: Path) -> Path | None:
    """The microscope's text file of the same stem, or None when there is none."""
    path = image.with_suffix(".txt")
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return None
    return path if b"$CM_" in head or b"[SemImageFile]" in head else None
