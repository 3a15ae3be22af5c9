import cv2
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from semiscope.capture.package import capture
from semiscope.capture.segment import SegmentSettings, segment_finder
from semiscope.errors import ModelError

SIDE = 256
# the photograph is twice as large as the input
PACKAGE = np.array([[140, 110], [390, 160], [350, 400], [95, 345]], float)


@pytest.fixture
def model(tmp_path, write_model):
    """A network that calls whatever is bright one package, its mask exact to the covered share.

    One cell with one anchor is the box, the whole input; its objectness is high from a mean
    brightness of 0.05 on.
    """

    def write(**changes):
        numbers = {
            "w": np.array([0, 0, 0, 0, 200, 0, 0], np.float32).reshape(7, 1, 1, 1),
            "b": np.array([0, 0, 0, 0, -10, 9, -9], np.float32),
            "zero": np.zeros(1, np.float32),
            "one": np.ones(1, np.float32),
            "most": np.array([0.98], np.float32),
            "least": np.array([0.01], np.float32),
            "last": np.array([3], np.int64),
        }
        node = helper.make_node
        nodes = [
            node("GlobalAveragePool", ["x"], ["mean"]),
            node("Conv", ["mean", "w", "b"], ["p8"]),
            node("Mul", ["mean", "zero"], ["nothing"]),
            node("Add", ["nothing", "one"], ["ones"]),
            node("Squeeze", ["ones", "last"], ["coefficients"]),
            node("AveragePool", ["x"], ["cells"], kernel_shape=[4, 4], strides=[4, 4]),
            node("Mul", ["cells", "most"], ["less"]),
            node("Add", ["less", "least"], ["share"]),
            node("Log", ["share"], ["in"]),
            node("Sub", ["one", "share"], ["rest"]),
            node("Log", ["rest"], ["out"]),
            node("Sub", ["in", "out"], ["prototypes"]),
        ]
        shapes = {"p8": [7, 1, 1], "coefficients": [1, 1], "prototypes": [1, 64, 64]}
        graph = helper.make_graph(
            nodes,
            "bright",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, SIDE, SIDE])],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
                for name, shape in shapes.items()
            ],
            [numpy_helper.from_array(value, name) for name, value in numbers.items()],
        )
        given = {
            "task": "segment",
            "classes": ["package", "die"],
            "input": {
                **{"height": SIDE, "width": SIDE, "channels": 1},
                **{"scaling": "dtype", "mean": [0.0], "std": [1.0]},
            },
            "decoder": {
                "kind": "prototypes",
                **{"strides": [SIDE], "anchors": [[[SIDE, SIDE]]], "iou_threshold": 0.5},
            },
            "thresholds": {},
        }
        return write_model(tmp_path / "bright.onnx", graph, **{**given, **changes})

    return write


def photograph(corners, dtype=np.uint8):
    """A bright quadrilateral on black, its border antialiased."""
    large = np.zeros((2048, 2048), np.uint8)
    cv2.fillConvexPoly(large, np.round(corners * 4 * 16 - 8).astype(np.int32), 255, shift=4)
    small = cv2.resize(large, (512, 512), interpolation=cv2.INTER_AREA)
    return (small.astype(np.float64) / 255 * np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_corners_are_exact_to_a_small_part_of_a_mask_s_cell(model, dtype):
    find = segment_finder(SegmentSettings(model=str(model())), threads=1)
    (candidate,) = find(photograph(PACKAGE, dtype))
    # a cell of the mask is 8 px of the photograph
    assert np.abs(candidate.corners - PACKAGE).max() < 1.0
    assert candidate.method == "segment" and candidate.score > 0.9
    assert candidate.corners.dtype == np.float64


def test_the_package_is_captured_and_a_dark_photograph_is_not(model):
    find = segment_finder(SegmentSettings(model=str(model())))
    found = capture(photograph(PACKAGE), find)
    assert found.reason is None and found.upright is not None
    assert found.upright.pixels.min() > 100
    assert find(np.zeros((300, 500), np.uint8)) == []


def test_a_disc_is_no_package(model):
    pixels = np.zeros((512, 512), np.uint8)
    cv2.circle(pixels, (250, 260), 150, 255, -1)
    assert segment_finder(SegmentSettings(model=str(model())))(pixels) == []


def test_a_model_without_masks_or_packages_is_refused(model, blob_model):
    with pytest.raises(ModelError, match="task detect with classes dim"):
        segment_finder(SegmentSettings(model=str(blob_model)))
    with pytest.raises(ModelError, match="'chip'"):
        segment_finder(SegmentSettings(model=str(model()), package_class="chip"))
