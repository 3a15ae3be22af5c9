"""Simulated defects of line-space patterns, each seen at a high and at a low magnification.

Both images show one specimen; instrument, scan and noise are each image's own. What is known of a
defect is its class: the images lie in folders of their classes, some of them without.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from semiscope.config import Settings
from semiscope.data.pairs import COLUMNS
from semiscope.errors import SettingsError
from semiscope.io.files import write_atomic
from semiscope.io.image import write_tiff
from semiscope.io.labels import write_classes
from semiscope.simulate import optics as sem
from semiscope.simulate.line_scene import MARGIN_PX, render_scene
from semiscope.simulate.line_settings import PatternSettings, SemLinesSettings
from semiscope.simulate.line_space import FloatArray
from semiscope.simulate.optics import AboveZero, OpticsSettings
from semiscope.simulate.scenes import Progress, write_each

CLEAN = "clean"
_TRIES = 64  # specimens, until one has its defect where both images show it

# a specimen as it is: what the instruments add comes later, for each image anew
_BARE: dict[str, Any] = {
    "beam_nm": (0.0, 0.0),
    "drift_px": (0.0, 0.0),
    "jitter_px": (0.0, 0.0),
    "vibration_px": (0.0, 0.0),
}


class PairsPatternSettings(PatternSettings):
    """The printed pattern; ``nm_per_px`` is that of the high magnification."""

    nm_per_px: AboveZero = Field((1.0, 1.6), description="Width of a pixel, nm.")


class SemPairsSettings(Settings):
    """What to simulate."""

    count: int = Field(3000, ge=1, description="Number of defects; each gives two images.")
    seed: int = Field(0, ge=0, description="The same seed gives the same bytes.")
    classes: str = Field(
        "semi-diffusion",
        description="semi-diffusion, dehaerne, or names of defects separated by commas; as many "
        "images of each are made, and as many without a defect.",
    )
    train: float = Field(0.2, ge=0, le=1, description="Share of each class that is labelled.")
    test: float = Field(0.2, ge=0, le=1, description="Share of each class to judge by.")
    side: int = Field(128, ge=64, le=2048, description="Rows and columns of an image, px.")
    zoom: int = Field(3, ge=2, le=16, description="How much more the low magnification shows.")
    off_centre: float = Field(
        0.15,
        ge=0,
        le=0.5,
        description="How far the defect is from the middle of the high magnification at most, "
        "share of the side.",
    )
    workers: int = Field(0, ge=0, description="Processes; 0 is one a core.")
    pattern: PairsPatternSettings = PairsPatternSettings()
    optics: OpticsSettings = Field(OpticsSettings(), description="The instrument.")

    @field_validator("classes")
    @classmethod
    def _known(cls, value: str) -> str:
        SemLinesSettings(classes=value, distribution="uniform")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> SemPairsSettings:
        if self.train + self.test > 1:
            raise ValueError(
                f"expected shares of train and test of at most 1, found {self.train + self.test:g}"
            )
        self.lines(self.class_names[0])
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        """The defects, and ``clean``."""
        return (*SemLinesSettings(classes=self.classes, distribution="uniform").class_names, CLEAN)

    @property
    def margin(self) -> int:
        """Rows of the specimen beyond each side of the low magnification."""
        return MARGIN_PX * self.zoom

    def lines(self, name: str) -> SemLinesSettings:
        """Scenes of the whole specimens of one class, at the high magnification's resolution."""
        side = self.zoom * self.side + 2 * self.margin
        defects = [n for n in self.class_names if n != CLEAN]
        return SemLinesSettings(
            count=self.count * _TRIES,
            seed=self.seed,
            split="test",
            classes=defects[0] if name == CLEAN else name,
            distribution="uniform",
            clean_fraction=float(name == CLEAN),
            width=side,
            height=side,
            pattern=self.pattern,
            optics=self.optics.model_copy(update=_BARE),
        )


@dataclass(frozen=True, slots=True, eq=False)
class ScenePair:
    """One defect.

    Attributes:
        high: (side, side) uint16.
        low: (side, side) uint16, of ``zoom`` times the width.
        nm_per_px: Width of a pixel of ``high``.
        corner: (x, y) of the top left of ``high`` in pixels of ``low``.
        label: Name of the class.
        split: "train", "test" or "unlabelled".
    """

    high: NDArray[np.uint16]
    low: NDArray[np.uint16]
    nm_per_px: float
    corner: tuple[float, float]
    label: str
    split: str


