from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from semiscope.data.convert import convert
from semiscope.data.dataset import find_format, open_dataset
from semiscope.errors import DataError
from semiscope.geometry import crop, dense
from semiscope.io import labelstudio
from semiscope.io.brush_rle import encode_brush
from semiscope.io.formats import FORMATS
from semiscope.types import Annotations, Dataset, Mask, Polygons, Sample

HEIGHT, WIDTH = 100, 200


def put_image(path: Path, height: int = HEIGHT, width: int = WIDTH) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", np.zeros((height, width), np.uint8))[1].tobytes())
    return path


def region(kind: str, name: str | None = "gap", **value: Any) -> dict[str, Any]:
    if name is not None:
        value[kind] = [name]
    return {
        **{"id": "r1", "type": kind, "from_name": "label", "to_name": "image"},
        **{"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0},
        "value": value,
    }


def box(name: str | None = "gap", x=10.0, y=20.0, width=30.0, height=40.0, **more: Any):
    return region("rectanglelabels", name, x=x, y=y, width=width, height=height, **more)


def choice(*names: str) -> dict[str, Any]:
    value = {"choices": list(names)}
    return {"id": "c", "type": "choices", "from_name": "kind", "to_name": "image", "value": value}


def task(*results: dict[str, Any], image: str = "a.png", **more: Any) -> dict[str, Any]:
    judged = [{"result": list(results)}]
    return {"id": 7, "data": {"image": image}, "annotations": judged, **more}


def export(root: Path, *tasks: dict[str, Any], name: str = "project-1-at-2026.json") -> Path:
    root.mkdir(exist_ok=True)
    (root / name).write_text(json.dumps(tasks))
    for entry in tasks:
        if re.fullmatch(r"\w+\.png", entry["data"].get("image", "")):
            put_image(root / "images" / entry["data"]["image"])
    return root


def only(root: Path) -> tuple[Sample, tuple[str, ...]]:
    dataset = labelstudio.read(root)
    (sample,) = dataset
    return sample, dataset.notes


def test_percent_of_the_image_become_pixels(tmp_path: Path):
    polygon = region("polygonlabels", "bridge", points=[[0, 0], [50, 0], [50, 50]], closed=True)
    sample, notes = only(export(tmp_path, task(box(rotation=0), polygon)))
    assert notes == ()
    np.testing.assert_allclose(sample.annotations.xyxy, [[20, 20, 80, 60], [0, 0, 100, 50]])
    assert labelstudio.read(tmp_path).classes == ("bridge", "gap")
    assert sample.annotations.class_id.tolist() == [1, 0]
    assert sample.annotations.shapes[0] is None
    assert sample.annotations.shapes[1].rings[0].tolist() == [[0, 0], [100, 0], [100, 50]]
    assert sample.annotations.angle_deg is None


def test_a_rectangle_turned_by_90_degrees(tmp_path: Path):
    # issue 2293 of HumanSignal/label-studio: a box of 300 x 100 px at (200, 100) px of a 1000 x 500
    # image, turned by 90 degrees, is the upright one of 100 x 300 px at (100, 100)
    put_image(tmp_path / "a.png", 500, 1000)
    turned = box(x=20, y=20, width=30, height=20, rotation=90)
    (tmp_path / "tasks.json").write_text(json.dumps([task(turned)]))
    sample, notes = only(tmp_path)
    assert notes == ()
    np.testing.assert_allclose(sample.annotations.xyxy, [[100, 100, 200, 400]], atol=1e-4)
    corners = [[200, 100], [200, 400], [100, 400], [100, 100]]
    np.testing.assert_allclose(sample.annotations.shapes[0].rings[0], corners, atol=1e-9)
    # clockwise on the screen, and angles are counter-clockwise
    assert sample.annotations.angle_deg.tolist() == [-90]


@pytest.mark.parametrize("rotation", [0.0, 12.5, 90.0, 135.0, 200.0, 359.0])
def test_a_turned_rectangle_stays_one(tmp_path: Path, rotation: float):
    source = labelstudio.read(export(tmp_path / "in", task(box(rotation=rotation))))
    assert FORMATS["labelstudio"].write(source, tmp_path / "out") == ()
    (written,) = json.loads((tmp_path / "out" / "tasks.json").read_text())
    (result,) = written["annotations"][0]["result"]
    assert result["type"] == "rectanglelabels"
    for key, value in {**box()["value"], "rotation": rotation}.items():
        assert result["value"][key] == pytest.approx(value, abs=1e-5)


def test_an_angle_that_is_not_the_outline_s_is_lost(tmp_path: Path):
    ring = np.array([[10.0, 10], [60, 10], [60, 40], [10, 40]])
    found = Annotations([[10, 10, 60, 40]], [0], shapes=(Polygons((ring,)),), angle_deg=[3.0])
    sample = Sample(put_image(tmp_path / "a.png"), (HEIGHT, WIDTH), found)
    (note,) = FORMATS["labelstudio"].write(Dataset(("die",), (sample,)), tmp_path / "out")
    assert note == "Label Studio cannot hold 1 angles"
    back, _ = only(tmp_path / "out")
    np.testing.assert_allclose(back.annotations.shapes[0].rings[0], ring, atol=1e-6)


def test_brush_strokes_are_masks(tmp_path: Path):
    bits = np.zeros((HEIGHT, WIDTH), bool)
    bits[30:60, 50:90] = True
    bits[40:45, 60:70] = False
    brush = region("brushlabels", format="rle", rle=encode_brush(crop(bits), HEIGHT, WIDTH))
    sample, notes = only(export(tmp_path, task(brush)))
    assert notes == ()
    np.testing.assert_array_equal(sample.annotations.xyxy, [[50, 30, 90, 60]])
    np.testing.assert_array_equal(dense(sample.annotations.shapes[0], HEIGHT, WIDTH), bits)


def test_a_brush_of_another_size_is_left_out(tmp_path: Path):
    mask = Mask(0, 0, np.ones((5, 5), bool))
    brush = region("brushlabels", format="rle", rle=encode_brush(mask, HEIGHT, WIDTH + 1))
    sample, (note,) = only(export(tmp_path, task(brush, box())))
    assert len(sample.annotations) == 1
    assert "label cannot be read" in note
    assert "20000 pixels" in note


def test_geometry_and_labels_may_be_two_results(tmp_path: Path):
    value = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0}
    bare = {**region("rectangle", None, **value)}
    named = {**region("labels", "gap", **value)}
    sample, notes = only(export(tmp_path, task(bare, named)))
    assert notes == ()
    np.testing.assert_allclose(sample.annotations.xyxy, [[20, 20, 80, 60]])


