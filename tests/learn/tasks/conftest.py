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
