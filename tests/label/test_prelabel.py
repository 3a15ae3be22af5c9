"""Initial masks for whole folders, by a model that any one can check by hand."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from semiscope.data.dataset import open_dataset
from semiscope.errors import DataError, SettingsError
from semiscope.geometry import dense
from semiscope.io.masks import read_class_map
from semiscope.label import prelabel as module
from semiscope.label.prelabel import PrelabelSettings, prelabel
from semiscope.types import Mask


@pytest.fixture
def model(tmp_path, write_discs):
    return str(write_discs(tmp_path / "discs.onnx"))


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        cv2.imwrite(str(folder / f"{name}.png"), rng.integers(0, 256, (64, 64), dtype=np.uint8))
    (folder / "bad.png").write_bytes(b"no image")
    return folder


def boxes_file(path, **changes):
    content = {
        "images": [{"id": 1, "file_name": "images/a.png"}, {"id": 2, "file_name": "b.png"},
                   {"id": 3, "file_name": "../../elsewhere.png"}],
        "categories": [{"id": 7, "name": "void"}, {"id": 3, "name": "crack"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "bbox": [10, 12, 20, 16]},
            {"id": 2, "image_id": 1, "category_id": 3, "bbox": [40, 40, 60, 8]},
            {"id": 3, "image_id": 1, "category_id": 3, "bbox": [70, 5, 10, 10]},
            {"id": 4, "image_id": 1, "category_id": 9, "bbox": [1, 1, 10, 10]},
            {"id": 5, "image_id": 1, "category_id": 3, "bbox": [1, 1, -4, 10]},
        ],
        **changes,
    }  # fmt: skip
    path.write_text(json.dumps(content))
    return str(path)


def test_boxes_of_a_file_become_masks_of_their_classes(tmp_path, images, model):
    settings = PrelabelSettings(model=model, prompts=boxes_file(tmp_path / "boxes.json"))
    summary = prelabel([images], settings, tmp_path / "out")
    assert (summary.images, summary.masks) == (2, 2)
    ((file, _),) = summary.failed
    assert file.endswith("bad.png")
    for words in ("elsewhere.png", "KeyError(9)", "annotation 5", "box (70, 5, 80, 15): outside",
                  "c.png: no prompt tells of it"):  # fmt: skip
        assert sum(words in n for n in summary.notes) == 1, words
    dataset = open_dataset(tmp_path / "out")
    assert dataset.classes == ("crack", "void")
    by_name = {s.path.stem: s for s in dataset}
    found = by_name["a"].annotations
    assert found.class_id.tolist() == [1, 0]
    # the second box reaches beyond the image and is cut there
    np.testing.assert_allclose(found.xyxy, [[10, 12, 30, 28], [40, 40, 64, 48]], atol=1)
    assert all(isinstance(s, Mask) for s in found.shapes) and (found.score < 1).all()
    assert len(by_name["b"].annotations) == 0 and by_name["c"].annotations is None


def test_label_studio_gets_predictions_and_class_maps_get_indices(tmp_path, images, model):
    boxes = boxes_file(tmp_path / "boxes.json")
    settings = {"model": model, "prompts": boxes}
    prelabel([images], PrelabelSettings(format="labelstudio", **settings), tmp_path / "ls")
    tasks = json.loads((tmp_path / "ls/tasks.json").read_text())
    by_name = {t["data"]["image"].rpartition("/")[2]: t for t in tasks}
    assert len(by_name["a.png"]["predictions"][0]["result"]) == 2
    assert all("annotations" not in t for t in tasks)
    prelabel([images], PrelabelSettings(format="masks", **settings), tmp_path / "maps")
    indices = read_class_map(tmp_path / "maps/masks/a.png")
    assert (tmp_path / "maps/classes.txt").read_text() == "background\ncrack\nvoid\n"
    assert indices[20, 20] == 2 and indices[44, 50] == 1 and indices[0, 0] == 0


def test_class_maps_give_the_boxes(tmp_path, images, model):
    (images / "bad.png").unlink()
    (tmp_path / "masks").mkdir()
    coarse = np.zeros((64, 64), np.uint8)
    coarse[10:30, 5:25] = 1
    coarse[40:42, 40:42] = 1  # fewer than 20 px
    cv2.imwrite(str(tmp_path / "masks/a.png"), coarse)
    (tmp_path / "classes.txt").write_text("background\nlayer\n")
    settings = PrelabelSettings(model=model, prompts="from-class-maps", format="masks")
    summary = prelabel([tmp_path], settings, tmp_path.with_name("from-maps"))
    assert (summary.images, summary.masks) == (1, 1)
    indices = read_class_map(tmp_path.with_name("from-maps") / "masks/a.png")
    np.testing.assert_array_equal(indices[12:28, 7:23], 1)
    assert (indices == 1).sum() == pytest.approx(400, abs=90)


def test_a_grid_finds_each_region_once(tmp_path, images, model):
    settings = PrelabelSettings(model=model, prompts="grid", grid=2, least_claim=0.05)
    summary = prelabel([images / "a.png"], settings, tmp_path / "out")
    (sample,) = open_dataset(tmp_path / "out")
    # of three discs about each of 4 points the model claims most for the second, of radius 16
    assert summary.masks == 4 and open_dataset(tmp_path / "out").classes == ("region",)
    middles = sorted((sample.annotations.xyxy[:, :2] + sample.annotations.xyxy[:, 2:]).tolist())
    np.testing.assert_allclose(middles, [[32, 32], [32, 96], [96, 32], [96, 96]], atol=2)
    inside = [dense(s, 64, 64).sum() for s in sample.annotations.shapes]
    assert inside == pytest.approx([np.pi * 256] * 4, rel=0.1)
    none = PrelabelSettings(model=model, prompts="grid", grid=2, least_claim=0.9)
    assert prelabel([images / "a.png"], none, tmp_path / "none").masks == 0


def test_an_image_of_one_grey_value_and_a_single_pixel_have_masks(tmp_path, model):
    for name, shape in (("flat", (40, 50)), ("pixel", (1, 1))):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full(shape, 7, np.uint8))
    boxes = boxes_file(
        tmp_path / "boxes.json",
        images=[{"id": 1, "file_name": "flat.png"}, {"id": 2, "file_name": "pixel.png"}],
        annotations=[
            {"image_id": 1, "category_id": 3, "bbox": [0, 0, 50, 40]},
            {"image_id": 2, "category_id": 3, "bbox": [0, 0, 1, 1]},
        ],
    )
    settings = PrelabelSettings(model=model, prompts=boxes)
    paths = [tmp_path / "flat.png", tmp_path / "pixel.png"]
    assert prelabel(paths, settings, tmp_path / "out").masks == 2


def test_a_killed_run_goes_on_and_ends_with_the_same_files(tmp_path, images, model, monkeypatch):
    settings = PrelabelSettings(model=model, prompts=boxes_file(tmp_path / "boxes.json"))
    prelabel([images], settings, tmp_path / "whole")
    row, done = module._row, []

    def killed(*arguments):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(row(*arguments))
        return done[-1]

    monkeypatch.setattr(module, "_row", killed)
    with pytest.raises(KeyboardInterrupt):
        prelabel([images], settings, tmp_path / "part")
    monkeypatch.setattr(module, "_row", row)
    with pytest.raises(DataError, match="expected a new or empty folder"):
        prelabel([images], settings, tmp_path / "part")
    told = []
    prelabel([images], settings, tmp_path / "part", resume=True, progress=lambda *a: told.append(a))
    assert told == [(3, 4), (4, 4)]
    for path in (tmp_path / "whole").rglob("*"):
        if path.is_file():
            other = tmp_path / "part" / path.relative_to(tmp_path / "whole")
            assert path.read_bytes() == other.read_bytes()


def test_prompts_that_are_none_are_told(tmp_path, images, model):
    def label(prompts, given=images):
        prelabel([given], PrelabelSettings(model=model, prompts=prompts), tmp_path / "out")

    with pytest.raises(SettingsError, match="expected a .json file, grid or from-class-maps"):
        label("boxes.txt")
    with pytest.raises(SettingsError, match="expected the folder of one data set"):
        label("from-class-maps", images / "a.png")
    with pytest.raises(DataError, match="expected a COCO file"):
        label(str(tmp_path / "absent.json"))
    with pytest.raises(DataError, match="found none of them listed"):
        label(boxes_file(tmp_path / "boxes.json", images=[{"id": 1, "file_name": "z.png"}]))


def test_the_verb_needs_no_torch(tmp_path, images, model):
    code = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "accelerate", "onnx", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
from semiscope.cli import main
main()
"""
    given = ["label", images, "--model", model, "--prompts", boxes_file(tmp_path / "boxes.json")]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, given), "--out", tmp_path / "out", "--json"],
        capture_output=True,
        text=True,
    )
    # a file could not be read
    assert done.returncode == 2, done.stderr
    summary = json.loads(done.stdout)
    assert summary["masks"] == 2 and "failed: " in done.stderr and "note: " in done.stderr