@pytest.mark.parametrize(
    ("result", "phrase"),
    [
        (box(None), "without a class"),
        ({**region("rectangle", None, x=1, y=1, width=5, height=5), "id": "r2"}, "'rectangle'"),
        (region("ellipselabels", x=1, y=1, radiusX=5, radiusY=5), "type 'ellipselabels'"),
        (region("keypointlabels", x=1, y=1, width=1), "type 'keypointlabels'"),
        ({**choice("gap"), "value": {"choices": ["gap"], "x": 1}}, "type 'choices'"),
        ({"type": "relation", "from_id": "a", "to_id": "b"}, "type 'relation'"),
        ({}, "type None"),
        ({"type": ["rectanglelabels"], "id": ["x"]}, "cannot be read"),
        ({"type": "rectanglelabels", "value": 3}, "without a class"),
        (box(x="left"), "cannot be read"),
        (box(x=None), "no place on an image"),
        (box(width=0), "without area"),
        (box(width=-5), "without area"),
        (box(width=-5, rotation=10), "-10 x 40 px"),
        (box(width=float("nan")), "no place on an image"),
        (box(rotation=float("nan")), "no place on an image"),
        (box(rotation="steep"), "cannot be read"),
        (box(x=10**400), "cannot be read"),
        (box(x=1e300), "no place on an image"),
        (region("rectanglelabels", x=1, y=1), "cannot be read"),
        ({**box(), "image_rotation": 90}, "turned by 90 degrees"),
        (region("polygonlabels", points=[[1, 1], [2]]), "cannot be read"),
        (region("polygonlabels", points=[[1, 1], [2, 2]]), "outline mended"),
        (region("polygonlabels", points="round"), "cannot be read"),
        (region("brushlabels", rle=[1, 2, 3]), "cut off"),
        (region("brushlabels", rle=None), "list of bytes"),
    ],
)
def test_bad_results_are_left_out_with_a_note(tmp_path: Path, result: dict, phrase: str):
    sample, notes = only(export(tmp_path, task(box(), result)))
    assert len(sample.annotations) == 1
    assert any(phrase in note and "task 7" in note for note in notes)


