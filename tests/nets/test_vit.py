"""The vision transformer against published sizes, torch's own layers and a plain loop."""

import math

import pytest
import torch
from torch import nn

from semiscope.nets.vit import VITS, Block, Vit, load_vit, sine_positions

# timm's vit_tiny, vit_small and vit_base with patches of 16 at 224 px, without a classifier
PUBLISHED = {"vit-tiny": 5_524_416, "vit-small": 21_665_664, "vit-base": 85_798_656}


def small(image=(32, 48), channels=3):
    torch.manual_seed(0)
    return Vit(image, 8, 16, 2, 4, channels)


@pytest.mark.parametrize("name", VITS)
def test_sizes_are_the_published_ones(name):
    with torch.device("meta"):
        network = Vit((224, 224), 16, *VITS[name])
    assert sum(p.numel() for p in network.parameters()) == PUBLISHED[name]


def test_a_block_is_torch_s_own_encoder_layer():
    torch.manual_seed(0)
    ours = Block(16, 4)
    theirs = nn.TransformerEncoderLayer(
        16, 4, 64, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    names = {
        "self_attn.in_proj_": "attn.qkv.",
        "self_attn.out_proj.": "attn.proj.",
        "linear": "mlp.fc",
    }
    values = {}
    for name in theirs.state_dict():
        own = name
        for foreign, ours_name in names.items():
            own = own.replace(foreign, ours_name)
        values[name] = torch.randn_like(ours.state_dict()[own])
        ours.state_dict()[own].copy_(values[name])
    theirs.load_state_dict(values)
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


def test_patches_are_taken_row_by_row():
    network = small()
    images = torch.randn(2, 3, 32, 48)
    tokens = network.embed(images) - network.pos_embed[:, 1:]
    proj = network.patch_embed.proj
    one = torch.einsum("wchk,chk->w", proj.weight, images[1, :, 8:16, 40:48]) + proj.bias
    torch.testing.assert_close(tokens[1, 1 * 6 + 5], one)


def test_positions_are_sines_of_column_and_row():
    places = sine_positions((3, 5), 8)
    column, row = 4, 2
    waves = (1.0, 10_000**-0.5)
    expected = [f(v * w) for v in (column, row) for f in (math.sin, math.cos) for w in waves]
    torch.testing.assert_close(places[row * 5 + column], torch.tensor(expected))


def test_shapes_and_a_gradient_for_every_parameter():
    network = small()
    tokens = network(torch.randn(2, 3, 32, 48))
    assert tokens.shape == (2, 1 + 24, 16)
    (tokens * torch.randn_like(tokens)).sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_an_image_does_not_depend_on_its_neighbours_in_the_batch():
    network, images = small(), torch.randn(3, 3, 32, 48)
    torch.testing.assert_close(network(images)[1:2], network(images[1:2]), rtol=1e-4, atol=1e-5)


def test_weights_of_another_size_and_of_colour_load():
    colour, grey = small((32, 32)), small((64, 48), channels=1)
    load_vit(grey, {**colour.state_dict(), "head.weight": torch.zeros(1000, 16)})
    image = torch.randn(1, 1, 32, 32)
    # the same grey in three colours means the same to a patch
    torch.testing.assert_close(
        grey.patch_embed(image), colour.patch_embed(image.expand(-1, 3, -1, -1))
    )
    torch.testing.assert_close(grey.blocks[1].mlp.fc1.weight, colour.blocks[1].mlp.fc1.weight)
    # a plane stays a plane: column 2 of 6 lies where 4 columns have 1.17
    with torch.no_grad():
        ramp = torch.arange(4.0).repeat(4)[:, None].expand(-1, 16)
        colour.pos_embed[:, 1:] = ramp
    load_vit(grey, colour.state_dict(), (4, 4))
    middle = grey.pos_embed[0, 1:].unflatten(0, (8, 6))[4, 2:4, 0]
    torch.testing.assert_close(middle, torch.tensor([2.5, 3.5]) * 4 / 6 - 0.5, atol=0.02, rtol=0)


def test_a_grey_network_s_weights_mean_the_same_in_colour():
    grey, colour = small((32, 32), channels=1), small((32, 32))
    load_vit(colour, grey.state_dict())
    image = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(colour(image.expand(-1, 3, -1, -1)), grey(image))


def test_wrong_weights_are_refused_and_change_nothing():
    network, other = small(), Vit((32, 48), 8, 32, 2, 4)
    before = network.norm.weight.clone()
    with pytest.raises(ValueError, match="of another shape"):
        load_vit(network, other.state_dict(), (4, 6))
    with pytest.raises(ValueError, match="grid of 5 by 5, found 24"):
        load_vit(network, network.state_dict())
    with pytest.raises(ValueError, match="missing"):
        load_vit(network, {"norm.weight": torch.zeros(16)})
    torch.testing.assert_close(network.norm.weight, before)


def test_an_image_of_broken_patches_is_refused():
    with pytest.raises(ValueError, match="whole patches of 8"):
        Vit((32, 50), 8, 16, 2, 4)
