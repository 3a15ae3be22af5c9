"""What every network must pass: shapes, gradients, a learning step."""

import pytest
import torch

from semiscope.nets.efficientnet_lite import EfficientNetLite0
from semiscope.nets.yolov5 import YoloV5, YoloV5Seg
from semiscope.nets.yolov7_tiny import YoloV7Tiny

# name -> (network, channels of the image, parameters that no gradient reaches, and why)
NETWORKS = {
    "elan": (lambda: YoloV7Tiny(3, "elan"), 3, ()),
    "slim": (
        lambda: YoloV7Tiny(3, "slim"),
        3,
        (".unused.",),  # carried and never run, as in the published module
    ),
    "coord": (lambda: YoloV7Tiny(3, "coord", channels=1), 1, ()),
    "lite0-backbone": (lambda: YoloV7Tiny(3, "elan", "efficientnet-lite0"), 3, ()),
    "yolov5n": (lambda: YoloV5(3, "n", channels=1), 1, ()),
    "yolov5n-seg": (lambda: YoloV5Seg(3, "n"), 3, ()),
    "lite0": (lambda: EfficientNetLite0(1), 1, ()),
}


@pytest.fixture(params=NETWORKS)
def case(request):
    build, channels, unreached = NETWORKS[request.param]
    torch.manual_seed(0)
    return build(), channels, unreached


def maps_of(network, images):
    return list(network(images))


def test_maps_have_a_third_an_eighth_and_so_on_of_the_sides(case):
    network, channels, _ = case
    maps = maps_of(network.eval(), torch.zeros(2, channels, 96, 64))
    assert [tuple(m.shape[2:]) for m in maps[:3]] == [(12, 8), (6, 4), (3, 2)]
    assert all(m.shape[0] == 2 for m in maps)


def test_an_image_does_not_depend_on_its_neighbours_in_the_batch(case):
    network, channels, _ = case
    images = torch.randn(3, channels, 64, 64)
    network.eval()
    with torch.no_grad():
        together, alone = maps_of(network, images), maps_of(network, images[1:2])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[1:2], b, rtol=1e-4, atol=1e-4)


def test_a_gradient_reaches_every_parameter(case):
    network, channels, unreached = case
    sum(m.square().mean() for m in maps_of(network, torch.randn(2, channels, 64, 64))).backward()
    missing = {n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    assert missing == {n for n, _ in network.named_parameters() if any(u in n for u in unreached)}


def test_steps_of_training_lower_the_loss(case):
    network, channels, _ = case
    images = torch.randn(2, channels, 64, 64)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01)
    losses = []
    for _ in range(4):
        optimiser.zero_grad()
        loss = sum((m - 1).square().mean() for m in maps_of(network, images))
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_one_pixel_maps_are_finite(case):
    network, channels, _ = case
    with torch.no_grad():
        maps = maps_of(network.eval(), torch.randn(1, channels, 32, 32))
    assert maps[2].shape[2:] == (1, 1)
    assert all(torch.isfinite(m).all() for m in maps)