def test_of_two_classes_of_a_region_the_first_counts(tmp_path: Path):
    two = box()
    two["value"]["rectanglelabels"] = ["gap", "bridge"]
    root = export(tmp_path, task(two))
    sample, (note,) = only(root)
    assert sample.annotations.class_id.tolist() == [1]
    assert "2 classes" in note
    (root / "classes.txt").write_text("bridge\n")
    sample, notes = only(root)
    assert len(sample.annotations) == 0
    assert any("class id outside the list" in note for note in notes)


def test_what_was_looked_at_and_what_was_not(tmp_path: Path):
    skipped = {"was_cancelled": True, "result": [box()]}
    root = export(
        tmp_path / "train",
        task(box(), image="boxed.png"),
        task(image="clean.png"),
        task(image="never.png", annotations=[]),
        task(image="skipped.png", annotations=[skipped]),
        task(image="redone.png", annotations=[skipped, {"result": [box("bridge")]}]),
        task(image="predicted.png", annotations=[], predictions=[{"result": [box()]}]),
        task(image="odd.png", annotations=[1, 2]),
        task(image="odder.png", annotations=[{"result": "none"}]),
        task(image="both.png", predictions=[{"result": [box()]}]),
    )
    put_image(root / "images" / "unlisted.png")
    dataset = open_dataset(tmp_path)
    found = {
        s.path.stem: None if s.annotations is None else len(s.annotations)
        for s in dataset.split("train")
    }
    assert found == {
        **{"boxed": 1, "clean": 0, "never": None, "skipped": None, "redone": 1},
        **{"predicted": None, "odd": None, "odder": None, "both": 0, "unlisted": None},
    }
    reasons = {Path(n.split(":")[0]).stem: n for n in dataset.notes if "image without a label" in n}
    assert set(reasons) == {"never", "skipped", "predicted", "odd", "odder", "unlisted"}
    assert "skipped by the annotator" in reasons["skipped"]
    assert "nobody has submitted" in reasons["predicted"]
    # in unlabelled/ that is as it should be
    (tmp_path / "train").rename(tmp_path / "unlabelled")
    assert not any("image without a label" in note for note in open_dataset(tmp_path).notes)


def test_of_several_annotations_the_ground_truth_counts_else_the_last(tmp_path: Path):
    first, last = {"result": [box("gap")]}, {"result": [box("bridge")]}
    root = export(
        tmp_path,
        task(image="a.png", annotations=[first, last]),
        task(image="b.png", annotations=[{**first, "ground_truth": True}, last], id=8),
    )
    dataset = labelstudio.read(root)
    names = [dataset.classes[s.annotations.class_id[0]] for s in dataset]
    assert names == ["bridge", "gap"]
    assert sum("2 annotations" in note for note in dataset.notes) == 2


def test_choices_label_whole_images(tmp_path: Path):
    root = export(
        tmp_path, task(choice("gap"), image="a.png"), task(choice("ok", "gap"), image="b.png")
    )
    dataset = labelstudio.read(root)
    assert dataset.classes == ("gap", "ok")
    assert [s.label for s in dataset] == [0, 1]
    # the project has no regions, so nobody was asked for any
    assert all(s.annotations is None for s in dataset)
    (note,) = dataset.notes
    assert "2 classes" in note
    convert(root, tmp_path.parent / "folders", "folders")
    convert(tmp_path.parent / "folders", tmp_path.parent / "back", "labelstudio")
    back = open_dataset(tmp_path.parent / "back")
    assert [back.classes[s.label] for s in back] == ["gap", "ok"]
    assert "Choices" in (tmp_path.parent / "back" / "label_config.xml").read_text()


