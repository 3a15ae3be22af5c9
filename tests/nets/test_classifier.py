"""Classifiers and their encoders: sizes, shapes, gradients, attention against plain loops."""

import pytest
import torch
from torch import nn

from semiscope.nets.attention import (
    GlobalContext,
    NonLocal,
    SimplifiedNonLocal,
    SqueezeExcitation,
    attention_resnet50,
)
from semiscope.nets.backbones import load_backbone
from semiscope.nets.cheon_cnn import CheonCnn
from semiscope.nets.classifier import Classifier
from semiscope.nets.resnet import ResNet
from semiscope.nets.spa_net import SpaNet


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def small(net: str, **changes) -> Classifier:
    torch.manual_seed(0)
    return Classifier(net, 3, (32, 32), channels=1, **changes)


@pytest.mark.parametrize(
    "block, millions", [("se", 28.09), ("nl", 27.66), ("snl", 26.61), ("gc", 28.08)]
)
def test_attention_adds_the_published_weights(block, millions):
    # Hu et al. 2018; Cao et al. 2019, Table 4; with the layer for ImageNet's 1,000 classes
    with torch.device("meta"):
        network = attention_resnet50(block)
    assert round((parameters(network) + 2048 * 1000 + 1000) / 1e6, 2) == millions


@pytest.mark.parametrize(
    "net, published",
    [
        ("efficientnet-lite0", 4_652_008),
        ("resnet18", 11_689_512),
        ("vit-tiny", 5_717_416),
        ("vit-small", 22_050_664),
        ("vit-base", 86_567_656),
    ],
)
def test_classifiers_of_imagenet_have_the_published_weights(net, published):
    with torch.device("meta"):
        assert parameters(Classifier(net, 1000, (224, 224))) == published


def test_published_weights_fit_beneath_attention():
    torch.manual_seed(0)
    plain, attentive = ResNet(50).eval(), attention_resnet50("gc").eval()
    load_backbone(attentive, plain.state_dict())
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        # what attention adds begins at zero
        torch.testing.assert_close(attentive(images)[-1], plain(images)[-1])


