"""Units drawn at known angles, found by contours and inspected by a model made by hand."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from semiscope.capture.methods import PackageSettings
from semiscope.errors import ModelError
from semiscope.inspection.pipeline import inspect
from semiscope.inspection.settings import InspectSettings
from semiscope.inspection.units import Units
from semiscope.measure.angle import Rotation
from semiscope.types import Annotations

CLASSES = ("die", "crack")
PACKAGE = (110, 150)
SIDE = 64


def logit(p):
    return float(np.log(p / (1 - p)))


def in_input(box):
    """A box of the upright package as YOLO writes it in an input of 64 x 64."""
    scale = SIDE / max(PACKAGE)
    left = (SIDE - PACKAGE[0] * scale) / 2
    x1, y1, x2, y2 = (np.array(box) * scale + [left, 0, left, 0]).tolist()
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


@pytest.fixture
def unit_model(tmp_path, write_model):
    """A model that sees, whatever the picture, a box a class with the score that it is told."""

    def write(die_box, die=0.99, crack=0.0):
        boxes = {"die": (die_box, die), "crack": ((60, 90, 70, 96), crack)}
        bias, anchors = [], []
        for index, (box, score) in enumerate(boxes.values()):
            x, y, width, height = in_input(box)
            bias += [logit((x / SIDE + 0.5) / 2), logit((y / SIDE + 0.5) / 2), 0, 0]
            bias += [logit(min(max(score, 1e-4), 1 - 1e-4)), -12, -12]
            bias[-2 + index] = 12
            anchors.append([width, height])
        graph = helper.make_graph(
            [helper.make_node("Conv", ["x", "w", "b"], ["y"], strides=[SIDE, SIDE])],
            "told",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, SIDE, SIDE])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 14, 1, 1])],
            [
                numpy_helper.from_array(np.zeros((14, 1, SIDE, SIDE), np.float32), "w"),
                numpy_helper.from_array(np.array(bias, np.float32), "b"),
            ],
        )
        return write_model(
            tmp_path / "told.onnx",
            graph,
            classes=list(CLASSES),
            decoder={
                "kind": "yolo",
                "strides": [SIDE],
                "anchors": [anchors],
                "iou_threshold": 0.65,
            },
            field_height=256,
            field_width=256,
            thresholds={name: {"report": 0.3, "accept": 0.9} for name in CLASSES},
        )

    return write


def box_of(die_deg):
    """The upright box of the die of a drawn unit, px of its upright package."""
    turn = np.radians(die_deg)
    half = np.abs([[np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ [25, 30]
    centre = np.array([0.5 * PACKAGE[0], 0.55 * PACKAGE[1]])
    return (*(centre - half), *(centre + half))


def inspected(tmp_path, pixels, model, **settings):
    path = tmp_path / "unit.png"
    cv2.imwrite(str(path), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    summary = inspect(
        [path], InspectSettings(model=str(model), capture="contour", **settings), tmp_path / "out"
    )
    return json.loads(summary.results.read_text()), summary


@pytest.mark.parametrize(
    "die_deg, tolerance, verdict",
    [(0.0, 1.0, "pass"), (4.0, 1.0, "fail"), (-4.0, 5.0, "pass"), (-4.0, 3.0, "fail")],
)
def test_a_die_is_judged_by_its_angle(tmp_path, unit, unit_model, die_deg, tolerance, verdict):
    drawn = unit(12.0, tilt=0.02, die_deg=die_deg)
    results, summary = inspected(
        tmp_path, drawn.pixels, unit_model(box_of(die_deg)), rotation_tolerance=tolerance
    )
    (image,), (die,) = results["images"], results["annotations"]
    assert die["angle_deg"] == pytest.approx(die_deg, abs=0.3)
    low, high = die["angle_interval_deg"]
    assert low < die["angle_deg"] < high
    assert image["verdict"] == verdict and summary.verdicts[verdict] == 1
    assert image["reason"].startswith("die turned by") == (verdict == "fail")


def test_boxes_are_told_in_the_photograph(tmp_path, unit, unit_model):
    drawn = unit(25.0, die_deg=3.0)
    results, _ = inspected(tmp_path, drawn.pixels, unit_model(box_of(3.0), crack=0.95))
    crack = next(a for a in results["annotations"] if a["category_id"] == 2)
    across = (drawn.corners[1] - drawn.corners[0]) / PACKAGE[0]
    down = (drawn.corners[3] - drawn.corners[0]) / PACKAGE[1]
    x, y, width, height = crack["bbox"]
    expected = drawn.corners[0] + 65 * across + 93 * down
    np.testing.assert_allclose([x + width / 2, y + height / 2], expected, atol=1.5)


@pytest.mark.parametrize(
    "die, crack, verdict, reason",
    [
        (0.99, 0.95, "fail", "crack"),
        (0.99, 0.5, "review", "crack, unsure"),
        (0.0, 0.0, "fail", "no die"),
        (0.0, 0.95, "fail", "no die; crack"),
    ],
)
def test_what_is_found_decides(tmp_path, unit, unit_model, die, crack, verdict, reason):
    model = unit_model(box_of(0), die=die, crack=crack)
    results, _ = inspected(tmp_path, unit(-8.0).pixels, model)
    assert [(i["verdict"], i["reason"]) for i in results["images"]] == [(verdict, reason)]


@pytest.mark.parametrize(
    "photo, reason",
    [
        (lambda unit: np.zeros((200, 200, 3), np.uint8), "under-exposed"),
        (lambda unit: np.full((200, 200, 3), 255, np.uint8), "over-exposed"),
        (lambda unit: np.full((200, 200, 3), (40, 130, 60), np.uint8), "none found"),
        (
            lambda unit: np.concatenate([unit(5).pixels, unit(-8, seed=1).pixels], 1),
            "several found",
        ),
        (lambda unit: unit(0, centre=(20.0, 118.0)).pixels, "cut by the border"),
    ],
)
def test_what_cannot_be_captured_is_for_review(tmp_path, unit, unit_model, photo, reason):
    results, summary = inspected(tmp_path, photo(unit), unit_model(box_of(0)))
    assert [(i["verdict"], i["reason"]) for i in results["images"]] == [("review", reason)]
    assert results["annotations"] == [] and summary.exit_status == 0


def judge(reported, dispositions, rotation, tolerance=1.0):
    units = Units("contour", PackageSettings(), tolerance, CLASSES, 1)
    return units.judge(reported, dispositions, rotation)


def die_alone(count=1):
    return Annotations(np.tile([0, 0, 9, 9.0], (count, 1)), np.zeros(count, int))


def test_an_interval_about_the_tolerance_is_for_review():
    verdict, (reason,) = judge(die_alone(), ["accept"], Rotation(-0.95, -1.05, -0.85, 4, True))
    assert verdict == "review" and reason == (
        "die turned by -0.95 degrees, too near the tolerance to tell"
    )
    assert judge(die_alone(), ["accept"], Rotation(-0.2, -1.05, 0.65, 4, True))[0] == "review"
    assert judge(die_alone(), ["accept"], Rotation(0.2, -0.4, 0.8, 4, True)) == ("pass", [])
    assert judge(die_alone(), ["accept"], Rotation(-3, -4, -2, 4, True))[0] == "fail"


def test_a_die_that_cannot_be_measured_and_two_dice_are_for_review():
    assert judge(die_alone(), ["accept"], None)[0] == "review"
    assert judge(die_alone(2), ["accept"] * 2, None) == ("review", ["several dice"])


def test_a_model_without_dice_is_refused(tmp_path: Path, blob_model):
    with pytest.raises(ModelError, match="class 'die'"):
        inspect(
            [tmp_path / "unit.png"],
            InspectSettings(model=str(blob_model), capture="contour"),
            tmp_path / "out",
        )
