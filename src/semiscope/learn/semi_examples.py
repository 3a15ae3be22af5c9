"""Training views for semi-supervised learning: a labelled crop beside a weak and strong ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semiscope.data.augment import ViewSettings
from semiscope.data.class_maps import MapExample, map_view
from semiscope.data.perturbation import FloatArray, Perturbed, source_index
from semiscope.errors import DataError
from semiscope.infer.decode import scale_range
from semiscope.infer.model import InputSpec
from semiscope.io import masks
from semiscope.io.image import images_below, read_image
from semiscope.io.masks import IGNORE
from semiscope.learn.kept import Kept, whole
from semiscope.learn.map_examples import MapExamples, grey_values, normalised
from semiscope.types import Sample

Disturb = Callable[[FloatArray, np.random.Generator], Perturbed]
"""Grey values in [0, 1] -> new ones, and the displacement when they have moved."""

# the strong colour perturbations of UniMatch, as far as grey images have them
_JITTERED, _BLURRED = 0.8, 0.5  # shares of the views
_JITTER, _BLUR = 0.5, (0.1, 2.0)  # largest change of brightness and contrast; sigma in px

# CutMix as in UniMatch: shares of the view's area, and height over width
_BOX_AREA, _BOX_RATIO = (0.02, 0.4), (0.3, 1 / 0.3)


class Pool(NamedTuple):
    """Views of unlabelled images, S strong ones each.

    Attributes:
        weak: (B, C, H, W).
        valid: (B, H, W) bool, within the image.
        strong: (B, S, C, H, W).
        source: (B, S, H, W) int32, the flat place in the weak view that each pixel comes from.
        boxes: (B, S, H, W) bool, where CutMix puts another image.
    """

    weak: Tensor
    valid: Tensor
    strong: Tensor
    source: Tensor
    boxes: Tensor


SemiBatch = tuple[tuple[Tensor, Tensor], Pool]
"""Labelled images (B, C, H, W) and class indices (B, H, W), and as many unlabelled ones."""


def find_unlabelled(roots: Sequence[Path]) -> list[Path]:
    """The images of folders, those that cannot be read left out with a word.

    Of a data set with class maps these are its unlabelled part, without one its training part,
    without that all; of any other folder all images in it and below.

    Raises:
        DataError: A folder has no image.
    """
    paths = []
    for root in roots:
        if not root.is_dir():
            raise DataError(f"{root}: expected a folder of unlabelled images, found no folder")
        if masks.matches(root):
            dataset = masks.read(root)
            splits = {s.split for s in dataset}
            wanted = next((s for s in ("unlabelled", "train") if s in splits), None)
            found = [s.path for s in dataset if wanted is None or s.split == wanted]
        else:
            found = images_below(root)
        readable = [path for path in found if whole(read_image, path) is not None]
        if not readable:
            raise DataError(
                f"{root}: expected unlabelled images, found {len(found)} files, none of which can "
                "be read. Give a folder of images."
            )
        paths += readable
    return paths


class SemiExamples:
    """Labelled crops, each beside views of an unlabelled image (see ``learn.loader.Examples``).

    An epoch is a pass over the longer of the two; the shorter one is repeated.
    """

    def __init__(
        self,
        labelled: MapExamples,
        unlabelled: Sequence[Path],
        spec: InputSpec,
        augment: ViewSettings,
        side: int,
        crops: int,
        disturb: Sequence[Disturb],
        cutmix: float,
    ) -> None:
        """Takes the images.

        Args:
            labelled: The labelled crops.
            unlabelled: Images.
            spec: How pixels become the network's input.
            augment: The geometry of the weak view; its greys stay as they are.
            side: Rows and columns of a view.
            crops: Of each unlabelled image and epoch.
            disturb: What makes a strong view of the weak one, one a view.
            cutmix: Share of the strong views that another image is put into.
        """
        self._labelled, self._spec, self._augment, self._side = labelled, spec, augment, side
        self._images = Kept(_unjudged, [Sample(path) for path in unlabelled])
        self._crops, self._disturb, self._cutmix = crops, disturb, cutmix

    def __len__(self) -> int:
        return max(len(self._labelled), len(self._images) * self._crops)

    def weights(self) -> NDArray[np.float64]:
        """(n,) as the labelled crops that the examples show have them."""
        own = self._labelled.weights()
        return own[np.arange(len(self)) % len(own)]

    def example(
        self, index: int, rng: np.random.Generator
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, ...]]:
        """A labelled crop, and the members of a ``Pool`` for one image."""
        labelled = self._labelled.example(index % len(self._labelled), rng)
        image = self._images[index % len(self._images)]
        rows, columns = image.classes.shape
        half = self._side / 2
        x, y = (float(rng.uniform(min(half, n / 2), max(n - half, n / 2))) for n in (columns, rows))
        seen = map_view(image, self._side, self._augment, rng, (x, y))
        weak = grey_values(seen, scale_range(image.pixels, self._spec.scaling), self._spec)
        strong, source, boxes = [], [], []
        still = np.arange(self._side**2).reshape(self._side, self._side)
        for disturb in self._disturb:
            values, moved = disturb(weak, rng)
            strong.append(normalised(values, self._spec))
            source.append(still if moved is None else source_index(moved))
            boxes.append(cutmix_box(self._side, rng) if rng.random() < self._cutmix else still < 0)
        return labelled, (
            normalised(weak, self._spec),
            torch.from_numpy(seen.classes != IGNORE),
            torch.stack(strong),
            torch.from_numpy(np.stack(source).astype(np.int32)),
            torch.from_numpy(np.stack(boxes)),
        )

    def collate(self, views: list[tuple[tuple[Tensor, Tensor], tuple[Tensor, ...]]]) -> SemiBatch:
        """See ``SemiBatch``."""
        pool = Pool(*map(torch.stack, zip(*(p for _, p in views), strict=True)))
        return self._labelled.collate([v for v, _ in views]), pool


def _unjudged(sample: Sample) -> MapExample:
    """An image of which nothing is known: one class everywhere, to tell where a view leaves it."""
    pixels = read_image(sample.path).specimen
    return MapExample(pixels, np.zeros(pixels.shape[:2], np.uint8))


def jitter(values: FloatArray, rng: np.random.Generator) -> Perturbed:
    """Brightness, contrast and blur as for photographs: what UniMatch and FixMatch disturb by."""
    if rng.random() < _JITTERED:
        values = values * np.float32(1 + rng.uniform(-1, 1) * _JITTER)
        middle = np.float32(values.mean())
        values = (values - middle) * np.float32(1 + rng.uniform(-1, 1) * _JITTER) + middle
        values = values.clip(0, 1)
    if rng.random() < _BLURRED:
        values = np.asarray(cv2.GaussianBlur(values, (0, 0), rng.uniform(*_BLUR)), np.float32)
    return values, None


def unchanged(values: FloatArray, rng: np.random.Generator) -> Perturbed:
    """The weak view itself: what is strong about CutMix comes with its boxes."""
    return values, None


def cutmix_box(side: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(side, side) a random box that lies within the view."""
    area, ratio = rng.uniform(*_BOX_AREA) * side**2, rng.uniform(*_BOX_RATIO)
    high, wide = (
        min(side, max(1, round(v))) for v in ((area * ratio) ** 0.5, (area / ratio) ** 0.5)
    )
    top, left = rng.integers(side - high + 1), rng.integers(side - wide + 1)
    box = np.zeros((side, side), bool)
    box[top : top + high, left : left + wide] = True
    return box
