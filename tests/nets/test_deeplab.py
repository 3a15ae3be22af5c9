import pytest
import torch

from semiscope.nets.backbones import BACKBONES
from semiscope.nets.deeplab import DeepLabV3Plus, PyramidPooling, keep_stride_16

ENCODERS = ("resnet18", "efficientnet-lite0")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return DeepLabV3Plus(3, "efficientnet-lite0", 1, 16)


def test_every_pixel_gets_a_logit_of_every_class(network):
    fine, coarse = network.features(torch.zeros(2, 1, 64, 96))
    assert fine.shape[2:] == (16, 24) and coarse.shape[2:] == (4, 6)
    assert network(torch.zeros(2, 1, 64, 96)).shape == (2, 3, 64, 96)


def test_a_gradient_reaches_every_parameter(network):
    network.zero_grad()
    network(torch.randn(2, 1, 32, 32)).square().mean().backward()
    assert not [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]


def test_a_batch_of_one_can_be_learned_from_and_the_loss_falls():
    torch.manual_seed(0)
    network = DeepLabV3Plus(2, "efficientnet-lite0", 1, 8).train()
    image = torch.randn(1, 1, 32, 32)
    truth = (image[:, 0] > 0).long()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05)
    losses = []
    for _ in range(3):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(image), truth)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_an_image_does_not_depend_on_its_neighbours_in_the_batch(network):
    images = torch.randn(3, 1, 32, 32)
    with torch.no_grad():
        together, alone = network.eval()(images), network(images[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-4)


def test_dropped_features_are_decoded_once_more_and_forgotten(network):
    images = torch.randn(3, 1, 32, 32)
    network.train()
    before = {k: v.clone() for k, v in network.state_dict().items() if "running" in k}
    with torch.no_grad():
        plain = network(images)
        once = {k: v.clone() for k, v in network.state_dict().items() if "running" in k}
        network.load_state_dict(before, strict=False)
        logits = network(images, dropped=2)
    assert logits.shape == (5, 3, 32, 32)
    torch.testing.assert_close(logits[:3], plain)
    assert not torch.allclose(logits[3:], plain[1:])
    for name, value in once.items():
        torch.testing.assert_close(network.state_dict()[name], value)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_dilated_stage_gives_the_strided_one_s_values_at_its_places(encoder):
    torch.manual_seed(0)
    plain, dilated = BACKBONES[encoder](1).eval(), BACKBONES[encoder](1).eval()
    dilated.load_state_dict(plain.state_dict())
    keep_stride_16(dilated)
    with torch.no_grad():
        image = torch.randn(1, 1, 64, 64)
        coarse, fine = plain(image)[-1], dilated(image)[-1]
    assert fine.shape[2:] == (4, 4)
    torch.testing.assert_close(fine[:, :, ::2, ::2], coarse, rtol=1e-4, atol=1e-5)


def test_the_pyramid_s_rates_and_convolutions_are_those_of_the_paper():
    pyramid = PyramidPooling(8, 4)
    convs = [branch[0] for branch in pyramid.rates]
    assert [c.dilation for c in convs] == [(6, 6), (12, 12), (18, 18)]
    assert all(c.groups == 1 and c.kernel_size == (3, 3) for c in convs)


def test_the_count_of_parameters_is_that_of_its_parts():
    # ResNet-50 without classifier (torchvision): 23,508,032 for three colours
    pyramid = 2048 * 256 * (1 + 9 * 3) + 4 * 512 + (2048 + 1) * 256 + 5 * 256 * 256 + 512
    decoder = 256 * 48 + 96 + (304 + 256) * 256 * 9 + 2 * 512 + 21 * 257
    network = DeepLabV3Plus(21, "resnet50", 3)
    assert sum(p.numel() for p in network.parameters()) == 23_508_032 + pyramid + decoder
