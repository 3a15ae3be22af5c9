from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from semiscope.errors import DataError
from semiscope.io import folders
from semiscope.types import Dataset, Sample

DATA = Path(__file__).parents[2] / "../shared/data"


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.eye(48, 64, dtype=np.uint8))
    return path


def test_round_trip_with_splits_and_unlabelled(tmp_path: Path):
    classes = ("gap", "bridge (multi)", "CLEAN #1")
    samples = [
        Sample(put(tmp_path / f"{split} {k}.png"), (48, 64), label=k, split=split)
        for split in ("train", "test")
        for k in (2, 0, 1)
    ]
    samples.append(Sample(put(tmp_path / "u.png"), (48, 64), split="unlabelled"))
    assert folders.write(Dataset(classes, tuple(samples)), tmp_path / "out") == ()
    back = folders.read(tmp_path / "out")
    assert back.classes == classes
    assert back.notes == ()
    assert {(s.path.name, s.label, s.split) for s in back} == {
        (s.path.name, s.label, s.split) for s in samples
    }


def test_folders_without_splits(tmp_path: Path):
    put(tmp_path / "b" / "1.png")
    put(tmp_path / "a" / "deep" / "2.png")
    put(tmp_path / "stray.png")
    dataset = folders.read(tmp_path)
    assert dataset.classes == ("a", "b")
    assert [s.label for s in dataset] == [0, 1, None]
    (note,) = dataset.notes
    assert "stray.png: image without a label" in note


def test_a_folder_that_is_not_on_the_list(tmp_path: Path):
    put(tmp_path / "a" / "1.png")
    put(tmp_path / "void" / "2.png")
    (tmp_path / "classes.txt").write_text("a\n")
    dataset = folders.read(tmp_path)
    assert len(dataset) == 1
    assert "class id outside the list: folder 'void'" in dataset.notes[0]


def test_instances_without_image_labels_cannot_be_written(tmp_path: Path, make_dataset):
    with pytest.raises(DataError, match="need a label for each image"):
        folders.write(make_dataset("box"), tmp_path / "out")


@pytest.mark.parametrize("name", ["a/b", "..", "train", "", "images"])
def test_class_names_that_are_no_folder_names(tmp_path: Path, name: str):
    sample = Sample(put(tmp_path / "a.png"), (48, 64), label=0)
    with pytest.raises(DataError, match="cannot be the name of a class folder"):
        folders.write(Dataset((name,), (sample,)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data")
def test_real_folders():
    dataset = folders.read(DATA / "sem_defects")
    assert dataset.classes[:2] == ("BRIDGE", "CLEAN")
    assert [len(dataset.split(s)) for s in ("train", "test", "unlabelled")] == [611, 204, 312]
    assert dataset.notes == ()
