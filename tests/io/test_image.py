from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from semiscope.errors import DataError, ImageError, SemiscopeError
from semiscope.io.image import find_images, grey_if_equal, read_image, read_size, write_tiff

DATA = Path(__file__).parents[2] / "../shared/data"
RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (40, 56, 3)).astype(np.uint8)
COLOUR[:16, :16] = (250, 10, 10)
GREY = RNG.integers(0, 256, (40, 56)).astype(np.uint8)
DEEP = RNG.integers(0, 4096, (40, 56)).astype(np.uint16)
REAL = RNG.normal(0, 1, (40, 56)).astype(np.float32)


def encode(suffix: str, rgb: np.ndarray, *options: int) -> bytes:
    bgr = rgb if rgb.ndim == 2 else cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    return cv2.imencode(suffix, bgr, list(options))[1].tobytes()


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def png_part(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png_of_size(width: int, height: int) -> bytes:
    header = png_part(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    rest = png_part(b"IDAT", zlib.compress(b"\0" * 100)) + png_part(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + rest


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
@pytest.mark.parametrize("pixels", [COLOUR, GREY])
def test_lossless_files_come_back_in_rgb_order(tmp_path: Path, suffix: str, pixels: np.ndarray):
    image = read_image(put(tmp_path / f"a{suffix}", encode(suffix, pixels)))
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.pixels.dtype == np.uint8
    assert image.notes == ()
    assert read_size(image.path) == pixels.shape[:2]


def test_jpeg_keeps_colour_and_grey(tmp_path: Path):
    smooth = cv2.GaussianBlur(np.full((64, 64, 3), (200, 40, 40), np.uint8), (5, 5), 0)
    colour = read_image(put(tmp_path / "c.jpg", encode(".jpg", smooth))).pixels
    assert np.abs(colour.astype(int) - smooth).max() <= 4
    assert read_image(put(tmp_path / "g.jpeg", encode(".jpg", GREY))).pixels.ndim == 2
    assert read_size(tmp_path / "c.jpg") == (64, 64)


def test_png_of_16_bits_is_not_squeezed(tmp_path: Path):
    image = read_image(put(tmp_path / "deep.png", encode(".png", DEEP)))
    assert image.pixels.dtype == np.uint16
    np.testing.assert_array_equal(image.pixels, DEEP)


def test_alpha_is_dropped_with_a_note(tmp_path: Path):
    bgra = np.dstack([COLOUR[:, :, ::-1], np.full(COLOUR.shape[:2], 128, np.uint8)])
    image = read_image(put(tmp_path / "a.png", cv2.imencode(".png", bgra)[1].tobytes()))
    np.testing.assert_array_equal(image.pixels, COLOUR)
    assert image.notes == ("the alpha channel was dropped",)


def test_palette_png_has_its_colours(tmp_path: Path):
    header = png_part(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 8, 3, 0, 0, 0))
    palette = png_part(b"PLTE", bytes([255, 0, 0, 0, 0, 255]))
    data = png_part(b"IDAT", zlib.compress(b"\0\0\1"))
    whole = b"\x89PNG\r\n\x1a\n" + header + palette + data + png_part(b"IEND", b"")
    image = read_image(put(tmp_path / "p.png", whole))
    assert image.pixels.tolist() == [[[255, 0, 0], [0, 0, 255]]]


def test_rgb_that_holds_grey_is_grey_and_a_small_colour_stays(tmp_path: Path):
    grey = np.repeat(GREY[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(
        read_image(put(tmp_path / "g.png", encode(".png", grey))).pixels, GREY
    )
    noisy = np.clip(grey.astype(int) + RNG.integers(-3, 4, grey.shape), 0, 255).astype(np.uint8)
    assert grey_if_equal(noisy).ndim == 2
    spot = np.full((480, 640, 3), 128, np.uint8)
    spot[200:216, 104:120] = (160, 120, 120)
    assert grey_if_equal(spot).ndim == 3
    equal = np.repeat(REAL[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(grey_if_equal(equal), REAL)


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        (GREY, {}),
        (COLOUR, {"photometric": "rgb"}),
        (COLOUR.transpose(2, 0, 1), {"photometric": "rgb", "planarconfig": "separate"}),
        (DEEP, {}),
        (DEEP, {"rowsperstrip": 7, "compression": "zlib"}),
        (DEEP, {"tile": (16, 32)}),
        (REAL, {}),
        (REAL.astype(np.float64), {}),
        (DEEP.astype(np.int16), {}),
        (DEEP.astype(np.int32), {}),
        (DEEP, {"byteorder": ">"}),
        (GREY, {"bigtiff": True}),
        (GREY, {"photometric": "miniswhite"}),
    ],
)
def test_tiff_variants(tmp_path: Path, pixels: np.ndarray, options: dict):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, **options)
    image = read_image(path)
    expected = COLOUR if pixels.ndim == 3 else pixels
    if options.get("photometric") == "miniswhite":
        expected = 255 - pixels
    np.testing.assert_allclose(image.pixels, expected)
    assert image.pixels.dtype == {
        "int16": np.uint16, "int32": np.uint16, "float64": np.float32
    }.get(pixels.dtype.name, pixels.dtype)  # fmt: skip
    assert read_size(path) == expected.shape[:2]


@pytest.mark.parametrize("compression", [cv2.IMWRITE_TIFF_COMPRESSION_LZW, 32773])
@pytest.mark.parametrize("pixels", [GREY, DEEP, COLOUR])
def test_compressed_tiff(tmp_path: Path, pixels: np.ndarray, compression: int):
    scheme = 5 if compression == cv2.IMWRITE_TIFF_COMPRESSION_LZW else compression
    data = encode(".tif", pixels, cv2.IMWRITE_TIFF_COMPRESSION, scheme)
    image = read_image(put(tmp_path / "lzw.tif", data))
    np.testing.assert_array_equal(image.pixels, pixels)


@pytest.mark.parametrize("compression", [5, 8, 32773])
@pytest.mark.parametrize("pixels", [GREY, DEEP])
def test_compressed_tiff_whose_white_is_zero(tmp_path: Path, pixels: np.ndarray, compression: int):
    data = bytearray(encode(".tif", pixels, cv2.IMWRITE_TIFF_COMPRESSION, compression))
    photometric = data.index(struct.pack("<HHI", 262, 3, 1))
    data[photometric + 8 : photometric + 10] = bytes(2)
    image = read_image(put(tmp_path / "white.tif", bytes(data)))
    np.testing.assert_array_equal(image.pixels, np.iinfo(pixels.dtype).max - pixels)


def test_palette_tiff_has_its_colours(tmp_path: Path):
    colormap = np.zeros((3, 256), np.uint16)
    colormap[0, 1] = 65535
    path = tmp_path / "p.tif"
    tifffile.imwrite(path, np.array([[0, 1]], np.uint8), photometric="palette", colormap=colormap)
    assert read_image(path).pixels.tolist() == [[[0, 0, 0], [255, 0, 0]]]


def test_first_of_several_pages_and_a_note(tmp_path: Path):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, np.stack([DEEP, DEEP + 1, DEEP + 2]), photometric="minisblack")
    image = read_image(path)
    np.testing.assert_array_equal(image.pixels, DEEP)
    assert image.notes == ("the file holds 3 images; the first is used",)


def test_thumbnails_are_no_pages(tmp_path: Path):
    path = tmp_path / "thumb.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(GREY)
        file.write(GREY[::4, ::4], subfiletype=1)
    assert read_image(path).notes == ()


def test_tiff_with_many_channels_is_refused(tmp_path: Path):
    path = tmp_path / "many.tif"
    tifffile.imwrite(path, np.zeros((8, 8, 5), np.uint8), photometric="minisblack",
                     planarconfig="contig")  # fmt: skip
    with pytest.raises(ImageError, match="found 5"):
        read_image(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_pixels_are_an_error_that_counts_them(tmp_path: Path, value: float):
    broken = REAL.copy()
    broken[3, 4:7] = value
    path = tmp_path / "nan.tif"
    tifffile.imwrite(path, broken)
    with pytest.raises(ImageError, match="3 of 2240 pixel values are NaN or infinite"):
        read_image(path)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
def test_cut_off_files_are_errors(tmp_path: Path, suffix: str, keep: float):
    data = encode(suffix, cv2.resize(COLOUR, (300, 200)))
    path = put(tmp_path / f"cut{suffix}", data[: int(len(data) * keep)])
    with pytest.raises(ImageError) as error:
        read_image(path)
    assert path.name in str(error.value)


def test_cut_off_jpeg_with_a_whole_thumbnail_inside_is_an_error(tmp_path: Path):
    data = encode(".jpg", cv2.resize(COLOUR, (300, 200)))
    small = encode(".jpg", COLOUR)
    application = b"\xff\xe1" + struct.pack(">H", len(small) + 2) + small
    whole = data[:2] + application + data[2:]
    assert read_image(put(tmp_path / "whole.jpg", whole)).width == 300
    with pytest.raises(ImageError, match="cut off"):
        read_image(put(tmp_path / "cut.jpg", whole[:-200]))


def test_cut_off_tiff_tiles_are_errors(tmp_path: Path):
    path = tmp_path / "tiles.tif"
    tifffile.imwrite(path, np.zeros((64, 64), np.uint16), tile=(32, 32))
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    with pytest.raises(ImageError, match="cut off"):
        read_image(path)


def test_damaged_png_is_an_error(tmp_path: Path):
    data = bytearray(encode(".png", COLOUR))
    data[len(data) // 2] ^= 255
    with pytest.raises(ImageError, match="checksum"):
        read_image(put(tmp_path / "flip.png", bytes(data)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes"),
        (bytes(5000), "only zeros"),
        (b"this is a text file\n" * 30, "expected a PNG, JPEG, BMP or TIFF"),
        (b"\x89PNG\r\n\x1a\n\0\0", "header"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "frame header"),
        (b"BM1234", "expected a PNG"),
        (b"BM12345678901", "header"),
        (b"II*\0\x08\0\0\0", "TIFF cannot be read"),
    ],
)
def test_what_is_no_image_is_an_error(tmp_path: Path, data: bytes, message: str):
    path = put(tmp_path / "x.jpg", data)
    for read in (read_image, read_size):
        with pytest.raises(ImageError, match=message):
            read(path)


def huge_tiff(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((8, 8), np.uint8))
    data = bytearray(path.read_bytes())
    for tag in (256, 257):
        where = data.index(struct.pack("<HHI", tag, 4, 1))
        data[where + 8 : where + 12] = struct.pack("<I", 60_000)
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "tif", "jpg-in-limits"])
def test_a_huge_header_in_a_tiny_file_is_refused_without_memory(tmp_path: Path, kind: str):
    path = tmp_path / f"huge.{kind[:3]}"
    if kind == "png":
        path.write_bytes(png_of_size(60_000, 60_000))
    elif kind.startswith("jpg"):
        side = 19_000 if kind == "jpg-in-limits" else 60_000
        data = bytearray(encode(".jpg", GREY))
        frame = data.index(b"\xff\xc0")
        data[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
        path.write_bytes(bytes(data))
    elif kind == "bmp":
        data = bytearray(encode(".bmp", GREY))
        data[18:26] = struct.pack("<ii", 60_000, 60_000)
        path.write_bytes(bytes(data))
    else:
        huge_tiff(path)
    tracemalloc.start()
    for read in (read_image, read_size):
        with pytest.raises(ImageError, match="the header claims"):
            read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6


def test_content_counts_not_the_name(tmp_path: Path):
    image = read_image(put(tmp_path / "really.png", encode(".jpg", GREY)))
    assert image.notes == ("named .png but holds a JPEG image",)


def test_a_missing_file_or_a_folder_is_an_error(tmp_path: Path):
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(ImageError, match="cannot be opened"):
        read_image(tmp_path)


@pytest.mark.parametrize("name", ["a #1.png", "a [b] (c).png", "größe µ 图.png", " lead.png"])
def test_odd_names(tmp_path: Path, name: str):
    path = put(tmp_path / name, encode(".png", GREY))
    assert find_images([path]) == [path]
    assert find_images([tmp_path]) == [path]
    np.testing.assert_array_equal(read_image(path).pixels, GREY)


def test_find_images_takes_files_folders_and_patterns_once(tmp_path: Path):
    for name in ("b/2.PNG", "b/1.tif", "a.jpg", "note.txt", ".hidden/3.png", "b/.4.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    a, one, two = (tmp_path / n for n in ("a.jpg", "b/1.tif", "b/2.PNG"))
    assert find_images([tmp_path]) == [a, one, two]
    assert find_images([tmp_path / "b", a, one]) == [one, two, a]
    assert find_images([f"{tmp_path}/*"]) == [a, one, two]
    assert find_images([f"{tmp_path}/**/*.tif"]) == [one]
    # what is asked for by name stays in the list, so that its failure is listed
    assert find_images([tmp_path / "note.txt"]) == [tmp_path / "note.txt"]
    assert find_images([a, tmp_path / "gone.png"]) == [a, tmp_path / "gone.png"]


def test_find_images_prefers_a_name_with_brackets_to_a_pattern(tmp_path: Path):
    for name in ("lot[1].png", "lot1.png"):
        (tmp_path / name).touch()
    assert find_images([tmp_path / "lot[1].png"]) == [tmp_path / "lot[1].png"]


def test_find_images_without_any_image_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match="found none"):
        find_images([tmp_path])


@pytest.mark.parametrize("pixels", [GREY, COLOUR, DEEP, REAL, np.dstack([DEEP * 9] * 2 + [DEEP])])
@pytest.mark.parametrize("nm_per_px", [None, 1.8, 0.0123, 1 / 3, 12_345.678, 1e6])
def test_written_tiff_comes_back(tmp_path: Path, pixels: np.ndarray, nm_per_px: float | None):
    path = tmp_path / "new folder" / "a.tif"
    write_tiff(path, pixels, nm_per_px)
    image = read_image(path)
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.pixels.dtype == pixels.dtype
    assert image.notes == ()
    if nm_per_px is None:
        assert image.nm_per_px is None
    else:
        assert image.nm_per_px == pytest.approx(nm_per_px, rel=1e-9)
    first = path.read_bytes()
    write_tiff(path, pixels, nm_per_px)
    assert path.read_bytes() == first


def test_written_tiff_holds_no_date(tmp_path: Path):
    write_tiff(tmp_path / "a.tif", DEEP, 2.0)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert not {"DateTime", "Software"} & {tag.name for tag in file.pages[0].tags}
        assert file.imagej_metadata["unit"] == "nm"


def test_write_where_nothing_can_be_written(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(SemiscopeError, match="cannot be written"):
        write_tiff(tmp_path / "file" / "a.tif", GREY)


def test_nothing_is_spilled_on_standard_error(tmp_path: Path):
    profile = png_part(b"iCCP", b"icc\0\0" + zlib.compress(bytes(200)))
    whole = encode(".png", GREY)
    put(tmp_path / "profile.png", whole[:33] + profile + whole[33:])
    put(tmp_path / "cut.jpg", encode(".jpg", COLOUR)[:-300])
    put(tmp_path / "cut.png", whole[:-300])
    lzw = bytearray(encode(".tif", DEEP, cv2.IMWRITE_TIFF_COMPRESSION, 5))
    lzw[20:400] = b"\xff" * 380
    put(tmp_path / "lzw.tif", bytes(lzw))
    code = (
        "import sys; from pathlib import Path\n"
        "from semiscope.io.image import read_image\n"
        "for path in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    try: print(path.name, read_image(path).pixels.shape)\n"
        "    except Exception as error: print(path.name, type(error).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "cut.jpg ImageError",
        "cut.png ImageError",
        "lzw.tif ImageError",
        "profile.png (40, 56)",
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_an_error(tmp_path: Path):
    path = put(tmp_path / "a.png", encode(".png", GREY))
    path.chmod(0)
    with pytest.raises(ImageError, match="cannot be opened"):
        read_image(path)


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data")
def test_real_images_read_in_little_more_than_the_decoder_needs():
    paths = find_images([DATA / "wafer_die_optical/test/images"])[:30]
    assert all(read_image(path).pixels.ndim == 3 for path in paths)

    def seconds(read) -> float:
        start = time.process_time()
        for path in paths:
            read(path)
        return time.process_time() - start

    ratios = [seconds(read_image) / seconds(lambda p: cv2.imread(str(p))) for _ in range(3)]
    assert min(ratios) < 2.5


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data")
def test_real_sem_images_are_grey_but_for_drawings():
    images = [read_image(p) for p in find_images([DATA / "sem_defects/test"])]
    # what stays in colour has arrows or tints that a person sees
    assert np.mean([i.pixels.ndim == 3 for i in images]) < 0.1
    assert all(i.pixels.shape[:2] == (128, 128) for i in images)
