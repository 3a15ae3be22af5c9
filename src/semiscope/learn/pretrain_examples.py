"""Training views of images without labels: two of each magnification of a defect, and masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from semiscope.data.augment import ViewSettings, random_affine
from semiscope.data.pairs import Pair
from semiscope.errors import DataError
from semiscope.infer.model import InputSpec
from semiscope.io.image import images_below, read_size
from semiscope.io.labels import split_folders
from semiscope.learn.kept import Kept, whole
from semiscope.learn.whole_images import Boxed, read_boxed, view_of
from semiscope.types import Sample

_SPLITS = ("", "train", "unlabelled")  # never what a model is judged by


class PretrainViewSettings(ViewSettings):
    """Views that differ in place, direction and grey, and still show a small defect."""

    flip_vertical: float = Field(0.5, ge=0, le=1, description="Share mirrored top to bottom")
    quarter_turns: bool = Field(True, description="Turn by a random multiple of 90 degrees")
    scale: float = Field(0.0, ge=0, lt=1, description="Zoom between 1 - scale and 1 + scale")
    translate: float = Field(0.0, ge=0, le=0.5, description="Largest shift, share of the side")
    brightness: float = Field(0.2, ge=0, le=1, description="Largest shift of the grey range")
    contrast: float = Field(0.4, ge=0, lt=1, description="Largest relative change of contrast")
    shot_noise: float = Field(
        0.05, ge=0, le=1, description="Largest standard deviation of shot noise at white"
    )
    least_area: float = Field(
        0.6,
        gt=0,
        le=1,
        description="Smallest part of the image that a view shows; smaller ones (0.2 for "
        "photographs) can cut a small defect off",
    )


class PretrainBatch(NamedTuple):
    """Views of N defects at two magnifications, high and low, two of each.

    Attributes:
        views: (N, 2, 2, C, H, W): defect, magnification, view; zeros where there is no image.
        kept: (N, 2, 2, K) int64, the patches that are seen.
        present: (N, 2) bool, the magnifications that a defect has.
    """

    views: Tensor
    kept: Tensor
    present: Tensor


def find_images(roots: Sequence[Path]) -> list[Path]:
    """The images of folders and below, those that cannot be opened left out with a word.

    Of a data set with splits these are train and unlabelled, never val and test.

    Raises:
        DataError: A folder is missing or has no image.
    """
    images: dict[Path, None] = {}
    for root in roots:
        if not root.is_dir():
            raise DataError(f"{root}: expected a folder of images, found no folder")
        folders = [folder for split, folder in split_folders(root) if split in _SPLITS]
        found = [path for folder in folders for path in images_below(folder)]
        readable = [path for path in found if whole(read_size, path) is not None]
        if not readable:
            raise DataError(
                f"{root}: expected images to learn from, found {len(found)} files, none of which "
                "can be read. Give a folder of images, or of a data set with train or unlabelled."
            )
        images.update(dict.fromkeys(readable))
    return list(images)


class PretrainExamples:
    """Views of defects (see ``learn.loader.Examples``)."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        spec: InputSpec,
        augment: PretrainViewSettings,
        places: int,
        kept: int,
    ) -> None:
        """Takes the images; they are read when they are asked for.

        Args:
            pairs: The images of each defect.
            spec: How pixels become the network's input.
            augment: What may change.
            places: Patches of an image.
            kept: Of these, how many a network sees.
        """
        self._spec, self._augment, self._places, self._kept = spec, augment, places, kept
        self._images = Kept(self._read, [Sample(p) for pair in pairs for p in pair if p])
        count = iter(range(len(self._images)))
        self._index = [[next(count) if p else None for p in pair] for pair in pairs]

    def __len__(self) -> int:
        return len(self._index)

    def weights(self) -> NDArray[np.float64]:
        """(n,) all alike: nothing is known of the images."""
        return np.ones(len(self))

    def example(self, index: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """One defect of a ``PretrainBatch``.

        An image that proves broken counts as missing; a defect without any gives way to the next.

        Raises:
            DataError: All images are broken.
        """
        spec = self._spec
        for place in range(index, index + len(self)):
            images = [
                None if i is None else self._images.readable(i)
                for i in self._index[place % len(self)]
            ]
            if any(images):
                break
        else:
            raise DataError("expected images to learn from, found none that can be read whole")
        views = torch.zeros(2, 2, spec.channels, spec.height, spec.width)
        kept = np.zeros((2, 2, self._kept), np.int64)
        for magnification, image in enumerate(images):
            for view in range(2) if image else ():
                assert image is not None
                views[magnification, view] = self._view(image, rng)
                kept[magnification, view] = rng.permutation(self._places)[: self._kept]
        present = torch.tensor([image is not None for image in images])
        return views, torch.from_numpy(kept), present

    def collate(self, views: list[tuple[Tensor, Tensor, Tensor]]) -> PretrainBatch:
        """See ``PretrainBatch``."""
        return PretrainBatch(*map(torch.stack, zip(*views, strict=True)))

    def _read(self, sample: Sample) -> Boxed:
        return read_boxed(sample.path, self._spec)

    def _view(self, image: Boxed, rng: np.random.Generator) -> Tensor:
        size = (self._spec.height, self._spec.width)
        matrix = random_affine(size, *size, self._augment, rng)
        zoom = rng.uniform(self._augment.least_area, 1) ** -0.5
        matrix[:, 2] -= rng.uniform(0, 1, 2) * (1 - 1 / zoom) * size[::-1]
        return view_of(image, matrix * zoom, self._spec, self._augment, rng)
