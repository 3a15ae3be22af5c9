"""The errors that semiscope raises on purpose.

Each message tells the file, what was expected, what was found and what to do. The command line
prints it in one line and exits 2.
"""

from __future__ import annotations

from pathlib import Path


class SemiscopeError(Exception):
    """Something that the user can mend: a file, a setting, a place on disk."""


class ImageError(SemiscopeError):
    """A file cannot be read as an image."""

    def __init__(self, path: Path | str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = Path(path)
        self.problem = problem

    def __reduce__(self) -> tuple[type[ImageError], tuple[Path, str]]:
        """From one process to another it goes with its two parts."""
        return type(self), (self.path, self.problem)


class DataError(SemiscopeError):
    """A data set, or one of its label files, is not what its format says."""


class ModelError(SemiscopeError):
    """A model file is missing, is not semiscope's, or is meant for another task."""


class SettingsError(SemiscopeError):
    """A setting is unknown, out of range, or contradicts another."""
