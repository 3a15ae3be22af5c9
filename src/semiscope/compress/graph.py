"""From a torch network to an ONNX graph, and the graph's storage."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

_HALF_FROM = 1024  # smaller tensors are left in single precision: they weigh nothing


def to_onnx(
    network: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    free: Mapping[str, Mapping[int, str]],
) -> onnx.ModelProto:
    """A network as ONNX.

    Args:
        network: In evaluation mode; its ``forward`` takes the inputs in their order.
        inputs: An example of each; a free axis must not be of length 1.
        outputs: Names of what it gives.
        free: For each input its axes of free length, with a name that equal lengths share.
    """
    names = sorted({name for axes in free.values() for name in axes.values()})
    sizes: dict[str, Any] = {name: torch.export.Dim(name, min=1, max=4096) for name in names}
    shapes = tuple(
        {axis: sizes[name] for axis, name in free.get(key, {}).items()} or None for key in inputs
    )
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        program = torch.onnx.export(
            network.eval(),
            tuple(inputs.values()),
            dynamo=True,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=shapes,
            verbose=False,
        )
        assert program is not None
        path = Path(folder) / "model.onnx"
        program.save(path, external_data=False)
        model = onnx.load(path)
    # the exporter notes the paths of the machine's source files on every node
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.initializer, model.graph):
        del part.metadata_props[:]
    return model


def round_to_half(network: nn.Module) -> None:
    """Rounds the large weights to 16 bits, in place."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.numel() >= _HALF_FROM:
                parameter.copy_(parameter.half().float())


def store_half(model: onnx.ModelProto) -> None:
    """Large weights become 16-bit constants with a cast, which the engine folds on loading."""
    graph, casts = model.graph, []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < _HALF_FROM:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    for node in reversed(casts):
        graph.node.insert(0, node)
