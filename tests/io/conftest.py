from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from semiscope.geometry import crop, shape_box
from semiscope.types import Annotations, Dataset, Mask, Polygons, Sample

CLASSES = ("gap", "micro bridge", "größe")


def write_image(path: Path, height: int = 48, width: int = 64, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    return path


def star(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A simple polygon with sub-pixel corners."""
    angle = np.sort(rng.uniform(0, 2 * np.pi, 9)) + np.linspace(0, 0.05, 9)
    radius = rng.uniform(4, 9, 9)
    centre = rng.uniform(10, (width - 10, height - 10))
    return centre + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def hollow(rng: np.random.Generator, height: int, width: int) -> Mask:
    """A mask in two parts, one with a hole."""
    bits = np.zeros((height, width), bool)
    x, y = rng.integers(1, (width - 20, height - 16))
    bits[y : y + 9, x : x + 8] = True
    bits[y + 3 : y + 6, x + 2 : x + 5] = False
    bits[y + 11 : y + 13, x + 10 : x + 15] = True
    return crop(bits)


def random_annotations(kind: str, seed: int, height: int = 48, width: int = 64) -> Annotations:
    """Instances of a kind: "box", "polygon", "two rings" or "mask"."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 5))
    class_id = rng.integers(0, len(CLASSES), n)
    if kind == "box":
        corner = rng.uniform(0, (width / 2, height / 2), (n, 2))
        size = rng.uniform(1, (width / 2, height / 2), (n, 2))
        return Annotations(np.hstack([corner, corner + size]), class_id)
    shapes: list = []
    for _ in range(n):
        if kind == "mask":
            shapes.append(hollow(rng, height, width))
        elif kind == "polygon":
            shapes.append(Polygons((star(rng, height, width),)))
        else:
            left, right = star(rng, height, width // 2), star(rng, height, width // 2)
            shapes.append(Polygons((left, right + (width / 2, 0))))
    boxes = np.stack([shape_box(s) for s in shapes])
    return Annotations(boxes, class_id, shapes=tuple(shapes))


@pytest.fixture
def make_dataset(tmp_path: Path):
    """Builds a data set of random instances; its images lie in ``tmp_path / "source"``."""

    def make(kind: str = "box", splits: tuple[str, ...] = ("train", "val")) -> Dataset:
        samples = []
        for split in splits:
            for i in range(4):
                path = tmp_path / "source" / (split or "all") / f"im {i} #{split}.png"
                write_image(path, seed=i)
                found: Annotations | None = random_annotations(kind, i)
                if split == "unlabelled":
                    found = None
                elif i == 3:
                    found = Annotations.empty()
                samples.append(Sample(path, (48, 64), found, split=split))
        return Dataset(CLASSES, tuple(samples))

    return make
