"""Tags and text files as the makers write them, put beside or into images made here."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from semiscope.io.image import read_image

WIDTH, HEIGHT = 128, 96
PIXELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH)).astype(np.uint8)

FEI = (
    "[User]\r\nUser=someone\r\n[Beam]\r\nHV=5000\r\n[EScan]\r\nPixelWidth={x}\r\n"
    "PixelHeight={y}\r\n[Image]\r\nResolutionX={width}\r\nResolutionY={rows}\r\n"
)
ZEISS = (
    "\r\n0\r\n0\r\nDP_IMAGE_STORE\r\nStore resolution = {width} * {rows}\r\n"
    "AP_PIXEL_SIZE\r\nPixel Size = {screen}\r\n"
    "AP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = {image}\r\n"
)
JEOL = (
    "$CM_FORMAT JEOL-SEM\r\n$CM_VERSION 1.0\r\n$CM_MAG 50000\r\n$CM_FULL_SIZE {width} 96\r\n"
    "$$SM_MICRON_BAR {bar}\r\n$$SM_MICRON_MARKER {marker}\r\n"
)
HITACHI = (
    "[SemImageFile]\r\nInstructName=S-4800\r\nDataSize={width}x96\r\nPixelSize={nm}\r\n"
    "Magnification=100000\r\n"
)


def tagged(path: Path, tag: int, text: str, pixels: np.ndarray = PIXELS, **options) -> Path:
    tifffile.imwrite(
        path,
        pixels,
        extratags=[(tag, "s", 0, text.encode("cp1252"), True)],
        metadata=None,
        **options,
    )
    return path


def fei(x: str = "1.35e-009", y: str = "1.35e-009", width: int = WIDTH, rows: int = HEIGHT) -> str:
    return FEI.format(x=x, y=y, width=width, rows=rows)


def zeiss(image: str, screen: str = "9.9 nm", width: int = WIDTH) -> str:
    return ZEISS.format(image=image, screen=screen, width=width, rows=HEIGHT)


@pytest.mark.parametrize("tag", [34682, 34680])
def test_fei(tmp_path: Path, tag: int):
    image = read_image(tagged(tmp_path / "a.tif", tag, fei()))
    assert image.nm_per_px == pytest.approx(1.35)
    assert image.modality == "sem"
    assert image.info_bar_px == 0
    assert image.notes == ()


def test_fei_tells_the_height_of_its_bar(tmp_path: Path):
    image = read_image(tagged(tmp_path / "a.tif", 34682, fei(rows=HEIGHT - 11)))
    assert image.info_bar_px == 11
    np.testing.assert_array_equal(image.specimen, PIXELS[:-11])


def test_fei_pixels_that_are_not_square(tmp_path: Path):
    image = read_image(tagged(tmp_path / "a.tif", 34682, fei(y="1.5e-009")))
    assert image.nm_per_px is None
    assert "1.35 nm along x and 1.5 nm along y" in image.notes[0]


def test_an_image_that_was_resized_after_its_tag_was_written(tmp_path: Path):
    image = read_image(tagged(tmp_path / "a.tif", 34682, fei(width=1536)))
    assert image.nm_per_px is None
    assert "1536 px wide, this one has 128" in image.notes[0]


@pytest.mark.parametrize(
    ("text", "nm"), [("2.233 nm", 2.233), ("0.0124 µm", 12.4), ("553.0 pm", 0.553)]
)
def test_zeiss(tmp_path: Path, text: str, nm: float):
    image = read_image(tagged(tmp_path / "a.tif", 34118, zeiss(text)))
    assert image.nm_per_px == pytest.approx(nm)
    assert image.modality == "sem"


def test_zeiss_without_the_stored_images_size(tmp_path: Path):
    text = "\r\n0\r\nAP_PIXEL_SIZE\r\nPixel Size = 3.5 nm\r\n"
    assert read_image(tagged(tmp_path / "a.tif", 34118, text)).nm_per_px == pytest.approx(3.5)


@pytest.mark.parametrize("suffix", [".tif", ".jpg", ".bmp"])
def test_jeol_text_file(tmp_path: Path, suffix: str):
    cv2.imwrite(str(tmp_path / f"a{suffix}"), PIXELS)
    (tmp_path / "a.txt").write_text(JEOL.format(width=WIDTH, bar=80, marker="200nm"))
    image = read_image(tmp_path / f"a{suffix}")
    assert image.nm_per_px == pytest.approx(2.5)
    assert image.modality == "sem"
    (tmp_path / "a.txt").write_bytes(
        JEOL.format(width=WIDTH, bar=80, marker="1µm").encode("cp1252")
    )
    assert read_image(tmp_path / f"a{suffix}").nm_per_px == pytest.approx(12.5)


def test_jeol_magnification_where_there_is_no_bar(tmp_path: Path):
    cv2.imwrite(str(tmp_path / "a.bmp"), PIXELS)
    (tmp_path / "a.txt").write_text(f"$CM_MAG 50000\n$CM_FULL_SIZE {WIDTH} 96\n")
    # a picture 120 mm wide at 50,000 times shows 2.4 µm
    assert read_image(tmp_path / "a.bmp").nm_per_px == pytest.approx(2400 / WIDTH)


def test_hitachi_text_file(tmp_path: Path):
    cv2.imwrite(str(tmp_path / "a.png"), PIXELS)
    (tmp_path / "a.txt").write_text(HITACHI.format(width=WIDTH, nm=0.9921875))
    assert read_image(tmp_path / "a.png").nm_per_px == pytest.approx(0.9921875)
    (tmp_path / "a.txt").write_text(HITACHI.format(width=1280, nm=0.9921875))
    assert read_image(tmp_path / "a.png").nm_per_px is None


def test_a_text_file_that_is_something_else_tells_nothing(tmp_path: Path):
    cv2.imwrite(str(tmp_path / "a.png"), PIXELS)
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    image = read_image(tmp_path / "a.png")
    assert (image.nm_per_px, image.modality, image.notes) == (None, None, ())


@pytest.mark.parametrize(
    ("unit", "per_unit", "nm"),
    [("nm", 0.5, 2.0), ("um", 200.0, 5.0), ("micron", 200.0, 5.0), ("\\u00B5m", 200.0, 5.0),
     ("mm", 1e5, 10.0), ("pixel", 2.0, None), ("inch", 72.0, None)],
)  # fmt: skip
def test_imagej(tmp_path: Path, unit: str, per_unit: float, nm: float | None):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS, imagej=True, resolution=(per_unit, per_unit),
                     metadata={"unit": unit})  # fmt: skip
    image = read_image(path)
    assert image.nm_per_px == (None if nm is None else pytest.approx(nm, rel=1e-6))
    assert image.notes == ()


@pytest.mark.parametrize(
    ("unit", "per_unit", "nm"),
    [(3, 1e7 / 1.8, 1.8), (2, 2.54e7 / 250, 250.0), (1, 1e7, None), (2, 72, None), (2, 96, None),
     (2, 300, None), (2, 600, None), (2, 2400, None), (3, 118.11, None), (3, 28.35, None)],
)  # fmt: skip
def test_resolution_tags_count_where_they_are_a_microscopes(
    tmp_path: Path, unit: int, per_unit: float, nm: float | None
):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS, resolution=(per_unit, per_unit), resolutionunit=unit)
    image = read_image(path)
    assert image.nm_per_px == (None if nm is None else pytest.approx(nm, rel=1e-6))


def test_sources_that_agree_and_sources_that_contradict(tmp_path: Path):
    agree = {"resolution": (1e7 / 1.35, 1e7 / 1.35), "resolutionunit": 3}
    image = read_image(tagged(tmp_path / "a.tif", 34682, fei(), **agree))
    assert image.nm_per_px == pytest.approx(1.35)
    other = {"resolution": (1e7 / 2, 1e7 / 2), "resolutionunit": 3}
    image = read_image(tagged(tmp_path / "b.tif", 34682, fei(), **other))
    assert image.nm_per_px is None
    assert image.notes == (
        "the pixel size contradicts itself: the FEI tag says 1.35 nm, "
        "the resolution tags says 2 nm; taken as unknown",
    )


def test_a_tag_full_of_nonsense_tells_nothing(tmp_path: Path):
    for tag in (34682, 34118):
        text = "[Scan]\r\nPixelWidth=abc\r\n[[[\r\nAP_PIXEL_SIZE\r\nPixel Size = -- nm\r\n"
        image = read_image(tagged(tmp_path / f"{tag}.tif", tag, text))
        assert image.nm_per_px is None
        np.testing.assert_array_equal(image.pixels, PIXELS)
