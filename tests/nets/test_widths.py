import pytest
import torch

from semiscope.nets.widths import set_widths, widths_of
from semiscope.nets.yolov7_tiny import GSConv, YoloV7Tiny, fixed_layers, scale_factors


def test_layers_get_the_channels_and_stay_what_they_were():
    layer = GSConv(8, 12, 3, 2)
    set_widths(layer, {"dense.conv": [5, 4], "dense.norm": [4], "depthwise.conv": [4, 4]})
    set_widths(layer, {"depthwise.norm": [4]})
    assert widths_of(layer)["depthwise.conv"] == [4, 4]
    assert layer.depthwise.conv.groups == 4 and layer.dense.conv.stride == (2, 2)
    assert layer.dense.norm.eps == 1e-3 and layer.dense.norm.momentum == 0.03
    assert layer(torch.randn(2, 5, 6, 6)).shape == (2, 8, 3, 3)


@pytest.mark.parametrize(
    "widths", [{"neck.none": [1, 2]}, {"neck": [1, 2]}, {"backbone.stem.0.norm": [1, 2]}]
)
def test_what_is_no_such_layer_is_refused(widths):
    with pytest.raises(ValueError, match="expected a layer"):
        YoloV7Tiny(2, widths=widths)


@pytest.mark.parametrize("neck", ["elan", "slim", "coord"])
def test_the_heads_follow_the_neck(neck):
    whole = widths_of(YoloV7Tiny(2, neck))
    last = [k for k, v in whole.items() if k.startswith("neck.outputs.0") and len(v) == 2][-1]
    norm = last.removesuffix("conv") + "norm"
    changed = {last: [whole[last][0], 7], norm: [7]}
    network = YoloV7Tiny(2, neck, widths=changed)
    assert network.heads[0].conv.in_channels == 7
    with torch.no_grad():
        assert network.eval()(torch.zeros(1, 3, 32, 32))[0].shape == (1, 21, 4, 4)


def test_scale_factors_are_those_of_layers_that_can_be_pruned():
    network = YoloV7Tiny(2, "slim")
    fixed = {m for layer in fixed_layers(network) for m in layer.modules()}
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    # four VoV-GSCSP, each with two GSConv of two norms and one layer that never runs
    assert len(norms) - len(scale_factors(network)) == 4 * 5
    assert sum(m in fixed for m in norms) == 4 * 5
    # the heads' predictions are fixed as well
    assert all(head.conv in fixed for head in network.heads)
