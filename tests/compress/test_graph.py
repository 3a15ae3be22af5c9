import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession
from torch import nn

from semiscope.compress.graph import round_weights, store_weights


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(40, 50), nn.ReLU(), nn.Linear(50, 30, bias=False))
    with torch.no_grad():
        layers[0].weight[3] *= 1000  # a row of large weights must not cost the others
        layers[0].weight[4] = 0
    return layers


def graph_of(layers: nn.Sequential) -> onnx.ModelProto:
    """The layers as the exporter may write them: one matrix as it is, the other turned."""
    first, second = (layers[i].weight.detach().numpy() for i in (0, 2))
    constants = {"w1": first, "b1": layers[0].bias.detach().numpy(), "w2": second.T.copy()}
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["y"]),
    ]
    sides = {"x": 40, "y": 30}
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", k]) for n, k in sides.items()]
    given = [numpy_helper.from_array(v, k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], given)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize(("bits", "share"), [(16, 0.56), (8, 0.36)])
def test_small_weights_give_what_the_rounded_network_gives(bits, share):
    layers = network()
    round_weights(layers, bits)
    model = graph_of(layers)
    whole = model.ByteSize()
    store_weights(model, bits)
    assert model.ByteSize() < share * whole
    onnx.checker.check_model(model)
    x = np.random.default_rng(0).standard_normal((4, 40), dtype=np.float32)
    (ours,) = InferenceSession(model.SerializeToString()).run(None, {"x": x})
    with torch.no_grad():
        theirs = layers(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_eight_bits_stay_within_half_a_step_of_each_row():
    before, after = network(), network()
    round_weights(after, 8)
    rows, rounded = before[0].weight.detach(), after[0].weight.detach()
    step = rows.abs().amax(1) / 127
    assert ((rows - rounded).abs().amax(1) <= step / 2 + 1e-9).all()
    assert (rounded[4] == 0).all() and torch.equal(before[0].bias, after[0].bias)


@pytest.mark.parametrize("bits", [16, 8])
def test_weights_that_were_not_rounded_stay_as_they_are(bits):
    model = graph_of(network())
    before = model.SerializeToString()
    store_weights(model, bits)
    assert model.SerializeToString() == before


def test_32_bits_change_nothing():
    before, after = network(), network()
    round_weights(after, 32)
    assert all(
        torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)
    )
