"""Folders of photographs to upright crops, with what was found and why others have none.

A run's folder: ``captures.json``, the crops in ``images/`` and a picture of what was found for each
photograph in ``overlays/``. With the method ``label`` the crops are a COCO data set, in the splits
of the one they were made of.
"""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from pydantic import Field

from semiscope import __version__
from semiscope.capture.label import label_candidates, open_labelled, write_labelled
from semiscope.capture.methods import METHODS, Method, PackageSettings
from semiscope.capture.package import Capture, Finder, capture
from semiscope.capture.picture import draw
from semiscope.errors import ImageError, SemiscopeError, SettingsError
from semiscope.io.files import write_atomic
from semiscope.io.image import find_images, read_image, write_tiff
from semiscope.io.labels import split_folder
from semiscope.types import Dataset, Image, Sample
from semiscope.workers import plan_threads, worker_pool

RESULTS = "captures.json"
_EVERY_S = 5.0  # how much work a kill can cost


class CaptureSettings(PackageSettings):
    """What a run of captures does."""

    method: Method | Literal["label"] = Field(
        "contour", description="How packages are found; label takes a data set's own corners"
    )
    package_class: str = Field("package", description="Class of the packages, for the method label")
    threads: int | None = Field(None, ge=1, description="Cores to use; all when not given")


@dataclass(frozen=True, slots=True)
class CaptureSummary:
    """What came of a run.

    Attributes:
        images: Photographs looked at, those of a resumed run's first part included.
        captured: Those with an upright crop.
        reasons: Why the others have none, and how many.
        failed: Files that cannot be read, with the problem.
        images_per_second: Of this session.
        results: The path of ``captures.json``.
        notes: On the data set and its labels.
    """

    images: int
    captured: int
    reasons: dict[str, int]
    failed: list[tuple[str, str]]
    images_per_second: float
    results: Path
    notes: tuple[str, ...]

    @property
    def exit_status(self) -> int:
        """2 when a file could not be read."""
        return 2 if self.failed else 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        lost = [{"file": file, "reason": reason} for file, reason in self.failed]
        return {**asdict(self), "failed": lost, "results": str(self.results)}


