import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from semiscope.capture.upright import transform_points
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


def write_class_model(path: Path, **changes) -> Path:
    """A classifier that any one can check by hand, of 32 x 32 inputs in [0, 1].

    Its features are the mean brightness of the left half and of the right half. "left" has the
    logit 20 l - 10 r, "right" 20 r - 10 l, "even" 4. So a bright left half beside a dark one gives
    logits 20, -10 and 4; both dark give "even", and both bright a draw of the first two.
    """
    nodes = [
        helper.make_node("AveragePool", ["images"], ["h"], kernel_shape=[32, 16], strides=[32, 16]),
        helper.make_node("Flatten", ["h"], ["features"]),
        helper.make_node("Gemm", ["features", "w", "b"], ["logits"]),
    ]
    weight = np.array([[20, -10, 0], [-10, 20, 0]], np.float32)
    graph = helper.make_graph(
        nodes,
        "halves",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 1, 32, 32])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 2]),
        ],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(np.array([0, 0, 4], np.float32), "b"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    meta = {
        "name": "halves",
        "task": "classify",
        "network": "one linear layer",
        "classes": ["left", "right", "even"],
        "input": {
            **{"height": 32, "width": 32, "channels": 1},
            **{"scaling": "dtype", "mean": [0.0], "std": [1.0]},
        },
        "field_height": 32,
        "field_width": 32,
        "thresholds": {k: {"report": 0.0, "accept": 0.9} for k in ("left", "right", "even")},
        "parameters": 9,
        "gflops": 0.0001,
        "data": "none",
        "licence": "Apache-2.0",
        **changes,
    }
    model.metadata_props.add(key=METADATA_KEY, value=json.dumps(meta))
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def class_model(tmp_path):
    return write_class_model(tmp_path / "halves.onnx")


DISCS_META = {
    "name": "discs",
    "network": "by hand",
    "side": 64,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "task": "prompt",
    "parameters": 0,
    "gflops": 0.0,
    "data": "none",
    "licence": "Apache-2.0",
}

# Features: the means of 16 x 16 pixels. Logits: the inside distance to the box from the first place
# to the last, and to discs around the first. Claimed: how many places are no point, negative,
# positive and of a box, over ten. A mask prompt is added to all logits.
DISCS = """
<ir_version: 8, opset_import: ["": 17]>
discs (
  bool encode, float[1, 3, 64, 64] images, float[1, 256, 4, 4] embedding, float[P, N, 2] points,
  int64[P, N] labels, float[P, 1, 16, 16] masks, float[P] has_mask
) => (float[1, 256, 4, 4] features, float[P, 4, 16, 16] logits, float[P, 4] claimed)
<
  int64[1] zero = {0}, int64[1] last = {-1}, int64[1] most = {2},
  int64[4] kinds = {-1, 0, 1, 2}, float tenth = {0.1}, int64[4] one_each = {-1, 1, 1, 1}
>
{
  features = If (encode) <
    then_branch = convolved () => (float[1, 256, 4, 4] means) {
      means = Conv <strides = [16, 16]> (images, weight)
    },
    else_branch = given () => (float[1, 256, 4, 4] same) { same = Identity (embedding) }
  >
  p = Gather <axis = 1> (points, zero)
  b = Gather <axis = 1> (points, last)
  px, py = Split <axis = 2> (p)
  bx, by = Split <axis = 2> (b)
  pxx = Reshape (px, one_each)
  pyy = Reshape (py, one_each)
  bxx = Reshape (bx, one_each)
  byy = Reshape (by, one_each)
  dx = Sub (x, pxx)
  dy = Sub (y, pyy)
  dx2 = Mul (dx, dx)
  dy2 = Mul (dy, dy)
  d2 = Add (dx2, dy2)
  d = Sqrt (d2)
  discs = Sub (radii, d)
  right = Sub (bxx, x)
  bottom = Sub (byy, y)
  box = Min (dx, right, dy, bottom)
  shapes = Concat <axis = 1> (box, discs)
  has = Reshape (has_mask, one_each)
  prior = Mul (masks, has)
  logits = Add (shapes, prior)
  low = Min (labels, most)
  one = Unsqueeze (low, last)
  equal = Equal (one, kinds)
  numbers = Cast <to = 1> (equal)
  middle = ReduceSum <keepdims = 0> (numbers, axis)
  claimed = Mul (middle, tenth)
}
"""


def write_discs_model(path, **changes):
    """A promptable model that any one can check by hand: see ``DISCS``."""
    model = onnx.parser.parse_model(DISCS)
    weight = np.zeros((256, 3, 16, 16), np.float32)
    weight[:3] = np.eye(3).reshape(3, 3, 1, 1) / 256
    centres = (np.arange(16, dtype=np.float32) + 0.5) * 4
    for name, value in {
        "weight": weight,
        "x": centres.reshape(1, 1, 1, 16),
        "y": centres.reshape(1, 1, 16, 1),
        "radii": np.array([8, 16, 24], np.float32).reshape(1, 3, 1, 1),
        "axis": np.array([1], np.int64),
    }.items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    model.metadata_props.add(key=METADATA_KEY, value=json.dumps({**DISCS_META, **changes}))
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="session")
def write_discs():
    return write_discs_model


