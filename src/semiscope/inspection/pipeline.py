"""Images in, a defect report out: read, infer, measure and write, overlapped.

The images are cut into batches by their place in the run. Several workers take a batch each and
bring it from file to rows, so that one reads while another infers; at most as many infer at once as
there are cores for them. The rows are journalled in the order of the images. What a batch holds
depends on nothing else, so a run that was killed ends with the same results as one that was not.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

import cv2
from pydantic import Field

from semiscope import __version__
from semiscope.capture.methods import Method, PackageSettings
from semiscope.errors import ImageError, SemiscopeError, SettingsError
from semiscope.infer.classifier import Classifier, is_classifier
from semiscope.infer.decoders import refuse_dial
from semiscope.infer.ensemble import load
from semiscope.infer.model import Meta
from semiscope.infer.predictor import Predictor
from semiscope.infer.sampling import Dial
from semiscope.infer.segmenter import Segmenter, is_segmenter
from semiscope.infer.tiled import OVERLAP, Inputs, infer, prepare_inputs
from semiscope.inspection.class_maps import (
    CLASS_MAP_NAMES,
    CLASS_MAPS,
    MATERIALS,
    MapMaker,
    write_materials,
)
from semiscope.inspection.defect_row import defect_row
from semiscope.inspection.gallery import Gallery
from semiscope.inspection.journal import NAME, ImageRow, Journal
from semiscope.inspection.label_report import write_label_report
from semiscope.inspection.labelled_images import alone, read_partners
from semiscope.inspection.labels import CHUNK, LABELS, Labeller, write_labels
from semiscope.inspection.report import write_report
from semiscope.inspection.results import write_csv, write_results
from semiscope.inspection.summary import REPORT, RESULTS, TABLE, InspectionSummary, summarise
from semiscope.inspection.thresholds import Disposition, dispose
from semiscope.inspection.units import Units
from semiscope.io.files import cannot_write, write_atomic
from semiscope.io.image import find_images, read_image
from semiscope.measure.angle import Rotation
from semiscope.report.crop import CropMaker
from semiscope.types import Annotations, Image, Pixels

Progress = Callable[[int, int], None]
"""Called after each image with how many are done and how many there are."""

_READ_AHEAD = 2


class InspectSettings(Dial):
    """How images are inspected."""

    model: str = Field(
        description="A model's name in the zoo, or an .onnx file; several joined by + are fused"
    )
    batch: int = Field(1, ge=1, description="Inputs an inference; more pays on a GPU only")
    threads: int | None = Field(None, ge=1, description="Cores to use; all when not given")
    nm_per_px: float | None = Field(
        None, gt=0, description="Width of a pixel in nm, in place of what the files say"
    )
    min_score: float | None = Field(
        None, ge=0, le=1, description="Lowest score to report, in place of the model's thresholds"
    )
    overlap: float = Field(
        OVERLAP, ge=0, lt=1, description="Part of a tile that neighbours share in a large image"
    )
    gallery: int = Field(300, ge=0, le=1000, description="Most defects shown in the report")
    capture: Method | None = Field(
        None, description="Units: how the package is found; what is inspected is the upright crop"
    )
    package: PackageSettings = Field(
        PackageSettings(), description="Units: the settings of that method"
    )
    rotation_tolerance: float = Field(
        1.0, gt=0, le=45, description="Units: largest rotation of a die that passes, degrees"
    )
    pairs: Path | None = Field(
        None,
        description="Classifier of two magnifications: CSV or KLARF file of the partners",
    )


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
    labels = is_classifier(settings.model)
    chunk = max(settings.batch, CHUNK) if labels else settings.batch
    streams, threads = plan_threads(-(-len(paths) // chunk), settings.threads)
    maps = model = units = labeller = None
    if labels:
        _refuse_capture(settings, "labels images")
        refuse_dial(settings)
        classifier = Classifier.load(settings.model, threads)
        low = read_partners(classifier, settings.pairs)
        paths = [paths[i] for i in alone(paths, low)]
        labeller = Labeller(classifier, settings.batch, low)
        meta: Meta = classifier.meta
        card = classifier.card()
    elif is_segmenter(settings.model):
        _refuse_capture(settings, "makes class maps")
        refuse_dial(settings)
        segmenter = Segmenter.load(settings.model, threads)
        maps = MapMaker(segmenter, out, settings.overlap)
        meta = segmenter.meta
        card = segmenter.card()
    else:
        model = load(settings.model, threads).dialled(settings)
        meta, card = model.meta, model.card()
    if settings.capture is not None:
        units = Units(
            settings.capture,
            settings.package,
            settings.rotation_tolerance,
            meta.classes,
            threads,
        )
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
    gallery = Gallery(settings.gallery)
    with Journal(out, head, resume=resume) as journal:
        write_atomic(out / "settings.toml", settings.to_toml())
        for row in journal.rows():
            gallery.admit(row)
        before = len(journal)
        run = _Run(paths, meta, model, settings, streams, gallery, units, maps, labeller, chunk)
        run.execute(journal, progress)
        of_units = {"capture", "package", "rotation_tolerance"} if units is None else set()
        told = settings.model_dump(mode="json", exclude=of_units)
        write_results(out / RESULTS, journal, meta.classes, card, told)
        if labels:
            write_labels(out / LABELS, journal)
        else:
            write_csv(out / TABLE, journal, meta.classes)
        if maps is not None:
            write_materials(out / MATERIALS, journal)
        seconds = time.perf_counter() - started
        summary = summarise(journal, meta.classes, out, len(journal) - before, seconds, labels)
        if labels:
            write_label_report(journal, summary, settings.gallery, meta.classes, card, told)
        else:
            write_report(journal, summary, gallery, meta.classes, card, told)
    return summary


def _refuse_capture(settings: InspectSettings, does: str) -> None:
    """For models that find no defects on a unit.

    Raises:
        SettingsError: Units are to be captured.
    """
    if settings.capture is not None:
        raise SettingsError(
            f"--capture: expected a model that finds defects, found {settings.model}, which "
            f"{does}. Leave it out."
        )


def plan_threads(batches: int, threads: int | None) -> tuple[int, int]:
    """How many inferences run at once, and how many cores each uses.

    One core an inference wastes none on waiting for the others; only a run of few batches shares
    several cores an inference.

    Args:
        batches: Batches in the whole run.
        threads: Cores to use, or None for all that this process may use.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = threads or usable or 1
    streams = max(1, min(cores, batches))
    return streams, cores // streams


