"""The values that every part of semiscope passes on: images, annotations, samples. Numpy only.

Coordinates are pixels of the image as the file has it: x to the right, y down, (0, 0) the outer
corner of the top left pixel, so that the centre of that pixel is (0.5, 0.5). Boxes are ``xyxy``:
left, top, right, bottom.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """One image as its file has it.

    Attributes:
        pixels: (H, W) grey or (H, W, 3) RGB; uint8, uint16 or float32, never scaled on the way in.
        nm_per_px: Width of a pixel in nanometres; None when the file does not say or contradicts
            itself.
        modality: "sem", "tem" or "optical" when known.
        path: Where it was read from.
        info_bar_px: Rows at the bottom that are the instrument's info bar, not specimen.
        notes: What a person should know about the file, one sentence each.
    """

    pixels: Pixels
    nm_per_px: float | None = None
    modality: str | None = None
    path: Path | None = None
    info_bar_px: int = 0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape, dtype = self.pixels.shape, self.pixels.dtype
        if not (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)) or 0 in shape:
            raise ValueError(f"pixels must be (H, W) or (H, W, 3) and not empty, found {shape}")
        if dtype not in (np.uint8, np.uint16, np.float32):
            raise ValueError(f"pixels must be uint8, uint16 or float32, found {dtype}")
        if not 0 <= self.info_bar_px < shape[0]:
            raise ValueError(f"info_bar_px must be in [0, {shape[0]}), found {self.info_bar_px}")

    @property
    def height(self) -> int:
        """Rows, the info bar included."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.pixels.shape[1])

    @property
    def specimen(self) -> Pixels:
        """The pixels without the info bar: what is inspected (a view)."""
        return self.pixels[: self.height - self.info_bar_px]


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """A bitmap cropped to its instance.

    Attributes:
        x: Column of the crop's left edge in the image.
        y: Row of the crop's top edge in the image.
        bits: (h, w) bool.
    """

    x: int
    y: int
    bits: NDArray[np.bool_]

    @property
    def area(self) -> int:
        """Number of pixels inside."""
        return int(np.count_nonzero(self.bits))


@dataclass(frozen=True, slots=True, eq=False)
class Polygons:
    """An instance's outline as its label file has it.

    Attributes:
        rings: One or more closed outlines, each (k, 2) float64 with k >= 3, x and y in pixels; the
            instance is their union.
    """

    rings: tuple[NDArray[np.float64], ...]


Shape = Mask | Polygons


@dataclass(frozen=True, slots=True, eq=False)
class Annotations:
    """The n instances of one image; truth and prediction are the same class.

    Attributes:
        xyxy: (n, 4) float32, pixels.
        class_id: (n,) int64, index into the data set's or the model's classes.
        score: (n,) float32 in [0, 1]; 1 for truth.
        shapes: n masks or outlines (None for an instance that has only its box), or None when no
            instance has one.
        angle_deg: (n,) float32, counter-clockwise, or None.
    """

    xyxy: NDArray[np.float32]
    class_id: NDArray[np.int64]
    score: NDArray[np.float32] = None  # type: ignore[assignment]
    shapes: tuple[Shape | None, ...] | None = None
    angle_deg: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        xyxy = np.asarray(self.xyxy, dtype=np.float32).reshape(-1, 4)
        n = len(xyxy)
        score = np.ones(n, np.float32) if self.score is None else self.score
        object.__setattr__(self, "xyxy", xyxy)
        object.__setattr__(self, "class_id", np.asarray(self.class_id, dtype=np.int64).reshape(-1))
        object.__setattr__(self, "score", np.asarray(score, dtype=np.float32).reshape(-1))
        if self.angle_deg is not None:
            object.__setattr__(self, "angle_deg", np.asarray(self.angle_deg, dtype=np.float32))
        for name in ("class_id", "score", "shapes", "angle_deg"):
            value = getattr(self, name)
            if value is not None and len(value) != n:
                raise ValueError(f"{name} has {len(value)} entries for {n} boxes")

    def __len__(self) -> int:
        return len(self.xyxy)

    def __getitem__(self, index: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Annotations:
        """The instances that a numpy index array, a boolean array or a slice selects."""
        chosen = np.arange(len(self))[index]
        return Annotations(
            self.xyxy[chosen],
            self.class_id[chosen],
            self.score[chosen],
            None if self.shapes is None else tuple(self.shapes[i] for i in chosen),
            None if self.angle_deg is None else self.angle_deg[chosen],
        )

    @staticmethod
    def empty() -> Annotations:
        """No instance at all: an image that was looked at and is clean."""
        return Annotations(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))

    @staticmethod
    def concatenate(parts: Sequence[Annotations]) -> Annotations:
        """All instances of the parts, in their order; a missing shape or angle stays missing."""
        parts = [p for p in parts if len(p)]
        if not parts:
            return Annotations.empty()
        shapes: tuple[Shape | None, ...] | None = None
        if any(p.shapes is not None for p in parts):
            shapes = tuple(s for p in parts for s in (p.shapes or (None,) * len(p)))
        angle = None
        if any(p.angle_deg is not None for p in parts):
            angle = np.concatenate(
                [np.full(len(p), np.nan) if p.angle_deg is None else p.angle_deg for p in parts]
            )
        return Annotations(
            np.concatenate([p.xyxy for p in parts]),
            np.concatenate([p.class_id for p in parts]),
            np.concatenate([p.score for p in parts]),
            shapes,
            angle,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """An image with whatever truth it has; the pixels are read only when asked for.

    Attributes:
        path: The image file.
        size: (height, width) where the label file tells it.
        annotations: Instances, or None when the image carries no instance labels (an image that was
            looked at and is clean has ``Annotations.empty()``).
        class_map: A file of class indices, one a pixel.
        label: Class index of the whole image.
        split: "train", "val", "test", "unlabelled", or "" when the data set has no splits.
    """

    path: Path
    size: tuple[int, int] | None = None
    annotations: Annotations | None = None
    class_map: Path | None = None
    label: int | None = None
    split: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Samples with the names of their classes.

    Attributes:
        classes: Names; a class index is a place in this tuple.
        samples: In the order of their paths.
        notes: What was mended or left out while reading, one sentence each, naming the file.
    """

    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def split(self, name: str) -> Dataset:
        """The samples of one split."""
        return Dataset(self.classes, tuple(s for s in self.samples if s.split == name), self.notes)
