from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from semiscope.errors import ImageError
from semiscope.geometry import crop, dense, rasterise
from semiscope.io import masks
from semiscope.types import Annotations, Dataset, Mask, Polygons, Sample

DATA = Path(__file__).parents[2] / "../shared/data"


def put(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    return path


def palette_png(indices: np.ndarray, depth: int) -> bytes:
    def part(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    height, width = indices.shape
    places = np.arange(depth - 1, -1, -1)
    bits = (indices[:, :, None] >> places & 1).reshape(height, -1).astype(np.uint8)
    rows = np.packbits(bits, axis=1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    return (
        b"\x89PNG\r\n\x1a\n"
        + part(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 3, 0, 0, 0))
        + part(b"PLTE", bytes(range(3 << depth)) if depth < 7 else bytes(3 << depth))
        + part(b"tRNS", b"\0")
        + part(b"IDAT", zlib.compress(data))
        + part(b"IEND", b"")
    )


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_palette_png_gives_its_indices(tmp_path: Path, depth: int):
    indices = np.random.default_rng(0).integers(0, 1 << depth, (5, 11))
    path = tmp_path / "p.png"
    path.write_bytes(palette_png(indices, depth))
    np.testing.assert_array_equal(masks.read_class_map(path), indices)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_class_maps_keep_their_indices(tmp_path: Path, dtype: type):
    indices = np.random.default_rng(0).integers(0, 4, (48, 64)).astype(dtype)
    np.testing.assert_array_equal(masks.read_class_map(put(tmp_path / "m.png", indices)), indices)


def test_colours_are_no_class_indices(tmp_path: Path):
    colours = np.zeros((48, 64, 3), np.uint8)
    colours[:, :, 1] = 200
    with pytest.raises(ImageError, match="found colours"):
        masks.read_class_map(put(tmp_path / "m.png", colours))


def test_read(tmp_path: Path):
    for i in range(3):
        put(tmp_path / "train" / "images" / f"{i}.png", np.zeros((48, 64), np.uint8))
    folder = tmp_path / "train" / "masks"
    put(folder / "0.png", np.full((48, 64), 2, np.uint8))
    put(folder / "1.png", np.zeros((40, 64), np.uint8))
    put(folder / "gone.png", np.zeros((48, 64), np.uint8))
    dataset = masks.read(tmp_path)
    assert dataset.classes == ("class 0", "class 1", "class 2")
    assert [s.class_map for s in dataset] == [folder / "0.png", None, None]
    wrong, without, gone = dataset.notes
    assert "expected 64 x 48 px" in wrong
    assert "image without a label" in without
    assert "label without an image" in gone


def test_class_maps_come_back(tmp_path: Path):
    indices = np.random.default_rng(0).integers(0, 3, (48, 64)).astype(np.uint8)
    indices[0] = masks.IGNORE
    sample = Sample(put(tmp_path / "a.png", indices), (48, 64),
                    class_map=put(tmp_path / "b.png", indices), split="val")  # fmt: skip
    dataset = Dataset(("matrix", "oxide", "crack"), (sample,))
    assert masks.write(dataset, tmp_path / "out") == ()
    back = masks.read(tmp_path / "out")
    assert back.classes == dataset.classes
    np.testing.assert_array_equal(masks.read_class_map(back.samples[0].class_map), indices)


def test_instances_are_painted_the_small_on_top(tmp_path: Path):
    large = Polygons((np.array([[10.0, 10], [40, 10], [40, 40], [10, 40]]),))
    bits = np.zeros((48, 64), bool)
    bits[20:24, 20:26] = True
    boxes = np.float32([[20, 20, 26, 24], [10, 10, 40, 40], [50, 2.4, 70, 5.6]])
    found = Annotations(boxes, np.array([1, 0, 1]), shapes=(crop(bits), large, None))
    sample = Sample(put(tmp_path / "a.png", bits.astype(np.uint8)), (48, 64), found)
    notes = masks.write(Dataset(("gap", "bridge"), (sample,)), tmp_path / "out")
    expected = np.zeros((48, 64), int)
    expected[dense(rasterise(large, 48, 64), 48, 64)] = 1
    expected[bits] = 2
    expected[2:6, 50:] = 2
    written = masks.read(tmp_path / "out")
    assert written.classes == ("background", "gap", "bridge")
    np.testing.assert_array_equal(masks.read_class_map(written.samples[0].class_map), expected)
    text = " ".join(notes)
    assert "'background' was put before" in text
    assert "1 instances without an outline" in text
    assert "1 images where instances overlap" in text


def test_a_class_called_background_is_not_doubled(tmp_path: Path):
    found = Annotations(np.float32([[1, 1, 3, 3]]), np.array([1]),
                        shapes=(Mask(1, 1, np.ones((2, 2), bool)),))  # fmt: skip
    sample = Sample(put(tmp_path / "a.png", np.zeros((48, 64), np.uint8)), (48, 64), found)
    masks.write(Dataset(("Background", "gap"), (sample,)), tmp_path / "out")
    back = masks.read(tmp_path / "out")
    assert back.classes == ("Background", "gap")
    assert masks.read_class_map(back.samples[0].class_map)[1, 1] == 1


def test_masks_that_reach_outside_are_cut(tmp_path: Path):
    found = Annotations(np.float32([[-2, -2, 4, 4]]), np.array([0]),
                        shapes=(Mask(-2, -2, np.ones((6, 6), bool)),))  # fmt: skip
    sample = Sample(put(tmp_path / "a.png", np.zeros((48, 64), np.uint8)), (48, 64), found)
    masks.write(Dataset(("gap",), (sample,)), tmp_path / "out")
    indices = masks.read_class_map(masks.read(tmp_path / "out").samples[0].class_map)
    assert indices[:4, :4].all()
    assert indices.sum() == 16


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data")
def test_real_class_maps():
    dataset = masks.read(DATA / "cross_sections" / "ebc")
    assert dataset.classes == ("background", "oxide", "crack")
    assert [len(dataset.split(s)) for s in ("train", "val", "test")] == [13, 3, 6]
    for sample in dataset.split("val"):
        assert set(np.unique(masks.read_class_map(sample.class_map))) <= {0, 1, 2}
