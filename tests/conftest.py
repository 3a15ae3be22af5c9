import json
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from semiscope.infer.model import METADATA_KEY

CELL = 8


def write_blob_model(path: Path, graph=None, **changes) -> Path:
    """A detector that any one can check by hand: each 8 x 8 cell of a 64 x 64 input is a box.

    With b the cell's mean brightness in [0, 1], the objectness is sigmoid(40 b - 12); a cell is a
    "dim" defect below 0.7 and a "bright" one above. So 0.5 gives dim, 0.9 bright, both above 0.99,
    and 0.32 gives dim at sigmoid(0.8) = 0.69. Another graph and changes of the metadata make other
    models of it.
    """
    weight = np.zeros((7, 1, CELL, CELL), np.float32)
    bias = np.zeros(7, np.float32)
    for channel, gain, offset in ((4, 40, -12), (5, -80, 56), (6, 80, -56)):
        weight[channel] = gain / CELL**2
        bias[channel] = offset
    blobs = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], strides=[CELL, CELL])],
        "blobs",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 64, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 7, 8, 8])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(
        graph or blobs, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    meta = {
        "name": "blobs",
        "task": "detect",
        "network": "one convolution",
        "classes": ["dim", "bright <&>"],
        "input": {
            **{"height": 64, "width": 64, "channels": 1},
            **{"scaling": "dtype", "mean": [0.0], "std": [1.0]},
        },
        "field_height": 64,
        "field_width": 64,
        "decoder": {
            "kind": "yolo",
            "strides": [CELL],
            "anchors": [[[CELL, CELL]]],
            "iou_threshold": 0.65,
        },
        "thresholds": {
            "dim": {"report": 0.3, "accept": 0.9},
            "bright <&>": {"report": 0.3, "accept": 0.9},
        },
        "parameters": int(weight.size + bias.size),
        "gflops": 0.0001,
        "data": "none",
        "licence": "Apache-2.0",
        **changes,
    }
    model.metadata_props.add(key=METADATA_KEY, value=json.dumps(meta))
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def blob_model(tmp_path):
    return write_blob_model(tmp_path / "blobs.onnx")


@pytest.fixture
def write_model():
    return write_blob_model
