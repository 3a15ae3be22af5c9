import pytest
import torch

from semiscope.compress.profile import profile
from semiscope.nets.yolov7_tiny import CoordConv, GSConv, ImplicitHead, YoloV7Tiny


@pytest.mark.parametrize(
    ("neck", "training", "deployed", "gflops"),
    [
        # deployed and GFLOPs: Wong 2023, Table 4.6
        ("elan", 6_017_694, 6_010_302, 13.0),
        ("slim", 5_754_046, 5_746_078, 12.1),
        ("coord", 6_034_590, 6_027_198, 13.1),
    ],
)
def test_counts_are_the_thesis_s_to_the_unit(neck, training, deployed, gflops):
    size = profile(YoloV7Tiny(2, neck), [torch.zeros(1, 3, 640, 640)])
    assert (size.training, size.deployed) == (training, deployed)
    assert round(size.gflops, 1) == gflops


def test_gsconv_puts_even_channels_before_odd_ones():
    layer = GSConv(8, 8).eval()
    layer.halves = lambda x: x  # only the shuffle is looked at
    ordered = layer(torch.arange(8.0).view(1, 8, 1, 1))
    assert ordered.flatten().tolist() == [0, 2, 4, 6, 1, 3, 5, 7]


def test_coordinates_run_from_minus_one_to_one():
    layer = CoordConv(1, 1).eval()
    seen = []
    layer.conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    layer(torch.zeros(1, 1, 3, 5))
    layer(torch.zeros(1, 1, 1, 1))
    x, y = seen[0][0, 1], seen[0][0, 2]
    assert x[0].tolist() == [-1, -0.5, 0, 0.5, 1]
    assert y[:, 0].tolist() == [-1, 0, 1]
    assert seen[1].flatten().tolist() == [0, 0, 0]


def test_the_implicit_head_is_one_convolution():
    torch.manual_seed(0)
    head = ImplicitHead(6, 4)
    x = torch.randn(2, 6, 3, 3)
    torch.testing.assert_close(head.fused()(x), head(x))


def test_one_class_starts_finite():
    with torch.no_grad():
        maps = YoloV7Tiny(1).eval()(torch.zeros(1, 3, 32, 32))
    assert all(torch.isfinite(m).all() for m in maps)