def random(block: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    return block


def test_blocks_are_what_their_equations_say():
    x = torch.randn(1, 32, 2, 3, generator=torch.Generator().manual_seed(1))
    places = x[0].flatten(1).T  # (6, 32)

    def at(conv, value):
        return conv.weight[:, :, 0, 0] @ value + conv.bias

    def context(block):
        weight = torch.stack([at(block.pool.importance, p) for p in places]).exp()
        return (places * weight).sum(0) / weight.sum()

    with torch.no_grad():
        nl, snl, gc, se = map(
            random,
            (NonLocal(32), SimplifiedNonLocal(32), GlobalContext(32), SqueezeExcitation(32)),
        )
        for i, place in enumerate(places):
            row, column = divmod(i, 3)
            share = torch.stack([at(nl.query, place) @ at(nl.key, p) for p in places]).softmax(0)
            seen = sum(s * at(nl.value, p) for s, p in zip(share, places, strict=True))
            torch.testing.assert_close(nl(x)[0, :, row, column], place + at(nl.out, seen))
            expected = place + at(snl.value, context(snl))
            torch.testing.assert_close(snl(x)[0, :, row, column], expected)
            narrow = at(gc.transform[0], context(gc))
            norm = gc.transform[1]
            narrow = (narrow - narrow.mean()) / (narrow.var(correction=0) + norm.eps).sqrt()
            narrow = (narrow * norm.weight + norm.bias).relu()
            expected = place + at(gc.transform[3], narrow)
            torch.testing.assert_close(gc(x)[0, :, row, column], expected)
            gate = at(se.weigh[3], at(se.weigh[1], places.mean(0)).relu()).sigmoid()
            torch.testing.assert_close(se(x)[0, :, row, column], place * gate)


def test_cheon_s_network_has_the_weights_of_the_table():
    convolutions = (9 * 1 + 1) * 32 + (9 * 32 + 1) * 32 + (9 * 32 + 1) * 64 + (9 * 64 + 1) * 64
    assert parameters(CheonCnn((64, 48), 1)) == convolutions + (64 * 16 * 12 + 1) * 512


def test_half_of_the_maps_of_a_proliferation_are_made_from_the_other():
    network = SpaNet(1)
    block = network.blocks[5].expand  # 48 maps to 240
    assert parameters(block) == 120 * 48 + 120 * 9 + 2 * (2 * 120)
    # the strides of Table 2.4: 512 px come down to 16
    sizes = []
    for part in (network.stem, *network.blocks):
        part.register_forward_hook(lambda *call: sizes.append(tuple(call[2].shape[1:3])))
    with torch.no_grad():
        network.eval()(torch.zeros(1, 1, 64, 64))
    table = [(16, 32), (16, 32), (24, 16), (24, 16), (48, 8), (48, 8), *4 * [(96, 4)]]
    assert sizes == [*table, *2 * [(144, 4)], *5 * [(192, 2)]]


@pytest.mark.parametrize(
    "net, side",
    [
        ("efficientnet-lite0", 32),
        ("resnet18", 32),
        # of one place alone the importance does not matter
        ("resnet50-gc", 64),
        ("spa-net", 64),
        ("cheon-cnn", 32),
        ("vit-tiny", 32),
    ],
)
def test_every_parameter_learns_and_the_loss_falls(net, side):
    torch.manual_seed(0)
    network = Classifier(net, 3, (side, side), channels=1)
    images, labels = torch.randn(6, 1, side, side), torch.arange(6) % 3
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    # what attention adds is zero at first, so that what lies before it learns from the second step
    for _ in range(4):
        optimiser.zero_grad()
        logits, _ = network(images)
        loss = nn.functional.cross_entropy(logits, labels)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    missing = {n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    # a softmax over places is blind to what is added to all of them
    assert {n for n in missing if not n.endswith(("importance.bias", "key.bias"))} == set()
    stages = {p for part in network.parts() for m in part for p in m.parameters()}
    loose = {n for n, p in network.encoder.named_parameters() if p not in stages}
    assert loose <= {"cls_token", "pos_embed"}


@pytest.mark.parametrize("net", ["efficientnet-lite0", "cheon-cnn", "spa-net", "vit-tiny"])
def test_the_last_layer_alone_learns_on_a_frozen_encoder(net):
    network = small(net, standardised=True)
    network.freeze(len(network.parts()))
    network.train()
    before = {k: v.clone() for k, v in network.encoder.state_dict().items()}
    _, features = network(torch.randn(8, 1, 32, 32))
    assert {n for n, p in network.named_parameters() if p.requires_grad} == {
        "head.weight",
        "head.bias",
    }
    for name, value in network.encoder.state_dict().items():
        assert torch.equal(value, before[name]), name
    varied = features[:, features.std(0) > 1e-3]
    torch.testing.assert_close(varied.mean(0), torch.zeros(varied.shape[1]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("net", ["efficientnet-lite0", "cheon-cnn", "vit-tiny"])
def test_a_missing_partner_is_not_looked_at(net):
    network = small(net, two_magnifications=True).eval()
    nn.init.normal_(network.missing)
    image, low, other = torch.randn(3, 2, 1, 32, 32)
    with torch.no_grad():
        without = network(image, low, torch.tensor([0.0, 1.0]))
        again = network(image, other, torch.tensor([0.0, 1.0]))
    for a, b in zip(without, again, strict=True):
        assert torch.equal(a[0], b[0]) and not torch.equal(a[1], b[1])
    # the fused features are the image's own beside the partner's
    _, features = network(image, low, torch.ones(2))
    _, turned = network(low, image, torch.ones(2))
    half = features.shape[1] // 2
    torch.testing.assert_close(features[:, :half], turned[:, half:])
