"""Images of any size through a model: whole when they are small, in tiles when they are large."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Generic

from semiscope.infer.predictor import P, Predictor, R
from semiscope.tiling import Tile, merge, tiles
from semiscope.types import Annotations, Pixels

TILE_ABOVE = 1.25
"""An image is tiled when a side is longer than this times what training fitted in one input."""
OVERLAP = 0.25
_MERGE_IOU = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Inputs(Generic[P]):
    """An image as inputs of a predictor.

    Attributes:
        prepared: One for a small image, one a tile for a large one.
        sizes: (height, width) in px of what each input shows.
        tiles: The tiles, or None for a small image.
    """

    prepared: list[P]
    sizes: list[tuple[int, int]]
    tiles: list[Tile] | None

    def joined(self, found: Sequence[Annotations], height: int, width: int) -> Annotations:
        """Detections in the image from those in its inputs."""
        if self.tiles is None:
            return found[0]
        return merge(list(zip(self.tiles, found, strict=True)), height, width, _MERGE_IOU)


def prepare_inputs(model: Predictor[P, R], pixels: Pixels, overlap: float) -> Inputs[P]:
    """Brings an image to the inputs of a model, in tiles when it is large.

    Args:
        model: Whose field tells what is large.
        pixels: (H, W) or (H, W, 3), without info bar.
        overlap: Part of a tile that neighbours share.
    """
    height, width = pixels.shape[:2]
    field = model.meta.field_height, model.meta.field_width
    if height <= TILE_ABOVE * field[0] and width <= TILE_ABOVE * field[1]:
        whole = Tile(0, 0, width, height)
        return Inputs(model.prepare_tiles(pixels, [whole]), [(height, width)], None)
    cut = tiles(height, width, field, (int(overlap * field[0]), int(overlap * field[1])))
    return Inputs(model.prepare_tiles(pixels, cut), [(t.height, t.width) for t in cut], cut)


def infer(
    model: Predictor[P, R],
    prepared: Sequence[P],
    sizes: Sequence[tuple[int, int]],
    batch: int,
    min_score: float | None,
    gate: AbstractContextManager[object],
) -> list[Annotations]:
    """Detections of inputs, each in its own pixels.

    Args:
        model: What finds them.
        prepared: The inputs.
        sizes: (height, width) in px of what each input shows.
        batch: Inputs an inference.
        min_score: Lowest score; the model's report thresholds when None.
        gate: Entered for each inference, to bound how many run at once.
    """
    results: list[Annotations] = []
    for start in range(0, len(prepared), batch):
        part = prepared[start : start + batch]
        with gate:
            raw = model.run(part)
        results += model.decode(raw, part, sizes[start : start + batch], min_score)
    return results


def detect(model: Predictor[P, R], pixels: Pixels, min_score: float | None = None) -> Annotations:
    """Detections in one image as ``inspect`` finds them: in tiles when it is large.

    Args:
        model: What finds them.
        pixels: (H, W) or (H, W, 3), without info bar.
        min_score: Lowest score; the model's report thresholds when None.
    """
    inputs = prepare_inputs(model, pixels, OVERLAP)
    found = infer(model, inputs.prepared, inputs.sizes, 1, min_score, nullcontext())
    return inputs.joined(found, *pixels.shape[:2])
