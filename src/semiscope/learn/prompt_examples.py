"""Training views of a data set with outlined regions, and prompts that show some of them."""

from __future__ import annotations

from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from semiscope.config import Settings
from semiscope.data.augment import (
    AugmentSettings,
    Example,
    ViewSettings,
    draw_focus,
    photometric,
    random_affine,
    warp,
)
from semiscope.data.prompts import jittered_box, partial_mask, random_points
from semiscope.geometry import dense, rasterise, shape_box
from semiscope.infer.decode import scale_range, to_tensor
from semiscope.infer.model import InputSpec
from semiscope.infer.promptable import NEGATIVE, NO_POINT, POSITIVE
from semiscope.learn.examples import DetectExamples
from semiscope.nets.sam_decoder import BOX_END, BOX_START
from semiscope.types import Annotations, Dataset, Mask, Pixels

PromptKind = Literal["point", "points", "box", "mask"]

_SURE = 7.0  # logit of a pixel that a mask prompt shows: 99.9 %
_SPARE = 4  # as many candidates for a region, since a view may leave some out
_NEAR = 0.5  # negative points lie within the box that is larger by that share on each side


class PromptSettings(Settings):
    """The prompts that a view is trained with (SeSAMI, section 2.1)."""

    regions: int = Field(12, ge=1, description="Regions an image that are asked for")
    least_area: int = Field(
        40, ge=1, description="Pixels of the view that a region must have to be asked for"
    )
    kinds: tuple[PromptKind, ...] = Field(
        ("point", "points", "box", "mask"),
        min_length=1,
        description="A point, several, a box, or a part of the mask; the regions take turns",
    )
    most_points: int = Field(
        6, ge=2, description="Most points of a prompt of several, positive and negative"
    )
    box_jitter: float = Field(
        0.05, ge=0, lt=0.5, description="Largest shift of a box's side, a share of the box"
    )


class Asked(NamedTuple):
    """The prompts of one kind in one view; they have as many points each.

    Attributes:
        kind: What shows the regions.
        regions: (p,) int64 places among the view's regions.
        points: (p, N, 2) x and y in pixels of the view; the last two, or the last, are a box's
            corners, or a place that is no point.
        labels: (p, N) int64; see ``PromptEncoder.sparse``.
        masks: (p, 1, side / 4, side / 4) logits of a part of the mask; zeros for other kinds.
    """

    kind: PromptKind
    regions: Tensor
    points: Tensor
    labels: Tensor
    masks: Tensor


class PromptView(NamedTuple):
    """A view and what is asked about it.

    Attributes:
        image: (3, side, side) float32, normalised, then padded with 0 at the bottom and right.
        truth: (n, side, side) uint8, 1 inside; the regions asked for.
        asked: At most one for each kind; none where no region is in view.
    """

    image: Tensor
    truth: Tensor
    asked: tuple[Asked, ...]


class PromptExamples(DetectExamples):
    """Views with prompts (see ``learn.loader.Examples``)."""

    def __init__(
        self,
        dataset: Dataset,
        spec: InputSpec,
        views: ViewSettings,
        side: int,
        prompts: PromptSettings,
        close_up: float = 1.0,
    ) -> None:
        # a view is of one image: nothing is pasted, so that what is beside a region is real
        super().__init__(dataset, spec, AugmentSettings(), side)
        self._views, self._prompts, self._close_up = views, prompts, close_up

    def example(self, index: int, rng: np.random.Generator) -> PromptView:  # type: ignore[override]
        """One random view."""
        spec = self._spec
        base, low_high = self._bases.nearest(index)
        fill = low_high[0] + float(np.mean(spec.mean)) * (low_high[1] - low_high[0])
        chosen = self._candidates(base.annotations, rng)
        some = Example(base.pixels, base.annotations[chosen])
        side = self._side or spec.height
        rows, columns = (min(n, side) for n in base.pixels.shape[:2])
        # half the views as they are; the others as often at one enlargement as at any other
        larger = self._close_up ** max(0.0, 2 * float(rng.random()) - 1)
        part = self._side or larger > 1
        focus = draw_focus(some, round(side / larger), rng) if part else None
        matrix = random_affine(base.pixels.shape[:2], rows, columns, self._views, rng, focus)
        middle = np.array([[columns / 2], [rows / 2]])
        matrix = larger * matrix + (1 - larger) * np.concatenate([np.zeros((2, 2)), middle], 1)
        seen = warp(some, matrix, rows, columns, fill)
        values = to_tensor(seen.pixels, low_high, (0.0,) * 3, (1.0,) * 3)
        values = photometric(np.ascontiguousarray(values.transpose(1, 2, 0)), self._views, rng)
        image = np.zeros((3, side, side), np.float32)
        mean, std = np.asarray(spec.mean, np.float32), np.asarray(spec.std, np.float32)
        image[:, :rows, :columns] = ((values - mean) / std).transpose(2, 0, 1)
        shapes = seen.annotations.shapes or ()
        masks = [rasterise(s, rows, columns) for s in shapes if s is not None]
        regions = [m for m in masks if m.area >= self._prompts.least_area]
        if larger > 1:
            # what is cut off would not be asked close up
            regions = [m for m in regions if _whole(m, (rows, columns))]
        regions = regions[: self._prompts.regions]
        truth = np.zeros((len(regions), side, side), np.uint8)
        for whole, mask in zip(truth, regions, strict=True):
            whole[:rows, :columns] = dense(mask, rows, columns)
        asked = draw_prompts(truth.astype(bool), (rows, columns), self._prompts, rng)
        return PromptView(torch.from_numpy(image), torch.from_numpy(truth), asked)

    def collate(  # type: ignore[override]
        self, views: list[PromptView]
    ) -> tuple[Tensor, list[PromptView]]:
        """(B, 3, side, side) images, and the views."""
        return torch.stack([v.image for v in views]), views

    def _candidates(self, found: Annotations, rng: np.random.Generator) -> NDArray[np.intp]:
        """Places of random regions, each class as likely, in random order, none twice."""
        count = min(len(found), _SPARE * self._prompts.regions)
        if not count:
            return np.zeros(0, np.intp)
        weight = 1 / np.bincount(found.class_id)[found.class_id]
        return rng.choice(len(found), count, replace=False, p=weight / weight.sum())

    def _range(self, pixels: Pixels) -> tuple[float, float]:
        # as inference does
        return scale_range(pixels, "dtype" if pixels.dtype == np.uint8 else "percentile")


