"""MobileSAM against its checkpoint and against what the published implementation gives."""

from pathlib import Path

import pytest
import torch

from semiscope.nets.mobile_sam import MobileSAM
from semiscope.nets.sam_decoder import (
    Attention,
    FewKeys,
    FewQueries,
    PositionalEncoding,
    PromptEncoder,
)

WEIGHTS = Path(__file__).parents[2] / "../shared/weights/mobile_sam.pt"
SIDE = 256
PUBLISHED = 10_130_092  # parameters of the published network
TENSORS = 439

# The published implementation with the published weights at 256 px, on ``scene()``: prompt ->
# IoU that the four masks claim, mean of their logits, pixels above 0. Computed once, elsewhere.
EXPECTED = {
    "point": (
        (0.914317, 0.952292, 0.752604, 0.869373),
        (-2.545685, -11.002883, -6.546609, 0.628833),
        (162, 81, 238, 3633),
    ),
    "box": (
        (0.752980, 0.760836, 0.875732, 0.958440),
        (-2.749049, -7.223721, -6.953261, -7.573945),
        (707, 423, 624, 714),
    ),
    "box, negative point and mask": (
        (0.822115, 0.789361, 0.913456, 0.883746),
        (-4.070410, -5.584701, -8.590573, -5.258272),
        (558, 24, 328, 655),
    ),
}


def scene():
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    disc = (x - 128) ** 2 + (y - 100) ** 2 < 60**2
    waves = torch.sin(x / 7.0) + torch.cos(y / 11.0)
    return torch.stack([waves, torch.sin((x + y) / 13.0), disc.float()])[None]


def prompts():
    point, padding = [128.0, 100.0], [0.0, 0.0]
    corners = [[60.0, 35.0], [190.0, 165.0]]
    ramp = torch.linspace(-5, 5, (SIDE // 4) ** 2).view(1, 1, SIDE // 4, SIDE // 4)
    none = torch.zeros(1)
    return {
        "point": (torch.tensor([[point, padding]]), torch.tensor([[1, -1]]), ramp, none),
        "box": (torch.tensor([corners]), torch.tensor([[2, 3]]), ramp, none),
        "box, negative point and mask": (
            torch.tensor([[point, *corners]]),
            torch.tensor([[0, 2, 3]]),
            ramp,
            torch.ones(1),
        ),
    }


def test_sizes_are_the_published_ones():
    with torch.device("meta"):
        network = MobileSAM()
    assert sum(p.numel() for p in network.parameters()) == PUBLISHED
    assert len(network.state_dict()) == TENSORS


@pytest.mark.data
@pytest.mark.skipif(not WEIGHTS.exists(), reason="needs ../shared/weights")
def test_the_checkpoint_fits_and_gives_what_the_published_implementation_gives():
    network = MobileSAM(SIDE).eval()
    network.load_state_dict(torch.load(WEIGHTS, weights_only=True))  # strict: all 439 tensors
    with torch.no_grad():
        embedding = network.encode(scene())
        assert embedding.shape == (1, 256, 16, 16)
        expected = torch.tensor([0.037360, -0.113917, -0.025250, 0.070502])
        torch.testing.assert_close(embedding[0, ::64, 3, 5], expected, atol=2e-5, rtol=0)
        assert embedding.std().item() == pytest.approx(0.0947387, abs=1e-6)
        for name, given in prompts().items():
            masks, claimed = network.decode(embedding, *given)
            iou, mean, area = (torch.tensor(v, dtype=torch.float32) for v in EXPECTED[name])
            torch.testing.assert_close(claimed[0], iou, atol=2e-5, rtol=0)
            torch.testing.assert_close(masks.mean((2, 3))[0], mean, atol=2e-4, rtol=0)
            found = (masks > 0).sum((2, 3))[0].float()
            torch.testing.assert_close(found, area, atol=1, rtol=0)


def test_prompts_of_a_batch_do_not_see_each_other():
    torch.manual_seed(0)
    network = MobileSAM(64).eval()
    given = (torch.rand(3, 2, 2) * 64, torch.tensor([[1, -1], [0, 1], [2, 3]]))
    masks, has_mask = torch.randn(3, 1, 16, 16), torch.tensor([0.0, 1.0, 0.0])
    embedding = torch.randn(1, 256, 4, 4)
    with torch.no_grad():
        together = network.decode(embedding, *given, masks, has_mask)
        masks[0] = 7  # has_mask is 0: it does not count
        for i in range(3):
            one = (v[i : i + 1] for v in (*given, masks, has_mask))
            alone = network.decode(embedding, *one)
            torch.testing.assert_close(alone[0], together[0][i : i + 1], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(alone[1], together[1][i : i + 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [FewQueries, FewKeys])
def test_attention_with_less_work_is_the_same_attention(kind):
    torch.manual_seed(0)
    less, plain = kind(128), Attention(128)
    plain.load_state_dict(less.state_dict())
    query, key, value = torch.randn(2, 5, 256), torch.randn(2, 9, 256), torch.randn(2, 9, 256)
    expected = plain(query, key, value)
    torch.testing.assert_close(less(query, key, value), expected, rtol=1e-4, atol=1e-5)


def test_places_are_encoded_by_sines_of_two_pi_times_their_projection():
    encoding = PositionalEncoding()
    place = torch.tensor([0.25, 0.625])
    angle = 2 * torch.pi * (-0.5 * encoding.positional_encoding_gaussian_matrix[0])
    angle += 2 * torch.pi * (0.25 * encoding.positional_encoding_gaussian_matrix[1])
    expected = torch.cat([angle.sin(), angle.cos()])
    torch.testing.assert_close(encoding(place), expected, rtol=1e-4, atol=1e-4)
    # the second column and third row of a 4 x 4 map
    grid = encoding.grid(4, 4)[0, :, 2, 1]
    torch.testing.assert_close(grid, encoding(torch.tensor([0.375, 0.625])), rtol=1e-4, atol=1e-4)


def test_a_place_that_is_no_point_has_its_own_token_wherever_it_lies():
    encoder = PromptEncoder()
    points = torch.tensor([[[3.0, 5.0], [60.0, 1.0]]])
    tokens = encoder.sparse(points, torch.tensor([[-1, -1]]), 64)
    torch.testing.assert_close(tokens[0], encoder.not_a_point_embed.weight.expand(2, -1))


def test_a_side_that_is_no_multiple_of_the_stride_is_refused():
    with pytest.raises(ValueError, match="multiple of 16, found 100"):
        MobileSAM(100)


def test_another_side_gives_what_a_network_of_that_side_gives():
    torch.manual_seed(0)
    network, other = MobileSAM(64).eval(), MobileSAM(128).eval()
    other.load_state_dict(network.state_dict())
    network.resize(128)
    image = torch.randn(1, 3, 128, 128)
    given = torch.tensor([[[30.0, 90.0]]]), torch.tensor([[1]]), torch.zeros(1, 1, 32, 32)
    with torch.no_grad():
        for a, b in zip(
            network(image, *given, torch.zeros(1)),
            other(image, *given, torch.zeros(1)),
            strict=True,
        ):
            assert torch.equal(a, b)