def render_pair(settings: SemPairsSettings, index: int) -> ScenePair:
    """One defect, the same whenever and wherever it is rendered.

    Args:
        settings: What to simulate.
        index: 0 to settings.count - 1.

    Raises:
        SettingsError: A specimen has no room for its defect.
    """
    names, side, margin = settings.class_names, settings.side, settings.margin
    label, split = names[index % len(names)], _split(settings, index)
    # independent of what the specimen was drawn by
    streams = np.random.SeedSequence((settings.seed, index, 2)).spawn(3)
    place, high, low = (np.random.default_rng(s) for s in streams)
    # where the middle of the high magnification may be
    lowest, highest = margin + side / 2, margin + (settings.zoom - 0.5) * side
    for attempt in range(_TRIES):
        scene = render_scene(settings.lines(label), index + attempt * settings.count)
        if not len(scene.annotations):
            middle = place.uniform(lowest, highest, 2)
            break
        box = scene.annotations.xyxy[0].astype(np.float64)
        middle = (box[:2] + box[2:]) / 2 + place.uniform(-1, 1, 2) * settings.off_centre * side
        if lowest <= middle.min() and middle.max() <= highest:
            break
    else:
        raise SettingsError(
            f"no {label} in the middle of {settings.zoom * side} px: raise zoom or side, or lower "
            "off_centre"
        )
    x, y = (int(v) for v in np.rint(middle - side / 2))
    near = scene.signal[y - MARGIN_PX : y + side + MARGIN_PX, x - MARGIN_PX : x + side + MARGIN_PX]
    whole = (side + 2 * MARGIN_PX,) * 2
    far = np.asarray(cv2.resize(scene.signal, whole, interpolation=cv2.INTER_AREA), np.float32)
    return ScenePair(
        _image(high, near, settings, scene.nm_per_px),
        _image(low, far, settings, scene.nm_per_px * settings.zoom),
        scene.nm_per_px,
        ((x - margin) / settings.zoom, (y - margin) / settings.zoom),
        label,
        split,
    )


def _split(settings: SemPairsSettings, index: int) -> str:
    """The first of each class are for training, those after them to judge by."""
    kinds = len(settings.class_names)
    number, of_class = index // kinds, len(range(index % kinds, settings.count, kinds))
    train = round(settings.train * of_class)
    if number < train:
        return "train"
    return "test" if number < train + round(settings.test * of_class) else "unlabelled"


def _image(
    rng: np.random.Generator, field: FloatArray, settings: SemPairsSettings, nm_per_px: float
) -> NDArray[np.uint16]:
    """What an instrument of its own makes of a field with a margin."""
    instrument = sem.draw_optics(rng, settings.optics, nm_per_px)
    shifts = sem.scan_shifts(rng, instrument, settings.side)
    blurred = sem.blur(np.ascontiguousarray(field), instrument)
    seen = sem.scan(blurred, shifts, MARGIN_PX, settings.side, smooth=True)
    return sem.detect(rng, seen, instrument)


def write_pairs(
    settings: SemPairsSettings, destination: Path, progress: Progress | None = None
) -> None:
    """Writes all defects as a data set of folders.

    ``destination/{train,test}/CLASS/*.tif`` and ``unlabelled/*.tif`` are the high magnifications
    (16 bit, with the size of a pixel); ``destination/low`` holds the low ones in the same way, so
    that the folders of classes hold each defect once. ``classes.txt`` and ``pairs.csv`` come last:
    a folder without them was not finished.

    Args:
        settings: What to simulate.
        destination: A folder that is empty or not there yet.
        progress: See Progress.

    Raises:
        SettingsError: The folder holds something, or a specimen has no room for its defect.
        SemiscopeError: The disk is full or the folder cannot be written.
    """
    records = write_each(
        _write_pair, settings, destination, settings.count, settings.workers, progress
    )
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    write_classes(destination, settings.class_names)
    write_atomic(destination / "pairs.csv", text.getvalue())


def _write_pair(settings: SemPairsSettings, destination: Path, index: int) -> dict[str, Any]:
    try:
        pair = render_pair(settings, index)
    except SettingsError as error:
        raise SettingsError(f"defect {index}: {error}") from None
    place = f"{pair.split}/{pair.label}" if pair.split != "unlabelled" else pair.split
    high, low = f"{place}/{index:06d}.tif", f"low/{place}/{index:06d}.tif"
    write_tiff(destination / high, pair.high, pair.nm_per_px)
    write_tiff(destination / low, pair.low, pair.nm_per_px * settings.zoom)
    return {"high": high, "low": low}