def draw_prompts(
    truth: NDArray[np.bool_],
    size: tuple[int, int],
    settings: PromptSettings,
    rng: np.random.Generator,
) -> tuple[Asked, ...]:
    """Prompts for the regions of a view; each kind gets about as many.

    Args:
        truth: (n, side, side) the regions, none of them empty.
        size: (height, width) of the image in the view; the rest is padding.
        settings: Which prompts.
        rng: Decides everything.
    """
    order = rng.permutation(len(truth))
    # not always the same kind first: a view may have fewer regions than kinds
    kinds = [settings.kinds[i] for i in rng.permutation(len(settings.kinds))]
    parts = [(kind, order[i :: len(kinds)]) for i, kind in enumerate(kinds)]
    return tuple(_asked(k, i, truth, size, settings, rng) for k, i in parts if len(i))


def _asked(
    kind: PromptKind,
    regions: NDArray[np.intp],
    truth: NDArray[np.bool_],
    size: tuple[int, int],
    settings: PromptSettings,
    rng: np.random.Generator,
) -> Asked:
    side = truth.shape[1]
    points = np.zeros((len(regions), 1, 2))
    labels = np.full((len(regions), 1), NO_POINT)
    masks = np.zeros((len(regions), 1, side // 4, side // 4), np.float32)
    if kind == "box":
        boxes = [jittered_box(_box(truth[i]), settings.box_jitter, size, rng) for i in regions]
        points = np.stack(boxes).reshape(-1, 2, 2)
        labels = np.tile([BOX_START, BOX_END], (len(regions), 1))
    elif kind == "mask":
        for mask, i in zip(masks, regions, strict=True):
            mask[0] = _as_logits(partial_mask(truth[i], rng))
    else:
        count = 1 if kind == "point" else int(rng.integers(2, settings.most_points + 1))
        drawn = [_points(truth[i], count, size, rng) for i in regions]
        points = np.concatenate([np.stack([p for p, _ in drawn]), points], 1)
        labels = np.concatenate([np.stack([k for _, k in drawn]), labels], 1)
    return Asked(
        kind,
        torch.from_numpy(regions.astype(np.int64)),
        torch.from_numpy(points.astype(np.float32)),
        torch.from_numpy(labels.astype(np.int64)),
        torch.from_numpy(masks),
    )


def _points(
    region: NDArray[np.bool_], count: int, size: tuple[int, int], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Random points in and about a region; at least the first is inside."""
    positive = int(rng.integers(1, count + 1))
    left, top, right, bottom = _box(region)
    margin = _NEAR * max(right - left, bottom - top)
    far = np.array([size[1], size[0]])
    low = np.clip(np.floor([left - margin, top - margin]), 0, far).astype(int)
    high = np.clip(np.ceil([right + margin, bottom + margin]), 0, far).astype(int)
    around = ~region[low[1] : high[1], low[0] : high[0]]
    if not around.any():
        positive = count
    inside = random_points(region, positive, rng)
    outside = np.zeros((0, 2))
    if count > positive:
        outside = random_points(around, count - positive, rng) + low
    kinds = np.repeat([POSITIVE, NEGATIVE], [positive, count - positive])
    return np.concatenate([inside, outside]), kinds


def _whole(mask: Mask, size: tuple[int, int]) -> bool:
    """Whether a region ends before the view's border."""
    left, top, right, bottom = shape_box(mask)
    return bool(left > 0 and top > 0 and right < size[1] and bottom < size[0])


def _box(region: NDArray[np.bool_]) -> NDArray[np.float32]:
    return shape_box(Mask(0, 0, region))


def _as_logits(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """A bitmap of the view as a mask prompt, a quarter as wide and high."""
    quarter = (mask.shape[1] // 4, mask.shape[0] // 4)
    share = cv2.resize(mask.astype(np.float32), quarter, interpolation=cv2.INTER_AREA)
    return (2 * _SURE * share - _SURE).astype(np.float32)
