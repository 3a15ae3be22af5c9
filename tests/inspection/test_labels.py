"""Labels of whole images: evaluate, calibrate, inspect, by a classifier worked by hand."""

from __future__ import annotations

import csv
import json

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from semiscope.errors import DataError, ModelError, SettingsError
from semiscope.infer.classifier import Classifier
from semiscope.infer.rewrite import rewrite_meta
from semiscope.inspection.bench import BenchSettings, bench
from semiscope.inspection.calibrate_labels import LabelCalibrateSettings, calibrate_labels
from semiscope.inspection.pipeline import inspect
from semiscope.inspection.score_labels import LabelScoreSettings, score_labels
from semiscope.inspection.settings import InspectSettings


def put(root, split, name, number, left, right):
    """An image of two halves in the folder of a class."""
    pixels = np.empty((32, 32), np.uint8)
    pixels[:, :16], pixels[:, 16:] = round(255 * left), round(255 * right)
    path = root / split / name / f"{number:02}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)
    return path


@pytest.fixture
def data(tmp_path):
    """Left, right and even; in test also blobs, which training never saw."""
    root = tmp_path / "data"
    for split, count in (("train", 6), ("val", 4), ("test", 5)):
        for i in range(count):
            put(root, split, "left", i, 0.8 + 0.02 * i, 0.1)
            put(root, split, "right", i, 0.1, 0.8 + 0.02 * i)
            put(root, split, "even", i, 0.02 * i, 0.02 * i)
    for i in range(3):
        put(root, "test", "blob", i, 1, 0.9 + 0.05 * i)
    return root


def test_evaluation_before_and_after_calibration(tmp_path, data, class_model):
    (data / "test" / "left" / "bad.png").write_bytes((data / "test/left/00.png").read_bytes()[:60])
    settings = LabelScoreSettings(model=str(class_model), data=(data,), clean=("even",))
    report, failed = score_labels(settings)
    assert len(failed) in (0, 1) and report.images == 18
    assert report.accuracy.value == 1 and report.unseen == {"blob": 3}
    assert report.unseen_found.count == 0 and report.known_refused.count == 0
    assert report.escape.value == 0 and report.escape.of == 13 and report.over_reject.of == 5
    told = []
    calibrated = calibrate_labels(
        LabelCalibrateSettings(model=str(class_model), data=data, refuse=0),
        lambda done, total: told.append((done, total)),
    )
    assert calibrated.written and not calibrated.notes and told[-1] == (30, 30)
    assert calibrated.examples == {"left": 6, "right": 6, "even": 6}
    assert all(0 < a <= 1 for a in calibrated.accept.values())
    assert calibrated.held_out.known_refused.count == 0
    assert calibrated.held_out.automatic.value == 1
    json.dumps(calibrated.to_dict())
    known = Classifier.load(class_model).known
    assert known.names[0] == "train/left/00.png"
    # training images alone are examples
    assert all(name.startswith("train/") for name in known.names)
    report, _ = score_labels(settings)
    # both halves bright: nothing like it was seen
    assert report.unseen_found.value == 1 and report.known_refused.count <= 2
    assert report.confusion[3].tolist() == [0, 0, 0, 3]


def test_what_training_held_out_takes_the_place_of_val(tmp_path, data, class_model):
    for name in ("left", "right", "even"):
        for path in (data / "val" / name).iterdir():
            path.unlink()
        (data / "val" / name).rmdir()
    (data / "val").rmdir()
    settings = LabelCalibrateSettings(model=str(class_model), data=data)
    calibrated = calibrate_labels(settings)
    assert calibrated.factor == 1 and calibrated.held_out.images == 0
    assert "no image was held out" in calibrated.notes[0]
    assert calibrated.accept == {"left": 0.9, "right": 0.9, "even": 0.9}
    kept = ("train/left/00.png", "train/right/03.png", "train/even/05.png")
    meta = Classifier.load(class_model).meta
    rewrite_meta(class_model, meta.model_copy(update={"held_out": kept}))
    calibrated = calibrate_labels(settings)
    assert calibrated.held_out.images == 3
    assert set(calibrated.examples.values()) == {5}
    assert not set(kept) & set(Classifier.load(class_model).known.names)


def test_a_class_with_one_image_and_one_with_none(tmp_path, class_model):
    root = tmp_path / "few"
    for i in range(3):
        put(root, "train", "left", i, 0.8 + 0.03 * i, 0.1)
    put(root, "train", "right", 0, 0.1, 0.9)
    # an image that is called something else is no example
    put(root, "train", "even", 0, 0.1, 0.9)
    calibrated = calibrate_labels(LabelCalibrateSettings(model=str(class_model), data=root))
    assert calibrated.examples == {"left": 3, "right": 1, "even": 0}
    assert calibrated.reach["right"] == calibrated.reach["left"]
    assert calibrated.reach["even"] is None
    assert any(n.startswith("right: one known") for n in calibrated.notes)
    assert any(n.startswith("even: no known") for n in calibrated.notes)


