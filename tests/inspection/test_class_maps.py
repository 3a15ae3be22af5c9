"""Class maps through an inspection, by a segmenter that any one can check by hand."""

import csv
import json

import cv2
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from semiscope.errors import SettingsError
from semiscope.evaluate.segmentation import confusion
from semiscope.infer.model import METADATA_KEY
from semiscope.infer.segmenter import ClassMap, Segmenter, is_segmenter, regions
from semiscope.inspection.pipeline import inspect
from semiscope.inspection.score_maps import MapScoreSettings, score_maps
from semiscope.inspection.settings import InspectSettings
from semiscope.io.masks import read_class_map

LEVELS = (0.1, 0.5, 0.9)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Each pixel is of the class whose grey is nearest: crack 0.1, oxide 0.5, metal 0.9."""
    centre = np.array(LEVELS, np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"])],
        "nearest",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 64, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3, 64, 64])],
        [
            numpy_helper.from_array(400 * centre[:, None, None, None], "w"),
            numpy_helper.from_array(-200 * centre**2, "b"),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    meta = {
        **{"name": "nearest", "task": "class-map", "network": "one convolution"},
        **{"classes": ["crack", "oxide", "metal"], "defects": ["crack"]},
        "thresholds": {"crack": {"report": 0.0, "accept": 0.9}},
        "input": {"height": 64, "width": 64, "channels": 1, "mean": [0.0], "std": [1.0]},
        **{"field_height": 64, "field_width": 64, "parameters": 6, "gflops": 0.0001},
        **{"data": "none", "licence": "Apache-2.0"},
    }
    made.metadata_props.add(key=METADATA_KEY, value=json.dumps(meta))
    path = tmp_path_factory.mktemp("model") / "nearest.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def stack():
    """Oxide, a metal layer of 12 rows across it, in which a crack of 3 x 20 pixels lies."""
    classes = np.ones((100, 150), np.uint8)
    classes[40:52] = 2
    classes[44:47, 30:50] = 0
    return (np.array(LEVELS)[classes] * 255).round().astype(np.uint8), classes


def test_a_class_map_is_written_measured_and_shown(tmp_path, model):
    pixels, classes = stack()
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "a <b>.png"), pixels)
    (tmp_path / "in" / "c.png").write_bytes(b"no image")
    cv2.imwrite(str(tmp_path / "in" / "d.png"), np.full((20, 30), 230, np.uint8))
    out = tmp_path / "out"
    summary = inspect([tmp_path / "in"], InspectSettings(model=str(model), nm_per_px=2), out)
    assert summary.exit_status == 2 and summary.images == 2 and summary.defects == 1
    told = json.loads((out / "results.json").read_text())
    first, last = told["images"]
    assert first["class_map"] == "class_maps/00001-a__b_.png" and first["score"] > 0.99
    np.testing.assert_array_equal(read_class_map(out / first["class_map"]), classes)
    metal = first["classes"]["metal"]
    assert metal["area"] == 12 * 150 - 60 and metal["area_nm2"] == 4 * metal["area"]
    assert metal["share"] == pytest.approx(metal["area"] / 15000, abs=1e-6)
    # the crack within does not make it thinner
    assert metal["thickness_nm"]["least"] == pytest.approx(24, abs=0.1)
    # above and below the metal the image cuts the oxide off
    assert first["classes"]["oxide"]["thickness"] is None
    assert first["classes"]["crack"]["thickness"]["median"] == pytest.approx(3, abs=0.05)
    assert last["classes"]["metal"]["share"] == 1 and last["classes"]["crack"]["area"] == 0
    (crack,) = told["annotations"]
    assert crack["bbox"] == [30, 44, 20, 3] and crack["area"] == 60 and crack["category_id"] == 1
    assert crack["width_nm"] == 40 and crack["disposition"] == "accept"
    rows = list(csv.DictReader((out / "materials.csv").read_text().splitlines()))
    assert len(rows) == 6 and rows[2]["class"] == "metal"
    assert float(rows[2]["thickness_most_nm"]) == metal["thickness_nm"]["most"]
    assert rows[1]["thickness_median_px"] == "" and rows[4]["area_px2"] == "0"
    page = (out / "report.html").read_text()
    assert page.count('alt="Classes of') == 2 and "a &lt;b&gt;.png" in page
    # a run after it in the same folder leaves nothing of it behind
    inspect([tmp_path / "in" / "d.png"], InspectSettings(model=str(model)), out)
    assert [p.name for p in (out / "class_maps").iterdir()] == ["00001-d.png"]
    assert "thickness_nm" not in (out / "results.json").read_text()


def test_an_info_bar_is_no_specimen(tmp_path, model, monkeypatch):
    from semiscope.inspection import pipeline
    from semiscope.types import Image

    pixels, classes = stack()
    monkeypatch.setattr(pipeline, "read_image", lambda path: Image(pixels, info_bar_px=30))
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    inspect([tmp_path / "a.png"], InspectSettings(model=str(model)), tmp_path / "out")
    found = read_class_map(tmp_path / "out" / "class_maps" / "00001-a.png")
    np.testing.assert_array_equal(found[:70], classes[:70])
    assert (found[70:] == 255).all()


def test_what_belongs_to_detectors_is_refused(tmp_path, model):
    cv2.imwrite(str(tmp_path / "a.png"), stack()[0])
    for changes, message in (({"capture": "contour"}, "capture"), ({"steps": 4}, "steps")):
        with pytest.raises(SettingsError, match=message):
            inspect([tmp_path], InspectSettings(model=str(model), **changes), tmp_path / "out")


def test_regions_are_connected_over_corners_and_specks_are_none():
    indices = np.zeros((20, 20), np.uint8)
    indices[2:4, 2:4] = indices[4:6, 4:6] = 1
    indices[10, 10:13] = 1
    indices[15:18, 1:19] = 2
    score = np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)
    found = regions(ClassMap(indices, score), [1])
    assert found.xyxy.tolist() == [[2, 2, 6, 6]] and found.class_id.tolist() == [1]
    assert found.shapes[0].area == 8
    assert found.score[0] == pytest.approx(score[indices == 1][:8].mean())
    assert len(regions(ClassMap(indices, score), [])) == 0


def test_evaluation_by_hand_over_two_devices(tmp_path, model):
    pixels, classes = stack()
    wrong = classes.copy()
    wrong[:10] = 2
    for name, truth in (("right", classes), ("half", wrong)):
        for folder, values in (("images", pixels), ("masks", truth)):
            (tmp_path / name / folder).mkdir(parents=True)
            cv2.imwrite(str(tmp_path / name / folder / "a.png"), values)
        # the data set numbers the classes as it likes: here as the model does
        (tmp_path / name / "classes.txt").write_text("crack\noxide\nmetal\n")
    data = (tmp_path / "right", tmp_path / "half")
    report, failed = score_maps(MapScoreSettings(model=str(model), data=data))
    assert not failed and is_segmenter(model)
    assert report.per_device[str(data[0])].mean_iou == 1 and report.defect == 1
    oxide = 15000 - 1800
    assert report.per_class["oxide"] == pytest.approx((2 * oxide - 1500) / (2 * oxide))
    assert report.worst_first[0].device == str(data[1])
    # other numbers for the same names
    (tmp_path / "half" / "classes.txt").write_text("metal\noxide\ncrack\n")
    cv2.imwrite(str(tmp_path / "half" / "masks" / "a.png"), 2 - classes)
    report, _ = score_maps(MapScoreSettings(model=str(model), data=data, defects=("metal",)))
    assert report.mean_iou == report.defect == 1


def test_tiles_of_a_large_image_leave_no_seam(model):
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, (150, 210))
    pixels = (np.array(LEVELS)[classes] * 65535).astype(np.uint16)
    for batch in (1, 4):
        found = Segmenter.load(model).segment(pixels, batch=batch)
        assert confusion(classes, found.indices, 3).trace() == classes.size


def test_the_verb_takes_several_devices_and_refuses_options_of_other_models(
    tmp_path, model, capsys
):
    from semiscope.cli import app

    pixels, classes = stack()
    for name in ("a", "b"):
        for folder, values in (("images", pixels), ("masks", classes)):
            (tmp_path / name / folder).mkdir(parents=True)
            cv2.imwrite(str(tmp_path / name / folder / "x.png"), values)
        (tmp_path / name / "classes.txt").write_text("crack\noxide\nmetal\n")
    given = ["evaluate", "--model", str(model), "--data", str(tmp_path / "a"), str(tmp_path / "b")]

    def run(*more):
        with pytest.raises(SystemExit) as left:
            app([*given, *more], exit_on_error=False, print_error=False)
        assert left.value.code == 0

    run("--json")
    told = json.loads(capsys.readouterr().out)
    assert told["mean_iou"] == 1 and told["per_class"] == {"crack": 1, "oxide": 1, "metal": 1}
    assert list(told["per_device"]) == given[4:] and len(told["worst_first"]) == 2
    run("--defects", "metal", "crack")
    assert "materials" in capsys.readouterr().out
    for option in (("--min-score", "0.5"), ("--prompts", "box")):
        with pytest.raises(SettingsError, match=option[0][2:].replace("-", "_")):
            run(*option)
