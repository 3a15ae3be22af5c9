import torch
from torch import nn

from semiscope.nets.fpn import FeaturePyramid


def test_count_is_the_papers():
    with torch.device("meta"):
        network = FeaturePyramid((256, 512, 1024, 2048), 256)
    assert sum(p.numel() for p in network.parameters()) == 3_344_384


def test_a_level_is_its_lateral_and_what_is_above_repeated():
    torch.manual_seed(0)
    network = FeaturePyramid((3, 5), 4)
    for i in range(2):
        network.outputs[i] = nn.Identity()
    fine, coarse = torch.randn(2, 3, 4, 6), torch.randn(2, 5, 2, 3)
    p_fine, p_coarse = network((fine, coarse))
    torch.testing.assert_close(p_coarse, network.laterals[1](coarse))
    above = p_coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(p_fine, network.laterals[0](fine) + above)


def test_shapes_and_a_gradient_for_every_parameter():
    network = FeaturePyramid((4, 6, 8, 10), 5)
    sizes = {4: 4, 6: 8, 8: 16, 10: 32}  # channels -> stride
    features = [torch.randn(2, c, 96 // s, 160 // s) for c, s in sizes.items()]
    levels = network(features)
    assert [tuple(p.shape) for p in levels] == [(2, 5, 96 // s, 160 // s) for s in (4, 8, 16, 32)]
    sum(p.square().mean() for p in levels).backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())
