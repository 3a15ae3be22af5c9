import pytest
import torch
import torch.nn.functional as F

from semiscope.compress.profile import profile
from semiscope.nets.yolov5 import PROTOTYPES, SPPF, YoloV5, YoloV5Seg


@pytest.mark.parametrize(
    ("network", "deployed", "gflops"),
    [
        # Wong 2023, tables 4.2 and 4.3
        (YoloV5(1, "n"), 1_760_518, 4.1),
        (YoloV5Seg(1, "n"), 1_879_750, 6.7),
        (YoloV5Seg(1, "s"), 7_398_422, 25.7),
    ],
)
def test_counts_are_the_thesis_s_to_the_unit(network, deployed, gflops):
    size = profile(network, [torch.zeros(1, 3, 640, 640)])
    assert size.deployed == deployed
    assert round(size.gflops, 1) == gflops


def test_pooling_one_after_another_reaches_as_far_as_pools_of_5_9_and_13():
    torch.manual_seed(0)
    layer = SPPF(8).eval()
    x = torch.randn(1, 8, 20, 20)
    reduced = layer.reduce(x)
    pools = [F.max_pool2d(reduced, k, 1, k // 2) for k in (5, 9, 13)]
    torch.testing.assert_close(layer(x), layer.join(torch.cat([reduced, *pools], 1)))


def test_coefficients_stand_level_by_level_anchor_by_anchor_row_by_row():
    torch.manual_seed(0)
    network = YoloV5Seg(2, "n", channels=1).eval()
    levels = []
    for head in network.coefficients:
        head.register_forward_hook(lambda _, __, output: levels.append(output))
    with torch.no_grad():
        *_, coefficients, prototypes = network(torch.randn(2, 1, 96, 64))
    assert prototypes.shape == (2, PROTOTYPES, 24, 16)
    assert coefficients.shape == (2, PROTOTYPES, 3 * (12 * 8 + 6 * 4 + 3 * 2))
    # stride 16 is 6 x 4: its anchor 2, row 5, column 1
    place = 3 * 12 * 8 + (2 * 6 + 5) * 4 + 1
    expected = levels[1].unflatten(1, (PROTOTYPES, 3))[:, :, 2, 5, 1]
    torch.testing.assert_close(coefficients[:, :, place], expected)
