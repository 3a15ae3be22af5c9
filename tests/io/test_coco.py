from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from semiscope.errors import DataError
from semiscope.geometry import dense
from semiscope.io import coco
from semiscope.types import Annotations, Dataset, Mask, Sample


def write_image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", np.eye(48, 64, dtype=np.uint8))[1].tobytes())
    return path


def put(root: Path, **changes) -> Path:
    """A small COCO data set with one image, 64 x 48, and two annotations."""
    write_image(root / "images" / "a.png")
    content = {
        "images": [{"id": 7, "file_name": "a.png", "width": 64, "height": 48}],
        "categories": [{"id": 5, "name": "gap"}, {"id": 2, "name": "bridge"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 5, "bbox": [1.5, 2, 10, 20]},
            {"id": 2, "image_id": 7, "category_id": 2, "bbox": [3, 4, 5, 6],
             "segmentation": [[3, 4, 8, 4, 8, 10]]},
        ],
    } | changes  # fmt: skip
    (root / "annotations.json").write_text(json.dumps(content))
    return root


def test_read(tmp_path: Path):
    dataset = coco.read(put(tmp_path))
    assert dataset.classes == ("bridge", "gap")
    (sample,) = dataset
    assert sample.path == tmp_path / "images" / "a.png"
    assert sample.size == (48, 64)
    np.testing.assert_array_equal(sample.annotations.xyxy, [[1.5, 2, 11.5, 22], [3, 4, 8, 10]])
    assert sample.annotations.class_id.tolist() == [1, 0]
    assert sample.annotations.shapes[0] is None
    assert sample.annotations.shapes[1].rings[0].tolist() == [[3, 4], [8, 4], [8, 10]]
    assert dataset.notes == ()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_pycocotools_reads_what_is_written(tmp_path: Path, make_dataset):
    for kind in ("polygon", "mask"):
        dataset = make_dataset(kind, ("",))
        coco.write(dataset, tmp_path / kind)
        theirs = COCO(str(tmp_path / kind / "annotations.json"))
        for sample, image in zip(dataset, theirs.loadImgs(theirs.getImgIds()), strict=True):
            records = theirs.loadAnns(theirs.getAnnIds(image["id"]))
            assert image["file_name"] == sample.path.name
            assert [r["category_id"] - 1 for r in records] == sample.annotations.class_id.tolist()
            for record, shape in zip(records, sample.annotations.shapes or (), strict=True):
                bits = theirs.annToMask(record)
                assert record["area"] == pytest.approx(bits.sum(), rel=0.3)
                if isinstance(shape, Mask):
                    np.testing.assert_array_equal(bits, dense(shape, 48, 64))
                    assert record["area"] == bits.sum()


def test_labels_maps_scores_angles_and_the_unlabelled_come_back(tmp_path: Path):
    paths = [write_image(tmp_path / "source" / f"{i}.png") for i in range(2)]
    found = Annotations(
        np.float32([[1, 2, 3, 4], [5, 6, 9, 9]]), np.array([0, 1]), np.float32([0.25, 1]),
        angle_deg=np.float32([np.nan, -12.5]),
    )  # fmt: skip
    samples = (
        Sample(paths[0], (48, 64), found, label=1, split="train", class_map=paths[1]),
        Sample(paths[1], (48, 64), None, split="train"),
    )
    coco.write(Dataset(("a", "b"), samples), tmp_path / "out")
    one, other = coco.read(tmp_path / "out")
    np.testing.assert_array_equal(one.annotations.score, found.score)
    np.testing.assert_array_equal(one.annotations.angle_deg, found.angle_deg)
    assert one.label == 1
    assert one.class_map.read_bytes() == paths[1].read_bytes()
    assert other.annotations is None


def test_a_json_of_any_name_and_images_beside_it(tmp_path: Path):
    put(tmp_path)
    (tmp_path / "annotations.json").rename(tmp_path / "_annotations.coco.json")
    (tmp_path / "images" / "a.png").rename(tmp_path / "a.png")
    (tmp_path / "images").rmdir()
    assert coco.matches(tmp_path)
    assert len(coco.read(tmp_path)) == 1


def test_images_that_are_not_listed_were_not_looked_at(tmp_path: Path):
    put(tmp_path / "train")
    write_image(tmp_path / "train" / "images" / "b.png")
    write_image(tmp_path / "unlabelled" / "images" / "c.png")
    dataset = coco.read(tmp_path)
    assert [s.annotations is None for s in dataset] == [False, True, True]
    (note,) = dataset.notes
    assert "image without a label" in note
    assert "b.png" in note


