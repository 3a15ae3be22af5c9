"""Training views of a data set with boxes."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semiscope.data.augment import (
    AugmentSettings,
    Example,
    draw_focus,
    photometric,
    scaled,
    view,
)
from semiscope.data.dataset import balanced_weights
from semiscope.errors import DataError, ImageError
from semiscope.geometry import rasterise
from semiscope.infer.decode import scale_range, to_tensor, with_channels
from semiscope.infer.model import InputSpec
from semiscope.io.image import read_image, read_size
from semiscope.learn.kept import Kept
from semiscope.types import Annotations, Dataset, Pixels, Sample


class _Base(NamedTuple):
    """An image at the input's scale.

    Attributes:
        example: The image and its truth.
        low_high: The grey values that become 0 and 1.
    """

    example: Example
    low_high: tuple[float, float]

    @property
    def nbytes(self) -> int:
        return self.example.pixels.nbytes


class DetectExamples:
    """Training views of a detection data set (see ``learn.loader.Examples``).

    A broken image gives way to the next.
    """

    def __init__(
        self, dataset: Dataset, spec: InputSpec, augment: AugmentSettings, side: int = 0
    ) -> None:
        self._samples = [s for s in dataset if s.annotations is not None]
        self._classes = dataset.classes
        self._spec, self._augment, self._side = spec, augment, side
        self._bases = Kept(self._read, self._samples)

    def __len__(self) -> int:
        return len(self._samples)

    def weights(self) -> NDArray[np.float64]:
        """(n,) so that each class is met in as many images."""
        return balanced_weights(Dataset(self._classes, tuple(self._samples)))

    def sizes(self) -> NDArray[np.float64]:
        """(n, 2) widths and heights of the true boxes in pixels of the input."""
        found = [np.zeros((0, 2))]
        for index, sample in enumerate(self._samples):
            if sample.annotations is not None and len(sample.annotations):
                size = self._size(index)
                if size is not None:
                    xyxy = sample.annotations.xyxy.astype(np.float64)
                    found.append((xyxy[:, 2:] - xyxy[:, :2]) * self._factor(size))
        return np.concatenate(found)

    def field(self) -> tuple[int, int]:
        """The median (height, width) of the training images."""
        sizes = [self._size(i) for i in range(len(self))]
        height, width = np.median([s for s in sizes if s is not None], 0)
        return int(height), int(width)

    def example(self, index: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """One view: (C, H, W) float32, and (n, 5) class, x, y, width, height in pixels."""
        values, annotations = self._view(index, rng)
        return values, _rows(annotations)

    def _view(self, index: int, rng: np.random.Generator) -> tuple[Tensor, Annotations]:
        spec = self._spec
        base, low_high = self._bases.nearest(index)
        fill = low_high[0] + float(np.mean(spec.mean)) * (low_high[1] - low_high[0])

        def other(draw: np.random.Generator) -> Example:
            return self._as(self._bases.nearest(int(draw.integers(len(self)))).example, base)

        height, width = (self._side, self._side) if self._side else (spec.height, spec.width)
        focus = draw_focus(base, self._side, rng) if self._side else None
        seen = view(base, height, width, self._augment, rng, other, fill, focus)
        values = to_tensor(seen.pixels, low_high, (0.0,) * spec.channels, (1.0,) * spec.channels)
        planes = np.moveaxis(values, 0, -1) if spec.channels == 3 else values[0]
        planes = photometric(planes, self._augment, rng)
        values = np.moveaxis(planes, -1, 0) if spec.channels == 3 else planes[None]
        values = (values - np.asarray(spec.mean, np.float32)[:, None, None]) / np.asarray(
            spec.std, np.float32
        )[:, None, None]
        return torch.from_numpy(np.ascontiguousarray(values, np.float32)), seen.annotations

    def collate(self, views: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) images and (n, 6) targets: image, class, x, y, width, height."""
        rows = [
            torch.cat([torch.full((len(t), 1), float(i)), t], 1) for i, (_, t) in enumerate(views)
        ]
        return torch.stack([v for v, _ in views]), torch.cat(rows)

    def _size(self, index: int) -> tuple[int, int] | None:
        """Rows and columns of an image; None where its file is broken."""
        sample = self._samples[index]
        if sample.size is None:
            try:
                sample = replace(sample, size=read_size(sample.path))
            except ImageError:
                return None
            self._samples[index] = sample
        return sample.size

    def _factor(self, size: tuple[int, int]) -> float:
        return min(self._spec.height / size[0], self._spec.width / size[1])

    def _read(self, sample: Sample) -> _Base:
        pixels = with_channels(read_image(sample.path).pixels, self._spec.channels)
        annotations = sample.annotations or Annotations.empty()
        example = scaled(Example(pixels, annotations), self._factor(pixels.shape[:2]))
        return _Base(example, self._range(pixels))

    def _range(self, pixels: Pixels) -> tuple[float, float]:
        """The grey values of an image that become 0 and 1."""
        return scale_range(pixels, self._spec.scaling)

    @staticmethod
    def _as(example: Example, like: Example) -> Example:
        """The example in another's pixel type, for joining 8-bit and 16-bit images."""
        if example.pixels.dtype == like.pixels.dtype:
            return example
        top = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}
        factor = top.get(like.pixels.dtype, 1.0) / top.get(example.pixels.dtype, 1.0)
        pixels = (example.pixels.astype(np.float32) * factor).astype(like.pixels.dtype)
        return Example(pixels, example.annotations)  # type: ignore[arg-type]


class InstanceExamples(DetectExamples):
    """Training views with masks.

    Raises:
        DataError: An instance has no outline.
    """

    def __init__(
        self, dataset: Dataset, spec: InputSpec, augment: AugmentSettings, side: int = 0
    ) -> None:
        super().__init__(dataset, spec, augment, side)
        for sample in self._samples:
            known = sample.annotations
            if known and (known.shapes is None or None in known.shapes):
                raise DataError(
                    f"{sample.path}: expected an outline for every instance, found boxes alone. "
                    "Train boxes with: semiscope train detect --net yolov7-tiny"
                )

    def example(  # type: ignore[override]
        self, index: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One view: as ``DetectExamples.example``, and (n, H, W) uint8 masks, 1 inside."""
        values, annotations = self._view(index, rng)
        height, width = values.shape[1:]
        masks = np.zeros((len(annotations), height, width), np.uint8)
        for mask, shape in zip(masks, annotations.shapes or (), strict=True):
            assert shape is not None
            part = rasterise(shape, height, width)
            rows, columns = part.bits.shape
            mask[part.y : part.y + rows, part.x : part.x + columns] = part.bits
        return values, _rows(annotations), torch.from_numpy(masks)

    def collate(  # type: ignore[override]
        self, views: list[tuple[Tensor, Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, H, W) images, (n, 6) rows as in ``DetectExamples``, (n, H, W) masks."""
        images, rows = super().collate([(v, r) for v, r, _ in views])
        return images, rows, torch.cat([m for _, _, m in views])


def _rows(annotations: Annotations) -> Tensor:
    """(n, 5) class, x, y, width, height."""
    xyxy = annotations.xyxy
    columns = [
        annotations.class_id[:, None],
        (xyxy[:, :2] + xyxy[:, 2:]) / 2,
        xyxy[:, 2:] - xyxy[:, :2],
    ]
    return torch.from_numpy(np.concatenate(columns, 1).astype(np.float32))
