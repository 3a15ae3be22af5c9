from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from semiscope.io.image import find_images, read_image
from semiscope.io.info_bar import find_info_bar

DATA = Path(__file__).parents[2] / "../shared/data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data")


def lines(height: int, width: int, *, across: bool, noise: float, seed: int = 0) -> np.ndarray:
    """A line-space pattern; across means that the lines run from left to right."""
    rng = np.random.default_rng(seed)
    place = np.arange(height)[:, None] if across else np.arange(width)[None, :]
    wave = np.where(np.sin(place * 2 * np.pi / 37) > 0, 180.0, 0.0)
    image = np.broadcast_to(wave, (height, width)) + rng.normal(0, noise, (height, width))
    return np.clip(image, 0, 255).astype(np.uint8)


def bar(height: int, width: int, *, ink: int = 255, frame: bool = False) -> np.ndarray:
    image = np.full((height, width), 255 - ink, np.uint8)
    text = "5.0 kV  x 50 000  WD 4.1 mm  TLD   500 nm"
    cv2.putText(image, text, (8, int(height * 0.7)), cv2.FONT_HERSHEY_SIMPLEX, width / 1000, ink, 1,
                cv2.LINE_AA)  # fmt: skip
    cv2.line(image, (int(width * 0.8), height - 7), (int(width * 0.95), height - 7), ink, 2)
    if frame:
        image[0] = ink
    return image


@pytest.mark.parametrize(("across", "noise"), [(True, 8.0), (False, 8.0), (False, 0.0)])
@pytest.mark.parametrize("ink", [0, 255])
@pytest.mark.parametrize("frame", [True, False])
@pytest.mark.parametrize("quality", [None, 80])
def test_a_bar_below_lines(across: bool, noise: float, ink: int, frame: bool, quality: int | None):
    image = np.vstack([lines(480, 640, across=across, noise=noise), bar(44, 640, ink=ink,
                                                                         frame=frame)])  # fmt: skip
    if quality is not None:
        options = [cv2.IMWRITE_JPEG_QUALITY, quality]
        image = cv2.imdecode(cv2.imencode(".jpg", image, options)[1], cv2.IMREAD_GRAYSCALE)
    assert abs(find_info_bar(image) - 44) <= (3 if quality is None else 8)


def test_a_bar_in_other_depths_and_in_colour():
    image = np.vstack([lines(480, 640, across=False, noise=8), bar(44, 640)])
    assert find_info_bar(image.astype(np.uint16) * 16) == 44
    assert find_info_bar((image / np.float32(255)).astype(np.float32)) == 44
    assert find_info_bar(np.dstack([image] * 3)) == 44


@pytest.mark.parametrize("across", [True, False])
@pytest.mark.parametrize("noise", [0.0, 1.0, 8.0])
@pytest.mark.parametrize("height", [97, 128, 480, 500])
def test_no_bar_on_lines(across: bool, noise: float, height: int):
    assert find_info_bar(lines(height, 640, across=across, noise=noise)) == 0


def test_no_bar_on_dashes_blanks_and_small_images():
    dashes = lines(480, 640, across=False, noise=8)
    dashes[400:] = 0
    dashes[430:450, ::40] = 255
    dashes[430:450, 1::40] = 255
    assert find_info_bar(dashes) == 0
    for value in (0, 255):
        assert find_info_bar(np.full((480, 640), value, np.uint8)) == 0
    assert find_info_bar(np.zeros((3, 3), np.uint8)) == 0
    assert find_info_bar(np.zeros((480, 640), np.float32)) == 0


def test_it_costs_less_than_a_millisecond():
    image = np.vstack([lines(436, 640, across=False, noise=8), bar(44, 640)])

    def seconds() -> float:
        start = time.process_time()
        for _ in range(20):
            find_info_bar(image)
        return (time.process_time() - start) / 20

    assert min(seconds() for _ in range(3)) < 1e-3


@pytest.mark.data
@needs_data
@pytest.mark.parametrize(
    "name", ["test1", "test_analysis_raw_half_lines", "test_stack1", "test_stack2"]
)
def test_real_bars_of_120_rows(name: str):
    image = read_image(DATA / f"sem_lines/{name}.jpg")
    assert image.info_bar_px == 120
    assert image.specimen.shape == (2048, 2048)


@pytest.mark.data
@needs_data
def test_a_real_bar_below_another_image():
    strip = read_image(DATA / "sem_lines/test_analysis_size_bar.jpg").pixels
    assert strip.shape == (116, 1255)
    above = lines(1000, 1255, across=True, noise=6)
    assert abs(find_info_bar(np.vstack([above, strip])) - 116) <= 8


@pytest.mark.data
@needs_data
@pytest.mark.parametrize("folder", ["sem_defects/train", "deeppcb"])
def test_no_bar_on_real_images_without_one(folder: str):
    paths = find_images([DATA / folder])
    found = [str(path) for path in paths if read_image(path).info_bar_px]
    assert found == []
