"""DiffusionInst as one ONNX graph whose number of boxes and of steps is chosen when it is run.

The features are computed once; an ONNX ``Loop`` runs the heads, one pass a step. Backbone and heads
are exported apart and joined here, for an exporter sees one number of steps only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from semiscope.compress.graph import to_onnx
from semiscope.nets.diffusion_inst import Denoiser, DiffusionInst
from semiscope.nets.roi import PixelRows

_ANSWERS = ("logits", "boxes", "kernels")


class _Features(nn.Module):
    def __init__(self, network: DiffusionInst) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        pixels, masks = self.network.features(images)
        return pixels.rows, masks


class _Step(nn.Module):
    def __init__(self, network: DiffusionInst, height: int, width: int) -> None:
        super().__init__()
        self.network, self.height, self.width = network, height, width

    def forward(
        self, pixels: Tensor, carried: Tensor, kept: Tensor, now: Tensor, row: Tensor
    ) -> tuple[Tensor, ...]:
        rows = PixelRows(pixels, self.height, self.width)
        carried, kept, stage = self.network.step(rows, carried, kept, now, row)
        return carried, kept, *stage


def diffusion_graph(denoiser: Denoiser, images: Tensor) -> onnx.ModelProto:
    """The graph with inputs images, noise and schedule and the outputs of ``Denoiser.forward``.

    Args:
        denoiser: In evaluation mode.
        images: (2, C, H, W) any values; H and W become fixed, the batch stays free.
    """
    network = denoiser.network
    batch = {0: "batch"}
    with torch.no_grad():
        pixels = network.features(images)[0]
    before = to_onnx(_Features(network), {"images": images}, ("pixels", "masks"), {"images": batch})
    boxes = 3
    step = to_onnx(
        _Step(network, pixels.height, pixels.width),
        {
            "pixels": pixels.rows,
            "carried": torch.zeros(len(images), boxes, 4),
            "kept": torch.zeros(len(images), boxes, dtype=torch.bool),
            "now": torch.zeros(2, boxes, 4),
            "row": torch.ones(6),
        },
        ("carried_next", "kept_next", *_ANSWERS),
        {
            "pixels": batch,
            "carried": {0: "batch", 1: "boxes"},
            "kept": {0: "batch", 1: "boxes"},
            "now": {1: "boxes"},
        },
    )
    return _joined(before, step)


def _joined(before: onnx.ModelProto, step: onnx.ModelProto) -> onnx.ModelProto:
    """The features' graph followed by a loop over the step's graph."""
    _prefix(step.graph, "step/", keep={"pixels", "carried", "kept", "now", "row"})
    body = helper.make_graph(
        [
            # the loop's body takes its row of the noise and of the schedule by the step's number
            helper.make_node("Gather", ["noise", "number"], ["now"], axis=0),
            helper.make_node("Gather", ["schedule", "number"], ["row"], axis=0),
            *step.graph.node,
            helper.make_node("Identity", ["go_on"], ["go_on_next"]),
        ],
        "step",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            _value(step.graph.input, "carried"),
            _value(step.graph.input, "kept"),
        ],
        [
            helper.make_tensor_value_info("go_on_next", TensorProto.BOOL, []),
            *step.graph.output,
        ],
    )
    carried, kept, *answers = (o.name for o in step.graph.output)
    graph = before.graph
    names = {}
    for key, value in {
        "zero": np.array([0], np.int64),
        "two": np.array([2], np.int64),
        "true": np.array(True),
        "infinity": np.array(np.inf, np.float32),
    }.items():
        names[key] = f"loop/{key}"
        graph.initializer.append(numpy_helper.from_array(value, names[key]))
    graph.node.extend(
        [
            helper.make_node("Shape", ["images"], ["loop/batch"], start=0, end=1),
            helper.make_node("Shape", ["noise"], ["loop/steps"], start=0, end=1),
            helper.make_node("Squeeze", ["loop/steps", names["zero"]], ["loop/count"]),
            helper.make_node("Shape", ["noise"], ["loop/boxes"], start=2, end=4),
            helper.make_node("Concat", ["loop/batch", "loop/boxes"], ["loop/shape"], axis=0),
            helper.make_node("Slice", ["loop/shape", names["zero"], names["two"]], ["loop/flat"]),
            helper.make_node("ConstantOfShape", ["loop/shape"], ["loop/carried"]),
            helper.make_node("ConstantOfShape", ["loop/flat"], ["loop/none"]),
            # nothing is above infinity: no box goes on into the first step
            helper.make_node("Greater", ["loop/none", names["infinity"]], ["loop/kept"]),
            helper.make_node(
                "Loop",
                ["loop/count", names["true"], "loop/carried", "loop/kept"],
                ["loop/last_carried", "loop/last_kept", *_ANSWERS],
                body=body,
            ),
        ]
    )
    graph.initializer.extend(step.graph.initializer)
    graph.input.extend(
        [
            helper.make_tensor_value_info("noise", TensorProto.FLOAT, ["steps", 2, "boxes", 4]),
            helper.make_tensor_value_info("schedule", TensorProto.FLOAT, ["steps", 6]),
        ]
    )
    masks = _value(graph.output, "masks")
    outputs = [
        _stacked(_value(step.graph.output, a), n) for a, n in zip(answers, _ANSWERS, strict=True)
    ]
    del graph.output[:]
    graph.output.extend([*outputs, masks])
    onnx.checker.check_model(before)
    return before


def _prefix(graph: onnx.GraphProto, prefix: str, keep: set[str]) -> None:
    """Renames every value of a graph but those to keep, so that two graphs can be joined."""

    def renamed(name: str) -> str:
        return name if name in keep or not name else prefix + name

    for node in graph.node:
        if any(
            a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
            for a in node.attribute
        ):
            raise ValueError(f"{node.op_type}: a graph inside the step's graph is not expected")
        node.input[:] = [renamed(n) for n in node.input]
        node.output[:] = [renamed(n) for n in node.output]
        node.name = renamed(node.name)
    for value in (*graph.initializer, *graph.output, *graph.value_info):
        value.name = renamed(value.name)


def _value(values: Sequence[onnx.ValueInfoProto], name: str) -> onnx.ValueInfoProto:
    return next(v for v in values if v.name == name)


def _stacked(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    """What the loop makes of a value: one more axis in front, a row a step."""
    shape = [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["steps", *shape])