def capture_images(
    images: Sequence[str | Path],
    settings: CaptureSettings,
    out: Path,
    *,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> CaptureSummary:
    """Writes an upright crop of the package in each photograph.

    Args:
        images: Files, folders and glob patterns; for the method ``label`` the folder of a data set.
        settings: How.
        out: A new or empty folder; with ``resume`` that of the run to go on with.
        resume: Go on where a run was killed.
        progress: Called after each image with how many are done and how many there are.

    Raises:
        SettingsError: The run to resume had other settings, or ``images`` does not fit the method.
        DataError: There is no image at all, or no class of packages among the labels.
        ImageError: The reference cannot be read.
        SemiscopeError: ``out`` is not empty, or cannot be written. What was done is kept.
    """
    dataset: Dataset | None = None
    if settings.method == "label":
        dataset = open_labelled(images, settings.package_class)
        samples = list(dataset)
    else:
        samples = [Sample(path) for path in find_images(images)]
    inside = out.resolve()
    samples = [s for s in samples if not s.path.resolve().is_relative_to(inside)]
    run = _Run(samples, dataset, settings, out)
    run.open(resume)
    run.execute(progress)
    if dataset is not None:
        write_labelled(dataset, settings.package_class, run.rows, out)
    return run.summary(() if dataset is None else dataset.notes)


class _Run:
    """One run: which images there are, and the rows of those that are done."""

    def __init__(
        self,
        samples: Sequence[Sample],
        dataset: Dataset | None,
        settings: CaptureSettings,
        out: Path,
    ) -> None:
        self._samples = samples
        self._names = _names(samples)
        self._dataset = dataset
        self._settings = settings
        self._out = out
        self._head = {
            "semiscope": __version__,
            "settings": settings.model_dump(mode="json", exclude={"threads"}),
        }
        self._reference = None
        if settings.reference is not None:
            self._reference = read_image(settings.reference).pixels
        self._workers, threads = plan_threads(len(samples), settings.threads)
        self._finder: Finder | None = None
        if settings.method != "label":
            self._finder = METHODS[settings.method](settings, threads)
        self.rows: list[dict[str, Any]] = []
        self._failed: dict[str, str] = {}
        self._seconds = 0.0
        self._fresh = 0

    def open(self, resume: bool) -> None:
        """Takes over what a killed run has done."""
        path = self._out / RESULTS
        if not resume:
            if self._out.exists() and (not self._out.is_dir() or any(self._out.iterdir())):
                raise SemiscopeError(
                    f"{self._out}: expected a new or empty folder; choose another, or continue a "
                    "run with --resume"
                )
            return
        if not path.exists():
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            head = {key: found[key] for key in self._head}
            self.rows = list(found["images"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SemiscopeError(
                f"{path}: expected the results of a run, found: {error}; choose another folder"
            ) from None
        if head != json.loads(json.dumps(self._head)):
            raise SettingsError(
                f"{path}: this run was started with other settings; continue it as it was started, "
                "or choose another output folder"
            )

    def execute(self, progress: Callable[[int, int], None] | None) -> None:
        """Does all that is not done yet; whatever happens, what was done is written."""
        started = saved = time.perf_counter()
        done = {row["file"] for row in self.rows}
        todo = [i for i, s in enumerate(self._samples) if str(s.path) not in done]
        waiting: deque[tuple[Sample, Future[dict[str, Any]]]] = deque()

        def take_first() -> None:
            nonlocal saved
            sample, future = waiting[0]
            self._take(sample, future.result())
            waiting.popleft()
            if progress is not None:
                progress(len(self.rows) + len(self._failed), len(self._samples))
            if time.perf_counter() - saved > _EVERY_S:
                self._write(False)
                saved = time.perf_counter()

        complete = False
        try:
            with worker_pool(self._workers, "capture") as pool:
                for index in todo:
                    waiting.append((self._samples[index], pool.submit(self._one, index)))
                    if len(waiting) >= 2 * self._workers:
                        take_first()
                while waiting:
                    take_first()
            complete = True
        finally:
            self._seconds = time.perf_counter() - started
            self._write(complete)

    def _take(self, sample: Sample, row: dict[str, Any]) -> None:
        self._fresh += 1
        if "failed" in row:
            self._failed[str(sample.path)] = row["failed"]
        else:
            self.rows.append(row)

    def _write(self, complete: bool) -> None:
        order = {str(sample.path): i for i, sample in enumerate(self._samples)}
        self.rows.sort(key=lambda row: order.get(row["file"], -1))
        content = {
            **self._head,
            "complete": complete,
            "images": self.rows,
            "failed": [{"file": f, "reason": r} for f, r in self._failed.items()],
        }
        text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False)
        write_atomic(self._out / RESULTS, text)

    def _one(self, index: int) -> dict[str, Any]:
        """The row of an image; its crop and its picture are written."""
        sample, name = self._samples[index], self._names[index]
        try:
            image = read_image(sample.path)
            pixels = image.specimen
            finder = self._finder
            if finder is None:
                finder = self._label_finder(sample)
            found = capture(pixels, finder, self._settings, self._reference)
            picture = draw(pixels, found)
        except ImageError as error:
            return {"failed": error.problem}
        except (SemiscopeError, OSError, MemoryError, cv2.error) as error:
            return {"failed": str(error) or type(error).__name__}
        folder = split_folder(self._out, sample.split)
        overlay = folder / "overlays" / f"{name}.jpg"
        write_atomic(overlay, picture)
        crop = None if found.upright is None else self._write_crop(folder, name, image, found)
        return _row(sample, image, found, self._out, overlay, crop)

    def _label_finder(self, sample: Sample) -> Finder:
        assert self._dataset is not None
        candidates = label_candidates(sample, self._dataset, self._settings.package_class)
        return lambda pixels: candidates

    def _write_crop(self, folder: Path, name: str, image: Image, found: Capture) -> Path:
        """PNG; TIFF for what PNG cannot hold, real numbers and the pixel size."""
        assert found.upright is not None and found.corners is not None
        pixels = found.upright.pixels
        if pixels.dtype != np.float32 and image.nm_per_px is None:
            path = folder / "images" / f"{name}.png"
            colour = pixels if pixels.ndim == 2 else pixels[:, :, ::-1]
            write_atomic(path, cv2.imencode(".png", colour)[1].tobytes())
            return path
        path = folder / "images" / f"{name}.tif"
        top, _, bottom, _ = np.hypot(*(np.roll(found.corners, -1, axis=0) - found.corners).T)
        shown = pixels.shape[1] / (1 + 2 * self._settings.margin)
        nm_per_px = (
            None if image.nm_per_px is None else image.nm_per_px * (top + bottom) / 2 / shown
        )
        write_tiff(path, pixels, nm_per_px)
        return path

    def summary(self, notes: tuple[str, ...]) -> CaptureSummary:
        reasons = Counter(row["reason"] for row in self.rows if row["reason"] is not None)
        return CaptureSummary(
            len(self.rows) + len(self._failed),
            len(self.rows) - reasons.total(),
            dict(reasons.most_common()),
            list(self._failed.items()),
            self._fresh / self._seconds if self._seconds else 0.0,
            self._out / RESULTS,
            notes,
        )


def _names(samples: Sequence[Sample]) -> list[str]:
    """A name for each crop: its photograph's stem, with folder or number where that is taken."""
    taken: set[tuple[str, str]] = set()
    names = []
    for sample in samples:
        stem = sample.path.stem
        tries = [stem, f"{sample.path.parent.name}_{stem}"]
        tries += [f"{stem}_{i}" for i in range(2, 3 + len(taken))]
        # some file systems do not tell upper case from lower
        name = next(n for n in tries if (sample.split, n.lower()) not in taken)
        taken.add((sample.split, name.lower()))
        names.append(name)
    return names


def _row(
    sample: Sample, image: Image, found: Capture, out: Path, overlay: Path, crop: Path | None
) -> dict[str, Any]:
    upright, way = found.upright, found.orientation
    row: dict[str, Any] = {
        "file": str(sample.path),
        "split": sample.split,
        "width": image.width,
        "height": image.height,
        "illumination": found.illumination,
        "reason": found.reason,
        "candidates": [
            {
                "corners": c.corners.round(3).tolist(),
                "score": round(c.score, 4),
                "method": c.method,
            }
            for c in found.candidates
        ],
        "overlay": overlay.relative_to(out).as_posix(),
        "notes": [*image.notes, *found.notes],
    }
    if upright is not None and found.corners is not None and crop is not None:
        row |= {
            "crop": crop.relative_to(out).as_posix(),
            "crop_width": upright.pixels.shape[1],
            "crop_height": upright.pixels.shape[0],
            "corners": found.corners.round(3).tolist(),
            "homography": upright.homography.tolist(),
            "angle_deg": round(upright.angle_deg, 4),
            "orientation": "unknown" if way is None else asdict(way),
        }
    return row