def write_detector_run(folder: Path, data: Path, neck="elan", seed=0, classes=("square", "disc")):
    """The folder of a run of ``train detect`` on grey 64 x 64 inputs, its weights random.

    Its layers have an eighth of their channels, so that it is pruned and trained in a moment.
    """
    import torch

    from semiscope.infer.decoders import YoloDecoder
    from semiscope.infer.model import InputSpec
    from semiscope.learn import checkpoint
    from semiscope.nets.widths import widths_of
    from semiscope.nets.yolov7_tiny import COCO_ANCHORS, STRIDES, YoloV7Tiny

    torch.manual_seed(seed)
    built = {"classes": len(classes), "neck": neck, "channels": 1}
    widths = {}
    for name, channels in widths_of(YoloV7Tiny(**built)).items():
        if not name.startswith("heads."):
            # CoordConv sees two channels more than it is given
            widths[name] = [(n - n % 8) // 8 + n % 8 for n in channels]
    built["widths"] = widths
    network = YoloV7Tiny(**built)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight)
            torch.nn.init.normal_(layer.bias, std=0.1)
    given = {"height": 64, "width": 64, "channels": 1, "mean": (0.449,), "std": (0.226,)}
    spec = {
        "task": "detect",
        "net": "yolov7-tiny",
        "built": built,
        "network": f"yolov7-tiny, neck {neck}",
        "classes": list(classes),
        "input": InputSpec(**given).model_dump(mode="json"),
        "decoder": YoloDecoder(
            strides=STRIDES, anchors=COCO_ANCHORS, iou_threshold=0.65
        ).model_dump(mode="json"),
        "field": [70, 90],
        "thresholds": {name: {"report": 0.3, "accept": 0.9} for name in classes},
        "class_ap": dict.fromkeys(classes, 0.5),
        "data": "none",
    }
    figures = {"fitness": 0.5, "map": 0.5}
    checkpoint.save(
        folder / "best",
        {"model": network.state_dict()},
        {"spec": spec, "metrics": figures, "epoch": 3},
    )
    (folder / "settings.toml").write_text(
        f"""task = "detect"
[learn]
data = '{data}'
neck = "{neck}"
height = 64
width = 64
channels = 1
learning_rate = 0.002
[learn.augment]
paste = 0.0
[loop]
epochs = 1
batch = 4
warmup_epochs = 0.0
workers = 0
""",
        encoding="utf-8",
    )
    return folder


@pytest.fixture(scope="session")
def detector_run():
    return write_detector_run


def cover(corners, height, width, soft=1.0):
    """(H, W) share of each pixel inside a convex outline; its border changes over `soft` px."""
    y, x = np.mgrid[0:height, 0:width] + 0.5
    inside = np.full((height, width), np.inf)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        length = np.hypot(bx - ax, by - ay)
        inside = np.minimum(inside, ((bx - ax) * (y - ay) - (by - ay) * (x - ax)) / length)
    return np.clip(0.5 + inside / soft, 0, 1)


def turned(centre, width, height, degrees):
    """Corners of a rectangle turned counter-clockwise on screen, in its own order."""
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [width / 2, height / 2]
    return half @ turn.T + centre


class Unit:
    """A drawn photograph: black package with a die and a mark at its top left, on a green board."""

    def __init__(
        self, degrees=0.0, size=(240, 240), centre=(120.5, 118.0), package=(110, 150), die_deg=0.0,
        tilt=0.0, noise=2.0, seed=0,
    ):  # fmt: skip
        height, width = size
        tilting = np.array([[1, 0, 0], [0, 1, 0], [tilt / width, tilt / height, 1.0]])
        self.corners = transform_points(turned(centre, *package, degrees), tilting)
        die = turned((0.5 * package[0], 0.55 * package[1]), 50, 60, die_deg)
        mark = np.array([[8, 8], [24, 8], [24, 24], [8, 24.0]])
        low, high = np.array([0, 0]), np.array(package)
        frame = np.array([low, [high[0], 0], high, [0, high[1]]])
        top_left, top_right, _, bottom_left = turned(centre, *package, degrees)
        across, down = (top_right - top_left) / package[0], (bottom_left - top_left) / package[1]

        def place(points):
            return transform_points(
                top_left + points[:, :1] * across + points[:, 1:] * down, tilting
            )

        assert np.allclose(place(frame), self.corners)
        self.die, self.mark = place(die), place(mark)
        pixels = np.ones((height, width, 1)) * np.array([40.0, 130, 60])
        for corners, colour, soft in (
            (self.corners, (20, 22, 21), 5.0),
            (self.die, (150, 140, 150), 1.0),
            (self.mark, (220, 190, 90), 1.0),
        ):
            share = cover(corners, height, width, soft)[..., None]
            pixels = pixels * (1 - share) + np.array(colour) * share
        pixels += np.random.default_rng(seed).normal(0, noise, pixels.shape)
        self.pixels = pixels.clip(0, 255).round().astype(np.uint8)


@pytest.fixture
def unit():
    return Unit


@pytest.fixture(scope="session")
def small_sam():
    """Makes a random SAM of transformers: two layers of two heads, the second looking everywhere.

    Its arguments are the channels and the side of the input, px.
    """
    transformers = pytest.importorskip("transformers")
    import torch

    def make(width: int, side: int):
        torch.manual_seed(0)
        vision = transformers.SamVisionConfig(
            hidden_size=width,
            num_hidden_layers=2,
            num_attention_heads=2,
            mlp_dim=64,
            image_size=side,
            window_size=3,
            global_attn_indexes=[1],
        )
        config = transformers.SamConfig(
            vision_config=vision.to_dict(), prompt_encoder_config={"image_size": side}
        )
        return transformers.SamModel(config).eval()

    return make
