"""Models that say of every pixel what it is: class maps of images of any size.

An image is seen at its own scale, in overlapping tiles of the size of the network's input, and what
the tiles say of the classes is blended before the likeliest one is taken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from semiscope.errors import ModelError
from semiscope.infer.decode import scale_range, to_tensor, with_channels
from semiscope.infer.model import FileMeta, InputSpec, checked_meta, locate, open_model
from semiscope.infer.rewrite import read_task
from semiscope.infer.tiled import OVERLAP
from semiscope.tiling import Tile, blend, tiles
from semiscope.types import Annotations, Mask, Pixels

TASK = "class-map"
LEAST_AREA = 4
"""Pixels; smaller specks of a defect class are in the class map, but no instances."""

Engine = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""(B, C, height, width) inputs -> (B, K, height, width) logits."""


class SegmenterMeta(FileMeta):
    """What the file of a segmenter says of itself."""

    task: Literal["class-map"] = "class-map"
    defects: tuple[str, ...] = Field(default=(), description="Classes that are defects")
    class_iou: dict[str, float] = Field(default={}, description="IoU by class on held-out data")


@dataclass(frozen=True, slots=True, eq=False)
class ClassMap:
    """What each pixel of an image is.

    Attributes:
        indices: (H, W) uint8 class indices.
        score: (H, W) float32 in [0, 1], how sure the model is.
    """

    indices: NDArray[np.uint8]
    score: NDArray[np.float32]


def segment(
    engine: Engine, spec: InputSpec, pixels: Pixels, overlap: float = OVERLAP, batch: int = 1
) -> ClassMap:
    """The class map of an image.

    Args:
        engine: The network.
        spec: Its input; a smaller image is continued by its mirror image.
        pixels: (H, W) or (H, W, 3), without info bar.
        overlap: Part of a tile that neighbours share.
        batch: Tiles at once.
    """
    height, width = pixels.shape[:2]
    size = spec.height, spec.width
    low_high = scale_range(pixels, spec.scaling)
    below, right = max(0, size[0] - height), max(0, size[1] - width)
    if below or right:
        pixels = cv2.copyMakeBorder(pixels, 0, below, 0, right, cv2.BORDER_REFLECT_101)  # type: ignore[assignment]
    rows, columns = pixels.shape[:2]
    cut = tiles(rows, columns, size, (int(overlap * size[0]), int(overlap * size[1])))

    def parts() -> Iterator[tuple[Tile, NDArray[np.float32]]]:
        for start in range(0, len(cut), batch):
            some = cut[start : start + batch]
            inputs = [
                to_tensor(with_channels(t.of(pixels), spec.channels), low_high, spec.mean, spec.std)  # type: ignore[arg-type]
                for t in some
            ]
            yield from zip(some, _softmax(engine(np.stack(inputs))), strict=True)

    indices, score = [], []
    for band in blend(parts(), rows, columns):
        indices.append(band.argmax(0).astype(np.uint8))
        score.append(band.max(0))
    return ClassMap(
        np.concatenate(indices)[:height, :width].copy(),
        np.concatenate(score)[:height, :width].copy(),
    )


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of (B, K, H, W) over the classes."""
    share = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(share / share.sum(1, keepdims=True))


def regions(found: ClassMap, classes: Sequence[int]) -> Annotations:
    """The connected regions of some classes as instances with masks.

    Args:
        found: The class map.
        classes: Which.

    Returns:
        Those of at least ``LEAST_AREA`` pixels, class by class; a region's score is the mean of its
        pixels'. Pixels that touch at a corner are connected.
    """
    boxes, class_id, score, shapes = [], [], [], []
    for kind in classes:
        inside = (found.indices == kind).astype(np.uint8)
        count, part, stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=8)
        for i in range(1, count):
            x, y, w, h, area = stats[i].tolist()
            if area < LEAST_AREA:
                continue
            bits = part[y : y + h, x : x + w] == i
            boxes.append([x, y, x + w, y + h])
            class_id.append(kind)
            score.append(found.score[y : y + h, x : x + w][bits].mean())
            shapes.append(Mask(x, y, bits))
    return Annotations(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(class_id, np.int64),
        np.array(score, np.float32),
        tuple(shapes),
    )


class Segmenter:
    """A loaded model file that makes class maps. It may be used from several threads at once.

    Attributes:
        meta: What the file says of itself.
        path: Where the file is.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        """Opens a model file.

        Args:
            path: The .onnx file.
            threads: Cores used for one inference; all when None.

        Raises:
            ModelError: No such file, not an ONNX file, or not a segmenter of ours.
        """
        session, values = open_model(path, threads)
        if values.get("task") != TASK:
            raise ModelError(
                f"{path}: expected a model that makes class maps, found task "
                f"{values.get('task')!r}. Train one with: semiscope train segment"
            )
        self.meta = checked_meta(SegmenterMeta, values, path)
        self.path = path
        name = session.get_inputs()[0].name
        self._engine: Engine = lambda inputs: session.run(None, {name: inputs})[0]

    @staticmethod
    def load(name: str | Path, threads: int | None = None) -> Segmenter:
        """A segmenter by its name in the zoo or the path of its file.

        Raises:
            ModelError: As ``Segmenter``.
        """
        return Segmenter(locate(name), threads)

    def card(self) -> dict[str, Any]:
        """What results tell of the model: plain JSON values, with the SHA-256 of its file."""
        card = self.meta.model_dump(mode="json", exclude={"version"})
        return {**card, "sha256": hashlib.sha256(self.path.read_bytes()).hexdigest()}

    def segment(self, pixels: Pixels, overlap: float = OVERLAP, batch: int = 1) -> ClassMap:
        """The class map of an image of any size, (H, W) or (H, W, 3), without info bar.

        Args:
            pixels: The image.
            overlap: Part of a tile that neighbours share in a large image.
            batch: Tiles an inference.
        """
        return segment(self._engine, self.meta.input, pixels, overlap, batch)


def is_segmenter(name: str | Path) -> bool:
    """Whether a model, by its name in the zoo or the path of its file, makes class maps."""
    return read_task(locate(name)) == TASK