def test_data_that_does_not_fit(tmp_path, data, class_model):
    name = str(class_model)
    with pytest.raises(SettingsError, match="--clean"):
        score_labels(LabelScoreSettings(model=name, data=(data,), clean=("tidy",)))
    with pytest.raises(DataError, match="class in other, found none"):
        score_labels(LabelScoreSettings(model=name, data=(data,), split="other"))
    put(tmp_path / "else", "test", "scratch", 0, 0, 0)
    with pytest.raises(ModelError, match="none for scratch"):
        score_labels(LabelScoreSettings(model=name, data=(tmp_path / "else",)))
    # only a test part: nothing may be learned from it
    put(tmp_path / "only", "test", "left", 0, 1, 0)
    with pytest.raises(DataError, match="train part"):
        calibrate_labels(LabelCalibrateSettings(model=name, data=tmp_path / "only"))
    put(tmp_path / "only", "train", "scratch", 0, 1, 0)
    with pytest.raises(ModelError, match="none for scratch"):
        calibrate_labels(LabelCalibrateSettings(model=name, data=tmp_path / "only"))


def test_the_verbs(tmp_path, data, class_model, capsys):
    from semiscope.cli import app

    def run(*given, status=0):
        with pytest.raises(SystemExit) as left:
            app(list(given), exit_on_error=False, print_error=False)
        assert left.value.code == status
        return capsys.readouterr()

    model = ("--model", str(class_model), "--data", str(data))
    run("calibrate", *model, "--refuse", "0")
    told = run("calibrate", *model, "--purity", "0.9", "--json").out
    assert json.loads(told)["examples"]["left"] == 6
    told = json.loads(run("info", str(class_model), "--json").out)
    assert (told["task"], told["known_examples"], told["held_out"]) == ("classify", 18, 0)
    picture = tmp_path / "curves.png"
    told = run("evaluate", *model, "--plot", str(picture), "--json").out
    figures = json.loads(told)
    assert figures["accuracy"]["value"] == 1 and figures["unseen"] == {"blob": 3}
    assert figures["failed"] == [] and len(figures["curve"]) == 18
    assert cv2.imread(str(picture)).shape[1] == 1600
    # a label that is wrong, and an image called right that is of another class
    put(data, "test", "left", 30, 0.1, 0.88)
    printed = run("evaluate", *model, "--report", str(tmp_path / "page.html")).out
    page = (tmp_path / "page.html").read_text()
    # once suspected, once accepted and wrong, once among the confident
    assert page.count("30.png</small>") == 3 and "labelled left" in page
    assert "<td>left</td><td>right</td>" in page and "a class that the model never saw" in page
    assert "kappa" in printed and "never saw: blob 3" in printed
    # options of other kinds of models
    for verb, option in (("evaluate", "--min-score"), ("calibrate", "--max-escape")):
        with pytest.raises(SettingsError, match=option[2:].replace("-", "_")):
            run(verb, *model, option, "0.5")


