"""Images with their class maps: read with every check, and random views of them for training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from semiscope.data.augment import ViewSettings, random_affine
from semiscope.data.dataset import open_dataset
from semiscope.errors import DataError
from semiscope.io import labels
from semiscope.io.image import read_image
from semiscope.io.masks import IGNORE, read_class_map
from semiscope.types import Dataset, Pixels, Sample


@dataclass(frozen=True, slots=True, eq=False)
class MapExample:
    """Pixels with their classes.

    Attributes:
        pixels: (H, W) or (H, W, 3).
        classes: (H, W) uint8 class indices; ``IGNORE`` where nobody judged.
    """

    pixels: Pixels
    classes: NDArray[np.uint8]

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return self.pixels.nbytes + self.classes.nbytes


def open_mapped(root: Path) -> Dataset:
    """A data set with class maps.

    Raises:
        DataError: It has none, or a class map is not of its image's size.
    """
    dataset = open_dataset(root)
    faults = [n for n in dataset.notes if labels.BAD_LABEL in n]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise DataError(f"{faults[0]}{more}. Mend or remove it.")
    if not any(s.class_map is not None for s in dataset):
        raise DataError(
            f"{root}: expected class maps in masks/, one a pixel of each image in images/, found "
            "none. Outlines become class maps with: semiscope convert --to masks"
        )
    return dataset


def read_mapped(sample: Sample, classes: Sequence[str]) -> MapExample:
    """An image and its class map, both without the info bar.

    Raises:
        DataError: The class map is not of the image's size, or holds an index that is no class.
        ImageError: A file cannot be read.
    """
    assert sample.class_map is not None
    image, indices = read_image(sample.path), read_class_map(sample.class_map)
    if indices.shape != image.pixels.shape[:2]:
        raise DataError(
            f"{sample.class_map}: expected {image.width} x {image.height} px as "
            f"{sample.path.name} has, found {indices.shape[1]} x {indices.shape[0]}"
        )
    indices = indices[: len(image.specimen)]
    unknown = np.unique(indices[(indices >= len(classes)) & (indices != IGNORE)])
    if len(unknown):
        raise DataError(
            f"{sample.class_map}: expected classes 0 to {len(classes) - 1} "
            f"({', '.join(classes)}), or {IGNORE} where nobody judged, found "
            f"{', '.join(map(str, unknown[:5]))}. Name the classes in classes.txt, or mend the map."
        )
    return MapExample(image.specimen, indices.astype(np.uint8))


def draw_place(
    classes: NDArray[np.uint8], side: int, balance: float, rng: np.random.Generator
) -> tuple[float, float]:
    """Where a view of ``side`` pixels is taken: x, y of its centre, within the image if it can be.

    Args:
        classes: (H, W) class indices.
        side: Of the view, px.
        balance: Share of views that are about a pixel of a class drawn evenly from those that the
            image shows, so that a class of few pixels is met as often as the others.
        rng: Decides everything.
    """
    rows, columns = classes.shape
    point = rng.uniform(0, 1, 2) * (columns, rows)
    if rng.random() < balance:
        shown = np.flatnonzero(np.bincount(classes.ravel(), minlength=IGNORE + 1)[:IGNORE])
        kind = rng.choice(shown) if len(shown) else IGNORE
        places = np.flatnonzero(classes.ravel() == kind)
        y, x = divmod(int(rng.choice(places)), columns)
        point = np.array([x, y]) + rng.uniform(-0.35, 0.35, 2) * side
    half = side / 2
    x, y = (
        float(np.clip(v, min(half, n / 2), max(n - half, n / 2)))
        for v, n in zip(point, (columns, rows), strict=True)
    )
    return x, y


def map_view(
    example: MapExample,
    side: int,
    settings: ViewSettings,
    rng: np.random.Generator,
    centre: tuple[float, float],
) -> MapExample:
    """One random view: pixels and classes under one affine map.

    What lies outside of the image is its mirror image, and nobody's class.

    Args:
        example: The image.
        side: Rows and columns of the view.
        settings: What may change in the geometry.
        rng: Decides everything.
        centre: x, y of what comes to the view's centre, shifts apart.
    """
    matrix = random_affine(example.pixels.shape[:2], side, side, settings, rng, centre)
    # cv2 puts (0, 0) at the centre of the first pixel, our coordinates at its corner
    matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    pixels = cv2.warpAffine(
        example.pixels,
        matrix,
        (side, side),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    classes = cv2.warpAffine(
        example.classes,
        matrix,
        (side, side),
        flags=cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(IGNORE,),
    )
    return MapExample(pixels, classes)  # type: ignore[arg-type]
