"""ResNet, Swin-B and EfficientNet-Lite0 as backbones, and published weights in them."""

import pytest
import torch

from semiscope.nets.backbones import BACKBONES, load_backbone
from semiscope.nets.efficientnet_lite import EfficientNetLite0
from semiscope.nets.resnet import ResNet
from semiscope.nets.swin import DropPath, SwinB, _blocked


def count(network):
    return sum(p.numel() for p in network.parameters())


@pytest.fixture(scope="module")
def swin():
    torch.manual_seed(0)
    return SwinB(1).eval()


@pytest.mark.parametrize(
    ("name", "published"),
    [
        # with a classifier of 1000 classes, less that classifier
        ("resnet18", 11_689_512 - 513_000),
        ("resnet50", 25_557_032 - 2_049_000),
        ("resnet101", 44_549_160 - 2_049_000),
        # less the classifier and the norm before it, with a norm for each of four outputs
        ("swin-b", 87_768_224 - 1_025_000 - 2 * 1024 + 2 * (128 + 256 + 512 + 1024)),
        ("efficientnet-lite0", count(EfficientNetLite0(3))),
    ],
)
def test_counts_are_the_published_ones_without_the_classifier(name, published):
    with torch.device("meta"):
        assert count(BACKBONES[name](3)) == published


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "efficientnet-lite0"])
def test_features_at_strides_4_to_32_and_a_gradient_for_every_parameter(name):
    torch.manual_seed(0)
    network = BACKBONES[name](1)
    features = network(torch.randn(2, 1, 96, 160))
    assert [tuple(f.shape) for f in features] == [
        (2, c, 96 // s, 160 // s) for c, s in zip(network.channels, (4, 8, 16, 32), strict=True)
    ]
    sum(f.square().mean() for f in features).backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_resnet101_s_features_without_computing_them():
    with torch.device("meta"):
        network = BACKBONES["resnet101"](3)
        features = network(torch.zeros(1, 3, 96, 160))
    assert [f.shape[1] for f in features] == list(network.channels) == [256, 512, 1024, 2048]
    assert features[3].shape[2:] == (3, 5)


def test_swin_s_features_and_a_gradient_for_every_parameter(swin):
    image = torch.randn(1, 1, 96, 160)
    features = swin(image)
    assert [tuple(f.shape) for f in features] == [
        (1, c, 96 // s, 160 // s) for c, s in zip(swin.channels, (4, 8, 16, 32), strict=True)
    ]
    for feature in features:  # layer norm: each place has mean 0 and variance 1
        torch.testing.assert_close(
            feature.mean(1), torch.zeros_like(feature[:, 0]), atol=1e-4, rtol=0
        )
    # a plain sum of squares is constant after a norm
    sum((f * torch.randn_like(f)).mean() for f in features).backward()
    without = {n for n, p in swin.named_parameters() if p.grad is None or not p.grad.any()}
    swin.zero_grad()
    assert without == set()


def test_swin_s_drop_path_drops_whole_samples_and_keeps_the_mean(swin):
    assert swin.layers[0].blocks[0].drop_path.rate == 0
    assert swin.layers[3].blocks[1].drop_path.rate == pytest.approx(0.3)
    drop = DropPath(0.3)
    torch.manual_seed(0)
    kept = drop.train()(torch.ones(4000, 2, 2))
    assert set(kept.flatten(1).std(1).tolist()) == {0.0}
    assert kept.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(drop.eval()(kept), kept)


def test_places_look_only_at_their_neighbours():
    # 9x7 places, padded to 14x7: two windows down; one across, where nothing is shifted
    blocked = _blocked(9, 7, True, torch.device("cpu"))
    place = (torch.arange(14) + 3) % 14  # row that stands in each row after the shift
    for window in range(2):
        rows = place[7 * window : 7 * window + 7].repeat_interleave(7)
        for i in range(49):
            for j in range(49):
                a, b = rows[i].item(), rows[j].item()
                real = a < 9 and b < 9
                if real:
                    assert blocked[window, i, j].item() == ((a < 3) != (b < 3))
                elif a < 9 or b < 9:
                    assert blocked[window, i, j]
    assert _blocked(14, 7, False, torch.device("cpu")) is None
    assert _blocked(7, 7, True, torch.device("cpu")) is None


def test_a_padded_window_is_plain_attention_of_its_real_places(swin):
    block = swin.layers[0].blocks[0]
    x = torch.randn(1, 5, 4, 128)
    with torch.no_grad():
        ours = block(x)
        tokens = block.norm1(x).flatten(1, 2)
        query, key, value = block.attn.qkv(tokens).view(1, 20, 3, 4, 32).unbind(2)
        seen = torch.zeros(1, 20, 4, 32)
        table = block.attn.relative_position_bias_table
        for i in range(20):
            for head in range(4):
                logits = []
                for j in range(20):
                    down, right = i // 4 - j // 4 + 6, i % 4 - j % 4 + 6
                    dot = query[0, i, head] @ key[0, j, head] / 32**0.5
                    logits.append(dot + table[13 * down + right, head])
                seen[0, i, head] = torch.stack(logits).softmax(0) @ value[0, :, head]
        mixed = x + block.attn.proj(seen.flatten(2)).view_as(x)
        expected = mixed + block.mlp(block.norm2(mixed))
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


def published(state):
    """Other values under the same names."""
    torch.manual_seed(1)
    return {k: torch.rand(v.shape) if v.is_floating_point() else v for k, v in state.items()}


def test_resnet_weights_load_by_name_and_grey_sums_the_colours():
    grey = ResNet(18, 1)
    with torch.device("meta"):
        colour = ResNet(18, 3).state_dict()
    state = published(colour) | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    load_backbone(grey, dict(reversed(state.items())))
    own = grey.state_dict()
    torch.testing.assert_close(own["conv1.weight"], state["conv1.weight"].sum(1, keepdim=True))
    assert all(
        torch.equal(own[k], v)
        for k, v in state.items()
        if k in own and k != "conv1.weight" and "num_batches" not in k
    )


def test_what_does_not_fit_is_named_and_changes_nothing():
    network = ResNet(18, 3)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    state = published(before)
    state["layer9.weight"] = state.pop("layer1.0.conv1.weight")
    state["bn1.bias"] = torch.zeros(3, 1, 1, 1)
    with pytest.raises(ValueError) as caught:
        load_backbone(network, state)
    assert str(caught.value) == (
        "1 tensors missing: layer1.0.conv1.weight; 1 tensors unknown: layer9.weight; "
        "1 tensors of another shape: bn1.bias (expected (64,), found (3, 1, 1, 1))"
    )
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def as_timm(name):
    stage, _, rest = name.removeprefix("layers.").partition(".")
    return f"layers.{int(stage) + 1}.{rest}" if ".downsample." in name else name


def as_torchvision(name):
    name = name.replace("patch_embed.proj", "features.0.0").replace(
        "patch_embed.norm", "features.0.2"
    )
    if name.startswith("layers."):
        stage, kind, rest = name.removeprefix("layers.").split(".", 2)
        place = 2 * int(stage) + (1 if kind == "blocks" else 2)
        name = f"features.{place}.{rest}".replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.3")
    return name


@pytest.mark.parametrize("named", [str, as_timm, as_torchvision])
def test_swin_weights_load_under_each_publisher_s_names(swin, named):
    state = {
        named(k): torch.full(v.shape, float(i)).as_strided(v.shape, (0,) * v.ndim)
        for i, (k, v) in enumerate(swin.state_dict().items())
        if not k.startswith("norm")
    }
    extra = {"norm.weight": torch.ones(1024), "head.weight": torch.ones(1, 1024)}
    extra["layers.0.blocks.1.attn_mask"] = torch.ones(64, 49, 49)
    with torch.device("meta"):
        other = SwinB(1)
    assert len(state) == len(other.state_dict()) - 8
    load_backbone(other, state | extra)  # on meta: names and shapes are checked, nothing is copied
    with pytest.raises(
        ValueError, match=r"1 tensors missing: layers.1.downsample.reduction.weight"
    ):
        load_backbone(
            other,
            {k: v for k, v in state.items() if k != named("layers.1.downsample.reduction.weight")},
        )


@pytest.mark.parametrize("name", ["resnet18", "efficientnet-lite0"])
def test_a_frozen_part_keeps_weights_and_statistics(name):
    network = BACKBONES[name](1)
    network.freeze(1)
    network.train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    sum(f.square().mean() for f in network(torch.randn(2, 1, 64, 64))).backward()
    torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1).step()
    changed = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    kept = ("conv1.", "bn1.", "layer1.") if name == "resnet18" else ("stem.", "stages.0.")
    assert {k for k in before if k.startswith(kept)}.isdisjoint(changed)
    assert all(k in changed for k in before if not k.startswith(kept) and "running_mean" in k)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet-lite0"])
def test_frozen_norms_keep_their_statistics_and_learn_their_scales(name):
    network = BACKBONES[name](1)
    network.freeze_norms()
    images = torch.randn(2, 1, 64, 64)
    network.eval()
    expected = network(images)
    network.train()
    torch.testing.assert_close(network(images), expected)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    sum(f.square().mean() for f in network(images)).backward()
    torch.optim.SGD(network.parameters(), lr=0.1).step()
    changed = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and changed <= {k for k, _ in network.named_parameters()}
    assert all(p.requires_grad for p in network.parameters())
