"""From a torch network to an ONNX graph, and the graph's storage."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

StoredBits = Literal[32, 16, 8]

_LARGE = 1024  # smaller tensors are left in single precision: they weigh nothing
_LEAST_STEP = 1e-20


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
    # fused attention gives its answer in another order of memory than the exporter makes of it
    plain = sdpa_kernel(SDPBackend.MATH)
    with warnings.catch_warnings(), plain, tempfile.TemporaryDirectory() as folder:
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


def round_weights(network: nn.Module, bits: StoredBits) -> None:
    """Rounds the large weights in place to what ``store_weights`` can hold.

    Args:
        network: Its parameters of at least two axes and 1,024 numbers are rounded.
        bits: 16: IEEE half precision. 8: whole multiples, -127 to 127, of a step of each row's own.
    """
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim < 2 or parameter.numel() < _LARGE:
                continue
            if bits == 16:
                parameter.copy_(parameter.half().float())
            elif bits == 8:
                rows = parameter.flatten(1)
                step = rows.abs().amax(1, keepdim=True).clamp(min=_LEAST_STEP) / 127
                parameter.copy_(((rows / step).round() * step).view_as(parameter))


def store_weights(model: onnx.ModelProto, bits: StoredBits) -> None:
    """Large weights become small constants with a cast, which the engine folds on loading.

    A tensor that is not made of rounded rows (see ``round_weights``) stays in 32 bits.
    """
    graph = model.graph
    nodes: list[onnx.NodeProto] = []
    tensors: list[onnx.TensorProto] = []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        small = None
        if tensor.data_type == TensorProto.FLOAT and values.ndim > 1 and values.size >= _LARGE:
            small = _small(values, bits)
        if small is None:
            tensors.append(tensor)
            continue
        name, (stored, step) = tensor.name, small
        tensors.append(numpy_helper.from_array(stored, f"{name}.stored"))
        wide = name if step is None else f"{name}.wide"
        nodes.append(helper.make_node("Cast", [f"{name}.stored"], [wide], to=TensorProto.FLOAT))
        if step is not None:
            tensors.append(numpy_helper.from_array(step, f"{name}.step"))
            nodes.append(helper.make_node("Mul", [wide, f"{name}.step"], [name]))
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    for node in reversed(nodes):
        graph.node.insert(0, node)


def _small(
    values: NDArray[np.float32], bits: StoredBits
) -> tuple[NDArray[Any], NDArray[np.float32] | None] | None:
    """Values in fewer bits, with the steps to multiply by; None where that would change them."""
    if bits == 16:
        half = values.astype(np.float16)
        return (half, None) if (half == values).all() else None
    # the exporter may have turned a matrix, so that what was a row is a column
    for axis in range(values.ndim):
        others = tuple(i for i in range(values.ndim) if i != axis)
        step = np.maximum(np.abs(values).max(others, keepdims=True), _LEAST_STEP) / np.float32(127)
        counts = values / step
        if np.abs(counts - counts.round()).max() < 1e-3:
            return counts.round().astype(np.int8), step
    return None
