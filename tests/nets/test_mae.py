"""The masked autoencoder against its published size and against what masking must mean."""

import pytest
import torch

from semiscope.nets.mae import Mae, patches_of
from semiscope.nets.vit import VITS

# the published ViT-B with a decoder of 8 blocks of 512, of which 197 * 512 are the decoder's places
PUBLISHED = 111_907_840 - 197 * 512

ENCODER = {"image": (32, 48), "patch": 8, "width": 16, "depth": 2, "heads": 4, "channels": 1}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Mae(ENCODER, 32, 1, 8)


def seen(count, kept, places=24):
    return torch.stack([torch.randperm(places)[:kept] for _ in range(count)])


def test_size_is_the_published_one():
    width, depth, heads = VITS["vit-base"]
    base = {"width": width, "depth": depth, "heads": heads}
    with torch.device("meta"):
        network = Mae({"image": (224, 224), "patch": 16, "channels": 3, **base}, features=0)
    assert sum(p.numel() for p in network.parameters()) == PUBLISHED


def test_shapes_and_a_gradient_for_every_parameter(network):
    patches, features = network(torch.randn(3, 1, 32, 48), seen(3, 6))
    assert patches.shape == (3, 24, 64) and features.shape == (3, 8)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    ((patches * torch.randn_like(patches)).sum() + features[:, 0].sum()).backward()
    missing = {n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    assert missing == {"encoder.pos_embed"}  # sines, which do not learn


def test_what_is_masked_is_not_seen_and_the_order_of_what_is_seen_does_not_matter(network):
    images, kept = torch.randn(1, 1, 32, 48), seen(1, 6)
    patches, features = network(images, kept)
    again, same = network(images, kept.flip(1))
    torch.testing.assert_close(again, patches)
    torch.testing.assert_close(same, features)
    hidden = next(p for p in range(24) if p not in kept)
    row, column = hidden // 6 * 8, hidden % 6 * 8
    changed = images.clone()
    changed[:, :, row : row + 8, column : column + 8] += 1
    torch.testing.assert_close(network(changed, kept)[0], patches)
    shown = int(kept[0, 0])
    row, column = shown // 6 * 8, shown % 6 * 8
    changed[:, :, row : row + 8, column : column + 8] += 1
    assert not torch.allclose(network(changed, kept)[0], patches)


def test_images_are_masked_each_in_its_own_way(network):
    images, kept = torch.randn(2, 1, 32, 48), seen(2, 6)
    patches, features = network(images, kept)
    alone, own = network(images[1:], kept[1:])
    torch.testing.assert_close(patches[1:], alone)
    torch.testing.assert_close(features[1:], own)


def test_without_a_projection_there_are_no_features():
    network = Mae(ENCODER, 32, 1, 0)
    assert network(torch.randn(1, 1, 32, 48), seen(1, 6))[1] is None
    assert not any(n.startswith("projection") for n in network.state_dict())


def test_patches_are_cut_row_by_row():
    images = torch.randn(2, 3, 16, 24)
    patches = patches_of(images, 8)
    assert patches.shape == (2, 6, 192)
    expected = images[1, :, 8:16, 16:24].permute(1, 2, 0).flatten()
    torch.testing.assert_close(patches[1, 5], expected)
