from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from semiscope.errors import DataError
from semiscope.io import yolo

DATA = Path(__file__).parents[2] / "../shared/data"


def put(root: Path, label: str | None, name: str = "a", folder: str = "") -> Path:
    """One image, 64 x 48, and its label file."""
    for kind in ("images", "labels"):
        (root / folder / kind).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(root / folder / "images" / f"{name}.png"), np.eye(48, 64, dtype=np.uint8))
    if label is not None:
        (root / folder / "labels" / f"{name}.txt").write_text(label)
    return root


def test_boxes_and_polygons(tmp_path: Path):
    put(tmp_path, "1 0.5 0.5 0.25 0.5\n\n0 0.25 0.25 0.5 0.25 0.5 0.75\n")
    (tmp_path / "classes.txt").write_text("gap\nmicro bridge\n")
    dataset = yolo.read(tmp_path)
    found = dataset.samples[0].annotations
    np.testing.assert_allclose(found.xyxy, [[24, 12, 40, 36], [16, 12, 32, 36]])
    assert found.class_id.tolist() == [1, 0]
    assert found.shapes[1].rings[0].tolist() == [[16, 12], [32, 12], [32, 36]]
    assert dataset.classes == ("gap", "micro bridge")
    assert dataset.notes == ()


def test_without_classes_txt_the_classes_are_numbered(tmp_path: Path):
    dataset = yolo.read(put(tmp_path, "2 0.5 0.5 0.25 0.5\n"))
    assert dataset.classes == ("class 0", "class 1", "class 2")
    assert "no classes.txt" in dataset.notes[0]


def test_an_empty_file_is_clean_and_a_missing_one_unknown(tmp_path: Path):
    put(tmp_path, "", "clean", "train")
    put(tmp_path, None, "forgotten", "train")
    put(tmp_path, None, "spare", "unlabelled")
    (tmp_path / "classes.txt").write_text("gap\n")
    dataset = yolo.read(tmp_path)
    clean, forgotten, spare = dataset
    assert len(clean.annotations) == 0
    assert forgotten.annotations is None
    assert spare.annotations is None
    (note,) = dataset.notes
    assert "image without a label" in note
    assert "forgotten" in note


def test_splits_below_images_and_labels(tmp_path: Path):
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "images" / split / "a.png"), np.eye(48, 64, dtype=np.uint8))
        (tmp_path / "labels" / split / "a.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    assert [(s.split, len(s.annotations)) for s in yolo.read(tmp_path)] == [
        ("train", 1), ("val", 1)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "phrase"),
    [
        ("9 0.5 0.5 0.2 0.2", "class id outside the list"),
        ("-1 0.5 0.5 0.2 0.2", "class id outside the list"),
        ("0.5 0.5 0.5 0.2 0.2", "cannot be read"),
        ("gap 0.5 0.5 0.2 0.2", "cannot be read"),
        ("0 0.5 0.5 0.2", "cannot be read"),
        ("0 0.5 nan 0.2 0.2", "cannot be read"),
        ("0 0.5 1e999 0.2 0.2", "cannot be read"),
        ("1e300 0.5 0.5 0.2 0.2", "class id outside the list"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "cannot be read"),
        ("0 0.5 0.5 0 0.2", "without area"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3", "outline mended"),
    ],
)
def test_bad_lines_are_left_out_with_a_note(tmp_path: Path, line: str, phrase: str):
    (tmp_path / "classes.txt").write_text("gap\nbridge\n")
    dataset = yolo.read(put(tmp_path, f"1 0.5 0.5 0.25 0.5\n{line}\n"))
    assert len(dataset.samples[0].annotations) == 1
    assert phrase in dataset.notes[0]
    assert "a.txt, line 2" in dataset.notes[0]


def test_a_label_file_that_is_no_text(tmp_path: Path):
    put(tmp_path, "")
    (tmp_path / "labels" / "a.txt").write_bytes(b"\xff\xfe\x00binary")
    dataset = yolo.read(tmp_path)
    assert dataset.samples[0].annotations is None
    assert "cannot be read" in dataset.notes[0]


def test_a_label_for_a_missing_image(tmp_path: Path):
    put(tmp_path, "")
    (tmp_path / "labels" / "gone.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "labels" / "classes.txt").write_text("gap\n")
    (note,) = [n for n in yolo.read(tmp_path).notes if "classes.txt" not in n]
    assert "label without an image" in note
    assert "gone.txt" in note


def test_no_images_is_an_error(tmp_path: Path):
    (tmp_path / "labels").mkdir()
    with pytest.raises(DataError, match="found no image"):
        yolo.read(tmp_path)


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data")
def test_real_polygons():
    dataset = yolo.read(DATA / "wafer_die_optical")
    assert (len(dataset.split("train")), len(dataset.split("test"))) == (490, 189)
    assert len(dataset.classes) == 7
    assert all(s.annotations.shapes is not None for s in dataset)
    # two outlines cross themselves
    assert sum("outline mended" in note for note in dataset.notes) == len(dataset.notes) == 2
