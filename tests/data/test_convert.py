from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from semiscope.data.convert import convert
from semiscope.data.dataset import find_format, open_dataset
from semiscope.errors import DataError
from semiscope.geometry import dense
from semiscope.io.formats import FORMATS
from semiscope.io.masks import read_class_map
from semiscope.types import Annotations, Dataset, Mask, Sample

DATA = Path(__file__).parents[2] / "../shared/data"


def put(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    return path


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    """A YOLO data set with odd names in two splits."""
    root = tmp_path / "yolo"
    rng = np.random.default_rng(0)
    for i, split in enumerate(("train", "train", "test")):
        name = f"im #{i} [ä]"
        put(root / split / "images" / f"{name}.png", rng.integers(0, 256, (48, 64), np.uint8))
        label = root / split / "labels" / f"{name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(f"{i} 0.1 0.1 0.6 0.15 0.3 0.7\n")
    (root / "classes.txt").write_text("gap\nbridge\ncollapse\n")
    return root


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """A data set of class maps: an oxide, and a crack in two parts."""
    root = tmp_path / "maps"
    indices = np.zeros((48, 64), np.uint8)
    indices[20:30] = 1
    indices[5:9, 5:9] = indices[40:44, 50:60] = 2
    indices[0] = 255
    for split in ("train", "val"):
        put(root / split / "images" / "a.png", np.zeros((48, 64), np.uint8))
        put(root / split / "masks" / "a.png", indices)
    (root / "classes.txt").write_text("background\noxide\ncrack\n")
    return root


@pytest.mark.parametrize("to", ["coco", "yolo", "voc", "labelstudio", "masks"])
def test_each_format_keeps_splits_names_and_boxes(yolo: Path, tmp_path: Path, to: str):
    notes = convert(yolo, tmp_path / "out", to)
    assert find_format(tmp_path / "out") == to
    source, made = open_dataset(yolo), open_dataset(tmp_path / "out")
    assert [(s.path.name, s.split) for s in made] == [(s.path.name, s.split) for s in source]
    assert all(s.path.is_relative_to(tmp_path / "out") for s in made)
    if to != "masks":
        assert made.classes == source.classes
        for one, other in zip(made, source, strict=True):
            np.testing.assert_allclose(one.annotations.xyxy, other.annotations.xyxy, atol=1e-3)
            assert one.annotations.class_id.tolist() == other.annotations.class_id.tolist()
    assert (notes == ()) == (to in ("coco", "yolo", "labelstudio"))


def test_there_and_back_through_every_format_of_outlines(yolo: Path, tmp_path: Path):
    convert(yolo, tmp_path / "coco", "coco")
    convert(tmp_path / "coco", tmp_path / "again", "yolo")
    for one, other in zip(open_dataset(tmp_path / "again"), open_dataset(yolo), strict=True):
        for mine, theirs in zip(one.annotations.shapes, other.annotations.shapes, strict=True):
            np.testing.assert_allclose(mine.rings[0], theirs.rings[0], atol=1e-3)


def test_class_maps_become_instances(maps: Path, tmp_path: Path):
    (note,) = convert(maps, tmp_path / "out", "coco")
    assert note == "6 instances were made of the connected parts of the class maps"
    dataset = open_dataset(tmp_path / "out")
    found = dataset.split("val").samples[0].annotations
    assert dataset.classes == ("background", "oxide", "crack")
    assert found.class_id.tolist() == [1, 2, 2]
    np.testing.assert_array_equal(found.xyxy[1:], [[5, 5, 9, 9], [50, 40, 60, 44]])
    assert all(isinstance(shape, Mask) for shape in found.shapes)
    # and back: all but the pixels that nobody judged
    convert(tmp_path / "out", tmp_path / "back", "masks")
    indices = read_class_map(maps / "val" / "masks" / "a.png")
    back = read_class_map(open_dataset(tmp_path / "back", "val").samples[0].class_map)
    np.testing.assert_array_equal(back, np.where(indices == 255, 0, indices))
    assert dense(found.shapes[0], 48, 64).sum() == 640


def test_masks_to_masks_is_lossless(maps: Path, tmp_path: Path):
    assert convert(maps, tmp_path / "out", "masks") == ()
    np.testing.assert_array_equal(
        read_class_map(tmp_path / "out" / "val" / "masks" / "a.png"),
        read_class_map(maps / "val" / "masks" / "a.png"),
    )


def test_class_folders_need_image_labels(yolo: Path, tmp_path: Path):
    with pytest.raises(DataError, match="need a label for each image"):
        convert(yolo, tmp_path / "out", "folders")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    for split, name in (("train", "gap"), ("test", "bridge")):
        put(tmp_path / "in" / split / name / f"{name}.png", np.zeros((48, 64), np.uint8))
    return tmp_path / "in"


def test_class_folders_to_coco_and_back(class_folders: Path, tmp_path: Path):
    (note,) = convert(class_folders, tmp_path / "coco", "coco")
    assert note.startswith("2 images have a label and no instances")
    assert convert(tmp_path / "coco", tmp_path / "out", "folders") == ()
    made = open_dataset(tmp_path / "out")
    assert {(s.path.name, made.classes[s.label], s.split) for s in made} == {
        ("gap.png", "gap", "train"), ("bridge.png", "bridge", "test")
    }  # fmt: skip


@pytest.mark.parametrize("to", ["yolo", "voc", "masks"])
def test_labels_are_not_thrown_away(class_folders: Path, tmp_path: Path, to: str):
    with pytest.raises(DataError, match="all 2 labels would be lost; write it as folders or coco"):
        convert(class_folders, tmp_path / "out", to)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["yolo", "voc", "masks"])
