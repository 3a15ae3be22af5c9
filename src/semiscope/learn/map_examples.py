"""Training views of images with class maps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semiscope.data.augment import ViewSettings, photometric
from semiscope.data.class_maps import MapExample, draw_place, map_view, read_mapped
from semiscope.errors import DataError
from semiscope.infer.decode import scale_range, to_tensor, with_channels
from semiscope.infer.model import InputSpec
from semiscope.io.masks import IGNORE
from semiscope.learn.kept import Kept
from semiscope.types import Sample


class MapExamples:
    """Crops of labelled images (see ``learn.loader.Examples``)."""

    def __init__(
        self,
        samples: Sequence[Sample],
        classes: Sequence[str],
        spec: InputSpec,
        augment: ViewSettings,
        side: int,
        crops: int,
        balance: float,
    ) -> None:
        """Reads the images.

        Args:
            samples: With class maps.
            classes: Names by class index.
            spec: How pixels become the network's input.
            augment: What may change.
            side: Rows and columns of a crop.
            crops: Of each image and epoch.
            balance: See ``data.class_maps.draw_place``.

        Raises:
            DataError: A class map has another size or an index that is no class, or no image can
                be read. Of several those that cannot be are left out with a word.
        """
        self._images = Kept(partial(read_mapped, classes=tuple(classes)), samples)
        # all are looked at once, so that what is faulty is told of before the training, not within
        looked_at = ((i, self._images.readable(i)) for i in range(len(samples)))
        shown = {
            i: np.bincount(image.classes.ravel(), minlength=IGNORE + 1)[:IGNORE] > 0
            for i, image in looked_at
            if image is not None
        }
        if not shown:
            raise DataError(
                f"expected images to learn from, found {len(samples)}, none of which can be read"
            )
        self._readable, self._shown = list(shown), np.array(list(shown.values()))
        self._spec, self._augment, self._side = spec, augment, side
        self._crops, self._balance = crops, balance

    def __len__(self) -> int:
        return len(self._readable) * self._crops

    def weights(self) -> NDArray[np.float64]:
        """(n,) so that the rarest class of each image is met as often."""
        images = self._shown.sum(0)
        # an image without any judged pixel is met no more often than the most frequent class
        rarest = np.where(self._shown, images, len(self._shown)).min(1)
        return np.repeat(1 / rarest, self._crops)

    def example(self, index: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """One crop: (C, side, side) float32, and (side, side) int64 class indices."""
        example = self._images[self._readable[index // self._crops]]
        centre = draw_place(example.classes, self._side, self._balance, rng)
        seen = map_view(example, self._side, self._augment, rng, centre)
        values = grey_values(seen, scale_range(example.pixels, self._spec.scaling), self._spec)
        values = photometric(values, self._augment, rng)
        return normalised(values, self._spec), torch.from_numpy(seen.classes.astype(np.int64))

    def collate(self, views: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) images and (B, H, W) class indices."""
        return torch.stack([v for v, _ in views]), torch.stack([c for _, c in views])


def grey_values(
    seen: MapExample, low_high: tuple[float, float], spec: InputSpec
) -> NDArray[np.float32]:
    """A view's pixels in [0, 1]: (H, W) or (H, W, 3) as the network has channels."""
    pixels = with_channels(seen.pixels, spec.channels)
    planes = to_tensor(pixels, low_high, (0.0,) * spec.channels, (1.0,) * spec.channels)
    return np.moveaxis(planes, 0, -1) if spec.channels == 3 else planes[0]


def normalised(values: NDArray[np.float32], spec: InputSpec) -> Tensor:
    """What ``grey_values`` gave as the network's input (C, H, W)."""
    return torch.from_numpy(to_tensor(values, (0.0, 1.0), spec.mean, spec.std))
