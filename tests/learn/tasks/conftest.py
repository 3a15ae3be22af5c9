from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

SQUARE = np.array([[-10, -10], [10, -10], [10, 10], [-10, 10]])
TRIANGLE = np.array([[0, -12], [12, 10], [-12, 10]])


@pytest.fixture(scope="session")
def outlined() -> Callable[[Path], Path]:
    """Writes images with a bright square or triangle each, every third clean; YOLO polygons."""

    def write(root: Path, count: int = 12) -> Path:
        rng = np.random.default_rng(0)
        for split, n in (("train", count), ("val", 4)):
            (root / split / "images").mkdir(parents=True)
            (root / split / "labels").mkdir()
            for i in range(n):
                image = rng.integers(20, 60, (70, 90), dtype=np.uint8)
                line = ""
                if i % 3 < 2:
                    ring = (SQUARE, TRIANGLE)[i % 3] + (rng.integers(20, 70), rng.integers(20, 50))
                    cv2.fillPoly(image, [ring.astype(np.int32)], 230)
                    numbers = " ".join(str(v) for v in ((ring + 0.5) / (90, 70)).flatten())
                    line = f"{i % 3} {numbers}\n"
                cv2.imwrite(str(root / split / "images" / f"{i}.png"), image)
                (root / split / "labels" / f"{i}.txt").write_text(line)
        (root / "classes.txt").write_text("square\ntriangle\n")
        return root

    return write


def layers(rng: np.random.Generator, size: tuple[int, int] = (64, 80)):
    """A dark matrix, a bright layer across it, and in the layer a black crack: pixels, classes."""
    classes = np.zeros(size, np.uint8)
    top = int(rng.integers(12, size[0] - 36))
    classes[top : top + 20] = 1
    left = int(rng.integers(8, size[1] - 16))
    classes[top + 4 : top + 16, left : left + 4] = 2
    grey = np.array([70, 190, 10])[classes] + rng.normal(0, 8, size)
    return grey.clip(0, 255).round().astype(np.uint8), classes


@pytest.fixture(scope="session")
def layered() -> Callable[[Path], Path]:
    """Writes a data set of such images with class maps, 255 at a corner."""

    def write(root: Path, train: int = 4, val: int = 2, unlabelled: int = 0) -> Path:
        rng = np.random.default_rng(0)
        for split, n in (("train", train), ("val", val), ("unlabelled", unlabelled)):
            for i in range(n):
                pixels, classes = layers(rng)
                classes[:3, :3] = 255
                for folder, values in (("images", pixels), ("masks", classes)):
                    if (split, folder) != ("unlabelled", "masks"):
                        (root / split / folder).mkdir(parents=True, exist_ok=True)
                        cv2.imwrite(str(root / split / folder / f"{i}.png"), values)
        (root / "classes.txt").write_text("matrix\nlayer\ncrack\n")
        return root

    return write


@pytest.fixture(scope="session")
def halves() -> Callable[[Path], Path]:
    """Writes images in folders: which half is bright, or neither; grey and colour, many sizes."""

    def write(root: Path, train: int = 6, val: int = 3) -> Path:
        rng = np.random.default_rng(0)
        for split, n in (("train", train), ("val", val)):
            for name in ("even", "left", "right"):
                (root / split / name).mkdir(parents=True)
                for i in range(n):
                    height, width = rng.integers(20, 60, 2)
                    image = rng.integers(20, 60, (height, width), dtype=np.uint8)
                    half = {"left": slice(0, width // 2), "right": slice(width // 2, None)}
                    if name in half:
                        image[:, half[name]] += 150
                    if i % 2:
                        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
                    cv2.imwrite(str(root / split / name / f"{i}.png"), image)
        return root

    return write
