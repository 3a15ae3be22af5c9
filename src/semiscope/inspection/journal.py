"""What an inspection has done so far, a line an image: a run that was killed goes on from here."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NotRequired, Self, TypedDict

from semiscope.errors import DataError, SemiscopeError, SettingsError
from semiscope.evaluate.inspection import Verdict
from semiscope.inspection.thresholds import Disposition
from semiscope.io.files import cannot_write

NAME = "journal.jsonl"


class DefectRow(TypedDict):
    """One reported instance, as an annotation of ``results.json`` has it, the ids apart."""

    category_id: int
    bbox: list[float]
    score: float
    disposition: Disposition
    area: float
    segmentation: NotRequired[dict[str, Any]]
    angle_deg: NotRequired[float]
    angle_interval_deg: NotRequired[list[float]]
    width_nm: NotRequired[float]
    height_nm: NotRequired[float]
    area_nm2: NotRequired[float]


class ClassRow(TypedDict):
    """How much of an image one class is: area in px², its share, thickness in px."""

    area: int
    share: float
    thickness: dict[str, float] | None


class NearRow(TypedDict):
    """A known example that an image is like, and the squared distance to it."""

    file: str
    label: str
    distance: float


class ImageRow(TypedDict):
    """One image that was inspected, or one that failed with its reason.

    ``label`` to ``features`` are of an image that was labelled as a whole: ``second`` is the next
    likeliest class and its score, ``features`` are levels in base64 (see ``infer.open_set``).

    ``class_map`` is a file beside the journal; ``overlay`` shows it as a JPEG in base64.
    ``crops`` are the pictures of some of its defects: place in ``defects`` -> left, top, width and
    height of what is shown, px of the image, and the JPEG in base64.
    """

    file: str
    failed: NotRequired[str]
    width: NotRequired[int]
    height: NotRequired[int]
    nm_per_px: NotRequired[float | None]
    info_bar_px: NotRequired[int]
    notes: NotRequired[list[str]]
    verdict: NotRequired[Verdict]
    reasons: NotRequired[list[str]]
    class_map: NotRequired[str]
    score: NotRequired[float]
    classes: NotRequired[dict[str, ClassRow]]
    overlay: NotRequired[str]
    label: NotRequired[str]
    second: NotRequired[tuple[str, float]]
    disposition: NotRequired[Disposition]
    strangeness: NotRequired[float]
    nearest: NotRequired[list[NearRow]]
    features: NotRequired[str]
    defects: NotRequired[list[DefectRow]]
    crops: NotRequired[dict[str, tuple[list[int], str]]]


class Journal:
    """An append-only file: a head that says what run this is, then a row an image, in their order.

    A kill can only leave a torn last line, which is cut off when the run goes on; so the images
    done are always the first ``len(journal)`` of the run.
    """

    def __init__(self, folder: Path, head: Mapping[str, Any], *, resume: bool) -> None:
        """Opens the journal of a run.

        Args:
            folder: The run's folder, made when missing.
            head: What must be the same for a run to go on, JSON values.
            resume: Go on where the journal ends; without one, start.

        Raises:
            SettingsError: The journal is that of another run.
            SemiscopeError: The folder cannot be written.
        """
        self.path = folder / NAME
        self._count = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        try:
            self._end = self._last_whole_line(head) if resume else 0
            os.ftruncate(self._file, self._end)
            if not self._end:
                self._append(dict(head))
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)

    def __len__(self) -> int:
        return self._count

    def append(self, row: ImageRow) -> None:
        """Adds the next image.

        Raises:
            SemiscopeError: The disk is full; the rows before are untouched.
        """
        self._append(row)
        self._count += 1

    def rows(self) -> Iterator[ImageRow]:
        """All rows from the first, read one at a time."""
        with self.path.open("rb") as file:
            next(file)
            for _, line in zip(range(self._count), file, strict=False):
                yield json.loads(line)

    def _append(self, value: Mapping[str, Any]) -> None:
        line = memoryview(json.dumps(value, separators=(",", ":")).encode() + b"\n")
        start = self._end
        try:
            while line:
                written = os.pwrite(self._file, line, self._end)
                self._end += written
                line = line[written:]
        except OSError as error:
            self._end = start
            os.ftruncate(self._file, start)
            raise SemiscopeError(
                f"{self.path}: cannot be written: {error.strerror}. The {self._count} images done "
                "are kept; free some space and continue with --resume."
            ) from error

    def _last_whole_line(self, head: Mapping[str, Any]) -> int:
        end = 0
        with self.path.open("rb") as file:
            for line in file:
                try:
                    value = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    value = None
                if not isinstance(value, dict):
                    break
                if not end:
                    self._check(value, head)
                else:
                    self._count += 1
                end += len(line)
        return end

    def _check(self, found: Mapping[str, Any], head: Mapping[str, Any]) -> None:
        expected = json.loads(json.dumps(head))
        different = [k for k in expected if found.get(k) != expected[k]]
        if different:
            raise SettingsError(
                f"{self.path}: this run was started with another {' and '.join(different)}; "
                "continue it as it was started, or choose another output folder."
            )


def read_rows(folder: Path) -> Iterator[ImageRow]:
    """The rows of a finished run, read one at a time.

    Raises:
        DataError: The folder holds no journal, or it is damaged.
    """
    path = folder / NAME
    try:
        with path.open("rb") as file:
            next(file, None)
            for line in file:
                yield json.loads(line)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise DataError(
            f"{path}: expected the journal of a finished run, found a torn one"
        ) from None
