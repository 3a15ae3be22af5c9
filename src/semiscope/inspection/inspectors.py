"""What each kind of model makes of images: instances, units judged, class maps, labels.

The pipeline reads images and keeps the journal; an inspector fills the rows of a batch and writes
the tables and the page that belong to its kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from semiscope.errors import SettingsError
from semiscope.infer.classifier import Classifier, is_classifier
from semiscope.infer.decoders import refuse_dial
from semiscope.infer.ensemble import load
from semiscope.infer.model import Meta
from semiscope.infer.segmenter import Segmenter, is_segmenter
from semiscope.infer.tiled import Inputs, infer, prepare_inputs
from semiscope.inspection.class_maps import MATERIALS, MapMaker, write_materials
from semiscope.inspection.defect_row import defect_row
from semiscope.inspection.gallery import Gallery
from semiscope.inspection.journal import ImageRow, Journal
from semiscope.inspection.label_report import write_label_report
from semiscope.inspection.labelled_images import alone, read_partners
from semiscope.inspection.labels import CHUNK, LABELS, Labeller, write_labels
from semiscope.inspection.report import write_report
from semiscope.inspection.results import write_csv
from semiscope.inspection.settings import InspectSettings
from semiscope.inspection.summary import TABLE, InspectionSummary
from semiscope.inspection.thresholds import Disposition, dispose
from semiscope.inspection.units import Units
from semiscope.measure.angle import Rotation
from semiscope.report.crop import CropMaker
from semiscope.types import Annotations, Image, Pixels


class Opened(NamedTuple):
    """An image that was read.

    Attributes:
        number: Its place in the run.
        row: Of the journal, to be filled; it has ``file``.
        image: The image.
    """

    number: int
    row: ImageRow
    image: Image


class Inspector:
    """A model at work on the images of a run. It may be used from several threads.

    Attributes:
        AT_ONCE: Images that are best looked at together.
        LABELS: Whether images have a label in place of instances.
        meta: What the model's file says of itself.
        card: What tells the model, plain values.
    """

    AT_ONCE: ClassVar[int] = 1
    LABELS: ClassVar[bool] = False
    meta: Meta
    card: Mapping[str, Any]

    def __init__(
        self,
        settings: InspectSettings,
        out: Path,
        threads: int,
        engine: AbstractContextManager[object],
        gallery: Gallery,
    ) -> None:
        """Opens the model.

        Args:
            settings: How is inspected.
            out: The run's folder.
            threads: Cores an inference.
            engine: Held while the engine runs, so that no more run at once than there are cores.
            gallery: Tells which defects need a picture.

        Raises:
            ModelError: The model cannot be used.
            SettingsError: A setting belongs to another kind of model.
        """
        self._settings, self._out = settings, out
        self._threads, self._engine, self._gallery = threads, engine, gallery
        self._open()

    def _open(self) -> None:
        """Sets ``meta`` and ``card``."""
        raise NotImplementedError

    def chosen(self, paths: list[Path]) -> list[Path]:
        """Those of the images that are looked at by themselves."""
        return paths

    def inspect(self, images: Sequence[Opened]) -> None:
        """Fills the rows of images that lie beside each other in the run.

        Raises:
            SemiscopeError: One of them cannot be inspected.
        """
        raise NotImplementedError

    def write_tables(self, journal: Journal) -> None:
        """Writes the tables of a run.

        Raises:
            SemiscopeError: A file cannot be written.
        """
        write_csv(self._out / TABLE, journal, self.meta.classes)

    def write_report(
        self, journal: Journal, summary: InspectionSummary, settings: Mapping[str, Any]
    ) -> None:
        """Writes ``report.html``.

        Raises:
            SemiscopeError: The file cannot be written.
        """
        write_report(journal, summary, self._gallery, self.meta.classes, self.card, settings)

    def _fill(
        self, row: ImageRow, image: Image, found: Annotations, rotation: Rotation | None = None
    ) -> tuple[Annotations, tuple[Disposition, ...]]:
        """Fills the row of an image; gives what is reported and what becomes of it."""
        meta, settings = self.meta, self._settings
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

    def _refuse_what_is_of_detectors(self, does: str) -> None:
        """For models that find no defects on a unit.

        Raises:
            SettingsError: Units are to be captured, or a diffusion model's dial is set.
        """
        if self._settings.capture is not None:
            raise SettingsError(
                f"--capture: expected a model that finds defects, found {self._settings.model}, "
                f"which {does}. Leave it out."
            )
        refuse_dial(self._settings)


class DefectInspector(Inspector):
    """A detector, or several that are fused: instances, with outlines where it tells them."""

    def _open(self) -> None:
        self._model = load(self._settings.model, self._threads).dialled(self._settings)
        self.meta, self.card = self._model.meta, self._model.card()

    def inspect(self, images: Sequence[Opened]) -> None:
        """Small images share inferences; large ones are inferred on their own, tile by tile."""
        small: list[tuple[Opened, Inputs[Any]]] = []
        for opened in images:
            pixels = opened.image.specimen
            inputs = self._inputs(pixels)
            if inputs.tiles is None:
                small.append((opened, inputs))
            else:
                self._fill(opened.row, opened.image, self._joined(inputs, pixels))
        found = self._infer([i.prepared[0] for _, i in small], [i.sizes[0] for _, i in small])
        for (opened, _), instances in zip(small, found, strict=True):
            self._fill(opened.row, opened.image, instances)

    def _inputs(self, pixels: Pixels) -> Inputs[Any]:
        return prepare_inputs(self._model, pixels, self._settings.overlap)

    def _joined(self, inputs: Inputs[Any], pixels: Pixels) -> Annotations:
        """What is found in an image of one input or several."""
        return inputs.joined(self._infer(inputs.prepared, inputs.sizes), *pixels.shape[:2])

    def _infer(
        self, prepared: Sequence[Any], sizes: Sequence[tuple[int, int]]
    ) -> list[Annotations]:
        settings = self._settings
        return infer(self._model, prepared, sizes, settings.batch, settings.min_score, self._engine)


class UnitInspector(DefectInspector):
    """A detector on units: what their upright crops show, told in the photographs, and verdicts."""

    def _open(self) -> None:
        super()._open()
        settings = self._settings
        assert settings.capture is not None
        self._units = Units(
            settings.capture,
            settings.package,
            settings.rotation_tolerance,
            self.meta.classes,
            self._threads,
        )

    def inspect(self, images: Sequence[Opened]) -> None:
        """One unit after the other."""
        for _, row, image in images:
            photo = image.specimen
            captured = self._units.capture(photo)
            if captured.upright is None:
                self._fill(row, image, Annotations.empty())
                row["verdict"], row["reasons"] = "review", [str(captured.reason)]
            else:
                crop = captured.upright.pixels
                found = self._joined(self._inputs(crop), crop)
                unit = self._units.measure(captured, photo, found)
                judged = self._fill(row, image, unit.found, unit.rotation)
                row["verdict"], row["reasons"] = self._units.judge(*judged, unit.rotation)
            if captured.notes:
                row["notes"] = [*image.notes, *captured.notes]


class MapInspector(Inspector):
    """A segmenter: class maps, areas and thicknesses; regions of defects as instances."""

    def _open(self) -> None:
        self._refuse_what_is_of_detectors("makes class maps")
        model = Segmenter.load(self._settings.model, self._threads)
        self.meta, self.card = model.meta, model.card()
        self._maker = MapMaker(model, self._out, self._settings.overlap)

    def inspect(self, images: Sequence[Opened]) -> None:
        """One image after the other."""
        for number, row, image in images:
            with self._engine:
                found = self._maker.inspect(number, row, image)
            self._fill(row, image, found)

    def write_tables(self, journal: Journal) -> None:
        """The defects, and what there is of each class."""
        super().write_tables(journal)
        write_materials(self._out / MATERIALS, journal)


class LabelInspector(Inspector):
    """A classifier: a label for the whole image, and what known images it is like."""

    AT_ONCE: ClassVar[int] = CHUNK
    LABELS: ClassVar[bool] = True

    def _open(self) -> None:
        self._refuse_what_is_of_detectors("labels images")
        settings = self._settings
        model = Classifier.load(settings.model, self._threads)
        self.meta, self.card = model.meta, model.card()
        self._low = read_partners(model, settings.pairs)
        self._labeller = Labeller(model, settings.batch, self._low)

    def chosen(self, paths: list[Path]) -> list[Path]:
        """All but the partners of low magnification."""
        return [paths[i] for i in alone(paths, self._low)]

    def inspect(self, images: Sequence[Opened]) -> None:
        """All at once, as that is faster."""
        rows, pictures = [o.row for o in images], [o.image for o in images]
        self._labeller.inspect(rows, pictures, self._engine)
        for _, row, image in images:
            self._fill(row, image, Annotations.empty())

    def write_tables(self, journal: Journal) -> None:
        """The labels."""
        write_labels(self._out / LABELS, journal)

    def write_report(
        self, journal: Journal, summary: InspectionSummary, settings: Mapping[str, Any]
    ) -> None:
        """The page of labels."""
        most, classes = self._settings.gallery, self.meta.classes
        write_label_report(journal, summary, most, classes, self.card, settings)


def inspector_for(settings: InspectSettings) -> type[Inspector]:
    """The kind of inspector that the model needs.

    Raises:
        ModelError: There is no such model.
    """
    if is_classifier(settings.model):
        return LabelInspector
    if is_segmenter(settings.model):
        return MapInspector
    return DefectInspector if settings.capture is None else UnitInspector
