"""Images in, a defect report out: read, infer, measure and write, overlapped.

The images are cut into batches by their place in the run. Several workers take a batch each and
bring it from file to rows, so that one reads while another infers; at most as many infer at once as
there are cores for them. The rows are journalled in the order of the images. What a batch holds
depends on nothing else, so a run that was killed ends with the same results as one that was not.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import BoundedSemaphore

import cv2

from semiscope import __version__
from semiscope.errors import ImageError, SemiscopeError
from semiscope.inspection.class_maps import CLASS_MAP_NAMES, CLASS_MAPS, MATERIALS
from semiscope.inspection.gallery import Gallery
from semiscope.inspection.inspectors import Inspector, Opened, inspector_for
from semiscope.inspection.journal import NAME, ImageRow, Journal
from semiscope.inspection.labels import LABELS
from semiscope.inspection.results import write_results
from semiscope.inspection.settings import InspectSettings
from semiscope.inspection.summary import REPORT, RESULTS, TABLE, InspectionSummary, summarise
from semiscope.io.files import cannot_write, write_atomic
from semiscope.io.image import find_images, read_image
from semiscope.workers import plan_threads, worker_pool

Progress = Callable[[int, int], None]
"""Called after each image with how many are done and how many there are."""

_READ_AHEAD = 2


def inspect(
    images: Sequence[str | Path],
    settings: InspectSettings,
    out: Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> InspectionSummary:
    """Inspects images and writes ``results.json``, ``defects.csv`` and ``report.html``.

    A classifier's run has ``labels.csv`` in place of ``defects.csv``. An image that cannot be read
    is listed as failed and the run goes on.

    Args:
        images: Files, folders and glob patterns.
        settings: How.
        out: The run's folder, made when missing. Results of a former run in it are replaced.
        resume: Go on with the run in ``out`` where it was killed; it ends with the same results.
        progress: See ``Progress``.

    Returns:
        What was found; ``exit_status`` is 2 when a file failed.

    Raises:
        SettingsError: ``out`` holds another run than the one to be resumed.
        ModelError: The model cannot be used.
        DataError: There is no image at all.
        SemiscopeError: ``out`` cannot be written, or holds an unfinished run and ``resume`` was not
            asked for. What was done is kept.
    """
    started = time.perf_counter()
    paths = find_images(images)
    kind = inspector_for(settings)
    batch = max(settings.batch, kind.AT_ONCE)
    streams, threads = plan_threads(-(-len(paths) // batch), settings.threads)
    gallery = Gallery(settings.gallery)
    inspector = kind(settings, out, threads, BoundedSemaphore(streams), gallery)
    paths = inspector.chosen(paths)
    meta, card = inspector.meta, inspector.card
    head = {
        "semiscope": __version__,
        "model": card["sha256"],
        "settings": settings.model_dump(mode="json", exclude={"threads"}),
        "list of images": hashlib.sha256(
            "\0".join(map(str, paths)).encode(errors="surrogateescape")
        ).hexdigest(),
    }
    if not resume:
        _clear(out)
    with Journal(out, head, resume=resume) as journal:
        write_atomic(out / "settings.toml", settings.to_toml())
        for row in journal.rows():
            gallery.admit(row)
        before = len(journal)
        _Run(paths, inspector, batch, streams, gallery).execute(journal, progress)
        of_units = {"capture", "package", "rotation_tolerance"}
        unused = of_units if settings.capture is None else set()
        told = settings.model_dump(mode="json", exclude=unused)
        write_results(out / RESULTS, journal, meta.classes, card, told)
        inspector.write_tables(journal)
        seconds = time.perf_counter() - started
        done = len(journal) - before
        summary = summarise(journal, meta.classes, out, done, seconds, inspector.LABELS)
        inspector.write_report(journal, summary, told)
    return summary


class _Run:
    """One inspection while it runs."""

    def __init__(
        self,
        paths: Sequence[Path],
        inspector: Inspector,
        batch: int,
        streams: int,
        gallery: Gallery,
    ) -> None:
        self._paths = paths
        self._inspector = inspector
        self._size = batch
        self._streams = streams
        self._gallery = gallery

    def execute(self, journal: Journal, progress: Progress | None) -> None:
        """Brings all images that the journal lacks into it, in order."""
        batch, total = self._size, len(self._paths)
        waiting: deque[tuple[int, Future[list[ImageRow]]]] = deque()
        workers = self._streams + _READ_AHEAD

        def write_first() -> None:
            start, future = waiting.popleft()
            for index, row in enumerate(future.result(), start):
                # a kill may have fallen within a batch, which then is done again as a whole
                if index == len(journal):
                    self._gallery.admit(row)
                    journal.append(row)
                    if progress is not None:
                        progress(index + 1, total)

        with worker_pool(workers, "inspect") as pool:
            for start in range(len(journal) // batch * batch, total, batch):
                waiting.append((start, pool.submit(self._batch, start)))
                if len(waiting) >= 2 * workers:
                    write_first()
            while waiting:
                write_first()

    def _batch(self, start: int) -> list[ImageRow]:
        """Rows of the images of one batch."""
        paths = self._paths[start : start + self._size]
        rows: list[ImageRow] = [{"file": str(path)} for path in paths]
        opened = []
        for number, (path, row) in enumerate(zip(paths, rows, strict=True), start):
            try:
                opened.append(Opened(number, row, read_image(path)))
            except (SemiscopeError, OSError, MemoryError, cv2.error) as error:
                row["failed"] = _reason(error)
        if opened:
            self._inspect(opened)
        return rows

    def _inspect(self, images: Sequence[Opened]) -> None:
        """Fills the rows of images that were read."""
        try:
            self._inspector.inspect(images)
        except (SemiscopeError, OSError, MemoryError, cv2.error) as error:
            if len(images) > 1:
                # one by one, so that only the image at fault is lost
                for one in images:
                    self._inspect([one])
            else:
                images[0].row["failed"] = _reason(error)


def _reason(error: Exception) -> str:
    told = error.problem if isinstance(error, ImageError) else str(error)
    return told or type(error).__name__


def _clear(out: Path) -> None:
    """Takes away a finished run's results, so that what lies in the folder is of one run."""
    journal = out / NAME
    try:
        if journal.exists() and not (out / RESULTS).exists():
            with journal.open("rb") as file:
                done = sum(1 for _ in file) - 1
            if done > 0:
                raise SemiscopeError(
                    f"{out}: holds a run that was not finished ({done} images done). Continue it "
                    "with --resume, or choose another output folder."
                )
        results = [out / name for name in (RESULTS, TABLE, LABELS, REPORT, MATERIALS)]
        if journal.exists():
            results += (out / CLASS_MAPS).glob(CLASS_MAP_NAMES)
        for path in results:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from error