def test_labels_beside_instances_are_told_of(class_folders: Path, tmp_path: Path, to: str):
    dataset = open_dataset(class_folders)
    boxed = Annotations(np.array([[1, 2, 9, 9]]), np.array([0]))
    samples = (replace(dataset.samples[0], annotations=boxed), dataset.samples[1])
    FORMATS["coco"].write(Dataset(dataset.classes, samples), tmp_path / "coco")
    notes = convert(tmp_path / "coco", tmp_path / "out", to)
    assert any("cannot hold 2 image labels" in note for note in notes)


@pytest.mark.parametrize("to", ["coco", "yolo", "voc", "labelstudio", "masks"])
def test_images_that_nobody_labelled_stay_so(tmp_path: Path, to: str):
    path = put(tmp_path / "in" / "a.png", np.zeros((48, 64), np.uint8))
    notes = FORMATS[to].write(Dataset(("gap",), (Sample(path),)), tmp_path / "out")
    assert not any("label" in note for note in notes)
    assert len(list((tmp_path / "out").rglob("a.png"))) == 1


def test_notes_of_the_reading_are_passed_on(yolo: Path, tmp_path: Path):
    (yolo / "train" / "images" / "im #0 [ä].png").write_bytes(b"")
    notes = convert(yolo, tmp_path / "out", "coco")
    assert any("image cannot be read" in note for note in notes)
    assert len(open_dataset(tmp_path / "out")) == 2


def test_destinations_that_are_refused(yolo: Path, tmp_path: Path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("keep")
    for wrong in (tmp_path / "full", tmp_path / "full" / "precious.txt"):
        with pytest.raises(DataError, match="new or empty folder"):
            convert(yolo, wrong, "coco")
    with pytest.raises(DataError, match="outside"):
        convert(yolo, yolo / "out", "coco")
    with pytest.raises(DataError, match="expected one of the formats coco, "):
        convert(yolo, tmp_path / "out", "dicom")
    with pytest.raises(DataError, match="found no folder"):
        convert(tmp_path / "gone", tmp_path / "out", "coco")
    assert not (tmp_path / "out").exists()


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data")
def test_real_polygons_through_coco_and_back(tmp_path: Path):
    source = open_dataset(DATA / "wafer_die_optical", "test")
    source = Dataset(source.classes, source.samples[:40])
    FORMATS["coco"].write(source, tmp_path / "coco")
    convert(tmp_path / "coco", tmp_path / "yolo", "yolo")
    back = open_dataset(tmp_path / "yolo")
    for one, other in zip(source, back, strict=True):
        assert one.path.name == other.path.name
        np.testing.assert_allclose(one.annotations.xyxy, other.annotations.xyxy, atol=1e-3)
        for mine, theirs in zip(one.annotations.shapes, other.annotations.shapes, strict=True):
            if len(mine.rings) == 1:
                np.testing.assert_allclose(mine.rings[0], theirs.rings[0], atol=1e-3)
