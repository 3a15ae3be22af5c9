"""Training views of images that have a class as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from semiscope.data.augment import ViewSettings, random_affine
from semiscope.data.dataset import balanced_weights
from semiscope.errors import DataError
from semiscope.infer.model import InputSpec
from semiscope.learn.kept import Kept
from semiscope.learn.whole_images import Boxed, read_boxed, view_of
from semiscope.types import Dataset, Sample


class ClassViewSettings(ViewSettings):
    """Views in which a small defect stays: as set here, they show four fifths of the image or more.

    Where a view shows what is beyond the image, that is its mirror image.
    """

    flip_vertical: float = Field(0.5, ge=0, le=1, description="Share mirrored top to bottom")
    quarter_turns: bool = Field(True, description="Turn by a random multiple of 90 degrees")
    scale: float = Field(0.1, ge=0, lt=1, description="Zoom between 1 - scale and 1 + scale")
    translate: float = Field(0.05, ge=0, le=0.5, description="Largest shift, share of the side")


class ClassExamples:
    """Views of labelled images (see ``learn.loader.Examples``).

    With partners a view is of an image and of its partner of low magnification, each changed in its
    own way.
    """

    def __init__(
        self,
        dataset: Dataset,
        spec: InputSpec,
        augment: ClassViewSettings,
        partners: Mapping[Path, Path] | None = None,
        alone: float = 0.0,
    ) -> None:
        """Takes the data; images are read when they are asked for.

        Args:
            dataset: Samples with labels.
            spec: How pixels become the network's input.
            augment: What may change.
            partners: Of the images that have one; None for a network that takes none.
            alone: Share of the images with a partner that are shown without it.
        """
        self._dataset, self._spec, self._augment = dataset, spec, augment
        self._images = Kept(self._read, dataset.samples)
        self._partners, self._alone = partners, alone
        lows = [] if partners is None else [partners.get(s.path, s.path) for s in dataset]
        self._lows = Kept(self._read, [Sample(path) for path in lows])

    def __len__(self) -> int:
        return len(self._dataset)

    def weights(self) -> NDArray[np.float64]:
        """(n,) so that every class is met as often."""
        return balanced_weights(self._dataset)

    def example(self, index: int, rng: np.random.Generator) -> tuple[Tensor, ...]:
        """One view: (C, H, W) float32 and the class; between them those of the partner.

        These are (C, H, W) float32 and 1, or the image itself and 0 where there is no partner: a
        blank image would spoil the statistics of batch norm. A broken image gives way to the next
        of its class, a broken partner is missing.

        Raises:
            DataError: All images of the class are broken.
        """
        index, boxed = self._readable(index)
        sample = self._dataset.samples[index]
        label = torch.tensor(sample.label)
        image = self._view(boxed, rng)
        if self._partners is None:
            return image, label
        low = None
        if sample.path in self._partners and rng.random() >= self._alone:
            low = self._lows.readable(index)
        shown = image if low is None else self._view(low, rng)
        return image, shown, torch.tensor(float(low is not None)), label

    def collate(self, views: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """A batch of what ``example`` gives."""
        return tuple(torch.stack(part) for part in zip(*views, strict=True))

    def _readable(self, index: int) -> tuple[int, Boxed]:
        label = self._dataset.samples[index].label
        for place in range(index, index + len(self)):
            place %= len(self)
            if self._dataset.samples[place].label == label:
                boxed = self._images.readable(place)
                if boxed is not None:
                    return place, boxed
        assert label is not None
        raise DataError(
            f"expected images of class {self._dataset.classes[label]} to learn from, found none "
            "that can be read whole"
        )

    def _read(self, sample: Sample) -> Boxed:
        return read_boxed(sample.path, self._spec)

    def _view(self, image: Boxed, rng: np.random.Generator) -> Tensor:
        size = (self._spec.height, self._spec.width)
        matrix = random_affine(size, *size, self._augment, rng)
        return view_of(image, matrix, self._spec, self._augment, rng)