@pytest.mark.parametrize(
    ("record", "phrase"),
    [
        ({"category_id": 99, "bbox": [1, 1, 2, 2]}, "class id outside the list"),
        ({"category_id": 5, "bbox": [1, 1, 0, 2]}, "without area"),
        ({"category_id": 5, "bbox": [1, 1, -3, 2]}, "without area"),
        ({"category_id": 5, "bbox": [1, 1, float("nan"), 2]}, "without area"),
        ({"category_id": 5, "bbox": [1, 1, 2]}, "cannot be read"),
        ({"category_id": 5, "bbox": "big"}, "cannot be read"),
        ({"category_id": 5, "bbox": 3}, "cannot be read"),
        ({"bbox": [1, 1, 2, 2]}, "cannot be read"),
        ({"category_id": [5], "bbox": [1, 1, 2, 2]}, "class id outside the list"),
        ({"category_id": 5, "segmentation": [[1, 1, 2]]}, "cannot be read"),
        ({"category_id": 5, "segmentation": {"size": [4, 4], "counts": "44"}}, "cannot be read"),
        ({"category_id": 5, "segmentation": {"size": [48, 64], "counts": "44"}}, "cannot be read"),
        ({"category_id": 5}, "without area"),
        ({"category_id": 5, "bbox": [1, 1, 2, 2], "iscrowd": 1}, "crowd"),
        ({"category_id": 5, "bbox": [1, 1, 2, 2], "image_id": 8}, "label without an image"),
    ],
)
def test_bad_annotations_are_left_out_with_a_note(tmp_path: Path, record: dict, phrase: str):
    good = {"id": 1, "image_id": 7, "category_id": 5, "bbox": [1.5, 2, 10, 20]}
    put(tmp_path, annotations=[{"id": 13, "image_id": 7} | record, good])
    dataset = coco.read(tmp_path)
    assert len(dataset.samples[0].annotations) == 1
    (note,) = dataset.notes
    assert phrase in note
    assert "annotations.json" in note


def test_crossing_polygons_are_mended_with_a_note(tmp_path: Path):
    bow = {"id": 3, "image_id": 7, "category_id": 5, "bbox": [0, 0, 10, 10],
           "segmentation": [[0, 0, 10, 10, 10, 0, 0, 10]]}  # fmt: skip
    dataset = coco.read(put(tmp_path, annotations=[bow]))
    assert len(dataset.samples[0].annotations.shapes[0].rings) == 2
    (note,) = dataset.notes
    assert "outline mended" in note


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "..\\..\\secret.png", "a\0.png"]
)
def test_paths_that_lead_outside_are_refused(tmp_path: Path, name: str):
    root = put(tmp_path / "set", images=[{"id": 7, "file_name": name}])
    write_image(tmp_path / "secret.png")
    (root / "images" / "a.png").unlink()
    dataset = coco.read(root)
    assert len(dataset) == 0
    assert any("leads out of the data set" in note for note in dataset.notes)


def test_a_link_that_leads_outside_is_refused(tmp_path: Path):
    root = put(tmp_path / "set")
    (root / "images" / "a.png").rename(tmp_path / "outside.png")
    (root / "images" / "a.png").symlink_to(tmp_path / "outside.png")
    assert any("leads out" in note for note in coco.read(root).notes)


def test_missing_images_and_wrong_sizes_are_noted(tmp_path: Path):
    put(
        tmp_path,
        images=[
            {"id": 7, "file_name": "a.png", "width": 100, "height": 48},
            {"id": 8, "file_name": "gone.png", "width": 64, "height": 48},
            {"id": 9},
        ],
    )
    dataset = coco.read(tmp_path)
    assert len(dataset) == 1
    for note, phrase in zip(dataset.notes, ("100 x 48", "gone", "without file_name"), strict=True):
        assert phrase in note


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"images": [], "annotations": {}, "categories": []}', "[" * 100_000,
     '{"images": [], "annotations": [], "categories": [{"id": "x"}]}'],
)  # fmt: skip
def test_what_is_no_coco_is_an_error(tmp_path: Path, text: str):
    (tmp_path / "annotations.json").write_text(text)
    with pytest.raises(DataError, match="expected"):
        coco.read(tmp_path)


def test_classes_txt_sets_the_order(tmp_path: Path):
    put(tmp_path)
    (tmp_path / "classes.txt").write_text("gap\nother\nbridge\n")
    dataset = coco.read(tmp_path)
    assert dataset.classes == ("gap", "other", "bridge")
    assert dataset.samples[0].annotations.class_id.tolist() == [0, 2]
    (tmp_path / "classes.txt").write_text("gap\ngap\n")
    with pytest.raises(DataError, match="different name"):
        coco.read(tmp_path)
