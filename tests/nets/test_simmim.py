"""The masked convolutional network: what is hidden is not seen, and everything learns."""

import pytest
import torch

from semiscope.nets.simmim import SimMim


@pytest.fixture
def network():
    torch.manual_seed(0)
    return SimMim("resnet18", (64, 96), 16, 1, 8)


def seen(count, kept, places=24):
    return torch.stack([torch.randperm(places)[:kept] for _ in range(count)])


def test_shapes_and_a_gradient_for_every_parameter(network):
    patches, features = network(torch.randn(3, 1, 64, 96), seen(3, 6))
    assert patches.shape == (3, 24, 256) and features.shape == (3, 8)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    ((patches * torch.randn_like(patches)).sum() + features[:, 0].sum()).backward()
    assert not {n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    assert SimMim("resnet18", (64, 96), 16, 1, 0)(torch.randn(2, 1, 64, 96), seen(2, 6))[1] is None


def test_what_is_masked_is_not_seen(network):
    network.eval()
    images, kept = torch.randn(1, 1, 64, 96), seen(1, 6)
    patches, features = network(images, kept)
    for places, same in (({*range(24)} - {*kept[0].tolist()}, True), ({int(kept[0, 0])}, False)):
        changed = images.clone()
        for place in places:
            row, column = place // 6 * 16, place % 6 * 16
            changed[:, :, row : row + 16, column : column + 16] += 1
        told, projected = network(changed, kept)
        assert torch.allclose(told, patches) == same == torch.allclose(projected, features)


def test_a_patch_is_told_where_it_lies(network):
    """A head of biases alone tells the same cell of 32 px everywhere: four patches of 16."""
    network.eval()
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.copy_(torch.arange(32 * 32.0))
        patches, _ = network(torch.randn(1, 1, 64, 96), seen(1, 6))
    cell = torch.arange(32 * 32.0).reshape(32, 32)
    # of rows of six patches
    torch.testing.assert_close(patches[0, 0], cell[:16, :16].flatten())
    torch.testing.assert_close(patches[0, 3], cell[:16, 16:].flatten())
    torch.testing.assert_close(patches[0, 8], cell[16:, :16].flatten())