def test_inspection_labels_puts_aside_and_resumes(tmp_path, data, class_model):
    calibrate_labels(LabelCalibrateSettings(model=str(class_model), data=data, refuse=0))
    images = tmp_path / "in"
    images.mkdir()
    for i, (left, right) in enumerate([(0.85, 0.1), (0.1, 0.82), (1, 1), (0.5, 0.4)] * 6):
        place = put(tmp_path, "in", f"<{i:02}>", i, left, right)
    (images / "bad.png").write_bytes(b"no image")
    # colour, and another size
    cv2.imwrite(str(place), np.dstack([np.full((50, 90), 204, np.uint8)] * 3))
    settings = InspectSettings(model=str(class_model))
    out = tmp_path / "out"
    summary = inspect([images], settings, out)
    assert summary.exit_status == 2 and summary.images == 24
    assert summary.dispositions["unknown"] >= 6 and summary.counts["left"][0] == 6
    told = json.loads((out / "results.json").read_text())
    assert told["annotations"] == [] and len(told["images"]) == 24
    first, second, third = told["images"][:3]
    assert (first["label"], first["disposition"], second["label"]) == ("left", "accept", "right")
    assert third["disposition"] == "unknown" and third["strangeness"] > 1
    assert len(first["nearest"]) == 3 and first["nearest"][0]["label"] == "left"
    assert first["nearest"][0]["file"].startswith("train/left/")
    assert first["strangeness"] < 1 and first["second"][0] == "even"
    rows = list(csv.DictReader((out / "labels.csv").read_text().splitlines()))
    assert len(rows) == 24 and rows[0]["nearest_label"] == "left"
    assert not (out / "defects.csv").exists()
    page = (out / "report.html").read_text()
    assert page.count("<figure><img") == 24 and "&lt;00&gt;" in page and "<00>" not in page
    assert page.count('class="dot ') == 24
    # killed after five images, the same results come out
    whole = (out / "results.json").read_bytes()
    lines = (out / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (out / "journal.jsonl").write_bytes(b"".join(lines[:6]) + lines[6][:40])
    (out / "results.json").unlink()
    inspect([images], settings, out, resume=True)
    assert (out / "results.json").read_bytes() == whole
    assert summary.to_dict()["dispositions"] == dict(summary.dispositions)


def test_inspection_without_known_examples_and_with_what_does_not_fit(tmp_path, data, class_model):
    out = tmp_path / "out"
    # brighter on the left by a tenth is enough to be accepted, by less is not
    summary = inspect([data / "test" / "blob"], InspectSettings(model=str(class_model)), out)
    assert summary.dispositions == {"accept": 1, "review": 2, "unknown": 0}
    image = json.loads((out / "results.json").read_text())["images"][0]
    assert "strangeness" not in image and "nearest" not in image
    for changes, message in (
        ({"capture": "contour"}, "labels images"),
        ({"steps": 4}, "steps"),
        ({"pairs": tmp_path / "pairs.csv"}, "two magnifications"),
    ):
        with pytest.raises(SettingsError, match=message):
            inspect([data], InspectSettings(model=str(class_model), **changes), out)
    # none of the files can be read
    (tmp_path / "x.png").write_bytes(b"")
    summary = inspect([tmp_path / "x.png"], InspectSettings(model=str(class_model)), out)
    assert summary.images == 0 and summary.csv.name == "labels.csv" and summary.csv.exists()
    assert "No image was labelled" in (out / "report.html").read_text()


def test_the_bench_of_a_classifier(data, class_model):
    figures = bench([data / "test"], BenchSettings(model=str(class_model), repetitions=1))
    assert figures.images == figures.inputs == 18 and figures.ratio > 0


def test_two_magnifications_with_and_without_a_partner(tmp_path, class_model, data):
    """Where there is a partner, its halves are taken from the image's own."""
    model = onnx.load(class_model)
    graph = model.graph
    for name, shape in (("images_low", ["batch", 1, 32, 32]), ("has_low", ["batch"])):
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    graph.initializer.append(numpy_helper.from_array(np.array([-1, 1, 1, 1], np.int64), "each"))
    for node in graph.node:
        node.input[:] = ["mixed" if i == "images" else i for i in node.input]
    for node in (
        helper.make_node("Sub", ["images", "weighed"], ["mixed"]),
        helper.make_node("Mul", ["images_low", "own"], ["weighed"]),
        helper.make_node("Reshape", ["has_low", "each"], ["own"]),
    ):
        graph.node.insert(0, node)
    onnx.save(model, class_model)
    meta = Classifier.load(class_model).meta
    rewrite_meta(class_model, meta.model_copy(update={"two_magnifications": True}))
    root = tmp_path / "pairs"
    put(root, "test", "left", 0, 1, 1)
    put(root, "test", "left", 1, 1, 0)
    put(root, "test", "even", 7, 0, 1)
    pairs = root / "pairs.csv"
    pairs.write_text("high,low\ntest/left/00.png,test/even/07.png\n")
    settings = {"model": str(class_model), "pairs": pairs}
    report, _ = score_labels(LabelScoreSettings(data=(root,), **settings))
    # the partner is no image of its own
    assert report.images == 2 and report.accuracy.value == 1
    report, _ = score_labels(LabelScoreSettings(model=str(class_model), data=(root,)))
    assert report.images == 3
    summary = inspect([root / "test"], InspectSettings(**settings), tmp_path / "out")
    assert summary.images == 2 and sum(summary.counts["left"]) == 2
    told = json.loads((tmp_path / "out" / "results.json").read_text())["images"]
    assert [i["score"] > 0.99 for i in told] == [True, True]
    # a partner that cannot be read costs its image alone
    (root / "test/even/07.png").write_bytes(b"")
    summary = inspect([root / "test"], InspectSettings(**settings), tmp_path / "out")
    assert summary.images == 1 and len(summary.failed) == 1
    for i in range(3):
        put(root, "train", "left", i, 1, 0.02 * i)
    calibrated = calibrate_labels(LabelCalibrateSettings(data=root, **settings))
    assert calibrated.examples["left"] == 3