def test_choices_beside_regions(tmp_path: Path):
    root = export(
        tmp_path / "in",
        task(box(), choice("bad"), image="a.png"),
        task(choice("ok"), image="b.png"),
    )
    dataset = labelstudio.read(root)
    assert [(len(s.annotations), dataset.classes[s.label]) for s in dataset] == [
        (1, "bad"),
        (0, "ok"),
    ]
    nobody = replace(dataset.samples[1], annotations=None)
    mixed = Dataset(dataset.classes, (dataset.samples[0], nobody))
    (note,) = FORMATS["labelstudio"].write(mixed, tmp_path / "out")
    assert note.startswith("1 images with a label")


@pytest.mark.parametrize(
    "reference",
    [
        "die 1 (a).png",
        "images/die 1 (a).png",
        "lot\\images\\die 1 (a).png",
        "/data/upload/1/0a1b2c3d-die_1_a.png",
        "/data/upload/1/0a1b2c3d-die%201%20(a).png",
        "0a1b2c3d-die 1 (a).png",
        "/data/local-files/?d=project/train/images/die%201%20(a).png",
        "/data/local-files/?d=C:\\fab\\die%201%20(a).png",
        "https://host:8080/bucket/die%201%20(a).png?token=x&d2=1",
        "s3://bucket/deep/die 1 (a).png",
    ],
)
def test_names_of_images_after_an_upload(tmp_path: Path, reference: str):
    put_image(tmp_path / "images" / "die 1 (a).png")
    put_image(tmp_path / "images" / "other.png")
    root = export(tmp_path, task(box(), image=f"{reference}"), task(image="other.png"))
    dataset = labelstudio.read(root)
    assert dataset.notes == ()
    assert [len(s.annotations) for s in dataset] == [1, 0]


def test_the_image_may_have_another_key(tmp_path: Path):
    put_image(tmp_path / "images" / "a.png")
    data = {"lot": "A17", "photo": "/data/upload/3/01234567-a.png", "number": 3}
    root = export(tmp_path, {"id": 1, "data": data, "annotations": [{"result": [box()]}]})
    sample, notes = only(root)
    assert len(sample.annotations) == 1
    assert notes == ()


@pytest.mark.parametrize(
    ("reference", "phrase"),
    [
        ("../secret.png", "path leads out"),
        ("/data/local-files/?d=../../secret.png", "path leads out"),
        ("/data/local-files/?d=%2e%2e/secret.png", "path leads out"),
        ("..\\secret.png", "path leads out"),
        ("/etc/hidden.png", "not found"),
        ("http://[bad/x.png", "not found"),
        ("gone\0.png", "not found"),
        ("", "not found"),
        ("lot 9/same.png", "any of several"),
        ("0a1b2c3d-same.png", "any of several"),
    ],
)
def test_images_that_are_not_there(tmp_path: Path, reference: str, phrase: str):
    put_image(tmp_path / "secret.png")
    root = tmp_path / "project"
    for lot in ("lot 1", "lot 2"):
        put_image(root / "images" / lot / "same.png")
    export(root, task(box(), image="mine.png"), task(box(), image=reference))
    put_image(root / "images" / "mine.png")
    dataset = labelstudio.read(root)
    assert len(dataset) == 3
    assert sum(s.annotations is not None for s in dataset) == 1
    assert any(phrase in note for note in dataset.notes)


def test_an_image_in_one_of_two_folders_of_that_name(tmp_path: Path):
    for lot in ("lot 1", "lot 2"):
        put_image(tmp_path / "images" / lot / "same.png")
    root = export(tmp_path, task(box(), image="/data/local-files/?d=x/lot%202/same.png"))
    dataset = labelstudio.read(root)
    assert [s.annotations is not None for s in dataset] == [False, True]


def test_two_tasks_of_one_image(tmp_path: Path):
    root = export(tmp_path, task(box()), task(box("bridge")))
    sample, (note,) = only(root)
    assert len(sample.annotations) == 1
    assert "has a task already" in note


@pytest.mark.parametrize(
    ("content", "phrase"),
    [
        ("{", "Label Studio export"),
        ("{}", "list of Label Studio's tasks"),
        ('[{"image": "a.png", "label": []}]', "not as JSON-MIN"),
        ("[" * 100_000, "Label Studio export"),
        ("[3]", "list of Label Studio's tasks"),
    ],
)
def test_files_that_are_no_export(tmp_path: Path, content: str, phrase: str):
    (tmp_path / "tasks.json").write_text(content)
    with pytest.raises(DataError, match=phrase):
        labelstudio.read(tmp_path)