class _Run:
    """One inspection while it runs."""

    def __init__(
        self,
        paths: Sequence[Path],
        meta: Meta,
        model: Predictor[Any, Any] | None,
        settings: InspectSettings,
        streams: int,
        gallery: Gallery,
        units: Units | None,
        maps: MapMaker | None,
        labeller: Labeller | None,
        chunk: int,
    ) -> None:
        self._paths = paths
        self._meta = meta
        self._model = model
        self._settings = settings
        self._streams = streams
        self._gallery = gallery
        self._units = units
        self._maps = maps
        self._labeller = labeller
        self._chunk = chunk
        self._engine = BoundedSemaphore(streams)

    def execute(self, journal: Journal, progress: Progress | None) -> None:
        """Brings all images that the journal lacks into it, in order."""
        batch, total = self._chunk, len(self._paths)
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

        cv2_threads = cv2.getNumThreads()
        # OpenCV's own threads would only fight for the cores that the workers fill
        cv2.setNumThreads(1)
        pool = ThreadPoolExecutor(workers, thread_name_prefix="inspect")
        try:
            for start in range(len(journal) // batch * batch, total, batch):
                waiting.append((start, pool.submit(self._batch, start)))
                if len(waiting) >= 2 * workers:
                    write_first()
            while waiting:
                write_first()
        finally:
            pool.shutdown(cancel_futures=True)
            cv2.setNumThreads(cv2_threads)

    def _batch(self, start: int) -> list[ImageRow]:
        """Rows of the images of one batch; large images are inferred on their own, tile by tile."""
        paths = self._paths[start : start + self._chunk]
        rows: list[ImageRow] = [{"file": str(path)} for path in paths]
        small: list[tuple[ImageRow, Image, Inputs[Any]]] = []
        whole: list[tuple[ImageRow, Image]] = []
        for number, (path, row) in enumerate(zip(paths, rows, strict=True), start):
            try:
                image = read_image(path)
                if self._labeller is not None:
                    whole.append((row, image))
                    continue
                if self._maps is not None:
                    with self._engine:
                        defects = self._maps.inspect(number, row, image)
                    self._fill(row, image, defects)
                    continue
                if self._units is not None:
                    self._inspect_unit(self._units, row, image)
                    continue
                inputs = self._inputs(image.specimen)
                if inputs.tiles is None:
                    small.append((row, image, inputs))
                    continue
                found = self._infer(inputs.prepared, inputs.sizes)
                self._fill(row, image, inputs.joined(found, *image.specimen.shape[:2]))
            except ImageError as error:
                row["failed"] = error.problem
            except (SemiscopeError, OSError, MemoryError, cv2.error) as error:
                row["failed"] = str(error) or type(error).__name__
        if whole:
            self._label(whole)
        if small:
            singles = self._infer(
                [i.prepared[0] for _, _, i in small], [i.sizes[0] for _, _, i in small]
            )
            for (row, image, _), single in zip(small, singles, strict=True):
                self._fill(row, image, single)
        return rows

    def _label(self, whole: Sequence[tuple[ImageRow, Image]]) -> None:
        """Fills the rows of images that are labelled as a whole."""
        assert self._labeller is not None
        try:
            rows, images = zip(*whole, strict=True)
            self._labeller.inspect(rows, images, self._engine)
        except (SemiscopeError, OSError, MemoryError, cv2.error) as error:
            if len(whole) == 1:
                whole[0][0]["failed"] = str(error) or type(error).__name__
                return
            # one by one, so that only the image at fault is lost
            for one in whole:
                self._label([one])
            return
        for row, image in whole:
            self._fill(row, image, Annotations.empty())

    def _inspect_unit(self, units: Units, row: ImageRow, image: Image) -> None:
        """Fills the row of a unit: what its upright crop shows, told in the photograph."""
        photo = image.specimen
        captured = units.capture(photo)
        if captured.upright is None:
            self._fill(row, image, Annotations.empty())
            row["verdict"], row["reasons"] = "review", [str(captured.reason)]
        else:
            crop = captured.upright.pixels
            inputs = self._inputs(crop)
            found = inputs.joined(self._infer(inputs.prepared, inputs.sizes), *crop.shape[:2])
            unit = units.measure(captured, photo, found)
            reported, dispositions = self._fill(row, image, unit.found, unit.rotation)
            row["verdict"], row["reasons"] = units.judge(reported, dispositions, unit.rotation)
        if captured.notes:
            row["notes"] = [*row.get("notes", ()), *captured.notes]

    def _inputs(self, pixels: Pixels) -> Inputs[Any]:
        assert self._model is not None
        return prepare_inputs(self._model, pixels, self._settings.overlap)

    def _infer(
        self, prepared: Sequence[Any], sizes: Sequence[tuple[int, int]]
    ) -> list[Annotations]:
        settings = self._settings
        assert self._model is not None
        return infer(self._model, prepared, sizes, settings.batch, settings.min_score, self._engine)

    def _fill(
        self, row: ImageRow, image: Image, found: Annotations, rotation: Rotation | None = None
    ) -> tuple[Annotations, tuple[Disposition, ...]]:
        """Fills the row of an image; gives what is reported and what becomes of it."""
        meta, settings = self._meta, self._settings
        nm_per_px = settings.nm_per_px or image.nm_per_px
        row["width"], row["height"] = image.width, image.height
        row["nm_per_px"] = nm_per_px
        if image.info_bar_px:
            row["info_bar_px"] = image.info_bar_px
        if image.notes:
            row["notes"] = list(image.notes)
        found, dispositions = dispose(found, meta.classes, meta.thresholds, settings.min_score)
        row["defects"] = [
            defect_row(found, i, disposition, image, nm_per_px, rotation)
            for i, disposition in enumerate(dispositions)
        ]
        crops = CropMaker(image.specimen)
        row["crops"] = {}
        for place in self._gallery.candidates(row):
            view = crops.view(found.xyxy[place])
            row["crops"][str(place)] = view, crops.jpeg(view)
        return found, dispositions


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