def test_which_json_is_one(tmp_path: Path):
    export(tmp_path, task(box()))
    assert find_format(tmp_path) == "labelstudio"
    # a second one: which is meant?
    (tmp_path / "older.json").write_text((tmp_path / "project-1-at-2026.json").read_text())
    assert not labelstudio.matches(tmp_path)
    (tmp_path / "older.json").rename(tmp_path / "tasks.json")
    assert labelstudio.matches(tmp_path)


def test_a_model_s_instances_become_predictions(tmp_path: Path):
    boxes = [[10, 10, 20, 20], [30, 30, 50, 50]]
    samples = (
        Sample(put_image(tmp_path / "a.png"), None, Annotations(boxes, [0, 1], [0.9, 0.4])),
        Sample(put_image(tmp_path / "b.png"), None, Annotations(boxes, [0, 1])),
        # nobody but the model says that this one is clean
        Sample(put_image(tmp_path / "c.png"), None, Annotations.empty()),
    )
    dataset = Dataset(("gap", "bridge"), samples)
    (note,) = FORMATS["labelstudio"].write(dataset, tmp_path / "out")
    assert note.startswith("2 images were judged by a model")
    first, second, third = json.loads((tmp_path / "out" / "tasks.json").read_text())
    assert "annotations" not in first and "predictions" not in second
    results = first["predictions"][0]["result"]
    assert [r["score"] for r in results] == [0.9, 0.4]
    assert third["predictions"][0]["result"] == [] and "annotations" not in third
    back = labelstudio.read(tmp_path / "out")
    assert [s.annotations is None for s in back] == [True, False, True]


def test_the_labelling_interface(tmp_path: Path, make_dataset):
    dataset = make_dataset("mask", ("train",))
    FORMATS["labelstudio"].write(dataset, tmp_path / "out")
    view = ET.parse(tmp_path / "out" / "label_config.xml").getroot()
    assert view.find("Image").get("value") == "$image"
    names = {c.get("name"): [v.get("value") for v in c] for c in view if c.tag != "Image"}
    assert names == {k: list(dataset.classes) for k in ("box", "outline", "mask")}
    for entry in json.loads((tmp_path / "out" / "train" / "tasks.json").read_text()):
        address = entry["data"]["image"]
        assert address.startswith("/data/local-files/?d=train/images/im%20")
        for result in entry["annotations"][0]["result"]:
            assert result["from_name"] in names
            assert result["to_name"] == "image"
            assert (result["original_width"], result["original_height"]) == (64, 48)


@pytest.mark.parametrize("kind", ["box", "polygon", "mask"])
def test_coco_to_label_studio_to_yolo(tmp_path: Path, make_dataset, kind: str):
    FORMATS["coco"].write(make_dataset(kind), tmp_path / "coco")
    assert convert(tmp_path / "coco", tmp_path / "studio", "labelstudio") == ()
    convert(tmp_path / "studio", tmp_path / "yolo", "yolo")
    for one, other in zip(
        open_dataset(tmp_path / "coco"), open_dataset(tmp_path / "yolo"), strict=True
    ):
        np.testing.assert_allclose(one.annotations.xyxy, other.annotations.xyxy, atol=1e-2)
        np.testing.assert_array_equal(one.annotations.class_id, other.annotations.class_id)


def test_class_maps_become_brush_strokes(tmp_path: Path):
    indices = np.zeros((HEIGHT, WIDTH), np.uint8)
    indices[10:20, 30:50] = 1
    put_image(tmp_path / "maps" / "images" / "a.png")
    mask = put_image(tmp_path / "maps" / "masks" / "a.png")
    mask.write_bytes(cv2.imencode(".png", indices)[1].tobytes())
    (tmp_path / "maps" / "classes.txt").write_text("background\noxide\n")
    convert(tmp_path / "maps", tmp_path / "studio", "labelstudio")
    sample, _ = only(tmp_path / "studio")
    np.testing.assert_array_equal(dense(sample.annotations.shapes[0], HEIGHT, WIDTH), indices > 0)
